from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from harmonium.errors import ArchiveError, SceneError
from harmonium.models.model_file import ModelFile
from harmonium.models.quality import measure
from harmonium.pipeline import overview
from harmonium.pipeline.archive import Archive
from harmonium.pipeline.cluster import Executor, InProcess, OnDask
from harmonium.pipeline.compress import SceneDone, SceneFailed, with_groups
from harmonium.pipeline.scene import GeoreferenceWarning, open_scene
from harmonium.pipeline.stats import valid_mask

from .archives import compress, decoded_in_one_piece, hand_made, local_cluster, pixels, shard_files, shards_made, tree
from .conftest import MakeScene, WriteGeotiff

pytestmark = pytest.mark.usefixtures("fresh_models")


def image_of(archive: Archive, scene_id: str = "here") -> NDArray[Any]:
    group = next(iter(archive[scene_id].values()))
    return np.asarray(group.image[:])


# --- the same bytes ------------------------------------------------------------------------------------------------


def test_same_bytes_in_process_on_dask_and_again(tmp_path: Path, make_scene: MakeScene, small_chunks: None) -> None:
    scenes = [
        make_scene(pixels((2, 300, 200), seed=1, hole=0), "one", nodata=0),
        make_scene(pixels((2, 90, 400), seed=2), "two"),
    ]
    url = tmp_path / "a.zarr"
    trees: list[dict[str, bytes]] = []

    def run(executor: Executor) -> None:
        _, events = compress(url, scenes, hand_made(2), executor)
        assert (shards_made(events), sum(isinstance(event, SceneDone) for event in events)) == (6 + 4, 2)
        trees.append(tree(url))
        url.rename(tmp_path / f"{len(trees)}.zarr")

    run(InProcess())
    run(InProcess())
    with local_cluster(1) as client:
        run(OnDask(client, "one worker"))
        client.cluster.scale(2)
        client.wait_for_workers(2)
        run(OnDask(client, "two workers"))
    assert all(each == trees[0] for each in trees)


def test_running_it_twice_changes_nothing(tmp_path: Path, make_scene: MakeScene, small_chunks: None) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((2, 200, 200)))
    compress(url, [scene], hand_made(2))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in url.rglob("*")}
    _, events = compress(url, [scene], hand_made(2))
    assert events == [SceneDone(scene_id="here", resumed=True)]
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in url.rglob("*")} == before


