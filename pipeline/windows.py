"""Places on Earth to windows of pixels."""

import math

from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform_bounds

from harmonium.errors import SceneError, UsageError
from harmonium.pipeline.grid import Tile

Bbox = tuple[float, float, float, float]
"""(west, south, east, north) in the units of some CRS; west > east where degrees cross 180°."""

LONLAT = CRS.from_epsg(4326)


def parse_crs(text: str) -> CRS:
    """A CRS from what a user writes, such as `EPSG:32618`.

    Raises
    ------
    UsageError
        If it is none.
    """
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise UsageError(f"A CRS is written like EPSG:4326, got {text!r}") from error


def check_bbox(bbox: Bbox, crs: CRS) -> Bbox:
    """The bbox itself.

    Raises
    ------
    UsageError
        If south lies north of north, or west east of east where that is not a crossing of 180°.
    """
    west, south, east, north = bbox
    crosses = crs.is_geographic and west > east
    if not all(map(math.isfinite, bbox)) or south > north or (west > east and not crosses):
        raise UsageError(f"A bbox is WEST SOUTH EAST NORTH, got {' '.join(map(str, bbox))}")
    return bbox


def to_lonlat(bbox: Bbox, crs: CRS) -> Bbox:
    """The smallest bbox in degrees that holds a bbox of another CRS, its edges densified."""
    if crs.is_geographic:
        return bbox
    west, south, east, north = transform_bounds(crs, LONLAT, *bbox, densify_pts=21)
    return west, south, east, north


def overlap(first: Bbox, second: Bbox) -> bool:
    """Whether two bboxes in degrees share a point, either of which may cross 180°."""
    if first[1] > second[3] or second[1] > first[3]:
        return False
    return any(a[0] <= b[1] and b[0] <= a[1] for a in _longitudes(first) for b in _longitudes(second))


def _longitudes(bbox: Bbox) -> list[tuple[float, float]]:
    west, _, east, _ = bbox
    return [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]


def window_of(bbox: Bbox, bbox_crs: CRS, crs: CRS | None, transform: Affine, height: int, width: int) -> Tile | None:
    """The pixels of a scene that a bbox touches, or None where it touches none.

    Parameters
    ----------
    bbox, bbox_crs
        The place; its edges are densified on their way into the scene's CRS.
    crs, transform, height, width
        The scene's grid.

    Raises
    ------
    SceneError
        If the scene has no georeference.
    """
    if crs is None:
        raise SceneError("The scene has no georeference, so a bbox says nothing about it; give a window of pixels")
    if bbox_crs.is_geographic and bbox[0] > bbox[2]:
        # Counted on beyond 180°, which projections take for what it means.
        bbox = (bbox[0], bbox[1], bbox[2] + 360, bbox[3])
    west, south, east, north = bbox if bbox_crs == crs else transform_bounds(bbox_crs, crs, *bbox, densify_pts=21)
    corners = [~transform * (x, y) for x in (west, east) for y in (south, north)]
    columns, rows = zip(*corners, strict=True)
    # A millionth of a pixel beyond an edge is rounding, not another pixel.
    left, top = math.floor(min(columns) + 1e-6), math.floor(min(rows) + 1e-6)
    right, bottom = math.ceil(max(columns) - 1e-6), math.ceil(max(rows) - 1e-6)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if left >= right or top >= bottom:
        return None
    return Tile(col_off=left, row_off=top, width=right - left, height=bottom - top)
