from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium.errors import SceneError
from harmonium.pipeline.grid import TileGrid, assemble
from harmonium.pipeline.overview import levels, reduce_by
from harmonium.pipeline.stats import valid_mask

from .strategies import grids, masks, pixels, scene_dtypes


def means_by_numpy(array: NDArray[Any], factor: int, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """numpy's nanmean over padded squares; NaN where a square has no valid pixel."""
    bands, height, width = array.shape
    padding = ((0, 0), (0, -height % factor), (0, -width % factor))
    padded = np.pad(np.where(valid, array.astype(np.float64), np.nan), padding, constant_values=np.nan)
    squares = padded.reshape(bands, padded.shape[1] // factor, factor, padded.shape[2] // factor, factor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "Mean of empty slice" is the case in question
        return np.asarray(np.nanmean(squares, axis=(2, 4)))


@given(array=pixels(), factor=st.integers(1, 9), data=st.data())
def test_a_square_becomes_the_mean_of_its_valid_pixels(array: NDArray[Any], factor: int, data: st.DataObject) -> None:
    valid = data.draw(masks(array.shape)) & valid_mask(array, None)
    expected = means_by_numpy(array, factor, valid)
    reduced = reduce_by(array, factor, valid)
    assert reduced.dtype == array.dtype
    assert reduced.shape == expected.shape
    known = np.isfinite(expected)
    if array.dtype.kind == "f":
        np.testing.assert_allclose(reduced[known], expected[known], rtol=1e-6, atol=1e-9 * 1e4)
        assert np.isnan(reduced[~known]).all()
    else:
        assert np.abs(reduced[known] - expected[known]).max(initial=0) <= 0.5 + 1e-9
        assert (reduced[~known] == 0).all()


@given(dtype=scene_dtypes(), factor=st.integers(1, 4), data=st.data())
def test_nodata_stands_exactly_where_nothing_was_observed(
    dtype: np.dtype[Any], factor: int, data: st.DataObject
) -> None:
    """Also where a mean happens to be the nodata value: few values, so that it often does."""
    lowest, highest = (-1e4, 1e4) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    nodata = data.draw(st.sampled_from([lowest, 7, highest]))
    offsets = data.draw(pixels(shape=(2, 9, 7), dtype=np.dtype("uint8"))) % 3 - np.int64(1)
    array = np.clip(nodata + offsets, lowest, highest).astype(dtype)
    valid = valid_mask(array, nodata)
    reduced = reduce_by(array, factor, valid, nodata=nodata)
    observed = ~np.isnan(means_by_numpy(array, factor, valid))
    np.testing.assert_array_equal(valid_mask(reduced, nodata), observed)
    error = np.abs(reduced.astype(float) - means_by_numpy(array, factor, valid))[observed]
    assert error.max(initial=0) <= 1.5  # half from rounding, one from stepping aside


@given(grid=grids(), exponent=st.integers(0, 3), dtype=scene_dtypes(), data=st.data())
def test_shards_reduced_alone_are_the_scene_reduced(
    grid: TileGrid, exponent: int, dtype: np.dtype[Any], data: st.DataObject
) -> None:
    factor = 2**exponent
    grid = TileGrid(height=grid.height, width=grid.width, chunk=grid.chunk * factor, shard=grid.shard)
    array = data.draw(pixels(shape=(2, grid.height, grid.width), dtype=dtype))
    valid = valid_mask(array, 3)
    small = TileGrid(
        height=-(-grid.height // factor), width=-(-grid.width // factor), chunk=grid.chunk // factor, shard=grid.shard
    )
    pieces = [
        (smaller, reduce_by(array[(..., *tile.slices)], factor, valid[(..., *tile.slices)], nodata=3))
        for tile, smaller in zip(grid.shards(), small.shards(), strict=True)
    ]
    whole = reduce_by(array, factor, valid, nodata=3)
    np.testing.assert_array_equal(assemble(pieces, within=small.scene), whole)


def test_a_whole_shard_in_a_noncontiguous_view_gives_the_same_bytes() -> None:
    array = np.random.default_rng(5).normal(300, 50, (3, 256, 224)).astype("float32")
    valid = valid_mask(array, None)
    reduced = reduce_by(array, 32, valid)
    for rows, cols in ((slice(64, 192), slice(32, 160)), (slice(0, 256), slice(192, 224))):
        part = reduce_by(array[:, rows, cols], 32, valid[:, rows, cols])
        expected = reduced[:, rows.start // 32 : rows.stop // 32, cols.start // 32 : cols.stop // 32]
        assert part.tobytes() == expected.tobytes()


def test_sums_do_not_overflow() -> None:
    array = np.full((1, 300, 300), 65535, dtype="uint16")
    assert (reduce_by(array, 256, np.ones(array.shape, bool)) == 65535).all()
    array = np.full((1, 64, 64), 3.0e38, dtype="float32")
    assert (reduce_by(array, 64, np.ones(array.shape, bool)) == np.float32(3.0e38)).all()


def test_one_mask_serves_all_bands() -> None:
    array = np.arange(2 * 4 * 4, dtype="int16").reshape(2, 4, 4)
    valid = np.eye(4, dtype=bool)
    np.testing.assert_array_equal(
        reduce_by(array, 2, valid, nodata=-1), reduce_by(array, 2, np.stack([valid, valid]), nodata=-1)
    )
    assert reduce_by(array, 2, valid, nodata=-1)[0].tolist() == [[2, -1], [-1, 12]]  # 2.5 and 12.5, halves to even


def test_nan_nodata_is_written_where_nothing_was_observed() -> None:
    array = np.array([[[1.0, np.nan], [np.inf, np.nan]]], dtype="float32")
    reduced = reduce_by(array, 1, valid_mask(array, math.nan), nodata=math.nan)
    np.testing.assert_array_equal(reduced, np.array([[[1.0, np.nan], [np.nan, np.nan]]], dtype="float32"))


@given(height=st.integers(1, 30_000), width=st.integers(1, 30_000), first=st.sampled_from([1, 2, 16, 32]))
def test_levels_halve_until_they_are_small(height: int, width: int, first: int) -> None:
    found = levels(height, width, first)
    assert [factor for factor, _ in found] == [first * 2**index for index in range(len(found))]
    for factor, shape in found:
        assert shape == (math.ceil(height / factor), math.ceil(width / factor))
    assert max(found[-1][1]) <= 64
    assert all(max(shape) > 64 for _, shape in found[:-1])


def test_levels_of_a_sentinel_2_tile() -> None:
    assert levels(10980, 10980) == [(32, (344, 344)), (64, (172, 172)), (128, (86, 86)), (256, (43, 43))]
    assert levels(5, 7) == [(32, (1, 1))]


@given(array=pixels(max_side=40), factor=st.sampled_from([1, 2, 4]))
def test_each_level_made_from_the_one_before_has_its_shape(array: NDArray[Any], factor: int) -> None:
    _, height, width = array.shape
    reduced = array
    previous = 1
    for step, shape in levels(height, width, factor, smallest=2):
        reduced = reduce_by(reduced, step // previous, valid_mask(reduced, None))
        assert reduced.shape[1:] == shape
        previous = step


def test_what_does_not_fit_is_named() -> None:
    array = np.zeros((1, 4, 4), dtype="uint8")
    with pytest.raises(SceneError, match=r"factor of at least 1; found shape \(1, 4, 4\) and factor 0"):
        reduce_by(array, 0, array > 0)
    with pytest.raises(SceneError, match=r"expected a mask of shape \(1, 4, 4\); found \(3, 3\)"):
        reduce_by(array, 2, np.ones((3, 3), bool))
    with pytest.raises(SceneError, match="found height=0"):
        levels(0, 5)
