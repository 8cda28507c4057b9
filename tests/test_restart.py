"""What a run leaves when it is killed, or the disk is full, and that the same command then makes the same archive."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr.storage._local as zarr_local
from zarr.core.buffer import Buffer

from harmonium.pipeline import compress as pipeline_compress
from harmonium.pipeline import scene_layout
from harmonium.pipeline.archive import create_archive
from harmonium.pipeline.cluster import OnDask
from harmonium.pipeline.compress import SceneDone, SceneFailed, ShardDone
from harmonium.pipeline.grid import TileGrid
from harmonium.pipeline.scene import Scene

from .archives import compress, hand_made, local_cluster, pixels, shard_files, shards_made, tree
from .conftest import MakeScene

pytestmark = pytest.mark.usefixtures("fresh_models", "small_chunks")

COMMAND = """
import sys
from harmonium.pipeline import scene_layout
from harmonium.pipeline.grid import TileGrid
chunk, limit = int(sys.argv.pop(1)), int(sys.argv.pop(1))
scene_layout.grid_of = lambda group: TileGrid.for_shape(*group.shape[1:], chunk=chunk, shard=2)
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from harmonium.workflows.cli import main
main(sys.argv[1:])
"""
"""`harmonium ...` with small chunks, and a largest size of files in bytes."""


def command(url: Path, scene: Scene, folder: Path, cluster: str, chunk: int = 64, limit_bytes: int = 0) -> list[str]:
    model = folder / "m.harmonium"
    model.write_bytes(hand_made(2).data)
    arguments = [*scene.source, "-a", url, "--model", model, "--id", scene.id, "--cluster", cluster, "--workers", 1]
    return [sys.executable, "-c", COMMAND, str(chunk), str(limit_bytes), "compress", *map(str, arguments)]


def without_faults(url: Path, scene: Scene) -> dict[str, bytes]:
    """The archive that an undisturbed run makes at this path, which then is free again."""
    compress(url, [scene], hand_made(2))
    made = tree(url)
    url.rename(url.with_name("without-faults.zarr"))
    return made


def leftovers(url: Path) -> list[Path]:
    return list(url.rglob("*.partial"))


# --- killed processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", ["none", "local"])
def test_client_killed_in_the_middle(tmp_path: Path, make_scene: MakeScene, cluster: str) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((2, 850, 850)))
    expected = without_faults(url, scene)
    shards = 49
    process = subprocess.Popen(
        command(url, scene, tmp_path, cluster), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(lambda: len(shard_files(url)) >= 2 or process.poll() is not None)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _wait_for(lambda: _is_quiet(url))  # worker processes end as soon as they see that the client is gone
    stored = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in shard_files(url) if _is_shard(path)}
    assert 2 <= len(stored) < shards
    (shard_files(url)[0].parent / "9.0123456789abcdef.partial").write_bytes(b"half a shard")
    _, events = compress(url, [scene], hand_made(2))
    assert shards_made(events) == shards - len(stored)
    assert events[-1] == SceneDone(scene_id="here", resumed=False)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in stored} == stored
    assert leftovers(url) == []
    assert tree(url) == expected


def _is_shard(path: Path) -> bool:
    return path.suffix != ".partial"


def _is_quiet(url: Path) -> bool:
    before = set(shard_files(url))
    time.sleep(0.5)
    return set(shard_files(url)) == before


def _wait_for(condition: object, seconds: float = 90) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def test_worker_killed_in_the_middle(tmp_path: Path, make_scene: MakeScene) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((2, 500, 500)))
    expected = without_faults(url, scene)
    archive = create_archive(url)
    events = []
    with local_cluster(2) as client:
        running = pipeline_compress.compress(archive, [scene], hand_made(2), OnDask(client, "two workers"))
        events.append(next(running))
        victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        events += list(running)
        assert victim not in client.run(os.getpid).values()
    assert shards_made(events) == 16
    assert events[-1] == SceneDone(scene_id="here", resumed=False)
    assert leftovers(url) == []
    assert tree(url) == expected


# --- every write in turn -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@contextmanager
def fault_at(write: int, fault: BaseException) -> Iterator[list[str]]:
    """Let the write of this number leave half a file, and it and all later ones raise; yields what was written."""
    written: list[str] = []
    put = zarr_local._put

    def failing(path: Path, value: Buffer, exclusive: bool = False) -> int:
        if len(written) == write:
            if isinstance(fault, Killed):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".dead.partial").write_bytes(value.to_bytes()[: len(value) // 2])
            raise fault
        written.append(str(path))
        return put(path, value, exclusive)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_local, "_put", failing)
        yield written


@pytest.mark.parametrize("fault", [Killed(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))], ids=["kill", "full"])
def test_a_fault_at_any_write_is_made_good_by_the_same_command(
    tmp_path: Path, make_scene: MakeScene, fault: BaseException
) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((2, 130, 100)))
    with fault_at(10_000, Killed()) as written:
        expected = without_faults(url, scene)
    assert len(written) > 30
    # The first writes make archive and model, the last the summaries; all that hold pixels are tried, of others some.
    pixel_writes = [number for number, path in enumerate(written) if "image/c/" in path or "overview/32/c/" in path]
    assert len(pixel_writes) == 4
    for number in sorted({*range(0, len(written), 11), *pixel_writes, 4, len(written) - 2, len(written) - 1}):
        with fault_at(number, fault):
            try:
                _, events = compress(url, [scene], hand_made(2))
            except (Killed, OSError) as error:
                assert error is fault  # noqa: PT017 - one of several ways to fail
            else:
                assert isinstance(events[-1], SceneFailed)
                assert "No space left on device" in str(events[-1].error)
        archive, events = compress(url, [scene], hand_made(2))
        assert isinstance(events[-1], SceneDone), number
        assert shards_made(events) <= 2
        assert archive["here"].state == "complete"
        assert tree(url) == expected, number
        url.rename(tmp_path / f"{number}.zarr")


def test_full_disk_in_the_command_is_one_line_and_resumes(
    tmp_path: Path, make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk: the first shard does not fit, the narrow one beside it does."""
    monkeypatch.setattr(scene_layout, "grid_of", lambda _: TileGrid.for_shape(900, 1060, shard=2))
    url, scene = tmp_path / "a.zarr", make_scene(pixels((2, 900, 1060)))
    expected = without_faults(url, scene)
    limit = max(len(data) for name, data in expected.items() if "image/c/" not in name) + 1
    sizes = [len(data) for name, data in expected.items() if "image/c/" in name]
    assert sizes[1] < limit < sizes[0]
    done = subprocess.run(
        command(url, scene, tmp_path, "none", 512, limit), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "error: scene here: " in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in shard_files(url)] == ["1"]
    assert leftovers(url) == []
    _, events = compress(url, [scene], hand_made(2))
    assert shards_made(events) == 1
    assert tree(url) == expected


