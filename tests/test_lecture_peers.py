"""The lecture's peers keep to their rates, spend them well, and give back what they were given."""

from __future__ import annotations

import itertools
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

from benchmarks import lecture_peers
from benchmarks.lecture_peers import jpeg, jpeg2000_per_band, squared_error, train_quantisers
from harmonium.errors import UsageError
from harmonium.pipeline import jpeg2000 as jpeg2000_files

from .archives import pixels

if TYPE_CHECKING:
    from benchmarks.lecture_peers import Cells


def cells_of(count: int, values: int = 64) -> Cells:
    """Correlated Gaussian cells."""
    mixed = np.random.default_rng(0).normal(size=(count, values)) * (40 * 0.9 ** np.arange(values))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(values, values)))[0]
    cells: Cells = (128 + mixed @ rotation).astype(np.float32)
    return cells


def test_jpeg_keeps_its_rate_and_gains_from_more() -> None:
    array = pixels((1, 128, 96), "uint8")
    errors = []
    for bits in (0.5, 1.0, 2.0, 4.0):
        decoded, nbytes = jpeg(array, bits)
        assert (decoded.shape, decoded.dtype) == (array.shape, array.dtype)
        assert nbytes <= bits * array.size / 8
        errors.append(squared_error(array, decoded))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_jpeg_refuses_what_it_cannot_code() -> None:
    with pytest.raises(UsageError, match=r"found \(2, 16, 16\) of uint8"):
        jpeg(np.zeros((2, 16, 16), np.uint8), 1.0)
    with pytest.raises(UsageError, match="JPEG takes at least"):
        jpeg(pixels((1, 16, 16), "uint8"), 0.1)


def test_bands_of_unlike_variance_share_the_rate_better_than_equally() -> None:
    noise = np.random.default_rng(0).normal(size=(2, 128, 128)).cumsum(axis=1).cumsum(axis=2)
    array = (10_000 + noise * np.array([[[1.0]], [[50.0]]]) * 3).clip(0, 65535).astype(np.uint16)
    decoded, nbytes = jpeg2000_per_band(array, 1.0)
    equal = [jpeg2000_files.at_bits(band[np.newaxis], 1.0)[0] for band in array]
    assert nbytes <= array.size / 8
    assert squared_error(array, decoded) < squared_error(array, np.concatenate(equal))


def test_rates_are_those_of_an_exhaustive_search() -> None:
    rates = [0.25, 0.5, 1.0, 2.0, 3.0]
    curves = [(rates, [variance * 4.0**-rate for rate in rates]) for variance in (1.0, 30.0, 4.0)]
    found = lecture_peers._least_error_rates(curves, 1.0)
    total = sum(np.interp(rate, *curve) for rate, curve in zip(found, curves, strict=True))
    grid = np.arange(0.25, 2.5 + 1e-9, 1 / 16)
    best = min(
        sum(np.interp(rate, *curve) for rate, curve in zip(chosen, curves, strict=True))
        for chosen in itertools.product(grid, repeat=3)
        if sum(chosen) <= 3
    )
    assert found.sum() <= 3 + 1e-9
    assert total <= best + 1e-9


@pytest.mark.parametrize("bits", [5, 16, 32])
def test_quantisers_have_their_length_and_carry_information(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(lecture_peers, "_KMEANS_BITS", 8)  # 65 536 centroids take half a minute
    cells, held_out = np.split(cells_of(12_000), [11_000])
    found = list(train_quantisers(cells, bits, seed=0))
    assert [kind.name for kind in found] == (["k-means"] if bits == 5 else [*lecture_peers.KINDS][1:])
    for quantiser in found:
        again = pickle.loads(pickle.dumps(quantiser))
        codes = again.encode(held_out)
        assert codes.shape == (len(held_out), -(-bits // 8))
        assert np.array_equal(again.decode(codes), quantiser.decode(quantiser.encode(held_out)))
        assert (
            squared_error(held_out, again.decode(codes)) < 4 ** (-bits / 64) * held_out.var(axis=0).mean()
        )  # as white noise would allow


def test_kmeans_takes_the_nearest_of_its_centroids() -> None:
    pytest.importorskip("faiss")
    cells = cells_of(2_000, values=16)
    (quantiser,) = train_quantisers(cells, 4, seed=0)
    centroids = quantiser.decode(np.arange(16, dtype=np.uint8)[:, np.newaxis])
    nearest = np.square(cells[:, np.newaxis] - centroids).sum(axis=2).argmin(axis=1)
    assert np.mean(quantiser.encode(cells)[:, 0] == nearest) > 0.999  # float32 may turn a tie


def test_pictures_come_back_in_their_type_with_their_bits() -> None:
    pytest.importorskip("faiss")
    array = pixels((1, 64, 64), "uint8")
    (quantiser,) = train_quantisers(cells_of(2_000), 4, seed=0)
    decoded, bits = quantiser.code(array)
    assert (decoded.shape, decoded.dtype, bits) == (array.shape, array.dtype, 64 * 4)


@pytest.mark.parametrize(("bits", "count", "message"), [(0, 100, "found 0"), (20, 100, "found 20"), (8, 100, "256")])
def test_rates_and_cells_that_do_not_fit_are_refused(bits: int, count: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        next(train_quantisers(cells_of(count), bits, seed=0))
