"""Rotation of the bands into planes that do not correlate, by plane rotations whose angles are whole numbers.

An orthonormal matrix of B bands is a product of B (B - 1) / 2 rotations of two planes each (Givens 1958) and perhaps a
change of one sign, which a transform does not need. A rotation is three shears; with every shear rounded it maps whole
numbers to whole numbers, and back without loss (Blume and Fand 1989; Bruekers and van den Enden 1992). All sums are
exact in float64, so that every machine agrees.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS = 1 << 14
"""Angles are multiples of pi / 2^14, from -2^14 to 2^14."""

COARSE = 1 << 7
"""Angles that are multiples of this fit one byte: there are as few of them as one can do with at coarse steps."""

_SHIFT = 14


def count(planes: int) -> int:
    """Number of angles for so many planes."""
    return planes * (planes - 1) // 2


def principal_angles(covariance: NDArray[np.float64], multiple: int = 1) -> NDArray[np.int16]:
    """Angles, (count,), of the rotation to the principal components, the first of the largest variance.

    Parameters
    ----------
    covariance
        (bands, bands), of details or of pixels.
    multiple
        Angles are multiples of so many units.
    """
    _, vectors = np.linalg.eigh(covariance)
    rest = vectors.T[::-1].copy()  # rows are components
    if np.linalg.det(rest) < 0:
        rest[-1] *= -1
    found = []
    # Each rotation makes one entry below the diagonal zero, and the one above it positive.
    for column, upper, lower in _eliminations(len(rest)):
        steps = multiple * round(np.arctan2(rest[lower, column], rest[upper, column]) * STEPS / np.pi / multiple)
        steps = -STEPS if steps == STEPS else steps  # half a turn, either way
        found.append(steps)
        # By the angle that is stored, so that later angles make up for its rounding.
        cosine, sine = np.cos(steps * np.pi / STEPS), np.sin(steps * np.pi / STEPS)
        rest[upper], rest[lower] = cosine * rest[upper] + sine * rest[lower], cosine * rest[lower] - sine * rest[upper]
    return np.array(found, dtype=np.int16)


def matrix(bands: int, angles: NDArray[np.int16]) -> NDArray[np.float64]:
    """(bands, bands): what `to_planes` does but for its rounding."""
    unit = 2.0**30
    found: NDArray[np.float64] = to_planes(torch.eye(bands, dtype=torch.float64).mul(unit), angles).numpy() / unit
    return found


@cache
def _shears(steps: int) -> tuple[int, int]:
    """Factors of the shears of a rotation by `steps`, in 2^-14: tangent of half the angle, and sine."""
    angle = steps * np.pi / STEPS
    return int(np.rint(np.tan(angle / 2) * 2**_SHIFT)), int(np.rint(np.sin(angle) * 2**_SHIFT))


def _sheared(factor: int, values: Tensor) -> Tensor:
    return values.mul(factor).add_(2.0 ** (_SHIFT - 1)).mul_(2.0**-_SHIFT).floor_()


def _eliminations(bands: int) -> list[tuple[int, int, int]]:
    """Column, and the two rows that are rotated."""
    return [(column, row - 1, row) for column in range(bands) for row in range(bands - 1, column, -1)]


def to_planes(bands: Tensor, angles: NDArray[np.int16]) -> Tensor:
    """Whole numbers of bands (bands, ...) as float64 to planes of the same shape."""
    planes = [*bands.clone()]
    for (_, upper, lower), steps in zip(reversed(_eliminations(len(planes))), angles[::-1].tolist(), strict=True):
        if steps:
            _rotate_back(planes, upper, lower, steps)
    return torch.stack(planes)


def to_bands(planes: Tensor, angles: NDArray[np.int16]) -> Tensor:
    """Inverse of `to_planes`, without loss."""
    bands = [*planes.clone()]
    for (_, upper, lower), steps in zip(_eliminations(len(bands)), angles.tolist(), strict=True):
        if steps:
            _rotate(bands, upper, lower, steps)
    return torch.stack(bands)


def _rotate(planes: list[Tensor], upper: int, lower: int, steps: int) -> None:
    """Rotate two planes by an angle, in place."""
    rest = _acute(steps)
    if rest != steps:
        planes[upper].neg_()
        planes[lower].neg_()
    half, sine = _shears(rest)
    planes[upper] += _sheared(half, planes[lower])
    planes[lower] -= _sheared(sine, planes[upper])
    planes[upper] += _sheared(half, planes[lower])


def _rotate_back(planes: list[Tensor], upper: int, lower: int, steps: int) -> None:
    """Exact inverse of `_rotate`."""
    rest = _acute(steps)
    half, sine = _shears(rest)
    planes[upper] -= _sheared(half, planes[lower])
    planes[lower] += _sheared(sine, planes[upper])
    planes[upper] -= _sheared(half, planes[lower])
    if rest != steps:
        planes[upper].neg_()
        planes[lower].neg_()


def _acute(steps: int) -> int:
    """The angle, less half a turn where it is wide: the shears of wide angles are steep, half a turn only signs."""
    if abs(steps) <= STEPS // 2:
        return steps
    return steps - STEPS if steps > 0 else steps + STEPS
