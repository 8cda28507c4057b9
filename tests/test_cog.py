from __future__ import annotations

import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from harmonium.errors import SceneError, UsageError
from harmonium.pipeline.cog import write_cog
from harmonium.pipeline.grid import Tile, TileGrid

from .conftest import UTM_10M
from .strategies import pixels, scene_dtypes

UTM33 = CRS.from_epsg(32633)


def write(path: Path, array: NDArray[Any], chunk: int = 512, **given: Any) -> None:
    """Write an array (band, y, x) by its chunks, with what a scene usually has."""
    bands, height, width = array.shape
    options: dict[str, Any] = {
        "read": lambda tile: array[(..., *tile.slices)],
        "tiles": TileGrid(height=height, width=width, chunk=chunk).chunks(),
        "shape": array.shape,
        "dtype": array.dtype,
        "crs": UTM33,
        "transform": UTM_10M,
        "nodata": None,
        "band_names": [f"B{band:02}" for band in range(1, bands + 1)],
        "scales": (1.0,) * bands,
        "offsets": (0.0,) * bands,
        "tags": {},
    }
    write_cog(path, **{**options, **given})


def noise(bands: int, height: int, width: int, dtype: str = "uint16") -> NDArray[Any]:
    rng = np.random.default_rng(7)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 1e3, (bands, height, width)).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (bands, height, width), dtype=dtype, endpoint=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(dtype=scene_dtypes(), chunk=st.sampled_from([8, 16, 64, 512]), data=st.data())
def test_rasterio_reads_the_same_pixels_at_any_size(
    tmp_path: Path, dtype: np.dtype[Any], chunk: int, data: st.DataObject
) -> None:
    array = data.draw(pixels(dtype=dtype, max_bands=5, max_side=70))
    write(tmp_path / "out.tif", array, chunk)
    with rasterio.open(tmp_path / "out.tif") as source:
        np.testing.assert_array_equal(source.read(), array)
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("height", [1, 512, 1301])
def test_the_layout_is_tiled_compressed_and_has_overviews(tmp_path: Path, dtype: str, height: int) -> None:
    array = noise(2, height, 1025, dtype)
    write(tmp_path / "out.tif", array, 300)
    with rasterio.open(tmp_path / "out.tif") as source:
        structure = source.tags(ns="IMAGE_STRUCTURE")
        assert structure["LAYOUT"] == "COG"
        assert structure["COMPRESSION"] == "DEFLATE"
        assert structure["PREDICTOR"] == ("3" if dtype == "float32" else "2")
        assert source.block_shapes == [(512, 512)] * 2
        assert source.overviews(1)
        np.testing.assert_array_equal(source.read(), array)
    assert [file.name for file in tmp_path.iterdir()] == ["out.tif"], "no sidecar, no temporary file"


def test_metadata_are_kept(tmp_path: Path) -> None:
    array = noise(3, 40, 50)
    given: dict[str, Any] = {"scales": (1e-4, 1e-4, 2e-4), "offsets": (-0.1, -0.1, 0.0), "nodata": 0}
    write(tmp_path / "out.tif", array, band_names=("B02", "B8A", "ndvi é"), tags={"PLATFORM": "sentinel-2a"}, **given)
    with rasterio.open(tmp_path / "out.tif") as source:
        assert (source.crs, source.transform, source.nodata) == (UTM33, UTM_10M, 0)
        assert source.descriptions == ("B02", "B8A", "ndvi é")
        assert (source.scales, source.offsets) == (given["scales"], given["offsets"])
        assert source.tags()["PLATFORM"] == "sentinel-2a"
        np.testing.assert_array_equal(source.read(), array)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("int16", -9999), ("float32", math.nan), ("float32", -3.4028234663852886e38), ("uint8", 255), ("uint16", None)],
)
def test_nodata_is_kept(tmp_path: Path, dtype: str, nodata: float | None) -> None:
    array = noise(1, 30, 20, dtype)
    if nodata is not None:
        array[0, :10] = nodata
    write(tmp_path / "out.tif", array, nodata=nodata)
    with rasterio.open(tmp_path / "out.tif") as source:
        assert source.nodata == pytest.approx(nodata, nan_ok=True) if nodata is not None else source.nodata is None
        assert source.read().tobytes() == array.tobytes()
        assert (source.read_masks(1)[:10] == 0).all() == (nodata is not None)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM33, UTM_10M @ Affine.rotation(20)),
        (CRS.from_proj4("+proj=laea +lat_0=51 +lon_0=9 +ellps=GRS80 +units=m"), UTM_10M),
        (None, UTM_10M),
    ],
    ids=["rotated", "a CRS without number", "a transform without CRS"],
)
def test_unusual_places_are_kept(tmp_path: Path, crs: CRS | None, transform: Affine) -> None:
    write(tmp_path / "out.tif", noise(1, 30, 20), crs=crs, transform=transform)
    with rasterio.open(tmp_path / "out.tif") as source:
        assert source.crs == crs
        assert source.transform.almost_equals(transform)


