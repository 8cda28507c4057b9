"""Places on Earth to windows of pixels."""

import math
from collections.abc import Iterator

from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform_bounds

from harmonium.errors import SceneError, UsageError
from harmonium.pipeline.grid import Tile

Bbox = tuple[float, float, float, float]
"""(west, south, east, north) in the units of some CRS; west > east where degrees cross 180°."""

LONLAT = CRS.from_epsg(4326)

_DENSIFY = 101
"""Points along each edge of a bbox on its way into another CRS: even a whole parallel keeps within 0.05 %."""

_SAME_PIXEL = 1e-6
"""So many pixels beyond an edge are rounding, not another pixel."""


def parse_crs(crs: CRS | str) -> CRS:
    """A CRS from what a user writes, such as `EPSG:32618`.

    Raises
    ------
    UsageError
        If it is none.
    """
    try:
        return CRS.from_user_input(crs)
    except (CRSError, ValueError) as error:
        raise UsageError(f"A CRS is written like EPSG:4326, got {crs!r}") from error


def check_bbox(bbox: Bbox, crs: CRS) -> Bbox:
    """The bbox itself.

    Raises
    ------
    UsageError
        If south lies north of north, or west east of east where that is not a crossing of 180°, or beyond a pole.
    """
    west, south, east, north = bbox
    crosses = crs.is_geographic and west > east
    beyond = crs.is_geographic and not -90 <= south <= north <= 90
    if not all(map(math.isfinite, bbox)) or south > north or (west > east and not crosses) or beyond:
        raise UsageError(f"A bbox is WEST SOUTH EAST NORTH in units of its CRS, got {' '.join(map(str, bbox))}")
    return bbox


def to_lonlat(bbox: Bbox, crs: CRS) -> Bbox:
    """The smallest bbox in degrees that holds a bbox of another CRS, its edges densified.

    Raises
    ------
    UsageError
        If it lies where the CRS does not reach.
    """
    return bbox if crs.is_geographic else _transformed(bbox, crs, LONLAT)


def overlap(first: Bbox, second: Bbox) -> bool:
    """Whether two bboxes in degrees share a point, either of which may cross 180°."""
    return first[1] <= second[3] and second[1] <= first[3] and any(_shared_longitudes(first, second))


def window_of(bbox: Bbox, bbox_crs: CRS, crs: CRS | None, transform: Affine, height: int, width: int) -> Tile | None:
    """The smallest window that holds the pixels of a scene that a bbox touches, or None where it touches none.

    A bbox of another CRS is turned against the scene's grid: it counts as its own bounds in the scene's CRS.

    Parameters
    ----------
    bbox, bbox_crs
        The place.
    crs, transform, height, width
        The scene's grid.

    Raises
    ------
    SceneError
        If the scene has no georeference.
    UsageError
        If the bbox is none, or lies where its CRS does not reach.
    """
    if crs is None:
        raise SceneError("The scene has no georeference, so a bbox says nothing about it; give a window of pixels")
    check_bbox(bbox, bbox_crs)
    places = [bbox]
    if bbox_crs != crs:
        # Only the part near the scene: projections say nothing of use about places far beyond their zone.
        footprint = _transformed(_bounds(transform, height, width), crs, bbox_crs)
        places = [_transformed(place, bbox_crs, crs) for place in _intersections(bbox, footprint, bbox_crs)]
    if crs.is_geographic:
        around = _bounds(transform, height, width)
        places = [part for place in places for part in _intersections(place, around, crs)]
    windows = [window for place in places if (window := _window(place, transform, height, width)) is not None]
    if not windows:
        return None
    left, top = min(window[0] for window in windows), min(window[1] for window in windows)
    right, bottom = max(window[2] for window in windows), max(window[3] for window in windows)
    return Tile(col_off=left, row_off=top, width=right - left, height=bottom - top)


def place_of(transform: Affine, column: float, row: float) -> tuple[float, float]:
    """Coordinates (x, y) of a pixel's corner."""
    # Affine 2 multiplies by `*`, affine 3 wants `@`: this is neither.
    return (
        transform.a * column + transform.b * row + transform.c,
        transform.d * column + transform.e * row + transform.f,
    )


def moved(transform: Affine, tile: Tile) -> Affine:
    """The transform of a window, which counts columns and rows from its own upper left corner."""
    x, y = place_of(transform, tile.col_off, tile.row_off)
    return Affine(transform.a, transform.b, x, transform.d, transform.e, y)


def _transformed(bbox: Bbox, source: CRS, target: CRS) -> Bbox:
    west, south, east, north = bbox
    if source.is_geographic and west > east:
        east += 360
    found: Bbox = transform_bounds(source, target, west, south, east, north, densify_pts=_DENSIFY)
    if not all(map(math.isfinite, found)):
        raise UsageError(f"The bbox {' '.join(map(str, bbox))} lies where {source.to_string()} does not reach")
    return found


def _longitudes(bbox: Bbox) -> tuple[float, float]:
    west, _, east, _ = bbox
    return west, east + 360 if west > east else east


def _shared_longitudes(first: Bbox, second: Bbox) -> Iterator[tuple[float, float]]:
    """Intervals of longitude, counted as in `second`, that both bboxes hold."""
    (first_west, first_east), (second_west, second_east) = _longitudes(first), _longitudes(second)
    for turn in (-720, -360, 0, 360, 720):
        west, east = max(first_west + turn, second_west), min(first_east + turn, second_east)
        if west <= east:
            yield west, east


def _intersections(bbox: Bbox, footprint: Bbox, crs: CRS) -> Iterator[Bbox]:
    """Parts of a bbox that lie in a footprint, longitudes counted as in the footprint; a shared edge is no part."""
    south, north = max(bbox[1], footprint[1]), min(bbox[3], footprint[3])
    shared = iter([(max(bbox[0], footprint[0]), min(bbox[2], footprint[2]))])
    for west, east in _shared_longitudes(bbox, footprint) if crs.is_geographic else shared:
        across, along = west < east or bbox[0] == bbox[2] == west, south < north or bbox[1] == bbox[3] == south
        if west <= east and south <= north and across and along:
            yield west, south, east, north


def _bounds(transform: Affine, height: int, width: int) -> Bbox:
    corners = [place_of(transform, column, row) for column in (0, width) for row in (0, height)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _window(bbox: Bbox, transform: Affine, height: int, width: int) -> tuple[int, int, int, int] | None:
    """First column and row, last column + 1 and last row + 1, of the pixels that a bbox in the scene's CRS touches."""
    west, south, east, north = bbox
    inverse = ~transform
    columns, rows = zip(*(place_of(inverse, x, y) for x in (west, east) for y in (south, north)), strict=True)
    (left, right), (top, bottom) = _pixels(min(columns), max(columns), width), _pixels(min(rows), max(rows), height)
    return None if left >= right or top >= bottom else (left, top, right, bottom)


def _pixels(first: float, last: float, count: int) -> tuple[int, int]:
    """First and last + 1 of the pixels along one axis that an interval touches; empty where it touches none."""
    start, stop = math.floor(first + _SAME_PIXEL), math.ceil(last - _SAME_PIXEL)
    if first == last:
        stop = start + 1  # a point between two pixels is the second's
    return max(start, 0), min(stop, count)
