"""Pixels predicted from their neighbours: levels come back whatever they are, and what is damaged is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models import pixel_coding, predicted_section, prediction_fit, value_weights
from harmonium.models.code_prior import TABLE_BITS
from harmonium.models.pixel_coding import RangeCoder
from harmonium.models.predicted_section import PredictedSection
from harmonium.models.transform_codec import _Chunk
from harmonium.models.wavefront import LAG, Fronts

from .tiny_networks import codec, model

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = (Phase.explicit, Phase.reuse, Phase.generate)
Whole = NDArray[np.int64]


def waves(shape: tuple[int, int, int], seed: int = 0) -> Whole:
    """Smooth levels with noise, from 0 on; bands are alike."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[1], : shape[2]]
    values = 300 * (np.sin(x / 9 + seed) + np.cos(y / 7)) + draw.normal(size=shape[1:]) * 20
    values = np.rint(values + 10 * draw.normal(size=shape)).astype(np.int64)
    found: Whole = values - values.min(axis=(1, 2), keepdims=True)
    return found


def combed(shape: tuple[int, int, int], seed: int = 0) -> Whole:
    """Of which every seventeenth value occurs."""
    return waves(shape, seed) // 17 * 17


def fitted(levels: Whole, coded: NDArray[np.bool_] | None = None) -> list[predicted_section.BandModel]:
    places = np.ones(levels.shape, np.bool_) if coded is None else coded
    zeros, ones = [0] * len(levels), [1] * len(levels)
    return prediction_fit.fit(model().tables, levels, places, zeros, ones)


def there_and_back(
    levels: Whole, bands: list[predicted_section.BandModel], coded: NDArray[np.bool_] | None = None
) -> bytes:
    """The section, from which levels were read again."""
    places = np.ones(levels.shape, np.bool_) if coded is None else coded
    found, words = pixel_coding.code(model().tables, bands, places, levels)
    np.testing.assert_array_equal(found[places], levels[places])
    section = PredictedSection(window=(0, 0, *levels.shape[1:]), bands=bands, words=words).pack(levels.shape)
    read = predicted_section.unpack(section, levels.shape)
    again, _ = pixel_coding.code(model().tables, read.bands, places, None, read.words)
    np.testing.assert_array_equal(again, found)
    return section


# --- any levels ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, phases=QUICK)
@given(
    bands=st.integers(1, 6),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    kind=st.sampled_from(("waves", "combed", "random", "ends", "flat")),
    marked=st.sampled_from((0.0, 0.3, 1.0)),
    weights=st.booleans(),
    seed=st.integers(0, 999),
)
def test_levels_come_back(
    bands: int, height: int, width: int, kind: str, marked: float, weights: bool, seed: int
) -> None:
    shape, draw = (bands, height, width), np.random.default_rng(seed)
    most = int(draw.choice([1, 255, 65_535]))
    kinds: dict[str, Callable[[], Whole]] = {
        "waves": lambda: waves(shape, seed),
        "combed": lambda: combed(shape, seed),
        "random": lambda: draw.integers(0, most + 1, shape),
        "ends": lambda: most * draw.integers(0, 2, shape),
        "flat": lambda: np.full(shape, most),
    }
    levels = kinds[kind]()
    coded = draw.random(shape) >= marked
    models = fitted(levels, coded)
    if weights:  # whether they are worth it or not
        limit = value_weights.most_values(width)
        models = [one if one.constant or one.largest >= limit else replace(one, half_width=1) for one in models]
    levels = np.minimum(levels, np.array([one.largest for one in models]).reshape(-1, 1, 1))
    there_and_back(levels, models, coded)


@pytest.mark.parametrize("values", ["zeros", "least", "largest", "random"])
def test_levels_come_back_whatever_the_factors_are(values: str) -> None:
    """Those of a damaged chunk, or of one that other pixels were fitted to."""
    levels, draw = waves((3, 20, 23)), np.random.default_rng(0)
    makers: dict[str, Callable[[int], NDArray[Any]]] = {
        "zeros": lambda count: np.zeros(count),
        "least": lambda count: np.full(count, -(1 << 15)),
        "largest": lambda count: np.full(count, (1 << 15) - 1),
        "random": lambda count: draw.integers(-(1 << 15), 1 << 15, count),
    }
    made = makers[values]
    models = [
        replace(
            one,
            factors=made(len(one.factors)).astype(np.int16),
            activity=made(len(one.activity)).astype(np.int16),
            first=int(draw.integers(0, 90)),
            tables=bytes(draw.integers(0, 64, 6).tolist()),
        )
        for one in fitted(levels)
    ]
    there_and_back(levels, models)


