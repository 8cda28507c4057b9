from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds

from harmonium.errors import UsageError
from harmonium.models import model_file
from harmonium.models.codec import Codec
from harmonium.models.quality import psnr
from harmonium.pipeline import scene_layout
from harmonium.pipeline.archive import Archive
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.query import parse_interval, query
from harmonium.pipeline.scene import GeoreferenceWarning, Scene, open_scene
from harmonium.pipeline.windows import LONLAT, Bbox

from .archives import compress, hand_made, pixels
from .conftest import WriteGeotiff

SIDE = 64
MODEL = model_file.make({**hand_made(2).groups, **hand_made(2, resolution=None, group="r1px").groups})

# Corners of scenes of 640 m: in rows of five, one a kilometre from the next; across 180°; in another zone; nowhere.
GRID = {f"g{row}{col}": (32633, 500_000 + 1000 * col, 5_000_000 - 1000 * row) for row in range(2) for col in range(5)}
PLACES: dict[str, tuple[int, float, float] | None] = {
    **GRID,
    "fiji": (32760, 817_300, 8_002_000),
    "south": (32733, 500_000, 4_000_000),
    "nowhere": None,
}
TIMES = {name: f"2024-05-{day:02}T12:00:00Z" for day, name in enumerate(PLACES, start=1)} | {"g14": None}


def make_scene(folder: Path, write: WriteGeotiff, name: str, seed: int) -> Scene:
    place = PLACES[name]
    profile: dict[str, Any] = {"crs": None, "transform": None}
    if place is not None:
        profile = {"crs": f"EPSG:{place[0]}", "transform": Affine(10, 0, place[1], 0, -10, place[2])}
    bands = ("B01", "B02")
    path = write(folder / f"{name}.tif", pixels((2, SIDE, SIDE), seed=seed), descriptions=bands, **profile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeoreferenceWarning)
        return open_scene(path, scene_id=name, time=TIMES[name])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    from .conftest import _write_geotiff

    folder = tmp_path_factory.mktemp("query")
    scenes = [make_scene(folder, _write_geotiff, name, seed) for seed, name in enumerate(PLACES)]
    made, _ = compress(folder / "a.zarr", scenes, MODEL)
    return made


def names(archive: Archive, **asked: Any) -> set[str]:
    return {hit.scene.id for hit in query(archive, **asked)}


def holds(name: str, bbox: Bbox, crs: CRS) -> bool:
    """Whether one of many points in a scene lies in a bbox."""
    place = PLACES[name]
    if place is None:
        return False
    xs, ys = np.meshgrid(np.linspace(1, 639, 40) + place[1], place[2] - np.linspace(1, 639, 40))
    lon, lat = (np.asarray(each) for each in transform_points(CRS.from_epsg(place[0]), crs, xs.ravel(), ys.ravel()))
    west, south, east, north = bbox
    if crs.is_geographic and west > east:
        return bool((((lon >= west) | (lon <= east)) & (lat >= south) & (lat <= north)).any())
    return bool(((lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)).any())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(-5, 52),
    st.integers(-5, 22),
    st.integers(1, 30),
    st.integers(1, 15),
    st.sampled_from([32633, 32632, 3857, 4326]),
)
def test_a_place_in_any_crs_finds_what_brute_force_finds(
    archive: Archive, x: int, y: int, width: int, height: int, epsg: int
) -> None:
    # Hundreds of metres, off the scenes' edges by 50: another CRS turns a bbox into one that is a little larger.
    west, north = 500_000 + 100 * x + 50, 5_000_000 - 100 * y - 50
    crs = CRS.from_epsg(epsg)
    asked = (west, north - 100 * height, west + 100 * width, north)
    bbox = asked if epsg == 32633 else transform_bounds(CRS.from_epsg(32633), crs, *asked)
    found = names(archive, bbox=bbox, crs=crs)
    assert found >= {name for name in PLACES if holds(name, bbox, crs)}
    if epsg == 32633:
        assert found == {name for name in PLACES if holds(name, bbox, crs)}
    assert names(archive, bbox=bbox, crs=f"EPSG:{epsg}") == found


@pytest.mark.parametrize("ends", [(179.9, -179.9), (179.9, 180.2), (-180.2, -179.9)])
def test_a_place_across_180_degrees(archive: Archive, ends: tuple[float, float]) -> None:
    assert names(archive, bbox=(ends[0], -18.2, ends[1], -17.9)) == {"fiji"}


def test_the_whole_world_holds_all_but_those_that_lie_nowhere(archive: Archive) -> None:
    hits = query(archive, bbox=(-180, -90, 180, 90))
    assert {hit.scene.id for hit in hits} == set(PLACES) - {"nowhere"}
    assert all(hit.window == Tile(col_off=0, row_off=0, width=SIDE, height=SIDE) for hit in hits)
    assert names(archive) == set(PLACES)


