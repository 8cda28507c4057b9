"""Distances of codes against loops over every unit and cell; on a real scene, near codes are near in pixels."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from harmonium.models.code_distance import hamming, nearest, states_apart

from . import tiny_models

pytestmark = pytest.mark.usefixtures("one_thread")


def random_codes(seed: int, shape: tuple[int, int, int], states: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(states, size=shape, dtype=np.int32)


shapes = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6))


@given(seed=st.integers(0, 1 << 32), shape=shapes, states=st.sampled_from([2, 3, 40]))
def test_distances_are_those_of_loops(seed: int, shape: tuple[int, int, int], states: int) -> None:
    codes = random_codes(seed, shape, states)
    query = codes[:, -1, 0]
    differing, apart = hamming(codes, query), states_apart(codes, query)
    assert differing.shape == apart.shape == shape[1:]
    for y, x in itertools.product(range(shape[1]), range(shape[2])):
        pairs = [(int(codes[unit, y, x]), int(query[unit])) for unit in range(shape[0])]
        assert differing[y, x] == sum(a != b for a, b in pairs)
        assert apart[y, x] == sum(abs(a - b) for a, b in pairs)
    if states == 2:
        np.testing.assert_array_equal(differing, apart)


def test_unsigned_codes_do_not_wrap_around() -> None:
    codes = np.array([0, 255], np.uint8).reshape(1, 1, 2)
    assert states_apart(codes, codes[:, 0, 1]).tolist() == [[255, 0]]


def test_codes_may_be_lazy() -> None:
    codes = random_codes(0, (5, 4, 6), 2)
    lazy = xr.DataArray(codes, dims=("unit", "cell_y", "cell_x")).chunk(cell_y=2)
    np.testing.assert_array_equal(hamming(lazy, lazy[:, 1, 2]), hamming(codes, codes[:, 1, 2]))


@given(
    seed=st.integers(0, 1 << 32),
    shape=shapes,
    count=st.integers(1, 40),
    drawn=st.booleans(),
    measure=st.sampled_from([hamming, states_apart]),
)
def test_no_cell_is_nearer_than_those_found(
    seed: int, shape: tuple[int, int, int], count: int, drawn: bool, measure: Any
) -> None:
    codes = random_codes(seed, shape, 3)
    among = random_codes(seed + 1, shape, 2)[0].astype(bool)
    generator = np.random.default_rng(seed) if drawn else None
    found = nearest(codes, codes[:, 0, 0], count, distance=measure, among=among, generator=generator)
    distances = measure(codes, codes[:, 0, 0])
    assert found.distances.tolist() == sorted(distances[among].tolist())[:count]
    np.testing.assert_array_equal(distances[found.rows, found.columns], found.distances)
    assert among[found.rows, found.columns].all()
    cells = list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    assert len(set(cells)) == len(cells)
    if not drawn:
        assert cells == [cell for _, cell in sorted(zip(found.distances.tolist(), cells, strict=True))]


def test_equals_come_row_by_row_or_are_drawn() -> None:
    codes = np.zeros((3, 4, 5), np.int32)
    codes[:, 0, 0] = 1
    first = nearest(codes, np.zeros(3, np.int32), 3)
    assert list(zip(first.rows, first.columns, strict=True)) == [(0, 1), (0, 2), (0, 3)]
    counts = np.zeros((4, 5))
    generator = np.random.default_rng(0)
    for _ in range(1900):
        found = nearest(codes, np.zeros(3, np.int32), 3, generator=generator)
        counts[found.rows, found.columns] += 1
    # Each of 19 equal cells is drawn with the chance 3/19: 300 times, 16 of deviation.
    assert counts[0, 0] == 0
    assert np.abs(counts.reshape(-1)[1:] - 300).max() < 5 * 16


def test_what_does_not_fit_is_refused() -> None:
    codes = random_codes(0, (4, 3, 2), 2)
    with pytest.raises(ValueError, match=r"got shapes \(4, 3, 2\) and \(3,\); a cell's code is codes"):
        hamming(codes, codes[:3, 0, 0])
    with pytest.raises(ValueError, match="codes of integers, got float32"):
        states_apart(codes.astype(np.float32), codes[:, 0, 0])
    with pytest.raises(ValueError, match="count=0"):
        nearest(codes, codes[:, 0, 0], 0)
    with pytest.raises(ValueError, match=r"array \(3, 2\), as the codes', got \(2, 3\)"):
        nearest(codes, codes[:, 0, 0], 1, among=np.ones((2, 3), np.bool_))


@pytest.mark.slow
def test_cells_of_near_codes_are_alike_on_a_real_scene(shared_data: Path) -> None:
    """A machine of 16 bits, hardly trained: what is near by its code is near in pixels, unlike random cells."""
    file = shared_data / "sentinel-2-l1c" / "t33uub" / "t33uub_10m.tif"
    if not file.is_file():
        pytest.skip(f"the development data have no {file.name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(file) as source:
            pixels = source.read([4], window=((0, 512), (0, 512)))
    rows, columns = (side // 8 for side in pixels.shape[1:])
    cells = pixels[0].reshape(rows, 8, columns, 8).swapaxes(1, 2).reshape(-1, 1, 8, 8)
    fitted = tiny_models.fit("real-dbm", cells, bits=0.25)
    codec = tiny_models.group("real-dbm", fitted).codec
    codes = codec.codes(codec.compress(pixels, -1).payload)
    assert len(codes) == 16
    values, generator = cells.astype(np.float64).reshape(-1, 64), np.random.default_rng(0)
    near, random = [], []
    y, x = np.ogrid[:rows, :columns]
    for query in generator.integers(len(values), size=200):
        row, column = divmod(int(query), columns)
        among = np.maximum(abs(y - row), abs(x - column)) >= 4
        found = nearest(codes, codes[:, row, column], 8, among=among, generator=generator)
        others = generator.choice(np.flatnonzero(among), 8, replace=False)
        near.append(np.square(values[found.rows * columns + found.columns] - values[query]).mean())
        random.append(np.square(values[others] - values[query]).mean())
    # Measured: 0.33.
    assert np.mean(near) < 0.5 * np.mean(random)
