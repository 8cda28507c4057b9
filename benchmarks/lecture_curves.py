"""What the lecture's fits recorded while they learned, as curves that can be compared."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from benchmarks.lecture_fits import Fit
from harmonium.models.cells import CELL
from harmonium.models.quality import psnr

_TUNING = ("fine-tuning", "search")
"""How the stages begin whose losses are distortions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Values along a training."""

    label: str
    """The variant, or the stage."""

    at: NDArray[np.int64]
    """Updates, from the first stage of the curve on, (points,)."""

    values: NDArray[np.float64]
    """As recorded, each of one batch, (points,)."""

    smooth: NDArray[np.float64]
    """Running means within each stage, (points,); in dB, those of the mean squared errors."""

    ends: tuple[int, ...]
    """Updates where a stage ended and another one began."""


def fine_tuning_curve(fit: Fit) -> Curve | None:
    """PSNR in dB, in fine-tuning and in the search that may follow; None of a fit that was not fine-tuned.

    The losses are squared errors of a cell, summed: of its 64 pixels in units of 255 for `binary-dbm`, whose bands are
    cells of their own; of all its bands, in units of the radiometry's scale, for the others. That of `autoencoder` has
    the price of its bits in it, so that its curve lies below the PSNR.

    Raises
    ------
    ValueError
        If bands have different scales: the loss does not tell their errors apart.
    """
    radiometry = fit.codec.radiometry
    if len(set(radiometry.scale)) > 1:
        raise ValueError(
            f"Expected one scale for all bands, found {radiometry.scale} of {fit.job.name}; give a fit of one band"
        )
    stages = list(_stages(fit, _TUNING))
    if not stages:
        return None
    binary = fit.job.preset == "binary-dbm"
    unit = radiometry.scale[0] * (255 if binary else 1)
    values = CELL * CELL * (1 if binary else radiometry.bands)

    def decibels(losses: NDArray[np.float64]) -> NDArray[np.float64]:
        return psnr(losses * unit**2 / values, radiometry.peak)

    ends = np.cumsum([0, *(stage.steps for stage in stages)])
    return Curve(
        label=fit.job.variant,
        at=np.concatenate([begin + stage.at for begin, stage in zip(ends, stages, strict=False)]),
        values=decibels(np.concatenate([stage.losses for stage in stages])),
        smooth=decibels(np.concatenate([running_mean(stage.losses) for stage in stages])),
        ends=tuple(ends[1:-1].tolist()),
    )


def stage_curves(fit: Fit) -> list[Curve]:
    """Squared errors of greedy and joint training, one curve for each stage.

    In greedy training they are those of a batch and what one Gibbs step makes of it, means over units and cells, in
    units of the layer's own states; in joint training, those of the visible means of a batch and of the chains.
    """
    return [
        Curve(label=stage.name, at=stage.at, values=stage.losses, smooth=running_mean(stage.losses), ends=())
        for stage in _stages(fit, ("greedy", "joint"))
    ]


def distinct(curves: Sequence[Curve | None]) -> list[Curve]:
    """Those that are not the beginning of another one, nor the same as one before: variants may differ later only."""
    there = [curve for curve in curves if curve is not None]
    return [
        curve
        for number, curve in enumerate(there)
        if not any(
            _begins_with(other, curve) and (len(other.values) > len(curve.values) or place < number)
            for place, other in enumerate(there)
            if place != number
        )
    ]


def running_mean(values: NDArray[np.float64], window: int | None = None) -> NDArray[np.float64]:
    """Mean of the `window` values around each one, fewer towards the ends; an eighth of all, 3 to 9, by default."""
    window = window or min(9, max(3, len(values) // 8))
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    last = len(values)
    low = np.clip(np.arange(last) - half, 0, last)
    high = np.clip(np.arange(last) + half + 1, 0, last)
    means: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Stage:
    name: str
    at: NDArray[np.int64]
    losses: NDArray[np.float64]
    steps: int


def _stages(fit: Fit, kinds: tuple[str, ...]) -> Iterator[_Stage]:
    """The recorded stages whose names begin with one of `kinds`, in their order."""
    for name, entries in groupby(fit.record["curve"], key=lambda entry: entry[0]):
        if name.startswith(kinds):
            points = [(step, steps, loss) for _, step, steps, loss in entries if math.isfinite(loss)]
            yield _Stage(
                name=name,
                at=np.array([step for step, _, _ in points], dtype=np.int64),
                losses=np.array([loss for _, _, loss in points], dtype=np.float64),
                steps=points[-1][1],
            )


def _begins_with(longer: Curve, shorter: Curve) -> bool:
    return len(longer.values) >= len(shorter.values) and np.array_equal(
        longer.values[: len(shorter.values)], shorter.values
    )