def test_a_scene_without_a_place_is_written_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path / "out.tif", noise(1, 30, 20), crs=None, transform=Affine.identity())
    with pytest.warns(NotGeoreferencedWarning):
        source = rasterio.open(tmp_path / "out.tif")
    with source:
        assert source.crs is None
        assert source.transform.is_identity


def test_infrared_in_the_fourth_band_is_not_transparency(tmp_path: Path) -> None:
    array = noise(4, 600, 600, "uint8")
    array[3] = 0
    array[3, 300:] = 200
    write(tmp_path / "out.tif", array)
    with rasterio.open(tmp_path / "out.tif") as source:
        assert ColorInterp.alpha not in source.colorinterp
        assert source.colorinterp[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        assert source.read_masks().all()
        # Averages of all pixels, whatever the fourth band holds.
        level = source.read(1, out_shape=(300, 300))
        expected = array[0].reshape(300, 2, 300, 2).mean(axis=(1, 3))
        assert np.abs(level - expected).max() <= 1


def test_overviews_average_what_was_observed(tmp_path: Path) -> None:
    array = np.full((1, 1024, 1024), 100, dtype="int16")
    array[:, ::2, ::2] = -9999
    write(tmp_path / "out.tif", array, nodata=-9999)
    with rasterio.open(tmp_path / "out.tif") as source:
        assert (source.read(1, out_shape=(512, 512)) == 100).all()


@pytest.mark.parametrize("error", [SceneError("damaged"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_reader_that_fails_midway_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    calls = 0

    def read(tile: Tile) -> NDArray[Any]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error
        return np.zeros((1, tile.height, tile.width), dtype="uint8")

    with pytest.raises(type(error)) as caught:
        write(tmp_path / "out.tif", noise(1, 1100, 1100, "uint8"), read=read)
    assert caught.value is error
    assert calls == 3
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_until_a_whole_one_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    first, second = noise(1, 30, 20), noise(2, 50, 40)
    write(path, first)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write(path, second, read=lambda tile: second[:, : tile.height // 0])
    assert path.read_bytes() == before
    write(path, second)
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(), second)
    assert [file.name for file in tmp_path.iterdir()] == ["out.tif"]


LIMITED = """
import resource, signal, sys
import numpy as np
from affine import Affine
from harmonium.errors import UsageError
from harmonium.pipeline.cog import write_cog
from harmonium.pipeline.grid import Tile

path, limit = sys.argv[1], int(sys.argv[2])
pixels = np.random.default_rng(7).integers(0, 65535, (1, 1024, 1024), dtype="uint16")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_cog(
        path, read=lambda tile: pixels, tiles=[Tile(col_off=0, row_off=0, width=1024, height=1024)], shape=pixels.shape,
        dtype=pixels.dtype, crs=None, transform=Affine.identity(), nodata=None, band_names=["B02"], scales=[1.0],
        offsets=[0.0], tags={},
    )
except UsageError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The largest size of a file that the system allows stands for the disk."""
    pytest.importorskip("resource", reason="only POSIX limits the size of files")
    path = tmp_path / "out.tif"

    def write_limited(limit: int) -> str:
        command = [sys.executable, "-c", LIMITED, str(path), str(limit)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout

    assert write_limited(2**30) == ""
    whole = path.stat().st_size
    path.unlink()
    # The beginning of the plain file, its middle, the end of the copy: GDAL itself says nothing of the last one.
    for limit in (1_000, 1_000_000, whole - 1):
        assert "out.tif; found: " in write_limited(limit)
        assert list(tmp_path.iterdir()) == []


def test_wrong_outputs_are_named_before_anything_is_read(tmp_path: Path) -> None:
    def read(tile: Tile) -> NDArray[Any]:
        raise AssertionError(f"read {tile} for an output that cannot be")

    array = noise(1, 30, 20)
    with pytest.raises(UsageError, match=r"found no folder .*missing; create it first"):
        write(tmp_path / "missing" / "out.tif", array, read=read)
    with pytest.raises(UsageError, match=r"expected the name of a file to write; found the folder"):
        write(tmp_path, array, read=read)
    with pytest.raises(UsageError, match=r"expected to write .*nodata value"):
        write(tmp_path / "out.tif", array, read=read, nodata=-1)
    with pytest.raises(UsageError, match=r"expected to write"):
        write(tmp_path / "out.tif", array, read=read, band_names=["one", "two"])
    assert list(tmp_path.iterdir()) == []


def test_tiles_that_do_not_fit_are_named(tmp_path: Path) -> None:
    array = noise(2, 30, 20)
    half = Tile(col_off=0, row_off=0, width=20, height=15)
    with pytest.raises(SceneError, match=r"expected tiles of 600 pixels in all; found 300"):
        write(tmp_path / "out.tif", array, tiles=[half])
    with pytest.raises(SceneError, match=r"expected pixels of shape and dtype .*; found \(1, 15, 20\), uint16"):
        write(tmp_path / "out.tif", array, tiles=[half], read=lambda tile: array[(slice(0, 1), *tile.slices)])
    with pytest.raises(SceneError, match=r"found \(2, 15, 20\), float64"):
        write(tmp_path / "out.tif", array, tiles=[half], read=lambda tile: array[(..., *tile.slices)].astype(float))
    assert list(tmp_path.iterdir()) == []
