"""The payloads of an image one after the other, each named by scene, group and index where it is missing or damaged."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from harmonium.errors import ArchiveError, PayloadError
from harmonium.models.payload import Payload, unpack
from harmonium.pipeline import views
from harmonium.pipeline.grid import Tile, TileGrid

UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What zarr, its codecs and its stores raise where bytes are not what the metadata say."""


def stored_grid(image: zarr.Array[Any]) -> TileGrid:
    """Chunks and shards in which an image is stored.

    Raises
    ------
    ArchiveError
        If it is not stored as harmonium stores images.
    """
    shards = image.shards
    if len(image.shape) != 3 or shards is None or image.chunks[1] != image.chunks[2]:
        raise ArchiveError(f"{image.path} should be (band, y, x) in shards of square chunks, found {image.metadata}")
    chunk = image.chunks[1]
    return TileGrid(height=image.shape[1], width=image.shape[2], chunk=chunk, shard=max(shards[1:]) // chunk)


def shard_payloads(image: zarr.Array[Any], tile: Tile) -> Iterator[tuple[int, int, bytes]]:
    """Index along (y, x) and bytes of every chunk of one shard, or of any tile; no bytes where no chunk is stored.

    Raises
    ------
    ArchiveError
        If a chunk cannot be read; the message names it.
    """
    view = views.payloads(image)
    grid = stored_grid(image)
    row, column = grid.chunk_index(tile)
    rows, columns = -(-tile.height // grid.chunk), -(-tile.width // grid.chunk)
    block = _block(view, slice(row, row + rows), slice(column, column + columns))
    for index in np.ndindex(rows, columns):
        chunk = (row + index[0], column + index[1])
        yield (*chunk, read_payload(view, *chunk) if block is None else bytes(block[index]))


def read_payload(view: zarr.Array[Any], row: int, column: int) -> bytes:
    """Bytes of one chunk in a view of payloads.

    Raises
    ------
    ArchiveError
        If it cannot be read; the message names it.
    """
    try:
        return views.one_payload(view, row, column)
    except UNREADABLE as error:
        raise ArchiveError(f"{describe_chunk(view.path, row, column)}: {describe(error)}; {REMEDY}") from error


def parse(image_path: str, row: int, column: int, data: bytes) -> Payload:
    """Take a chunk's payload apart.

    Raises
    ------
    ArchiveError
        If it is missing or damaged; the message names it.
    """
    named = describe_chunk(image_path, row, column)
    if not data:
        raise ArchiveError(f"{named} is missing; {REMEDY}")
    try:
        return unpack(data)
    except PayloadError as error:
        raise ArchiveError(f"{named}: {error}; {REMEDY}") from error


def is_whole(image: zarr.Array[Any], tile: Tile) -> bool:
    """Whether all chunks of a shard can be read; decodes none.

    Raises
    ------
    ArchiveError
        If the store fails, which says nothing about the chunks.
    """
    try:
        for row, column, data in shard_payloads(image, tile):
            parse(image.path, row, column, data)
    except ArchiveError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return False
    return True


REMEDY = "delete the scene's folder in the archive and compress it again"


def describe_chunk(image_path: str, row: int, column: int) -> str:
    """Name a chunk for people."""
    _, scene_id, group, *_ = [*image_path.split("/"), "", "", ""]
    return f"Scene {scene_id}, group {group}, chunk (y {row}, x {column})"


def describe(error: BaseException) -> str:
    """An error in words; some have no message of their own."""
    return str(error) or type(error).__name__


def _block(view: zarr.Array[Any], rows: slice, columns: slice) -> NDArray[np.object_] | None:
    """The payloads of one shard, or None if it cannot be read whole: read one by one, they tell which is to blame."""
    try:
        return np.asarray(view[0, rows, columns], dtype=object)
    except UNREADABLE:
        return None
