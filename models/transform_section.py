"""The code section of a chunk of mode TRANSFORM. docs/format.md says the same in prose.

u8       flags: 1 if details are exact, 0 if rounded to steps
u8 × 3   0
u32 × 4  window of the chunk that is coded: first row, first column, rows, columns
f32 × B  offset of each band in DN
f32 × B  step of each band in DN
i16 × 3 B (B - 1) / 2   angles of the rotations of the three classes of levels
u8 × B   scales of the low band
u32 ...  words of the coded numbers
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models import plane_rotation, value_ranks
from harmonium.models.subbands import CLASSES
from harmonium.models.value_ranks import Values

_HEAD = struct.Struct("<Bxxx IIII")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TransformSection:
    """The parts of the section."""

    exact: bool
    """Whether details are coded without loss."""

    window: tuple[int, int, int, int]
    """First row, first column, rows and columns in the chunk."""

    offset: NDArray[np.float32]
    """(bands,), DN that is coded as 0."""

    step: NDArray[np.float32]
    """(bands,), above 0, in DN; 1 where details are exact."""

    angles: list[NDArray[np.int16]]
    """For each class of levels, those of its rotation."""

    low_scales: bytes
    """One for each plane."""

    words: bytes
    """Coded numbers."""

    tables: list[Values | None]
    """Values of each band whose ranks are coded; None of a band that is coded itself."""

    def pack(self) -> bytes:
        """The bytes."""
        angles = np.concatenate([*self.angles]).astype("<i2").tobytes()
        tables = value_ranks.pack(self.tables)
        head = _HEAD.pack(int(self.exact) + bool(tables), *self.window)
        numbers = (self.offset.astype("<f4"), self.step.astype("<f4"))
        return b"".join((head, *(value.tobytes() for value in numbers), angles, self.low_scales, tables, self.words))


def unpack(data: bytes, shape: tuple[int, int, int]) -> TransformSection:
    """Take a section of a chunk of that shape apart.

    Raises
    ------
    PayloadError
        If it contradicts itself or the shape.
    """
    bands, height, width = shape
    count = plane_rotation.count(bands)
    least = _HEAD.size + 8 * bands + 2 * CLASSES * count + bands
    if len(data) < least:
        raise PayloadError(f"The code section of {bands} bands has at least {least} bytes, found {len(data)}; damaged")
    flags, row, column, rows, columns = _HEAD.unpack_from(data)
    if flags > 2 or any(data[1:4]) or rows < 1 or columns < 1 or row + rows > height or column + columns > width:
        raise PayloadError(
            f"The code section claims flags {flags} and a window {(row, column, rows, columns)} of {height} × {width} "
            "pixels; the chunk is damaged"
        )
    place = _HEAD.size
    offset, step = np.frombuffer(data, "<f4", 2 * bands, place).reshape(2, bands)
    if not np.isfinite(offset).all() or not np.isfinite(step).all() or (step <= 0).any():
        raise PayloadError(f"The code section claims offsets {offset} and steps {step}; the chunk is damaged")
    place += 8 * bands
    angles = np.frombuffer(data, "<i2", CLASSES * count, place).reshape(CLASSES, count)
    if angles.size and np.abs(angles.astype(np.int32)).max() > plane_rotation.STEPS:
        raise PayloadError("The code section has angles of more than half a turn; the chunk is damaged")
    place += 2 * CLASSES * count
    tables: list[Values | None] = [None] * bands
    length = 0
    if flags == 2:
        tables, length = value_ranks.unpack(data[place + bands :], bands)
    return TransformSection(
        exact=flags > 0,
        window=(row, column, rows, columns),
        offset=offset,
        step=step,
        angles=[row.astype(np.int16) for row in angles],
        low_scales=data[place : place + bands],
        words=data[place + bands + length :],
        tables=tables,
    )
