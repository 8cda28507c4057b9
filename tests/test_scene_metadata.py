from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonium.errors import SceneError
from harmonium.pipeline.scene_files import as_paths, find_files, scene_id_from
from harmonium.pipeline.scene_metadata import (
    SENTINEL2_BANDS,
    ProductMetadata,
    band_from_name,
    band_order,
    is_auxiliary,
    metadata_from_name,
    metadata_from_safe,
    parse_time,
    require_id,
    require_time,
    resolution_from_name,
    safe_id,
    time_from_tags,
    without_band,
)

NOON = datetime(2020, 5, 1, 12, 0, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2020-05-01T12:00:03Z",
        "2020-05-01 12:00:03",
        "2020:05:01 12:00:03",
        "20200501T120003",
        "2020-05-01T14:00:03+02:00",
        "2020-05-01T12:00:03.000000000",
    ],
)
def test_times_that_mean_the_same(text: str) -> None:
    assert parse_time(text) == NOON
    assert require_time(text) == NOON


def test_a_time_is_aware_or_refused() -> None:
    assert require_time(None) is None
    assert require_time(NOON.replace(tzinfo=None)) == NOON
    assert require_time("2020-05-01") == datetime(2020, 5, 1, tzinfo=UTC)
    with pytest.raises(SceneError, match=r"2020-05-01.*found 'last May'"):
        require_time("last May")


def test_tags_in_order_of_trust() -> None:
    assert time_from_tags({"datetime": "2021-01-01", "ACQUISITION_DATETIME": "2020-05-01T12:00:03Z"}) == NOON
    assert time_from_tags({"ACQUISITION_DATETIME": "unknown", "time": "2020-05-01T12:00:03Z"}) == NOON
    assert time_from_tags({"TIFFTAG_DATETIME": "2020:05:01 12:00:03"}) is None


@pytest.mark.parametrize(
    ("name", "time", "platform", "sensor"),
    [
        ("S2A_MSIL1C_20190727T155901_N0208_R097_T17SQB_x.SAFE", datetime(2019, 7, 27, 15, 59, 1), "sentinel-2a", "msi"),
        ("S2C_MSIL2A_20250105T100401", datetime(2025, 1, 5, 10, 4, 1), "sentinel-2c", "msi"),
        ("T33UUB_20190727T155901_B02.jp2", datetime(2019, 7, 27, 15, 59, 1), "sentinel-2", "msi"),
        ("T33UUB_20190727T155901_B02_10m.jp2", datetime(2019, 7, 27, 15, 59, 1), "sentinel-2", "msi"),
        ("LC08_L1TP_016034_20200101_20200113_01_T1", datetime(2020, 1, 1), "landsat-8", "oli-tirs"),
        ("LC09_L2SP_016034_20220101_20220103_02_T1_SR_B2.TIF", datetime(2022, 1, 1), "landsat-9", "oli-tirs"),
        ("LE07_L1TP_016034_20000229_20200113_01_T1", datetime(2000, 2, 29), "landsat-7", "etm+"),
        ("LT05_L1TP_016034_19900101_20200113_01_T1", datetime(1990, 1, 1), "landsat-5", "tm"),
        ("LC80160342016091LGN00", datetime(2016, 3, 31), "landsat-8", "oli-tirs"),
        ("LC80160342016091LGN00_B4.TIF", datetime(2016, 3, 31), "landsat-8", "oli-tirs"),
    ],
)
def test_what_product_names_tell(name: str, time: datetime, platform: str, sensor: str) -> None:
    found = metadata_from_name(name)
    assert (found.time, found.platform, found.sensor) == (time.replace(tzinfo=UTC), platform, sensor)


@pytest.mark.parametrize("name", ["scene", "s2_B02.jp2", "LC08", "orthophoto_20200101", ""])
def test_names_that_tell_nothing(name: str) -> None:
    assert metadata_from_name(name) == ProductMetadata()


@pytest.mark.parametrize(("baseline", "offset"), [("N0208", 0.0), ("N0301", 0.0), ("N0400", -0.1), ("N0511", -0.1)])
def test_the_baseline_tells_the_offset(baseline: str, offset: float) -> None:
    found = metadata_from_name(f"S2A_MSIL1C_20220727T155901_{baseline}_R097")
    assert found.scale == 1e-4
    assert found.offset("B02") == pytest.approx(offset)


def test_no_baseline_no_radiometry() -> None:
    assert metadata_from_name("S2A_MSIL1C_20220727T155901").scale is None


@pytest.mark.parametrize(
    ("stem", "band"),
    [
        ("s2_B02", "B02"),
        ("T33UUB_20190727T155901_B8A_20m", "B8A"),
        ("LC80160342016091LGN00_B10", "B10"),
        ("LE07_x_B6_VCID_2", "B6_VCID_2"),
        ("B11", "B11"),
        ("s1a-iw-grd-vv", "VV"),
        ("red", None),
        ("ABBA_B02x", None),
    ],
)
def test_band_from_name(stem: str, band: str | None) -> None:
    assert band_from_name(stem) == band


