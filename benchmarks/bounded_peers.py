"""Archive codecs that are exact, or keep every pixel within a bound: LERC, SZ3, JPEG XL, GeoTIFF with a predictor.

Codecs without loss keep a bound d on pixels that were rounded to steps of 2 d + 1 before, which no coarser grid can do.
Codecs of floats keep d + 0.49 before their pixels are rounded to integers, and so d after it.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from benchmarks.archive_peers import Point, point
from benchmarks.archive_scenes import Scene
from benchmarks.plane_codecs import package

BOUNDS = (0, 1, 2, 4, 8, 16, 32)
"""Largest errors that are allowed, in DN."""

Coded = tuple[NDArray[Any], int]
"""Decoded pixels (band, y, x) in the type of the original, and how many bytes they took."""

_BEFORE_ROUNDING = 0.49
_BLOCK = 512
_TILE_UNIT = 16
_EFFORTS = (7, 9)
"""Of libjxl: more is not always smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedPeer:
    """A codec that keeps a bound."""

    name: str
    """What tables call it."""

    code: Callable[[NDArray[Any], int], Coded]
    """Codes pixels (band, y, x) with errors of at most so many DN, or raises `Skipped`."""


def bounded_peers() -> list[BoundedPeer]:
    """All of them."""
    return [
        BoundedPeer(name="LERC", code=lerc),
        BoundedPeer(name="SZ3", code=sz3),
        BoundedPeer(name="JPEG XL lossless", code=jpeg_xl_lossless),
        BoundedPeer(name="GeoTIFF zstd", code=lambda pixels, bound: geotiff(pixels, bound, "ZSTD")),
        BoundedPeer(name="GeoTIFF deflate", code=lambda pixels, bound: geotiff(pixels, bound, "DEFLATE")),
    ]


def bounded_curve(scene: Scene, peer: BoundedPeer, bounds: Sequence[int] = BOUNDS) -> list[Point]:
    """What a peer makes of a scene at each bound, errors verified.

    Raises
    ------
    Skipped
        If the codec is not here.
    RuntimeError
        If an error is larger than the bound.
    """
    found = []
    for bound in bounds:
        reached = point(scene, *peer.code(scene.pixels, bound))
        if reached.max_error > bound:
            raise RuntimeError(f"{peer.name} was to keep {bound} DN on {scene.name}, found {reached.max_error:g} DN")
        found.append(reached)
    return found


def lerc(pixels: NDArray[Any], bound: int) -> Coded:
    """LERC 2 of integers or of floats, all bands in one blob, with and without zstd after it: the smallest."""
    imagecodecs = package("imagecodecs")
    offers = [(pixels, float(bound)), (pixels.astype(np.float32), bound + _BEFORE_ROUNDING)]
    files = [
        bytes(imagecodecs.lerc_encode(values, level=level, planar=True, compression=after))
        for values, level in offers
        for after in (None, "zstd")
    ]
    smallest = min(files, key=len)
    return _rounded(imagecodecs.lerc_decode(smallest), pixels), len(smallest)


def sz3(pixels: NDArray[Any], bound: int) -> Coded:
    """SZ3 of floats, all bands as one volume or each by itself: the smaller."""
    imagecodecs = package("imagecodecs")
    values = pixels.astype(np.float32)
    offers = []
    for parts in (values[np.newaxis], values):
        files = [bytes(imagecodecs.sz3_encode(part, mode="abs", abs=bound + _BEFORE_ROUNDING)) for part in parts]
        offers.append((files, parts))
    files, parts = min(offers, key=lambda offer: sum(map(len, offer[0])))
    decoded = [imagecodecs.sz3_decode(file, shape=parts[0].shape, dtype=np.float32) for file in files]
    return _rounded(np.stack(decoded), pixels), sum(map(len, files))


def jpeg_xl_lossless(pixels: NDArray[Any], bound: int) -> Coded:
    """JPEG XL without loss on rounded pixels, one file: a grey image, the other bands its extra channels."""
    imagecodecs = package("imagecodecs")
    levels, side = to_levels(pixels, bound)
    files = [
        bytes(
            imagecodecs.jpegxl_encode(
                levels if len(levels) > 1 else levels[0],
                lossless=True,
                effort=effort,
                photometric="gray",
                planar=len(levels) > 1,
                usecontainer=False,
                numthreads=1,
            )
        )
        for effort in _EFFORTS
    ]
    smallest = min(files, key=len)
    decoded = imagecodecs.jpegxl_decode(smallest, numthreads=1)
    return from_levels(decoded, pixels, bound), len(smallest) + side


def geotiff(pixels: NDArray[Any], bound: int, compression: str) -> Coded:
    """Rounded pixels as a GeoTIFF with horizontal differences, tiled, bands apart.

    Deflate at its highest level; zstd at 19, as 22 gave the same bytes in half as much time again.
    """
    levels, side = to_levels(pixels, bound)
    bands, height, width = levels.shape
    level = {"ZSTD": {"ZSTD_LEVEL": 19}, "DEFLATE": {"ZLEVEL": 9}}[compression]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile(ext=".tif") as file:
            with file.open(
                driver="GTiff",
                count=bands,
                height=height,
                width=width,
                dtype=levels.dtype,
                compress=compression,
                predictor=2,
                interleave="band",
                tiled=True,
                blockxsize=_block(width),
                blockysize=_block(height),
                **level,
            ) as target:
                target.write(levels)
            data = bytes(file.read())
        with MemoryFile(data) as file, file.open() as source:
            decoded = source.read()
    return from_levels(decoded, pixels, bound), len(data) + side


def _block(length: int) -> int:
    """Side of a tile: at most 512, a multiple of 16, and no longer than it has to be."""
    return min(_BLOCK, -(-length // _TILE_UNIT) * _TILE_UNIT)


def to_levels(pixels: NDArray[Any], bound: int) -> tuple[NDArray[Any], int]:
    """Pixels (band, y, x) in steps of 2 bound + 1 DN, counted from a band's smallest, and what bound and those take."""
    steps = (pixels - _lowest(pixels) + bound) // (2 * bound + 1)
    small = pixels.dtype.itemsize == 1 or steps.max() <= np.iinfo(np.uint8).max
    return steps.astype(np.uint8 if small else np.uint16), 1 + pixels.dtype.itemsize * len(pixels)


def from_levels(levels: NDArray[Any], pixels: NDArray[Any], bound: int) -> NDArray[Any]:
    """Values of the levels of these pixels, in their type."""
    return _rounded(_lowest(pixels) + levels.astype(np.int64) * (2 * bound + 1), pixels)


def _lowest(pixels: NDArray[Any]) -> NDArray[np.int64]:
    lowest: NDArray[np.int64] = pixels.min(axis=(1, 2), keepdims=True).astype(np.int64)
    return lowest


def _rounded(values: NDArray[Any], pixels: NDArray[Any]) -> NDArray[Any]:
    limits = np.iinfo(pixels.dtype)
    native: NDArray[Any] = np.clip(np.rint(values), limits.min, limits.max).astype(pixels.dtype)
    return native.reshape(pixels.shape)
