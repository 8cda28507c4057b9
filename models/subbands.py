"""A chunk as planes of wavelet details, level by level, in whole numbers; and back.

    bands ── wavelet, 6 levels ── details of a level ── rotation of the bands ── planes ── steps

Values are counted in units: 64 to a quantiser's step where a step is rounded to, or one to a DN where nothing is. The
spectral rotation is a level's own: what neighbouring bands share differs between fine and coarse details.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from harmonium.models import plane_rotation, wavelet
from harmonium.models.cells import CELL
from harmonium.models.wavelet import LOW_GAIN

LEVELS = 6
CELL_LEVELS = 3
"""Levels that make one low value of a cell of 8 × 8 pixels."""

CLASSES = 3
"""Levels 0 and 1 have a rotation and a network of their own; all others share."""


def level_class(level: int) -> int:
    """Which rotation and which network a level uses; level 0 is the finest."""
    return min(level, CLASSES - 1)


def _powers() -> tuple[float, ...]:
    """1, `LOW_GAIN`², `LOW_GAIN`⁴, ... by products: a library's power may differ in its last bit from another's."""
    found = [1.0]
    for _ in range(LEVELS):
        found.append(found[-1] * LOW_GAIN * LOW_GAIN)
    return tuple(found)


_LOW_GAINS = _powers()


def gains(level: int) -> tuple[float, float, float]:
    """Factors that make the three bands of details of a level nearly orthonormal."""
    gain = _LOW_GAINS[level]
    return gain, gain, gain / _LOW_GAINS[1]


def low_gain(level: int) -> float:
    """Factor of the low band that is left after levels 0 to `level`."""
    return _LOW_GAINS[level + 1]


def gain_column(level: int) -> Tensor:
    """`gains`, to multiply details (..., 3, height, width) by."""
    return torch.tensor(gains(level), dtype=torch.float64).reshape(-1, 1, 1)


def padded(values: Tensor) -> Tensor:
    """(bands, height, width) extended to whole cells by its last row and column."""
    height, width = values.shape[1:]
    edge = (0, -width % CELL, 0, -height % CELL)
    return F.pad(values[None], edge, mode="replicate")[0] if any(edge) else values


def _whole(length: int, level: int) -> int:
    """Length of a low band before a level, cells filled."""
    return length + -length % CELL if level in (0, CELL_LEVELS) else length


def low_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Rows and columns of the low band before each level, of a chunk in pixels, without what fills its cells."""
    found = [(height, width)]
    for level in range(LEVELS - 1):
        height, width = (_whole(length, level) // 2 for length in found[-1])
        found.append((height, width))
    return found


def details_shape(height: int, width: int, level: int) -> tuple[int, int]:
    """Rows and columns of the details of a level, of a chunk in pixels."""
    rows, columns = low_shapes(height, width)[level]
    return _whole(rows, level) // 2, _whole(columns, level) // 2


def analyse(values: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Whole numbers (bands, height, width) as float64 to the last low band and the details of all levels.

    Details are (bands, 3, rows, columns), the finest level's first.
    """
    low, details = values, []
    for level in range(LEVELS):
        low, found = wavelet.forward(padded(low) if level in (0, CELL_LEVELS) else low)
        details.append(found)
    return low, details


def synthesise_level(low: Tensor, details: Tensor, shape: tuple[int, int]) -> Tensor:
    """The low band before a level, without what was added to fill cells; `shape` is that of the wanted part."""
    return wavelet.backward(low, details)[:, : shape[0], : shape[1]]


def spectral_angles(details: Sequence[Tensor], multiple: int = 1) -> list[NDArray[np.int16]]:
    """Angles of the rotation of each class of levels, multiples of `multiple`, from the details of all levels."""
    found = []
    for number in range(CLASSES):
        covariance = 0.0
        for level, values in enumerate(details):
            if level_class(level) == number:
                flat = values.mul(gain_column(level)).flatten(1).numpy()
                covariance = covariance + flat @ flat.T / flat.shape[1]
        found.append(plane_rotation.principal_angles(np.atleast_2d(covariance), multiple))
    return found
