"""Whole numbers without loss, pixel by pixel: each predicted from its neighbours and from the bands before.

    neighbours of the band, up to two rows and columns away ──┐
    3 × 3 neighbours in each of three bands before ───────────┴─ weights ── centre ─┐
    errors of neighbours, in this band and in those before ────── weights ── scale ─┴─ table ── number

An encoder fits the weights to a chunk by least squares and stores them in 4096ths, so that a decoder has no more to do
than whole-number products; all sums stay below 2^63. Pixels are coded in waves: a wave holds all pixels x of rows y and
bands k with x + 2 y + 4 k = t, which have all that they are predicted from in the waves before. So there are about
columns + 2 rows + 4 bands waves, each of which is a few vector operations.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models.payload import inflate
from harmonium.models.scale_tables import LARGEST_INDEX, SCALES, SHAPES, PER_OCTAVE
from harmonium.models.symbol_coding import Choice, Numbers, Reader, Tables, Writer, choose_from
from harmonium.models.varints import Fields, packed

LARGEST = 1 << 17
"""Magnitude of numbers that can be coded; decoded ones are clipped to it."""

_FAR = 32 * LARGEST
"""In sixteenths: beyond all centres of numbers."""

_LEFT = (0, -1)
_OWN = ((-1, -1), (-1, 0), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-2, -1), (-2, 1), (-2, -2), (-2, 2))
_NEAR = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != _LEFT)
"""Neighbours, of which the left one is taken off: a prediction follows the level, whatever the weights are."""

_BANDS_BEFORE = 3
_FEATURES = [(0, place) for place in _OWN] + [(back + 1, place) for back in range(_BANDS_BEFORE) for place in _NEAR]
"""How many bands before, and where."""

_ERRORS = [(0, place) for place in ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))]
_ERRORS += [(1, place) for place in ((0, 0), (0, -1), (-1, 0), (0, 1), (1, 0))] + [(2, (0, 0))]

_WEIGHT_BITS = 12
_GRID_BITS = 8
_ERROR_BITS = 6
_LARGEST_ERROR = 1 << 20
"""In sixteenths, of errors that scales are predicted from."""

_EDGES = np.array([edge for octave in range(20) for edge in (1 << octave, (1 << octave) * 181 >> 7)], np.int64)
_CONTEXTS = len(_EDGES) + 1
"""Of predicted errors in sixteenths, by half octaves."""

_AROUND = ((0, -1), (-1, 0), (-1, -1), (-1, 1))
"""Places whose distances from the grid tell of the next one's."""

_TOP, _BOTTOM, _SIDE = 2, 1, 2
_ROW_LAG, _BAND_LAG = 2, 4

_WHOLE_FROM = 24
"""Index of the scales from which on a centre's fraction of a number tells nothing."""

_FITTED = 1 << 16
"""Pixels of a band that weights are fitted to, about."""

_GRID_REACH = 4096
_GRID_SIZE = 1 << 17
_SHORTEST, _LONGEST = 3, 128
_LEAST_PEAK = 0.15
_LEAST_GRIDDED = 1024
"""Of a grid that is looked for: largest difference, places of a spectrum, periods, peak of a spectrum, pixels."""

_TRIED = 4096
"""Pixels of a context that its table is chosen by."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Band:
    """What is stored of a band."""

    same_rows: NDArray[np.bool_]
    same_columns: NDArray[np.bool_]
    """Rows that are those above them, columns that are those on their left: bands that were repeated to a finer grid."""

    weights: NDArray[np.int16]
    """Of features, in 4096ths."""

    error_weights: NDArray[np.uint8]
    """Of errors, in 64ths."""

    scales: NDArray[np.uint8]
    shapes: NDArray[np.uint8]
    """Table of each context."""

    grid: "_Grid | None" = None
    """If values lie on a grid, as those of calibrated products of 8 bits do."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Grid:
    """Evenly spaced values, whose place drifts over a band."""

    period: int
    """Distance in 256ths."""

    weights: NDArray[np.int16]
    """Of what neighbours lie beside the left one's grid, in 4096ths."""

    scales: NDArray[np.uint8]
    shapes: NDArray[np.uint8]
    """Table of each context of what a value lies beside the grid."""


