from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points
from rasterio.windows import from_bounds

from harmonium.errors import SceneError, UsageError
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.windows import (
    LONLAT,
    Bbox,
    check_bbox,
    moved,
    overlap,
    parse_crs,
    place_of,
    to_lonlat,
    window_of,
)

UTM33, UTM1 = CRS.from_epsg(32633), CRS.from_epsg(32601)
HEIGHT, WIDTH = 30, 40
NORTH_UP = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
# Turned by 30 degrees; the pixels are squares of 10 m still.
ROTATED = Affine(
    10 * math.cos(0.5236),
    10 * math.sin(0.5236),
    500_000.0,
    10 * math.sin(0.5236),
    -10 * math.cos(0.5236),
    5_000_000.0,
)

quarters = st.integers(-60, 260).map(lambda number: number / 4)


@st.composite
def pixel_boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    """(first column, first row, last column, last row), in quarters of pixels, partly outside the scene."""
    columns = sorted(draw(st.tuples(quarters, quarters)))
    rows = sorted(draw(st.tuples(quarters, quarters)))
    return columns[0], rows[0], columns[1], rows[1]


def pixels_at(transform: Affine, xs: NDArray[Any], ys: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Columns and rows of places, by numpy."""
    matrix = np.array([transform[:3], transform[3:6], (0, 0, 1)])
    columns, rows, _ = np.linalg.solve(matrix, np.stack([xs.ravel(), ys.ravel(), np.ones(xs.size)]))
    return columns, rows


def touched(inside: NDArray[np.bool_]) -> Tile | None:
    """The smallest window that holds all pixels that are True."""
    if not inside.any():
        return None
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return Tile(
        col_off=int(columns[0]),
        row_off=int(rows[0]),
        width=int(columns[-1] - columns[0] + 1),
        height=int(rows[-1] - rows[0] + 1),
    )


@given(pixel_boxes())
def test_a_window_holds_the_pixels_that_share_an_area_with_the_bbox(box: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = box
    bbox = (500_000 + 10 * left, 5_000_000 - 10 * bottom, 500_000 + 10 * right, 5_000_000 - 10 * top)
    columns, rows = np.arange(WIDTH), np.arange(HEIGHT)
    # A point or a line has no area: it touches the pixel that begins there.
    across = (columns < right) & (columns + 1 > left) if left < right else columns == math.floor(left)
    along = (rows < bottom) & (rows + 1 > top) if top < bottom else rows == math.floor(top)
    assert window_of(bbox, UTM33, UTM33, NORTH_UP, HEIGHT, WIDTH) == touched(along[:, None] & across)


@given(pixel_boxes())
def test_a_window_agrees_with_rasterio(box: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = box
    bbox = (500_000 + 10 * left, 5_000_000 - 10 * bottom, 500_000 + 10 * right, 5_000_000 - 10 * top)
    found = window_of(bbox, UTM33, UTM33, NORTH_UP, HEIGHT, WIDTH)
    if found is not None and left < right and top < bottom:
        window = from_bounds(*bbox, NORTH_UP)
        assert found.col_off == max(math.floor(window.col_off), 0)
        assert found.row_off == max(math.floor(window.row_off), 0)
        assert found.col_off + found.width == min(math.ceil(window.col_off + window.width), WIDTH)
        assert found.row_off + found.height == min(math.ceil(window.row_off + window.height), HEIGHT)


@given(st.floats(0, 400), st.floats(-300, 300), st.floats(1, 300), st.floats(1, 300))
def test_in_a_rotated_scene_no_pixel_of_the_place_is_left_out(x: float, y: float, width: float, height: float) -> None:
    bbox = (500_000 + x, 5_000_000 + y - height, 500_000 + x + width, 5_000_000 + y)
    found = window_of(bbox, UTM33, UTM33, ROTATED, HEIGHT, WIDTH)
    xs, ys = np.meshgrid(np.linspace(bbox[0], bbox[2], 60), np.linspace(bbox[1], bbox[3], 60))
    columns, rows = pixels_at(ROTATED, xs, ys)
    inside = (columns > 0.01) & (columns < WIDTH - 0.01) & (rows > 0.01) & (rows < HEIGHT - 0.01)
    if not inside.any():
        return
    assert found is not None
    assert found.col_off <= columns[inside].min()
    assert found.row_off <= rows[inside].min()
    assert columns[inside].max() <= found.col_off + found.width
    assert rows[inside].max() <= found.row_off + found.height


def sampled(bbox: Bbox, bbox_crs: CRS, crs: CRS, transform: Affine) -> tuple[NDArray[Any], NDArray[Any]]:
    """Columns and rows of points in a bbox, densely sampled."""
    west, south, east, north = bbox
    east += 360 if west > east else 0
    xs, ys = np.meshgrid(np.linspace(west, east, 300), np.linspace(south, north, 300))
    if bbox_crs != crs:
        found = transform_points(bbox_crs, crs, xs.ravel(), ys.ravel())
        xs, ys = np.asarray(found[0]), np.asarray(found[1])
    return pixels_at(transform, xs, ys)


@pytest.mark.parametrize("turn", [0, 360, -360])
@pytest.mark.parametrize(
    ("bbox", "crs", "transform"),
    [
        ((15.0005, 45.1505, 15.003, 45.1520), UTM33, Affine(10, 0, 500_000, 0, -10, 5_000_300)),
        ((179.99, -0.01, -179.99, 0.01), UTM1, Affine(100, 0, 164_000, 0, -100, 2_000)),
        ((179.99, -0.01, 180.01, 0.01), CRS.from_epsg(4269), Affine(0.001, 0, 179.98, 0, -0.001, 0.02)),
        ((179.99, -0.01, -179.99, 0.01), LONLAT, Affine(0.001, 0, 179.98, 0, -0.001, 0.02)),
        ((179.99, -0.01, -179.99, 0.01), LONLAT, Affine(0.001, 0, -180.02, 0, -0.001, 0.02)),
        ((10.0, 84.0, 30.0, 84.2), CRS.from_epsg(3413), Affine(2000, 0, 520_000, 0, -2000, -200_000)),
    ],
)
def test_a_window_of_another_crs_or_across_180_degrees(bbox: Bbox, crs: CRS, transform: Affine, turn: float) -> None:
    height, width, slack = 50, 60, 6 if crs.to_epsg() == 3413 else 2
    here = (bbox[0] + turn, bbox[1], bbox[2] + turn, bbox[3])
    found = window_of(here, LONLAT, crs, transform, height, width)
    best = None
    for around in (0, 360, -360):
        columns, rows = sampled((bbox[0] + around, bbox[1], bbox[2] + around, bbox[3]), LONLAT, crs, transform)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        if inside.any():
            best = columns[inside], rows[inside]
    assert best is not None, "the test's own scene lies beside the bbox"
    assert found is not None
    for values, first, count in zip(best, (found.col_off, found.row_off), (found.width, found.height), strict=True):
        # What is turned against the scene's grid has bounds a little larger than itself.
        assert first <= values.min() < first + slack
        assert first + count - slack < values.max() < first + count + 1e-6


@pytest.mark.parametrize("bbox", [(-180, -90, 180, 90), (0, 0, 90, 80), (-170, -80, 170, 80)])
def test_a_place_far_larger_than_the_projection_reaches_holds_the_whole_scene(bbox: Bbox) -> None:
    found = window_of(bbox, LONLAT, UTM33, NORTH_UP, HEIGHT, WIDTH)
    assert found == Tile(col_off=0, row_off=0, width=WIDTH, height=HEIGHT)


@pytest.mark.parametrize("bbox", [(16, 45, 17, 46), (-165, 45, -164, 46), (15.0, -45.2, 15.1, -45.1)])
def test_a_place_elsewhere_has_no_window(bbox: Bbox) -> None:
    assert window_of(bbox, LONLAT, UTM33, NORTH_UP, HEIGHT, WIDTH) is None


def test_a_neighbour_that_shares_an_edge_is_not_touched() -> None:
    assert window_of((499_000, 4_999_700, 500_000, 5_000_000), UTM33, UTM33, NORTH_UP, HEIGHT, WIDTH) is None
    assert window_of((9.0, 50.0, 10.0, 51.0), LONLAT, LONLAT, Affine(0.1, 0, 10, 0, -0.1, 51), 10, 10) is None


def test_a_scene_without_georeference_has_no_place() -> None:
    with pytest.raises(SceneError, match=r"no georeference.*window of pixels"):
        window_of((0, 0, 1, 1), LONLAT, None, Affine.identity(), 10, 10)


@pytest.mark.parametrize(
    ("bbox", "crs"),
    [
        ((0, 2, 1, 1), LONLAT),
        ((5, 0, 4, 1), UTM33),
        ((0, -91, 1, 0), LONLAT),
        ((52, 13, 53, 97), LONLAT),
        ((0, 0, math.inf, 1), UTM33),
        ((0, math.nan, 1, 1), LONLAT),
    ],
)
def test_what_is_no_bbox_is_refused(bbox: Bbox, crs: CRS) -> None:
    with pytest.raises(UsageError, match="WEST SOUTH EAST NORTH"):
        check_bbox(bbox, crs)


def test_a_crs_that_is_none_is_refused() -> None:
    assert parse_crs("EPSG:32633") == UTM33
    with pytest.raises(UsageError, match=r"EPSG:4326.*'EPSG:nothing'"):
        parse_crs("EPSG:nothing")


def test_a_bbox_of_another_crs_in_degrees_holds_all_of_it() -> None:
    bbox = (500_000, 4_900_000, 600_000, 5_000_000)
    west, south, east, north = to_lonlat(bbox, UTM33)
    xs, ys = np.meshgrid(np.linspace(bbox[0], bbox[2], 50), np.linspace(bbox[1], bbox[3], 50))
    lon, lat = transform_points(UTM33, LONLAT, xs.ravel(), ys.ravel())
    assert west == pytest.approx(min(lon), abs=1e-4)
    assert south == pytest.approx(min(lat), abs=1e-4)
    assert east == pytest.approx(max(lon), abs=1e-4)
    assert north == pytest.approx(max(lat), abs=1e-4)


@st.composite
def degrees(draw: st.DrawFn) -> Bbox:
    west, width = draw(st.integers(-180, 179)), draw(st.integers(0, 120))
    south, height = draw(st.integers(-90, 89)), draw(st.integers(0, 40))
    east = west + width
    return west, south, east - 360 if east > 180 else east, min(south + height, 90)


def cells(bbox: Bbox) -> set[tuple[int, int]]:
    """Whole degrees on the globe that a bbox of whole degrees holds; 180 is -180."""
    west, south, east, north = (int(value) for value in bbox)
    east += 360 if west > east else 0
    return {((lon + 180) % 360, lat) for lon in range(west, east + 1) for lat in range(south, north + 1)}


@given(degrees(), degrees())
def test_bboxes_overlap_where_they_share_a_point_of_the_globe(first: Bbox, second: Bbox) -> None:
    assert overlap(first, second) == bool(cells(first) & cells(second))
    assert overlap(second, first) == overlap(first, second)


@given(st.integers(0, 39), st.integers(0, 29), st.integers(0, 40), st.integers(0, 30))
def test_a_moved_transform_gives_each_pixel_the_same_place(col_off: int, row_off: int, col: int, row: int) -> None:
    transform = moved(ROTATED, Tile(col_off=col_off, row_off=row_off, width=1, height=1))
    assert place_of(transform, col, row) == pytest.approx(place_of(ROTATED, col_off + col, row_off + row))
