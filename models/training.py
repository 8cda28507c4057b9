"""What the fits of all presets share: batches, the stages' reports, and the measure on blocks held out."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonium.models.code_prior import CodePrior, StaticTables
from harmonium.models.presets import Report

MIN_BLOCKS = 256
"""Fewest sample blocks that a fit accepts."""


@dataclass(slots=True)
class StageLog:
    """Runs the stages of a fit, reports their progress, and keeps a record of them."""

    report: Report
    """Told about every hundredth step."""

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


def hold_out(blocks: NDArray[np.generic]) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Blocks to learn from and blocks, every tenth, to measure on.

    Raises
    ------
    ValueError
        If there are fewer than `MIN_BLOCKS`.
    """
    if len(blocks) < MIN_BLOCKS:
        raise ValueError(
            f"A fit needs at least {MIN_BLOCKS} blocks without masked pixels, found {len(blocks)}; give more or larger "
            "scenes"
        )
    held_out = np.arange(len(blocks)) % 10 == 9
    return blocks[~held_out], blocks[held_out]


def bits_per_cell(prior: CodePrior, codes: NDArray[np.int32]) -> float:
    """Bits that one cell's code needs on average; codes (units, cells)."""
    if isinstance(prior, StaticTables):
        return prior.bits(codes) / codes.shape[1]
    return 8 * len(prior.encode(codes)) / codes.shape[1]


def steps(base: int, effort: float) -> int:
    """Number of steps of a stage at this effort, at least one."""
    return max(1, math.ceil(base * effort))
