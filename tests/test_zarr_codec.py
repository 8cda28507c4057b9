from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, TransposeCodec

from harmonium.errors import ModelError, ModelNotFound, PayloadError, UsageError
from harmonium.models import model_file
from harmonium.models.codec import Codec
from harmonium.models.model_file import ModelFile
from harmonium.models.targets import Lossless, MaxError, Psnr, Step, Target
from harmonium.pipeline import model_sources
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.torch_threads import single_threaded
from harmonium.pipeline.zarr_codec import HarmoniumCodec

from .archives import any_rate, compress, decoded_in_one_piece, hand_made, pixels
from .conftest import MakeScene

pytestmark = pytest.mark.usefixtures("fresh_models")


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "m.harmonium"
    path.write_bytes(hand_made(2).data)
    return path


@pytest.fixture
def decoded_chunks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the chunks that were decoded, in whatever thread."""
    seen: list[tuple[int, ...]] = []
    original = Codec.decompress

    def counting(self: Codec, data: bytes, shape: tuple[int, int, int] | None = None) -> NDArray[Any]:
        result = original(self, data, shape)
        seen.append(result.shape)
        return result

    monkeypatch.setattr(Codec, "decompress", counting)
    return seen


def run_python(code: str, *arguments: object, **environment: str) -> str:
    """Run code in a process that knows nothing of this one."""
    import os

    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the one-line use ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_what", [str, Path, "model", "digest"])
def test_one_line_compresses_a_users_array(tmp_path: Path, model_path: Path, as_what: Any) -> None:
    array = pixels((2, 100, 90))
    model: Any = hand_made(2)
    if as_what == "digest":
        model_sources.register(hand_made(2))
        model = hand_made(2).sha256
    elif as_what != "model":
        model = as_what(model_path)
    ds = xr.Dataset({"v": (("band", "y", "x"), array)})
    encoding = {"v": {"serializer": HarmoniumCodec(model=model), "chunks": (2, 64, 64), "fill_value": 0}}
    ds.to_zarr(tmp_path / "a.zarr", encoding=encoding, consolidated=False)
    read = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["v"]
    np.testing.assert_array_equal(read.values, decoded_in_one_piece(hand_made(2), array, 64, 0))
    assert read.dtype == np.uint16
    stored = sum(path.stat().st_size for path in (tmp_path / "a.zarr" / "v" / "c").rglob("*") if path.is_file())
    assert stored < array.nbytes / 5


def test_encoding_without_chunks_takes_the_whole_array(tmp_path: Path, model_path: Path) -> None:
    array = pixels((2, 40, 50))
    ds = xr.Dataset({"v": (("band", "y", "x"), array)})
    ds.to_zarr(
        tmp_path / "a.zarr", encoding={"v": {"serializer": HarmoniumCodec(model=model_path)}}, consolidated=False
    )
    assert np.abs(xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["v"].values.astype(int) - array).mean() < 400


def test_one_band_needs_no_band_axis(tmp_path: Path) -> None:
    array = pixels((1, 70, 64))
    ds = xr.Dataset({"v": (("y", "x"), array[0])})
    encoding = {"v": {"serializer": HarmoniumCodec(model=hand_made(1)), "chunks": (64, 64), "fill_value": 0}}
    ds.to_zarr(tmp_path / "a.zarr", encoding=encoding, consolidated=False)
    read = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["v"].values
    np.testing.assert_array_equal(read, decoded_in_one_piece(hand_made(1), array, 64, 0)[0])


def test_times_are_coded_one_by_one(tmp_path: Path) -> None:
    arrays = [pixels((2, 64, 64), seed=seed) for seed in range(3)]
    ds = xr.Dataset({"v": (("time", "band", "y", "x"), np.stack(arrays))})
    encoding = {"v": {"serializer": HarmoniumCodec(model=hand_made(2)), "chunks": (1, 2, 64, 64), "fill_value": 0}}
    ds.to_zarr(tmp_path / "a.zarr", encoding=encoding, consolidated=False)
    read = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["v"].values
    for time, array in enumerate(arrays):
        np.testing.assert_array_equal(read[time], decoded_in_one_piece(hand_made(2), array, 64, 0))


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((2, 64, 64), (1, 64, 64)),
        ((3, 64, 64), (3, 64, 64)),
        ((64, 64), (64, 64)),
        ((2, 2, 64, 64), (2, 2, 64, 64)),
        ((64, 64, 2), (64, 64, 2)),
        ((64,), (64,)),
    ],
)
def test_chunks_that_the_model_cannot_code_are_refused_before_anything_is_written(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...]
) -> None:
    root = zarr.create_group(tmp_path / "a.zarr")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        ModelError, match=r"codes 2 band\(s\) together, .*found chunks of shape .*set them to all bands"
    ):
        root.create_array(
            "v", shape=shape, chunks=chunks, dtype="uint16", serializer=HarmoniumCodec(model=hand_made(2))
        )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint8", ">u2"])
def test_another_type_is_refused_before_anything_is_written(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(ModelError, match=r"codes uint16 pixels, the array holds .*fit another model"):
        zarr.create_array(
            tmp_path / "a.zarr", shape=(2, 8, 8), dtype=dtype, serializer=HarmoniumCodec(model=hand_made(2))
        )
    assert not list(tmp_path.rglob("zarr.json"))


def test_inside_shards_the_first_chunk_is_refused(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(2, 64, 64),
        chunks=(1, 32, 32),
        shards=(2, 64, 64),
        dtype="uint16",
        serializer=HarmoniumCodec(model=hand_made(2)),
    )
    with pytest.raises(ModelError, match="set them to all bands"):
        array[:] = pixels((2, 64, 64))
    assert not list((tmp_path / "a.zarr").rglob("c"))


# --- what comes back exactly ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "fill"), [("uint16", 0), ("uint16", 65535), ("int16", -9999), ("uint8", 255), ("float32", -9999.5)]
)
def test_nodata_is_exact_in_both_directions(tmp_path: Path, dtype: str, fill: float) -> None:
    array = pixels((2, 80, 80), dtype)
    rng = np.random.default_rng(1)
    holes = rng.random(array.shape) < 0.2
    array[holes] = fill
    near = rng.random(array.shape) < 0.1
    if dtype != "float32":  # data beside the fill value, which rounding may bring onto it
        array[near & ~holes] = fill + (1 if fill <= 0 else -1)
    stored = _store(tmp_path, array, fill)
    read = np.asarray(stored[:])
    np.testing.assert_array_equal(read == array.dtype.type(fill), holes)


def test_nan_and_infinities_are_exact(tmp_path: Path) -> None:
    array = pixels((2, 40, 40), "float32")
    array[0, 3:9, 5] = np.nan
    array[1, 2, 2] = np.inf
    array[:, 20, 20] = -np.inf
    read = np.asarray(_store(tmp_path, array, float("nan"))[:])
    odd = ~np.isfinite(array)
    np.testing.assert_array_equal(~np.isfinite(read), odd)
    np.testing.assert_array_equal(read[odd], array[odd])


def _store(tmp_path: Path, array: NDArray[Any], fill: float) -> zarr.Array[Any]:
    stored = zarr.create_array(
        tmp_path / "a.zarr",
        shape=array.shape,
        chunks=(len(array), 32, 32),
        dtype=array.dtype,
        fill_value=fill,
        serializer=HarmoniumCodec(model=hand_made(len(array), array.dtype.name)),
        compressors=None,
    )
    stored[:] = array
    return stored


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path: Path) -> zarr.Array[Any]:
    stored = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(2, 300, 200),
        chunks=(2, 64, 64),
        shards=(2, 128, 128),
        dtype="uint16",
        fill_value=0,
        serializer=HarmoniumCodec(model=hand_made(2)),
        compressors=[Crc32cCodec()],
    )
    stored[:] = pixels((2, 300, 200))
    return stored


@pytest.mark.parametrize(
    ("window", "chunks"),
    [
        (Tile(col_off=0, row_off=0, width=1, height=1), 1),
        (Tile(col_off=60, row_off=60, width=8, height=8), 4),
        (Tile(col_off=130, row_off=10, width=60, height=40), 1),
        (Tile(col_off=0, row_off=0, width=200, height=300), 20),
    ],
)
def test_a_window_decodes_only_the_chunks_that_it_touches(
    sharded: zarr.Array[Any], decoded_chunks: list[tuple[int, ...]], window: Tile, chunks: int
) -> None:
    rows, columns = window.slices
    opened = zarr.open_array(sharded.store, mode="r")
    assert decoded_chunks == []
    read = opened[:, rows, columns]
    assert decoded_chunks == [(2, 64, 64)] * chunks
    whole = decoded_in_one_piece(hand_made(2), pixels((2, 300, 200)), 64, 0)
    np.testing.assert_array_equal(read, whole[:, rows, columns])


def test_opening_reads_neither_pixels_nor_model(
    sharded: zarr.Array[Any], monkeypatch: pytest.MonkeyPatch, decoded_chunks: list[tuple[int, ...]]
) -> None:
    model_sources.forget()

    def refuse(*_: object) -> None:
        raise AssertionError("a model was searched")

    monkeypatch.setattr(model_sources, "load", refuse)
    opened = zarr.open_array(sharded.store, mode="r")
    assert opened.shape == (2, 300, 200)
    assert decoded_chunks == []


def test_many_threads_read_the_same(sharded: zarr.Array[Any]) -> None:
    whole = decoded_in_one_piece(hand_made(2), pixels((2, 300, 200)), 64, 0)
    model_sources.forget()
    model_sources.register_source(hand_made(2).sha256, str(_model_folder(Path(str(sharded.store.root)).parent)))  # type: ignore[attr-defined]
    opened = zarr.open_array(sharded.store, mode="r")
    starts = threading.Barrier(12)

    def read(number: int) -> NDArray[Any]:
        starts.wait()
        return np.asarray(opened[:, number * 7 :, number * 5 :])

    with ThreadPoolExecutor(12) as pool:
        for number, part in enumerate(pool.map(read, range(12))):
            np.testing.assert_array_equal(part, whole[:, number * 7 :, number * 5 :])


def _model_folder(folder: Path) -> Path:
    folder = folder / "models"
    folder.mkdir()
    (folder / "any.harmonium").write_bytes(hand_made(2).data)
    return folder


def test_torch_threads_hold_inside_and_come_back_outside() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    inside, leave = threading.Barrier(2), threading.Barrier(2)
    seen = []

    def stay() -> None:
        with single_threaded():
            inside.wait()
            leave.wait()
            seen.append(torch.get_num_threads())

    def enter() -> None:
        with single_threaded():
            seen.append(torch.get_num_threads())

    staying = threading.Thread(target=stay)
    try:
        staying.start()
        inside.wait()
        second = threading.Thread(target=enter)  # it starts with what was set last: one
        second.start()
        second.join()
        leave.wait()
        staying.join()
        assert seen == [1, 1]
        assert torch.get_num_threads() == 3
        newcomer = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        newcomer.start()
        newcomer.join()
        assert seen == [1, 1, 3]
    finally:
        torch.set_num_threads(before)


# --- other processes -----------------------------------------------------------------------------------------------


def test_fresh_process_with_xarray_alone_reads_pixels_crs_nodata_and_scale(
    tmp_path: Path, make_scene: MakeScene, small_chunks: None
) -> None:
    array = pixels((2, 300, 280), hole=0)
    scene = make_scene(array, nodata=0, scales=(0.0001, 0.0001), offsets=(-0.1, -0.1))
    compress(tmp_path / "a.zarr", [scene], hand_made(2))
    # More chunks at once than zarr's event loop has threads: each of them would wait for the model in one.
    code = """
