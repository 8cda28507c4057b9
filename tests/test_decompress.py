from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from numpy.typing import NDArray

from harmonium.errors import ArchiveError, HarmoniumError, ModelNotFound, PayloadError, SceneError, UsageError
from harmonium.pipeline import model_sources, scene_layout
from harmonium.pipeline.archive import Archive, ArchivedScene
from harmonium.pipeline.decompress import decompress
from harmonium.pipeline.grid import Tile

from .archives import compress, hand_made, pixels, shard_files
from .conftest import UTM_10M, MakeScene

pytestmark = pytest.mark.usefixtures("fresh_models", "small_chunks")

SHAPE = (2, 150, 200)


@pytest.fixture
def scene(tmp_path: Path, make_scene: MakeScene) -> ArchivedScene:
    made = make_scene(
        pixels(SHAPE, hole=0),
        nodata=0,
        scales=(0.1, 0.2),
        offsets=(0.0, -1.0),
        tags={"TIFFTAG_DATETIME": "2024:05:01 10:00:00"},
    )
    return compress(tmp_path / "a.zarr", [made], hand_made(2))[0]["here"]


def opened(scene: ArchivedScene) -> NDArray[Any]:
    return np.asarray(
        xr.open_zarr(scene.url, group="scenes/here/r10m", mask_and_scale=False, consolidated=False)["image"]
    )


def test_the_whole_scene_with_all_that_it_knows(scene: ArchivedScene, tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    assert decompress(scene, out) == Tile(col_off=0, row_off=0, width=200, height=150)
    with rasterio.open(out) as source:
        np.testing.assert_array_equal(source.read(), opened(scene))
        assert source.crs.to_epsg() == 32633
        assert source.transform == UTM_10M
        assert source.nodata == 0
        assert source.descriptions == ("B01", "B02")
        assert (source.scales, source.offsets) == ((0.1, 0.2), (0.0, -1.0))
        assert source.dtypes == ("uint16", "uint16")
        assert source.tags()["MODEL"] == scene.model
        assert source.tags()["ACQUISITION_DATETIME"].startswith("2024-05-01T10:00:00")
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


@pytest.mark.parametrize("window", [(0, 0, 1, 1), (63, 60, 70, 9), (100, 64, 100, 86), (190, 0, 10, 150)])
def test_a_window_of_some_bands_in_another_order(
    scene: ArchivedScene, tmp_path: Path, window: tuple[int, int, int, int]
) -> None:
    out = tmp_path / "out.tif"
    col, row, width, height = window
    tile = Tile(col_off=col, row_off=row, width=width, height=height)
    assert decompress(scene, out, bands=["B02", "B01"], window=tile) == tile
    with rasterio.open(out) as source:
        np.testing.assert_array_equal(source.read(), opened(scene)[::-1, row : row + height, col : col + width])
        assert source.descriptions == ("B02", "B01")
        assert (source.scales, source.offsets) == ((0.2, 0.1), (-1.0, 0.0))
        assert source.xy(0, 0) == (UTM_10M.c + 10 * col + 5, UTM_10M.f - 10 * row - 5)


def test_a_place(scene: ArchivedScene, tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    tile = decompress(scene, out, bbox=(500_105, 4_999_000, 500_300, 4_999_900), crs="EPSG:32633", bands=["B02"])
    assert tile == Tile(col_off=10, row_off=10, width=20, height=90)
    with rasterio.open(out) as source:
        np.testing.assert_array_equal(source.read(), opened(scene)[1:, 10:100, 10:30])
        assert source.bounds == (500_100, 4_999_000, 500_300, 4_999_900)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": Tile(col_off=150, row_off=0, width=51, height=1)}, SceneError, "200 columns and 150 rows"),
        ({"bands": ["B03"]}, SceneError, "B01, B02, found B03"),
        ({"group": "r20m"}, ArchiveError, "r10m.*'r20m'"),
        ({"bbox": (0, 0, 1, 1)}, SceneError, "lies beside group r10m.*EPSG:32633"),
        ({"bbox": (1, 0, 0, -1)}, UsageError, "WEST SOUTH EAST NORTH"),
        ({"bbox": (0, 0, 1, 1), "window": Tile(col_off=0, row_off=0, width=1, height=1)}, UsageError, "not both"),
    ],
)
def test_what_the_scene_does_not_have_is_named(
    scene: ArchivedScene, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        decompress(scene, tmp_path / "out.tif", **options)
    assert not list(tmp_path.glob("*.tif"))


def test_a_scene_without_a_crs(tmp_path: Path, make_scene: MakeScene) -> None:
    made = make_scene(pixels(SHAPE), crs=None, transform=None)
    archive, _ = compress(tmp_path / "a.zarr", [made], hand_made(2, resolution=None, group=made.groups[0].name))
    out = tmp_path / "out.tif"
    decompress(archive["here"], out, window=Tile(col_off=0, row_off=0, width=40, height=30))
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(out) as source:
        assert (source.crs, source.nodata, source.shape) == (None, None, (30, 40))
    with pytest.raises(SceneError, match="no georeference"):
        decompress(archive["here"], out, bbox=(0, 0, 1, 1))


def test_a_folder_that_does_not_exist(scene: ArchivedScene, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        decompress(scene, tmp_path / "nowhere" / "out.tif")


def test_an_interrupted_scene(tmp_path: Path, make_scene: MakeScene) -> None:
    made = make_scene(pixels(SHAPE))
    archive, _ = compress(tmp_path / "a.zarr", [], hand_made(2))
    scene_layout.prepare(archive.url, made, hand_made(2))
    with pytest.raises(ArchiveError, match=r"here is writing.*again"):
        decompress(archive["here"], tmp_path / "out.tif")


def test_a_damaged_chunk_is_told_and_leaves_no_file(scene: ArchivedScene, tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    out.write_bytes(b"as it was")
    shard = shard_files(Path(scene.url))[0]
    data = bytearray(shard.read_bytes())
    data[200] ^= 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(PayloadError, match=r"scenes/here/r10m, rows 0 to 63, columns \d+ to \d+.*harmonium verify"):
        decompress(scene, out)
    assert out.read_bytes() == b"as it was"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["out.tif"]


def test_a_missing_model_is_named(scene: ArchivedScene, tmp_path: Path) -> None:
    for path in (Path(scene.url) / "models").rglob("*"):
        if path.is_file():
            path.unlink()
    model_sources.forget()
    with pytest.raises(HarmoniumError) as caught:
        decompress(Archive(scene.url)["here"], tmp_path / "out.tif")
    assert isinstance(caught.value, ModelNotFound)
    assert scene.model in str(caught.value)
