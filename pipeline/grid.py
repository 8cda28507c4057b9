"""Tiles of a scene: chunks, the unit of decoding, gathered in shards, the unit of writing.

Pure integer geometry in pixels, in rasterio's terms: columns run east, rows run south, offsets count from the upper
left corner. Nothing here knows what a pixel holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from harmonium.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

CHUNK_PIXELS = 512
SHARD_CHUNKS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A rectangle of pixels."""

    col_off: int
    """First column, in pixels from the left edge."""
    row_off: int
    """First row, in pixels from the upper edge."""
    width: int
    """Number of columns, at least 1."""
    height: int
    """Number of rows, at least 1."""

    def __post_init__(self) -> None:
        if self.col_off < 0 or self.row_off < 0 or self.width < 1 or self.height < 1:
            raise SceneError(
                "a tile has offsets of at least 0 and sides of at least 1 pixel; found "
                f"col_off={self.col_off}, row_off={self.row_off}, width={self.width}, height={self.height}; "
                "clip the window to the scene first"
            )

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index the last two axes of an array (..., y, x)."""
        return (
            slice(self.row_off, self.row_off + self.height),
            slice(self.col_off, self.col_off + self.width),
        )

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """((first row, last row + 1), (first column, last column + 1)), which rasterio takes as a window."""
        rows, cols = self.slices
        return (rows.start, rows.stop), (cols.start, cols.stop)

    def intersection(self, other: Tile) -> Tile | None:
        """Return the pixels that both tiles hold, or None where they hold none."""
        top, left = max(self.row_off, other.row_off), max(self.col_off, other.col_off)
        bottom = min(self.row_off + self.height, other.row_off + other.height)
        right = min(self.col_off + self.width, other.col_off + other.width)
        if bottom <= top or right <= left:
            return None
        return Tile(col_off=left, row_off=top, width=right - left, height=bottom - top)

    def relative_to(self, outer: Tile) -> Tile:
        """Return this tile with offsets that count from the upper left corner of `outer`, which must contain it."""
        if self.intersection(outer) != self:
            raise SceneError(f"expected a tile inside {outer}; found {self}; take their intersection first")
        return Tile(
            col_off=self.col_off - outer.col_off,
            row_off=self.row_off - outer.row_off,
            width=self.width,
            height=self.height,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """Regular partition of a scene's (y, x) plane into square chunks, gathered in shards; the last ones are clipped."""

    height: int
    """Rows of the scene, in pixels."""
    width: int
    """Columns of the scene, in pixels."""
    chunk: int = CHUNK_PIXELS
    """Side of a chunk, in pixels."""
    shard: int = SHARD_CHUNKS
    """Chunks along the side of a shard, at most: see `shard_shape`."""

    def __post_init__(self) -> None:
        for field in ("height", "width", "chunk", "shard"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise SceneError(f"expected {field} to be a whole number of at least 1; found {value!r}; correct it")

    @classmethod
    def for_shape(
        cls, height: int, width: int, chunk: int = CHUNK_PIXELS, shard: int = SHARD_CHUNKS, cell: int = 8
    ) -> Self:
        """Return a grid whose chunks and shards are no larger than the scene needs.

        Parameters
        ----------
        height, width
            Size of the scene, in pixels.
        chunk
            Side of a chunk in pixels, a multiple of `cell`; a scene that is smaller gets one chunk of its longer side,
            rounded up to whole cells.
        shard
            Chunks along the side of a shard; at most as many as the scene has.
        cell
            Side in pixels of the cell that a codec works on.

        Raises
        ------
        SceneError
            A size is below 1, or `chunk` is not a multiple of `cell`.
        """
        if cell < 1 or chunk % cell:
            raise SceneError(
                f"expected a chunk of whole cells; found chunk={chunk}, cell={cell}; use a multiple of {cell}"
            )
        if min(height, width, chunk, shard) >= 1:
            longer = max(height, width)
            chunk = min(chunk, -(-longer // cell) * cell)
            shard = min(shard, -(-longer // chunk))
        return cls(height=height, width=width, chunk=chunk, shard=shard)

    @property
    def chunk_counts(self) -> tuple[int, int]:
        """Number of chunks along (y, x)."""
        return -(-self.height // self.chunk), -(-self.width // self.chunk)

    @property
    def shard_shape(self) -> tuple[int, int]:
        """Sides (y, x) of a whole shard in pixels: whole chunks, and on no axis more of them than the scene has."""
        rows, cols = self.chunk_counts
        return min(self.shard, rows) * self.chunk, min(self.shard, cols) * self.chunk

    @property
    def shard_counts(self) -> tuple[int, int]:
        """Number of shards along (y, x)."""
        rows, cols = self.shard_shape
        return -(-self.height // rows), -(-self.width // cols)

    @property
    def scene(self) -> Tile:
        """The whole scene as one tile."""
        return Tile(col_off=0, row_off=0, width=self.width, height=self.height)

    def chunk_tile(self, row: int, col: int) -> Tile:
        """Return the pixels of the chunk with this index along (y, x), clipped to the scene.

        Raises
        ------
        SceneError
            There is no such chunk.
        """
        return self._tile(row, col, self.chunk_counts, (self.chunk, self.chunk), "chunk")

    def shard_tile(self, row: int, col: int) -> Tile:
        """Return the pixels of the shard with this index along (y, x), clipped to the scene.

        Raises
        ------
        SceneError
            There is no such shard.
        """
        return self._tile(row, col, self.shard_counts, self.shard_shape, "shard")

    def shards(self) -> Iterator[Tile]:
        """Yield all shards, row by row."""
        rows, cols = self.shard_counts
        for row in range(rows):
            for col in range(cols):
                yield self.shard_tile(row, col)

    def chunks(self, shard: Tile | None = None) -> Iterator[Tile]:
        """Yield the chunks of one shard's tile, or of the whole scene, row by row."""
        return self.intersecting(self.scene if shard is None else shard)

    def chunk_index(self, tile: Tile) -> tuple[int, int]:
        """Return the index along (y, x) of the chunk that holds the tile's upper left pixel."""
        return tile.row_off // self.chunk, tile.col_off // self.chunk

    def intersecting(self, window: Tile) -> Iterator[Tile]:
        """Yield the chunks that share at least one pixel with a window, row by row; none for a window outside."""
        inside = window.intersection(self.scene)
        if inside is None:
            return
        first_row, first_col = self.chunk_index(inside)
        last_row = (inside.row_off + inside.height - 1) // self.chunk
        last_col = (inside.col_off + inside.width - 1) // self.chunk
        for row in range(first_row, last_row + 1):
            for col in range(first_col, last_col + 1):
                yield self.chunk_tile(row, col)

    def _tile(self, row: int, col: int, counts: tuple[int, int], sides: tuple[int, int], noun: str) -> Tile:
        if not (0 <= row < counts[0] and 0 <= col < counts[1]):
            raise SceneError(
                f"expected the index of one of {counts[0]} × {counts[1]} {noun}s (y, x); found ({row}, {col}); "
                "use an index inside the grid"
            )
        row_off, col_off = row * sides[0], col * sides[1]
        return Tile(
            col_off=col_off,
            row_off=row_off,
            width=min(sides[1], self.width - col_off),
            height=min(sides[0], self.height - row_off),
        )


def assemble(pieces: Iterable[tuple[Tile, NDArray[Any]]], *, within: Tile) -> NDArray[Any]:
    """Put the arrays of tiles together again.

    Parameters
    ----------
    pieces
        Tiles with their pixels (..., y, x), all of one dtype and of the same leading axes.
    within
        The rectangle to fill; every tile lies inside it.

    Returns
    -------
    ndarray
        Pixels (..., y, x) of `within`.

    Raises
    ------
    SceneError
        A tile lies outside, an array has another shape than its tile, or the tiles do not cover each pixel once.
    """
    whole: NDArray[Any] | None = None
    covered = np.zeros((within.height, within.width), dtype=bool)
    for tile, pixels in pieces:
        slices = tile.relative_to(within).slices
        if pixels.shape[-2:] != (tile.height, tile.width):
            raise SceneError(f"expected an array of {tile.height} × {tile.width} pixels; found {pixels.shape}; cut it")
        if covered[slices].any():
            raise SceneError(f"expected each pixel once; found some of {tile} before; leave out tiles that overlap")
        if whole is None:
            whole = np.empty((*pixels.shape[:-2], within.height, within.width), dtype=pixels.dtype)
        covered[slices] = True
        whole[(..., *slices)] = pixels
    if whole is None or not covered.all():
        raise SceneError(
            f"expected tiles that cover {within}; found {int(covered.sum())} pixels; give the missing tiles"
        )
    return whole