import sys, faulthandler
faulthandler.dump_traceback_later(60, exit=True)
import xarray as xr
ds = xr.open_zarr(sys.argv[1], mask_and_scale=False, chunks=None)
assert "harmonium.pipeline.archive" not in sys.modules
ds.image.values.tofile(sys.argv[2])
import rioxarray
scaled = xr.open_zarr(sys.argv[1], chunks=None).image
print(ds.rio.crs.to_epsg(), ds.image.rio.crs.to_epsg(), *ds.image.rio.transform()[:6], ds.image.rio.nodata, sep="|")
print(scaled.attrs.get("scale_factor", scaled.encoding["scale_factor"]), scaled.encoding["add_offset"])
print(float(scaled[0, 200, 200]), bool(scaled[0, 0, 0].isnull()), *ds.band.values)
"""
    out = run_python(code, tmp_path / "a.zarr" / "scenes" / "here" / "r10m", tmp_path / "pixels")
    read = np.fromfile(tmp_path / "pixels", np.uint16).reshape(array.shape)
    expected = decoded_in_one_piece(hand_made(2), array, 64, 0)
    np.testing.assert_array_equal(read, expected)
    geo, radiometry, values = out.splitlines()
    assert geo == "32633|32633|10.0|0.0|500000.0|0.0|-10.0|5000000.0|0"
    assert radiometry == "0.0001 -0.1"
    value, is_null, *names = values.split()
    assert float(value) == pytest.approx(expected[0, 200, 200] * 0.0001 - 0.1, rel=1e-6)
    assert (is_null, names) == ("True", ["B01", "B02"])


def test_pickle_carries_the_source_to_a_process_that_never_opened_the_archive(
    tmp_path: Path, make_scene: MakeScene, small_chunks: None
) -> None:
    array = pixels((2, 130, 130))
    compress(tmp_path / "a.zarr", [make_scene(array)], hand_made(2))
    (tmp_path / "a.zarr").rename(tmp_path / "moved.zarr")
    from harmonium.pipeline.archive import open_archive

    model_sources.forget()
    lazy = open_archive(tmp_path / "moved.zarr")["here"]["r10m"].open()
    (tmp_path / "lazy.pickle").write_bytes(pickle.dumps(lazy))
    code = """