def brute_force_times(first: datetime, last: datetime) -> set[str]:
    return {name for name, time in TIMES.items() if time and first <= datetime.fromisoformat(time) <= last}


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("2024-05-03", (3, 0), (4, 0)),
        ("2024-05-03T12:00:00Z", (3, 12), (3, 12)),
        ("2024-05-03T14:00:00+02:00", (3, 12), (3, 12)),
        ("2024-05-03T12:00:01Z", (3, 13), (3, 13)),
        ("2024-05-02/2024-05-04", (2, 0), (5, 0)),
        ("2024-05-02T12:00:00/2024-05-04T11:59:59", (2, 12), (4, 11)),
        ("2024-05-07/..", (7, 0), (31, 0)),
        ("2024-05-07/", (7, 0), (31, 0)),
        ("../2024-05-07", (1, 0), (8, 0)),
        ("../2024-05-07T11:00:00Z", (1, 0), (7, 11)),
        ("../..", (1, 0), (31, 0)),
    ],
)
def test_times(archive: Archive, asked: str, first: tuple[int, int], last: tuple[int, int]) -> None:
    start, end = (datetime(2024, 5, day, hour, tzinfo=UTC) for day, hour in (first, last))
    assert names(archive, time=asked) == brute_force_times(start, end)


def test_a_day_lasts_until_its_end() -> None:
    first, last = parse_interval("2024-02-28/2024-02-29")
    assert first == datetime(2024, 2, 28, tzinfo=UTC)
    assert last == datetime(2024, 3, 1, tzinfo=UTC) - timedelta(microseconds=1)


@pytest.mark.parametrize("asked", ["", "..", "yesterday", "2024-05-03/never", "2024-13-01", "2024-05-04/2024-05-03"])
def test_what_is_no_time_is_refused(archive: Archive, asked: str) -> None:
    with pytest.raises(UsageError, match="time"):
        query(archive, time=asked)


def test_bands_and_quality(archive: Archive) -> None:
    assert names(archive, bands=["B02"]) == set(PLACES)
    assert names(archive, bands=["B02", "B03"]) == set()
    hits = query(archive, bands=["B02"])
    assert all(hit.bands == ("B02",) and hit.open().band.values.tolist() == ["B02"] for hit in hits)
    measured = {}
    for hit in hits:
        quality = hit.group.quality()
        measured[hit.scene.id] = float(psnr(quality.squared_error.sum() / quality.count.sum(), hit.group.peak))
    limit = sorted(measured.values())[5]
    assert names(archive, min_psnr=limit) == {name for name, value in measured.items() if value >= limit}


def test_hits_come_by_time_then_name_and_those_without_a_time_last(archive: Archive) -> None:
    expected = sorted(PLACES, key=lambda name: (TIMES[name] or "9", name))
    assert [hit.scene.id for hit in query(archive)] == expected


def test_no_chunk_is_decoded_until_pixels_are_asked_for(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    bbox = (500_100, 4_999_500, 501_205, 4_999_900)
    expected = {}
    for name in ("g00", "g01"):
        whole = archive[name]["r10m"].open()
        expected[name] = whole.sel(x=slice(500_100, 501_210), y=slice(4_999_900, 4_999_500)).values

    def never(*_: object) -> None:
        raise AssertionError("a chunk was decoded")

    with monkeypatch.context() as patch:
        patch.setattr(Codec, "decompress", never)
        hits = query(archive, bbox=bbox, crs="EPSG:32633", time="2024-05-01/..", bands=["B02", "B01"], min_psnr=1)
        lazy = {hit.scene.id: hit.open() for hit in hits}
        summaries = [hit.summary() for hit in hits]
    assert list(lazy) == ["g00", "g01"]
    for name, array in lazy.items():
        np.testing.assert_array_equal(array.values, expected[name][::-1])
    assert [each["scene"] for each in summaries] == ["g00", "g01"]
    assert lazy["g00"].rio.bounds() == pytest.approx((500_100, 4_999_500, 500_640, 4_999_900))


def test_an_unfinished_scene_is_left_out(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    scenes = [make_scene(tmp_path, write_geotiff, name, 0) for name in ("g00", "g01")]
    archive, _ = compress(tmp_path / "a.zarr", scenes[:1], MODEL)
    scene_layout.prepare(archive.url, scenes[1], MODEL)
    assert set(archive) == {"g00", "g01"}
    assert names(archive) == {"g00"}


def test_a_scene_without_data_fits_no_demand_for_quality(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    path = write_geotiff(
        tmp_path / "empty.tif", np.zeros((2, 64, 64), np.uint16), nodata=0, descriptions=("B01", "B02")
    )
    archive, _ = compress(tmp_path / "a.zarr", [open_scene(path)], MODEL)
    (hit,) = query(archive)
    assert np.isnan(hit.psnr)
    assert names(archive, min_psnr=0) == set()


@pytest.mark.parametrize(
    "asked",
    [
        {"bbox": (1, 2, 0, 1)},
        {"bbox": (0, 0, 1, 1), "crs": "EPSG:nothing"},
        {"bbox": (5, 0, 4, 1), "crs": "EPSG:32633"},
    ],
)
def test_what_is_no_place_is_refused(archive: Archive, asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        query(archive, **{"crs": LONLAT, **asked})
