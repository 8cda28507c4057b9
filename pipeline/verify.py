"""Checking an archive: every checksum, every chunk decoded, what was measured against what is stored.

One task a shard. A chunk that fails is named by scene, group and index, and the others are checked all the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from harmonium.errors import ArchiveError, ModelError
from harmonium.models import targets
from harmonium.models.quality import Quality, measure
from harmonium.models.targets import Lossless, MaxError, Target
from harmonium.pipeline import model_sources, views
from harmonium.pipeline.archive import Archive, ArchivedGroup, ArchivedScene
from harmonium.pipeline.chunk_payloads import (
    REMEDY,
    UNREADABLE,
    describe,
    describe_chunk,
    parse,
    read_payload,
    stored_grid,
)
from harmonium.pipeline.cluster import Executor
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.scene_layout import COMPLETE
from harmonium.pipeline.stats import valid_mask
from harmonium.pipeline.torch_threads import single_threaded


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyTask:
    """Everything that a worker needs to check one shard."""

    url: str
    """The archive."""

    path: str
    """The resolution group in it."""

    tile: Tile
    """The shard's pixels."""

    original: ResolutionGroup | None
    """Where the pixels came from, if that is to be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What the check of one shard, or of one scene's metadata, gave."""

    path: str
    """The resolution group, or the scene."""

    chunks: int
    """Chunks that were decoded."""

    problems: tuple[str, ...]
    """What is wrong, a sentence each."""


def verify(
    archive: Archive, scene_ids: Sequence[str], originals: Mapping[str, Scene], executor: Executor
) -> Iterator[Verified]:
    """Check scenes, yielding the outcome of each shard as it comes.

    Parameters
    ----------
    archive
        The archive.
    scene_ids
        Scenes to check; none means all.
    originals
        By scene name, the scenes that they were made from: their errors are then measured again.
    executor
        Where to run.
    """
    tasks: list[VerifyTask] = []
    for scene_id in scene_ids or tuple(archive):
        scene = archive[scene_id]
        try:
            tasks += _tasks(scene, originals.get(scene_id))
        except UNREADABLE as error:
            message = describe(error)
            named = message if scene_id in message else f"Scene {scene_id}: {message}; {REMEDY}"
            yield Verified(path=f"scenes/{scene_id}", chunks=0, problems=(named,))
    for outcome in executor.map(verify_shard, ((task,) for task in tasks)):
        if outcome.error is None:
            yield outcome.result
        else:
            path = tasks[outcome.index].path
            yield Verified(path=path, chunks=0, problems=(f"{path}: {describe(outcome.error)}",))


def _tasks(scene: ArchivedScene, original: Scene | None) -> list[VerifyTask]:
    """One task for each shard of a scene that can be checked.

    Raises
    ------
    ArchiveError
        If the scene is not complete, or the archive has not the model that it was coded with.
    SceneError
        If the original has no such groups.
    """
    if scene.state != COMPLETE:
        raise ArchiveError(f"Scene {scene.id} is {scene.state}: run the same `harmonium compress` again to complete it")
    try:
        held = model_sources.read(scene.url, scene.model) is not None
    except ModelError as error:
        raise ArchiveError(f"Scene {scene.id}: its model is damaged: {error}") from error
    if not held:
        raise ArchiveError(
            f"Scene {scene.id}: the archive has no models/{scene.model}; run the same `harmonium compress` again to "
            "put it back"
        )
    return [
        VerifyTask(
            url=scene.url,
            path=group.path,
            tile=tile,
            original=None if original is None else original.group(group.name),
        )
        for group in scene.values()
        for tile in stored_grid(group.image).shards()
    ]


def verify_shard(task: VerifyTask) -> Verified:
    """Check one shard: the body of a task."""
    group = ArchivedGroup(task.url, task.path)
    image = group.image
    problems = []
    stored = pixels = None
    try:
        stored = group.quality_by_chunk()
    except UNREADABLE as error:
        problems.append(f"{task.path}/quality cannot be read: {describe(error)}; {REMEDY}")
    try:
        pixels = None if task.original is None else task.original.read(task.tile)
    except UNREADABLE as error:
        problems.append(f"The original of {task.path} cannot be read: {describe(error)}")
    grid = stored_grid(image)
    chunks = tuple(grid.chunks(task.tile))
    for chunk in chunks:
        index = grid.chunk_index(chunk)
        piece = None if pixels is None else pixels[(slice(None), *chunk.relative_to(task.tile).slices)]
        try:
            quality = _verify_chunk(image, index, piece)
            if stored is not None:
                _compare(stored.isel(chunk_y=index[0], chunk_x=index[1]), quality)
        except UNREADABLE as error:
            named = describe_chunk(image.path, *index)
            message = describe(error)
            problems.append(message if message.startswith(named) else f"{named}: {message}; {REMEDY}")
    return Verified(path=task.path, chunks=len(chunks), problems=tuple(problems))


def _verify_chunk(image: zarr.Array[Any], index: tuple[int, int], original: NDArray[np.generic] | None) -> Quality:
    """What the payload of one chunk says of itself; raises what is wrong with it."""
    data = read_payload(views.payloads(image), *index)
    quality = parse(image.path, *index, data).quality
    bands, height, width = image.chunks
    serializer = views.serializer_of(image)
    with single_threaded():
        decoded = serializer.codec().decompress(data, (bands, height, width))
    if decoded.dtype != image.dtype:
        raise ArchiveError(f"the array says that it holds {image.dtype}, the chunk holds {decoded.dtype}")
    _check_promise(serializer.target, quality)
    if original is None:
        return quality
    _, height, width = original.shape
    valid = valid_mask(original, np.asarray(image.fill_value).item())
    again = measure(original, decoded[:, :height, :width], valid, quality.nbytes)
    # Another machine may round a mean differently by one DN in a few pixels; a wrong original is off by far more.
    close = np.array_equal(again.count, quality.count) and np.allclose(
        np.nan_to_num(again.mse), np.nan_to_num(quality.mse), rtol=0.01, atol=0.01
    )
    if not close:
        raise ArchiveError(
            f"measured against the original, the mean squared errors are {again.mse.round(2).tolist()}, stored are "
            f"{quality.mse.round(2).tolist()}: the original changed, or is another"
        )
    return quality


def _check_promise(target: Target | None, quality: Quality) -> None:
    """Raise if a chunk says that it breaks what was promised of every pixel."""
    if isinstance(target, MaxError | Lossless):
        bound = target.dn if isinstance(target, MaxError) else 0.0
        if (quality.max_error > np.asarray(bound)).any():
            raise ArchiveError(
                f"the largest errors are {quality.max_error.tolist()}, promised was {targets.text(target)}"
            )


def _compare(stored: xr.Dataset, quality: Quality) -> None:
    """Raise unless the quality arrays say of a chunk what it says of itself."""
    same = (
        int(stored["bytes"]) == quality.nbytes
        and np.array_equal(stored["count"], quality.count)
        and np.array_equal(stored["mse"], quality.mse, equal_nan=True)
        and np.array_equal(stored["max_error"], quality.max_error)
    )
    if not same:
        raise ArchiveError("the quality arrays say something else than the chunk")
