"""The code section of a chunk of mode PREDICTED. docs/format.md says the same in prose.

u8       flags: window
varint   window of the chunk that is coded: first row, first column, rows, columns; where it is not the whole chunk
for each band
  varint   lowest value in DN, folded; largest level; DN between two levels
  varint   rows and columns that repeat the one before, and how many of the first such are missing
  where the largest level is not 0 and pixels are coded:
  varint   how far values are compared, 0 where they have no weights
  i16 × F  factors of the prediction, i16 × A of the activity
  u8 × 2   first context that has a table, and number of these
  u8 ...   tables of these contexts
u32 ...  words of a range coder
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models import varints
from harmonium.models.scale_tables import LARGEST_INDEX, SHAPES
from harmonium.models.transform_section import read_window
from harmonium.models.value_weights import most_values
from harmonium.models.varints import Fields
from harmonium.models.wavefront import BANDS_BEFORE, Place

OWN: tuple[Place, ...] = tuple(
    (0, down, right)
    for down, right in ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-2, 1), (-2, -1), (-1, -2))
)
"""Places of the own band that a pixel is predicted from; the first is what others are compared with."""

_BEFORE = ((0, -1), (0, 0), (-1, 0), (-1, -1), (-1, 1), (0, 1), (1, 0), (1, -1), (1, 1))
"""The same of bands before."""

OWN_ERRORS = OWN[:6]
_ERRORS_BEFORE = ((0, 0), (0, -1), (-1, 0), (0, 1), (1, 0))
GRADIENTS = 3
"""Differences of the own band that the activity knows, the first of the factors'."""

LEVELS = 1 << 16
SCALE_SHIFTS = 16
"""Scales of a context are from 12 quarters of octaves below its own to 3 above it."""

SHIFT_BELOW = 12
_FACTOR_LIMIT = 1 << 15
_LARGEST_REPEAT = 255
_WINDOW = 1


def value_places(bands: int) -> list[Place]:
    """Places that pixels of so many bands are predicted from."""
    before = range(1, min(bands - 1, BANDS_BEFORE) + 1)
    return [*OWN, *((band, *place) for band in before for place in _BEFORE)]


def error_places(bands: int) -> list[Place]:
    """Places whose errors tell how large a pixel's may be."""
    before = range(1, min(bands - 1, BANDS_BEFORE) + 1)
    return [*OWN_ERRORS, *((band, *place) for band in before for place in _ERRORS_BEFORE)]


def factor_counts(band: int) -> tuple[int, int]:
    """Factors of a band's predictions, without those that make up for the others, and of its activity."""
    before = min(band, BANDS_BEFORE)
    activity = 1 + GRADIENTS + len(OWN_ERRORS) + before * len(_ERRORS_BEFORE)
    return len(OWN) - 1 + before * (len(_BEFORE) - 1), activity


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BandModel:
    """How the levels of one band are predicted."""

    lowest: int
    """Value of level 0 in DN."""

    largest: int
    """Largest level."""

    step: int
    """DN between two levels."""

    repeat: tuple[int, int, int, int]
    """Rows and columns of a block of equal pixels, and how many are missing of the first blocks."""

    half_width: int
    """How far values are compared; 0 where they have no weights."""

    factors: NDArray[np.int16]
    """Of the differences to the pixel on the left, in 2^-12."""

    activity: NDArray[np.int16]
    """Of a step, of gradients, of errors, in 2^-8."""

    first: int
    """First context that has a table."""

    tables: bytes
    """Shift of the scale, and shape, of these contexts."""

    @property
    def constant(self) -> bool:
        """Whether nothing is coded."""
        return self.largest == 0

    def pack(self) -> bytes:
        """The bytes."""
        numbers = [varints.folded([self.lowest])[0], self.largest, self.step, *self.repeat]
        if self.constant:
            return varints.packed(numbers)
        factors = self.factors.astype("<i2").tobytes() + self.activity.astype("<i2").tobytes()
        head = varints.packed([*numbers, self.half_width])
        return head + factors + bytes((self.first, len(self.tables))) + self.tables


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictedSection:
    """The parts of the section."""

    window: tuple[int, int, int, int]
    """First row, first column, rows and columns in the chunk."""

    bands: list[BandModel]
    """Of each band."""

    words: bytes
    """Coded levels."""

    def pack(self, shape: tuple[int, int, int]) -> bytes:
        """The bytes, of a chunk of that shape."""
        window = () if self.window == (0, 0, *shape[1:]) else self.window
        head = bytes((_WINDOW * bool(window),)) + varints.packed(window)
        return b"".join((head, *(band.pack() for band in self.bands), self.words))


def unpack(data: bytes, shape: tuple[int, int, int]) -> PredictedSection:
    """Take a section of a chunk of that shape apart.

    Raises
    ------
    PayloadError
        If it contradicts itself or the shape.
    """
    fields = Fields(data, "code section")
    flags = fields.byte()
    if flags > _WINDOW:
        raise PayloadError(f"The code section claims flags {flags}; the chunk is damaged")
    window = read_window(fields, shape) if flags & _WINDOW else (0, 0, *shape[1:])
    models = [_band(fields, band, most_values(window[3])) for band in range(shape[0])]
    return PredictedSection(window=window, bands=models, words=fields.rest())


def _band(fields: Fields, band: int, most: int) -> BandModel:
    folded, largest, step, *repeat = fields.varints(7)
    (lowest,) = varints.unfolded([folded])
    down, right, missing_down, missing_right = repeat
    if abs(lowest) > LEVELS or largest >= LEVELS or not 1 <= step <= LEVELS:
        raise PayloadError(
            f"The code section claims levels from {lowest} on, up to {largest}, {step} apart; the chunk is damaged"
        )
    if not (1 <= down <= _LARGEST_REPEAT and 1 <= right <= _LARGEST_REPEAT) or (
        missing_down >= down or missing_right >= right
    ):
        raise PayloadError(f"The code section claims pixels that repeat by {repeat}; the chunk is damaged")
    half_width = fields.varint() if largest else 0
    if half_width and max(largest, half_width) >= most:
        raise PayloadError(f"The code section claims weights {half_width} of {largest + 1} values; damaged chunk")
    counts = factor_counts(band) if largest else (0, 0)
    factors, activity = (fields.array("<i2", count).astype(np.int16) for count in counts)
    first, count = (fields.byte(), fields.byte()) if largest else (0, 1)
    tables = fields.take(count) if largest else bytes(1)
    if not count or first + count > LARGEST_INDEX + 1 or max(tables) >= SCALE_SHIFTS * len(SHAPES):
        raise PayloadError(f"The code section claims tables {tables.hex()} from {first} on; the chunk is damaged")
    return BandModel(
        lowest=lowest,
        largest=largest,
        step=step,
        repeat=(down, right, missing_down, missing_right),
        half_width=half_width,
        factors=factors,
        activity=activity,
        first=first,
        tables=tables,
    )
