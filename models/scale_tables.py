"""Tables of frequencies of coded whole numbers, by the scale, the shape and the centre that a network predicts.

A coefficient in steps is taken to be distributed as a mixture of two logistic distributions with one centre, the second
`WIDER` times as wide, with a weight of one in `SHAPES`. Scale, weight and the centre's fraction are whole numbers that
choose a table; the tables are whole numbers, too, and belong to the model file, so that coding knows no floating point.

Scales beyond the largest table are coded in two parts: the value without its last bits by a table, these bits as they
are. Values beyond a table's ends are coded as an escape, and the rest by its length and its bits.
"""

import numpy as np
from numpy.typing import NDArray

from harmonium.models.code_prior import TABLE_BITS

SCALES = 29
"""Scales that have tables: `SMALLEST` times 2^(i / `PER_OCTAVE`), i = 0 ... 28."""

SMALLEST = 0.04
PER_OCTAVE = 4

LARGEST_INDEX = 95
"""Of a scale: 0.04 × 2^(95 / 4) steps are beyond all that 16 bits can give."""

FRACTIONS = 9
"""Positions of the centre beside a whole number: eighths of a step from -4/8 to 4/8."""

SHAPES = (0.03, 0.1, 0.25, 0.5)
"""Weights of the wide part."""

WIDER = 2.5

REACH = 32
"""Values from -32 to 32 beside the centre have symbols of their own; the first and the last symbol are escapes."""

SYMBOLS = 2 * REACH + 3
TABLES = SCALES * len(SHAPES) * FRACTIONS

RESTORED = 64
"""What is restored is in whole 64ths of a step."""

_OCTAVE = (1024, 1218, 1448, 1722)
"""1024 × 2^(i / 4)."""

FIXED_SCALE_BITS = 10
FIXED_SCALES = np.array([(41 * _OCTAVE[i % 4] << i // 4) >> 10 for i in range(LARGEST_INDEX + 1)], np.int64)
"""Scale of each index in 1024ths of a step."""


def table_number(
    scales: NDArray[np.int64], shapes: NDArray[np.int64], fractions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Number of a table by its scale, its shape and its fraction."""
    return (scales * len(SHAPES) + shapes) * FRACTIONS + fractions


def _parameters() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scale, weight and centre of every table, (tables, 1)."""
    scales = SMALLEST * 2.0 ** (np.arange(SCALES) / PER_OCTAVE)
    centres = (np.arange(FRACTIONS) - FRACTIONS // 2) / (FRACTIONS - 1)
    scale, weight, centre = np.meshgrid(scales, SHAPES, centres, indexing="ij")
    return scale.reshape(-1, 1), weight.reshape(-1, 1), centre.reshape(-1, 1)


def _logistic(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 + 0.5 * np.tanh(values / 2))


def frequencies() -> NDArray[np.int64]:
    """Frequencies (tables, symbols), each at least 1, those of a table with the sum 2^`TABLE_BITS`."""
    scale, weight, centre = _parameters()
    edges = np.arange(-REACH - 0.5, REACH + 1) - centre
    below = (1 - weight) * _logistic(edges / scale) + weight * _logistic(edges / (scale * WIDER))
    ends = np.zeros((len(below), 1)), np.ones((len(below), 1))
    mass = np.diff(np.concatenate([ends[0], below, ends[1]], axis=1), axis=1)
    found = 1 + np.floor(mass * ((1 << TABLE_BITS) - SYMBOLS)).astype(np.int64)
    found[np.arange(len(found)), found.argmax(axis=1)] += (1 << TABLE_BITS) - found.sum(axis=1)
    return np.asarray(found, np.int64)
