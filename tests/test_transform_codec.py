"""The codec `transform` with small networks: what is promised is kept, for any pixels; damage is told."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models import detail_coding, predicted_section, subbands, transform_section
from harmonium.models.chunk_codec import Encoded
from harmonium.models.detail_coding import DEAD_ZONE, PRICE, Rounding
from harmonium.models.filling import fill_smoothly
from harmonium.models.payload import Mode, stored_quality, unpack
from harmonium.models.quality import measure
from harmonium.models.scale_tables import RESTORED
from harmonium.models.targets import Lossless, MaxError, Psnr, Ratio, Step, Target
from harmonium.models.transform_codec import TransformCodec, _Chunk

from .strategies import SCENE_DTYPES
from .tiny_models import smooth_pixels
from .tiny_networks import codec, model

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Without shrinking, which takes minutes of chunks that take tenths of a second."""

NAN = math.nan
UNIT = {"uint8": 1.0, "int16": 40.0, "uint16": 20.0, "float32": 0.002}
"""A small difference of made-up pixels."""


def textured(shape: tuple[int, int, int], dtype: str, seed: int = 0) -> NDArray[Any]:
    """Waves and noise; bands are alike."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[1], : shape[2]]
    waves = np.sin(x / 9 + seed) + np.cos(y / 7) + 0.2 * draw.normal(size=shape[1:])
    values = waves + 0.2 * draw.normal(size=shape)
    mean = {"uint8": 120, "int16": 0, "uint16": 3000, "float32": 0.3}[dtype]
    values = mean + 20 * UNIT[dtype] * values
    found: NDArray[Any] = values.astype(dtype) if dtype == "float32" else np.rint(values).astype(dtype)
    return found


def special_of(pixels: NDArray[Any], fill: float) -> Any:
    """Pixels that carry no data."""
    marked = ~np.isfinite(pixels)
    if pixels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return marked | (pixels == np.float32(fill))
    return marked | (pixels.astype(np.float64) == fill)


def check(codec: TransformCodec, original: NDArray[Any], fill: float, target: Target) -> Encoded:
    """Encode, decode, and hold the result against what is promised and against numpy."""
    before = original.copy()
    encoded = codec.compress(original, fill, target)
    np.testing.assert_array_equal(original, before)
    decoded = codec.decompress(encoded.payload, original.shape)
    assert decoded.dtype == original.dtype
    np.testing.assert_array_equal(decoded, encoded.decoded)
    special = special_of(original, fill)
    np.testing.assert_array_equal(decoded[special], original[special])
    assert not special_of(decoded, fill)[~special].any()
    quality = encoded.quality
    with np.errstate(invalid="ignore"):
        error = np.where(special, 0, original.astype(np.float64) - decoded.astype(np.float64))
    np.testing.assert_array_equal(quality.count, (~special).sum(axis=(1, 2)))
    np.testing.assert_allclose(quality.squared_error, (error**2).sum(axis=(1, 2)), rtol=2**-21)
    np.testing.assert_array_equal(quality.max_error, np.abs(error).max(axis=(1, 2)))
    assert quality.nbytes == len(encoded.payload)
    stored = unpack(encoded.payload).quality
    for name in ("nbytes", "count", "squared_error", "max_error"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(quality, name))
    keeps(target, original, error, special, encoded, codec.radiometry.peak)
    return encoded


def keeps(
    target: Target,
    original: NDArray[Any],
    error: NDArray[np.float64],
    special: NDArray[np.bool_],
    encoded: Encoded,
    peak: float,
) -> None:
    """What the target promises, by numpy."""
    lossless = not error.any()
    match target:
        case Lossless():
            np.testing.assert_array_equal(encoded.decoded, original)
        case MaxError(bounds):
            assert (np.abs(error).max(axis=(1, 2)) <= np.asarray(bounds)).all()
        case Psnr(decibels) if not lossless:
            mse = np.array([np.square(band[~mask]).mean() for band, mask in zip(error, special, strict=True)])
            if isinstance(decibels, tuple):
                with np.errstate(divide="ignore"):
                    assert (10 * np.log10(peak**2 / mse) >= np.asarray(decibels)).all()
            else:
                assert 10 * np.log10(peak**2 / np.square(error[~special]).mean()) >= decibels
        case Ratio(ratio) if not lossless:
            assert original.nbytes / len(encoded.payload) >= ratio


def mode_of(encoded: Encoded) -> Mode:
    return unpack(encoded.payload).mode


# --- any pixels ------------------------------------------------------------------------------------------------------


def fills(dtype: str) -> list[float]:
    if dtype == "float32":
        return [NAN, 0.0, -9999.0, float(np.finfo(np.float32).max), math.inf, 1e300]
    info = np.iinfo(dtype)
    return [NAN, 0, info.max, info.min, -9999]


@st.composite
def chunks(draw: st.DrawFn, dtype: str) -> tuple[NDArray[Any], float]:
    """A chunk of 1 to 5 bands, tame or adversarial, and a fill value that some of its pixels have."""
    sides = st.sampled_from((1, 2, 7, 8, 9, 17)) | st.integers(1, 40)
    bands = draw(st.integers(1, 5))
    shape = (bands, draw(sides), draw(sides))
    kind = draw(st.sampled_from(("waves", "random", "ends", "checkerboard", "spike")))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    low, high = (-1e4, 1e4) if dtype == "float32" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if kind == "waves":
        values = textured(shape, dtype, int(rng.integers(100)))
    elif kind == "random":
        values = rng.uniform(low, high, shape).astype(dtype)
    elif kind == "ends":
        values = np.where(rng.random(shape) < 0.5, low, high).astype(dtype)
    elif kind == "checkerboard":
        values = np.where(np.indices(shape).sum(axis=0) % 2, low, high).astype(dtype)
    else:
        values = np.zeros(shape, dtype)
        values[..., shape[1] // 2, shape[2] // 2] = high
    fill = draw(st.sampled_from(fills(dtype)))
    marked = rng.random(shape[1:]) < draw(st.sampled_from((0.0, 0.1, 0.9, 1.0)))
    mask = np.broadcast_to(marked, shape) if draw(st.booleans()) else marked & (rng.random(shape) < 0.7)
    if dtype == "float32":
        own = fill if abs(fill) < 1e39 else NAN
        values[mask] = rng.choice(np.array([NAN, math.inf, -math.inf, own], np.float32), mask.sum())
    elif math.isfinite(fill) and low <= fill <= high:
        values[mask] = fill
    return values, fill


def quick_targets(dtype: str, bands: int) -> st.SearchStrategy[Target]:
    unit = UNIT[dtype]
    steps = st.sampled_from((unit, 5 * unit, 100 * unit, 1e4))
    bounds = st.sampled_from((0.0, 0.5, 1.0, 3.7, unit, 10 * unit, 70_000.0))
    return st.one_of(
        steps.map(Step),
        st.tuples(*[steps] * bands).map(Step),
        bounds.map(MaxError),
        st.tuples(*[bounds] * bands).map(MaxError),
        st.just(Lossless()),
    )


@pytest.mark.parametrize("dtype", SCENE_DTYPES)
@settings(max_examples=14, phases=QUICK)
@given(data=st.data())
def test_chunks_come_back_as_promised(dtype: str, data: st.DataObject) -> None:
    original, fill = data.draw(chunks(dtype))
    check(codec(dtype, len(original)), original, fill, data.draw(quick_targets(dtype, len(original))))


@pytest.mark.parametrize("dtype", SCENE_DTYPES)
def test_a_chunk_of_70_pixels_with_a_frame_and_a_hole(dtype: str) -> None:
    original = textured((3, 70, 69), dtype)
    fill = NAN if dtype == "float32" else 0
    original[:, :9] = original[:, :, :17] = fill
    original[1, 30:50, 40:45] = fill
    for target in (Step(6 * UNIT[dtype]), MaxError(3 * UNIT[dtype])):
        encoded = check(codec(dtype, 3), original, fill, target)
        if mode_of(encoded) is Mode.PREDICTED:
            assert isinstance(target, MaxError)
            assert predicted_section.unpack(unpack(encoded.payload).codes, original.shape).window == (8, 16, 62, 53)
            continue
        assert mode_of(encoded) is Mode.TRANSFORM
        section = transform_section.unpack(unpack(encoded.payload).codes, original.shape)
        assert section.window == (8, 16, 62, 53)
        assert not section.exact


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "share", "width"), [("uint8", 0.9, 33), ("int16", 0.1, 40), ("uint16", 0.4, 47), ("float32", 0.05, 48)]
)
def test_a_psnr_is_reached_and_hardly_exceeded(dtype: str, share: float, width: int) -> None:
    original = textured((2, 40, width), dtype)
    peak = 100 * UNIT[dtype]
    wanted = 20 * math.log10(peak / (6 * share * UNIT[dtype]))
    encoded = check(codec(dtype, 2, peak=peak), original, NAN, Psnr(wanted))
    assert mode_of(encoded) is Mode.TRANSFORM
    assert wanted <= encoded.quality.psnr_together(peak) <= wanted + 0.3


def test_a_psnr_for_each_band_is_reached_by_each() -> None:
    original = textured((3, 40, 44), "uint16")
    encoded = check(codec("uint16", 3), original, NAN, Psnr((52.0, 40.0, 46.0)))
    found = encoded.quality.psnr(10_000.0)
    assert (found >= (52, 40, 46)).all()
    assert (found <= (54, 42, 48)).all()
    assert (found - (52, 40, 46)).min() < 0.3


@pytest.mark.parametrize("decibels", [200.0, 1e6])
def test_a_psnr_beyond_reach_is_met_without_loss(decibels: float) -> None:
    original = textured((1, 20, 24), "uint8")
    np.testing.assert_array_equal(check(codec("uint8", 1), original, 0, Psnr(decibels)).decoded, original)


@pytest.mark.parametrize("ratio", [6.0, 15.0])
def test_a_ratio_is_met_closely(ratio: float) -> None:
    original = textured((2, 64, 60), "uint16")
    encoded = check(codec("uint16", 2), original, 0, Ratio(ratio))
    assert mode_of(encoded) is Mode.TRANSFORM
    assert ratio <= original.nbytes / len(encoded.payload) <= 1.06 * ratio


def test_a_ratio_beyond_reach_is_missed_without_loss() -> None:
    """The header alone takes more: nothing is thrown away in vain."""
    original = np.random.default_rng(0).integers(0, 256, (1, 8, 9)).astype(np.uint8)
    encoded = check_lossless(codec("uint8", 1), original, Ratio(50))
    assert original.nbytes / len(encoded.payload) < 50


def check_lossless(codec: TransformCodec, original: NDArray[Any], target: Target) -> Encoded:
    encoded = check(codec, original, NAN, target)
    np.testing.assert_array_equal(encoded.decoded, original)
    return encoded


def test_each_band_has_its_step_and_its_bound() -> None:
    original = textured((3, 48, 40), "uint16")
    steps = check(codec("uint16", 3), original, 0, Step((8.0, 80.0, 300.0))).quality
    deviation = np.sqrt(steps.mse)
    # An error that is uniform within a step has a deviation of step / sqrt(12); a wide step has less to lose.
    assert deviation[0] == pytest.approx(8 / math.sqrt(12), rel=0.35)
    assert deviation[0] < deviation[1] < deviation[2]
    encoded = check(codec("uint16", 3), original, 0, MaxError((4.0, 20.0, 90.0)))
    assert mode_of(encoded) is Mode.TRANSFORM
    assert (encoded.quality.max_error > (2, 10, 45)).all()


def test_smaller_steps_cost_more_and_lose_less() -> None:
    original = textured((1, 64, 64), "int16")
    found = [check(codec("int16", 1), original, NAN, Step(step)).quality for step in (400.0, 100.0, 25.0)]
    assert [one.nbytes for one in found] == sorted(one.nbytes for one in found)
    assert [one.mse[0] for one in found] == sorted((one.mse[0] for one in found), reverse=True)


def test_a_bound_costs_less_than_no_loss() -> None:
    original = textured((2, 64, 64), "uint16")
    sizes = [len(check(codec("uint16", 2), original, NAN, MaxError(bound)).payload) for bound in (0, 4, 16)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.7 * sizes[0]
    encoded = codec("uint16", 2).compress(original, NAN, MaxError(0))
    assert encoded.payload == codec("uint16", 2).compress(original, NAN, Lossless()).payload


def test_pixels_without_loss_are_coded_by_whichever_is_shorter() -> None:
    """Drawn shapes, and values with gaps, deflate well; textures do not."""
    drawn = np.zeros((1, 64, 64), np.uint16)
    drawn[:, 8:20, 5:40], drawn[:, 30:50, 30:31], drawn[:, 40] = 700, 65535, 30_000
    graphics = check_lossless(codec("uint16", 1), drawn, Lossless())
    assert len(graphics.payload) < drawn.nbytes / 20
    for target in (Step(3.0), Psnr(60)):
        assert mode_of(check(codec("uint16", 1), drawn, NAN, target)) is Mode.DEFLATED
    coder, found = codec("uint16", 1), []
    for scale in (1, 13):
        texture = (textured((1, 64, 64), "uint16") // 13 * scale).astype(np.uint16)
        exact = coder._exact(_Chunk.of(texture, NAN))
        assert exact is not None
        raw = np.diff(texture, axis=2, prepend=np.uint16(0)).view(np.uint8).reshape(-1, 2).T.tobytes()
        deflated = 56 + len(zlib.compress(raw, 6))
        encoded = check_lossless(coder, texture, Lossless())
        predicted = coder._predicted(_Chunk.of(texture, NAN), np.zeros(1, np.float32))
        assert predicted is not None
        assert len(encoded.payload) == min(len(exact.payload), len(predicted.payload), deflated)
        found.append(mode_of(encoded))
    assert found[0] in (Mode.TRANSFORM, Mode.PREDICTED)


def test_floats_without_loss_are_deflated_bit_for_bit() -> None:
    draw = np.random.default_rng(0)
    original = draw.normal(size=(2, 20, 30)).astype(np.float32)
    original[0, 3, 4], original[1, 2, :3] = NAN, [-0.0, 1e-45, -math.inf]
    encoded = check(codec("float32", 2), original, NAN, Lossless())
    assert mode_of(encoded) is Mode.DEFLATED
    assert encoded.decoded.tobytes() == original.tobytes()
    assert codec("float32", 2).decompress(encoded.payload).tobytes() == original.tobytes()


@pytest.mark.parametrize(
    "target", [Step(3.0), Psnr(50), Ratio(10), MaxError(2), Lossless()], ids=lambda t: type(t).__name__
)
def test_chunks_without_texture_are_exact_and_small(target: Target) -> None:
    flat = np.broadcast_to(np.array([7, 9], np.uint16)[:, None, None], (2, 30, 20)).copy()
    encoded = check_lossless(codec("uint16", 2), flat, target)
    assert mode_of(encoded) is Mode.CONSTANT
    flat[:, :4] = 0
    encoded = check(codec("uint16", 2), flat, 0, target)
    assert mode_of(encoded) is Mode.CONSTANT
    np.testing.assert_array_equal(encoded.decoded, flat)
    encoded = check(codec("uint16", 2), np.zeros((2, 30, 20), np.uint16), 0, target)
    assert mode_of(encoded) is Mode.EMPTY
    assert not codec("uint16", 2).codes(encoded.payload).any()


def test_data_never_come_back_as_the_fill_value() -> None:
    """Pixels all around the fill value, in steps that would reach it."""
    original = np.random.default_rng(0).integers(96, 105, (1, 40, 40)).astype(np.uint8)
    for target in (Step(4.0), MaxError(2)):
        encoded = check(codec("uint8", 1), original, 100, target)
        assert (encoded.decoded == 100).sum() == (original == 100).sum()


@pytest.mark.parametrize("values", [(1e-3, 1e-45), (1e-39, -1e-40), (1e30, -1e30), (1.0, 1.0 + 2**-23)], ids=str)
def test_bounds_hold_for_floats_of_all_sizes(values: tuple[float, float]) -> None:
    draw = np.random.default_rng(0)
    original = draw.uniform(min(values), max(values), (1, 16, 15)).astype(np.float32)
    span = max(values) - min(values)
    for bound in (0.0, span / 1e6, span / 50, span):
        check(codec("float32", 1), original, NAN, MaxError(bound))


WIDE = np.where(np.arange(400).reshape(1, 20, 20) == 7, 3.4e38, -3e38).astype(np.float32)
"""Floats whose differences are no float32 any more, as of an undeclared fill value."""


@pytest.mark.parametrize("bound", [1.0, 1e30, 3e38])
def test_bounds_hold_for_floats_that_differ_by_more_than_their_range(bound: float) -> None:
    check(codec("float32", 1), WIDE, NAN, MaxError(bound))


@pytest.mark.parametrize("target", [Step(1e39), MaxError(2e38), MaxError(1e39)], ids=str)
def test_targets_beyond_float32_are_kept(target: Target) -> None:
    check(codec("uint16", 1), textured((1, 16, 16), "uint16"), NAN, target)


def test_a_bound_just_below_a_whole_number_is_the_one_before_it() -> None:
    check(codec("uint16", 1), textured((1, 48, 48), "uint16"), NAN, MaxError(9.99999999))


def test_the_finest_steps_restore_to_a_step() -> None:
    y, x = np.mgrid[:64, :64]
    original = np.broadcast_to(np.where(x < 32, -1, 1) + 1e-4 * np.sin(y), (6, 64, 64)).astype(np.float32)
    step = 2.0**-29.9
    coder = codec("float32", 6)
    chunk = _Chunk.of(original, NAN)
    assert chunk.largest(np.full(6, step, np.float32)) <= 1 << 30
    found = coder._stepped(chunk, np.full(6, step, np.float32))
    assert found is None or found.quality.max_error.max() < 100 * step


# --- codes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 24, 32), (1, 70, 45)], ids=str)
def test_codes_are_the_details_on_the_grid_of_cells(shape: tuple[int, int, int]) -> None:
    original = textured(shape, "uint8")
    coder = codec("uint8", 1)
    step = 6.0
    encoded = check(coder, original, NAN, Step(step))
    assert mode_of(encoded) is Mode.TRANSFORM
    codes = coder.codes(encoded.payload, shape)
    rows, columns = -(-shape[1] // 8), -(-shape[2] // 8)
    assert codes.dtype == np.int32
    assert codes.shape == (coder.units, rows, columns) == (64, rows, columns)
    # The details, rounded to the nearest or to the next towards 0, and where the description puts them.
    offset = np.rint(original.mean())
    low, details = subbands.analyse(torch.from_numpy(np.rint((original - offset) * 64 / step)))
    start = 1
    for level in (2, 1, 0):
        steps = (details[level] * subbands.gain_column(level) / 64).numpy()[0]
        nearest = np.floor(np.abs(steps) + 0.5)
        side = 4 >> level
        found = np.zeros_like(steps)
        for band, y, x in np.ndindex(*steps.shape):
            unit = start + (band * side + y % side) * side + x % side
            found[band, y, x] = codes[unit, y // side, x // side]
        magnitude = found * np.sign(steps)
        assert ((magnitude == nearest) | (magnitude == np.maximum(nearest - 1, 0))).all()
        assert (magnitude == nearest).mean() > 0.5
        assert found.any()
        start += 3 * side**2
    assert start == 64
    wide = np.floor(low.numpy()[0] * subbands.low_gain(5) / 64 + 0.5)
    for y, x in np.ndindex(rows, columns):
        assert codes[0, y, x] == wide[y // 8, x // 8]


def test_the_low_unit_goes_with_means_of_pixels() -> None:
    y, x = np.mgrid[:192, :256]
    original = (3000 + 6 * y + 4 * x + textured((1, 192, 256), "uint16")).astype(np.uint16)
    coder = codec("uint16", 1)
    codes = coder.codes(coder.compress(original, 0, Step(40.0)).payload)
    means = original[0].reshape(3, 64, 4, 64).mean(axis=(1, 3))
    assert np.corrcoef(codes[0, ::8, ::8].ravel(), means.ravel())[0, 1] > 0.97
    assert (codes[0].reshape(3, 8, 4, 8) == codes[0, ::8, ::8][:, None, :, None]).all()


def test_codes_beyond_the_window_are_zero() -> None:
    original = textured((2, 64, 72), "uint16")
    original[:, :24] = original[:, :, 50:] = 0
    coder = codec("uint16", 2)
    encoded = check(coder, original, 0, Step(20.0))
    section = transform_section.unpack(unpack(encoded.payload).codes, original.shape)
    assert section.window == (24, 0, 40, 50)
    codes = coder.codes(encoded.payload)
    assert codes.shape == (128, 8, 9)
    assert not codes[:, :3].any()
    assert not codes[:, :, 7:].any()
    assert codes[:, 3:, :7].any(axis=0).all()
    # As the window alone.
    alone = coder.codes(coder.compress(original[:, 24:, :50].copy(), 0, Step(20.0)).payload)
    np.testing.assert_array_equal(codes[:, 3:, :7], alone)


def test_coded_without_loss_codes_are_the_details_themselves() -> None:
    original = textured((1, 48, 40), "uint16")
    coder = codec("uint16", 1)
    chunk = _Chunk.of(original, NAN)
    section, coded = coder._transformed(chunk, np.ones(1, np.float32), exact=True)
    encoded = coder._finish(chunk, section, coded)
    np.testing.assert_array_equal(coder.decompress(encoded.payload), original)
    codes = coder.codes(encoded.payload)
    _, details = subbands.analyse(torch.from_numpy(original - np.rint(original.mean())))
    np.testing.assert_array_equal(codes[1:4], details[2][0].numpy())


# --- length and borders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [5.0, 60.0])
def test_the_estimate_is_the_length_of_a_larger_chunk(step: float) -> None:
    original = textured((2, 160, 160), "uint16")
    coder = codec("uint16", 2)
    encoded = coder.compress(original, NAN, Step(step))
    assert mode_of(encoded) is Mode.TRANSFORM
    words = transform_section.unpack(unpack(encoded.payload).codes, original.shape).words
    assert coder.estimated_bits(original, NAN, step) == pytest.approx(8 * len(words), rel=0.01)
    assert len(words) < encoded.quality.nbytes < len(words) + 70


@pytest.mark.parametrize("side", [64, 61])
def test_errors_at_borders_are_those_of_the_inside(side: int) -> None:
    """Mean squared error within 8 pixels of the borders: at most 1.1 times that inside, over six chunks."""
    coder = codec("uint16", 1)
    squared, place = [], np.minimum(np.arange(side), np.arange(side)[::-1])
    border = np.minimum.outer(place, place) < 8
    for seed in range(6):
        original = textured((1, side, side), "uint16", seed)
        encoded = coder.compress(original, NAN, Step(50.0))
        assert mode_of(encoded) is Mode.TRANSFORM
        squared.append(np.square(original[0].astype(float) - encoded.decoded[0]))
    mean = np.mean(squared, axis=0)
    assert mean[border].mean() <= 1.1 * mean[~border].mean()


def test_numbers_are_weighed_by_their_price() -> None:
    """Squared error and price of bits together are less than with numbers rounded to the nearest, or by a dead zone."""
    values = _Chunk.of(textured((2, 48, 48), "uint16"), NAN).centred.mul(RESTORED / 40).round()

    def cost(rounding: Rounding) -> tuple[float, float]:
        coded = detail_coding.encode(model(), values, rounding)
        squared = float((coded.restored - values).square().sum()) / RESTORED**2
        return squared + PRICE * 8 * len(coded.words), 8.0 * len(coded.words)

    weighed = cost(Rounding(exact=False, dead_zone=DEAD_ZONE, price=PRICE))
    for dead_zone in (DEAD_ZONE, 0.5):
        other = cost(Rounding(exact=False, dead_zone=dead_zone))
        assert weighed[0] < other[0]
    assert weighed[1] < other[1]


# --- pixels without data ---------------------------------------------------------------------------------------------


def test_holes_are_filled_with_means_of_what_is_around() -> None:
    values = torch.arange(64, dtype=torch.float64).reshape(1, 8, 8)
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[0, 0, :2] = False
    found = fill_smoothly(values, valid)
    square = [float(values[0, y, x]) for y in range(4) for x in range(4) if valid[0, y, x]]
    assert found[0, 0, 0] == found[0, 0, 1] == pytest.approx(np.mean(square))
    assert torch.equal(found[valid], values[valid])
    assert fill_smoothly(values, torch.ones_like(valid)) is values
    assert not fill_smoothly(values, torch.zeros_like(valid)).any()


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    seed=st.integers(0, 999),
    share=st.sampled_from((0.02, 0.3, 0.9)),
)
@example(rows=1, columns=33, seed=0, share=0.1)
def test_every_hole_takes_the_mean_of_the_smallest_square_that_tells(
    rows: int, columns: int, seed: int, share: float
) -> None:
    draw = np.random.default_rng(seed)
    values, valid = draw.normal(size=(1, rows, columns)), draw.random((1, rows, columns)) < share
    found = fill_smoothly(torch.from_numpy(values), torch.from_numpy(valid)).numpy()
    for y, x in np.ndindex(rows, columns):
        expected = values[0, y, x] if valid[0, y, x] else 0.0
        side = 2
        while not valid[0, y, x] and valid.any():
            side *= 2
            square = np.s_[0, y // side * side : (y // side + 1) * side, x // side * side : (x // side + 1) * side]
            if valid[square].any():
                expected = values[square][valid[square]].mean()
                break
        assert found[0, y, x] == pytest.approx(expected, abs=1e-12)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_chunks_that_a_codec_was_not_made_for() -> None:
    coder = codec("uint16", 2)
    good = textured((2, 9, 9), "uint16")
    for wrong in (good[:1], good[0], good.astype(np.int16), good[:, :0]):
        with pytest.raises(ValueError, match="chunk"):
            coder.compress(wrong, 0, Step(3))
    with pytest.raises(ValueError, match="needs a target"):
        coder.compress(good, 0)
    for target in (Step((1.0,)), MaxError((1.0, 2.0, 3.0)), Psnr((40.0,))):
        with pytest.raises(ValueError, match="needs 2 values"):
            coder.compress(good, 0, target)


def test_what_a_codec_says_of_itself() -> None:
    coder = codec("uint16", 3)
    assert coder.targets
    assert coder.units == 192
    assert coder.code_type == "int32"
    assert coder.description == "192 code units, context network"


# --- damaged payloads ------------------------------------------------------------------------------------------------

SHAPE = (2, 18, 17)


@cache
def real_payloads(dtype: str) -> tuple[bytes, ...]:
    """Of every mode, with and without a mask and a residual."""
    plain = textured(SHAPE, dtype)
    masked = plain.copy()
    masked[:, 4:9, 2:7] = 1
    masked[1, 0, 0] = 1
    unit = UNIT[dtype]
    coder = codec(dtype, 2)
    found = [
        coder.compress(plain, NAN, Step(6 * unit)),
        coder.compress(masked, 1, Step(6 * unit)),
        coder._bounded(_Chunk.of(masked, 1), np.full(2, 4 * unit, np.float32)),
        coder._deflated(_Chunk.of(masked, 1)),
        coder.compress(np.full(SHAPE, 1, dtype), 1, Lossless()),
        coder.compress(np.full(SHAPE, 5, dtype), 1, Lossless()),
    ]
    if dtype != "float32":
        chunk = _Chunk.of(plain, NAN)
        found.append(coder._finish(chunk, *coder._transformed(chunk, np.ones(2, np.float32), exact=True)))
        found.append(coder._predicted(chunk, np.zeros(2, np.float32)))
        found.append(coder._predicted(_Chunk.of(masked, 1), np.ones(2, np.float32)))
        repeated = np.repeat(np.repeat(plain[:, :9, :6] // 7 * 7, 2, 1), 3, 2)[:, :, :17]
        found.append(coder._predicted(_Chunk.of(repeated, NAN), np.zeros(2, np.float32)))
    payloads = tuple(one.payload for one in found if one is not None)
    assert len(payloads) == len(found)
    modes = {unpack(one).mode for one in payloads} - {Mode.PREDICTED}
    assert modes == {Mode.TRANSFORM, Mode.DEFLATED, Mode.EMPTY, Mode.CONSTANT}
    assert any(unpack(one).residual for one in payloads)
    return payloads


def decodes_or_is_refused(coder: TransformCodec, data: bytes, codes: bool) -> None:
    try:
        found = coder.codes(data, SHAPE) if codes else coder.decompress(data, SHAPE)
    except PayloadError as error:
        assert len(str(error)) > 20  # noqa: PT017 - most bytes are damaged, few are not
    else:
        assert found.shape == ((128, 3, 3) if codes else SHAPE)
        assert found.dtype == ("int32" if codes else coder.radiometry.dtype)


@pytest.mark.parametrize("dtype", SCENE_DTYPES)
@settings(max_examples=40, phases=QUICK)
@given(data=st.data())
def test_damaged_payloads_decode_or_are_refused(dtype: str, data: st.DataObject) -> None:
    payload = bytearray(data.draw(st.sampled_from(real_payloads(dtype))))
    start = len(payload) - len(unpack(bytes(payload)).codes) if payload[0] == 2 else 36
    for _ in range(data.draw(st.integers(1, 4))):
        # Most of what can go wrong lies in the headers of the payload and of its code section.
        limit = data.draw(st.sampled_from((start, start + 30, len(payload))))
        place = data.draw(st.integers(0, min(limit, len(payload)) - 1))
        payload[place] = data.draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF)) | st.integers(0, 255))
    end = data.draw(st.sampled_from((len(payload), len(payload), len(payload) - 1, len(payload) // 2)))
    decodes_or_is_refused(codec(dtype, 2), bytes(payload[:end]), data.draw(st.booleans()))


@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    for head in (b"", b"\2\x23\0\2\x12\x11", b"\2\x24\0\2\x12\x11", b"\2\x25\0\2\x12\x11"):
        decodes_or_is_refused(codec("uint16", 2), head + data, codes=False)


def with_codes(payload: bytes, codes: bytes, residual: bytes | None = None) -> bytes:
    """A payload with other sections, and lengths to match."""
    parts = unpack(payload)
    return replace(parts, codes=codes, residual=parts.residual if residual is None else residual).pack()


STEPPED, MASKED, BOUNDED, DEFLATED = range(4)


def section_by_hand(codes: bytes, **other: bytes) -> bytes:
    """The code section of two bands as docs/format.md has it, with some fields replaced."""
    section = transform_section.unpack(codes, SHAPE)
    assert section.window == (0, 0, *SHAPE[1:])
    folded = [int(2 * value if value >= 0 else -2 * value - 1) for value in section.offset]
    assert max(folded) < 1 << 14
    assert section.step[0] == section.step[1]
    kinds, before = [], 0
    for angle in (int(angles[0]) for angles in section.angles):
        kinds.append(0 if not angle else 3 if angle == before else 1 if angle % 128 == 0 else 2)
        before = angle
    parts = {
        "flags": bytes((8 + 16,)),
        "kinds": bytes((kinds[0] | kinds[1] << 2 | kinds[2] << 4,)),
        "window": b"",
        "offsets": b"".join(bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in folded),
        "steps": struct.pack("<f", section.step[0]),
        "angles": b"".join(
            {1: struct.pack("<b", angles[0] // 128), 2: struct.pack("<h", angles[0])}.get(kind, b"")
            for kind, angles in zip(kinds, section.angles, strict=True)
        ),
        "scales": section.low_scales,
        "words": section.words,
    }
    assert set(other) <= set(parts)
    return b"".join((parts | other).values())


def test_a_section_is_as_the_format_says() -> None:
    codes = unpack(real_payloads("uint16")[STEPPED]).codes
    assert section_by_hand(codes) == codes


@pytest.mark.parametrize("angles", [(0, 0, 0), (5, 5, 5), (640, 640, 9), (0, 7, 7), (256, 0, 0), (7, 0, 7)])
def test_angles_that_were_told_are_not_told_again(angles: tuple[int, ...]) -> None:
    codes = unpack(real_payloads("uint16")[STEPPED]).codes
    section = transform_section.unpack(codes, SHAPE)
    section = replace(section, angles=[np.array([angle], np.int16) for angle in angles])
    packed = section.pack(SHAPE)
    assert section_by_hand(packed) == packed
    assert [int(found[0]) for found in transform_section.unpack(packed, SHAPE).angles] == list(angles)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"flags": b"\x38"}, "flags 56"),
        ({"flags": b"\x1a"}, "flags 26"),  # ranks, but not exact
        ({"flags": b"\x19"}, "flags 25"),  # exact, but with a step
        ({"kinds": b"\x03"}, "flags 24 and 3"),
        ({"kinds": b"\x40"}, "flags 24 and 64"),
        ({"flags": b"\x1c", "window": b"\0\0\0\x11"}, "window"),
        ({"flags": b"\x1c", "window": b"\1\0\x12\x11"}, "window"),
        ({"flags": b"\x1c", "window": b"\0" + 4 * b"\x80" + b"\x01\x12\x11"}, "window"),
        ({"flags": b"\x1c", "window": b"\0\0\x80\0\x11"}, "too many bytes"),
        ({"flags": b"\x1c", "window": 9 * b"\xff" + b"\1\0\x12\x11"}, "too many bytes"),
        ({"flags": b"\x08", "offsets": struct.pack("<ff", NAN, 0)}, "offsets"),
        ({"offsets": b"\0" + 4 * b"\x80" + b"\x01"}, "offsets"),
        ({"steps": struct.pack("<f", 0.0)}, "steps"),
        ({"flags": b"\x10", "steps": struct.pack("<ff", 1.0, math.inf)}, "steps"),
        ({"kinds": b"\x2a", "angles": struct.pack("<hhh", 0, 16385, 0)}, "angles of more than half a turn"),
        ({"kinds": b"\x2a", "angles": struct.pack("<hhh", -32768, 0, 0)}, "angles of more than half a turn"),
        ({"scales": b"\0\xc0"}, "A scale has a number below 192, found 192"),
    ],
    ids=str,
)
def test_sections_that_lie(other: dict[str, bytes], message: str) -> None:
    payload = real_payloads("uint16")[STEPPED]
    codes = section_by_hand(unpack(payload).codes, **other)
    with pytest.raises(PayloadError, match=message):
        codec("uint16", 2).decompress(with_codes(payload, codes))


def test_sections_of_the_wrong_length() -> None:
    payload = real_payloads("uint16")[STEPPED]
    codes = unpack(payload).codes
    least = len(codes) - len(transform_section.unpack(codes, SHAPE).words)
    for wrong, message in (
        (codes[: least - 1], f"its fields need {least} at least"),
        (codes[:-1], "words of 4 bytes"),
        (codes + b"\1\0\0\0", "damaged"),
        (codes + bytes(4), "not what a coder leaves"),
    ):
        with pytest.raises(PayloadError, match=message):
            codec("uint16", 2).decompress(with_codes(payload, wrong))


def varint_by_hand(number: int) -> bytes:
    assert number < 1 << 14
    return bytes((number & 127 | 128, number >> 7)) if number > 127 else bytes((number,))


def header_by_hand(dtype: int, flags: int, *numbers: bytes) -> bytes:
    return bytes((2, dtype << 4 | Mode.TRANSFORM, flags)) + b"".join(numbers)


def test_a_header_is_as_the_format_says() -> None:
    """Of 2 bands of 18 × 17 pixels, all of which carry data; and with a mask, a residual and a fill value."""
    for dtype, number in (("uint16", 2), ("float32", 3)):
        for place in (STEPPED, MASKED, BOUNDED):
            payload = real_payloads(dtype)[place]
            parts = unpack(payload)
            masked, bounded = place != STEPPED, place == BOUNDED
            quality = parts.quality
            lengths = [len(parts.codes), *([len(parts.mask)] if masked else []), *([len(parts.residual)] * bounded)]
            expected = header_by_hand(
                number,
                (2 | 4 | 2 << 4 if masked else 1 << 4) | 8 * bounded,
                bytes((2, 18, 17)),
                b"".join(map(varint_by_hand, lengths)),
                struct.pack("<d", 1.0) if masked else b"",
                b"".join(map(varint_by_hand, quality.count.tolist())) if masked else b"",
                b"".join(struct.pack("<d", error)[4:] for error in quality.squared_error),
                b"".join(struct.pack("<d", error) for error in quality.max_error)
                if dtype == "float32"
                else b"".join(varint_by_hand(int(error)) for error in quality.max_error),
            )
            assert payload == expected + parts.mask + parts.codes + parts.residual


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, 0x53, "mode 3, dtype 5"),
        (1, 0x22, "mode 2"),
        (1, 0x26, "mode 6"),
        (2, 0x13, "flags 19"),
        (2, 0x30, "flags 48"),
        (2, 0x90, "flags 144"),
        (3, 0x00, "0 bands"),
        (4, 0x00, "0 × 17 pixels"),
        (4, 0x80, "too many bytes|should have|fields need|bands of|counts|claims"),
        (6, 0xFF, "should have|fields need|claims"),
    ],
)
def test_headers_that_lie(place: int, value: int, message: str) -> None:
    payload = bytearray(real_payloads("uint16")[STEPPED])
    payload[place] = value
    with pytest.raises(PayloadError, match=message):
        unpack(bytes(payload))


def test_bands_that_share_a_mask_share_a_count() -> None:
    original = textured((3, 20, 21), "uint16")
    original[:, 3:9, 4:8] = 1
    payload = codec("uint16", 3).compress(original, 1, Step(120.0)).payload
    parts = unpack(payload)
    assert parts.mask_planes == 1
    assert parts.quality.count.tolist() == [20 * 21 - 24] * 3
    errors = b"".join(varint_by_hand(int(error)) for error in parts.quality.max_error)
    lengths = varint_by_hand(len(parts.codes)) + varint_by_hand(len(parts.mask))
    assert len(payload) == 6 + len(lengths) + 8 + 2 + 4 * 3 + len(errors + parts.mask + parts.codes)


def test_headers_are_written_in_one_way() -> None:
    """Counts of all pixels, and the fill value 0 in eight bytes, are refused; so are errors below 0."""
    payload = codec("uint16", 2).compress(textured(SHAPE, "uint16"), 0, Step(120.0)).payload
    parts = unpack(payload)
    place = 6 + len(varint_by_hand(len(parts.codes)))
    assert payload[2] == 0
    counted = payload[:2] + b"\4" + payload[3:place] + 2 * varint_by_hand(18 * 17) + payload[place:]
    filled = payload[:2] + b"\x20" + payload[3:place] + bytes(8) + payload[place:]
    for wrong in (counted, filled):
        with pytest.raises(PayloadError, match="the one way"):
            unpack(wrong)
    negative = payload[: place + 3] + bytes((payload[place + 3] | 128,)) + payload[place + 4 :]
    with pytest.raises(PayloadError, match="squared errors"):
        unpack(negative)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_an_error_of_minus_zero_is_refused(dtype: str) -> None:
    """It would be another way to write 0, of a PSNR that is not a number."""
    payload = real_payloads(dtype)[DEFLATED]
    parts = unpack(payload)
    assert not parts.quality.squared_error.any()
    sizes = 16 if dtype == "float32" else 2
    end = len(payload) - len(parts.mask + parts.codes) - sizes
    wrong = payload[: end - 1] + b"\x80" + payload[end:]
    with pytest.raises(PayloadError, match="squared errors"):
        unpack(wrong)
    if dtype == "float32":
        largest = payload[: end + sizes - 1] + b"\x80" + payload[end + sizes :]
        with pytest.raises(PayloadError, match="largest errors"):
            unpack(largest)


def test_pixels_of_minus_zero_have_errors_without_a_sign() -> None:
    original = np.full(SHAPE, -0.0, np.float32)
    quality = measure(original, np.zeros_like(original), np.ones(SHAPE, np.bool_), 0)
    assert np.signbit(quality.max_error).all()
    stored = stored_quality(quality)
    assert not np.signbit(stored.max_error).any()
    found = unpack(replace(unpack(real_payloads("float32")[DEFLATED]), quality=stored).pack())
    np.testing.assert_array_equal(found.quality.max_error, [0, 0])


def test_truncated_and_longer_payloads_are_refused() -> None:
    for payload in real_payloads("uint16")[:4]:
        for end in range(len(payload)):
            with pytest.raises(PayloadError, match=r"damaged|truncated"):
                unpack(payload[:end])
        with pytest.raises(PayloadError, match="should have"):
            unpack(payload + b"\0")


@pytest.mark.parametrize("distance", [0.0, -1.0, NAN, math.inf])
def test_residuals_of_distances_that_are_none(distance: float) -> None:
    payload = real_payloads("uint16")[BOUNDED]
    parts = unpack(payload)
    assert parts.residual
    residual = struct.pack("<f", distance) + parts.residual[4:]
    with pytest.raises(PayloadError, match="distances"):
        codec("uint16", 2).decompress(with_codes(payload, parts.codes, residual))
    with pytest.raises(PayloadError, match="distances"):
        codec("uint16", 2).decompress(with_codes(payload, parts.codes, parts.residual[:5]))


@pytest.mark.parametrize("codes", [b"", b"not zlib", zlib.compress(bytes(7)), zlib.compress(bytes(1 << 22))])
def test_pixels_that_do_not_inflate(codes: bytes) -> None:
    payload = real_payloads("uint16")[DEFLATED]
    with pytest.raises(PayloadError, match="pixels"):
        codec("uint16", 2).decompress(with_codes(payload, codes))


def test_payloads_of_other_codecs_are_told() -> None:
    payload = real_payloads("uint16")[STEPPED]
    with pytest.raises(PayloadError, match="the model is for 3 of uint16"):
        codec("uint16", 3).decompress(payload)
    with pytest.raises(PayloadError, match="the model is for 2 of int16"):
        codec("int16", 2).decompress(payload)
    with pytest.raises(PayloadError, match="Expected a chunk of shape"):
        codec("uint16", 2).decompress(payload, (2, 18, 18))
    assert payload[:2] == bytes((2, 2 << 4 | Mode.TRANSFORM))
    with pytest.raises(PayloadError, match="none of these exists in version 1"):
        codec("uint16", 2).decompress(b"\1\3\2" + payload[3:])
    smooth = smooth_pixels((2, 40, 40), "uint16")
    constant = codec("uint16", 2).compress(np.full_like(smooth, 3), 0, Step(1)).payload
    assert constant[:2] == bytes((1, Mode.CONSTANT))
