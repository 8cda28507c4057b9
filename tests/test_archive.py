from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from harmonium.errors import ArchiveError, HarmoniumError, ModelNotFound, PayloadError, SceneNotFound
from harmonium.models.codec import Codec
from harmonium.pipeline import model_sources, scene_layout, views
from harmonium.pipeline.archive import Archive, create_archive, open_archive

from .archives import compress, decoded_in_one_piece, hand_made, pixels, shard_files
from .conftest import MakeScene

pytestmark = pytest.mark.usefixtures("fresh_models", "small_chunks")


@pytest.fixture
def archive(tmp_path: Path, make_scene: MakeScene) -> Archive:
    return compress(tmp_path / "a.zarr", [make_scene(pixels((2, 150, 200)))], hand_made(2))[0]


def change_attributes(path: Path, change: Any) -> None:
    document = json.loads((path / "zarr.json").read_text())
    change(document["attributes"])
    (path / "zarr.json").write_text(json.dumps(document))


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "zarr.json").write_text("{")
    zarr.create_array(tmp_path / "array", shape=(2, 2), dtype="u1")
    for name in ("nothing", "file", "folder", "broken", "array"):
        with pytest.raises(ArchiveError, match=rf"No archive at .*{name}; `harmonium compress SCENE\.\.\. -a"):
            open_archive(tmp_path / name)
    zarr.create_group(tmp_path / "group", attributes={"harmonium": "mine"})
    with pytest.raises(ArchiveError, match="is a Zarr group, but not a harmonium archive"):
        open_archive(tmp_path / "group")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", ["file", "folder", "group", "array"])
