"""Pixels in an order in which many are coded at once, and what is known around each by then.

Row y is two pixels behind the row above it, band b four behind the band before:

    step of a pixel = x + 2 y + 4 b          . . . . 4 5      all pixels of a step are coded together;
                                             . 2 3 4 5        what is above, left, and above to the right is known,
                                             0 1 2 3          of earlier bands also what is right of it and below

Only what the neighbours of later steps need is held: a ring of the last steps, a lane for each row of each band.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]
Place = tuple[int, int, int]
"""Bands before, rows down and columns right of a pixel."""

BANDS_BEFORE = 3
"""Bands that a pixel may be predicted from, beside its own."""

LAG = 4
"""Steps by which a band is behind the one before it."""

_RING = 32
_MARGIN = 2
"""Rows beside the first and the last, and columns, that have values."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Front:
    """The pixels of one step, of all bands."""

    step: int
    """Number of the step."""

    band: Whole
    """(n,)."""

    row: Whole
    """(n,)."""

    column: Whole
    """(n,)."""


class Fronts:
    """All steps of an image, in order; and a ring of what was found."""

    def __init__(self, shape: tuple[int, int, int], start: Whole) -> None:
        """`start` (bands,) is what stands before the first pixel of each band."""
        self.bands, self.height, self.width = shape
        self._rows = self.height + 2 * _MARGIN
        self._lanes = (self.bands + BANDS_BEFORE) * self._rows
        self.values = self._ring()
        self.values.reshape(_RING, -1, self._rows)[:, BANDS_BEFORE:] = start.reshape(1, -1, 1)
        self.errors = self._ring()

    def _ring(self) -> Whole:
        return np.zeros((_RING, self._lanes), np.int64)

    def __len__(self) -> int:
        return self.width + 2 * (self.height - 1) + LAG * (self.bands - 1)

    def front(self, step: int) -> Front:
        """The pixels of a step."""
        first = step - LAG * np.arange(self.bands).reshape(-1, 1) - 2 * np.arange(self.height)
        band, row = np.nonzero((first >= 0) & (first < self.width))
        return Front(step=step, band=band, row=row, column=first[band, row])

    def around(self, ring: Whole, front: Front, places: Sequence[Place]) -> Whole:
        """What a ring holds beside the pixels of a front, (places, n)."""
        lanes = (front.band + BANDS_BEFORE) * self._rows + front.row + _MARGIN
        offsets = [
            (front.step + right + 2 * down - LAG * before) % _RING * self._lanes - before * self._rows + down
            for before, down, right in places
        ]
        return np.asarray(ring.reshape(-1).take(np.array(offsets).reshape(-1, 1) + lanes))

    def put(self, ring: Whole, front: Front, values: Whole) -> None:
        """Keep what was found at a front, and repeat it beyond the edges, where later pixels look for neighbours."""
        self._set(ring, front, values, 0, 0)
        edge = front.row == 0
        if edge.any():  # Above the first row: what is left of the pixel below.
            for down, right in ((-1, 1), (-1, 2), (-2, 1), (-2, 2)):
                self._set(ring, front, values, down, right, edge)
        edge = front.column == 0
        if edge.any():  # Left of the first column: what is above.
            for right in (-1, -2):
                self._set(ring, front, values, 1, right, edge)
        edge = front.column == self.width - 1
        if edge.any():
            self._set(ring, front, values, 0, 1, edge)
        edge = front.row == self.height - 1
        if edge.any():
            for right in (0, 1):
                self._set(ring, front, values, 1, right, edge)

    def _set(
        self, ring: Whole, front: Front, values: Whole, down: int, right: int, where: NDArray[np.bool_] | None = None
    ) -> None:
        lanes = (front.band + BANDS_BEFORE) * self._rows + front.row + _MARGIN + down
        chosen = slice(None) if where is None else where
        ring[(front.step + right + 2 * down) % _RING, lanes[chosen]] = values[chosen]
