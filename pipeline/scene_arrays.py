"""Lazily indexed arrays over raster files: nothing is read before it is indexed, nothing is held after it was read."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import xarray as xr
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window
from xarray.backends import BackendArray
from xarray.core import indexing

from harmonium.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# `warnings.catch_warnings` swaps a list of the whole process: two threads inside it at once would undo each other.
_QUIET = threading.Lock()


@contextmanager
def open_raster(path: str) -> Iterator[rasterio.DatasetReader]:
    """Open a raster with GDAL, which tells the format by the content; without rasterio's NotGeoreferencedWarning.

    Raises
    ------
    SceneError
        GDAL cannot open it.
    """
    try:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path)
    except RasterioError as error:
        raise SceneError(
            f"expected a raster that GDAL can read (GeoTIFF, JPEG 2000, …), NetCDF-4 or Zarr; found {path}: "
            f"{str(error).rstrip('.')}; check the file, or convert it to GeoTIFF with gdal_translate"
        ) from error
    with dataset:
        yield dataset


@dataclass(frozen=True, kw_only=True)
class RasterArray(BackendArray):
    """The pixels (band, y, x) of one raster file, for xarray's lazy indexing.

    rioxarray has such an array, too, but it opens the file with rasterio's warning at every read of a scene without
    georeference. Every read opens the file anew: nothing is shared between threads, and a pickle holds a path only.
    """

    path: str
    """What GDAL opens."""
    shape: tuple[int, int, int]
    """(bands, rows, columns)."""
    dtype: np.dtype[Any]
    """Native dtype of all bands."""

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read what xarray asks for."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        spans = [
            range(size)[part] if isinstance(part, slice) else range(part, part + 1)
            for part, size in zip(key, self.shape, strict=True)
        ]
        if not all(spans):
            return np.empty([len(s) for s, part in zip(spans, key, strict=True) if isinstance(part, slice)], self.dtype)
        bands, rows, cols = (range(span[0], span[-1] + 1) for span in spans)
        window = Window(cols.start, rows.start, len(cols), len(rows))
        with open_raster(self.path) as source:
            try:
                pixels = source.read([band + 1 for band in bands], window=window)
            except RasterioError as error:
                raise SceneError(
                    f"expected to read {window} of {self.path}; found damaged data: {error}; fetch the file again"
                ) from error
        # xarray asks for positive steps only; an index that is no slice drops its axis.
        steps = zip(spans, key, strict=True)
        return np.asarray(
            pixels[tuple(slice(None, None, s.step) if isinstance(part, slice) else 0 for s, part in steps)]
        )


@dataclass(frozen=True, kw_only=True)
class SingleBandArray(BackendArray):
    """A variable (y, x) of a dataset as (band, y, x), still lazy: xarray's own `expand_dims` would read the pixels."""

    variable: xr.Variable
    """Lazily indexed, dimensions (y, x)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, rows, columns)."""
        return (1, *self.variable.shape)  # type: ignore[return-value] # two dimensions

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native dtype."""
        dtype: np.dtype[Any] = self.variable.dtype
        return dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read what xarray asks for."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        return np.asarray(self.variable[key[1:]].values[np.newaxis][key[0]])


def lazy_array(array: RasterArray | SingleBandArray | xr.Variable, bands: tuple[str, ...]) -> xr.DataArray:
    """Return the pixels as a DataArray (band, y, x) that names its bands, without Dask, without a cache, still lazy."""
    data = array._data if isinstance(array, xr.Variable) else indexing.LazilyIndexedArray(array)
    return xr.DataArray(xr.Variable(("band", "y", "x"), data), coords={"band": np.array(bands, dtype=object)})
