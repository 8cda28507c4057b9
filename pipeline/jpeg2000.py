"""JPEG 2000 at a given size, through GDAL and OpenJPEG: the peer that reports put beside harmonium."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from harmonium.errors import UsageError

_ATTEMPTS = 20
_SMALLEST_TILE = 32


def at_bits(pixels: NDArray[np.generic], bits_per_pixel: float) -> tuple[NDArray[np.generic], int]:
    """Code pixels (band, y, x) of integers with at most so many bits per pixel and band.

    One tile, irreversible wavelet, all bands in one codestream, so that the rate goes to the bands that need it.

    Returns
    -------
    tuple
        The decoded pixels, and the length of the file in bytes.

    Raises
    ------
    UsageError
        If its headers alone take more.
    """
    budget = bits_per_pixel * pixels.size / 8
    # The driver's QUALITY is a share of the uncompressed size, which OpenJPEG meets within a thousandth.
    quality = 100 * bits_per_pixel / (8 * pixels.dtype.itemsize)
    for _ in range(_ATTEMPTS):
        data = _encode(pixels, quality)
        if len(data) <= budget:
            break
        quality *= 0.999 * budget / len(data)
    else:
        raise UsageError(
            f"JPEG 2000 takes at least {len(data)} bytes for pixels of shape {pixels.shape}, asked for were "
            f"{budget:.0f}; give it more bits"
        )
    with _without_georeference(), MemoryFile(data) as file, file.open() as source:
        return source.read(), len(data)


def _encode(pixels: NDArray[np.generic], quality: float) -> bytes:
    bands, height, width = pixels.shape
    with _without_georeference(), MemoryFile(ext=".jp2") as file:
        with file.open(
            driver="JP2OpenJPEG",
            count=bands,
            height=height,
            width=width,
            dtype=pixels.dtype,
            QUALITY=quality,
            REVERSIBLE="NO",
            YCC="NO",
            BLOCKXSIZE=max(width, _SMALLEST_TILE),
            BLOCKYSIZE=max(height, _SMALLEST_TILE),
            RESOLUTIONS=6,
        ) as target:
            target.write(pixels)
        return bytes(file.read())


@contextmanager
def _without_georeference() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
