"""Scenes at native resolution to measure archive codecs on: none of their bands was repeated to a finer grid."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from benchmarks.common import Skipped, shared_file
from harmonium.errors import UsageError
from harmonium.models.radiometry import default_peak
from harmonium.pipeline.stats import valid_mask

FILES = {
    "virginia-10m": "sentinel-2-l1c/virginia/virginia_10m.tif",
    "virginia-20m": "sentinel-2-l1c/virginia/virginia_20m.tif",
    "t33uub-10m": "sentinel-2-l1c/t33uub/t33uub_10m.tif",
    "t33uub-20m": "sentinel-2-l1c/t33uub/t33uub_20m.tif",
    "spyndex-10m": "sentinel-2-l2a/spyndex/spyndex_10m.tif",
    "bouconne-10m": "sentinel-2-theia/bouconne/bouconne_2018_t3_10m.tif",
    "landsat8-30m": "landsat-8/virginia_cloudy/virginia_cloudy_30m.tif",
    "landsat8-15m": "landsat-8/virginia_cloudy/virginia_cloudy_15m.tif",
    "landsat7-30m": "landsat-7/chiapas_1999/chiapas_1999_30m.tif",
    "naip-5m": "naip/n_dakota/n_dakota_20180716_5m.tif",
}
"""Names of scenes, and their files in the development data."""

BANDS = {"bouconne-10m": (1, 2, 3, 4)}
"""Bands of files, counted from 1, that hold others, too, which were repeated to a finer grid."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """The bands of one resolution."""

    name: str
    """What tables call it."""

    pixels: NDArray[Any]
    """(band, y, x), uint8, int16 or uint16; what was not observed has the mean of its band."""

    valid: NDArray[np.bool_]
    """Of the same shape: what was observed."""

    peak: float
    """Range that PSNR refers to, in DN."""

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.dtype not in (np.uint8, np.int16, np.uint16):
            raise UsageError(
                f"Expected pixels (band, y, x) of uint8, int16 or uint16, found {self.pixels.shape} of "
                f"{self.pixels.dtype}; give integers"
            )
        if self.valid.shape != self.pixels.shape or not self.valid.any(axis=(1, 2)).all():
            raise UsageError(
                f"Expected a mask {self.pixels.shape} with a valid pixel in each band, found {self.valid.shape} with "
                f"{self.valid.sum()} valid; leave empty bands out"
            )


def masked(name: str, pixels: NDArray[Any], nodata: float | None, peak: float | None = None) -> Scene:
    """A scene of pixels (band, y, x), those that have the value `nodata` filled by the mean of their band.

    Raises
    ------
    UsageError
        If a band has no other pixels, or pixels are no such array of integers.
    """
    valid = valid_mask(pixels, nodata)
    filled = pixels.copy()
    for band, mask in zip(filled, valid, strict=True):
        if mask.any():
            band[~mask] = np.rint(band[mask].mean())
    return Scene(name=name, pixels=filled, valid=valid, peak=default_peak(str(pixels.dtype)) if peak is None else peak)


def load(name: str, size: int | None = None) -> Scene:
    """One of `FILES`, or the `size` × `size` pixels in its middle.

    Raises
    ------
    Skipped
        If the development data do not have it.
    """
    return read(name, FILES[name], size, BANDS.get(name))


def read(name: str, path: str, size: int | None = None, bands: Sequence[int] | None = None) -> Scene:
    """A file of the development data as a scene, or the `size` × `size` pixels in its middle; all bands or some.

    Raises
    ------
    Skipped
        If the development data do not have it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(shared_file(path)) as source:
            pixels, nodata = source.read(None if bands is None else list(bands)), source.nodata
    for axis in (1, 2):
        length = pixels.shape[axis]
        cut = min(size or length, length)
        pixels = pixels.take(range((length - cut) // 2, (length + cut) // 2), axis=axis)
    try:
        return masked(name, pixels, nodata)
    except UsageError as error:
        raise Skipped(f"{name}: {error}") from error
