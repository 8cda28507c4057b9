"""How often values occur in what was coded before, beside their neighbours: products that were scaled leave a comb.

    counts of the last pixels of a strip of rows ─┐
    counts of all pixels of the band ─────────────┴─ beside the mean of what is near ── weight of each value

A prediction says where a value lies within some tens; where a product in 8 bits was scaled to 16, only every tenth of
these occurs, and which they are drifts over a scene with what was scaled (an atmosphere). Weights are learned while
coding, and so take no bytes. Counts are whole; the few operations on weights are single ones of float64.
"""

import numpy as np
from numpy.typing import NDArray

from harmonium.models.code_prior import TABLE_BITS
from harmonium.models.scale_tables import REACH

Whole = NDArray[np.int64]

STRIP = 32
"""Rows that share counts."""

_MOST_VALUES = 1 << 13

EVERY = 4
"""Steps after which weights follow counts."""

ONE = 256
"""A weight of 1."""

_COUNT = 1 << 12
"""What a pixel counts."""

_FADING = 3
"""Counts of a strip lose a share of 2^-3 each time."""

_LARGEST = 1 << 16

_STRIP_PRIOR, _BAND_PRIOR = 0.3, 0.2
"""Pixels that a strip's counts are joined by from the band's, and those by from evenness."""


def most_values(columns: int) -> int:
    """Values that a band of so many columns may have: no more than a strip has pixels, which bounds time and memory."""
    return min(_MOST_VALUES, STRIP * columns)


class ValueWeights:
    """Weights of the values 0 ... `values` - 1 of one band, strip by strip."""

    def __init__(self, values: int, half_width: int, height: int, width: int) -> None:
        """`half_width` is how far the values go that one is compared with."""
        strips = -(-height // STRIP)
        self._half = half_width
        self._width = width
        self._all = np.zeros(values, np.int64)
        self._counts = np.zeros((strips, values), np.int64)
        self._started = 0
        self.sums = np.tile(np.arange(values + 1) * ONE, (strips, 1))
        """(strips, values + 1): sums of the weights of all smaller values."""

    def count(self, row: Whole, values: Whole) -> None:
        """Learn of values (n,) in rows (n,)."""
        np.add.at(self._counts, (row // STRIP, values), _COUNT)
        np.add.at(self._all, values, _COUNT)

    def follow(self, step: int) -> None:
        """Make weights of what was counted; `step` is that of the band's first row, which has its column."""
        strips, lead = len(self._counts), 2 * STRIP
        while self._started < strips and self._started * lead <= step:
            if self._started:
                self._counts[self._started] = self._counts[self._started - 1]
            self._started += 1
        first = max((step - self._width) // lead, 0)
        counts = self._counts[first : self._started]
        if not len(counts):
            return
        span = 2 * self._half + 1
        prior = _BAND_PRIOR * _COUNT * span
        band = (self._all * span + prior) / (self._near(self._all[np.newaxis])[0] + prior)
        prior = _STRIP_PRIOR * _COUNT * span
        weights = (counts * span + band * prior) / (self._near(counts) + prior)
        whole = np.clip(np.rint(weights * ONE), 1, _LARGEST).astype(np.int64)
        np.cumsum(whole, axis=1, out=self.sums[first : self._started, 1:])
        counts -= counts >> _FADING

    def of_symbols(self, row: Whole, base: Whole, shift: Whole) -> Whole:
        """Weights of all that symbols (n, `SYMBOLS`) of pixels in rows (n,) stand for; of escapes, that of one bin."""
        edges = (base.reshape(-1, 1) + np.arange(-REACH, REACH + 2)) << shift.reshape(-1, 1)
        own = np.diff(self._sums_below(row, edges), axis=1)
        beyond = (np.int64(ONE) << shift).reshape(-1, 1)
        return np.concatenate([beyond, own, beyond], axis=1)

    def within(self, row: Whole, first: Whole, bits: int) -> Whole:
        """Weights of 2^`bits` values from the first ones (n,) on, in rows (n,): (n, 2^bits)."""
        edges = first.reshape(-1, 1) + np.arange((1 << bits) + 1)
        return np.diff(self._sums_below(row, edges), axis=1)

    def _sums_below(self, row: Whole, values: Whole) -> Whole:
        found = self.sums[(row // STRIP).reshape(-1, 1), np.clip(values, 0, self.sums.shape[1] - 1)]
        return np.asarray(found)

    def _near(self, counts: Whole) -> Whole:
        """Sums of counts (strips, values) within the half width."""
        values = counts.shape[1]
        sums = np.zeros((len(counts), values + 1), np.int64)
        np.cumsum(counts, axis=1, out=sums[:, 1:])
        places = np.arange(values)
        ends = np.minimum(places + self._half + 1, values), np.maximum(places - self._half, 0)
        return np.asarray(sums[:, ends[0]] - sums[:, ends[1]])


def shared(masses: Whole) -> Whole:
    """Frequencies (n, symbols) of at least 1, and 2^`TABLE_BITS` in sum, in proportion to masses with a sum above 0."""
    most = float((1 << TABLE_BITS) - masses.shape[1])
    found = np.floor(masses / masses.sum(axis=1, keepdims=True) * most).astype(np.int64) + 1
    found[np.arange(len(found)), found.argmax(axis=1)] += (1 << TABLE_BITS) - found.sum(axis=1)
    return np.asarray(found)
