"""The code section of a chunk of mode TRANSFORM. docs/format.md says the same in prose.

u8       flags
u8       how the angles of the three classes of levels are stored, two bits each
varint   window of the chunk that is coded: first row, first column, rows, columns; where it is not the whole chunk
varint × B, or f32 × B   offset of each band in DN; folded where all are whole
f32 × B, or f32   step of each band in DN, or one for all; none where details are exact
i8 or i16 × B (B - 1) / 2   angles of the rotation of a class of levels, or none where they are 0 or told already
u8 × B   scales of the low band
u32 ...  words of the coded numbers
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models import plane_rotation, value_ranks, varints
from harmonium.models.subbands import CLASSES
from harmonium.models.value_ranks import Values
from harmonium.models.varints import Fields

_EXACT, _RANKED, _WINDOW, _ONE_STEP, _WHOLE_OFFSETS = (1 << bit for bit in range(5))

_LARGEST_WHOLE = 1 << 24
"""Offsets up to this are whole numbers that float32 has."""

_NONE, _COARSE, _FINE, _SAME = range(4)
"""How angles are stored: all are 0; multiples of `plane_rotation.COARSE`; as they are; those of the class before."""


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

    def pack(self, shape: tuple[int, int, int]) -> bytes:
        """The bytes, of a chunk of that shape."""
        whole = bool((self.offset == np.rint(self.offset)).all() and np.abs(self.offset).max() <= _LARGEST_WHOLE)
        one_step = len(set(self.step.tolist())) == 1
        window = () if self.window == (0, 0, *shape[1:]) else self.window
        tables = value_ranks.pack(self.tables)
        kinds = [_angle_kind(*pair) for pair in zip(self.angles, (None, *self.angles), strict=False)]
        flags = _EXACT * self.exact | _RANKED * bool(tables) | _WINDOW * bool(window)
        flags |= _ONE_STEP * (one_step and not self.exact) | _WHOLE_OFFSETS * whole
        parts = [bytes((flags, sum(kind << 2 * number for number, kind in enumerate(kinds)))), varints.packed(window)]
        parts.append(
            varints.packed(varints.folded(self.offset.astype(np.int64).tolist()))
            if whole
            else self.offset.astype("<f4").tobytes()
        )
        if not self.exact:
            parts.append(self.step[: 1 if one_step else None].astype("<f4").tobytes())
        for kind, angles in zip(kinds, self.angles, strict=True):
            if kind == _FINE:
                parts.append(angles.astype("<i2").tobytes())
            elif kind == _COARSE:
                parts.append((angles // plane_rotation.COARSE).astype("i1").tobytes())
        return b"".join((*parts, self.low_scales, tables, self.words))


def _angle_kind(angles: NDArray[np.int16], before: NDArray[np.int16] | None) -> int:
    if not angles.any():
        return _NONE
    if before is not None and np.array_equal(angles, before):
        return _SAME
    return _FINE if (angles % plane_rotation.COARSE).any() else _COARSE


def angle_bits(angles: NDArray[np.int16], before: NDArray[np.int16] | None) -> int:
    """Bits that they take after those of the class before, if there is one."""
    return {_NONE: 0, _COARSE: 8, _FINE: 16, _SAME: 0}[_angle_kind(angles, before)] * len(angles)


def unpack(data: bytes, shape: tuple[int, int, int]) -> TransformSection:
    """Take a section of a chunk of that shape apart.

    Raises
    ------
    PayloadError
        If it contradicts itself or the shape.
    """
    bands = shape[0]
    fields = Fields(data, "code section")
    flags, kinds = fields.byte(), fields.byte()
    exact, ranked, one_step = (bool(flags & flag) for flag in (_EXACT, _RANKED, _ONE_STEP))
    stored = [kinds >> 2 * number & 3 for number in range(CLASSES)]
    unknown = flags >= 2 * _WHOLE_OFFSETS or kinds >> 2 * CLASSES or stored[0] == _SAME
    if unknown or (ranked and not exact) or (exact and one_step):
        raise PayloadError(f"The code section claims flags {flags} and {kinds}; the chunk is damaged")
    window = read_window(fields, shape) if flags & _WINDOW else (0, 0, *shape[1:])
    offset = _offsets(fields, bands) if flags & _WHOLE_OFFSETS else fields.array("<f4", bands)
    step = np.ones(bands, np.float32) if exact else np.resize(fields.array("<f4", 1 if one_step else bands), bands)
    if not np.isfinite(offset).all() or not np.isfinite(step).all() or (step <= 0).any():
        raise PayloadError(f"The code section claims offsets {offset} and steps {step}; the chunk is damaged")
    angles: list[NDArray[np.int16]] = []
    for kind in stored:
        angles.append(angles[-1] if kind == _SAME else _angles(fields, kind, plane_rotation.count(bands)))
    low_scales = fields.take(bands)
    tables: list[Values | None] = [None] * bands
    if ranked:
        tables, length = value_ranks.unpack(data[fields.place :], bands)
        fields.take(length)
    return TransformSection(
        exact=exact,
        window=window,
        offset=offset,
        step=step,
        angles=angles,
        low_scales=low_scales,
        words=fields.rest(),
        tables=tables,
    )


def read_window(fields: Fields, shape: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """First row, first column, rows and columns of the part that is coded of a chunk of that shape.

    Raises
    ------
    PayloadError
        If it does not lie in the chunk.
    """
    _, height, width = shape
    row, column, rows, columns = fields.varints(4)
    if rows < 1 or columns < 1 or row + rows > height or column + columns > width:
        raise PayloadError(
            f"The code section claims a window {(row, column, rows, columns)} of {height} × {width} pixels; the chunk "
            "is damaged"
        )
    return row, column, rows, columns


def _offsets(fields: Fields, bands: int) -> NDArray[np.float32]:
    found = varints.unfolded(fields.varints(bands))
    if max(map(abs, found)) > _LARGEST_WHOLE:
        raise PayloadError(f"The code section claims offsets {found}; the chunk is damaged")
    return np.array(found, np.float32)


def _angles(fields: Fields, kind: int, count: int) -> NDArray[np.int16]:
    if kind == _NONE:
        return np.zeros(count, np.int16)
    if kind == _COARSE:
        return np.asarray(fields.array("i1", count).astype(np.int16) * plane_rotation.COARSE)
    found = fields.array("<i2", count).astype(np.int16)
    if found.size and np.abs(found.astype(np.int32)).max() > plane_rotation.STEPS:
        raise PayloadError("The code section has angles of more than half a turn; the chunk is damaged")
    return found
