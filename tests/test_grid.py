from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium.errors import SceneError
from harmonium.pipeline.grid import Tile, TileGrid, assemble

from .conftest import WriteGeotiff
from .strategies import grids, pixels, tiles


def cover(grid: TileGrid, parts: list[Tile]) -> NDArray[np.int64]:
    """How often each pixel of the scene lies in one of the tiles."""
    counts = np.zeros((grid.height, grid.width), dtype=np.int64)
    for part in parts:
        counts[part.slices] += 1
    return counts


@given(grid=grids())
def test_shards_and_chunks_cover_each_pixel_once(grid: TileGrid) -> None:
    shards = list(grid.shards())
    assert (cover(grid, shards) == 1).all()
    assert (cover(grid, [chunk for shard in shards for chunk in grid.chunks(shard)]) == 1).all()
    assert len(shards) == grid.shard_counts[0] * grid.shard_counts[1]
    assert len(list(grid.chunks())) == grid.chunk_counts[0] * grid.chunk_counts[1]


@given(grid=grids())
def test_order_is_row_major(grid: TileGrid) -> None:
    for sequence in (list(grid.shards()), list(grid.chunks())):
        assert sequence == sorted(sequence, key=lambda tile: (tile.row_off, tile.col_off))


@given(grid=grids())
def test_chunks_of_a_shard_lie_inside_it_and_know_their_index(grid: TileGrid) -> None:
    for shard in grid.shards():
        for chunk in grid.chunks(shard):
            assert chunk.intersection(shard) == chunk
            assert grid.chunk_tile(*grid.chunk_index(chunk)) == chunk


@given(grid=grids(), window=tiles())
def test_intersecting_agrees_with_a_search_of_all_chunks(grid: TileGrid, window: Tile) -> None:
    oracle = [chunk for chunk in grid.chunks() if chunk.intersection(window) is not None]
    assert list(grid.intersecting(window)) == oracle


@given(first=tiles(12), second=tiles(12))
def test_intersection_agrees_with_sets_of_pixels(first: Tile, second: Tile) -> None:
    one, two = np.zeros((2, 30, 30), dtype=bool)
    one[first.slices], two[second.slices] = True, True
    both = first.intersection(second)
    found = np.zeros((30, 30), dtype=bool)
    if both is not None:
        found[both.slices] = True
    assert (found == (one & two)).all()


@given(array=pixels(max_side=40), chunk=st.integers(1, 50), shard=st.integers(1, 3))
def test_tile_then_assemble_is_the_identity(array: NDArray[Any], chunk: int, shard: int) -> None:
    grid = TileGrid(height=array.shape[1], width=array.shape[2], chunk=chunk, shard=shard)
    pieces = [(tile, array[(..., *tile.slices)]) for tile in grid.chunks()]
    whole = assemble(reversed(pieces), within=grid.scene)
    assert whole.dtype == array.dtype
    assert whole.tobytes() == array.tobytes()  # NaN, too, bit for bit


@pytest.mark.parametrize(
    ("height", "width", "chunk", "shard_shape"),
    [
        (10980, 10980, 512, (2048, 2048)),
        (603, 627, 512, (1024, 1024)),
        (512, 512, 512, (512, 512)),
        (513, 100, 512, (1024, 512)),
        (100, 5000, 512, (512, 2048)),
        (61, 60, 64, (64, 64)),
        (1, 1, 8, (8, 8)),
    ],
)
def test_shards_are_no_larger_than_the_scene_needs(
    height: int, width: int, chunk: int, shard_shape: tuple[int, int]
) -> None:
    grid = TileGrid.for_shape(height, width)
    assert (grid.chunk, grid.shard_shape) == (chunk, shard_shape)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), cell=st.sampled_from((1, 8, 16)))
def test_for_shape_wastes_less_than_a_chunk(height: int, width: int, cell: int) -> None:
    grid = TileGrid.for_shape(height, width, cell=cell)
    assert grid.chunk % cell == 0
    assert grid.chunk <= 512
    assert grid.shard <= 4
    for side, shard in zip((height, width), grid.shard_shape, strict=True):
        assert shard < side + grid.chunk
        assert shard <= 2048
    if max(height, width) < 512:
        assert grid.chunk < max(height, width) + cell


def test_window_is_what_rasterio_reads(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    array = np.arange(1 * 30 * 20, dtype=np.uint16).reshape(1, 30, 20)
    path = write_geotiff(tmp_path / "a.tif", array)
    tile = Tile(col_off=3, row_off=7, width=11, height=5)
    with rasterio.open(path) as source:
        assert (source.read(window=tile.window) == array[(..., *tile.slices)]).all()


@pytest.mark.parametrize("field", ["height", "width", "chunk", "shard"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_grid_refuses_what_is_no_size(field: str, value: Any) -> None:
    sizes: dict[str, Any] = {"height": 3, "width": 5, "chunk": 7, "shard": 2, field: value}
    with pytest.raises(SceneError, match=f"{field} .*found {value}"):
        TileGrid(**sizes)


@pytest.mark.parametrize("field", ["height", "width"])
def test_for_shape_refuses_an_empty_scene(field: str) -> None:
    with pytest.raises(SceneError, match=f"{field} .*found 0"):
        TileGrid.for_shape(**{"height": 5, "width": 5, field: 0})


def test_for_shape_refuses_broken_cells() -> None:
    with pytest.raises(SceneError, match="chunk=500, cell=8"):
        TileGrid.for_shape(1000, 1000, chunk=500)


@pytest.mark.parametrize(("col_off", "row_off", "width", "height"), [(-1, 0, 1, 1), (0, -1, 1, 1), (0, 0, 0, 1)])
def test_tile_refuses_what_is_no_rectangle(col_off: int, row_off: int, width: int, height: int) -> None:
    with pytest.raises(SceneError, match=f"col_off={col_off}, row_off={row_off}, width={width}"):
        Tile(col_off=col_off, row_off=row_off, width=width, height=height)


@pytest.mark.parametrize("index", [(-1, 0), (0, 2), (3, 0)])
def test_indices_outside_are_refused(index: tuple[int, int]) -> None:
    grid = TileGrid(height=20, width=10, chunk=8, shard=1)
    with pytest.raises(SceneError, match=r"3 × 2 chunks .*found \("):
        grid.chunk_tile(*index)
    with pytest.raises(SceneError, match="3 × 2 shards"):
        grid.shard_tile(*index)


def test_assemble_refuses_gaps_overlaps_and_wrong_shapes() -> None:
    grid = TileGrid(height=4, width=4, chunk=2)
    pieces = [(tile, np.zeros((1, 2, 2))) for tile in grid.chunks()]
    with pytest.raises(SceneError, match="12 pixels"):
        assemble(pieces[:3], within=grid.scene)
    with pytest.raises(SceneError, match="once"):
        assemble([*pieces, pieces[0]], within=grid.scene)
    with pytest.raises(SceneError, match="2 × 2"):
        assemble([(pieces[0][0], np.zeros((1, 2, 3)))], within=grid.scene)
    with pytest.raises(SceneError, match="inside"):
        assemble(pieces, within=pieces[0][0])