# --- shapes, types, values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(5, 3), (1, 1), (8, 8), (131, 77), (65, 129), (700, 20)])
def test_odd_sizes_come_back_as_chunks_decode(
    tmp_path: Path, make_scene: MakeScene, small_chunks: None, height: int, width: int
) -> None:
    array = pixels((2, height, width))
    archive, events = compress(tmp_path / "a.zarr", [make_scene(array)], hand_made(2))
    assert isinstance(events[-1], SceneDone)
    chunk = min(64, -(-max(height, width) // 8) * 8)
    np.testing.assert_array_equal(image_of(archive), decoded_in_one_piece(hand_made(2), array, chunk, 0))
    opened = archive["here"]["r10m"].open(chunks=None)
    assert opened.shape == array.shape
    np.testing.assert_allclose(opened.x, 500_005 + 10 * np.arange(width))
    np.testing.assert_allclose(opened.y, 4_999_995 - 10 * np.arange(height))


def test_a_scene_of_several_shards_in_real_sizes(tmp_path: Path, make_scene: MakeScene) -> None:
    array = pixels((2, 2100, 700))
    archive, events = compress(tmp_path / "a.zarr", [make_scene(array)], hand_made(2))
    image = archive["here"]["r10m"].image
    assert (image.chunks, image.shards, shards_made(events)) == ((2, 512, 512), (2, 2048, 1024), 2)
    assert len(shard_files(tmp_path / "a.zarr")) == 2
    np.testing.assert_array_equal(image_of(archive), decoded_in_one_piece(hand_made(2), array, 512, 0))


def test_a_scene_without_data_takes_almost_nothing(tmp_path: Path, make_scene: MakeScene, small_chunks: None) -> None:
    array = np.full((2, 256, 256), 7, np.uint16)
    archive, _ = compress(tmp_path / "a.zarr", [make_scene(array, nodata=7)], hand_made(2))
    np.testing.assert_array_equal(image_of(archive), array)
    quality = archive["here"]["r10m"].quality()
    assert quality.nbytes < 16 * 150
    assert quality.count.tolist() == [0, 0]
    assert np.isnan(quality.mse).all()
    np.testing.assert_array_equal(zarr.open_array(archive.url, path="scenes/here/r10m/overview/32")[:], 7)


@pytest.mark.parametrize("nodata", [-9999, -32768, 32767, None])
def test_nodata_of_signed_integers(
    tmp_path: Path, make_scene: MakeScene, small_chunks: None, nodata: int | None
) -> None:
    hole = 0 if nodata is None else nodata
    array = pixels((2, 100, 100), "int16", hole=hole)
    archive, _ = compress(tmp_path / "a.zarr", [make_scene(array, nodata=nodata)], hand_made(2, "int16"))
    np.testing.assert_array_equal(image_of(archive) == hole, array == hole)
    opened = archive["here"]["r10m"].open(chunks=None)
    assert opened.rio.nodata == nodata


@pytest.mark.parametrize("nodata", [None, float("nan"), -9999.0, -3.4028234663852886e38])
def test_float_scenes_with_nan_and_infinities(
    tmp_path: Path, make_scene: MakeScene, small_chunks: None, nodata: float | None
) -> None:
    array = pixels((2, 100, 100), "float32", hole=None)
    array[:, :20, :30] = np.nan
    array[0, 50, 50], array[1, 51, 51] = np.inf, -np.inf
    if nodata is not None:
        array[:, 70:, 70:] = nodata
    archive, _ = compress(tmp_path / "a.zarr", [make_scene(array, nodata=nodata)], hand_made(2, "float32"))
    read = image_of(archive)
    special = ~valid_mask(array, nodata)
    np.testing.assert_array_equal(read[special], array[special])
    assert np.isfinite(read[~special]).all()
    assert np.abs(read[~special] - array[~special]).max() < 2
    stored = archive["here"]["r10m"].open(chunks=None).rio.nodata
    assert stored == nodata if nodata is None or nodata == nodata else np.isnan(stored)


def test_a_scene_without_crs(tmp_path: Path, write_geotiff: WriteGeotiff, small_chunks: None) -> None:
    array = pixels((2, 70, 70))
    path = write_geotiff(tmp_path / "n.tif", array, crs=None, transform=None, descriptions=("B01", "B02"))
    with pytest.warns(GeoreferenceWarning):
        scene = open_scene(path)
    model = hand_made(2, resolution=None, group=scene.groups[0].name)
    archive, events = compress(tmp_path / "a.zarr", [scene], model)
    assert isinstance(events[-1], SceneDone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = archive["n"][scene.groups[0].name].open(chunks=None)
    assert opened.rio.crs is None
    np.testing.assert_array_equal(opened.values, decoded_in_one_piece(model, array, 64, 0))


# --- what is stored beside the pixels ------------------------------------------------------------------------------


def test_quality_arrays_are_what_numpy_measures_on_the_whole_scene(
    tmp_path: Path, make_scene: MakeScene, small_chunks: None
) -> None:
    array = pixels((2, 150, 200), hole=0)
    archive, _ = compress(tmp_path / "a.zarr", [make_scene(array, nodata=0)], hand_made(2))
    group = archive["here"]["r10m"]
    read, stored = image_of(archive), group.quality_by_chunk()
    error = read.astype(np.float64) - array
    codec = next(iter(hand_made(2).groups.values())).codec
    for row, column in np.ndindex(3, 4):
        here = (slice(None), slice(row * 64, row * 64 + 64), slice(column * 64, column * 64 + 64))
        chunk = stored.isel(chunk_y=row, chunk_x=column)
        for band in range(2):
            valid = (array[here] != 0)[band]
            squared = (error[here][band][valid] ** 2).mean() if valid.any() else np.nan
            assert int(chunk["count"][band]) == valid.sum()
            np.testing.assert_allclose(float(chunk["mse"][band]), squared, rtol=1e-12)
            largest = np.abs(error[here][band][valid]).max() if valid.any() else 0
            assert float(chunk["max_error"][band]) == largest
        padded = np.zeros((2, 64, 64), np.uint16)
        piece = array[here]
        padded[:, : piece.shape[1], : piece.shape[2]] = piece
        assert int(chunk["bytes"]) == len(codec.compress(padded, 0).payload)
        names = chunk["mode"].attrs["flag_meanings"].split()
        assert names[int(chunk["mode"])] == ("empty" if not piece.any() else "learned")
    whole = measure(array, read, array != 0, 0)
    np.testing.assert_array_equal(group.quality().count, whole.count)
    np.testing.assert_allclose(group.quality().squared_error, whole.squared_error, rtol=1e-9)


@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", 0), ("float32", float("nan")), ("int16", None)])
def test_overviews_are_the_reduction_of_the_whole(
    tmp_path: Path, make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch, small_chunks: None, dtype: str, nodata: Any
) -> None:
    monkeypatch.setattr(overview, "SMALLEST_SIDE", 3)
    monkeypatch.setattr(overview.levels, "__defaults__", (32, 3))
    array = pixels((2, 500, 330), dtype)
    fill = nodata if nodata is not None else 0
    array[:, :100, :150] = fill
    archive, _ = compress(tmp_path / "a.zarr", [make_scene(array, nodata=nodata)], hand_made(2, dtype))
    level, factor = array, 32
    sizes = []
    for _ in range(4):
        level = overview.reduce_by(level, factor if level is array else 2, valid_mask(level, fill), nodata=fill)
        stored = zarr.open_array(archive.url, path=f"scenes/here/r10m/overview/{factor}", mode="r")
        np.testing.assert_array_equal(stored[:], level)
        sizes.append(level.shape[1:])
        factor *= 2
    assert sizes == [(16, 11), (8, 6), (4, 3), (2, 2)]


# --- refused before anything is written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "model", "message"),
    [
        ((3, 40, 40), "uint16", hand_made(2), "the model's bands are B01, B02, found B01, B02, B03; fit"),
        ((2, 40, 40), "int16", hand_made(2), "the model is for uint16 pixels, found int16; fit"),
        (
            (2, 40, 40),
            "uint16",
            hand_made(2, resolution=30.0),
            "the model is for pixels of 30, found 10 units",
        ),
        ((2, 40, 40), "uint16", hand_made(2, group="r60m"), "the model has the groups r60m; fit one that has it"),
    ],
)
def test_scenes_unlike_the_model_leave_nothing_behind(
    tmp_path: Path, make_scene: MakeScene, shape: tuple[int, int, int], dtype: str, model: ModelFile, message: str
) -> None:
    with pytest.raises(SceneError, match=f"Scene odd, group r10m: {message}"):
        compress(tmp_path / "a.zarr", [make_scene(pixels(shape, dtype), "odd")], model)
    assert not (tmp_path / "a.zarr").exists()


def test_two_scenes_of_one_name(tmp_path: Path, make_scene: MakeScene) -> None:
    scene = make_scene(pixels((2, 40, 40)))
    with pytest.raises(SceneError, match="need different names, found here"):
        compress(tmp_path / "a.zarr", [scene, scene], hand_made(2))
    assert not (tmp_path / "a.zarr").exists()


def test_names_that_the_archive_has_for_something_else(
    tmp_path: Path, make_scene: MakeScene, small_chunks: None
) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((2, 40, 40)))
    compress(url, [scene], hand_made(2))
    before = tree(url)
    other_model = hand_made(2, resolution=None)
    for changed, model, message in (
        (
            replace(scene, source=("/elsewhere.tif",)),
            hand_made(2),
            "has a scene here from .*, this one is from /elsewhere",
        ),
        (scene, other_model, "coded by model .*, not by .*; name it anew with --id, or delete"),
        (
            replace(scene, groups=(scene.groups[0], replace(scene.groups[0], name="r20m"))),
            None,
            "with the groups r10m, not r10m, r20m",
        ),
    ):
        archive = Archive(str(url))
        from harmonium.pipeline.compress import check_archive

        with pytest.raises(ArchiveError, match=message):
            check_archive(archive, [changed], model or hand_made(2))
    assert tree(url) == before


def test_groups_by_name(make_scene: MakeScene) -> None:
    scene = make_scene(pixels((2, 40, 40)))
    assert with_groups(scene, []) is scene
    assert with_groups(scene, ["r10m"]).groups == scene.groups
    with pytest.raises(SceneError, match="r60m"):
        with_groups(scene, ["r60m"])


# --- one scene that fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["reading", "preparing"])
def test_one_poisonous_scene_does_not_stop_the_others(
    tmp_path: Path, make_scene: MakeScene, small_chunks: None, when: str
) -> None:
    scenes = [make_scene(pixels((2, 150, 150), seed=seed), name) for seed, name in enumerate(["a", "poison", "z"])]
    file = Path(scenes[1].source[0])
    whole = file.read_bytes()
    blocker = tmp_path / "a.zarr" / "scenes" / "poison"
    if when == "reading":
        file.write_bytes(whole[:2000])  # the header is whole, the pixels are not
    else:
        compress(tmp_path / "a.zarr", scenes[:1], hand_made(2))
        blocker.write_text("a file where a folder should be")
    archive, events = compress(tmp_path / "a.zarr", scenes, hand_made(2))
    failed = [event for event in events if isinstance(event, SceneFailed)]
    assert [event.scene_id for event in failed] == ["poison"]
    assert [archive[name].state for name in ("a", "z")] == ["complete", "complete"]
    if when == "reading":
        assert isinstance(failed[0].error, SceneError)
        assert "poison.tif" in str(failed[0].error)
        assert archive["poison"].state == "writing"
        file.write_bytes(whole)
    else:
        blocker.unlink()
    archive, events = compress(tmp_path / "a.zarr", scenes, hand_made(2))
    assert not any(isinstance(event, SceneFailed) for event in events)
    np.testing.assert_array_equal(
        image_of(archive, "poison"), decoded_in_one_piece(hand_made(2), pixels((2, 150, 150), seed=1), 64, 0)
    )
