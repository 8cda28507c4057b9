"""Levels of pixels ⇄ words, without loss, each predicted from its neighbours and from earlier bands.

    levels around ── factors ── prediction ────────────────┐
    errors around ── factors ── activity ── scale, shape ──┴─ table ── (times weights of values) ── range coder

The factors were fitted to the chunk where it was written, and are stored. All that decides what is decoded is computed
in whole numbers, or in single operations of float64. Encoder and decoder are one loop: an encoder knows what comes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import constriction
import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models.code_prior import TABLE_BITS
from harmonium.models.predicted_section import (
    GRADIENTS,
    OWN,
    SHIFT_BELOW,
    BandModel,
    error_places,
    factor_counts,
    value_places,
)
from harmonium.models.scale_tables import FIXED_SCALES, LARGEST_INDEX, REACH, SHAPES, SYMBOLS
from harmonium.models.symbol_coding import Choice, Tables, choose_from, symbols_of
from harmonium.models.value_weights import EVERY, ValueWeights, shared
from harmonium.models.wavefront import LAG, Front, Fronts

Whole = NDArray[np.int64]

FACTOR_BITS = 12
"""Factors of predictions are in 2^-12."""

ACTIVITY_BITS = 8
"""Those of activities in 2^-8."""

SIXTEENTHS = 16
"""Predictions, errors and activities are in sixteenths of a level."""

_EXCESS_BITS = 17
"""Most bits of what a level exceeds its table by."""


class RangeCoder:
    """Symbols to words or back: it takes what is known, or tells what is not."""

    def __init__(self, words: bytes | None = None) -> None:
        """Of the words of a section; without them, an encoder."""
        self._encoder = constriction.stream.queue.RangeEncoder() if words is None else None
        self._decoder = None
        if words is not None:
            if len(words) % 4:
                raise PayloadError(
                    f"Coded levels come in words of 4 bytes, found {len(words)} bytes; the chunk is damaged"
                )
            self._decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))

    def by_tables(self, frequencies: Whole, symbols: Whole | None) -> Whole:
        """Symbols (n,), each of a row of frequencies (n, symbols) of the sum 2^`TABLE_BITS`."""
        parameters = frequencies * 2.0**-TABLE_BITS
        return self._coded(symbols, constriction.stream.model.Categorical(perfect=False), parameters)

    def uniform(self, bits: int, count: int, symbols: Whole | None) -> Whole:
        """Symbols (count,) of so many bits, at most 17."""
        return self._coded(symbols, constriction.stream.model.Uniform(1 << bits), count)

    def _coded(self, symbols: Whole | None, model: object, parameter: object) -> Whole:
        if self._encoder is not None:
            assert symbols is not None
            given = (parameter,) if isinstance(parameter, np.ndarray) else ()
            self._encoder.encode(symbols.astype(np.int32), model, *given)
            return symbols
        assert self._decoder is not None
        try:
            return np.asarray(self._decoder.decode(model, parameter), np.int64)
        except (AssertionError, ValueError) as error:
            raise PayloadError(f"The coded levels cannot be read ({error}); the chunk is damaged") from error

    def finish(self) -> bytes:
        """The words of an encoder; of a decoder none, but it raises unless all may be read."""
        if self._encoder is not None:
            words: NDArray[np.uint32] = self._encoder.get_compressed()
            return words.astype("<u4").tobytes()
        assert self._decoder is not None
        if not self._decoder.maybe_exhausted():
            raise PayloadError("The code section holds more than the chunk's levels; the chunk is damaged")
        return b""


@dataclass(frozen=True, slots=True, eq=False)
class _Factors:
    """Factors of all bands, zeros where a band has none: (places, bands)."""

    values: Whole
    activity: Whole
    scale: Whole
    """(bands, contexts)."""

    shape: Whole
    largest: Whole
    """(bands,)."""

    @classmethod
    def of(cls, models: Sequence[BandModel]) -> "_Factors":
        bands = len(models)
        values = np.zeros((len(value_places(bands)), bands), np.int64)
        activity = np.zeros((1 + GRADIENTS + len(error_places(bands)), bands), np.int64)
        scale = np.zeros((bands, LARGEST_INDEX + 1), np.int64)
        shape = np.zeros_like(scale)
        for band, model in enumerate(models):
            if model.constant:
                continue
            values[:, band] = whole_factors(model.factors, bands)
            activity[: len(model.activity), band] = model.activity
            contexts = np.arange(LARGEST_INDEX + 1)
            packed = np.frombuffer(model.tables, np.uint8).astype(np.int64)
            shift, shape[band] = np.divmod(packed[np.clip(contexts - model.first, 0, len(packed) - 1)], len(SHAPES))
            scale[band] = np.clip(contexts + shift - SHIFT_BELOW, 0, LARGEST_INDEX)
        largest = np.array([model.largest for model in models], np.int64)
        return cls(values, activity, scale, shape, largest)


def whole_factors(factors: NDArray[np.int16], bands: int) -> Whole:
    """Factors of levels, (places,), of those of differences: those of the own band sum to 1, others to 0."""
    found = np.zeros(len(value_places(bands)), np.int64)
    own, rest = factors[: len(OWN) - 1].astype(np.int64), factors[len(OWN) - 1 :].astype(np.int64)
    found[0] = (1 << FACTOR_BITS) - own.sum()
    found[1 : len(OWN)] = own
    each = factor_counts(1)[0] - factor_counts(0)[0]
    for before in range(len(rest) // each):
        part = rest[before * each : (before + 1) * each]
        start = len(OWN) + before * (each + 1)
        found[start] = -part.sum()
        found[start + 1 : start + each + 1] = part
    return found


def code(
    tables: Tables,
    models: Sequence[BandModel],
    coded: NDArray[np.bool_],
    known: Whole | None,
    words: bytes | None = None,
) -> tuple[Whole, bytes]:
    """Levels (bands, height, width) and their words, of `known` levels or of words.

    Parameters
    ----------
    coded
        (bands, height, width), where levels are coded: where pixels carry data. Others are as predicted.

    Raises
    ------
    PayloadError
        If the words are not what an encoder leaves.
    """
    return _Coding(tables, models, coded, known, RangeCoder(words)).run()


class _Coding:
    def __init__(
        self,
        tables: Tables,
        models: Sequence[BandModel],
        valid: NDArray[np.bool_],
        known: Whole | None,
        coder: RangeCoder,
    ) -> None:
        self._models, self._known, self._coder = models, known, coder
        self._frequencies = tables.frequencies
        self._factors = _Factors.of(models)
        shape = bands, height, width = valid.shape
        self._fronts = Fronts(shape, self._factors.largest // 2)
        self._value_places, self._error_places = value_places(bands), error_places(bands)
        self._row_of = np.stack([block_starts(model.repeat[0], model.repeat[2], height) for model in models])
        self._column_of = np.stack([block_starts(model.repeat[1], model.repeat[3], width) for model in models])
        rows, columns = self._row_of != np.arange(height), self._column_of != np.arange(width)
        self._repeated = rows[:, :, None] | columns[:, None]
        varied = self._factors.largest.reshape(-1, 1, 1) > 0
        self._coded = valid & ~self._repeated & varied
        self._weights = {
            band: ValueWeights(model.largest + 1, model.half_width, height, width)
            for band, model in enumerate(models)
            if model.half_width
        }
        self.levels = np.zeros(shape, np.int64)

    def run(self) -> tuple[Whole, bytes]:
        for step in range(len(self._fronts)):
            if step % EVERY == 0:
                for band, weights in self._weights.items():
                    weights.follow(step - LAG * band)
            self._step(self._fronts.front(step))
        return self.levels, self._coder.finish()

    def _step(self, front: Front) -> None:
        fronts, factors, band = self._fronts, self._factors, front.band
        values = fronts.around(fronts.values, front, self._value_places)
        largest = factors.largest[band]
        products = (values * factors.values[:, band]).sum(0)
        bits = FACTOR_BITS - 4
        centre = np.clip((products + (1 << (bits - 1))) >> bits, 0, SIXTEENTHS * largest)
        found = (centre + SIXTEENTHS // 2) >> 4
        place = (band, front.row, front.column)
        coded = self._coded[place]
        if coded.any():
            errors = fronts.around(fronts.errors, front, self._error_places)
            gradients = np.abs(values[1 : 1 + GRADIENTS] - values[0]) * SIXTEENTHS
            seen = np.concatenate([np.full((1, len(band)), SIXTEENTHS), gradients, errors])
            context = contexts((seen * factors.activity[:, band]).sum(0) >> ACTIVITY_BITS)
            choice = choose_from(
                scale=factors.scale[band, context], shape=factors.shape[band, context], sixteenths=centre
            )
            part = Choice(table=choice.table[coded], base=choice.base[coded], shift=choice.shift[coded])
            known = None if self._known is None else self._known[place][coded]
            found[coded] = self._levels(part, band[coded], front.row[coded], largest[coded], known)
        self._repeat(front, found)
        self.levels[place] = found
        fronts.put(fronts.values, front, found)
        fronts.put(fronts.errors, front, np.abs(SIXTEENTHS * found - centre))

    def _repeat(self, front: Front, found: Whole) -> None:
        """Levels that stand for others, (n,), are copied."""
        places = np.flatnonzero(self._repeated[front.band, front.row, front.column])
        if len(places):
            band = front.band[places]
            row, column = self._row_of[band, front.row[places]], self._column_of[band, front.column[places]]
            found[places] = self.levels[band, row, column]

    def _levels(self, choice: Choice, band: Whole, row: Whole, largest: Whole, known: Whole | None) -> Whole:
        """Levels (n,) through the coder."""
        frequencies = self._frequencies[choice.table]
        weighted = [(weights, np.flatnonzero(band == number)) for number, weights in self._weights.items()]
        weighted = [(weights, places) for weights, places in weighted if len(places)]
        for weights, places in weighted:
            own = weights.of_symbols(row[places], choice.base[places], choice.shift[places])
            frequencies[places] = shared(frequencies[places] * own)
        symbols = self._coder.by_tables(frequencies, None if known is None else symbols_of(choice, known))
        beside = symbols - (REACH + 1)
        escaped = np.flatnonzero((symbols == 0) | (symbols == SYMBOLS - 1))
        if len(escaped):
            beside[escaped] = self._escapes(choice, escaped, symbols[escaped], known)
        found = (beside + choice.base) << choice.shift
        if ((found > largest) | (found + (1 << choice.shift) <= 0)).any():
            raise PayloadError("A coded level is none of its band's; the chunk is damaged")
        left = np.ones(len(found), np.bool_)
        for weights, places in weighted:
            left[places] = False
            for bits, some in _by_value(choice.shift, places):
                table = shared(weights.within(row[some], found[some], bits))
                low = None if known is None else known[some] - found[some]
                found[some] += self._coder.by_tables(table, low)
            weights.count(row[places], np.clip(found[places], 0, largest[places]))
        for bits, some in _by_value(choice.shift, np.flatnonzero(left)):
            low = None if known is None else known[some] - found[some]
            found[some] += self._coder.uniform(bits, len(some), low)
        if ((found < 0) | (found > largest)).any():
            raise PayloadError("A coded level is none of its band's; the chunk is damaged")
        return found

    def _escapes(self, choice: Choice, places: Whole, symbols: Whole, known: Whole | None) -> Whole:
        """Numbers beside the centre that have no symbol."""
        excess = None
        if known is not None:
            excess = np.abs((known[places] >> choice.shift[places]) - choice.base[places]) - (REACH + 1)
        lengths = self._coder.uniform(5, len(places), None if excess is None else _bit_lengths(excess + 1) - 1)
        if lengths.max() > _EXCESS_BITS:
            raise PayloadError(f"A level of {lengths.max()} bits does not exist; the chunk is damaged")
        found = (np.int64(1) << lengths) - 1
        for bits, some in _by_value(lengths, np.arange(len(places))):
            found[some] += self._coder.uniform(bits, len(some), None if excess is None else excess[some] - found[some])
        return np.asarray(np.where(symbols == 0, -1, 1) * (found + REACH + 1))


def contexts(activity: Whole) -> Whole:
    """Context of each activity, in sixteenths of a level: a scale that is about as large."""
    return np.asarray(np.clip(np.searchsorted(FIXED_SCALES, activity << 6, side="right") - 1, 0, LARGEST_INDEX))


def block_starts(length: int, missing: int, count: int) -> Whole:
    """The row, or the column, that each of so many repeats; itself, where none."""
    places = np.arange(count)
    return np.asarray(np.maximum(places - (places + missing) % length, 0))


def _bit_lengths(numbers: Whole) -> Whole:
    return np.frexp(numbers.astype(np.float64))[1].astype(np.int64)


def _by_value(values: Whole, places: Whole) -> Iterator[tuple[int, Whole]]:
    """Places (n,) where values are the same, and not 0."""
    own = values[places]
    for value in np.unique(own).tolist():
        if value:
            yield value, places[own == value]
