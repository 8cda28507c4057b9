from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from harmonium.errors import HarmoniumError, SceneNotFound
from harmonium.pipeline import model_sources, scene_layout
from harmonium.pipeline.archive import Archive, open_archive
from harmonium.pipeline.chunk_payloads import UNREADABLE
from harmonium.pipeline.cluster import InProcess
from harmonium.pipeline.decompress import decompress
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.verify import verify

from .archives import compress, hand_made, pixels, shard_files
from .conftest import MakeScene

pytestmark = pytest.mark.usefixtures("fresh_models", "small_chunks")

SHAPE = (2, 300, 200)
CHUNKS = 5 * 4


@pytest.fixture
def scene(make_scene: MakeScene) -> Scene:
    return make_scene(pixels(SHAPE, hole=0), nodata=0)


@pytest.fixture
def archive(tmp_path: Path, scene: Scene, make_scene: MakeScene) -> Archive:
    sound = make_scene(pixels((2, 60, 60)), "sound")
    return compress(tmp_path / "a.zarr", [scene, sound], hand_made(2))[0]


def problems(archive: Archive, **originals: Scene) -> tuple[int, list[str]]:
    """Chunks that were decoded, and what is wrong, in a process that knows no more than the archive."""
    model_sources.forget()
    found = list(verify(open_archive(archive.url), (), originals, InProcess()))
    return sum(each.chunks for each in found), [problem for each in found for problem in each.problems]


def shard(archive: Archive, row: int, column: int) -> Path:
    return Path(archive.url) / "scenes" / "here" / "r10m" / "image" / "c" / "0" / str(row) / str(column)


def test_a_whole_archive_has_no_problems(archive: Archive, scene: Scene) -> None:
    assert problems(archive) == (CHUNKS + 1, [])
    assert problems(archive, here=scene) == (CHUNKS + 1, [])


def flip(archive: Archive) -> None:
    data = bytearray(shard(archive, 0, 1).read_bytes())
    data[len(data) // 8] ^= 1  # in the first chunk of four in Morton order
    shard(archive, 0, 1).write_bytes(data)


def truncate(archive: Archive) -> None:
    shard(archive, 0, 1).write_bytes(shard(archive, 0, 1).read_bytes()[:-7])


def halve(archive: Archive) -> None:
    shard(archive, 0, 1).write_bytes(shard(archive, 0, 1).read_bytes()[:10])


def flip_index(archive: Archive) -> None:
    data = bytearray(shard(archive, 0, 1).read_bytes())
    data[-20] ^= 1
    shard(archive, 0, 1).write_bytes(data)


def empty(archive: Archive) -> None:
    shard(archive, 0, 1).write_bytes(b"")


def delete(archive: Archive) -> None:
    shard(archive, 0, 1).unlink()


def swap(archive: Archive) -> None:
    shutil.copyfile(shard(archive, 0, 0), shard(archive, 0, 1))


@pytest.mark.parametrize(
    ("damage", "chunks", "message", "reading_fails"),
    [
        (flip, [(0, 2)], "checksum do not match", True),
        (truncate, [(0, 2), (0, 3), (1, 2), (1, 3)], "checksum do not match", True),
        (halve, [(0, 2), (0, 3), (1, 2), (1, 3)], "", True),
        (flip_index, [(0, 2), (0, 3), (1, 2), (1, 3)], "checksum do not match", True),
        (empty, [(0, 2), (0, 3), (1, 2), (1, 3)], "", False),
        (delete, [(0, 2), (0, 3), (1, 2), (1, 3)], "is missing", False),
        (swap, [(0, 2), (0, 3), (1, 2), (1, 3)], "the quality arrays say something else", False),
    ],
)
def test_damage_is_named_by_scene_group_and_chunk(
    archive: Archive, tmp_path: Path, damage: Callable[[Archive], None], chunks: Any, message: str, reading_fails: bool
) -> None:
    damage(archive)
    decoded, found = problems(archive)
    assert decoded == CHUNKS + 1  # the others are checked all the same
    assert len(found) == len(chunks)
    for problem, (row, column) in zip(found, chunks, strict=True):
        assert problem.startswith(f"Scene here, group r10m, chunk (y {row}, x {column})")
        assert message in problem
        assert problem.endswith("delete the scene's folder in the archive and compress it again")
    group = open_archive(archive.url)["here"]
    assert np.asarray(group["r10m"].image[:, 130:, :]).any()  # what is whole can be read
    if reading_fails:
        with pytest.raises(UNREADABLE):
            group["r10m"].open(chunks=None)[:, :128, 128:].load()
        with pytest.raises(HarmoniumError):
            decompress(group, tmp_path / "out.tif")
        assert not (tmp_path / "out.tif").exists()


def test_any_byte_that_changes_is_found(archive: Archive) -> None:
    whole = shard(archive, 0, 1).read_bytes()
    rng = np.random.default_rng(0)
    for position in [*rng.integers(0, len(whole), 8), *range(len(whole) - 68, len(whole), 17)]:
        data = bytearray(whole)
        data[position] ^= int(rng.integers(1, 256))
        shard(archive, 0, 1).write_bytes(data)
        _, found = problems(archive)
        assert found, position
        assert all(problem.startswith("Scene here, group r10m, chunk (y ") for problem in found)
        with pytest.raises(UNREADABLE):
            archive["here"]["r10m"].image[:, :128, 128:]


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # in zarr's sum of offset and length
def test_what_a_hostile_shard_raises_is_a_problem_like_any_other(archive: Archive) -> None:
    """An index whose checksum is right may point anywhere."""
    import google_crc32c

    whole = shard(archive, 0, 1).read_bytes()
    for offset, length in ((2**63, 10), (2**64 - 2, 2**64 - 2), (0, 2**62), (0, 3), (5, 2**40)):
        index = np.array([[offset, length]] * 4, "<u8").tobytes()
        checksum = google_crc32c.value(index).to_bytes(4, "little")
        shard(archive, 0, 1).write_bytes(whole[:-68] + index + checksum)
        decoded, found = problems(archive)
        assert (decoded, len(found)) == (CHUNKS + 1, 4)


def test_wrong_original(archive: Archive, scene: Scene, make_scene: MakeScene) -> None:
    other = pixels(SHAPE, hole=0)
    other[:, 200:260, 10:60] += 500
    _, found = problems(archive, here=make_scene(other, "other", nodata=0))
    assert [problem.split(":")[0] for problem in found] == [
        f"Scene here, group r10m, chunk (y {row}, x 0)" for row in (3, 4)
    ]
    assert all("measured against the original" in problem for problem in found)
    Path(scene.source[0]).write_bytes(b"")
    _, found = problems(archive, here=scene)
    assert found
    assert all("The original of scenes/here/r10m cannot be read" in problem for problem in found)


def test_quality_arrays_that_lie_or_are_damaged(archive: Archive) -> None:
    array = zarr.open_array(archive.url, path="scenes/here/r10m/quality/mse", mode="r+")
    array[1, 3, 2] = 0.0
    _, found = problems(archive)
    assert len(found) == 1
    assert found[0].startswith("Scene here, group r10m, chunk (y 3, x 2): the quality arrays say something else")
    file = Path(archive.url) / "scenes" / "here" / "r10m" / "quality" / "mse" / "c" / "0" / "0" / "0"
    file.write_bytes(b"\0" * 30)
    decoded, found = problems(archive)
    assert decoded == CHUNKS + 1
    assert found
    assert all("scenes/here/r10m/quality cannot be read" in problem for problem in found)


def test_model_that_is_damaged_or_gone(archive: Archive) -> None:
    folder = Path(archive.url) / "models" / hand_made(2).sha256
    data = bytearray((folder / "c" / "0").read_bytes())
    data[100] ^= 1
    (folder / "c" / "0").write_bytes(data)
    decoded, found = problems(archive)
    assert decoded == 0
    assert [problem.split(":")[0] for problem in found] == ["Scene here", "Scene sound"]
    assert all(f"models/{hand_made(2).sha256} is damaged" in problem for problem in found)
    shutil.rmtree(folder)
    _, found = problems(archive)
    assert all(f"the archive has no models/{hand_made(2).sha256}" in problem for problem in found)


@pytest.mark.parametrize("state", ["preparing", "writing"])
def test_unfinished_scenes_are_problems(archive: Archive, state: str) -> None:
    scene_layout.set_state(zarr.open_group(archive.url, path="scenes/here", mode="r+"), state)
    decoded, found = problems(archive)
    assert decoded == 1
    assert found == [f"Scene here is {state}: run the same `harmonium compress` again to complete it"]


@pytest.mark.parametrize(
    "path",
    ["zarr.json", "r10m/zarr.json", "r10m/image/zarr.json", "r10m/quality/mse/zarr.json"],
)
@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"zarr_format": 3, "node_type": "array"}'])
def test_damaged_metadata_are_problems_and_the_other_scene_is_checked(
    archive: Archive, path: str, content: str | None
) -> None:
    file = Path(archive.url) / "scenes" / "here" / path
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    decoded, found = problems(archive)
    assert decoded >= 1
    if content is None and path in ("zarr.json", "r10m/zarr.json"):
        return  # without its own document the scene is not there; a group's is not needed to decode
    if path == "r10m/zarr.json":
        return
    assert found
    assert all("here" in problem and "sound" not in problem for problem in found)


