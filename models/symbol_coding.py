"""Whole numbers ⇄ words of an asymmetric numeral system, each number by the table that a network's outputs choose.

Numbers that share a table are coded together, which is several times faster than one by one; tables are static, so the
order does not change their length. The coder is constriction's, exact and the same everywhere.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise, product

import constriction
import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models.code_prior import TABLE_BITS
from harmonium.models.scale_tables import (
    FIXED_SCALE_BITS,
    FIXED_SCALES,
    FRACTIONS,
    LARGEST_INDEX,
    PER_OCTAVE,
    REACH,
    SCALES,
    SHAPES,
    SYMBOLS,
    TABLES,
    table_number,
)

Numbers = NDArray[np.int64]

MAX_NUMBER = 1 << 40
"""Magnitudes of coded numbers are below this."""

_WORD = 16
_SHAPE_EDGES = tuple(
    round(32 * (1.5 + math.log(weight / (1 - weight)))) for weight in map(math.sqrt, map(math.prod, pairwise(SHAPES)))
)
"""Outputs, in 32nds, between two neighbouring weights of the wide part."""

_CENTRE_UNIT_BITS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a network's outputs say of some numbers, all of one length."""

    table: Numbers
    """Number of the table."""

    base: Numbers
    """Whole number next to the centre, after the last bits were left out."""

    shift: Numbers
    """How many last bits are coded as they are."""


def scale_number(logarithm: Numbers) -> Numbers:
    """Index of a scale from its natural logarithm, less 0.5, in 32nds."""
    # 0.5 and the smallest scale's logarithm: (x / 32 - 0.5 - ln 0.04) × 4 / ln 2; 5909 / 2^15 is 4 / ln 2 / 32.
    found = (logarithm * 5909 + 16_384 + 5909 * 87) >> 15
    return np.asarray(np.clip(found, 0, LARGEST_INDEX))


def choose(outputs: NDArray[np.float32], finer: int = 0, divisor: float = 1.0) -> Choice:
    """Tables for numbers whose outputs are (3, ...), whole numbers in 32nds.

    Parameters
    ----------
    finer, divisor
        Where the numbers count larger units than the network's: quarters of octaves by which scales, and a factor by
        which centres are smaller.
    """
    centre, scale, shape = outputs.reshape(3, -1).astype(np.int64)
    index = scale_number(scale)
    limit = 6 << _CENTRE_UNIT_BITS
    # 32nds of scales of a 1024th of a step to 16ths of a step.
    bits = _CENTRE_UNIT_BITS + FIXED_SCALE_BITS - 4
    sixteenths = (np.clip(centre, -limit, limit) * FIXED_SCALES[index] + (1 << (bits - 1))) >> bits
    if divisor != 1:
        sixteenths = np.floor(sixteenths / divisor + 0.5).astype(np.int64)
    return choose_from(
        scale=np.maximum(index - finer, 0), shape=np.searchsorted(_SHAPE_EDGES, shape), sixteenths=sixteenths
    )


