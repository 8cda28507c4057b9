from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import dask.array as da
import numpy as np
import pystac
import pytest
import xarray as xr
from affine import Affine
from dask.delayed import delayed
from hypothesis import given
from hypothesis import strategies as st
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.stac import UNKNOWN_TIME, item_bbox, stac_item

from .conftest import UTM_10M

PROJECTION_FIELDS = {"proj:code", "proj:wkt2", "proj:shape", "proj:transform"}
NO_EPSG = "+proj=laea +lat_0=51 +lon_0=9 +ellps=GRS80 +units=m"


def reads_pixels() -> None:
    raise AssertionError("an item is made of metadata, and yet pixels were read")


def group(
    name: str = "r10m", bands: tuple[str, ...] = ("B02", "B03"), shape: tuple[int, int] = (40, 50), **fields: Any
) -> ResolutionGroup:
    pixels = da.from_delayed(  # type: ignore[no-untyped-call]
        delayed(reads_pixels)(), (len(bands), *shape), fields.get("dtype", np.dtype("uint16"))
    )
    defaults: dict[str, Any] = {
        "dtype": pixels.dtype,
        "crs": CRS.from_epsg(32633),
        "transform": UTM_10M,
        "nodata": 0,
        "scales": (1.0,) * len(bands),
        "offsets": (0.0,) * len(bands),
    }
    source = xr.DataArray(pixels, dims=("band", "y", "x"), coords={"band": list(bands)})
    return ResolutionGroup(name=name, bands=bands, sources=(source,), **{**defaults, **fields})


def scene(*groups: ResolutionGroup, **fields: Any) -> Scene:
    defaults: dict[str, Any] = {
        "id": "S2A_T33UUP",
        "time": datetime(2022, 7, 27, 15, 59, 1, 24000, tzinfo=UTC),
        "platform": "sentinel-2a",
        "sensor": "msi",
        "source": ("somewhere",),
    }
    return Scene(groups=groups or (group(),), **{**defaults, **fields})


def boxed(crs: str | CRS, west: float, south: float, east: float, north: float) -> pystac.Item:
    """Item of a scene with these bounds in its CRS."""
    transform = Affine((east - west) / 50, 0, west, 0, -(north - south) / 40, north)
    return stac_item(scene(group(crs=CRS.from_user_input(crs), transform=transform)))


def bbox(item: pystac.Item) -> tuple[float, float, float, float]:
    found = item_bbox(item)
    assert found is not None
    return found


def as_json(item: pystac.Item) -> dict[str, Any]:
    """Through text, where NaN and numpy's numbers would fail."""
    loaded: dict[str, Any] = json.loads(json.dumps(item.to_dict(), allow_nan=False))
    return loaded


def assert_valid(item: pystac.Item) -> None:
    """By the schemas that pystac brings along, and by the rules of RFC 7946 that a schema cannot express."""
    fields = as_json(item)
    JsonSchemaSTACValidator().validate_core(fields, pystac.STACObjectType.ITEM, fields["stac_version"])
    assert fields["stac_version"] == "1.1.0"
    assert pystac.Item.from_dict(fields).to_dict() == fields
    assert (fields["geometry"] is None) == ("bbox" not in fields)
    for ring in rings(item):
        assert np.array_equal(ring[0], ring[-1])
        assert np.abs(ring[:, 0]).max() <= 180
        assert np.abs(ring[:, 1]).max() <= 90
        assert area(ring) > 0, "an outer ring runs counterclockwise"
    used = {name for asset in fields["assets"].values() for name in asset if name.startswith("proj:")}
    assert used <= PROJECTION_FIELDS
    assert bool(used) == any("/projection/v2.0.0/" in uri for uri in item.stac_extensions)


def rings(item: pystac.Item) -> list[np.ndarray[Any, Any]]:
    if item.geometry is None:
        return []
    coordinates = item.geometry["coordinates"]
    polygons = [coordinates] if item.geometry["type"] == "Polygon" else coordinates
    assert all(len(polygon) == 1 for polygon in polygons)
    return [np.array(polygon[0]) for polygon in polygons]


def area(ring: np.ndarray[Any, Any]) -> float:
    """Square degrees, positive for a ring that runs counterclockwise, by the trapezoidal rule."""
    x, y = ring.T
    return -float(np.trapezoid(y, x))


