from __future__ import annotations

import math
import pickle
import struct
import zlib
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models.codec import Codec
from harmonium.models.payload import Mode, unpack
from harmonium.models.quality import Quality

from .strategies import SCENE_DTYPES, pixels
from .tiny_models import by_hand, fitted_codec, smooth_pixels

SHAPES = [(2, 1, 1), (2, 7, 9), (2, 8, 8), (2, 513, 3), (2, 24, 40)]


def check(codec: Codec, original: NDArray[Any], fill: float) -> Quality:
    """Encode, and hold the result against what is promised and against numpy."""
    before = original.copy()
    encoded = codec.compress(original, fill)
    decoded = codec.decompress(encoded.payload, original.shape)
    np.testing.assert_array_equal(original, before)
    assert decoded.dtype == original.dtype
    np.testing.assert_array_equal(decoded, encoded.decoded)
    # What is beyond the type marks nothing.
    native = original.dtype.type(math.nan if abs(fill) > 3.5e38 else fill)
    special = ~np.isfinite(original) | (original == native)
    np.testing.assert_array_equal(decoded[special], original[special])
    assert np.isfinite(decoded[~special]).all()
    assert not (decoded[~special] == native).any()
    quality = encoded.quality
    error = np.where(special, 0, np.nan_to_num(original.astype(np.float64)) - np.nan_to_num(decoded.astype(np.float64)))
    np.testing.assert_array_equal(quality.count, (~special).sum(axis=(1, 2)))
    np.testing.assert_allclose(quality.squared_error, (error**2).sum(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_array_equal(quality.max_error, np.abs(error).max(axis=(1, 2)))
    assert quality.nbytes == len(encoded.payload)
    stored = unpack(encoded.payload).quality
    for name in ("nbytes", "count", "squared_error", "max_error"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(quality, name))
    return quality


def fills(dtype: str) -> list[float]:
    if dtype == "float32":
        return [math.nan, 0.0, -9999.0, float(np.finfo(np.float32).max), float(np.finfo(np.float32).min), math.inf]
    info = np.iinfo(dtype)
    return [0, info.max, info.min, 1, -9999 if info.min < 0 else 9999 % (info.max + 1)]


@st.composite
def chunks(draw: st.DrawFn, dtype: str) -> tuple[NDArray[Any], float]:
    """A chunk of 2 bands, wild or smooth, and a fill value that some of its pixels have."""
    shape = draw(
        st.sampled_from(SHAPES[:3] + SHAPES[4:]) | st.tuples(st.just(2), st.integers(1, 30), st.integers(1, 30))
    )
    wild = draw(st.booleans())
    values = draw(pixels(shape=shape, dtype=np.dtype(dtype))) if wild else smooth_pixels(shape, dtype)
    fill = draw(st.sampled_from(fills(dtype)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    plane = rng.random(shape[1:]) < draw(st.sampled_from((0.0, 0.1, 0.9, 1.0)))
    mask = np.broadcast_to(plane, shape) if draw(st.booleans()) else rng.random(shape) < 0.3
    values[mask] = fill
    return values, fill


@pytest.mark.parametrize("dtype", SCENE_DTYPES)
@given(data=st.data())
def test_chunks_come_back_as_promised(dtype: str, data: st.DataObject) -> None:
    original, fill = data.draw(chunks(dtype))
    check(by_hand(2, dtype), original, fill)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("preset", "dtype"), [*(("real-rbm", dtype) for dtype in SCENE_DTYPES), ("binary-rbm", "uint8")]
)
def test_fitted_codecs_keep_their_promises(preset: str, dtype: str, shape: tuple[int, int, int]) -> None:
    original = smooth_pixels(shape, dtype)
    fill = fills(dtype)[0]
    original[:, -1, :2] = fill
    check(fitted_codec(preset, dtype, 2), original, fill)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    "values", [(1e38, -1e38), (3.4e38, 3.3e38), (1e-45, 2e-40), (math.inf, 1.0), (math.nan, -math.inf), (1e38, 0.0)]
)
@pytest.mark.parametrize("fill", [math.nan, 0.0, 1e300])
def test_floats_at_the_ends_of_their_range(fitted: bool, values: tuple[float, float], fill: float) -> None:
    codec = fitted_codec("real-rbm", "float32", 2) if fitted else by_hand(2, "float32")
    original = np.full((2, 9, 11), 0.25, np.float32)
    original[0, ::2, ::3] = values[0]
    original[1, 1::2, :5] = values[1]
    check(codec, original, fill)


@pytest.mark.parametrize("fill", [-9999.0, 300.0, 0.5, math.nan, math.inf])
def test_a_fill_value_that_the_type_cannot_hold_marks_nothing(fill: float) -> None:
    original = smooth_pixels((2, 16, 16), "uint8")
    original[:, :3] = [[[0]], [[241]]]  # 241 is what -9999 becomes modulo 256
    encoded = by_hand(2, "uint8").compress(original, fill)
    assert unpack(encoded.payload).mask_planes == 0
    assert encoded.quality.count.tolist() == [256, 256]


@pytest.mark.parametrize(
    ("band_values", "mode"),
    [((7, 7), Mode.CONSTANT), ((7, 9), Mode.CONSTANT), ((0, 0), Mode.EMPTY), ((0, 5), Mode.CONSTANT)],
)
def test_chunks_without_texture_are_exact_and_small(band_values: tuple[int, int], mode: Mode) -> None:
    original = np.broadcast_to(np.array(band_values, np.uint16)[:, None, None], (2, 300, 200)).copy()
    encoded = by_hand().compress(original, 0)
    assert unpack(encoded.payload).mode is mode
    np.testing.assert_array_equal(encoded.decoded, original)
    assert len(encoded.payload) < 250
    assert not by_hand().codes(encoded.payload).any()


def test_read_only_and_strided_chunks_are_left_alone() -> None:
    codec = by_hand(2, "float32")
    original = np.moveaxis(smooth_pixels((2, 20, 30), "float32"), 1, 2)[:, ::2]
    original.flags.writeable = False
    payload = check(codec, original, math.nan)
    assert payload.nbytes > 0


def test_codes_are_the_transforms() -> None:
    original = (2048 + 64 * (np.arange(2 * 16 * 24) % 19 - 9)).reshape(2, 16, 24).astype(np.uint16)
    codes = by_hand().codes(by_hand().compress(original, 0).payload)
    # Unit 4 b + j is pixel 16 j of band b in a cell: row 2 j, column 0; in quarters of 256 DN, from -32 on.
    picked = original.reshape(2, 2, 4, 2, 3, 8)[:, :, :, 0, :, 0].transpose(0, 2, 1, 3).reshape(8, 2, 3)
    np.testing.assert_array_equal(codes, (picked.astype(int) - 2048) // 64 + 32)


def test_qualities_of_parts_merge_to_that_of_the_whole() -> None:
    codec = by_hand()
    original = smooth_pixels((2, 64, 96), "uint16")
    original[0, :20, :50] = 0
    whole = codec.compress(original, 0).quality
    parts = [
        codec.compress(original[:, y : y + 16, x : x + 32], 0).quality for y in range(0, 64, 16) for x in (0, 32, 64)
    ]
    for order in (parts, parts[::-1]):
        merged = reduce(Quality.merge, order)
        np.testing.assert_array_equal(merged.count, whole.count)
        np.testing.assert_array_equal(merged.squared_error, whole.squared_error)
        np.testing.assert_array_equal(merged.max_error, whole.max_error)
        assert merged.nbytes == sum(part.nbytes for part in parts)
        assert merged.bits_per_pixel == 8 * merged.nbytes / (2 * 64 * 96 - 1000)


def test_quality_in_decibels() -> None:
    quality = Quality(
        nbytes=10,
        count=np.array([4, 1, 0]),
        squared_error=np.array([36.0, 0.0, 0.0]),
        max_error=np.array([5.0, 0.0, 0.0]),
    )
    np.testing.assert_array_equal(quality.mse, [9.0, 0.0, np.nan])
    np.testing.assert_allclose(quality.psnr(300.0), [40.0, np.inf, np.nan])
    assert quality.bits_per_pixel == 16.0


def test_a_codec_travels_to_another_process() -> None:
    original = smooth_pixels((2, 20, 20), "uint16")
    payload = by_hand().compress(original, 0).payload
    assert pickle.loads(pickle.dumps(by_hand())).compress(original, 0).payload == payload


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros((3, 8, 8), np.uint16), r"2 bands of uint16, got shape \(3, 8, 8\) of uint16"),
        (np.zeros((2, 8, 8), np.int16), "of int16"),
        (np.zeros((2, 8), np.uint16), r"got shape \(2, 8\)"),
        (np.zeros((2, 0, 8), np.uint16), "1 to 268435456 values"),
        (np.broadcast_to(np.uint16(0), (2, 1 << 15, 1 << 15)), "choose other chunks"),
    ],
)
def test_chunks_that_do_not_fit(chunk: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_hand().compress(chunk, 0)


def test_parts_that_do_not_fit_one_another() -> None:
    one, two = by_hand(1), by_hand(2)
    with pytest.raises(ValueError, match="Transform of 1 bands does not fit a radiometry of 2"):
        Codec(radiometry=two.radiometry, transform=one.transform, prior=one.prior)
    with pytest.raises(ValueError, match="numbers of states differ"):
        Codec(radiometry=one.radiometry, transform=one.transform, prior=two.prior)


# --- damaged payloads ------------------------------------------------------------------------------------------------


def real_payloads(dtype: str) -> list[bytes]:
    masked = smooth_pixels((2, 17, 12), dtype)
    masked[:, 3:9, 2:5] = 1
    masked[1, 0, 0] = 1
    chunks = [smooth_pixels((2, 17, 12), dtype), masked, np.full((2, 17, 12), 1, dtype), np.full((2, 17, 12), 5, dtype)]
    return [by_hand(2, dtype).compress(chunk, 1).payload for chunk in chunks]


def decodes_or_is_refused(codec: Codec, data: bytes) -> None:
    try:
        found = codec.decompress(data, (2, 17, 12))
    except PayloadError as error:
        assert len(str(error)) > 20  # noqa: PT017 - most bytes are damaged, few are not
    else:
        assert found.shape == (2, 17, 12)
        assert found.dtype == codec.radiometry.dtype
    try:
        codes = codec.codes(data, (2, 17, 12))
    except PayloadError:
        return
    assert codes.shape == (8, 3, 2)


@given(data=st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    for head in (b"", b"\1", b"\1\2\2\0\2\0\0\0"):
        decodes_or_is_refused(by_hand(), head + data)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@given(data=st.data())
def test_damaged_payloads_decode_or_are_refused(dtype: str, data: st.DataObject) -> None:
    payload = bytearray(data.draw(st.sampled_from(real_payloads(dtype))))
    for _ in range(data.draw(st.integers(1, 4))):
        # Most of what can go wrong lies in the header.
        limit = data.draw(st.sampled_from((36, len(payload)))) - 1
        payload[data.draw(st.integers(0, limit))] = data.draw(st.integers(0, 255))
    end = data.draw(st.sampled_from((len(payload), len(payload) - 1, len(payload) // 2)))
    decodes_or_is_refused(by_hand(2, dtype), bytes(payload[:end]))


def with_header(payload: bytes, **changes: float) -> bytes:
    names = ["version", "mode", "dtype", "planes", "bands", "reserved", "height", "width"]
    names += ["n_mask", "n_codes", "n_residual", "fill"]
    layout = struct.Struct("<BBBBHHIIIIId")
    fields: dict[str, float] = dict(zip(names, layout.unpack_from(payload), strict=True))
    return layout.pack(*{**fields, **changes}.values()) + payload[layout.size :]


PLAIN, MASKED, EMPTY, CONSTANT = range(4)


@pytest.mark.parametrize(
    ("which", "changes", "message"),
    [
        (PLAIN, {"version": 3}, "Payload version 3; this harmonium reads versions 1 to 2: upgrade it"),
        (PLAIN, {"mode": 3}, "claims mode 3"),
        (PLAIN, {"dtype": 4}, "dtype 4"),
        (PLAIN, {"n_residual": 4}, "residual of 4 bytes"),
        (PLAIN, {"reserved": 1}, "reserved 1"),
        (PLAIN, {"bands": 0}, "claims 0 bands"),
        (PLAIN, {"height": 1 << 31, "width": 1 << 31}, "claims 2 bands of 2147483648"),
        (PLAIN, {"height": 4096, "width": 4096}, r"Expected a chunk of shape \(2, 17, 12\).*\(2, 4096, 4096\)"),
        (PLAIN, {"n_codes": 1 << 31}, "Payload should have 21474"),
        (PLAIN, {"planes": 1}, "Payload should have"),
        (PLAIN, {"dtype": 0}, "2 bands of uint8, the model is for 2 of int16"),
        (PLAIN, {"mode": 1}, "mode CONSTANT has 16 bytes of codes"),
        (CONSTANT, {"mode": 0}, "mode EMPTY has 0 bytes of codes, found 16"),
        (CONSTANT, {"mode": 2}, "code section"),
        (MASKED, {"fill": math.nan}, "marks pixels of the fill value, but nan is not a int16"),
        (MASKED, {"fill": 1e6}, "1000000.0 is not a int16"),
        (EMPTY, {"fill": 0.5}, "0.5 is not a int16"),
        (MASKED, {"planes": 1}, "mask section should hold 204 pixels"),
    ],
)
def test_headers_that_lie(which: int, changes: dict[str, float], message: str) -> None:
    payload = with_header(real_payloads("int16")[which], **changes)
    with pytest.raises(PayloadError, match=message):
        by_hand(2, "int16").decompress(payload, (2, 17, 12))


def replace_mask(payload: bytes, mask: bytes) -> bytes:
    parts = unpack(payload)
    start = 36 + 20 * parts.shape[0]
    return with_header(payload[:start] + mask + parts.codes, n_mask=len(mask))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (b"not zlib", "cannot be inflated"),
        (zlib.compress(bytes(407)), "should hold 408 pixels"),
        (zlib.compress(bytes(1 << 24)), "should hold 408 pixels"),
        (zlib.compress(bytes(408))[:-4], "should hold 408 pixels"),
        (zlib.compress(bytes(408)) + b"more", "should hold 408 pixels"),
        (zlib.compress(b"\2" * 408), "holds class 2, which does not exist"),
    ],
)
def test_masks_that_are_none(mask: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        by_hand(2, "int16").decompress(replace_mask(real_payloads("int16")[MASKED], mask))


@pytest.mark.parametrize("value", [math.nan, 1e9, 0.5])
def test_constants_of_another_type(value: float) -> None:
    payload = real_payloads("int16")[CONSTANT]
    with pytest.raises(PayloadError, match="are not int16 values"):
        by_hand(2, "int16").decompress(payload[:-8] + struct.pack("<d", value))


def test_an_empty_chunk_needs_a_mask() -> None:
    payload = replace_mask(real_payloads("int16")[EMPTY], zlib.compress(bytes(408)))
    with pytest.raises(PayloadError, match="mask of all its pixels"):
        by_hand(2, "int16").decompress(with_header(payload, planes=2))


# --- golden bytes: a change of these is a new version of the format --------------------------------------------------


def golden_pixels() -> NDArray[np.uint16]:
    y, x = np.mgrid[0:9, 0:10]
    return np.stack([1024 + 37 * y * x, 3000 - 100 * y + 64 * (x % 3)]).astype(np.uint16)


def golden_chunks() -> dict[str, NDArray[np.uint16]]:
    y, x = np.mgrid[0:9, 0:10]
    plain = golden_pixels()
    bands_differ = plain.copy()
    bands_differ[1, 2:, :3] = 0
    return {
        "plain": plain,
        "masked": np.where((x > 6) & (y < 4), 0, plain).astype(np.uint16),
        "bands_differ": bands_differ,
        "constant": np.broadcast_to(np.array([7, 65535], np.uint16)[:, None, None], (2, 9, 10)).copy(),
        "empty": np.zeros((2, 9, 10), np.uint16),
    }


GOLDEN = {
    "plain": (
        "0102020002000000090000000a000000000000001c0000000000000000000000000000005a000000000000e0094e834100000000"
        "0030a0405a0000000000000000d828410000000000407040baee99d099f0791318412e0121182ff59a57c87b79c22e6a621c0100"
    ),
    "masked": (
        "0102020102000000090000000a000000130000001c0000000000000000000000000000004e000000000000006ca0824100000000"
        "0030a0404e00000000000000c00b23410000000000407040789c63600003464646066258240000037e000dbaee99d0bf99799019"
        "a82eb728d32d231c23c8a5f1cb2da66ec30000"
    ),
    "bands_differ": (
        "0102020202000000090000000a000000110000001c0000000000000000000000000000005a000000000000e0094e834100000000"
        "0030a0404500000000000000b83340410000000000407c40789c6360a027606464a4020b0003e70016ec34999b9b0078125e512e"
        "fa78962e1fdb75c661d58e2d6456000100"
    ),
    "constant": (
        "0101020002000000090000000a00000000000000100000000000000000000000000000005a000000000000000000000000000000"
        "000000005a000000000000000000000000000000000000000000000000001c4000000000e0ffef40"
    ),
    "empty": (
        "0100020102000000090000000a0000000c0000000000000000000000000000000000000000000000000000000000000000000000"
        "000000000000000000000000000000000000000000000000789c6364a41500001059005b"
    ),
}


@pytest.mark.parametrize("name", ["plain", "constant"])
def test_golden_payloads_are_written(name: str) -> None:
    """Those without a mask: the bytes that zlib makes of one are not the same in all of its versions."""
    assert by_hand().compress(golden_chunks()[name], 0).payload.hex() == GOLDEN[name]


@pytest.mark.parametrize("name", list(GOLDEN))
def test_golden_payloads_are_read(name: str) -> None:
    original = golden_chunks()[name]
    decoded = by_hand().decompress(bytes.fromhex(GOLDEN[name]), (2, 9, 10))
    # By hand: the upper left pixel of every 16, two rows of a cell, in steps of 64 DN from 2048.
    picked = np.zeros((2, 9, 10), np.int64)
    for y in range(9):
        for x in range(10):
            picked[:, y, x] = golden_pixels()[:, y // 2 * 2, x // 8 * 8]
    steps = np.clip(np.rint((picked - 2048) / 64), -32, 31)
    expected = original if name in ("constant", "empty") else np.where(original == 0, 0, 2048 + 64 * steps)
    if name in ("masked", "bands_differ"):
        # Masked pixels that were picked are replaced by their cell's mean before encoding; the others are as above.
        mask = (original == 0).any(axis=0)
        np.testing.assert_array_equal(decoded[original == 0], 0)
        untouched = ~np.array([[mask[y // 2 * 2, x // 8 * 8] for x in range(10)] for y in range(9)])
        np.testing.assert_array_equal(decoded[:, untouched], expected[:, untouched])
    else:
        np.testing.assert_array_equal(decoded, expected)


def test_cells_without_data_cost_no_code() -> None:
    codec = fitted_codec("binary-rbm", "uint8", 2)
    pixels = smooth_pixels((2, 64, 64), "uint8")
    pixels[:, 16:] = 0  # two rows of eight cells stay, in both bands
    pixels[0, 40, 40] = 9  # and one cell that one band alone fills
    payload = unpack(codec.compress(pixels, 0).payload)
    bits = sum((states - 1).bit_length() for states in codec.transform.states)
    assert len(payload.codes) == -(-bits * 17 // 8)
    codes = codec.codes(payload.pack())
    assert not codes[:, 2:5].any()
    assert codes[:, :2].any()