def test_waves_take_fewer_bytes_than_by_deflating_and_bands_help_each_other() -> None:
    levels = waves((3, 64, 64))
    alone = [len(there_and_back(levels[[band]], fitted(levels[[band]]))) for band in range(3)]
    together = len(there_and_back(levels, fitted(levels)))
    assert together < 0.95 * sum(alone)
    noise = 0.5 * math.log2(2 * math.pi * math.e * 10**2) * levels.size / 8  # what no codec can spare
    assert noise < together < 1.2 * noise


def test_weights_follow_a_comb() -> None:
    levels = combed((1, 96, 96))
    (one,) = fitted(levels)
    assert one.half_width > 0
    with_weights = len(there_and_back(levels, [one]))
    without = len(there_and_back(levels, [replace(one, half_width=0)]))
    assert with_weights < without - 0.8 * np.log2(17) * levels.size / 8 + 400
    assert all(one.half_width == 0 for one in fitted(waves((2, 96, 96))))


@pytest.mark.parametrize("blocks", [(2, 2), (3, 1), (1, 5)])
@pytest.mark.parametrize("missing", [(0, 0), (1, 0), (2, 4)])
def test_repeated_pixels_are_coded_once(blocks: tuple[int, int], missing: tuple[int, int]) -> None:
    small = waves((2, 24, 24))
    down, right = blocks
    large = np.repeat(np.repeat(small, down, 1), right, 2)[:, missing[0] % down : 47, missing[1] % right : 71]
    bands = fitted(large)
    for band in bands:
        assert band.repeat == (down, right, missing[0] % down, missing[1] % right)
    once = len(there_and_back(small, fitted(small)))
    part = large.shape[1] * large.shape[2] / (down * right * small[0].size)
    assert len(there_and_back(large, bands)) < 1.1 * max(part, 1) * once + 60


def test_fronts_visit_each_pixel_once_and_after_what_it_sees() -> None:
    shape = (3, 7, 5)
    fronts, seen = Fronts(shape, np.zeros(3, np.int64)), np.full(shape, -1)
    for step in range(len(fronts)):
        front = fronts.front(step)
        assert (front.column + 2 * front.row + LAG * front.band == step).all()
        place = (front.band, front.row, front.column)
        assert (seen[place] == -1).all()
        seen[place] = step
        around = fronts.around(fronts.values, front, predicted_section.value_places(3))
        for (before, down, right), found in zip(predicted_section.value_places(3), around, strict=True):
            band, row, column = front.band - before, front.row + down, front.column + right
            inside = (band >= 0) & (row >= 0) & (row < 7) & (column >= 0) & (column < 5)
            expected = seen[band[inside], row[inside], column[inside]]
            assert (expected >= 0).all()
            np.testing.assert_array_equal(found[inside], expected)
        fronts.put(fronts.values, front, np.full(len(front.band), step))
    assert (seen >= 0).all()


def test_pixels_without_data_are_as_predicted() -> None:
    levels = waves((2, 40, 40))
    coded = np.ones(levels.shape, np.bool_)
    coded[:, 10:20, 12:25] = False
    models = fitted(levels, coded)
    first, words = pixel_coding.code(model().tables, models, coded, levels)
    second, other = pixel_coding.code(model().tables, models, coded, np.where(coded, levels, 0))
    assert words == other
    np.testing.assert_array_equal(first, second)


