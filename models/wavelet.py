"""The 9/7 wavelet of Cohen, Daubechies and Feauveau by lifting, in whole numbers, so that every machine agrees.

    pixels ─┬─ rows ─┬─ columns ─┬─ low  ── next level
            │        │           ├─ details: across, down, both
            ...

Lifting after Daubechies and Sweldens (1998), symmetric at the edges. Whole numbers stand in float64, where sums and
products below 2^53 are exact, so that no order of operations and no device can change a bit. Steps are rounded, which
makes them invertible without loss (Calderbank, Daubechies, Sweldens and Yeo 1998).
"""

import torch
from torch import Tensor

_SHIFT = 14
_LIFTS = tuple(round(value * 2**_SHIFT) for value in (-1.586134342059924, -0.052980118572961))
_LIFTS += tuple(round(value * 2**_SHIFT) for value in (0.882911075530934, 0.443506852043971))
_UNIT = 2.0**-_SHIFT

LOW_GAIN = 1.4142135623730951 / 1.230174104914001
"""What a low value has to be multiplied by for a nearly orthonormal transform; a high one by its inverse."""

DETAILS = 3
"""Bands of details at each level: high across, high down, high in both directions."""


def _rounded_times(factor: int, values: Tensor) -> Tensor:
    return values.mul(factor).add_(2.0 ** (_SHIFT - 1)).mul_(_UNIT).floor_()


def _after(low: Tensor) -> Tensor:
    """Sum of the two lows that enclose each high, (..., n) of (..., n): the last one's mirror is itself."""
    return low + torch.cat([low[..., 1:], low[..., -1:]], -1)


def _before(high: Tensor) -> Tensor:
    """Sum of the two highs that enclose each low."""
    return high + torch.cat([high[..., :1], high[..., :-1]], -1)


def _forward_last(values: Tensor) -> tuple[Tensor, Tensor]:
    low, high = values[..., 0::2].clone(), values[..., 1::2].clone()
    high += _rounded_times(_LIFTS[0], _after(low))
    low += _rounded_times(_LIFTS[1], _before(high))
    high += _rounded_times(_LIFTS[2], _after(low))
    low += _rounded_times(_LIFTS[3], _before(high))
    return low, high


def _backward_last(low: Tensor, high: Tensor) -> Tensor:
    low = low - _rounded_times(_LIFTS[3], _before(high))
    high = high - _rounded_times(_LIFTS[2], _after(low))
    low -= _rounded_times(_LIFTS[1], _before(high))
    high -= _rounded_times(_LIFTS[0], _after(low))
    return torch.stack([low, high], -1).flatten(-2)


def forward(values: Tensor) -> tuple[Tensor, Tensor]:
    """One level of whole numbers (..., height, width), both even, as float64.

    Returns
    -------
    low, details
        (..., height / 2, width / 2) and (..., 3, height / 2, width / 2), whole numbers as float64, not normalised: low
        times `LOW_GAIN`² and details times 1, 1, `LOW_GAIN`^-2 are those of a nearly orthonormal transform.
    """
    low, high = _forward_last(values)
    low_low, low_high = _forward_last(low.mT)
    high_low, high_high = _forward_last(high.mT)
    details = torch.stack([high_low.mT, low_high.mT, high_high.mT], -3)
    return low_low.mT.contiguous(), details


def backward(low: Tensor, details: Tensor) -> Tensor:
    """Inverse of `forward`, without loss."""
    high_low, low_high, high_high = (part.mT for part in details.unbind(-3))
    low_columns = _backward_last(low.mT, low_high).mT
    high_columns = _backward_last(high_low, high_high).mT
    return _backward_last(low_columns, high_columns)
