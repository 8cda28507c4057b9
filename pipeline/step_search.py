"""The quantiser step that meets a PSNR or a ratio, by trying steps: pure, whatever measures them.

Both fall or rise smoothly with the logarithm of the step, so a secant finds it in a few trials. How far a trial is from
what was asked is told in dB for both: 10 log10 of the asked ratio to the found one is the dB of a ratio, and 2 % of a
ratio are 0.09 dB.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harmonium.models.quality import Quality
from harmonium.models.targets import PerBand, Psnr, Ratio, Step

PROMISE = 0.1
"""How far from what was asked a search may end, in dB."""

_CLOSE = 0.02
"""So near, it stops, in dB."""

_TRIALS = 16

_OCTAVES = 3.0
"""Longest move of one trial."""

_UNSURE = 0.1, 0.15
"""Part of a move by which it may miss, because the slope is not the same everywhere; more for each octave over which
the slope was measured."""

_SLOPE, _SLOPES = -4.0, (-8.0, -0.3)
"""What an octave of the step changes, in dB: 6 of a PSNR where the step is fine, less where it is coarse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one step gives."""

    step: Step
    """The step."""

    surplus: NDArray[np.float64]
    """How much better the pixels are than was asked (PSNR), or how many more bytes they take (ratio), in dB; one value,
    or one for each band."""

    slope: NDArray[np.float64] | None
    """What an octave of the step changes about that, in dB; None after a first trial."""

    span: float
    """Octaves over which the slope was measured."""

    @property
    def miss(self) -> float:
        """Largest distance from what was asked, in dB."""
        return float(np.abs(self.surplus).max())


Measure = Callable[[Step], tuple[Quality, float]]
"""Quality of the pixels with a step, and bytes of pixels for each byte of payload."""


def search(
    asked: Psnr | Ratio,
    peak: float,
    measure: Measure,
    start: Trial | None = None,
    limits: tuple[float, float] | None = None,
    *,
    slope_too: bool = False,
) -> Trial:
    """Try steps until one is close to what was asked, or no step is; the closest one.

    Parameters
    ----------
    asked
        What is wanted. A PSNR for each band finds a step for each band.
    peak
        Value range that PSNR refers to, in DN.
    measure
        Encodes and decodes with a step.
    start
        What a search on fewer pixels found; its slope spares a trial. None begins with what a fine uniform quantiser
        would need.
    limits
        Least and largest step in DN; None takes those of float32 pixels around the peak.
    slope_too
        Try a second step even where the first is close: for a search that others go on from.
    """
    low, high = np.log2(limits or (peak * 2.0**-26, peak * 2.0**20))
    begin = first_guess(asked, peak) if start is None else start.step
    place = np.log2(_array(begin.step)).clip(low, high)
    slope, span = (None, 0.0) if start is None else (start.slope, start.span)
    best: Trial | None = None
    before: Trial | None = None
    for _ in range(_TRIALS):
        step = _step(place, begin)
        # Infinite where all is exact: as far as one trial may move.
        surplus = _surplus(asked, peak, *measure(step)).clip(-200, 200)
        if before is not None:
            slope, span = _secant(before, place, surplus)
        before = Trial(step=step, surplus=surplus, slope=slope, span=span)
        if best is None or before.miss < best.miss:
            best = before
        if best.miss <= _CLOSE:
            if slope is not None or not slope_too:
                break
            place = (place + 0.25).clip(low, high)
            continue
        moved = (place - (surplus / (_SLOPE if slope is None else slope)).clip(-_OCTAVES, _OCTAVES)).clip(low, high)
        if (moved == place).all():
            break
        place = moved
        left = (_UNSURE[0] + _UNSURE[1] * span) * before.miss
        if slope is not None and left <= 1.5 * _CLOSE:
            # So near that the slope tells the rest: the trial would only say so.
            return Trial(step=_step(place, begin), surplus=np.sign(surplus) * left, slope=slope, span=span)
    assert best is not None
    return replace(best, slope=slope, span=span)


def _secant(
    before: Trial, place: NDArray[np.float64], surplus: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    moved = place - np.log2(_array(before.step.step))
    with np.errstate(divide="ignore", invalid="ignore"):
        secant = (surplus - before.surplus) / moved
    earlier = np.full(secant.shape, _SLOPE) if before.slope is None else before.slope
    return np.where(np.isfinite(secant), secant, earlier).clip(*_SLOPES), float(np.abs(moved).max())


def _step(place: NDArray[np.float64], like: Step) -> Step:
    steps = tuple(map(float, 2.0**place))
    return Step(steps if isinstance(like.step, tuple) else steps[0])


def first_guess(asked: Psnr | Ratio, peak: float) -> Step:
    """The step whose error, if it were uniform, is that of the PSNR; a middling one for a ratio."""
    decibels = asked.decibels if isinstance(asked, Psnr) else 45.0
    steps = math.sqrt(12) * peak * 10 ** (-_array(decibels) / 20)
    return Step(tuple(map(float, steps)) if isinstance(decibels, tuple) else float(steps[0]))


def falls_short(asked: Psnr | Ratio, trial: Trial) -> bool:
    """Whether a search ended with worse pixels, or more bytes, than may be; it may end with better ones."""
    short = trial.surplus.max() if isinstance(asked, Ratio) else -trial.surplus.min()
    return bool(short > PROMISE)


def _surplus(asked: Psnr | Ratio, peak: float, quality: Quality, ratio: float) -> NDArray[np.float64]:
    if isinstance(asked, Ratio):
        return np.array([10 * math.log10(asked.ratio / ratio)])
    each = isinstance(asked.decibels, tuple)
    found = quality.psnr(peak) if each else np.array([quality.psnr_together(peak)])
    # A band without data has what anybody may ask.
    return np.where(np.isnan(found), 0.0, found - _array(asked.decibels))


def _array(value: PerBand) -> NDArray[np.float64]:
    return np.atleast_1d(np.asarray(value, dtype=np.float64))
