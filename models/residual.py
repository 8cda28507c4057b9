"""What is left to a bound on every pixel's error: multiples of twice the bound, entropy-coded.

A pixel decoded within the bound has the residual 0, most often. Each band's residuals share one table, the best of a
coarse search, whose scale and shape take a byte each.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models.scale_tables import LARGEST_INDEX, SHAPES
from harmonium.models.symbol_coding import Choice, Numbers, Reader, Tables, Writer, choose_from


def encode(tables: Tables, residuals: list[Numbers]) -> bytes:
    """Residuals of each band, (n,) each; nothing where all are 0."""
    if not any(band.any() for band in residuals):
        return b""
    writer, header = Writer(tables), bytearray()
    for band in residuals:
        scale, shape = _best_table(tables, band)
        writer.write(_choice(scale, shape, len(band)), band)
        header += bytes((scale, shape))
    return bytes(header) + writer.to_bytes()


def decode(tables: Tables, data: bytes, counts: list[int]) -> list[Numbers]:
    """Inverse of `encode`, for bands of so many pixels.

    Raises
    ------
    PayloadError
        If the bytes are not what an encoder leaves.
    """
    if not data:
        return [np.zeros(count, np.int64) for count in counts]
    header, words = data[: 2 * len(counts)], data[2 * len(counts) :]
    if len(header) < 2 * len(counts) or max(header[::2]) > LARGEST_INDEX or max(header[1::2]) >= len(SHAPES):
        raise PayloadError(f"The residual section names tables that do not exist: {header.hex()}; the chunk is damaged")
    reader = Reader(tables, words)
    found = [reader.read(_choice(header[2 * band], header[2 * band + 1], count)) for band, count in enumerate(counts)]
    reader.finish()
    return found


def _choice(scale: int, shape: int, count: int) -> Choice:
    return choose_from(scale=np.full(count, scale, np.int64), shape=shape, sixteenths=0)


def _best_table(tables: Tables, numbers: NDArray[np.int64]) -> tuple[int, int]:
    values, counts = np.unique(numbers, return_counts=True)

    def bits(scale: int, shape: int) -> float:
        return tables.bits(_choice(scale, shape, len(values)), values, counts)

    if not len(values):
        return 0, 0
    scales = range(LARGEST_INDEX + 1)
    best = min(scales, key=lambda scale: bits(scale, 1))
    near = product(scales[max(best - 3, 0) : best + 4], range(len(SHAPES)))
    return min(near, key=lambda pair: bits(*pair))
