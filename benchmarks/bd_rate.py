"""Bjøntegaard's delta rate: how many more bits one codec takes than another, on the average over a range of PSNR.

G. Bjøntegaard (2001), Calculation of average PSNR differences between RD-curves, VCEG-M33. Interpolated by piecewise
cubic Hermite polynomials, as the reference software of HEVC and VVC does (JCTVC-L1100), which cannot overshoot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from harmonium.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRate:
    """What a codec takes beside the anchor."""

    percent: float
    """Mean difference of rates; below 0 where the codec takes fewer bits."""

    low: float
    high: float
    """In dB: the range of PSNR over which the mean is taken."""


Curve = Sequence[tuple[float, float]]
"""Rate in any unit above 0, and PSNR in dB, of at least two points in any order."""


def bd_rate(anchor: Curve, test: Curve, low: float = -np.inf, high: float = np.inf) -> DeltaRate:
    """Mean difference of the logarithms of two rates, over what both curves cover of `low` to `high` dB.

    Points that take no fewer bits than one of higher PSNR are left out: no archive would use them.

    Raises
    ------
    UsageError
        If less than two points are left of a curve, a rate is not above 0, a number is not finite, or the curves cover
        no common range.
    """
    first, second = _rising(anchor), _rising(test)
    low, high = (max(low, first[0][0], second[0][0]), min(high, first[0][-1], second[0][-1]))
    if not low < high:
        raise UsageError(
            f"Expected curves with a common range of PSNR, found {first[0][0]:.2f} to {first[0][-1]:.2f} dB and "
            f"{second[0][0]:.2f} to {second[0][-1]:.2f} dB; measure more rates"
        )
    means = [PchipInterpolator(psnr, rate).integrate(low, high) / (high - low) for psnr, rate in (first, second)]
    return DeltaRate(percent=100 * float(np.expm1(means[1] - means[0])), low=float(low), high=float(high))


def _rising(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """PSNR, strictly rising, and the logarithm of the rate, strictly rising, too."""
    points = np.array(curve, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(points).all() or (points[:, 0] <= 0).any():
        raise UsageError(
            f"Expected finite rates above 0 and finite PSNR, found {points.tolist()}; leave the others out"
        )
    kept: list[tuple[float, float]] = []
    for rate, psnr in sorted(points.tolist(), key=lambda point: (-point[1], point[0])):
        if not kept or (rate < kept[-1][0] and psnr < kept[-1][1]):
            kept.append((rate, psnr))
    if len(kept) < 2:
        raise UsageError(f"Expected two points or more whose PSNR rises with their rate, found {kept}; measure more")
    rates, decibels = np.array(kept[::-1]).T
    return decibels, np.log(rates)
