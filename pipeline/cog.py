"""Cloud Optimized GeoTIFFs, written tile by tile, complete or not at all."""

from __future__ import annotations

import tempfile
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from harmonium.errors import SceneError, UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from harmonium.pipeline.grid import Tile

_BLOCK_PIXELS = 512
_COG_OPTIONS = {
    "driver": "COG",
    "BLOCKSIZE": _BLOCK_PIXELS,
    "COMPRESS": "DEFLATE",
    "PREDICTOR": "YES",  # GDAL chooses the one that fits the dtype
    "BIGTIFF": "IF_SAFER",  # the size is not known before it is compressed
    "OVERVIEW_RESAMPLING": "AVERAGE",  # of the pixels that are not nodata
    "NUM_THREADS": "ALL_CPUS",
}


def write_cog(
    path: str | os.PathLike[str],
    *,
    read: Callable[[Tile], NDArray[Any]],
    tiles: Iterable[Tile],
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    crs: CRS | None,
    transform: Affine,
    nodata: float | None,
    band_names: Sequence[str],
    scales: Sequence[float],
    offsets: Sequence[float],
    tags: Mapping[str, str],
) -> None:
    """Write an image as a Cloud Optimized GeoTIFF; in memory is one tile at a time.

    Parameters
    ----------
    path
        The file to write; one that is there is replaced at the very end, and only by a whole one.
    read
        Returns a tile's pixels (band, y, x) of `dtype`. What it raises passes through.
    tiles
        Partition of the image: each pixel in one tile. They are read in this order.
    shape
        (bands, rows, columns).
    dtype
        uint8, int16, uint16, float32 or another that GeoTIFF has.
    crs
        None writes none.
    transform
        Pixel corner (column, row) to coordinates; the identity is left out.
    nodata
        None writes none; NaN and negative values are kept.
    band_names
        Written as band descriptions.
    scales, offsets
        Per band: physical value = DN * scale + offset; written, not applied.
    tags
        Metadata items of the file.

    Raises
    ------
    UsageError
        The folder does not exist, `path` is a folder, or the file cannot be written, for example on a full disk.
    SceneError
        The tiles do not add up to the image, or `read` returned another shape or dtype.

    Notes
    -----
    GDAL makes this layout only by copying, so the tiles go to a plain GeoTIFF first, and the copy is read back and
    compared before it takes the output's name. Both files stand in a hidden folder beside the output, which needs room
    for the pixels without compression, and which is gone afterwards, whatever happens (unless the process is killed).
    """
    path = Path(path)
    profile = _profile(shape, dtype) | {"crs": crs, "nodata": nodata}
    if not transform.is_identity:
        profile["transform"] = transform
    with _folder_beside(path) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a scene without CRS was warned of when it was opened
        plain, cog = folder / "plain.tif", folder / "cog.tif"
        with _explained(path):
            target = rasterio.open(plain, "w", **profile)
        with target:
            with _explained(path):
                target.update_tags(**tags)
                target.descriptions = tuple(band_names)
                if any(scale != 1 for scale in scales) or any(offset != 0 for offset in offsets):
                    target.scales, target.offsets = tuple(scales), tuple(offsets)
            written = _write_tiles(target, read, tiles, path)
        with _explained(path):
            rasterio.shutil.copy(plain, cog, **_COG_OPTIONS)
            _verify(cog, written)
            cog.replace(path)


def _profile(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return what rasterio takes to create the plain file."""
    bands, rows, cols = shape
    return {
        "driver": "GTiff",
        "count": bands,
        "height": rows,
        "width": cols,
        "dtype": dtype.name,
        "tiled": True,
        "blockxsize": _BLOCK_PIXELS,
        "blockysize": _BLOCK_PIXELS,
        "interleave": "pixel",
        # Left to itself, GDAL takes the fourth band of 8-bit images, which is infrared here, for transparency.
        "photometric": "RGB" if dtype == np.uint8 and bands in {3, 4} else "MINISBLACK",
        "alpha": "NO",
    }


def _write_tiles(
    target: Any, read: Callable[[Tile], NDArray[Any]], tiles: Iterable[Tile], path: Path
) -> list[tuple[Tile, int]]:
    """Return the tiles that were written, with the checksums of their pixels."""
    written = []
    for tile in tiles:
        pixels = read(tile)
        expected = (target.count, tile.height, tile.width), target.dtypes[0]
        if (pixels.shape, pixels.dtype.name) != expected:
            raise SceneError(
                f"expected pixels of shape and dtype {expected} for {tile}; found {pixels.shape}, {pixels.dtype.name}; "
                "return them so from `read`"
            )
        with _explained(path):
            target.write(pixels, window=tile.window)
        written.append((tile, _checksum(pixels)))
    expected_pixels, found_pixels = target.width * target.height, sum(tile.width * tile.height for tile, _ in written)
    if found_pixels != expected_pixels:
        raise SceneError(
            f"expected tiles of {expected_pixels} pixels in all; found {found_pixels}; give each part of the image once"
        )
    return written


def _verify(cog: Path, written: list[tuple[Tile, int]]) -> None:
    """Read everything back: on a full disk, GDAL has been seen to leave half a file without a word.

    Raises
    ------
    OSError
        A tile is not what was written, or an overview cannot be read.
    """
    with rasterio.open(cog) as source:
        for tile, checksum in written:
            if _checksum(source.read(window=tile.window)) != checksum:
                raise OSError(f"other pixels than were written, at {tile}")
        levels = len(source.overviews(1))
    for level in range(levels):
        with rasterio.open(cog, overview_level=level) as overview:
            for _, window in overview.block_windows(1):
                overview.read(window=window)


def _checksum(pixels: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data)


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Make a hidden folder on the same disk, from where a file can be moved into place in one step."""
    if path.is_dir():
        raise UsageError(f"expected the name of a file to write; found the folder {path}; add a file name")
    if not path.parent.is_dir():
        raise UsageError(f"expected a folder to write {path.name} to; found no folder {path.parent}; create it first")
    with _explained(path):
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    with folder as name:
        yield Path(name)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what GDAL and the operating system say about a file into an error that names it."""
    try:
        yield
    except (RasterioError, OSError, ValueError, rasterio._err.CPLE_BaseError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # rasterio's own "Write failed" says less than GDAL's word
            cause = cause.__cause__
        raise UsageError(
            f"expected to write {path}; found: {cause}; choose a folder with enough room that you may write to, "
            "and a nodata value that the dtype has"
        ) from error
