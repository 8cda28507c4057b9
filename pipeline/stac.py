"""Scenes as STAC items: where and when they were taken, and which Zarr array of the archive holds which bands."""

from __future__ import annotations

import itertools
import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import pystac
from pyproj.exceptions import CRSError, ProjError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from harmonium.pipeline.scene import ResolutionGroup, Scene

UNKNOWN_TIME = (datetime(1678, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC))
"""Start and end of an item whose time nothing tells: the whole years that numpy's and pandas' nanoseconds hold."""

_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
# Older pystac has only the outdated spelling `vnd+zarr`.
_ZARR = "application/vnd.zarr; version=3"
_EDGE_SEGMENTS = 20
"""Straight pieces per edge of a scene: at 110 km in UTM they stay within a metre of the curve."""
_DECIMALS = 7
"""Of a degree: about a centimetre, the same on every machine."""


def stac_item(scene: Scene) -> pystac.Item:
    """Describe a scene as a STAC 1.1 item, with one asset for each resolution group; reads no pixel.

    Parameters
    ----------
    scene
        Its metadata become the item's; what it does not know stays out of the item.

    Returns
    -------
    pystac.Item
        Valid by STAC's schema, without links. Hrefs are relative to the scene's group in the archive.

    Notes
    -----
    *Place*: the outline of the finest located group in degrees (EPSG:4326, longitude first), cut at 180° where it
    crosses it; then, as GeoJSON has it, `bbox` has west > east. A scene without CRS, or in one that has no known way to
    EPSG:4326 (a local grid, the Moon), has the geometry null and no bbox, which STAC allows.

    *Time*: where nothing tells it, `datetime` is null. STAC then demands `start_datetime` and `end_datetime`, and
    pystac refuses the item without them: they are `UNKNOWN_TIME`, an interval that is true of any scene and that nobody
    takes for a measurement, and `description` says so. Code asks `item.datetime`, which is None.
    """
    located = next((group for group in scene.groups if group.resolution is not None), None)
    ring = None if located is None else _outline(located)
    properties = _properties(scene)
    start, end = UNKNOWN_TIME if scene.time is None else (None, None)
    item = pystac.Item(
        id=scene.id,
        geometry=None if ring is None else _geometry(ring),
        bbox=None if ring is None else _bbox(ring),
        datetime=None if scene.time is None else scene.time.astimezone(UTC),
        start_datetime=start,
        end_datetime=end,
        properties=properties,
        assets={group.name: _asset(group) for group in scene.groups},
    )
    fields = {name for asset in item.assets.values() for name in asset.extra_fields}
    fields |= {name for asset in item.assets.values() for band in asset.extra_fields["bands"] for name in band}
    for prefix, uri in (("proj:", _PROJECTION), ("raster:", _RASTER)):
        if any(name.startswith(prefix) for name in fields):
            item.stac_extensions.append(uri)
    return item


def item_bbox(item: pystac.Item) -> tuple[float, float, float, float] | None:
    """Return (west, south, east, north) of an item in degrees, or None where it has no place.

    West is larger than east where the item crosses 180°. Heights, which foreign items may state, are left out.
    """
    if item.bbox is None:
        return None
    west, south, east, north = item.bbox if len(item.bbox) == 4 else (*item.bbox[:2], *item.bbox[3:5])
    return west, south, east, north


def _properties(scene: Scene) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    if scene.time is None:
        properties["description"] = "Nothing tells when this scene was acquired; its interval is STAC's formality."
    if scene.platform is not None:
        properties["platform"] = scene.platform
        family = re.fullmatch(r"(sentinel-\d+)[a-z]", scene.platform)
        if family is not None:
            properties["constellation"] = family[1]
    if scene.sensor is not None:
        properties["instruments"] = ["oli", "tirs"] if scene.sensor == "oli-tirs" else [scene.sensor]
    sides = [side for side in map(_ground_sample_distance, scene.groups) if side is not None]
    if sides:
        properties["gsd"] = min(sides)
    return properties


def _ground_sample_distance(group: ResolutionGroup) -> float | None:
    """Return the side of a pixel in metres; None in degrees, whose length depends on the place."""
    return group.resolution if group.crs is not None and group.crs.is_projected else None


def _asset(group: ResolutionGroup) -> pystac.Asset:
    fields: dict[str, Any] = {"bands": _bands(group), "data_type": group.dtype.name}
    if group.nodata is not None:
        fields["nodata"] = _number(group.nodata)
    side = _ground_sample_distance(group)
    if side is not None:
        fields["gsd"] = side
    if group.crs is not None:
        fields |= _crs_fields(group.crs)
        fields["proj:shape"] = list(group.shape[1:])
        fields["proj:transform"] = [float(value) for value in group.transform[:6]]
    return pystac.Asset(href=f"./{group.name}/image", media_type=_ZARR, roles=["data"], extra_fields=fields)