# --- weights and tables ----------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(2, 70), st.integers(0, 999))
def test_shared_frequencies_have_one_sum_and_no_zeros(count: int, symbols: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    masses = draw.integers(0, 1 << int(draw.integers(1, 50)), (count, symbols))
    masses[:, 0] += 1
    found = value_weights.shared(masses)
    assert (found >= 1).all()
    assert (found.sum(axis=1) == 1 << TABLE_BITS).all()
    expected = masses / masses.sum(axis=1, keepdims=True)
    assert np.abs(found / (1 << TABLE_BITS) - expected).max() < (symbols + 1) / (1 << TABLE_BITS)


# --- damage ----------------------------------------------------------------------------------------------------------


def section_of(levels: Whole) -> bytes:
    return there_and_back(levels, fitted(levels))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 2, "flags 2"),
        (0, 1, "window"),
        (3, 0, "apart"),
        (4, 0, "repeat"),
        (6, 1, "repeat"),
    ],
)
def test_sections_that_lie(place: int, value: int, message: str) -> None:
    data = bytearray(section_of(np.minimum(waves((1, 12, 13)), 100)))
    data[place] = value
    with pytest.raises(PayloadError, match=message):
        predicted_section.unpack(bytes(data), (1, 12, 13))


def test_fields_beyond_what_exists_are_refused() -> None:
    shape = (1, 12, 13)
    levels = np.minimum(waves(shape), 100)
    (one,) = fitted(levels)
    for other, message in (
        ({"largest": 1 << 16}, "levels from 0"),
        ({"lowest": -(1 << 17)}, "levels from -131072"),
        ({"half_width": 500}, "weights 500 of 101 values"),
        ({"tables": b"\x40"}, "tables 40"),
        ({"tables": b""}, "tables  from"),
        ({"first": 95, "tables": b"\1\1"}, "tables 0101 from 95"),
    ):
        wrong: Any = replace(one, **other)
        data = PredictedSection(window=(0, 0, 12, 13), bands=[wrong], words=b"").pack(shape)
        with pytest.raises(PayloadError, match=message):
            predicted_section.unpack(data, shape)


def test_words_of_the_wrong_length_are_refused() -> None:
    levels = waves((1, 24, 23))
    bands, coded = fitted(levels), np.ones(levels.shape, np.bool_)
    _, words = pixel_coding.code(model().tables, bands, coded, levels)
    for wrong, message in ((words[:-1], "words of 4 bytes"), (words + bytes(8), "more than")):
        with pytest.raises(PayloadError, match=message):
            pixel_coding.code(model().tables, bands, coded, None, wrong)


@settings(max_examples=60, phases=QUICK)
@given(st.data())
def test_damaged_sections_decode_or_are_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from((waves, combed)))
    shape = (2, 20, 21)
    section = bytearray(section_of(kind(shape)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, data.draw(st.sampled_from((9, 200, len(section) - 1)))))
        section[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.sampled_from((len(section), len(section) - 4, len(section) // 2)))
    try:
        read = predicted_section.unpack(bytes(section[:end]), shape)
        rows, columns = read.window[2:]
        found, _ = pixel_coding.code(
            model().tables, read.bands, np.ones((2, rows, columns), np.bool_), None, read.words
        )
    except PayloadError as error:
        assert len(str(error)) > 20  # noqa: PT017 - most bytes are damaged, few are not
    else:
        largest = np.array([band.largest for band in read.bands]).reshape(-1, 1, 1)
        assert (found >= 0).all()
        assert (found <= largest).all()


def test_random_words_are_read_or_refused() -> None:
    for seed in range(20):
        coder = RangeCoder(np.random.default_rng(seed).bytes(8))
        try:
            for _ in range(50):
                assert (coder.uniform(17, 9, None) < 1 << 17).all()
        except PayloadError:
            pass


# --- whole chunks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_a_bound_holds_at_the_ends_of_the_range(dtype: str) -> None:
    info = np.iinfo(dtype)
    pixels = waves((2, 33, 34)).clip(0, 200)
    for original in (info.min + pixels, info.max - pixels):
        native = original.astype(dtype)
        for bound in (0, 1, 7, 32):
            found = codec(dtype, 2)._predicted(_Chunk.of(native, float("nan")), np.full(2, bound, np.float32))
            assert found is not None
            error = np.abs(found.decoded.astype(np.int64) - native.astype(np.int64))
            assert error.max() <= bound
            np.testing.assert_array_equal(codec(dtype, 2).decompress(found.payload), found.decoded)