@given(order=st.permutations(SENTINEL2_BANDS))
def test_natural_order_of_bands(order: list[str]) -> None:
    assert tuple(sorted(order, key=band_order)) == SENTINEL2_BANDS


def test_bands_without_number_keep_their_order_at_the_end() -> None:
    assert sorted(["red", "B10", "nir", "B2"], key=band_order) == ["B2", "B10", "red", "nir"]


@pytest.mark.parametrize(
    ("name", "metres"),
    [("t33uub_10m", 10.0), ("R20m", 20.0), ("a_0.5m_b", 0.5), ("B02", None), ("team", None), ("5min", None)],
)
def test_resolution_from_name(name: str, metres: float | None) -> None:
    assert resolution_from_name(name) == metres


@pytest.mark.parametrize(
    "stem",
    ["preview", "preview-10m", "T33_TCI", "T33_TCI_10m", "x_PVI", "l8_BQA", "x_QA_PIXEL", "x_SR_QA_AEROSOL",
     "T33_SCL_20m", "T33_AOT_10m", "x_SAA", "MSK_CLDPRB_20m", "QA60"],
)  # fmt: skip
def test_auxiliary_layers(stem: str) -> None:
    assert is_auxiliary(stem)


@pytest.mark.parametrize("stem", ["s2_B02", "LC08_L1TP_x_B1", "aqua_B1", "Qatar_red", "mosaic", "previous"])
def test_bands_are_not_auxiliary(stem: str) -> None:
    assert not is_auxiliary(stem)


@given(text=st.text())
def test_safe_ids_are_accepted_and_stable(text: str) -> None:
    found = safe_id(text)
    assert require_id(found) == found
    assert safe_id(found) == found


@pytest.mark.parametrize("scene_id", ["", ".", "..", "a/b", "a b", "__zarr", "é"])
def test_ids_that_could_be_paths_are_refused(scene_id: str) -> None:
    with pytest.raises(SceneError, match="scene id"):
        require_id(scene_id)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/a/S2A_MSIL1C_x.SAFE"], "S2A_MSIL1C_x"),
        (["/a/b.zarr"], "b"),
        (["/a/my scene (1).tif"], "my-scene-1"),
        (["/a/s2_B02.jp2", "/a/s2_B8A.jp2"], "s2"),
        (["/a/x_B02_10m.tif", "/a/x_B05_20m.tif"], "x"),
        (["/a/red.tif", "/a/nir.tif"], "a"),
        (["/a/B02.tif", "/a/B03.tif"], "a"),
        (["https://host/b/c.tif"], "c"),
    ],
)
def test_scene_ids(paths: list[str], expected: str) -> None:
    assert scene_id_from(paths) == expected


def test_what_is_common_to_the_files_of_one_acquisition() -> None:
    assert without_band("T33UUB_20190727T155901_B8A_20m") == "T33UUB_20190727T155901"


def test_folders_are_searched_and_named_files_are_kept(tmp_path: Path) -> None:
    names = ["b_B8A.tif", "b_B02.JP2", "preview.jp2", "x_QA_PIXEL.TIF", "notes.txt", ".hidden.tif", "R20m/c_B05.tif"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {Path(file).name for file in find_files([str(tmp_path)])}
    assert found == {"b_B8A.tif", "b_B02.JP2", "c_B05.tif"}
    assert find_files([str(tmp_path / "preview.jp2")]) == [str(tmp_path / "preview.jp2")]


def test_level_2a_keeps_each_band_at_its_finest(tmp_path: Path) -> None:
    images = tmp_path / "S2A_MSIL2A_x.SAFE" / "GRANULE" / "L2A_T33UUB" / "IMG_DATA"
    for folder, bands in {"R10m": ["B02", "TCI"], "R20m": ["B02", "B05", "SCL"], "R60m": ["B02", "B09"]}.items():
        (images / folder).mkdir(parents=True)
        for band in bands:
            (images / folder / f"T33UUB_20190727T155901_{band}_{folder[1:]}.jp2").touch()
    found = {Path(file).stem.split("_", 2)[2] for file in find_files([str(tmp_path / "S2A_MSIL2A_x.SAFE")])}
    assert found == {"B02_10m", "B05_20m", "B09_60m"}


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"nothing at .*gone\.tif"):
        as_paths(tmp_path / "gone.tif")
    with pytest.raises(SceneError, match="empty list"):
        as_paths([])
    with pytest.raises(SceneError, match="expected bands in the folder"):
        find_files([str(tmp_path)])


@pytest.mark.parametrize(
    "text",
    ["no xml", "<a><RADIO_ADD_OFFSET band_id='13'>-1000</RADIO_ADD_OFFSET></a>",
     "<a><BOA_ADD_OFFSET band_id='1'>?</BOA_ADD_OFFSET></a>"],
)  # fmt: skip
def test_damaged_product_metadata(tmp_path: Path, text: str) -> None:
    path = tmp_path / "MTD_MSIL1C.xml"
    path.write_text(text)
    with pytest.raises(SceneError, match=r"XML metadata .*MTD_MSIL1C\.xml"):
        metadata_from_safe(path)
