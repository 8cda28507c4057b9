from __future__ import annotations

import math
import pickle
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium.errors import SceneError
from harmonium.pipeline.grid import TileGrid
from harmonium.pipeline.stats import BandStats, valid_mask

from .strategies import masks, pixels


def assert_close(found: BandStats, expected: BandStats) -> None:
    # Rounding is relative to the values, which reach 65535, not to a covariance that may be near 0.
    scale = max(1.0, float(np.abs([*expected.minimum, *expected.maximum]).max())) if expected.count else 1.0
    assert found.count == expected.count
    np.testing.assert_allclose(found.mean, expected.mean, rtol=0, atol=1e-11 * scale)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=0, atol=1e-10 * scale**2)
    np.testing.assert_array_equal(found.minimum, expected.minimum)
    np.testing.assert_array_equal(found.maximum, expected.maximum)


def by_numpy(array: NDArray[Any], valid: NDArray[np.bool_]) -> BandStats:
    """The oracle: numpy on the whole scene."""
    columns = array.reshape(array.shape[0], -1)[:, valid.all(axis=0).ravel()].astype(np.float64)
    if columns.shape[1] == 0:
        return BandStats.empty(array.shape[0])
    return BandStats(
        count=columns.shape[1],
        mean=np.mean(columns, axis=1),
        covariance=np.atleast_2d(np.cov(columns, ddof=0)),
        minimum=columns.min(axis=1),
        maximum=columns.max(axis=1),
    )


@given(data=st.data(), array=pixels())
def test_one_tile_agrees_with_numpy(data: st.DataObject, array: NDArray[Any]) -> None:
    valid = data.draw(masks(array.shape)) & valid_mask(array, None)
    assert_close(BandStats.from_pixels(array, valid), by_numpy(array, valid))


@given(array=pixels(max_side=30), chunk=st.integers(1, 40), nodata=st.sampled_from((None, 0, -9999, math.nan)))
def test_chunking_does_not_change_the_result(array: NDArray[Any], chunk: int, nodata: float | None) -> None:
    if nodata is not None and not math.isnan(nodata) and (array.dtype.kind == "f" or nodata >= 0):
        array[:, : array.shape[1] // 2, :1] = nodata
    grid = TileGrid(height=array.shape[1], width=array.shape[2], chunk=chunk)
    tiles = [array[(..., *tile.slices)] for tile in grid.chunks()]
    parts = [BandStats.from_pixels(tile, valid_mask(tile, nodata)) for tile in tiles]
    merged = reduce(BandStats.merge, parts, BandStats.empty(array.shape[0]))
    assert_close(merged, by_numpy(array, valid_mask(array, nodata)))


@given(first=pixels(shape=(3, 5, 7)), second=pixels(shape=(3, 2, 11)), third=pixels(shape=(3, 13, 1)))
def test_merge_is_associative_and_commutative(first: NDArray[Any], second: NDArray[Any], third: NDArray[Any]) -> None:
    a, b, c = (BandStats.from_pixels(array) for array in (first, second, third))
    assert_close(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_close(a.merge(b), b.merge(a))
    assert_close(a.merge(BandStats.empty(3)), a)
    assert_close(BandStats.empty(3).merge(a), a)


def test_large_means_lose_no_digits() -> None:
    rng = np.random.default_rng(3)
    array = (1e8 + rng.normal(size=(2, 40, 50))).astype(np.float64)
    merged = reduce(BandStats.merge, [BandStats.from_pixels(array[:, row : row + 7]) for row in range(0, 40, 7)])
    np.testing.assert_allclose(merged.covariance, np.cov(array.reshape(2, -1), ddof=0), rtol=1e-6)


def test_a_pixel_counts_only_when_valid_in_every_band() -> None:
    array = np.array([[[1, 2, 0]], [[5, 0, 7]]], dtype=np.uint16)
    stats = BandStats.from_pixels(array, valid_mask(array, 0))
    assert (stats.count, stats.mean.tolist(), stats.bands) == (1, [1.0, 5.0], 2)
    assert BandStats.from_pixels(array, np.array([[True, True, False]])).count == 2


def test_stats_travel_by_pickle() -> None:
    stats = BandStats.from_pixels(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    assert_close(pickle.loads(pickle.dumps(stats)), stats)


@pytest.mark.parametrize(
    ("values", "nodata", "expected"),
    [
        (np.array([0, 1, 65535], dtype=np.uint16), 0, [False, True, True]),
        (np.array([0, 1, 65535], dtype=np.uint16), None, [True, True, True]),
        (np.array([0, 1, 241], dtype=np.uint8), -9999, [True, True, True]),
        (np.array([-9999, 0, 1], dtype=np.int16), -9999.0, [False, True, True]),
        (np.array([0, 1, 2], dtype=np.int16), math.nan, [True, True, True]),
        (np.array([0.1, np.nan, np.inf], dtype=np.float32), 0.1, [False, False, False]),
        (np.array([0.0, np.nan, -np.inf], dtype=np.float32), math.nan, [True, False, False]),
        (np.array([0.0, np.nan, -3.4e38], dtype=np.float32), -3.4e38, [True, False, False]),
    ],
)
def test_valid_mask(values: NDArray[Any], nodata: float | None, expected: list[bool]) -> None:
    mask = valid_mask(values, nodata)
    assert mask.dtype == np.bool_
    assert mask.tolist() == expected


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(SceneError, match=r"\(4, 4\)"):
        BandStats.from_pixels(np.zeros((4, 4)))
    with pytest.raises(SceneError, match=r"\(2, 3\)"):
        BandStats.from_pixels(np.zeros((1, 4, 4)), np.ones((2, 3), dtype=bool))
    with pytest.raises(SceneError, match=r"of 2 bands; found 3"):
        BandStats.empty(2).merge(BandStats.empty(3))
    with pytest.raises(SceneError, match="count -1"):
        BandStats(count=-1, mean=np.zeros(1), covariance=np.zeros((1, 1)), minimum=np.zeros(1), maximum=np.zeros(1))