import sys, pickle
lazy = pickle.load(open(sys.argv[1], "rb"))
lazy.values.tofile(sys.argv[2])
"""
    run_python(code, tmp_path / "lazy.pickle", tmp_path / "pixels")
    read = np.fromfile(tmp_path / "pixels", np.uint16).reshape(array.shape)
    np.testing.assert_array_equal(read, decoded_in_one_piece(hand_made(2), array, 64, 0))


def test_pickles_do_not_make_a_foreign_hint_a_known_source() -> None:
    codec = HarmoniumCodec(model="0" * 64, group="r10m", source="memory://somewhere")
    again = pickle.loads(pickle.dumps(codec))
    assert (again, hash(again)) == (codec, hash(codec))
    assert model_sources.known_source("0" * 64) is None


# --- JSON ----------------------------------------------------------------------------------------------------------


def test_json_is_what_the_format_says() -> None:
    codec = HarmoniumCodec(model=hand_made(2), source="/archives/a.zarr")
    document = codec.to_dict()
    assert json.loads(json.dumps(document)) == {
        "name": "harmonium",
        "configuration": {"model": hand_made(2).sha256, "group": "r10m", "source": "/archives/a.zarr"},
    }
    assert HarmoniumCodec.from_dict(document) == codec


@pytest.mark.parametrize("configuration", [None, [], "x"])
def test_json_without_a_configuration(configuration: object) -> None:
    with pytest.raises(ModelError, match="The codec 'harmonium' needs"):
        HarmoniumCodec.from_dict({"name": "harmonium", "configuration": configuration})


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"model": "../../etc/passwd", "group": "r10m"},
        {"model": 5, "group": "r10m"},
        {"model": "A" * 64, "group": "r10m"},
        {"model": "a" * 64},
        {"model": "a" * 64, "group": None},
        {"model": "a" * 64, "group": ["r10m"]},
        {"model": "a" * 64, "group": "r10m", "source": 7},
        {"model": "a" * 64, "group": "r10m", "source": {"protocol": "reference"}},
    ],
)
def test_hostile_json_is_refused_when_the_array_is_opened(
    sharded: zarr.Array[Any], tmp_path: Path, configuration: object
) -> None:
    path = tmp_path / "a.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    inner = document["codecs"][0]["configuration"]["codecs"][0]
    assert inner["name"] == "harmonium"
    inner["configuration"] = configuration
    path.write_text(json.dumps(document))
    with pytest.raises(ModelError, match="The codec 'harmonium' needs"):
        zarr.open_array(tmp_path / "a.zarr", mode="r")


@pytest.mark.parametrize("hint", ["reference://x", "simplecache::http://h/x", "file:///tmp/x", "zip://a::/b", "\0", ""])
def test_a_hint_leads_to_no_file_system_that_unpacks_or_templates(hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(zarr, "open_array", lambda source, **_: opened.append(source))
    with pytest.raises((ModelNotFound, ModelError)):
        HarmoniumCodec(model="a" * 64, group="r10m", source=hint).codec()
    assert all("://" not in source for source in opened)


def test_hostile_chunks_ask_for_no_memory(sharded: zarr.Array[Any], tmp_path: Path) -> None:
    path = tmp_path / "a.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    side = 1 << 20
    document["shape"] = [2, side, side]
    document["chunk_grid"]["configuration"]["chunk_shape"] = [2, 2 * side, 2 * side]
    document["codecs"][0]["configuration"]["chunk_shape"] = [2, side, side]
    path.write_text(json.dumps(document))
    with pytest.raises(PayloadError, match="Expected a chunk of shape"):
        zarr.open_array(tmp_path / "a.zarr", mode="r")[:, :1, :1]


# --- which group ---------------------------------------------------------------------------------------------------


def two_groups() -> ModelFile:
    groups = {**hand_made(2).groups, **hand_made(1, resolution=20.0, group="r20m").groups}
    return model_file.make(groups)


def test_a_model_of_several_groups_asks_which() -> None:
    with pytest.raises(ModelError, match="has the groups r10m, r20m; say which with group="):
        HarmoniumCodec(model=two_groups())
    with pytest.raises(ModelError, match="has the groups r10m, r20m, not 'r60m'"):
        HarmoniumCodec(model=two_groups(), group="r60m")
    assert HarmoniumCodec(model=two_groups(), group="r20m").codec().radiometry.bands == 1


def test_a_group_that_the_stored_model_lacks_is_named(sharded: zarr.Array[Any], tmp_path: Path) -> None:
    path = tmp_path / "a.zarr" / "zarr.json"
    path.write_text(path.read_text().replace('"r10m"', '"r60m"'))
    with pytest.raises(ModelError, match="has the groups r10m, not 'r60m'"):
        zarr.open_array(tmp_path / "a.zarr", mode="r")[:]


def test_array_to_array_codecs_may_stand_before_it_where_the_model_is_not_at_hand(tmp_path: Path) -> None:
    array = pixels((2, 64, 64))
    model_path = tmp_path / "m.harmonium"
    model_path.write_bytes(hand_made(2).data)
    codec = HarmoniumCodec(model=hand_made(2).sha256, group="r10m", source=str(model_path))
    stored = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(64, 64, 2),
        chunks=(64, 64, 2),
        dtype="uint16",
        filters=[TransposeCodec(order=(2, 0, 1))],
        serializer=codec,
    )
    stored[:] = array.transpose(1, 2, 0)
    read = np.asarray(stored[:]).transpose(2, 0, 1)
    np.testing.assert_array_equal(read, decoded_in_one_piece(hand_made(2), array, 64, 0))


# --- targets -------------------------------------------------------------------------------------------------------


def packaged_codec(target: Target | None = None, **changed: Any) -> HarmoniumCodec:
    return HarmoniumCodec(target=target, **{"dtype": "uint16", "bands": 2, **changed})


def test_a_packaged_model_needs_one_line_and_a_fresh_process_no_file(tmp_path: Path) -> None:
    array = pixels((2, 100, 90), hole=0)
    ds = xr.Dataset({"v": (("band", "y", "x"), array)})
    encoding = {"v": {"serializer": packaged_codec(MaxError(2)), "chunks": (2, 64, 64), "fill_value": 0}}
    ds.to_zarr(tmp_path / "a.zarr", encoding=encoding, consolidated=False)
    code = """
