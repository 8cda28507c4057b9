"""How fast the stages of the deep presets train, and what share of the processor's matrix-product peak that is.

    python -m benchmarks.lecture_throughput --threads 1

What a step is, and which operations of it are counted, is said in `benchmarks.lecture_stages`. The peak is the best of
several products of large squares, in the same dtype and threads. It is measured before and after each stage anew, so
that what else the processor is busy with slows both.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks import common
from benchmarks.common import Report, Table, spread, verdict
from benchmarks.lecture_stages import BFLOAT16, CODEBOOK, FIT_BATCHES, NETWORKS, NO_PATH, STAGES, Network, Work, search

_TARGET = 0.35
"""Share of the float32 peak that is asked of greedy training and fine-tuning, at the batch of fits."""

_SQUARE = 1024
"""Rows of the largest square that the peak is taken of: larger ones bring no more."""

EMULATED = 16
"""Cells in a batch of products that the processor has no instructions for."""


# --- timing --------------------------------------------------------------------------------------------------------


def peak(dtype: torch.dtype, largest: int) -> float:
    """Operations a second of the best of several products of squares; they stop to grow where one takes too long."""
    best, size, took = 0.0, 256, 0.0
    while size <= largest and took < 0.1:
        a, b = (torch.ones(size, size, dtype=dtype) for _ in range(2))
        for _ in range(3):
            begin = time.perf_counter()
            torch.mm(a, b)
            took = time.perf_counter() - begin
            best = max(best, 2 * size**3 / took)
        size *= 2
    return best


@dataclass(slots=True)
class Rates:
    """What was measured of one work, a value for each repeat."""

    samples: list[float] = field(default_factory=list)
    """A second."""

    flops: list[float] = field(default_factory=list)
    """Operations a second."""

    shares: list[float] = field(default_factory=list)
    """Of the repeat's peak."""


def timed(works: Sequence[Work], dtype: torch.dtype, options: argparse.Namespace) -> tuple[list[Rates], list[float]]:
    """Rates of all works, and the peaks of all repeats; each work is timed between two measurements of the peak."""
    rates, peaks = [Rates() for _ in works], []
    for repeat in range(options.repeats):
        before = peak(dtype, _SQUARE)
        for work, found in zip(works, rates, strict=True):
            if repeat == 0 and options.seconds and work.stage != CODEBOOK:
                work.step()  # the first one makes the optimiser's state
            samples, flops, seconds = 0, 0, 0.0
            begin = time.perf_counter()
            while samples == 0 or seconds < options.seconds:
                flops += work.step()
                samples += work.batch
                seconds = time.perf_counter() - begin
            after = peak(dtype, _SQUARE)
            found.samples.append(samples / seconds)
            found.flops.append(flops / seconds)
            found.shares.append(flops / seconds / max(before, after))
            peaks.append(max(before, after))
            before = after
        print(f"{dtype}, repeat {repeat}: peak {max(peaks) / 1e9:.1f} Gflop/s", flush=True)
    return rates, peaks


# --- tables --------------------------------------------------------------------------------------------------------


def tables(options: argparse.Namespace, networks: Sequence[Network] = NETWORKS) -> tuple[list[Table], dict[str, Any]]:
    """Speeds in float32 and in bfloat16, and the numbers behind them.

    Parameters
    ----------
    options
        As of the command, whose defaults stand in for those that are missing.
    networks
        Whose stages are timed.
    """
    options = argparse.Namespace(**(vars(parser().parse_args([])) | vars(options)))
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        works = _works(networks, torch.float32, FIT_BATCHES, options)
        rates, peaks = timed(works, torch.float32, options)
        found = [_table("float32", works, rates, peaks)]
        measured = {"float32": _numbers(works, rates, peaks)}
        brief = argparse.Namespace(**(vars(options) | {"wide": 0, "cells": 0}))
        batches = FIT_BATCHES
        if peak(torch.bfloat16, 256) < np.median(peaks) / 4:
            # Without instructions for it, minutes would go into a step of a fit's batch.
            batches, brief.repeats, brief.seconds = dict.fromkeys(STAGES, EMULATED), 1, 0.0
        works = _works(networks, torch.bfloat16, batches, brief)
        rates, peaks = timed(works, torch.bfloat16, brief)
        found.append(_table("bfloat16", works, rates, peaks))
        measured["bfloat16"] = _numbers(works, rates, peaks)
    finally:
        torch.set_num_threads(before)
    return found, measured


