"""Compressing scenes into an archive: checks first, then one idempotent task for each shard, then the summary.

    scene ── checks against the model ── metadata ─┬─ shard task: read, reduce, encode, decode, measure, write
                                                   ├─ shard task
                                                   └─ ...                       all stored ── quality, overviews, complete

The graph has one task a shard, however many pixels it holds. A shard's overview is written before the shard itself, so
that a stored shard means that nothing of it is missing.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import zarr
from numpy.typing import NDArray

from harmonium.errors import ArchiveError, HarmoniumError, SceneError
from harmonium.models.model_file import GroupModel, ModelFile
from harmonium.models.quality import Quality
from harmonium.pipeline import overview, scene_layout, views
from harmonium.pipeline.archive import Archive
from harmonium.pipeline.cluster import Executor
from harmonium.pipeline.grid import Tile, TileGrid
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.scene_layout import COMPLETE, WRITING
from harmonium.pipeline.stats import valid_mask
from harmonium.pipeline.torch_threads import single_threaded


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """Everything that a worker needs to make one shard."""

    url: str
    """The archive."""

    scene_id: str
    """Name of the scene."""

    group: ResolutionGroup
    """Where the pixels come from."""

    tile: Tile
    """The shard's pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDone:
    """What a worker reports of one shard."""

    scene_id: str
    """Name of the scene."""

    group: str
    """Name of the resolution group."""

    pixel_bytes: int
    """Size of the pixels, uncompressed."""

    quality: Quality
    """What was measured, all chunks together."""

    read_seconds: float
    """Time spent on reading pixels."""

    codec_seconds: float
    """Time spent on encoding, decoding again and measuring."""

    write_seconds: float
    """Time spent on overview and shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFailed:
    """A scene that stays unfinished, and why."""

    scene_id: str
    """Name of the scene."""

    error: Exception
    """What the first of its tasks that failed raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneDone:
    """A scene that is complete."""

    scene_id: str
    """Name of the scene."""

    resumed: bool
    """Whether there was nothing to do: it had been complete before."""


def check_scenes(scenes: Sequence[Scene], model: ModelFile) -> None:
    """Refuse scenes that the model cannot code, before an archive is even made.

    Raises
    ------
    SceneError
        If a scene's bands, type or resolution are not the model's, or two scenes have the same name.
    """
    names = [scene.id for scene in scenes]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise SceneError(f"Scenes need different names, found {', '.join(duplicates)} twice; give them with --id")
    for scene in scenes:
        for group in scene.groups:
            check_group(scene.id, group, model)


def check_archive(archive: Archive, scenes: Sequence[Scene], model: ModelFile) -> None:
    """Refuse scenes whose names the archive has for something else.

    Raises
    ------
    ArchiveError
        If the archive has another scene of that name, or the same coded by another model, or other groups of it.
    """
    for scene in scenes:
        if scene.id not in archive:
            continue
        existing = archive[scene.id].attributes["harmonium"]
        remedy = f"name it anew with --id, or delete {archive.url}/scenes/{scene.id} first"
        source, groups = [str(path) for path in scene.source], [group.name for group in scene.groups]
        if existing["source"] != source:
            raise ArchiveError(
                f"The archive has a scene {scene.id} from {', '.join(existing['source'])}, this one is from "
                f"{', '.join(source)}; {remedy}"
            )
        if existing["model"] != model.sha256:
            raise ArchiveError(
                f"Scene {scene.id} is in the archive, coded by model {existing['model'][:12]}, not by "
                f"{model.sha256[:12]}; {remedy}"
            )
        if existing["groups"] != groups:
            raise ArchiveError(
                f"Scene {scene.id} is in the archive with the groups {', '.join(existing['groups'])}, not "
                f"{', '.join(groups)}; {remedy}"
            )


def check_group(scene_id: str, group: ResolutionGroup, model: ModelFile) -> GroupModel:
    """The model of a resolution group.

    Raises
    ------
    SceneError
        If the model has none for it, or one for other bands, another type or another resolution.
    """
    where = f"Scene {scene_id}, group {group.name}"
    found = model.groups.get(group.name)
    if found is None:
        raise SceneError(
            f"{where}: the model has the groups {', '.join(model.groups)}; fit one that has it, or choose groups with "
            "--group"
        )
    if found.bands != group.bands:
        raise SceneError(f"{where}: the model's bands are {', '.join(found.bands)}, found {', '.join(group.bands)}")
    if found.codec.radiometry.dtype != group.dtype.name:
        raise SceneError(f"{where}: the model is for {found.codec.radiometry.dtype} pixels, found {group.dtype.name}")
    known = found.resolution is not None and group.resolution is not None
    if known and not np.isclose(found.resolution or 0, group.resolution or 0, rtol=0.01):
        raise SceneError(f"{where}: the model is for pixels of {found.resolution}, found {group.resolution}")
    return found