def test_a_scene_becomes_a_valid_item_with_all_that_is_known_of_it() -> None:
    fine = group(scales=(1e-4, 1e-4), offsets=(-0.1, -0.1))
    coarse = group("r20m", ("B11",), (20, 25), transform=UTM_10M @ Affine.scale(2))
    item = stac_item(scene(fine, coarse))
    assert_valid(item)
    assert item.id == "S2A_T33UUP"
    assert as_json(item)["properties"] == {
        "platform": "sentinel-2a",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "gsd": 10.0,
        "datetime": "2022-07-27T15:59:01.024000Z",
    }
    assert as_json(item)["assets"]["r10m"] == {
        "href": "./r10m/image",
        "type": "application/vnd.zarr; version=3",
        "roles": ["data"],
        "bands": [
            {"name": "B02", "raster:scale": 1e-4, "raster:offset": -0.1},
            {"name": "B03", "raster:scale": 1e-4, "raster:offset": -0.1},
        ],
        "data_type": "uint16",
        "nodata": 0,
        "gsd": 10.0,
        "proj:code": "EPSG:32633",
        "proj:shape": [40, 50],
        "proj:transform": [10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0],
    }
    second = as_json(item)["assets"]["r20m"]
    assert (second["href"], second["gsd"], second["proj:shape"]) == ("./r20m/image", 20.0, [20, 25])
    assert second["bands"] == [{"name": "B11"}]
    assert any("/raster/v2.0.0/" in uri for uri in item.stac_extensions)


def test_the_outline_is_that_of_the_finest_group_and_agrees_with_gdal() -> None:
    bounds = (500_000.0, 4_999_600.0, 500_500.0, 5_000_000.0)
    item = stac_item(scene(group(), group("r20m", ("B11",), (21, 26), transform=UTM_10M @ Affine.scale(2))))
    assert item.geometry is not None
    assert item.geometry["type"] == "Polygon"
    assert item_bbox(item) == pytest.approx(transform_bounds("EPSG:32633", "EPSG:4326", *bounds), abs=1e-6)
    # 500 m × 400 m, at the length of a degree at this latitude
    square_metres = area(rings(item)[0]) * 111_320**2 * math.cos(math.radians(45.15))
    assert square_metres == pytest.approx(500 * 400, rel=0.01)


@given(zone=st.integers(1, 60), easting=st.integers(0, 890), northing=st.integers(100, 8_000), south=st.booleans())
def test_any_place_in_utm_agrees_with_gdal(zone: int, easting: int, northing: int, south: bool) -> None:
    bounds = (easting * 1e3, northing * 1e3, easting * 1e3 + 110e3, northing * 1e3 + 110e3)
    epsg = f"EPSG:{(32700 if south else 32600) + zone}"
    item = boxed(epsg, *bounds)
    assert_valid(item)
    west, _, east, _ = found = bbox(item)
    expected = transform_bounds(epsg, "EPSG:4326", *bounds, densify_pts=99)
    for mine, gdal, degrees in zip(found, expected, (360, 181, 360, 181), strict=True):
        assert min(abs(mine - gdal), degrees - abs(mine - gdal)) < 1e-3
    assert item.geometry is not None
    assert (west > east) == (item.geometry["type"] == "MultiPolygon")


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32601", "EPSG:32660", "EPSG:3832"])
def test_a_scene_across_180_degrees_is_cut_there(crs: str) -> None:
    bounds = {
        "EPSG:4326": (179.0, 10.0, 181.0, 11.0),
        "EPSG:32601": (100_000.0, 1_100_000.0, 300_000.0, 1_200_000.0),
        "EPSG:32660": (750_000.0, 1_100_000.0, 950_000.0, 1_200_000.0),
        "EPSG:3832": (3_250_000.0, 1_100_000.0, 3_450_000.0, 1_200_000.0),
    }[crs]
    item = boxed(crs, *bounds)
    assert_valid(item)
    west, south, east, north = bbox(item)
    assert west > east
    assert item.geometry is not None
    assert item.geometry["type"] == "MultiPolygon"
    west_part, east_part = rings(item)
    assert (west_part[:, 0].min(), west_part[:, 0].max()) == (west, 180)
    assert (east_part[:, 0].min(), east_part[:, 0].max()) == (-180, east)
    # The parts together are as large as the whole, which a shifted meridian leaves in one piece.
    width = east + 360 - west
    assert 0.8 * width * (north - south) < area(west_part) + area(east_part) <= width * (north - south) + 1e-6


def test_a_scene_in_longitudes_from_0_to_360_covers_all_longitudes() -> None:
    item = boxed("EPSG:4326", 0, -90, 360, 90)
    assert_valid(item)
    assert item_bbox(item) == (-180, -90, 180, 90)
    assert sum(map(area, rings(item))) == pytest.approx(360 * 180)


@pytest.mark.parametrize(("crs", "pole"), [("EPSG:3031", -90), ("EPSG:3413", 90)])
def test_a_scene_around_a_pole_contains_it(crs: str, pole: int) -> None:
    item = boxed(crs, -3e5, -1e5, 1e5, 3e5)
    assert_valid(item)
    west, south, east, north = bbox(item)
    assert (west, east) == (-180, 180)
    assert pole in {south, north}
    expected = transform_bounds(crs, "EPSG:4326", -3e5, -1e5, 1e5, 3e5)
    assert (west, south, east, north) == pytest.approx(expected, abs=0.01)
    # A ring of degrees that spans all longitudes from the outline to the pole.
    assert 0 < sum(map(area, rings(item))) < 360 * (north - south)


