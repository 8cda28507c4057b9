"""Values of a band that leave gaps, counted by their rank: a product in 8 bits that was scaled to 16 has 256 of them.

Only chunks without loss are coded so: the neighbours of a rank are the nearest values that occur.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models.payload import inflate

Values = NDArray[np.int64]

_COUNT = struct.Struct("<I")
_WORTH = 1.5
"""Bits that ranks have to spare for each bit of their table."""

_TABLE_BITS = 10
"""About what a value takes in the table."""

_LARGEST = 1 << 16


def worth_ranking(values: Values) -> Values | None:
    """The values that occur, rising, where ranks would take fewer bits than themselves; else None.

    A value that lies in the middle of a gap of g takes log2(g) bits more than its rank does.
    """
    found, counts = np.unique(values, return_counts=True)
    if len(found) < 3 or len(found) > _LARGEST or found[-1] - found[0] + 1 == len(found):
        return None
    gaps = np.gradient(found.astype(np.float64))
    spared = float(np.log2(np.maximum(gaps, 1)) @ counts)
    return found if spared > _WORTH * _TABLE_BITS * len(found) else None


def pack(tables: Sequence[Values | None]) -> bytes:
    """Tables of all bands, and their length before them; nothing where there is none."""
    if all(table is None for table in tables):
        return b""
    parts = []
    for table in tables:
        kept = np.zeros(0, np.int64) if table is None else np.diff(table, prepend=0)
        parts.append(_COUNT.pack(len(kept)) + kept.astype("<i4").tobytes())
    data = zlib.compress(b"".join(parts), 9)
    return _COUNT.pack(len(data)) + data


def unpack(data: bytes, bands: int) -> tuple[list[Values | None], int]:
    """Tables of all bands, and how many bytes they took.

    Raises
    ------
    PayloadError
        If they are damaged.
    """
    (length,) = _COUNT.unpack_from(data) if len(data) >= _COUNT.size else (len(data),)
    end = _COUNT.size + length
    most = bands * (_COUNT.size + 4 * _LARGEST)
    if len(data) < end:
        raise PayloadError(f"The tables of values should be {length} bytes; the chunk is damaged")
    raw = inflate(
        data[_COUNT.size : end], "tables of values", f"The tables of values should be {length} bytes", 0, most
    )
    tables: list[Values | None] = []
    place = 0
    for _ in range(bands):
        count = _COUNT.unpack_from(raw, place)[0] if len(raw) >= place + _COUNT.size else _LARGEST + 1
        place += _COUNT.size
        if count > _LARGEST or len(raw) < place + 4 * count:
            raise PayloadError(f"A table of {count} values does not exist; the chunk is damaged")
        differences = np.frombuffer(raw, "<i4", count, place).astype(np.int64)
        tables.append(differences.cumsum() if count else None)
        place += 4 * count
    if place != len(raw):
        raise PayloadError("The tables of values hold more than the bands' values; the chunk is damaged")
    return tables, end
