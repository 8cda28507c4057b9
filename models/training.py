"""What the fits of all presets share: batches, the stages' reports, and the measure on blocks held out."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonium.models.cells import CELL
from harmonium.models.code_prior import CodePrior, StaticTables
from harmonium.models.presets import Blocks, FitOptions, Report
from harmonium.models.radiometry import DTYPES

MIN_BLOCKS = 256
"""Fewest sample blocks that a fit accepts."""


@dataclass(slots=True)
class StageLog:
    """Runs the stages of a fit, reports their progress, and keeps a record of them."""

    report: Report
    """Told about every 20th step, and the last."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    """For each stage its name, its steps, and the mean error or loss at its start and at its end."""

    def run(self, name: str, steps: int, errors: Iterator[float]) -> None:
        """Drain a training's generator of errors."""
        values: list[float] = []
        for step, error in enumerate(errors, start=1):
            values.append(error)
            if step % 20 == 0 or step == steps:
                self.report(name, step, steps, error)
        window = max(1, len(values) // 20)
        if values:
            first, last = float(np.mean(values[:window])), float(np.mean(values[-window:]))
            self.stages.append({"stage": name, "steps": len(values), "first": round(first, 6), "last": round(last, 6)})


def random_batches(x: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of rows of x, drawn with replacement; the generator is a CPU one."""
    while True:
        yield x[torch.randint(len(x), (batch,), generator=generator).to(x.device)]


def noise_source(generator: torch.Generator, options: FitOptions) -> torch.Generator:
    """The generator to draw noise from on the training's device: `generator` itself on a CPU, else one seeded alike."""
    if options.device.type == "cpu":
        return generator
    return torch.Generator(options.device).manual_seed(options.seed)


def hold_out(blocks: Blocks) -> tuple[Blocks, Blocks]:
    """Blocks (n, bands, 8, 8) to learn from and blocks, every tenth, to measure on.

    Raises
    ------
    ValueError
        If there are fewer than `MIN_BLOCKS`, or they are of another shape or type, or hold values that are not finite.
    """
    if blocks.ndim != 4 or blocks.shape[1] < 1 or blocks.shape[2:] != (CELL, CELL) or blocks.dtype.name not in DTYPES:
        raise ValueError(
            f"A fit takes blocks (n, bands, {CELL}, {CELL}) of {', '.join(DTYPES)}, got shape {blocks.shape} of "
            f"{blocks.dtype}"
        )
    if len(blocks) < MIN_BLOCKS:
        raise ValueError(
            f"A fit needs at least {MIN_BLOCKS} blocks without masked pixels, found {len(blocks)}; give more or larger "
            "scenes"
        )
    if blocks.dtype.kind == "f" and not np.isfinite(blocks).all():
        raise ValueError(
            "A fit takes blocks of finite values, found NaN or infinity; leave out blocks with masked pixels"
        )
    held_out = np.arange(len(blocks)) % 10 == 9
    return blocks[~held_out], blocks[held_out]


def bits_per_cell(prior: CodePrior, codes: NDArray[np.int32]) -> float:
    """Bits that one cell's code needs on average; codes (units, cells)."""
    if isinstance(prior, StaticTables):
        return prior.bits(codes) / int(codes.shape[1])
    return 8 * len(prior.encode(codes)) / int(codes.shape[1])


def steps(base: int, effort: float) -> int:
    """Number of steps of a stage at this effort, at least one."""
    return max(1, math.ceil(base * effort))