def compress(
    archive: Archive, scenes: Sequence[Scene], model: ModelFile, executor: Executor
) -> Iterator[ShardDone | SceneFailed | SceneDone]:
    """Compress scenes side by side, yielding what is done as it is; `check_scenes` and `check_archive` come first.

    A scene that fails stays in the state `writing`, and the others go on.
    """
    archive.add_model(model)
    remaining: dict[str, int] = {}
    tasks: list[ShardTask] = []
    for scene in scenes:
        if scene.id in archive and archive[scene.id].state == COMPLETE:
            yield SceneDone(scene_id=scene.id, resumed=True)
            continue
        missing = _open_scene_for_writing(archive, scene, model)
        remaining[scene.id] = len(missing)
        tasks += missing
        if not missing:
            yield _finish(archive.url, scene.id)
    failed: set[str] = set()
    for outcome in executor.map(encode_shard, ((task,) for task in tasks), gpu=True):
        scene_id = tasks[outcome.index].scene_id
        if outcome.error is not None:
            if scene_id not in failed:
                failed.add(scene_id)
                yield SceneFailed(scene_id=scene_id, error=outcome.error)
            continue
        yield outcome.result
        remaining[scene_id] -= 1
        if remaining[scene_id] == 0:
            yield _finish(archive.url, scene_id)


def _open_scene_for_writing(archive: Archive, scene: Scene, model: ModelFile) -> list[ShardTask]:
    """Prepare or resume a scene: the shards that are still to be made."""
    if scene.id not in archive or archive[scene.id].state != WRITING:
        peaks = {group.name: model.groups[group.name].codec.radiometry.peak for group in scene.groups}
        scene_layout.prepare(archive.url, scene, model.sha256, peaks)
    scene_layout.remove_leftovers(archive.url, scene.id)
    return [
        ShardTask(url=archive.url, scene_id=scene.id, group=group, tile=tile)
        for group in scene.groups
        for tile in scene_layout.missing_shards(
            archive.url, scene_layout.group_path(scene.id, group.name), scene_layout.grid_of(group)
        )
    ]


def _finish(url: str, scene_id: str) -> SceneDone | SceneFailed:
    try:
        scene_layout.finish(url, scene_id)
    except (HarmoniumError, OSError) as error:
        return SceneFailed(scene_id=scene_id, error=error)
    return SceneDone(scene_id=scene_id, resumed=False)


def encode_shard(task: ShardTask) -> ShardDone:
    """Make one shard: the body of a task, which runs with or without Dask and gives the same bytes.

    Raises
    ------
    ArchiveError
        If the store cannot be written, or another error of harmonium's if the pixels cannot be read.
    """
    path = scene_layout.group_path(task.scene_id, task.group.name)
    image = zarr.open_array(task.url, path=f"{path}/image", mode="r+")
    fill = float(image.fill_value)  # type: ignore[arg-type]
    started = time.perf_counter()
    pixels = task.group.read(task.tile)
    read = time.perf_counter()
    payloads, quality = _encode_chunks(task, pixels, image, fill)
    encoded = time.perf_counter()
    try:
        _write_overview(task, path, pixels)
        _write_payloads(task, image, payloads)
    except OSError as error:
        raise ArchiveError(
            f"{path} cannot be written: {error}; free the cause and run the same command again"
        ) from error
    return ShardDone(
        scene_id=task.scene_id,
        group=task.group.name,
        pixel_bytes=pixels.nbytes,
        quality=quality,
        read_seconds=read - started,
        codec_seconds=encoded - read,
        write_seconds=time.perf_counter() - encoded,
    )


def _encode_chunks(
    task: ShardTask, pixels: NDArray[np.generic], image: zarr.Array, fill: float
) -> tuple[NDArray[np.object_], Quality]:
    """Payloads of a shard's chunks (chunk_y, chunk_x), and their quality together."""
    codec = views.serializer_of(image).codec()
    bands, side, _ = image.chunks
    chunk = np.empty((bands, side, side), pixels.dtype)
    rows, columns = (-(-length // side) for length in pixels.shape[1:])
    payloads = np.empty((rows, columns), dtype=object)
    total: Quality | None = None
    with single_threaded():
        for row, column in np.ndindex(rows, columns):
            piece = pixels[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
            if piece.shape != chunk.shape:
                # What lies beyond the scene carries no data, so the codec leaves it out of everything.
                chunk[:] = np.asarray(fill).astype(pixels.dtype)
            chunk[:, : piece.shape[1], : piece.shape[2]] = piece
            encoded = codec.compress(chunk, fill)
            payloads[row, column] = encoded.payload
            total = encoded.quality if total is None else total.merge(encoded.quality)
    assert total is not None
    return payloads, total


def _write_overview(task: ShardTask, path: str, pixels: NDArray[np.generic]) -> None:
    factor, _ = overview.levels(*task.group.shape[1:])[0]
    array = zarr.open_array(task.url, path=f"{path}/overview/{factor}", mode="r+")
    fill = scene_layout.fill_value(task.group)
    reduced = overview.reduce_by(pixels, factor, valid_mask(pixels, fill), nodata=fill)
    row, column = task.tile.row_off // factor, task.tile.col_off // factor
    array[:, row : row + reduced.shape[1], column : column + reduced.shape[2]] = reduced


def _write_payloads(task: ShardTask, image: zarr.Array, payloads: NDArray[np.object_]) -> None:
    grid: TileGrid = scene_layout.grid_of(task.group)
    row, column = grid.chunk_index(task.tile)
    rows, columns = payloads.shape
    view = views.payloads(image, writable=True)
    view[0, row : row + rows, column : column + columns] = payloads


def with_groups(scene: Scene, names: Sequence[str]) -> Scene:
    """The scene with only the resolution groups of these names; all of them if no name is given.

    Raises
    ------
    SceneError
        If it has no group of that name.
    """
    if not names:
        return scene
    groups = tuple(group for group in scene.groups if group in [scene.group(name) for name in names])
    return replace(scene, groups=groups)