# --- states that a run finds ---------------------------------------------------------------------------------------


def unfinished(url: Path, scene: Scene) -> list[Path]:
    """An archive whose scene is being written, with all its shards."""
    compress(url, [scene], hand_made(2))
    import zarr

    scene_layout.set_state(zarr.open_group(url, path="scenes/here", mode="r+"), "writing")
    return shard_files(url)


@pytest.mark.parametrize("damage", ["gone", "empty", "truncated", "zeros"])
def test_only_shards_that_are_missing_or_not_whole_are_made(tmp_path: Path, make_scene: MakeScene, damage: str) -> None:
    """A machine that lost its power may leave whole names with holes in the bytes."""
    url, scene = tmp_path / "a.zarr", make_scene(pixels((2, 300, 300)))
    expected = without_faults(url, scene)
    files = unfinished(url, scene)
    victim = files[4]
    data = victim.read_bytes()
    victim.unlink()
    if damage != "gone":
        victim.write_bytes({"empty": b"", "truncated": data[:-100], "zeros": bytes(len(data))}[damage])
    kept = {path: path.stat().st_ino for path in files if path != victim}
    _, events = compress(url, [scene], hand_made(2))
    assert [event for event in events if isinstance(event, SceneFailed)] == []
    assert shards_made(events) == 1
    assert {path: path.stat().st_ino for path in kept} == kept
    assert tree(url) == expected


def test_finishing_again_changes_no_byte(tmp_path: Path, make_scene: MakeScene) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((2, 300, 300)))
    expected = without_faults(url, scene)
    unfinished(url, scene)
    _, events = compress(url, [scene], hand_made(2))
    assert events == [SceneDone(scene_id="here", resumed=False)]
    assert tree(url) == expected


def test_what_was_being_prepared_is_made_anew(tmp_path: Path, make_scene: MakeScene) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((2, 100, 100)))
    expected = without_faults(url, scene)
    unfinished(url, scene)
    import zarr

    scene_layout.set_state(zarr.open_group(url, path="scenes/here", mode="r+"), "preparing")
    (url / "scenes" / "here" / "r10m" / "image" / "zarr.json").unlink()
    _, events = compress(url, [scene], hand_made(2))
    assert sum(isinstance(event, ShardDone) for event in events) == 1
    assert tree(url) == expected


def test_reading_an_unfinished_scene_gives_fill_values_where_shards_are_missing(
    tmp_path: Path, make_scene: MakeScene
) -> None:
    """Zarr's own rule, which no codec can change: why a scene tells its state, and `verify` names missing chunks."""
    url, scene = tmp_path / "a.zarr", make_scene(pixels((2, 300, 300)))
    unfinished(url, scene)[0].unlink()
    import zarr

    read = np.asarray(zarr.open_array(url, path="scenes/here/r10m/image", mode="r")[:])
    assert not read[:, :128, :128].any()
    assert read[:, 128:, 128:].all()