def test_a_rotated_grid_has_a_rotated_outline() -> None:
    transform = UTM_10M @ Affine.rotation(30)
    item = stac_item(scene(group(transform=transform)))
    assert_valid(item)
    west, south, east, north = bbox(item)
    assert area(rings(item)[0]) < 0.7 * (east - west) * (north - south)
    assert as_json(item)["assets"]["r10m"]["proj:transform"] == list(transform[:6])


@pytest.mark.parametrize(
    "place",
    [
        {"crs": None, "transform": Affine.identity()},
        {"crs": CRS.from_epsg(32633), "transform": Affine.identity()},
        {"crs": CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]'), "transform": UTM_10M},
        {"crs": CRS.from_user_input("IAU_2015:30100"), "transform": Affine(1, 0, 0, 0, -1, 60)},
        {
            "crs": CRS.from_proj4("+proj=geos +h=35785831 +lon_0=0"),
            "transform": Affine(220_000, 0, -5.5e6, 0, -275_000, 5.5e6),
        },
    ],
    ids=["no CRS", "no transform", "local grid", "the Moon", "corners beside the Earth"],
)
def test_a_scene_without_a_place_has_a_null_geometry_and_no_bbox(place: dict[str, Any]) -> None:
    item = stac_item(scene(group(**place)))
    assert_valid(item)
    assert item.geometry is None
    assert item_bbox(item) is None
    asset = as_json(item)["assets"]["r10m"]
    assert ("proj:code" in asset) == (place["crs"] is not None)


def test_a_crs_that_no_authority_numbers_is_written_in_full() -> None:
    item = boxed(CRS.from_proj4(NO_EPSG), 0, 0, 5e4, 4e4)
    assert_valid(item)
    asset = as_json(item)["assets"]["r10m"]
    assert asset["proj:code"] is None
    assert CRS.from_wkt(asset["proj:wkt2"]) == CRS.from_proj4(NO_EPSG)


def test_degrees_are_no_ground_sample_distance() -> None:
    item = boxed("EPSG:4326", 10, 50, 11, 51)
    assert_valid(item)
    assert "gsd" not in item.properties
    assert "gsd" not in as_json(item)["assets"]["r10m"]


def test_an_unknown_time_is_null_within_an_interval_that_claims_nothing() -> None:
    item = stac_item(scene(time=None, platform=None, sensor=None))
    assert_valid(item)
    assert item.datetime is None
    properties = as_json(item)["properties"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] == "1678-01-01T00:00:00Z"
    assert properties["end_datetime"] == "2262-01-01T00:00:00Z"
    assert "when this scene was acquired" in properties["description"]
    assert not {"platform", "constellation", "instruments"} & set(properties)
    for time in UNKNOWN_TIME:
        assert abs(time.timestamp()) * 1e9 < 2**63, "numpy and pandas count nanoseconds in 64 bits"


def test_stac_does_demand_an_interval_where_datetime_is_null() -> None:
    with pytest.raises(pystac.STACError, match="start_datetime and end_datetime must be supplied"):
        pystac.Item(id="x", geometry=None, bbox=None, datetime=None, properties={})


def test_time_is_written_in_utc() -> None:
    local = datetime(2022, 7, 27, 17, 59, tzinfo=timezone(timedelta(hours=2)))
    item = stac_item(scene(time=local))
    assert_valid(item)
    assert as_json(item)["properties"]["datetime"] == "2022-07-27T15:59:00Z"


@pytest.mark.parametrize(
    ("platform", "sensor", "constellation", "instruments"),
    [
        ("sentinel-1b", "c-sar", "sentinel-1", ["c-sar"]),
        ("landsat-8", "oli-tirs", None, ["oli", "tirs"]),
        ("landsat-7", "etm+", None, ["etm+"]),
    ],
)
def test_platforms(platform: str, sensor: str, constellation: str | None, instruments: list[str]) -> None:
    properties = stac_item(scene(platform=platform, sensor=sensor)).properties
    assert properties["platform"] == platform
    assert properties.get("constellation") == constellation
    assert properties["instruments"] == instruments


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        ("float32", math.nan, "nan"),
        ("float32", -math.inf, "-inf"),
        ("float32", -3.4028234663852886e38, -3.4028234663852886e38),
        ("int16", -9999, -9999),
        ("uint8", None, None),
    ],
)
def test_nodata_survives_json(dtype: str, nodata: float | None, expected: float | str | None) -> None:
    item = stac_item(scene(group(dtype=np.dtype(dtype), nodata=nodata)))
    assert_valid(item)
    asset = as_json(item)["assets"]["r10m"]
    assert asset["data_type"] == dtype
    assert asset.get("nodata") == expected


def test_item_bbox_leaves_out_heights_of_foreign_items() -> None:
    item = stac_item(scene())
    item.bbox = [1.0, 2.0, -50.0, 3.0, 4.0, 500.0]
    assert item_bbox(item) == (1.0, 2.0, 3.0, 4.0)
