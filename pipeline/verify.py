"""Checking an archive: every checksum, every chunk decoded, what was measured against what is stored.

One task a shard. A chunk that fails is named by scene, group and index, and the others are checked all the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from harmonium.errors import ArchiveError, HarmoniumError
from harmonium.models.quality import measure
from harmonium.pipeline import scene_layout, views
from harmonium.pipeline.archive import Archive
from harmonium.pipeline.cluster import Executor
from harmonium.pipeline.grid import Tile, TileGrid
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
        if scene.state != COMPLETE:
            problem = f"Scene {scene_id} is {scene.state}: run the same `harmonium compress` again to complete it"
            yield Verified(path=f"scenes/{scene_id}", chunks=0, problems=(problem,))
            continue
        for group in scene.values():
            height, width = group.image.shape[1:]
            grid = TileGrid.for_shape(height, width)
            original = originals[scene_id].group(group.name) if scene_id in originals else None
            tasks += [
                VerifyTask(url=archive.url, path=group.path, tile=tile, original=original) for tile in grid.shards()
            ]
    for outcome in executor.map(verify_shard, ((task,) for task in tasks), gpu=True):
        if outcome.error is not None:
            path = tasks[outcome.index].path
            yield Verified(path=path, chunks=0, problems=(f"{path}: {outcome.error}",))
        else:
            yield outcome.result


def verify_shard(task: VerifyTask) -> Verified:
    """Check one shard: the body of a task."""
    image = zarr.open_array(task.url, path=f"{task.path}/image", mode="r")
    side = image.chunks[1]
    stored = xr.open_zarr(task.url, group=f"{task.path}/quality", consolidated=False, chunks=None)
    row, column = task.tile.row_off // side, task.tile.col_off // side
    rows, columns = -(-task.tile.height // side), -(-task.tile.width // side)
    pixels = None if task.original is None else task.original.read(task.tile)
    problems = []
    for index in np.ndindex(rows, columns):
        chunk = (row + index[0], column + index[1])
        try:
            _verify_chunk(task, image, stored.isel(chunk_y=chunk[0], chunk_x=chunk[1]), chunk, index, pixels)
        except (HarmoniumError, ValueError, RuntimeError) as error:
            message = str(error)
            named = scene_layout.describe_chunk(task.path, *chunk)
            problems.append(message if message.startswith(named) else f"{named}: {message}")
    return Verified(path=task.path, chunks=rows * columns, problems=tuple(problems))


def _verify_chunk(
    task: VerifyTask,
    image: zarr.Array,
    stored: xr.Dataset,
    chunk: tuple[int, int],
    index: tuple[int, ...],
    pixels: NDArray[np.generic] | None,
) -> None:
    """Raise what is wrong with one chunk."""
    codec = views.serializer_of(image).codec()
    data = views.one_payload(views.payloads(image), *chunk)
    quality = scene_layout.read_header(task.path, *chunk, data).quality
    with single_threaded():
        decoded = codec.decompress(data, image.chunks)
    same = (
        int(stored["bytes"]) == quality.nbytes
        and np.array_equal(stored["count"], quality.count)
        and np.array_equal(stored["mse"], quality.mse, equal_nan=True)
        and np.array_equal(stored["max_error"], quality.max_error)
    )
    if not same:
        raise ArchiveError("the quality arrays say something else than the chunk; compress the scene again")
    if pixels is None:
        return
    side = image.chunks[1]
    piece = pixels[:, index[0] * side : (index[0] + 1) * side, index[1] * side : (index[1] + 1) * side]
    shown = decoded[:, : piece.shape[1], : piece.shape[2]]
    again = measure(piece, shown, valid_mask(piece, float(image.fill_value)), quality.nbytes)  # type: ignore[arg-type]
    # Another machine may round a mean differently by one DN in a few pixels; a wrong original is off by far more.
    close = np.array_equal(again.count, quality.count) and np.allclose(
        np.nan_to_num(again.mse), np.nan_to_num(quality.mse), rtol=0.01, atol=0.01
    )
    if not close:
        raise ArchiveError(
            f"measured against the original, the mean squared errors are {again.mse.round(2).tolist()}, stored are "
            f"{quality.mse.round(2).tolist()}: the original changed, or is another"
        )
