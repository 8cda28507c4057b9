"""One raster file or variable: its lazy pixels beside what the file says about them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonium.errors import SceneError

if TYPE_CHECKING:
    from datetime import datetime

    import xarray as xr
    from affine import Affine
    from rasterio.crs import CRS

SCENE_DTYPES = ("uint8", "int16", "uint16", "float32")
"""What a scene may hold."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """Some bands of one scene on one grid, from one file or one variable of it."""

    source: str
    """File, and variable where there are several, for messages."""
    pixels: xr.DataArray
    """Lazily indexed (band, y, x) in native DN, its coordinate `band` names the bands."""
    crs: CRS | None
    """None without georeference."""
    transform: Affine
    """Pixel corner to coordinates; the identity without georeference."""
    nodata: float | int | None
    """Of the kind of the dtype, NaN included; None where every value is valid."""
    scales: tuple[float, ...] | None
    """Per band, None where the file states neither scale nor offset."""
    offsets: tuple[float, ...] | None
    """Per band, added after scaling."""
    time: datetime | None = None
    """Acquisition by the file's metadata."""
    weak_time: datetime | None = None
    """A TIFF's DateTime, which may be the time of writing: used where nothing else is known."""
    stated_resolution: float | None = None
    """Metres that the name of the file or its folder states."""

    def __post_init__(self) -> None:
        if self.pixels.shape[0] == 0 or 0 in self.pixels.shape:
            raise SceneError(
                f"expected at least one band and one pixel; found shape {self.pixels.shape} (band, y, x) in "
                f"{self.source}; name the files of the bands"
            )
        duplicates = sorted({band for band in self.bands if self.bands.count(band) > 1})
        if duplicates:
            raise SceneError(
                f"expected different names for the bands; found {', '.join(duplicates)} more than once in "
                f"{self.source}; set the band descriptions, for instance with `rio edit-info` or gdal_edit.py"
            )

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in order."""
        return tuple(str(band) for band in self.pixels["band"].values.tolist())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native dtype, in the machine's byte order."""
        return self.pixels.dtype.newbyteorder("=")


def require_dtype(dtype: np.dtype[Any], source: str) -> None:
    """Refuse pixels of a dtype that no scene holds.

    Raises
    ------
    SceneError
        It is none of `SCENE_DTYPES`; the message says how to convert.
    """
    if dtype.newbyteorder("=").name in SCENE_DTYPES:
        return
    if dtype.kind == "c":
        remedy = "store magnitude, or real and imaginary part, as float32 bands"
    elif dtype.kind == "f":
        remedy = "convert to float32 (gdal_translate -ot Float32, or .astype('float32'))"
    else:
        remedy = "convert to int16 or uint16 if the values fit (gdal_translate -ot UInt16), else to float32"
    raise SceneError(f"expected pixels of {', '.join(SCENE_DTYPES)}; found {dtype} in {source}; {remedy}")


def native_nodata(value: Any, dtype: np.dtype[Any]) -> float | int | None:
    """Return a nodata value in the kind of the dtype; None where the dtype cannot hold it."""
    if value is None:
        return None
    number = float(np.asarray(value).ravel()[0])
    if dtype.kind == "f":
        return number
    info = np.iinfo(dtype)
    return int(number) if math.isfinite(number) and number.is_integer() and info.min <= number <= info.max else None
