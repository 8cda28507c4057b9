"""Coded numbers: what is written is read, in as many bits as the tables say, and damage is told."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models import residual
from harmonium.models.code_prior import TABLE_BITS
from harmonium.models.scale_tables import FRACTIONS, LARGEST_INDEX, REACH, SCALES, SHAPES, SYMBOLS, TABLES
from harmonium.models.symbol_coding import (
    MAX_ADJUSTMENT,
    MAX_NUMBER,
    Choice,
    Reader,
    Tables,
    Writer,
    _expected,
    adjusted,
    choose,
    choose_from,
    scale_number,
    symbols_of,
)

from .tiny_networks import tables

Numbers = NDArray[np.int64]


def parts_of(choice: Choice) -> tuple[Numbers, Numbers, Numbers]:
    """Scale, shape and fraction of every table."""
    scale, rest = np.divmod(choice.table, len(SHAPES) * FRACTIONS)
    return scale, *np.divmod(rest, FRACTIONS)


def any_outputs(count: int, draw: np.random.Generator) -> NDArray[np.float32]:
    """Outputs (3, count) of all sizes, as far as a network's can go."""
    spread = draw.choice([30, 300, 1 << 15], count)
    return draw.integers(-spread, spread, (3, count), endpoint=True).astype(np.float32)


def any_numbers(count: int, draw: np.random.Generator) -> Numbers:
    """Most of them small, some up to ± (2^39 - 1)."""
    largest = (1 << draw.choice([1, 4, 7, 16, 39], count)) - 1
    return draw.integers(-largest, largest, endpoint=True)


# --- what is chosen --------------------------------------------------------------------------------------------------


def test_scales_are_those_of_the_formula() -> None:
    """0.04 · 2^(i / 4) steps is next to exp(x / 32 - 0.5)."""
    logarithm = np.arange(-(1 << 15), (1 << 15) + 1)
    exact = 4 * (logarithm / 32 - 0.5 - math.log(0.04)) / math.log(2)
    found = scale_number(logarithm)
    inside = (exact > -0.5) & (exact < LARGEST_INDEX + 0.5)
    # Half a quarter of an octave, and what the constants are rounded by.
    assert np.abs(found - exact)[inside].max() < 0.52
    assert (found[exact < -0.52] == 0).all()
    assert (found[exact > LARGEST_INDEX + 0.52] == LARGEST_INDEX).all()


@given(seed=st.integers(0, 9999), finer=st.integers(0, 12))
def test_tables_lie_where_the_outputs_say(seed: int, finer: int) -> None:
    draw = np.random.default_rng(seed)
    outputs = any_outputs(50, draw)
    divisor = 2 ** (finer / 4)
    choice = choose(outputs, finer, divisor)
    scale, shape, fraction = parts_of(choice)
    centre, _, weight = outputs.astype(np.float64)
    index = np.maximum(scale_number(outputs[1].astype(np.int64)) - finer, 0)
    np.testing.assert_array_equal(scale + 4 * choice.shift, index)
    assert (choice.shift >= 0).all()
    assert (scale < SCALES).all()
    assert (scale[choice.shift > 0] > SCALES - 5).all()
    # The weight of the wide part that is next, by geometric means of neighbours.
    wanted = 1 / (1 + np.exp(-np.clip(weight / 32 - 1.5, -30, 30)))
    between = [math.sqrt(a * b) for a, b in pairwise(SHAPES)]
    clear = np.abs(wanted[:, None] - between).min(axis=1) > 0.01
    np.testing.assert_array_equal(shape[clear], np.searchsorted(between, wanted)[clear])
    # The centre in steps, at most six scales beside 0, to a sixteenth of what the last bits leave.
    steps = np.clip(centre / 32, -6, 6) * 0.04 * 2 ** (scale_number(outputs[1].astype(np.int64)) / 4) / divisor
    shown = (choice.base + (fraction - 4) / 8) * 2.0**choice.shift + (2.0**choice.shift - 1) / 2
    assert (np.abs(shown - steps) <= 0.13 * 2.0**choice.shift + 3e-3 * np.abs(steps) + 0.01).all()
    assert ((fraction >= 0) & (fraction < FRACTIONS)).all()


@pytest.mark.parametrize("scale", range(-MAX_ADJUSTMENT, MAX_ADJUSTMENT + 1))
@pytest.mark.parametrize("shape", range(len(SHAPES) + 1))
def test_adjustments_shift_scales_and_replace_shapes(scale: int, shape: int) -> None:
    choice = choose(any_outputs(200, np.random.default_rng(0)))
    scales, shapes, fractions = parts_of(choice)
    found = parts_of(adjusted(choice, scale, shape))
    np.testing.assert_array_equal(found[0], np.clip(scales + scale, 0, SCALES - 1))
    np.testing.assert_array_equal(found[1], shapes if shape == 0 else shape - 1)
    np.testing.assert_array_equal(found[2], fractions)


