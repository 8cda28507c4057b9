"""Pixels predicted from their neighbours: levels come back whatever they are, and what is damaged is told."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import constriction
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
    offers: dict[str, Callable[[], Whole]] = {
        "waves": lambda: waves(shape, seed),
        "combed": lambda: combed(shape, seed),
        "random": lambda: draw.integers(0, most + 1, shape),
        "ends": lambda: most * draw.integers(0, 2, shape),
        "flat": lambda: np.full(shape, most),
    }
    levels = offers[kind]()
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
    offers: dict[str, Callable[[int], NDArray[Any]]] = {
        "zeros": lambda count: np.zeros(count),
        "least": lambda count: np.full(count, -(1 << 15)),
        "largest": lambda count: np.full(count, (1 << 15) - 1),
        "random": lambda count: draw.integers(-(1 << 15), 1 << 15, count),
    }
    made = offers[values]
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
    noise = 0.5 * np.log2(2 * math.pi * math.e * 10**2) * levels.size / 8  # what no codec can spare
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


# --- the format, pixel by pixel, as docs/format.md has it -------------------------------------------------------------

PLACES = [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-2, 1), (-2, -1), (-1, -2)]
PLACES_BEFORE = [(0, -1), (0, 0), (-1, 0), (-1, -1), (-1, 1), (0, 1), (1, 0), (1, -1), (1, 1)]
ERRORS_BEFORE = [(0, 0), (0, -1), (-1, 0), (0, 1), (1, 0)]
SCALES = [(41 * (1024, 1218, 1448, 1722)[i % 4] << i // 4) >> 10 for i in range(96)]


class Plain:
    """Reads a section by Python's integers, and a dictionary of what stands where."""

    def __init__(self, data: bytes, shape: tuple[int, int, int], frequencies: Whole) -> None:
        self.shape, self.frequencies, self.data = shape, frequencies.tolist(), data
        self.place = 0
        assert self.byte() == 0  # no window
        self.bands = [self.band(number) for number in range(shape[0])]
        words = np.frombuffer(data[self.place :], "<u4").astype(np.uint32)
        self.coder = constriction.stream.queue.RangeDecoder(words)
        self.levels: dict[tuple[int, int, int], int] = {}
        self.errors: dict[tuple[int, int, int], int] = {}
        self.counts: dict[tuple[int, int], list[int]] = {}
        self.weights: dict[tuple[int, int], list[int]] = {}
        self.all = [[0] * (band["largest"] + 1) for band in self.bands]

    def byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def varint(self) -> int:
        low = self.byte()
        return low if low < 128 else low - 128 + 128 * self.varint()

    def shorts(self, count: int) -> list[int]:
        self.place += 2 * count
        return list(struct.unpack(f"<{count}h", self.data[self.place - 2 * count : self.place]))

    def band(self, number: int) -> dict[str, Any]:
        folded = self.varint()
        found: dict[str, Any] = {"lowest": folded // 2 if folded % 2 == 0 else -(folded + 1) // 2}
        found["largest"], found["step"] = self.varint(), self.varint()
        found["repeat"] = [self.varint() for _ in range(4)]
        assert found["largest"] > 0
        before = min(number, 3)
        found["half"] = self.varint()
        found["factors"], found["activity"] = self.shorts(8 + 8 * before), self.shorts(10 + 5 * before)
        found["first"] = self.byte()
        found["tables"] = [self.byte() for _ in range(self.byte())]
        return found

    def put(self, kept: dict[tuple[int, int, int], int], place: tuple[int, int, int], value: int) -> None:
        """Also beyond edges."""
        band, y, x = place
        height, width = self.shape[1:]
        kept[place] = value
        beyond = [(-1, x + 1), (-1, x + 2), (-2, x + 1), (-2, x + 2)] if y == 0 else []
        beyond += [(y + 1, -1), (y + 1, -2)] if x == 0 else []
        beyond += [(y, width)] if x == width - 1 else []
        beyond += [(height, x), (height, x + 1)] if y == height - 1 else []
        for row, column in beyond:
            if not (0 <= row < height and 0 <= column < width):
                kept[band, row, column] = value

    def symbol(self, frequencies: list[int]) -> int:
        probabilities = np.array(frequencies) / 2**20
        return int(self.coder.decode(constriction.stream.model.Categorical(probabilities, perfect=False)))

    def bits(self, count: int) -> int:
        return int(self.coder.decode(constriction.stream.model.Uniform(1 << count))) if count else 0

    @staticmethod
    def shares(products: list[int]) -> list[int]:
        total = float(sum(products))
        found = [math.floor(one / total * (2**20 - len(products))) + 1 for one in products]
        found[found.index(max(found))] += 2**20 - sum(found)
        return found

    def weight(self, number: int, strip: int, first: int, count: int) -> int:
        own = self.weights.get((number, strip), [256] * len(self.all[number]))
        return sum(own[max(first, 0) : max(first + count, 0)])

    def follow(self, step: int) -> None:
        height, width = self.shape[1:]
        for number, band in enumerate(self.bands):
            turn, half, most = step - 4 * number, band["half"], band["largest"]
            for strip in range(-(-height // 32)) if half else ():
                if (number, strip) not in self.counts and 64 * strip <= turn:
                    self.counts[number, strip] = [*self.counts.get((number, strip - 1), [0] * (most + 1))]
            span = 2 * half + 1
            d, s = 0.2 * 4096 * span, 0.3 * 4096 * span
            for strip in range(max((turn - width) // 64, 0), -(-height // 32)) if half else ():
                if (number, strip) not in self.counts:
                    continue
                c, all_c, own = self.counts[number, strip], self.all[number], []
                for v in range(most + 1):
                    near = slice(max(v - half, 0), v + half + 1)
                    even = (span * all_c[v] + d) / (sum(all_c[near]) + d)
                    own.append(min(max(round(256 * ((span * c[v] + even * s) / (sum(c[near]) + s))), 1), 1 << 16))
                self.weights[number, strip] = own
                self.counts[number, strip] = [one - one // 8 for one in c]

    def decode(self, valid: NDArray[np.bool_]) -> Whole:
        bands, height, width = self.shape
        for step in range(width + 2 * (height - 1) + 4 * (bands - 1)):
            if step % 4 == 0:
                self.follow(step)
            front = [
                (b, y, step - 4 * b - 2 * y)
                for b in range(bands)
                for y in range(height)
                if 0 <= step - 4 * b - 2 * y < width
            ]
            self.step(front, valid)
        found = [[[self.levels[b, y, x] for x in range(width)] for y in range(height)] for b in range(bands)]
        values = np.array(found)
        for number, band in enumerate(self.bands):
            values[number] = band["lowest"] + band["step"] * values[number]
        return values

    def around(self, place: tuple[int, int, int]) -> tuple[int, list[int]]:
        """C, and what the activity sees."""
        number, y, x = place
        band = self.bands[number]
        starts: list[int] = [self.bands[number - q]["largest"] // 2 for q in range(min(number, 3) + 1)]

        def value(q: int, dy: int, dx: int) -> int:
            return self.levels.get((number - q, y + dy, x + dx), starts[q])

        def error(q: int, dy: int, dx: int) -> int:
            return self.errors.get((number - q, y + dy, x + dx), 0)

        differences = [value(0, *one) - value(0, 0, -1) for one in PLACES[1:]]
        for q in range(1, min(number, 3) + 1):
            differences += [value(q, *one) - value(q, 0, -1) for one in PLACES_BEFORE[1:]]
        total = 4096 * value(0, 0, -1) + sum(f * one for f, one in zip(band["factors"], differences, strict=True))
        seen = [16, *(16 * abs(one) for one in differences[:3]), *(error(0, *one) for one in PLACES[:6])]
        for q in range(1, min(number, 3) + 1):
            seen += [error(q, *one) for one in ERRORS_BEFORE]
        return min(max((total + 128) // 256, 0), 16 * band["largest"]), seen

    def step(self, front: list[tuple[int, int, int]], valid: NDArray[np.bool_]) -> None:
        coded, centres = [], {}
        for place in front:
            number, y, x = place
            band = self.bands[number]
            rows, columns, lack_rows, lack_columns = band["repeat"]
            start = (max(y - (y + lack_rows) % rows, 0), max(x - (x + lack_columns) % columns, 0))
            centre, seen = self.around(place)
            centres[place] = centre
            if start != (y, x):
                self.levels[place] = self.levels[number, *start]
            elif not valid[place]:
                self.levels[place] = (centre + 8) // 16
            else:
                a = sum(f * one for f, one in zip(band["activity"], seen, strict=True)) // 256
                k = max([i for i in range(96) if SCALES[i] <= 64 * a], default=0)
                table = band["tables"][min(max(k - band["first"], 0), len(band["tables"]) - 1)]
                scale = min(max(k + table // 4 - 12, 0), 95)
                s = max(0, -((28 - scale) // 4))
                c = (centre - 8 * ((1 << s) - 1)) >> s
                b = (c + 8) // 16
                q = (c - 16 * b + 9) // 2
                coded.append((place, s, b, ((scale - 4 * s) * 4 + table % 4) * 9 + q))
        self.read(coded)
        for place in front:
            self.put(self.levels, place, self.levels[place])
            self.put(self.errors, place, abs(16 * self.levels[place] - centres[place]))

    def read(self, coded: list[tuple[tuple[int, int, int], int, int, int]]) -> None:
        beside = {}
        for place, s, b, table in coded:
            number, y, _ = place
            frequencies = self.frequencies[table]
            if self.bands[number]["half"]:
                ones = [self.weight(number, y // 32, (b + m - 33) << s, 1 << s) for m in range(1, 66)]
                weights = [256 << s, *ones, 256 << s]
                frequencies = self.shares([f * w for f, w in zip(frequencies, weights, strict=True)])
            beside[place] = self.symbol(frequencies) - 33
        lengths = {place: self.bits(5) for place, *_ in coded if abs(beside[place]) == 33}
        for place in sorted(lengths, key=lambda one: lengths[one]):
            excess = (1 << lengths[place]) + self.bits(lengths[place]) - 1
            beside[place] = (1 if beside[place] > 0 else -1) * (33 + excess)
        weighted = [one for one in coded if self.bands[one[0][0]]["half"]]
        weighted.sort(key=lambda one: (one[0][0], one[1]))
        for place, s, b, _ in weighted:
            first = (b + beside[place]) << s
            number, y, _ = place
            ones = [self.weight(number, y // 32, first + low, 1) for low in range(1 << s)]
            self.levels[place] = first + (self.symbol(self.shares(ones)) if s else 0)
        for place, *_ in weighted:
            number, y, _ = place
            self.counts[number, y // 32][self.levels[place]] += 4096
            self.all[number][self.levels[place]] += 4096
        for place, s, b, _ in sorted((one for one in coded if one not in weighted), key=lambda one: one[1]):
            self.levels[place] = ((b + beside[place]) << s) + self.bits(s)


@pytest.mark.parametrize("kind", ["combed", "repeated", "wild"])
def test_a_section_is_as_the_format_says(kind: str) -> None:
    shape, draw = (3, 38, 19), np.random.default_rng(3)
    levels = waves(shape)
    levels[1] = combed((1, *shape[1:]))[0] // 3
    coded = np.ones(shape, np.bool_)
    if kind == "repeated":
        levels[2] = np.repeat(np.repeat(levels[2, :14, :10], 3, 0), 2, 1)[2:40, 1:20]
    else:
        coded[:, 5:9, 3:12] = False
    if kind == "wild":
        levels[0] = draw.integers(0, 60_000, levels[0].shape)
    bands = [replace(one, half_width=9 if number == 1 else 0) for number, one in enumerate(fitted(levels, coded))]
    assert bands[2].repeat == ((3, 2, 2, 1) if kind == "repeated" else (1, 1, 0, 0))
    assert bands[1].largest < value_weights.most_values(19)
    data = there_and_back(levels, bands, coded)
    found = Plain(data, shape, model().tables.frequencies).decode(coded)
    np.testing.assert_array_equal(found[coded], levels[coded])


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