import sys
import xarray as xr
xr.open_zarr(sys.argv[1], consolidated=False, chunks=None).v.values.tofile(sys.argv[2])
"""
    run_python(code, tmp_path / "a.zarr", tmp_path / "pixels")
    read = np.fromfile(tmp_path / "pixels", np.uint16).reshape(array.shape)
    assert np.abs(read.astype(int) - array).max() <= 2
    np.testing.assert_array_equal(read == 0, array == 0)
    expected = decoded_in_one_piece(packaged_codec(MaxError(2)).packaged.model(), array, 64, 0, MaxError(2))  # type: ignore[union-attr]
    np.testing.assert_array_equal(read, expected)
    stored = sum(path.stat().st_size for path in (tmp_path / "a.zarr" / "v" / "c").rglob("*") if path.is_file())
    assert stored < array.nbytes / 2


def test_json_of_a_packaged_model_says_how_to_build_it() -> None:
    codec = packaged_codec(Psnr((45, 48)), peak=4096)
    document = json.loads(json.dumps(codec.to_dict()))
    model_sources.forget()
    assert document == {
        "name": "harmonium",
        "configuration": {
            "model": codec.model,
            "group": "array",
            "target": {"psnr": [45.0, 48.0]},
            "packaged": {"name": "transform", "dtype": "uint16", "bands": 2, "peak": 4096.0},
        },
    }
    again = HarmoniumCodec.from_dict(document)
    assert (again, hash(again)) == (codec, hash(codec))
    assert again.codec().radiometry.peak == 4096


def test_pickles_keep_target_and_packaged_model() -> None:
    codec = packaged_codec(Step(3))
    data, twin = pickle.dumps(codec), packaged_codec(Step(4))
    model_sources.forget()
    again = pickle.loads(data)
    assert again == codec
    assert again != twin
    assert again.codec().radiometry.bands == 2


@pytest.mark.parametrize("changed", ["digest", "name"])
def test_networks_of_another_harmonium_are_not_taken_but_a_file_is(tmp_path: Path, changed: str) -> None:
    codec = packaged_codec(Step(3))
    (tmp_path / "kept.harmonium").write_bytes(model_sources.load(codec.model).data)
    configuration = codec.to_dict()["configuration"]
    if changed == "digest":
        configuration["model"] = "0" * 64
    else:
        configuration["packaged"]["name"] = "wavelet"
    model_sources.forget()
    opened = HarmoniumCodec.from_dict({"name": "harmonium", "configuration": configuration})
    with pytest.raises(ModelNotFound, match=r"No source has the model .*\. It is the packaged model '.*; install the"):
        opened.codec()
    if changed == "name":
        model_sources.register_source(codec.model, str(tmp_path / "kept.harmonium"))
        assert opened.codec().radiometry.bands == 2


def test_a_model_file_may_take_targets_too(tmp_path: Path) -> None:
    array = pixels((2, 70, 64))
    ds = xr.Dataset({"v": (("band", "y", "x"), array)})
    serializer = HarmoniumCodec(model=any_rate(2), target=Lossless())
    ds.to_zarr(tmp_path / "a.zarr", encoding={"v": {"serializer": serializer, "fill_value": 0}}, consolidated=False)
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["v"].values, array)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "uint16", "bands": 2}, "This model needs a target: one of Step, Psnr, Ratio, MaxError, Lossless"),
        ({"model": any_rate(2)}, "needs a target"),
        ({"model": hand_made(2), "target": Psnr(45)}, "was fitted for one rate and takes no target"),
        ({"model": any_rate(2), "target": Psnr((45, 45, 45))}, "for each band needs 2 values, found 3"),
        ({"target": Psnr(45)}, "needs dtype=, one of uint8, .* and bands=, 1 to 4096; found dtype=None, bands=None"),
        ({"target": Psnr(45), "dtype": "int64", "bands": 2}, "found dtype='int64'"),
        ({"target": Psnr(45), "dtype": "uint8", "bands": 0}, "bands=0"),
        ({"target": Psnr(45), "dtype": "uint8", "bands": 2, "peak": -1}, "range of DN above 0, found -1"),
        ({"model": any_rate(2), "target": Psnr(45), "bands": 2}, "dtype, bands and peak are chosen for packaged"),
    ],
)
def test_what_does_not_go_together_is_refused_before_there_is_a_codec(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, ModelError), match=message):
        HarmoniumCodec(**arguments)


@pytest.mark.parametrize(
    "changed",
    [
        {"target": {"psnr": -1}},
        {"target": "psnr"},
        {"target": {"psnr": 45, "ratio": 2}},
        {"packaged": 7},
        {"packaged": {"name": "transform"}},
        {"packaged": {"name": "transform", "dtype": "uint16", "bands": 2, "peak": float("nan")}},
        {"packaged": {"name": ["x"], "dtype": "uint16", "bands": 2, "peak": 1.0}},
        {"packaged": {"name": "transform", "dtype": "uint16", "bands": 1 << 40, "peak": 1.0}},
        {"packaged": {"name": "transform", "dtype": "uint16", "bands": 2, "peak": None, "more": 1}},
    ],
)
def test_hostile_targets_and_packaged_models(changed: dict[str, Any]) -> None:
    document = packaged_codec(Step(3)).to_dict()
    document["configuration"] |= changed
    with pytest.raises(ModelError, match="The codec 'harmonium'"):
        HarmoniumCodec.from_dict(document)


def test_reading_needs_no_target(tmp_path: Path) -> None:
    array = pixels((2, 40, 40))
    stored = zarr.create_array(
        tmp_path / "a.zarr",
        shape=array.shape,
        chunks=array.shape,
        dtype="uint16",
        serializer=packaged_codec(MaxError(1)),
    )
    stored[:] = array
    path = tmp_path / "a.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    del document["codecs"][0]["configuration"]["target"]
    path.write_text(json.dumps(document))
    opened = zarr.open_array(tmp_path / "a.zarr", mode="r+")
    np.testing.assert_allclose(np.asarray(opened[:]).astype(int), array, atol=1)
    with pytest.raises(ValueError, match="needs a target"):
        opened[:] = array