def test_the_best_adjustment_is_found_for_scales_that_are_all_wrong() -> None:
    """Numbers of a scale three quarters of an octave wider than said, of the widest shape."""
    draw = np.random.default_rng(1)
    said = choose_from(scale=np.full(4000, 14, np.int64), shape=0, sixteenths=0)
    true = choose_from(scale=np.full(4000, 17, np.int64), shape=3, sixteenths=0)
    numbers = drawn(true, draw)
    scale, shape = tables().best_adjustment(said, numbers)
    assert shape == 4
    assert scale in (2, 3)
    assert tables().bits(adjusted(said, scale, shape), numbers) < 0.97 * tables().bits(said, numbers)
    assert tables().best_adjustment(true, numbers) == (0, 0)


def test_expected_bits_are_the_entropies_of_the_tables() -> None:
    """Of whole numbers, by numpy in floats: less than a 16th of a bit of each is rounded up, and the sum down."""
    frequencies = tables().frequencies
    shares = frequencies / frequencies.sum(axis=1, keepdims=True)
    entropies = -(shares * np.log2(shares)).sum(axis=1)
    found = _expected(frequencies)
    assert found.dtype == np.int64
    assert (found / 16 >= entropies - 1 / 16 - 1e-9).all()
    assert (found / 16 <= entropies + 1 / 16 + 1e-9).all()


def test_few_numbers_of_which_little_is_expected_have_no_adjustment() -> None:
    narrow, wide = (choose_from(scale=np.full(200, scale, np.int64), shape=0, sixteenths=0) for scale in (0, 14))
    assert not tables().worth_adjusting(narrow)
    assert tables().worth_adjusting(wide)
    zeros = np.zeros(200, np.int64)
    writer = Writer(tables())
    assert writer.write_adjusted(narrow, zeros) is narrow
    plain = Writer(tables())
    plain.write(narrow, zeros)
    assert writer.to_bytes() == plain.to_bytes()
    assert not tables().worth_adjusting(choose_from(scale=np.zeros(0, np.int64), shape=0, sixteenths=0))


# --- there and back --------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(seed=st.integers(0, 9999), count=st.integers(0, 120), runs=st.integers(1, 3))
@example(seed=0, count=0, runs=1)
def test_what_is_written_is_read(seed: int, count: int, runs: int) -> None:
    draw = np.random.default_rng(seed)
    written = []
    writer = Writer(tables())
    for _ in range(runs):
        choice = choose(any_outputs(count, draw), int(draw.integers(0, 8)), float(draw.choice([1.0, 2.3])))
        numbers = any_numbers(count, draw)
        plain = bool(draw.integers(0, 2))
        if plain:
            writer.write(choice, numbers)
            used = choice
        else:
            used = writer.write_adjusted(choice, numbers)
        written.append((choice, numbers, plain, used))
    reader = Reader(tables(), writer.to_bytes())
    for choice, numbers, plain, used in written:
        if plain:
            np.testing.assert_array_equal(reader.read(choice), numbers)
        else:
            found, tables_used = reader.read_adjusted(choice)
            np.testing.assert_array_equal(found, numbers)
            np.testing.assert_array_equal(tables_used.table, used.table)
    reader.finish()


@pytest.mark.parametrize("scale", [0, 13, SCALES - 1, SCALES, 60, LARGEST_INDEX])
def test_numbers_at_the_ends_of_tables_and_of_their_range(scale: int) -> None:
    near = np.arange(-REACH - 4, REACH + 5)
    ends = [1 << power for power in range(6, 40)] + [MAX_NUMBER - 1]
    numbers = np.array([*near, *ends, *(-end for end in ends), *(end - 1 for end in ends)], np.int64)
    choice = choose_from(scale=np.full(len(numbers), scale, np.int64), shape=1, sixteenths=5)
    writer = Writer(tables())
    writer.write(choice, numbers)
    reader = Reader(tables(), writer.to_bytes())
    np.testing.assert_array_equal(reader.read(choice), numbers)
    reader.finish()
    symbols = symbols_of(choice, numbers)
    assert symbols.min() == 0
    assert symbols.max() == SYMBOLS - 1


# --- length ----------------------------------------------------------------------------------------------------------


def drawn(choice: Choice, draw: np.random.Generator) -> Numbers:
    """Numbers of the tables' own distribution; escapes are drawn to reach a little further."""
    frequencies = tables().frequencies[choice.table]
    place = draw.integers(0, 1 << TABLE_BITS, len(choice.table))
    symbols = (frequencies.cumsum(axis=1) <= place[:, None]).sum(axis=1)
    beside = symbols - (REACH + 1)
    beside += np.sign(beside) * np.where(np.abs(beside) > REACH, draw.integers(0, 50, len(beside)), 0)
    found: Numbers = ((beside + choice.base) << choice.shift) + draw.integers(0, 1 << choice.shift)
    return found


@pytest.mark.parametrize("spread", [20, 100, 400])
def test_bits_are_those_that_are_stored(spread: int) -> None:
    draw = np.random.default_rng(spread)
    outputs = draw.integers(-spread, spread, (3, 8000)).astype(np.float32)
    outputs[1] += 16
    choice = choose(outputs)
    numbers = drawn(choice, draw)
    writer = Writer(tables())
    writer.write(choice, numbers)
    bits = tables().bits(choice, numbers)
    assert abs(8 * len(writer.to_bytes()) - bits) <= 0.01 * bits + 64
    # And they are the cross-entropy: the tables' own entropy, if the numbers are of their distribution.
    probabilities = tables().frequencies[choice.table] / (1 << TABLE_BITS)
    entropy = float(-(probabilities * np.log2(probabilities)).sum() + choice.shift.sum())
    escapes = probabilities[:, [0, -1]].sum()
    assert bits == pytest.approx(entropy + 11 * float(escapes), rel=0.03)