def _features(band: int) -> list[tuple[int, tuple[int, int]]]:
    return [(back, place) for back, place in _FEATURES if back <= band]


def _errors(band: int) -> list[tuple[int, tuple[int, int]]]:
    return [(back, place) for back, place in _ERRORS if back <= band]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Where the numbers of a chunk lie in an array with margins, flattened."""

    bands: int
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """With margins."""
        return self.bands, self.rows + _TOP + _BOTTOM, self.columns + 2 * _SIDE

    def inside(self, frame: NDArray[np.int64], row: int = 0, column: int = 0) -> NDArray[np.int64]:
        """The chunk in such an array (..., rows, columns with margins), or its neighbours; a view."""
        first, left = _TOP + row, _SIDE + column
        return frame[..., first : first + self.rows, left : left + self.columns]

    def framed(self, values: Numbers) -> Numbers:
        """Numbers (bands, rows, columns) with margins: 0 above; the row before's first on the left; else the last."""
        found = np.zeros(self.shape, np.int64)
        self.inside(found)[:] = values
        found[:, _TOP + 1 :, :_SIDE] = values[:, :, :1]
        found[:, _TOP : _TOP + self.rows, -_SIDE:] = values[:, :, -1:]
        found[:, -_BOTTOM:, _SIDE:-_SIDE] = values[:, -1:]
        return found

    @cached_property
    def lines(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Band and row of each line, and the wave that it starts with, which does not fall."""
        band, row = (part.reshape(-1) for part in np.indices((self.bands, self.rows)))
        start = _ROW_LAG * row + _BAND_LAG * band
        order = np.argsort(start, kind="stable")
        return band[order], row[order], start[order]

    def waves(self) -> Iterator[tuple[int, slice]]:
        """Number of a wave, and the lines that have a pixel in it."""
        start = self.lines[2]
        for wave in range(int(start[-1]) + self.columns):
            yield wave, slice(*np.searchsorted(start, (wave - self.columns, wave), side="right"))

    def steps(self, places: list[tuple[int, tuple[int, int]]], band: int) -> list[int]:
        """Distances in the flattened array to places so many bands before."""
        _, height, width = self.shape
        return [(row - back * height) * width + column for back, (row, column) in places if back <= band]


def encode(tables: Tables, values: Numbers, valid: NDArray[np.bool_]) -> tuple[bytes, NDArray[np.float64]]:
    """Code numbers (bands, rows, columns) below `LARGEST` in magnitude; those that are not valid do not matter.

    Returns
    -------
    bytes, bits
        What `decode` takes, and about how many bits each band takes, (bands,).
    """
    frame = _Frame(bands=values.shape[0], rows=values.shape[1], columns=values.shape[2])
    repeated = [_repeated(*band) for band in zip(values, valid, strict=True)]
    coded = np.stack([one[0] for one in repeated])
    values = np.stack([_continued(*band) for band in zip(values, coded, (one[1] for one in repeated), strict=True)])
    framed, errors = frame.framed(values), np.zeros(frame.shape, np.int64)
    parts = []
    for band, (known, same_rows, same_columns) in enumerate(repeated):
        beside = [
            frame.inside(framed[band - back], *place) - frame.inside(framed[band - back], *_LEFT)
            for back, place in _features(band)
        ]
        left = frame.inside(framed[band], *_LEFT)
        weights = _fitted_weights(beside, values[band] - left, known)
        sixteenths = _sixteenths((left << _WEIGHT_BITS) + _weighted(weights, beside))
        missed = np.minimum(np.abs((values[band] << 4) - sixteenths), _LARGEST_ERROR)
        frame.inside(errors[band])[:] = _continued(missed, known, same_rows)
        near = [frame.inside(errors[band - back], *place) for back, place in _errors(band)]
        error_weights = _fitted_error_weights(near, missed, known)
        context = _context(_weighted(error_weights, near))
        stored = _Band(
            same_rows=same_rows,
            same_columns=same_columns,
            weights=weights,
            error_weights=error_weights,
            **_best_tables(tables, values[band], sixteenths, context, known),
        )
        part = _Part.of(stored, values[band], sixteenths, context)
        period = _period(values[band] - left, known)
        if period:
            offer = _gridded(tables, frame, stored, values[band], left, beside, sixteenths, context, period, known)
            part = min(part, offer, key=lambda one: one.bits(tables, known))
        parts.append(part)
    writer = Writer(tables)
    first, second = (_Joined.of([getattr(part, name) for part in parts]) for name in ("first", "second"))
    gridded = np.array([part.stored.grid is not None for part in parts])
    flat = coded.reshape(-1)
    line_band, line_row, start = frame.lines
    begin = (line_band * frame.rows + line_row) * frame.columns - start
    for wave, lines in frame.waves():
        places = begin[lines] + wave
        kept = flat[places]
        places = places[kept]
        first.write(writer, places)
        if gridded.any():
            second.write(writer, places[gridded[line_band[lines][kept]]])
    side = zlib.compress(_pack([part.stored for part in parts]), 9)
    bits = np.array([part.bits(tables, known) for part, known in zip(parts, coded, strict=True)])
    return packed((len(side),)) + side + writer.to_bytes(), bits


def decode(tables: Tables, data: bytes, valid: NDArray[np.bool_]) -> Numbers:
    """Inverse of `encode`; numbers that are not valid are any.

    Raises
    ------
    PayloadError
        If the bytes are not what an encoder leaves.
    """
    frame = _Frame(bands=valid.shape[0], rows=valid.shape[1], columns=valid.shape[2])
    fields = Fields(data, "code section")
    bands = _unpack(fields.take(fields.varint()), frame)
    reader = Reader(tables, fields.rest())
    _, height, width = frame.shape
    framed, errors, distances = np.zeros((3, int(np.prod(frame.shape))), np.int64)
    line_band, line_row, start = frame.lines
    first = (line_band * height + line_row + _TOP) * width + _SIDE - start
    same_rows = np.stack([band.same_rows for band in bands])[line_band, line_row]
    coded = valid & np.stack([~(band.same_rows[:, None] | band.same_columns) for band in bands])
    # Of bands that are not there, weights are 0 and places any.
    weights = np.zeros((frame.bands, len(_FEATURES)), np.int64)
    places, lefts = np.zeros((2, *weights.shape), np.int64)
    error_weights = np.zeros((frame.bands, len(_ERRORS)), np.int64)
    error_places = np.zeros_like(error_weights)
    for number, band in enumerate(bands):
        weights[number, : len(band.weights)] = band.weights
        places[number, : len(band.weights)] = frame.steps(_FEATURES, number)
        lefts[number, : len(band.weights)] = frame.steps([(back, _LEFT) for back, _ in _FEATURES], number)
        error_weights[number, : len(band.error_weights)] = band.error_weights
        error_places[number, : len(band.error_weights)] = frame.steps(_ERRORS, number)
    around_places = np.array(frame.steps([(0, place) for place in _AROUND], 0))
    scales, shapes = (np.stack([getattr(band, name) for band in bands]) for name in ("scales", "shapes"))
    grids = _Grids.of(bands)
    for wave, lines in frame.waves():
        own, row, here = line_band[lines], line_row[lines], first[lines] + wave
        column = wave - start[lines]
        left = framed[here - 1]
        beside = framed[here[:, None] + places[own]] - framed[here[:, None] + lefts[own]]
        sixteenths = _sixteenths((left << _WEIGHT_BITS) + (weights[own] * beside).sum(axis=1))
        context = _context((error_weights[own] * errors[here[:, None] + error_places[own]]).sum(axis=1))
        origin = here - np.where(same_rows[lines], width, 1)
        found, error, distance = framed[origin], errors[origin], distances[origin]
        known = coded[own, row, column]
        scale, shape = scales[own, context], shapes[own, context]
        if grids is None:
            found[known] = reader.read(_choice(scale[known], shape[known], sixteenths[known]))
        else:
            near = np.flatnonzero(known)
            around = _context(distances[here[near][:, None] + around_places].sum(axis=1) << (_ERROR_BITS - 2))
            found[near], distance[near] = grids.read(
                reader,
                own[near],
                left[near],
                beside[near, : len(_OWN)],
                sixteenths[near],
                (scale[near], shape[near]),
                around,
            )
        found = np.clip(found, -LARGEST, LARGEST)
        error[known] = np.minimum(np.abs((found << 4) - sixteenths), _LARGEST_ERROR)[known]
        framed[here], errors[here], distances[here] = found, error, distance
        # Margins, as `_Frame.framed` has them.
        edge = column == 0
        for side in range(1, _SIDE + 1):
            framed[here[edge] + width - side] = found[edge]
        edge = column == frame.columns - 1
        for side in range(1, _SIDE + 1):
            framed[here[edge] + side] = found[edge]
        edge = row == frame.rows - 1
        framed[here[edge] + width] = found[edge]
    reader.finish()
    return np.ascontiguousarray(frame.inside(framed.reshape(frame.shape)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Joined:
    """Numbers of all bands, flattened, and their tables."""

    choice: Choice
    numbers: Numbers

    @classmethod
    def of(cls, parts: list[tuple[Choice, Numbers] | None]) -> "_Joined":
        """Of the parts of all bands, those of some of which may not be there, but are as long as the others'."""
        length = next((len(part[1]) for part in parts if part is not None), 0)
        none = np.zeros(length, np.int64)
        kept = [part or (Choice(table=none, base=none, shift=none), none) for part in parts]
        table, base, shift = (
            np.concatenate([getattr(choice, name) for choice, _ in kept]) for name in ("table", "base", "shift")
        )
        return cls(
            choice=Choice(table=table, base=base, shift=shift), numbers=np.concatenate([part for _, part in kept])
        )

    def at(self, places: NDArray[Any]) -> tuple[Choice, Numbers]:
        """Some of them."""
        choice = self.choice
        part = Choice(table=choice.table[places], base=choice.base[places], shift=choice.shift[places])
        return part, self.numbers[places]

    def write(self, writer: Writer, places: NDArray[np.int64]) -> None:
        """Write some of them."""
        writer.write(*self.at(places))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """A band as it is coded."""

    stored: _Band

    first: tuple[Choice, Numbers]
    """Tables and numbers of all pixels: values, or periods of a grid."""

    second: tuple[Choice, Numbers] | None = None
    """Values beside a grid."""

    @classmethod
    def of(cls, stored: _Band, values: Numbers, sixteenths: Numbers, context: Numbers) -> "_Part":
        """Of values coded themselves."""
        return cls(
            stored=stored, first=(_choice_of(stored.scales, stored.shapes, context, sixteenths), values.reshape(-1))
        )

    def bits(self, tables: Tables, known: NDArray[np.bool_]) -> float:
        """About how many bits it takes."""
        places = known.reshape(-1)
        parts = [_Joined.of([part]).at(places) for part in (self.first, self.second) if part is not None]
        return sum(tables.bits(*part) for part in parts) + 8 * len(zlib.compress(_pack([self.stored])))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Grids:
    """Grids of all bands, (bands, ...) each; of bands without one, `there` is False."""

    there: NDArray[np.bool_]
    period: NDArray[np.int64]
    weights: NDArray[np.int64]
    scales: NDArray[np.uint8]
    shapes: NDArray[np.uint8]

    @classmethod
    def of(cls, bands: list[_Band]) -> "_Grids | None":
        """Those of the bands; None if none has one."""
        if all(band.grid is None for band in bands):
            return None
        none = _Grid(
            period=1,
            weights=np.zeros(len(_OWN), np.int16),
            scales=np.zeros(_CONTEXTS, np.uint8),
            shapes=np.zeros(_CONTEXTS, np.uint8),
        )
        grids = [band.grid or none for band in bands]
        return cls(
            there=np.array([band.grid is not None for band in bands]),
            period=np.array([grid.period for grid in grids], np.int64),
            weights=np.stack([grid.weights for grid in grids]).astype(np.int64),
            scales=np.stack([grid.scales for grid in grids]),
            shapes=np.stack([grid.shapes for grid in grids]),
        )

    def read(
        self,
        reader: Reader,
        band: NDArray[np.int64],
        left: Numbers,
        beside: Numbers,
        sixteenths: Numbers,
        tables: tuple[NDArray[np.uint8], NDArray[np.uint8]],
        around: Numbers,
    ) -> tuple[Numbers, Numbers]:
        """Numbers of pixels, some of which lie on grids, and their distances from these in sixteenths."""
        on, period = self.there[band], self.period[band]
        near = _near(left, beside, self.weights[band], period)
        found = reader.read(_choice(*tables, np.where(on, _periods_predicted(sixteenths, near, period), sixteenths)))
        steps = np.clip(found[on], -LARGEST, LARGEST)
        point = _point(near[on], steps, period[on])
        which = band[on]
        found[on] = reader.read(_choice(self.scales[which, around[on]], self.shapes[which, around[on]], point))
        distance = np.zeros_like(found)
        distance[on] = np.minimum(np.abs((found[on] << 4) - point), _LARGEST_ERROR)
        return found, distance


def _near(left: Numbers, beside: Numbers, weights: Numbers, period: Numbers | int) -> Numbers:
    """A point of the grid next to the left neighbour, in 256ths, from how far others, (..., `_OWN`), are from it."""
    drift = _drift(beside, np.asarray(period)[..., None])
    return (left << _GRID_BITS) + ((drift * weights).sum(axis=-1) >> _WEIGHT_BITS)


def _drift(beside: Numbers, period: Numbers | int) -> Numbers:
    """Distances in 256ths, less whole periods: at most half a period."""
    return np.asarray(((beside << _GRID_BITS) + (period >> 1)) % period - (period >> 1))


def _periods_predicted(sixteenths: Numbers, near: Numbers, period: Numbers | int) -> Numbers:
    """Predicted values as sixteenths of periods from a point of the grid."""
    return np.asarray((((sixteenths << (_GRID_BITS - 4)) - near) << 4) // period)


def _point(near: Numbers, steps: Numbers, period: Numbers | int) -> Numbers:
    """A point of the grid in sixteenths."""
    return np.asarray(np.clip((near + steps * period + (1 << (_GRID_BITS - 5))) >> (_GRID_BITS - 4), -_FAR, _FAR))


def _sixteenths(centre: Numbers) -> Numbers:
    """Centres in 4096ths to sixteenths, not far beyond what can be coded."""
    found = (centre + (1 << (_WEIGHT_BITS - 5))) >> (_WEIGHT_BITS - 4)
    return np.asarray(np.clip(found, -_FAR, _FAR))


def _context(around: Numbers) -> Numbers:
    return np.searchsorted(_EDGES, around >> _ERROR_BITS, side="right")


def _choice(scale: NDArray[np.uint8], shape: NDArray[np.uint8], sixteenths: Numbers) -> Choice:
    """Tables; those of wide ones around whole numbers, so that there are few of them."""
    scales = scale.astype(np.int64)
    shift = np.maximum(scales - SCALES + PER_OCTAVE, 0) // PER_OCTAVE + 4
    whole = ((sixteenths + (1 << (shift - 1))) >> shift) << shift
    return choose_from(
        scale=scales, shape=shape.astype(np.int64), sixteenths=np.where(scales >= _WHOLE_FROM, whole, sixteenths)
    )


def _choice_of(scales: NDArray[np.uint8], shapes: NDArray[np.uint8], context: Numbers, sixteenths: Numbers) -> Choice:
    return _choice(scales[context].reshape(-1), shapes[context].reshape(-1), sixteenths.reshape(-1))


def _weighted(weights: NDArray[Any], parts: list[Numbers]) -> Numbers:
    found = np.zeros_like(parts[0])
    for weight, part in zip(weights.tolist(), parts, strict=True):
        if weight:
            found += weight * part
    return found


def _continued(values: Numbers, coded: NDArray[np.bool_], same_rows: NDArray[np.bool_]) -> Numbers:
    """Numbers (rows, columns), of which those that are not coded are copies, as `decode` makes them.

    They are those above them in a row that is the same, else their left neighbour; the first of a row, that of the row
    above.
    """
    if coded.all():
        return values
    found, known = values[~same_rows], coded[~same_rows]
    rows = np.maximum.accumulate(np.where(known[:, 0], np.arange(len(found)), -1))
    found[:, 0] = np.where(rows < 0, 0, found[np.maximum(rows, 0), 0])
    columns = np.maximum.accumulate(np.where(known, np.arange(found.shape[1]), 0), axis=1)
    return np.take_along_axis(found, columns, axis=1)[np.cumsum(~same_rows) - 1]


# --- what an encoder fits -------------------------------------------------------------------------------------------


def _repeated(
    values: Numbers, valid: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pixels of a band have to be coded, and which rows and columns are the same as those before them."""
    rows, columns = np.zeros(values.shape[0], np.bool_), np.zeros(values.shape[1], np.bool_)
    rows[1:] = (values[1:] == values[:-1]).all(axis=1)
    columns[1:] = (values[:, 1:] == values[:, :-1]).all(axis=0)
    coded = valid & ~(rows[:, None] | columns)
    if (_continued(values, coded, rows) == values)[valid].all():
        return coded, rows, columns
    return valid, np.zeros_like(rows), np.zeros_like(columns)


def _fitted(coded: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Coded pixels of so many rows, evenly spread, that there are enough of them."""
    found = np.zeros_like(coded)
    every = max(round(coded.sum() / _FITTED), 1)
    rows = np.flatnonzero(coded.any(axis=1))[::every]
    found[rows] = coded[rows]
    return found


def _least_squares(known: NDArray[np.float64], wanted: NDArray[np.float64], trust: NDArray[np.float64]) -> Any:
    weighted = known * trust[:, None]
    gram = weighted.T @ known
    gram[np.diag_indices_from(gram)] += 1e-6 * np.trace(gram) / len(gram) + 1e-9
    return np.linalg.solve(gram, weighted.T @ wanted)


def _in_parts(found: NDArray[np.float64]) -> NDArray[np.int16]:
    limit = np.iinfo(np.int16)
    return np.clip(np.rint(found * (1 << _WEIGHT_BITS)), limit.min, limit.max).astype(np.int16)


def _fitted_weights(beside: list[Numbers], wanted: Numbers, coded: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Least squares, the second time weighted by what the first leaves around."""
    fitted = _fitted(coded)
    if not fitted.any():
        return np.zeros(len(beside), np.int16)
    known = np.stack([part[fitted] for part in beside], 1).astype(np.float64)
    target = wanted[fitted].astype(np.float64)
    found = _least_squares(known, target, np.ones(len(target)))
    # Along the row: rows above may not be among the fitted.
    missed = np.abs(target - known @ found)
    padded = np.pad(missed, 2, mode="edge")
    around = (padded[:-4] + 2 * padded[1:-3] + 2 * padded[3:-1] + padded[4:]) / 6
    return _in_parts(_least_squares(known, target, (around + 1) ** -1.5))


def _fitted_error_weights(near: list[Numbers], wanted: Numbers, coded: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Least squares of errors from errors, relative to how large they are, without negative weights."""
    fitted = _fitted(coded)
    found = np.zeros(len(near))
    if not fitted.any():
        return found.astype(np.uint8)
    known = np.stack([part[fitted] for part in near], 1).astype(np.float64)
    target = wanted[fitted].astype(np.float64)
    trust = 1 / np.square(known.mean(axis=1) + 8)
    kept = np.ones(len(near), np.bool_)
    while kept.any():
        found[:] = 0
        found[kept] = _least_squares(known[:, kept], target, trust)
        if (found >= 0).all():
            break
        kept &= found > 0
    return np.clip(np.rint(found * (1 << _ERROR_BITS)), 0, 255).astype(np.uint8)


def _period(differences: Numbers, coded: NDArray[np.bool_]) -> int:
    """Distance of grid points in 256ths, if differences of neighbours seem to have one; else 0."""
    kept = differences[coded]
    kept = kept[np.abs(kept) < _GRID_REACH]
    if len(kept) < _LEAST_GRIDDED:
        return 0
    counts = np.bincount(kept + _GRID_REACH, minlength=2 * _GRID_REACH)
    spectrum = np.abs(np.fft.rfft(counts, _GRID_SIZE)) / len(kept)
    first = int(np.argmax(spectrum < _LEAST_PEAK / 2))  # past the slope of the distribution itself
    start = max(first, _GRID_SIZE // _LONGEST)
    if spectrum[start] >= _LEAST_PEAK / 2 and not first:
        return 0
    seen = spectrum[start : _GRID_SIZE // _SHORTEST]
    if not len(seen) or seen.max() < _LEAST_PEAK:
        return 0
    return round((1 << _GRID_BITS) * _GRID_SIZE / (start + int(seen.argmax())))


def _gridded(
    tables: Tables,
    frame: _Frame,
    stored: _Band,
    values: Numbers,
    left: Numbers,
    beside: list[Numbers],
    sixteenths: Numbers,
    context: Numbers,
    period: int,
    coded: NDArray[np.bool_],
) -> _Part:
    """A band by periods of a grid, and what its values lie beside this."""
    own = np.stack(beside[: len(_OWN)], axis=-1)
    fitted = _fitted(coded)
    wanted = _drift(values - left, period)[fitted].astype(np.float64)
    known = _drift(own[fitted], period).astype(np.float64)
    # Far from the grid, distances may be from its next point.
    weights = np.full(len(_OWN), 1 / (len(_OWN) + 1))
    for _ in range(3):
        missed = wanted - known @ weights
        missed -= period * np.rint(missed / period)
        trust = 1 / (np.square(missed) + (period / 16) ** 2)
        weights = _least_squares(known, known @ weights + missed, trust)
    grid_weights = _in_parts(weights)
    near = _near(left, own, grid_weights.astype(np.int64), period)
    steps = ((values << _GRID_BITS) - near + (period >> 1)) // period
    point = _point(near, steps, period)
    predicted = _periods_predicted(sixteenths, near, period)
    distances = np.zeros((1, *frame.shape[1:]), np.int64)
    missed_by = np.minimum(np.abs((values << 4) - point), _LARGEST_ERROR)
    frame.inside(distances[0])[:] = _continued(missed_by, coded, stored.same_rows)
    around = _context(
        sum((frame.inside(distances[0], *place) for place in _AROUND), np.zeros_like(values)) << (_ERROR_BITS - 2)
    )
    grid = _Grid(period=period, weights=grid_weights, **_best_tables(tables, values, point, around, coded))
    stored = replace(stored, grid=grid, **_best_tables(tables, steps, predicted, context, coded))
    return _Part(
        stored=stored,
        first=(_choice_of(stored.scales, stored.shapes, context, predicted), steps.reshape(-1)),
        second=(_choice_of(grid.scales, grid.shapes, around, point), values.reshape(-1)),
    )


def _best_tables(
    tables: Tables, values: Numbers, sixteenths: Numbers, context: Numbers, valid: NDArray[np.bool_]
) -> dict[str, NDArray[np.uint8]]:
    """`scales` and `shapes` of each context that take the fewest bits."""
    scales, shapes = np.zeros((2, _CONTEXTS), np.uint8)
    contexts, numbers, centres = context[valid], values[valid], sixteenths[valid]
    order = np.argsort(contexts.astype(np.uint8), kind="stable")
    ends = np.searchsorted(contexts[order], np.arange(_CONTEXTS + 1))
    for one in range(_CONTEXTS):
        places = order[ends[one] : ends[one + 1]]
        if not len(places):
            continue
        places = places[:: max(len(places) // _TRIED, 1)]
        own, centre = numbers[places], centres[places]

        def bits(scale: int, shape: int, own: Numbers = own, centre: Numbers = centre) -> float:
            full = np.full(len(own), scale, np.uint8)
            return tables.bits(_choice(full, np.full_like(full, shape), centre), own)

        # The mean magnitude of a logistic variable is 2 log(2) scales.
        mean = np.abs(own - centre / 16).mean() / 1.6
        guess = int(np.clip(np.rint(PER_OCTAVE * np.log2(max(mean, 0.04) / 0.04)), 0, LARGEST_INDEX))
        best = min(((scale, 1) for scale in range(max(guess - 3, 0), min(guess + 3, LARGEST_INDEX) + 1)), key=lambda pair: bits(*pair))
        near = [
            (scale, shape)
            for scale in range(max(best[0] - 1, 0), min(best[0] + 1, LARGEST_INDEX) + 1)
            for shape in range(len(SHAPES))
        ]
        scales[one], shapes[one] = min(near, key=lambda pair: bits(*pair))
    return {"scales": scales, "shapes": shapes}


# --- what is stored beside the words --------------------------------------------------------------------------------


def _pack(bands: list[_Band]) -> bytes:
    parts = []
    for band in bands:
        parts += [np.packbits(band.same_rows).tobytes(), np.packbits(band.same_columns).tobytes()]
        parts += [band.weights.astype("<i2").tobytes(), band.error_weights.tobytes()]
        parts += [band.scales.tobytes(), band.shapes.tobytes()]
        parts.append(packed((0 if band.grid is None else band.grid.period,)))
        if band.grid is not None:
            parts.append(band.grid.weights.astype("<i2").tobytes())
            parts += [band.grid.scales.tobytes(), band.grid.shapes.tobytes()]
    return b"".join(parts)


def _unpack(data: bytes, frame: _Frame) -> list[_Band]:
    most = 2 * len(_FEATURES) + len(_ERRORS) + 4 * _CONTEXTS + 2 * len(_OWN) + 16
    most = frame.bands * (most + frame.rows // 8 + frame.columns // 8)
    raw = inflate(data, "weights", f"The weights should take at most {most} bytes", 0, most)
    fields = Fields(raw, "weights")
    found = []
    for band in range(frame.bands):
        same_rows, same_columns = _bits(fields, frame.rows), _bits(fields, frame.columns)
        weights = fields.array("<i2", len(_features(band))).astype(np.int16)
        error_weights = fields.array("u1", len(_errors(band)))
        scales, shapes = _tables(fields)
        period = fields.varint()
        if period > _LONGEST << _GRID_BITS:
            raise PayloadError(f"A grid has a distance of at most {_LONGEST}, found {period}; the chunk is damaged")
        grid = None
        if period:
            grid_weights = fields.array("<i2", len(_OWN)).astype(np.int16)
            grid_scales, grid_shapes = _tables(fields)
            grid = _Grid(period=period, weights=grid_weights, scales=grid_scales, shapes=grid_shapes)
        found.append(
            _Band(
                same_rows=same_rows,
                same_columns=same_columns,
                weights=weights,
                error_weights=error_weights,
                scales=scales,
                shapes=shapes,
                grid=grid,
            )
        )
    if fields.rest():
        raise PayloadError("The weights hold more than the bands' own; the chunk is damaged")
    return found


def _bits(fields: Fields, count: int) -> NDArray[np.bool_]:
    found = np.unpackbits(fields.array("u1", -(-count // 8)))[:count].astype(np.bool_)
    if found[0]:
        raise PayloadError("The first row or column cannot be the one before it; the chunk is damaged")
    return found


def _tables(fields: Fields) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    scales, shapes = fields.array("u1", _CONTEXTS), fields.array("u1", _CONTEXTS)
    if scales.max() > LARGEST_INDEX or shapes.max() >= len(SHAPES):
        raise PayloadError(
            f"Tables of scale {scales.max()} and shape {shapes.max()} do not exist; the chunk is damaged"
        )
    return scales, shapes
