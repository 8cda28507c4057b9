"""Making one shard of an archived image: the body of a task, which gives the same bytes with and without Dask."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from harmonium.errors import ArchiveError
from harmonium.models.quality import Quality
from harmonium.pipeline import overview, scene_layout, views
from harmonium.pipeline.chunk_payloads import stored_grid
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.resolution_group import ResolutionGroup
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


def encode_shard(task: ShardTask) -> ShardDone:
    """Make one shard: the body of a task, which runs with or without Dask and gives the same bytes.

    Raises
    ------
    ArchiveError
        If the store cannot be written, or another error of harmonium's if the pixels cannot be read.
    """
    path = scene_layout.group_path(task.scene_id, task.group.name)
    image = zarr.open_array(task.url, path=f"{path}/image", mode="r+")
    fill = np.asarray(image.fill_value).item()
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
    task: ShardTask, pixels: NDArray[np.generic], image: zarr.Array[Any], fill: float
) -> tuple[NDArray[np.object_], Quality]:
    """Payloads of a shard's chunks (chunk_y, chunk_x), and their quality together."""
    serializer = views.serializer_of(image)
    codec = serializer.codec()
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
            encoded = codec.compress(chunk, fill, serializer.target)
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


def _write_payloads(task: ShardTask, image: zarr.Array[Any], payloads: NDArray[np.object_]) -> None:
    row, column = stored_grid(image).chunk_index(task.tile)
    rows, columns = payloads.shape
    view = views.payloads(image, writable=True)
    view[0, row : row + rows, column : column + columns] = payloads
