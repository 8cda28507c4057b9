"""Layers from what GDAL reads: GeoTIFF, COG, JPEG 2000 and more."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonium.errors import SceneError
from harmonium.pipeline.scene_arrays import RasterArray, lazy_array, open_raster
from harmonium.pipeline.scene_layer import Layer, native_nodata, require_dtype
from harmonium.pipeline.scene_metadata import band_from_name, parse_time, resolution_from_name, time_from_tags

if TYPE_CHECKING:
    import rasterio


def raster_layer(path: str, *, alone: bool) -> Layer:
    """Open one raster file; reads its header only.

    Parameters
    ----------
    path
        A file, a URL or one of GDAL's virtual paths.
    alone
        Whether it is the scene's only file: a single band without a name is then `band1` rather than the file's stem.

    Raises
    ------
    SceneError
        It is no raster, has no band, bands of several dtypes, or a dtype that no scene holds.
    """
    with open_raster(path) as source:
        dtype = _require_bands(path, source)
        bands = _band_names(path, source.descriptions, alone=alone)
        shape = (source.count, source.height, source.width)
        scales, offsets = tuple(map(float, source.scales)), tuple(map(float, source.offsets))
        stated = any(scale != 1.0 for scale in scales) or any(offset != 0.0 for offset in offsets)
        return Layer(
            source=path,
            pixels=lazy_array(RasterArray(path=path, shape=shape, dtype=dtype), bands),
            crs=source.crs or None,
            transform=source.transform,
            nodata=native_nodata(source.nodata, dtype),
            scales=scales if stated else None,
            offsets=offsets if stated else None,
            time=time_from_tags({**source.tags(ns="IMAGERY"), **source.tags()}),
            weak_time=parse_time(source.tags().get("TIFFTAG_DATETIME", "")),
            stated_resolution=_stated_resolution(path),
        )


def _band_names(path: str, descriptions: tuple[str | None, ...], *, alone: bool) -> tuple[str, ...]:
    if len(descriptions) == 1 and not descriptions[0]:
        stem = PurePath(path).stem
        return (band_from_name(stem) or ("band1" if alone else stem),)
    return tuple(name.strip() if name and name.strip() else f"band{i}" for i, name in enumerate(descriptions, start=1))


def _stated_resolution(path: str) -> float | None:
    pure = PurePath(path)
    return resolution_from_name(pure.stem) or resolution_from_name(pure.parent.name)


def _require_bands(path: str, source: rasterio.DatasetReader) -> np.dtype[Any]:
    """Return the one dtype that all bands have, or refuse the file."""
    if source.count == 0:
        inside = (
            f"open one of its subdatasets: {', '.join(source.subdatasets)}" if source.subdatasets else "check the file"
        )
        raise SceneError(f"expected at least one band; found zero bands in {path}; {inside}")
    names = sorted(set(source.dtypes))
    if len(names) > 1:
        raise SceneError(
            f"expected one dtype for all bands; found {', '.join(names)} in {path}; "
            "write the bands of each dtype to a file of their own"
        )
    # numpy has no complex integers: GDAL reads them as complex64.
    dtype = np.dtype("complex64" if names[0] == "complex_int16" else names[0])
    require_dtype(dtype, path)
    return dtype
