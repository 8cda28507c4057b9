"""Digests of what one process computes, for `benchmarks.exactness`: JSON, as the last line that is printed."""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import transform_models
from benchmarks.transform_cases import Case, targets
from harmonium.models.context_network import FEATURES, STEP_ORDER
from harmonium.models.integer_network import LARGEST_INPUT, IntegerLayer, IntegerLevel
from harmonium.models.targets import Target, text
from harmonium.models.wavelet import DETAILS

_PLANES = 5
_SIDE = 44


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of these bytes, one after the other."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def load_cases(path: Path) -> list[Case]:
    """What `exactness.save_cases` wrote."""
    names = json.loads(path.with_suffix(".json").read_text())
    with np.load(path) as arrays:
        return [
            Case(
                name=entry["name"],
                pixels=arrays[f"arr_{place}"],
                fill=float("nan") if entry["fill"] is None else entry["fill"],
            )
            for place, entry in enumerate(names)
        ]


# --- the codec -----------------------------------------------------------------------------------------------------


def codec_digests(model: bytes, folder: Path, run: Callable[..., Iterable[Any]]) -> dict[str, dict[str, str]]:
    """Of payloads, of what they decode to, and of what the first process's payloads decode to.

    `run` maps a function over chunks, one by one or several at once.
    """
    wanted = [(case, target) for case in load_cases(folder / "cases.npz") for target in targets(case.pixels.dtype.name)]
    names = [f"{case.name}, {text(target)}" for case, target in wanted]

    def encode(one: tuple[Case, Target]) -> bytes:
        case, target = one
        codec = transform_models.codec(model, case.pixels.dtype.name, len(case.pixels))
        return codec.compress(case.pixels, case.fill, target).payload

    def decode(one: tuple[Case, bytes]) -> str:
        case, payload = one
        codec = transform_models.codec(model, case.pixels.dtype.name, len(case.pixels))
        return digest((codec.decompress(payload).tobytes(), codec.codes(payload).tobytes()))

    payloads = list(run(encode, wanted))
    cases = [case for case, _ in wanted]
    kept = folder / "payloads.npz"
    if not kept.is_file():
        np.savez(kept, *(np.frombuffer(data, np.uint8) for data in payloads))
    with np.load(kept) as arrays:
        firsts = [arrays[f"arr_{place}"].tobytes() for place in range(len(wanted))]
    pixels = list(run(decode, list(zip(cases, firsts, strict=True))))
    differ = [place for place, (mine, first) in enumerate(zip(payloads, firsts, strict=True)) if mine != first]
    own = list(pixels)
    for place, found in zip(differ, run(decode, [(cases[place], payloads[place]) for place in differ]), strict=True):
        own[place] = found
    return {
        "payloads": dict(zip(names, (digest([data]) for data in payloads), strict=True)),
        "pixels": dict(zip(names, own, strict=True)),
        "pixels of the first's payloads": dict(zip(names, pixels, strict=True)),
    }


# --- the networks --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def network_digests(model: bytes, device: torch.device) -> dict[str, dict[str, str]]:
    """Of the outputs of every network on whole numbers drawn at random, planes together and one by one."""
    draw = np.random.default_rng(0)
    shape = (_PLANES, FEATURES + DETAILS, _SIDE, _SIDE - 6)
    values = torch.from_numpy(draw.integers(-LARGEST_INPUT, LARGEST_INPUT + 1, shape)).float()
    seen, details = values[:, :FEATURES].to(device), values[:, FEATURES:].to(device)
    together, apart = {}, {}
    for number, level in enumerate(transform_models.model_of(model).networks):
        moved, name = on_device(level, device), f"network {number}"
        together[name] = _digest(outputs(moved, seen, details))
        parts = [outputs(moved, seen[one : one + 1], details[one : one + 1]) for one in range(_PLANES)]
        apart[name] = _digest([torch.cat(same) for same in zip(*parts, strict=True)])
    return {"networks": together, "networks, one plane at a time": apart}


def _digest(values: Iterable[Tensor]) -> str:
    return digest(one.cpu().float().contiguous().numpy().tobytes() for one in values)


def outputs(level: IntegerLevel, seen: Tensor, details: Tensor) -> list[Tensor]:
    """Of the trunk, and of the head of each step."""
    trunk = level.trunk(seen)
    return [trunk, *(level.head(number, trunk, details) for number in range(len(STEP_ORDER)))]


def on_device(level: IntegerLevel, device: torch.device) -> IntegerLevel:
    """The network with all of its numbers there."""

    def layer(one: IntegerLayer | Tensor) -> Any:
        if isinstance(one, Tensor):
            return one.to(device)
        return replace(one, **{part.name: getattr(one, part.name).to(device) for part in fields(one)})

    return replace(level, **{part.name: tuple(map(layer, getattr(level, part.name))) for part in fields(level)})


# --- command -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute with one setting, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--without-onednn", action="store_true")
    parser.add_argument("--cuda", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = options.model.read_bytes()
    # Not `flags`, which warns of what it sets besides.
    torch.backends.mkldnn.set_flags(_enabled=not options.without_onednn)  # type: ignore[no-untyped-call]
    found: dict[str, Any] = {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **network_digests(model, torch.device("cuda" if options.cuda else "cpu")),
    }
    if options.cuda:
        found["instructions"] = torch.cuda.get_device_name()
    elif options.at_once == 1:
        found |= codec_digests(model, options.folder, map)
    else:
        with ThreadPoolExecutor(options.at_once) as pool:
            found |= codec_digests(model, options.folder, pool.map)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
