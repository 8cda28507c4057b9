"""Damage payloads of the `transform` codec at random: only `PayloadError` may come out, in bounded memory and time.

    python -m benchmarks.payload_fuzz --model rate-distortion/models/fold_A.harmonium --minutes 10

Each try is drawn by the seed and its number. Payloads that the decoder failed on are written beside the report, and the
command ends with 1.
"""

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import common, transform_cases, transform_models
from benchmarks.common import Report, Table, verdict
from benchmarks.throughput_memory import high_water
from harmonium.errors import PayloadError
from harmonium.models.chunk_codec import ChunkCodec

_SPECIAL = (0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_HEAD = 160
"""Bytes at the start, which are damaged more often: lengths and tables lie there."""

_MOST_KEPT = 20
"""Payloads that are written of those that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A payload before any damage."""

    name: str
    """What was coded, and the target."""

    codec: ChunkCodec
    """Its codec."""

    data: bytes
    """The payload."""

    shape: tuple[int, int, int]
    """(bands, height, width)."""


@dataclass(slots=True, kw_only=True)
class Found:
    """What came of the tries."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a kind of damage had an outcome: refused, decoded, or the name of a wrong exception."""

    failed: list[tuple[str, bytes]] = field(default_factory=list)
    """What went wrong, and the payload."""

    slowest: float = 0.0
    """Seconds of the slowest try."""


# --- damage --------------------------------------------------------------------------------------------------------


def truncated(data: bytearray, draw: random.Random, _: bytes) -> bytearray:
    """Its first bytes."""
    return data[: draw.randrange(len(data))]


def extended(data: bytearray, draw: random.Random, other: bytes) -> bytearray:
    """Some bytes more."""
    return data + (draw.randbytes(draw.randint(1, 64)) if draw.random() < 0.5 else other)


def flipped(data: bytearray, draw: random.Random, _: bytes) -> bytearray:
    """One to eight bits the other way."""
    for _bit in range(draw.randint(1, 8)):
        data[_place(data, draw)] ^= 1 << draw.randrange(8)
    return data


def overwritten(data: bytearray, draw: random.Random, _: bytes) -> bytearray:
    """Random bytes, or zeros, over a run."""
    start, length = _place(data, draw), draw.randint(1, 32)
    length = min(length, len(data) - start)
    data[start : start + length] = draw.randbytes(length) if draw.random() < 0.7 else bytes(length)
    return data


def numbers(data: bytearray, draw: random.Random, _: bytes) -> bytearray:
    """One to three whole numbers replaced, as lengths, counts and shapes are stored."""
    for _number in range(draw.randint(1, 3)):
        width = draw.choice((1, 2, 4, 8))
        start = draw.randrange(min(_HEAD, len(data)))
        before = int.from_bytes(data[start : start + width], "little")
        value = draw.choice((draw.choice(_SPECIAL), before + draw.randint(-4, 4), before * 2, draw.getrandbits(32)))
        field_bytes = (value % (1 << 8 * width)).to_bytes(width, "little")
        data[start : start + width] = field_bytes[: len(data) - start]
    return data


def moved(data: bytearray, draw: random.Random, _: bytes) -> bytearray:
    """A run taken out, or doubled: everything behind it lies elsewhere."""
    start, length = draw.randrange(len(data)), draw.randint(1, 16)
    run = data[start : start + length] if draw.random() < 0.5 else bytearray()
    data[start : start + (0 if run else length)] = run
    return data


def spliced(data: bytearray, draw: random.Random, other: bytes) -> bytearray:
    """The start of one and the end of another."""
    place = draw.randrange(len(data))
    return data[:place] + other[draw.randrange(len(other)) if draw.random() < 0.5 else place :]


def random_bytes(_: bytearray, draw: random.Random, other: bytes) -> bytearray:
    """Nothing of a payload, or only its first bytes."""
    return bytearray(other[: draw.choice((0, 0, 4, 36))] + draw.randbytes(draw.randrange(400)))


DAMAGES: tuple[Callable[[bytearray, random.Random, bytes], bytearray], ...] = (
    truncated,
    extended,
    flipped,
    overwritten,
    numbers,
    moved,
    spliced,
    random_bytes,
)
"""Kinds of damage."""


def _place(data: bytearray, draw: random.Random) -> int:
    return draw.randrange(min(_HEAD, len(data)) if draw.random() < 0.5 else len(data))


# --- tries ---------------------------------------------------------------------------------------------------------


def wholes(model: bytes, side: int) -> list[Whole]:
    """Payloads of all kinds."""
    found = []
    for case in transform_cases.made_up(side):
        bands, height, width = case.pixels.shape
        codec = transform_models.codec(model, case.pixels.dtype.name, bands)
        for target in transform_cases.targets(case.pixels.dtype.name):
            data = codec.compress(case.pixels, case.fill, target).payload
            found.append(Whole(name=f"{case.name}, {target}", codec=codec, data=data, shape=(bands, height, width)))
    return found


def attempt(whole: Whole, data: bytes, codes: bool) -> str:
    """What decoding gives: `refused`, `decoded`, or the name and text of an exception that must not be."""
    try:
        if codes:
            whole.codec.codes(data, whole.shape)
        else:
            pixels = whole.codec.decompress(data, whole.shape)
            if pixels.shape != whole.shape:
                return f"pixels of shape {pixels.shape}"
    except PayloadError:
        return "refused"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of the entropy coder is no Exception
        return f"{type(error).__name__}: {error}"
    return "decoded"


def one_try(known: Sequence[Whole], seed: int, number: int, found: Found) -> None:
    """Damage one of the payloads and decode it."""
    draw = random.Random(f"{seed} {number}")
    whole, other = draw.choice(known), draw.choice(known)
    damage = draw.choice(DAMAGES)
    data = bytes(damage(bytearray(whole.data), draw, other.data))
    begun = time.perf_counter()
    outcome = attempt(whole, data, codes=draw.random() < 0.2)
    found.slowest = max(found.slowest, time.perf_counter() - begun)
    if outcome not in ("refused", "decoded"):
        found.failed.append((f"try {number}, {damage.__name__}, {whole.name}: {outcome}", data))
        outcome = "failed"
    found.outcomes[damage.__name__, outcome] += 1


def measure(options: argparse.Namespace) -> Report:
    """Try for the time that was given."""
    torch.set_num_threads(1)
    known, found = wholes(options.model.read_bytes(), options.side), Found()
    for whole in known:
        if attempt(whole, whole.data, codes=False) != "decoded":
            raise SystemExit(f"{whole.name}: the payload does not decode before any damage")
    before, number, begun = high_water(), 0, time.monotonic()
    told = begun
    while time.monotonic() - begun < 60 * options.minutes:
        one_try(known, options.seed, number, found)
        number += 1
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{number} tries, {len(found.failed)} failed", flush=True)
    grown = (high_water() - before) / (1 << 20)
    for place, (what, data) in enumerate(found.failed[:_MOST_KEPT]):
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"payload_fuzz_{place}.payload").write_bytes(data)
        print(what)
    return Report(
        name="payload_fuzz",
        tables=[_outcomes(found), _limits(found, number, grown, options)],
        notes=(
            f"{number} tries in {options.minutes:g} minutes, seed {options.seed}, of {len(known)} payloads of up to "
            f"{max(len(whole.data) for whole in known)} bytes.",
            "Decoded: the damage was not seen, as in a mask, a quality or a last digit, and gave pixels of the right "
            "shape.",
        ),
        measured={
            "tries": number,
            "failed": [what for what, _ in found.failed],
            "slowest_s": found.slowest,
            "grown_mib": grown,
            "holds": _holds(found, grown, options),
        },
    )