def test_bits_of_counted_numbers_are_those_of_each() -> None:
    draw = np.random.default_rng(0)
    values, counts = np.arange(-50, 50), draw.integers(0, 9, 100)
    one = choose_from(scale=np.full(100, 18, np.int64), shape=2, sixteenths=3)
    all_of_them = choose_from(scale=np.full(counts.sum(), 18, np.int64), shape=2, sixteenths=3)
    expected = tables().bits(all_of_them, np.repeat(values, counts))
    assert tables().bits(one, values, counts) == pytest.approx(expected, rel=1e-12)


# --- damage ----------------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_damaged_words_give_numbers_or_are_refused(data: st.DataObject) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 20)))
    choice = choose(any_outputs(60, draw))
    writer = Writer(tables())
    writer.write_adjusted(choice, any_numbers(60, draw))
    writer.write(choice, any_numbers(60, draw))
    damaged = bytearray(writer.to_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    end = data.draw(st.sampled_from((len(damaged), len(damaged) - 1, len(damaged) - 4, len(damaged) // 8 * 4, 0)))
    try:
        reader = Reader(tables(), bytes(damaged[:end]))
        found, _ = reader.read_adjusted(choice)
        more = reader.read(choice)
        reader.finish()
    except PayloadError as error:
        assert "damaged" in str(error)  # noqa: PT017 - some are not noticed
    else:
        for numbers in (found, more):
            assert numbers.shape == (60,)
            assert np.abs(numbers).max() < MAX_NUMBER


@given(words=st.binary(max_size=200))
def test_foreign_words_give_numbers_or_are_refused(words: bytes) -> None:
    choice = choose(any_outputs(40, np.random.default_rng(len(words))))
    try:
        reader = Reader(tables(), words)
        assert np.abs(reader.read(choice)).max() < MAX_NUMBER
        reader.read_adjusted(choice)
        reader.finish()
    except PayloadError as error:
        assert "damaged" in str(error)  # noqa: PT017


def test_words_that_are_left_over_are_refused() -> None:
    writer = Writer(tables())
    choice = choose_from(scale=np.full(50, 12, np.int64), shape=1, sixteenths=0)
    writer.write(choice, np.zeros(50, np.int64))
    writer.write(choice, np.arange(50))
    reader = Reader(tables(), writer.to_bytes())
    reader.read(choice)
    with pytest.raises(PayloadError, match="more than the chunk's numbers"):
        reader.finish()


# --- tables ----------------------------------------------------------------------------------------------------------


def test_tables_that_a_coder_cannot_take() -> None:
    good = tables().frequencies
    for wrong in (good[:, 1:], good[0], good[:1], good + 1):
        with pytest.raises(ValueError, match="Expected"):
            Tables(wrong)
    empty = good.copy()
    empty[9, 3], empty[9, 4] = 0, empty[9, 3] + empty[9, 4]
    with pytest.raises(ValueError, match="at least 1"):
        Tables(empty)


def test_tables_pickle_after_use() -> None:
    tables().model(3)
    found = pickle.loads(pickle.dumps(tables()))
    np.testing.assert_array_equal(found.frequencies, tables().frequencies)
    assert len(found.frequencies) == TABLES
    found.model(3)


# --- residuals -------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    seed=st.integers(0, 9999),
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    largest=st.sampled_from((0, 1, 5, 1 << 20)),
)
def test_residuals_come_back(seed: int, counts: list[int], largest: int) -> None:
    draw = np.random.default_rng(seed)
    bands = [draw.integers(-largest, largest, count, endpoint=True) for count in counts]
    data = residual.encode(tables(), bands)
    assert (data == b"") == (not any(band.any() for band in bands))
    for found, band in zip(residual.decode(tables(), data, counts), bands, strict=True):
        np.testing.assert_array_equal(found, band)


def test_residuals_take_the_table_that_is_shortest() -> None:
    draw = np.random.default_rng(0)
    numbers = np.rint(draw.laplace(0, 0.5, 5000)).astype(np.int64)
    data = residual.encode(tables(), [numbers])
    lengths = []
    for scale in range(40):
        for shape in range(len(SHAPES)):
            choice = choose_from(scale=np.full(5000, scale, np.int64), shape=shape, sixteenths=0)
            lengths.append(tables().bits(choice, numbers) / 8)
    assert len(data) <= min(lengths) * 1.01 + 8


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0", bytes((96, 0, 0, 0)), bytes((0, 4, 0, 0)), b"\0\0\0\0more\0"])
def test_residuals_that_are_none(data: bytes) -> None:
    with pytest.raises(PayloadError, match="damaged"):
        residual.decode(tables(), data, [4, 4])