def choose_from(*, scale: Numbers, shape: Numbers | int, sixteenths: Numbers | int) -> Choice:
    """Tables for numbers of these indices of scales and shapes, with centres in sixteenths."""
    shift = np.maximum(-((SCALES - 1 - scale) // PER_OCTAVE), 0)
    # A number without its last bits stands for the middle of what it may be.
    centre = np.asarray(sixteenths - 8 * ((1 << shift) - 1)) >> shift
    base: Numbers = (centre + 8) >> 4
    fraction = (centre - (base << 4) + 9) >> 1
    table = table_number(scale - shift * PER_OCTAVE, np.asarray(shape, np.int64), fraction)
    return Choice(table=table, base=base, shift=shift)


def symbols_of(choice: Choice, numbers: Numbers) -> Numbers:
    """Symbols of numbers, in the table of each."""
    return np.asarray(np.clip((numbers >> choice.shift) - choice.base, -REACH - 1, REACH + 1) + (REACH + 1))


MAX_ADJUSTMENT = 3
"""Scales are shifted by as many quarters of octaves at the most."""


def adjusted(choice: Choice, scale: int, shape: int) -> Choice:
    """Tables of scales shifted by quarters of octaves, and all of one shape, counted from 1, or as they are with 0."""
    own_scale, rest = np.divmod(choice.table, len(SHAPES) * FRACTIONS)
    own_shape, fraction = np.divmod(rest, FRACTIONS)
    scales = np.clip(own_scale + scale, 0, SCALES - 1)
    table = table_number(scales, own_shape if shape == 0 else np.full_like(own_shape, shape - 1), fraction)
    return replace(choice, table=table)


LEAST_ADJUSTED = 64
"""Bits that tables expect of numbers, under which no adjustment is told: it would take more than it spares."""

_PARTS_OF_BIT = 16


def _expected(frequencies: NDArray[np.int64]) -> Numbers:
    """Bits that a number takes on the average under each table, in 16ths, (tables,).

    In whole numbers alone, because decoders branch by it: 16 log2(f) is the number of digits of f^16, less one.
    """
    values, places = np.unique(frequencies, return_inverse=True)
    logarithms = [(int(value) ** _PARTS_OF_BIT).bit_length() - 1 for value in values.tolist()]
    lengths = _PARTS_OF_BIT * TABLE_BITS - np.array(logarithms, np.int64)[places].reshape(frequencies.shape)
    return np.asarray((frequencies * lengths).sum(axis=1) >> TABLE_BITS)


def _adjustment_choice() -> Choice:
    """Tables of an adjustment: its scale, 0 half the time, and its shape, 0 nearly always; as measured on scenes."""
    return choose_from(scale=np.array([12, 5], np.int64), shape=np.array([3, 1], np.int64), sixteenths=0)


@lru_cache(maxsize=64)
def _uniform(states: int) -> object:
    return constriction.stream.model.Uniform(states)


class Tables:
    """Static tables as the coder takes them."""

    def __init__(self, frequencies: NDArray[np.int64]) -> None:
        if frequencies.shape != (TABLES, SYMBOLS) or frequencies.min() < 1:
            raise ValueError(
                f"Expected {TABLES} tables of {SYMBOLS} frequencies of at least 1, found {frequencies.shape}"
            )
        if (frequencies.sum(axis=1) != 1 << TABLE_BITS).any():
            raise ValueError(f"Expected frequencies that sum to {1 << TABLE_BITS}, found {frequencies.sum(axis=1)}")
        self.frequencies = frequencies
        self._logarithms = np.log2(frequencies)
        self._expected = _expected(frequencies)
        self._models: dict[int, object] = {}
        offers = product(range(-MAX_ADJUSTMENT, MAX_ADJUSTMENT + 1), range(len(SHAPES) + 1))
        choice = _adjustment_choice()
        self._adjustment_bits = {offer: self.bits(choice, np.array(offer, np.int64)) for offer in offers}

    def model(self, number: int) -> object:
        """The coder's model of a table."""
        if number not in self._models:
            probabilities = self.frequencies[number] / (1 << TABLE_BITS)
            self._models[number] = constriction.stream.model.Categorical(probabilities, perfect=False)
        return self._models[number]

    def each_bits(self, choice: Choice, numbers: Numbers) -> NDArray[np.float64]:
        """Bits of each number, but for what escapes take beside their symbols."""
        return np.asarray(TABLE_BITS - self._logarithms[choice.table, symbols_of(choice, numbers)] + choice.shift)

    def worth_adjusting(self, choice: Choice) -> bool:
        """Whether the tables expect so many bits of numbers, whatever these are, that an adjustment comes first."""
        # Last bits do not matter: tables that leave any out expect several bits of each number.
        return int(self._expected[choice.table].sum()) >= LEAST_ADJUSTED * _PARTS_OF_BIT

    def best_adjustment(self, choice: Choice, numbers: Numbers) -> tuple[int, int]:
        """Scale and shape (`adjusted`) under which these numbers and the adjustment take the fewest bits."""
        keys, counts = np.unique(choice.table * SYMBOLS + symbols_of(choice, numbers), return_counts=True)
        tables, symbols = np.divmod(keys, SYMBOLS)
        few = replace(choice, table=tables)  # base and shift do not matter here

        def bits(adjustment: tuple[int, int]) -> float:
            table = adjusted(few, *adjustment).table
            return self._adjustment_bits[adjustment] + float((TABLE_BITS - self._logarithms[table, symbols]) @ counts)

        best = min(((0, shape) for shape in range(len(SHAPES) + 1)), key=bits)
        best = min(((scale, best[1]) for scale in range(-MAX_ADJUSTMENT, MAX_ADJUSTMENT + 1)), key=bits)
        return min((best, *((best[0], shape) for shape in range(len(SHAPES) + 1))), key=bits)

    def __getstate__(self) -> dict[str, object]:
        # constriction's models do not pickle.
        return {**self.__dict__, "_models": {}}

    def bits(self, choice: Choice, numbers: Numbers, counts: Numbers | None = None) -> float:
        """Bits that these numbers take, each so many times, before any rounding to words."""
        symbols, _, excess = _split(choice, numbers)
        each = TABLE_BITS - self._logarithms[choice.table, symbols] + choice.shift
        each[(symbols == 0) | (symbols == SYMBOLS - 1)] += 6 + np.floor(np.log2(excess + 1))
        return float(each.sum() if counts is None else each @ counts)


def _split(choice: Choice, numbers: Numbers) -> tuple[NDArray[np.int32], Numbers, Numbers]:
    """Symbols, last bits, and what escapes exceed the tables by."""
    beside = (numbers >> choice.shift) - choice.base
    symbols = symbols_of(choice, numbers)
    escaped = (symbols == 0) | (symbols == SYMBOLS - 1)
    return symbols.astype(np.int32), numbers & ((1 << choice.shift) - 1), np.abs(beside[escaped]) - (REACH + 1)


def _groups(keys: Numbers) -> Iterator[NDArray[np.int64]]:
    """Places of equal keys, the smallest key first."""
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    return iter(np.split(order, ends)) if len(order) else iter(())


@dataclass(slots=True)
class Writer:
    """Collects numbers in the order in which they are read."""

    tables: Tables
    """The tables."""

    _runs: list[tuple[NDArray[np.int32], object]] = field(default_factory=list)

    def write_adjusted(self, choice: Choice, numbers: Numbers) -> Choice:
        """Numbers after the adjustment that suits them, if it may be worth it; the tables that it gives."""
        if not self.tables.worth_adjusting(choice):
            self.write(choice, numbers)
            return choice
        adjustment = self.tables.best_adjustment(choice, numbers)
        self.write(_adjustment_choice(), np.array(adjustment, np.int64))
        choice = adjusted(choice, *adjustment)
        self.write(choice, numbers)
        return choice

    def write(self, choice: Choice, numbers: Numbers) -> None:
        """Numbers (n,) below `MAX_NUMBER` in magnitude."""
        symbols, last, excess = _split(choice, numbers)
        for places in _groups(choice.table):
            self._runs.append((symbols[places], self.tables.model(int(choice.table[places[0]]))))
        for places in _groups(choice.shift):
            if shift := int(choice.shift[places[0]]):
                self._write_bits(last[places], shift)
        if len(excess):
            lengths = np.frexp((excess + 1).astype(np.float64))[1].astype(np.int64) - 1
            self._runs.append((lengths.astype(np.int32), _uniform(64)))
            for places in _groups(lengths):
                if length := int(lengths[places[0]]):
                    self._write_bits((excess + 1)[places] - (1 << length), length)

    def _write_bits(self, values: Numbers, bits: int) -> None:
        for low in range(0, bits, _WORD):
            part = (values >> low) & ((1 << min(_WORD, bits - low)) - 1)
            self._runs.append((part.astype(np.int32), _uniform(1 << min(_WORD, bits - low))))

    def to_bytes(self) -> bytes:
        """Little-endian words of 32 bits."""
        coder = constriction.stream.stack.AnsCoder()
        for symbols, model in reversed(self._runs):
            coder.encode_reverse(symbols, model)
        words: NDArray[np.uint32] = coder.get_compressed()
        return words.astype("<u4").tobytes()


class Reader:
    """Reads what a `Writer` wrote, in the same order.

    Raises
    ------
    PayloadError
        If the bytes are not what a writer leaves.
    """

    def __init__(self, tables: Tables, data: bytes) -> None:
        if len(data) % 4:
            raise PayloadError(f"Coded numbers come in words of 4 bytes, found {len(data)} bytes; the chunk is damaged")
        try:
            self._coder = constriction.stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
        except ValueError as error:
            raise PayloadError(f"The {len(data)} bytes are not what a coder leaves; the chunk is damaged") from error
        self._tables = tables

    def read_adjusted(self, choice: Choice) -> tuple[Numbers, Choice]:
        """Numbers of `Writer.write_adjusted`, and the tables."""
        if not self._tables.worth_adjusting(choice):
            return self.read(choice), choice
        scale, shape = self.read(_adjustment_choice()).tolist()
        if abs(scale) > MAX_ADJUSTMENT or not 0 <= shape <= len(SHAPES):
            raise PayloadError(
                f"Scales are adjusted by {scale}, to shape {shape}: none such exist; the chunk is damaged"
            )
        choice = adjusted(choice, scale, shape)
        return self.read(choice), choice

    def read(self, choice: Choice) -> Numbers:
        """Numbers (n,)."""
        symbols = np.empty(len(choice.table), np.int64)
        for places in _groups(choice.table):
            symbols[places] = self._coder.decode(self._tables.model(int(choice.table[places[0]])), len(places))
        last = np.zeros_like(symbols)
        for places in _groups(choice.shift):
            if shift := int(choice.shift[places[0]]):
                last[places] = self._read_bits(len(places), shift)
        beside = symbols - (REACH + 1)
        escaped = np.flatnonzero((symbols == 0) | (symbols == SYMBOLS - 1))
        if len(escaped):
            lengths = self._coder.decode(_uniform(64), len(escaped)).astype(np.int64)
            if lengths.max() > 41:
                raise PayloadError(f"A number of {lengths.max()} bits does not exist; the chunk is damaged")
            excess = np.zeros(len(escaped), np.int64)
            for places in _groups(lengths):
                length = int(lengths[places[0]])
                excess[places] = (self._read_bits(len(places), length) if length else 0) + (1 << length) - 1
            beside[escaped] = np.where(symbols[escaped] == 0, -1, 1) * (excess + REACH + 1)
        numbers = ((beside + choice.base) << choice.shift) + last
        if len(numbers) and np.abs(numbers).max() >= MAX_NUMBER:
            raise PayloadError(f"A coded number is {np.abs(numbers).max()}; the chunk is damaged")
        return numbers

    def _read_bits(self, count: int, bits: int) -> Numbers:
        found = np.zeros(count, np.int64)
        for low in range(0, bits, _WORD):
            found |= self._coder.decode(_uniform(1 << min(_WORD, bits - low)), count).astype(np.int64) << low
        return found

    def finish(self) -> None:
        """Raise unless all is read."""
        if not self._coder.is_empty():
            raise PayloadError("The code section holds more than the chunk's numbers; the chunk is damaged")