def test_image_metadata_that_contradict_the_payloads(archive: Archive) -> None:
    file = Path(archive.url) / "scenes" / "here" / "r10m" / "image" / "zarr.json"
    whole = json.loads(file.read_text())
    changes: tuple[Callable[[dict[str, Any]], None], ...] = (
        lambda document: document.update(data_type="int16"),
        lambda document: document.update(shape=[2, 400, 300]),
        lambda document: document.update(shape=[2, 300]),
        lambda document: document.update(codecs=[{"name": "bytes", "configuration": {"endian": "little"}}]),
        lambda document: document["codecs"][0]["configuration"].update(chunk_shape=[1, 64, 64]),
        lambda document: document["codecs"][0]["configuration"].update(chunk_shape=[2, 32, 32]),
        lambda document: document["codecs"][0]["configuration"]["codecs"][0].update(name="gzip"),
    )
    for change in changes:
        document = json.loads(json.dumps(whole))
        change(document)
        file.write_text(json.dumps(document))
        _, found = problems(archive)
        assert found, document
        assert all("here" in problem and "sound" not in problem for problem in found)


def test_only_the_scenes_that_are_named(archive: Archive) -> None:
    flip(archive)
    found = list(verify(archive, ["sound"], {}, InProcess()))
    assert (sum(each.chunks for each in found), [each.problems for each in found]) == (1, [()])
    with pytest.raises(SceneNotFound, match="No scene 'nope'"):
        list(verify(archive, ["nope"], {}, InProcess()))


def test_plain_reading_of_a_deleted_shard_gives_fill_values(archive: Archive) -> None:
    """Zarr's own rule, which no codec can change; `verify` is there to tell."""
    delete(archive)
    read = xr.open_zarr(f"{archive.url}/scenes/here/r10m", chunks=None, mask_and_scale=False)["image"]
    assert not read[:, :128, 128:].values.any()
    assert len(shard_files(Path(archive.url))) == 6