def _bands(group: ResolutionGroup) -> list[dict[str, Any]]:
    """Return STAC's band objects; scale and offset stand only where they change a value."""
    bands = []
    for name, scale, offset in zip(group.bands, group.scales, group.offsets, strict=True):
        radiometry = {} if (scale, offset) == (1, 0) else {"raster:scale": scale, "raster:offset": offset}
        bands.append({"name": name, **radiometry})
    return bands


def _number(value: float) -> float | int | str:
    """Return a number as STAC writes it: JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else str(float(value))


def _crs_fields(crs: CRS) -> dict[str, Any]:
    authority = crs.to_authority()
    if authority is not None:
        return {"proj:code": ":".join(authority)}
    return {"proj:code": None, "proj:wkt2": crs.to_wkt(version="WKT2_2019")}


def _outline(group: ResolutionGroup) -> NDArray[np.float64] | None:
    """Return a group's outline (point, (longitude, latitude)) in degrees, closed; None where no way leads there.

    Longitudes run on past 180° instead of jumping back, the least of them in [-180, 180). An outline around a pole is
    closed along the pole, so that it is a polygon in the plane of longitude and latitude.
    """
    _, rows, cols = group.shape
    steps = np.linspace(0, 1, _EDGE_SEGMENTS, endpoint=False)
    along, back, zero, one = steps, 1 - steps, np.zeros_like(steps), np.ones_like(steps)
    col = np.concatenate([along, one, back, zero, [0]]) * cols
    row = np.concatenate([zero, along, one, back, [0]]) * rows
    a, b, c, d, e, f = group.transform[:6]
    try:
        to_degrees = pyproj.Transformer.from_crs(pyproj.CRS.from_user_input(group.crs), 4326, always_xy=True)
        lon, lat = to_degrees.transform(a * col + b * row + c, d * col + e * row + f)
    except (CRSError, ProjError):
        return None
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None  # a corner that is not on Earth, such as that of a geostationary full disk
    ring = np.stack([np.unwrap(lon, period=360), lat], axis=1)
    if abs(ring[-1, 0] - ring[0, 0]) > 180:
        pole = math.copysign(90, lat.mean())
        ring = np.vstack([ring, [ring[-1, 0], pole], [ring[0, 0], pole], ring[:1]])
    ring[:, 0] -= 360 * math.floor((ring[:, 0].min() + 180) / 360)
    return np.round(ring, _DECIMALS)


def _geometry(ring: NDArray[np.float64]) -> dict[str, Any]:
    """Return an outline as GeoJSON: a polygon, or two where it reaches past 180°."""
    if ring[:, 0].max() <= 180:
        return {"type": "Polygon", "coordinates": [_counterclockwise(ring)]}
    west, east = _clip(ring, side=1), _clip(ring, side=-1) - [360, 0]
    return {"type": "MultiPolygon", "coordinates": [[_counterclockwise(west)], [_counterclockwise(east)]]}


def _clip(ring: NDArray[np.float64], *, side: int) -> NDArray[np.float64]:
    """Return the part of a closed ring west (side 1) or east (side -1) of 180° (Sutherland and Hodgman, 1974)."""
    kept: list[NDArray[np.float64]] = []
    for start, end in itertools.pairwise(ring):
        inside, ends_inside = side * start[0] <= side * 180, side * end[0] <= side * 180
        if inside:
            kept.append(start)
        if inside != ends_inside:
            share = (180 - start[0]) / (end[0] - start[0])
            kept.append(np.array([180, start[1] + share * (end[1] - start[1])]))
    return np.round([*kept, kept[0]], _DECIMALS)


def _counterclockwise(ring: NDArray[np.float64]) -> list[list[float]]:
    """Return a closed ring's points in the order that GeoJSON asks of an outer ring."""
    x, y = ring.T
    twice_area = float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))
    points: list[list[float]] = (ring if twice_area >= 0 else ring[::-1]).tolist()
    return points


def _bbox(ring: NDArray[np.float64]) -> list[float]:
    """Return (west, south, east, north); west > east where the outline crosses 180°."""
    (west, south), (east, north) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    if east - west >= 360:
        return [-180.0, south, 180.0, north]
    return [west, south, east - 360 if east > 180 else east, north]