def _works(
    networks: Sequence[Network], dtype: torch.dtype, batches: dict[str, int], options: argparse.Namespace
) -> list[Work]:
    works = []
    for network in networks:
        for stage, make in STAGES.items():
            sizes = [batches[stage], *([options.wide] if options.wide else [])]
            works += [make(network, batch, dtype) for batch in sizes]
        works += search(network, options.cells) if options.cells else []
    return works


def _table(dtype: str, works: Sequence[Work], rates: Sequence[Rates], peaks: Sequence[float]) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            work.network,
            work.stage,
            str(work.batch),
            spread(found.samples, 1 if min(found.samples) < 100 else 0),
            spread([rate / 1e9 for rate in found.flops]),
            spread([100 * share for share in found.shares], 0),
            "as it is" if dtype == "float32" else BFLOAT16[work.stage],
        )
        for work, found in zip(works, rates, strict=True)
    ]
    if dtype == "bfloat16":
        networks = dict.fromkeys(work.network for work in works)
        rows += [
            (name, stage, *["–"] * 4, NO_PATH) for name in networks for stage, how in BFLOAT16.items() if how == NO_PATH
        ]
    title = (
        f"Training in {dtype}: {torch.get_num_threads()} thread(s), peak {spread([p / 1e9 for p in peaks], 1)} Gflop/s"
    )
    columns = ("preset", "stage", "batch", "samples / s", "Gflop / s", "% of the peak", "how")
    return Table(title=title, columns=columns, rows=tuple(rows))


def _numbers(works: Sequence[Work], rates: Sequence[Rates], peaks: Sequence[float]) -> dict[str, Any]:
    keyed = {f"{w.network}, {w.stage}, {w.batch}": asdict(r) for w, r in zip(works, rates, strict=True)}
    return {"peaks": list(peaks), "works": keyed}


def verdicts(measured: dict[str, Any], networks: Sequence[Network] = NETWORKS) -> list[str]:
    """Whether greedy training and fine-tuning come to the share of the float32 peak that is asked of them."""
    notes = []
    for network in networks:
        for stage in ("greedy", "fine-tuning"):
            rates = measured["float32"]["works"][f"{network.name}, {stage}, {FIT_BATCHES[stage]}"]
            share = float(np.median(rates["shares"]))
            holds = verdict(share >= _TARGET)
            notes.append(
                f"{network.name}, {stage}: {share:.0%} of the float32 peak; {_TARGET:.0%} are asked for: {holds}."
            )
    return notes


NOTES = (
    "samples: cells; for `search: codebook`, codes. Each row: median (range) of the repeats, the peak measured before "
    "and after each; operations are those of matrix products, by arithmetic from the widths.",
    "Inputs are ready: drawing from the machines below and making batches are not timed; optimisers and checks are.",
    "bfloat16, joint: mean field and chains multiply in it; the correlations, 2 P of a step's products, in float32.",
    "bfloat16, search: codes are found in the network's own dtype; under autocast distances would have 8 bits.",
    f"Where bfloat16 has less than a quarter of the float32 peak, the processor has no instructions for it: then it is "
    f"one step of {EMULATED} cells, once.",
)


def measure(options: argparse.Namespace) -> Report:
    """The tables, and what they say of what was asked for."""
    found, measured = tables(options)
    notes = [*verdicts(measured), *NOTES]
    return Report(name="lecture_throughput", tables=found, notes=notes, measured=measured)


def parser() -> argparse.ArgumentParser:
    """Of the command."""
    made = common.parser(__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    add = made.add_argument
    add("--threads", type=int, default=1, help="of products")
    add("--repeats", type=int, default=3, help="of every measurement")
    add("--seconds", type=float, default=0.25, help="least time of a measurement")
    add("--wide", type=int, default=1024, help="a second batch, beside those of fits")
    add("--cells", type=int, default=1024, help="cells whose codes are found")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    common.run(measure, parser().parse_args(arguments))


if __name__ == "__main__":
    main()
