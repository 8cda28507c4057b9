"""The archive's peers: a transform that decorrelates, rate shared out as well as can be, bounds that hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed; pip install '.[peers]'")
pytest.importorskip("av", reason="av is not installed; pip install '.[peers]'")

from benchmarks import plane_codecs
from benchmarks.archive_peers import (
    Coding,
    Point,
    bands_themselves,
    codings,
    curve,
    decode,
    karhunen_loeve,
    lossy_peers,
    share_out,
)
from benchmarks.archive_scenes import Scene, masked
from benchmarks.bd_rate import bd_rate
from benchmarks.bounded_peers import BoundedPeer, bounded_curve, bounded_peers, from_levels, to_levels
from benchmarks.common import Skipped
from benchmarks.lecture_peers import jpeg2000_per_band, squared_error
from harmonium.errors import UsageError

LOSSY = {peer.name: peer for peer in lossy_peers()}
CODECS = {
    "jpeg2000": plane_codecs.jpeg2000,
    "jpeg_xl": plane_codecs.jpeg_xl,
    "hevc": plane_codecs.hevc,
    "avif": plane_codecs.avif,
}


def rough(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float64]:
    """Noise whose spectrum falls as that of pictures does, variance 1."""
    height, width = shape[-2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 1 / max(height, width)
    noise = np.fft.rfft2(np.random.default_rng(seed).normal(size=shape)) / frequency**1.3
    smooth = np.fft.irfft2(noise, s=(height, width))
    result: NDArray[np.float64] = smooth / smooth.std()
    return result


def scene(size: int = 64, dtype: str = "uint16", nodata: float | None = None) -> Scene:
    """Three bands that mix two pictures."""
    mixture = np.array([[1.0, 0.2], [0.9, -0.3], [0.5, 0.8]])
    bands = np.tensordot(mixture, rough((2, size, size + 3)), axes=1)
    bands += 0.002 * np.random.default_rng(1).normal(size=bands.shape)
    limits = np.iinfo(dtype)
    scale, offset = (30, 128) if dtype == "uint8" else (900, 3000)
    values = np.clip(np.rint(bands * scale + offset), limits.min, limits.max).astype(dtype)
    if nodata is not None:
        values[:, : size // 4] = nodata
    return masked("mixture", values, nodata)


def rates(points: list[Point]) -> list[tuple[float, float]]:
    return [(found.bits, found.psnr) for found in points]


# --- transform -----------------------------------------------------------------------------------------------------


def test_components_are_orthonormal_and_uncorrelated() -> None:
    given_scene = scene()
    transform = karhunen_loeve(given_scene)
    assert transform.matrix @ transform.matrix.T == pytest.approx(np.eye(3), abs=1e-6)
    covariance = np.cov(transform.forward(given_scene.pixels).reshape(3, -1))
    variances = np.linalg.eigvalsh(np.cov(given_scene.pixels.reshape(3, -1)))[::-1]
    assert covariance == pytest.approx(np.diag(variances), rel=1e-4, abs=1e-5 * variances[0])
    back = transform.backward(transform.forward(given_scene.pixels))
    assert back == pytest.approx(given_scene.pixels, abs=0.01)
    assert transform.nbytes == 4 * (3 * 3 + 3)
    assert bands_themselves(given_scene).nbytes == 0


def test_components_are_those_of_observed_pixels() -> None:
    whole, cut = scene(), scene(nodata=65535)
    expected = karhunen_loeve(
        Scene(name="rest", pixels=whole.pixels[:, 16:], valid=whole.valid[:, 16:], peak=whole.peak)
    )
    found = karhunen_loeve(cut)
    assert np.array_equal(found.mean, expected.mean)
    assert np.array_equal(found.matrix, expected.matrix)


# --- planes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
def test_bytes_rise_and_errors_fall_with_the_knob(name: str) -> None:
    codec = CODECS[name]()
    top = 2**codec.depth - 1
    picture = rough((45, 67))
    plane = np.rint((picture - picture.min()) / np.ptp(picture) * top).astype(np.uint16)
    sizes, errors = [], []
    for knob in codec.knobs[4::6]:
        data = codec.encode(plane, knob)
        decoded = codec.decode(data)
        assert (decoded.shape, decoded.dtype) == (plane.shape, plane.dtype)
        sizes.append(len(data))
        errors.append(squared_error(plane, decoded))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    finest = codec.decode(codec.encode(plane, codec.knobs[-1]))
    assert squared_error(plane, finest) < (top / 1000) ** 2
    assert errors[0] > 100 * squared_error(plane, finest)


@pytest.mark.parametrize("name", CODECS)
def test_codings_have_the_error_that_they_state(name: str) -> None:
    codec = CODECS[name]()
    plane = 300 * rough((40, 41)) - 50
    counts = np.random.default_rng(0).random(plane.shape) < 0.8
    found = list(codings(plane, counts, codec, loosest=1000, tightest=10))
    for coding in found:
        error = np.square(decode(coding, codec, plane.shape) - plane)[counts].sum()
        assert coding.error == pytest.approx(error)
        assert coding.nbytes == 8 + len(coding.data)
    assert found[0].error == pytest.approx(plane[counts].var() * counts.sum(), rel=1e-6)
    assert found[-1].error <= 10 * counts.sum() < found[-2].error


def test_a_constant_plane_takes_its_value_alone() -> None:
    (coding,) = codings(np.full((32, 32), 7.0), np.ones((32, 32), np.bool_), plane_codecs.jpeg2000(), 100, 1)
    assert (coding.nbytes, coding.error) == (8, 0)


offers = st.lists(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 50)), min_size=1, max_size=4), min_size=1, max_size=3
)


@given(offers=offers, error=st.integers(0, 100))
def test_no_other_choice_has_less_error_in_as_few_bytes(offers: list[list[tuple[int, int]]], error: int) -> None:
    zero = np.float32(0)
    made = [[Coding(low=zero, step=zero, data=bytes(size), error=lost) for size, lost in offer] for offer in offers]

    def cost(choice: tuple[Coding, ...]) -> tuple[int, float]:
        return sum(coding.nbytes for coding in choice), sum(coding.error for coding in choice)

    every = [cost(choice) for choice in itertools.product(*made)]
    chosen = share_out(made, error)
    if chosen is None:
        assert all(lost > error for _, lost in every)
        return
    size, lost = cost(chosen)
    assert lost <= error
    assert not any(other <= size and less <= lost and (other, less) != (size, lost) for other, less in every)


# --- curves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in LOSSY if "effort 9" not in name])
@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_points_rise_and_reach_their_targets(name: str, dtype: str) -> None:
    targets = (40.0, 46.0, 52.0)
    found = curve(scene(dtype=dtype, nodata=-1 if dtype == "int16" else None), LOSSY[name], targets)
    assert len(found) == len(targets)
    for one, target in zip(found, targets, strict=True):
        assert target - 0.2 < one.psnr < target + 4
    for one, next_ in itertools.pairwise(found):
        assert one.nbytes < next_.nbytes
        assert one.psnr < next_.psnr


def test_components_take_fewer_bits_where_bands_mix() -> None:
    given_scene = scene(128)
    anchor, test = (curve(given_scene, LOSSY[name]) for name in ("JPEG 2000 per band", "KLT + JPEG 2000"))
    assert bd_rate(rates(anchor), rates(test), 38, 56).percent < -10


def test_the_anchor_is_no_worse_than_rates_shared_out_beforehand() -> None:
    given_scene = scene(96)
    ours = rates(curve(given_scene, LOSSY["JPEG 2000 per band"]))
    theirs = []
    for bits in (1.0, 2.0, 3.0):
        decoded, nbytes = jpeg2000_per_band(given_scene.pixels, bits)
        psnr = 10 * np.log10(1e8 / squared_error(given_scene.pixels, decoded))
        theirs.append((8 * nbytes / given_scene.pixels.size, float(psnr)))
    assert -15 < bd_rate(theirs, ours).percent < 1


def test_what_was_not_observed_does_not_count() -> None:
    cut = scene(nodata=65535)
    assert (cut.pixels[0, :16] == round(float(cut.pixels[0, 16:].mean()))).all()
    pixels = cut.pixels.copy()
    pixels[:, :16] += 5000  # whatever stands there
    (one,) = curve(cut, LOSSY["JPEG 2000 per band"], [46.0])
    assert one.bits == 8 * one.nbytes / cut.valid.sum()
    wrong = Scene(name="wrong", pixels=pixels, valid=cut.valid, peak=cut.peak)
    (other,) = curve(wrong, LOSSY["JPEG 2000 per band"], [46.0])
    assert other.psnr == pytest.approx(46, abs=2)


def test_a_codec_that_is_not_here_says_so() -> None:
    with pytest.raises(Skipped, match="no_such_codec is not installed"):
        plane_codecs.package("no_such_codec")


def test_scenes_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(UsageError, match="float32"):
        masked("float", np.zeros((1, 4, 4), np.float32), None)
    with pytest.raises(UsageError, match="valid pixel in each band"):
        masked("empty", np.zeros((1, 4, 4), np.uint8), 0)


# --- bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", bounded_peers(), ids=lambda peer: peer.name)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_bounds_are_kept(peer: BoundedPeer, dtype: str) -> None:
    given_scene = scene(48, dtype)
    found = bounded_curve(given_scene, peer, (0, 1, 4, 16))
    assert found[0].max_error == 0
    assert found[0].psnr == float("inf")
    sizes = [one.nbytes for one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] < given_scene.pixels.nbytes + 3000
    for one, bound in zip(found, (0, 1, 4, 16), strict=True):
        assert one.max_error <= bound


def test_one_band_is_kept_within_bounds_too() -> None:
    whole = scene(48)
    one = Scene(name="one", pixels=whole.pixels[:1], valid=whole.valid[:1], peak=whole.peak)
    for peer in bounded_peers():
        assert bounded_curve(one, peer, [2])[0].max_error <= 2


def test_a_bound_that_is_not_kept_is_an_error() -> None:
    careless = BoundedPeer(name="careless", code=lambda pixels, bound: (pixels + np.uint16(bound + 1), 1))
    with pytest.raises(RuntimeError, match="careless was to keep 2 DN on mixture, found 3 DN"):
        bounded_curve(scene(16), careless, [2])


@given(
    values=st.lists(st.integers(-32768, 32767), min_size=1, max_size=20),
    bound=st.integers(0, 100),
)
def test_levels_are_the_fewest_that_keep_the_bound(values: list[int], bound: int) -> None:
    pixels = np.array(values, np.int16).reshape(1, 1, -1)
    levels, nbytes = to_levels(pixels, bound)
    assert np.abs(from_levels(levels, pixels, bound).astype(int) - pixels).max() <= bound
    assert levels.max() == -(-(max(values) - min(values) - bound) // (2 * bound + 1)) or levels.max() == 0
    assert nbytes == 1 + 2
