"""The lecture's vector quantisers have their length, and give back what they were given."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")
pytest.importorskip("faiss", reason="faiss is not installed; pip install '.[peers]'")

from benchmarks import lecture_quantisers
from benchmarks.lecture_peers import squared_error
from benchmarks.lecture_quantisers import best_quantiser, train_quantisers
from harmonium.errors import UsageError

from .archives import pixels

if TYPE_CHECKING:
    from benchmarks.lecture_quantisers import Cells


def cells_of(count: int, values: int = 64) -> Cells:
    """Correlated Gaussian cells."""
    mixed = np.random.default_rng(0).normal(size=(count, values)) * (40 * 0.9 ** np.arange(values))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(values, values)))[0]
    cells: Cells = (128 + mixed @ rotation).astype(np.float32)
    return cells


@pytest.mark.parametrize("bits", [5, 16, 32])
def test_quantisers_have_their_length_and_carry_information(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lecture_quantisers, "_KMEANS_BITS", 8)  # 65 536 centroids take half a minute
    cells, held_out = np.split(cells_of(12_000), [11_000])
    found = list(train_quantisers(cells, bits, seed=0))
    assert [kind.name for kind in found] == (["k-means"] if bits == 5 else [*lecture_quantisers.KINDS][1:])
    for quantiser in found:
        again = pickle.loads(pickle.dumps(quantiser))
        codes = again.encode(held_out)
        assert codes.shape == (len(held_out), -(-bits // 8))
        assert np.array_equal(again.decode(codes), quantiser.decode(quantiser.encode(held_out)))
        assert (
            squared_error(held_out, again.decode(codes)) < 4 ** (-bits / 64) * held_out.var(axis=0).mean()
        )  # as white noise would allow


def test_kmeans_takes_the_nearest_of_its_centroids() -> None:
    cells = cells_of(2_000, values=16)
    (quantiser,) = train_quantisers(cells, 4, seed=0)
    centroids = quantiser.decode(np.arange(16, dtype=np.uint8)[:, np.newaxis])
    nearest = np.square(cells[:, np.newaxis] - centroids).sum(axis=2).argmin(axis=1)
    assert np.mean(quantiser.encode(cells)[:, 0] == nearest) > 0.999  # float32 may turn a tie


def test_pictures_come_back_in_their_type_with_their_bits() -> None:
    array = pixels((1, 64, 64), "uint8")
    (quantiser,) = train_quantisers(cells_of(2_000), 4, seed=0)
    decoded, bits = quantiser.code(array)
    assert (decoded.shape, decoded.dtype, bits) == (array.shape, array.dtype, 64 * 4)


@pytest.mark.parametrize(("bits", "count", "message"), [(0, 100, "found 0"), (20, 100, "found 20"), (8, 100, "256")])
def test_rates_and_cells_that_do_not_fit_are_refused(bits: int, count: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        next(train_quantisers(cells_of(count), bits, seed=0))


def test_the_best_is_kept_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cells(count: int, seed: int) -> Cells:
        return cells_of(3000)[:: 1 + seed]

    monkeypatch.setattr(lecture_quantisers, "_cells", cells)
    trained = best_quantiser(32, tmp_path)
    chosen_on = cells(0, 1)
    errors = {
        kind.name: squared_error(chosen_on, kind.decode(kind.encode(chosen_on)))
        for kind in train_quantisers(cells(0, 0), 32, seed=0)
    }
    assert trained.name == min(errors, key=errors.__getitem__)
    monkeypatch.delattr(lecture_quantisers, "_cells")  # what is kept is not trained again
    again = best_quantiser(32, tmp_path)
    assert again.name == trained.name
    assert np.array_equal(again.encode(chosen_on), trained.encode(chosen_on))