def test_nothing_that_is_there_is_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("x")
    zarr.create_group(tmp_path / "group")
    zarr.create_array(tmp_path / "array", shape=(2, 2), dtype="u1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(HarmoniumError):
        create_archive(tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_empty_folder_becomes_an_archive_and_an_archive_stays(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    create_archive(tmp_path / "a.zarr").add_model(hand_made(2))
    assert create_archive(tmp_path / "a.zarr").models() == [hand_made(2).sha256]


def test_an_archive_in_another_store(make_scene: MakeScene) -> None:
    array = pixels((2, 100, 100))
    for _ in range(2):
        archive, _ = compress("memory://test-archive", [make_scene(array)], hand_made(2))
    read = np.asarray(archive["here"]["r10m"].image[:])
    np.testing.assert_array_equal(read, decoded_in_one_piece(hand_made(2), array, 64, 0))


@pytest.mark.parametrize("version", [2, "1", 1.5, None, [1]])
def test_unknown_format_versions(archive: Archive, version: object) -> None:
    change_attributes(Path(archive.url), lambda own: own["harmonium"].update(format=version))
    with pytest.raises(ArchiveError, match=r"reads format 1: upgrade it|not a harmonium archive"):
        open_archive(archive.url)


def test_unknown_payload_version(archive: Archive) -> None:
    image = archive["here"]["r10m"].image
    writable = zarr.open_array(archive.url, path=image.path, mode="r+")
    data = views.one_payload(views.payloads(image), 0, 0)
    one = np.empty((1, 1), dtype=object)
    one[0, 0] = b"\x09" + data[1:]
    views.payloads(writable, writable=True)[0, :1, :1] = one
    with pytest.raises(PayloadError, match="Payload version 9; this harmonium reads versions 1 to 2: upgrade"):
        archive["here"]["r10m"].image[:, :8, :8]
    archive["here"]["r10m"].image[:, :8, 70:]


def test_scene_names_are_never_paths(archive: Archive, tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "a.zarr" / "outside", attributes={"harmonium": {"state": "complete"}})
    for name in ("../outside", "..", ".", "", "a/b", "here/r10m", "here/", "/here", "zarr.json", "here\n", "nope"):
        assert name not in archive
        with pytest.raises(SceneNotFound, match=r"No scene .* in .*a\.zarr; `harmonium ls"):
            archive[name]
    assert list(archive) == ["here"]
    assert len(archive) == 1
    scene = archive["here"]
    for name in ("../here/r10m", "r60m", ""):
        assert name not in scene
        with pytest.raises(SceneNotFound, match="Scene here has the resolution groups r10m, not"):
            scene[name]


@pytest.mark.parametrize("groups", [[], ["../../outside"], ["r10m", 5], "r10m", None, [""], ["."], ["a/b"]])
def test_scene_whose_groups_are_none_or_paths(archive: Archive, groups: object) -> None:
    change_attributes(Path(archive.url) / "scenes" / "here", lambda own: own["harmonium"].update(groups=groups))
    with pytest.raises(ArchiveError, match=r"here.*groups.*; delete scenes/here in the archive and compress"):
        tuple(archive["here"])


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"zarr_format": 3, "node_type": "group", "attributes": {}}'])
def test_scene_whose_metadata_are_damaged(archive: Archive, damage: str) -> None:
    (Path(archive.url) / "scenes" / "here" / "zarr.json").write_text(damage)
    assert list(archive) == ["here"]
    with pytest.raises(ArchiveError, match=r"here.*; delete scenes/here in the archive and compress the scene again"):
        _ = archive["here"].state


def test_what_a_scene_tells(archive: Archive) -> None:
    scene = archive["here"]
    assert (scene.state, scene.model, tuple(scene), len(scene)) == ("complete", hand_made(2).sha256, ("r10m",), 1)
    assert scene.item["id"] == "here"
    group = scene["r10m"]
    assert (group.name, group.bands, group.peak) == ("r10m", ("B01", "B02"), 4096.0)
    quality, chunks = group.quality(), group.quality_by_chunk()
    assert quality.nbytes == int(chunks["bytes"].sum())
    error = np.asarray(group.image[:]).astype(np.int64) - pixels((2, 150, 200))
    np.testing.assert_allclose(quality.mse, (error**2).mean(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_array_equal(quality.max_error, np.abs(error).max(axis=(1, 2)))


def test_opening_lists_and_tells_without_a_model_and_without_pixels(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in shard_files(Path(archive.url)):
        file.unlink()
    model_sources.forget()
    monkeypatch.setattr(model_sources, "load", None)
    monkeypatch.setattr(Codec, "decompress", None)
    opened = open_archive(archive.url)["here"]["r10m"]
    assert opened.open().shape == (2, 150, 200)
    assert opened.peak == 4096.0
    assert opened.quality().count.tolist() == [30_000, 30_000]


def test_pixels_can_be_decoded_by_xarray(tmp_path: Path, make_scene: MakeScene) -> None:
    array = pixels((2, 100, 100), "int16", hole=-9999)
    scene = make_scene(array, nodata=-9999, scales=(0.5, 0.5), offsets=(3.0, 3.0))
    archive, _ = compress(tmp_path / "i.zarr", [scene], hand_made(2, "int16"))
    group = archive["here"]["r10m"]
    native, scaled = group.open(chunks=None), group.open(decode=True)
    assert (native.dtype, native.rio.nodata, native.rio.crs.to_epsg()) == (np.dtype("int16"), -9999, 32633)
    np.testing.assert_array_equal(scaled.isnull(), array == -9999)
    valid = array != -9999
    np.testing.assert_allclose(scaled.values[valid], native.values[valid] * 0.5 + 3.0, rtol=1e-6)
    assert scaled.chunks is not None


def test_moved_archive_opens_where_the_models_are_known(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved.zarr"
    Path(archive.url).rename(moved)
    expected = decoded_in_one_piece(hand_made(2), pixels((2, 150, 200)), 64, 0)

    def plain() -> Any:
        model_sources.forget()
        return zarr.open_array(moved, path="scenes/here/r10m/image", mode="r")

    with pytest.raises(ModelNotFound, match="No source has the model"):
        plain()[:]
    array = plain()
    open_archive(moved)
    np.testing.assert_array_equal(array[:], expected)
    monkeypatch.setenv("HARMONIUM_MODELS", str(moved))
    np.testing.assert_array_equal(plain()[:], expected)
    monkeypatch.delenv("HARMONIUM_MODELS")
    moved.rename(archive.url)
    model_sources.forget()  # read once through the hint, it is in the cache
    zarr.open_array(archive.url, path="scenes/here/r10m/image", mode="r")[:]
    Path(archive.url).rename(moved)
    np.testing.assert_array_equal(plain()[:], expected)


def test_missing_model_is_named_by_digest_and_places(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    shutil.rmtree(Path(archive.url) / "models" / hand_made(2).sha256)
    model_sources.forget()
    monkeypatch.setenv("HARMONIUM_MODELS", "/nowhere/models")
    with pytest.raises(ModelNotFound) as caught:
        archive["here"]["r10m"].image[:]
    for part in (hand_made(2).sha256, "/nowhere/models", str(model_sources.cache_folder()), archive.url):
        assert part in str(caught.value)


def test_works_inside_a_running_event_loop(tmp_path: Path, make_scene: MakeScene) -> None:
    """As in Jupyter."""
    array = pixels((2, 150, 200))
    scene = make_scene(array)

    async def cell() -> Any:
        archive, _ = compress(tmp_path / "j.zarr", [scene], hand_made(2))
        assert scene_layout.missing_shards(archive.url, "scenes/here/r10m") == []
        model_sources.forget()
        opened = open_archive(archive.url)["here"]["r10m"]
        return np.asarray(opened.image[:]), opened.codes.values.shape

    read, shape = asyncio.run(cell())
    np.testing.assert_array_equal(read, decoded_in_one_piece(hand_made(2), array, 64, 0))
    assert shape == (8, 19, 25)