def _holds(found: Found, grown: float, options: argparse.Namespace) -> bool:
    return not found.failed and grown <= options.most_mib and found.slowest <= options.most_seconds


def _outcomes(found: Found) -> Table:
    names = ("refused", "decoded", "failed")
    rows = tuple(
        (kind.__name__, *(str(found.outcomes[kind.__name__, outcome]) for outcome in names)) for kind in DAMAGES
    )
    return Table(title="Outcomes", columns=("damage", *names), rows=rows)


def _limits(found: Found, tries: int, grown: float, options: argparse.Namespace) -> Table:
    rows = (
        ("wrong exceptions", str(len(found.failed)), "0", verdict(not found.failed)),
        ("memory more, MiB", f"{grown:.0f}", f"{options.most_mib}", verdict(grown <= options.most_mib)),
        (
            "slowest try, s",
            f"{found.slowest:.2f}",
            f"{options.most_seconds:g}",
            verdict(found.slowest <= options.most_seconds),
        ),
    )
    return Table(title=f"Limits over {tries} tries", columns=("what", "found", "limit", ""), rows=rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, try, publish; ends with 1 where a limit was broken."""
    parser = common.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add: Any = parser.add_argument
    add("--model", type=Path, required=True, help="of `benchmarks.train_transform`")
    add("--minutes", type=float, default=10.0, help="how long [10]")
    add("--seed", type=int, default=0, help="of the damage [0]")
    add("--side", type=int, default=40, help="of made-up chunks in pixels: small ones make more tries [40]")
    add("--most-mib", type=int, default=200, help="memory that all tries may add [200]")
    add("--most-seconds", type=float, default=10.0, help="that one try may take [10]")
    options = parser.parse_args(arguments)
    report = measure(options)
    common.publish(report, options.out)
    if not report.measured["holds"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
