"""Layers from what xarray reads: NetCDF-4 and Zarr, the variables of which are (band, y, x) or (y, x)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import rioxarray  # noqa: F401 - gives arrays their `.rio`
import xarray as xr
from affine import Affine

from harmonium.errors import SceneError
from harmonium.pipeline.scene_arrays import SingleBandArray, lazy_array
from harmonium.pipeline.scene_files import is_remote
from harmonium.pipeline.scene_layer import Layer, native_nodata, require_dtype
from harmonium.pipeline.scene_metadata import band_order, is_auxiliary, parse_time, time_from_tags

if TYPE_CHECKING:
    from collections.abc import Hashable
    from datetime import datetime

    from rasterio.crs import CRS

# (y, x), in lower case.
_SPATIAL = (("y", "x"), ("lat", "lon"), ("latitude", "longitude"), ("northing", "easting"), ("row", "col"))
_TIMES = ("time", "t", "date", "datetime")
_REMEDY = "select one acquisition and name the axes: ds.isel(time=0).transpose('band', 'y', 'x')"


def dataset_layers(path: str, engine: str) -> list[Layer]:
    """Open a NetCDF file (`engine="h5netcdf"`) or Zarr store (`engine="zarr"`); reads metadata and coordinates only.

    Raises
    ------
    SceneError
        xarray cannot open it, no variable is an image, one has axes of unknown meaning, or a dtype that no scene holds.
    """
    # To look for consolidated metadata where there are none warns; over a network nothing else may be listed.
    options = {"consolidated": False} if engine == "zarr" and not is_remote(path) else None
    try:
        dataset = xr.open_dataset(
            path,
            engine=engine,
            chunks=None,
            backend_kwargs=options,
            cache=False,
            decode_coords="all",
            mask_and_scale=False,
            decode_times=False,
        )  # type: ignore[call-overload, unused-ignore]
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SceneError(
            f"expected a dataset that xarray reads with {engine}; found {path}: {error}; "
            "check it with xarray.open_dataset"
        ) from error
    images = [name for name in dataset.data_vars if dataset[name].ndim >= 2 and not is_auxiliary(str(name))]
    images = [name for name in images if _spatial_dims(dataset[name]) is not None]
    if not images:
        found = ", ".join(f"{name}{dataset[name].dims}" for name in dataset.data_vars) or "none"
        raise SceneError(
            f"expected variables (band, y, x) or (y, x); found {found} in {path}; rename the axes to y and x"
        )
    images.sort(key=lambda name: band_order(str(name)))
    return [_layer(dataset, name, path, alone=len(images) == 1) for name in images]


def _spatial_dims(array: xr.DataArray) -> tuple[Hashable, Hashable] | None:
    lower = {str(dim).lower(): dim for dim in array.dims}
    return next(((lower[y], lower[x]) for y, x in _SPATIAL if y in lower and x in lower), None)


def _layer(dataset: xr.Dataset, name: Hashable, path: str, *, alone: bool) -> Layer:
    source = path if alone else f"{path}, variable {name}"
    array = dataset[name]
    require_dtype(array.dtype, source)
    spatial = _spatial_dims(array)
    times = [dim for dim in array.dims if str(dim).lower() in _TIMES and array.sizes[dim] == 1]
    plane = array.isel(dict.fromkeys(times, 0))
    if spatial is None or plane.ndim not in (2, 3) or plane.dims[-2:] != spatial or set(plane.dims) & set(_TIMES):
        sizes = ", ".join(f"{dim}: {size}" for dim, size in array.sizes.items())
        raise SceneError(
            f"expected axes (band, y, x) or (y, x) of one acquisition; found ({sizes}) in {source}; {_REMEDY}"
        )
    bands = _band_names(plane, str(name), alone=alone)
    variable = plane.variable
    crs, transform = _georeference(plane, spatial)
    attrs = array.attrs
    stated = "scale_factor" in attrs or "add_offset" in attrs
    nodata = next((attrs[key] for key in ("_FillValue", "missing_value", "nodata") if key in attrs), None)
    return Layer(
        source=source,
        pixels=lazy_array(variable if variable.ndim == 3 else SingleBandArray(variable=variable), bands),
        crs=crs,
        transform=transform,
        nodata=native_nodata(nodata, array.dtype.newbyteorder("=")),
        scales=_per_band(attrs.get("scale_factor", 1.0), len(bands)) if stated else None,
        offsets=_per_band(attrs.get("add_offset", 0.0), len(bands)) if stated else None,
        time=_time(dataset, plane),
    )


def _per_band(value: Any, bands: int) -> tuple[float, ...]:
    return tuple(float(number) for number in np.broadcast_to(np.asarray(value, dtype=np.float64), (bands,)))


def _band_names(plane: xr.DataArray, name: str, *, alone: bool) -> tuple[str, ...]:
    """Name the bands: by the coordinate of the first axis, by `long_name` as rioxarray writes it, or by number."""
    if plane.ndim == 2:
        return (name,)
    count = plane.shape[0]
    labels = plane.coords[plane.dims[0]].values.tolist() if plane.dims[0] in plane.coords else []
    if not all(isinstance(label, str) for label in labels) or not labels:
        long_name = plane.attrs.get("long_name", ())
        labels = list(long_name) if not isinstance(long_name, str) else []
    if len(labels) != count:
        labels = [f"band{i}" if alone else f"{name}_{i}" for i in range(1, count + 1)]
    return tuple(str(label) for label in labels)


def _georeference(plane: xr.DataArray, spatial: tuple[Hashable, Hashable]) -> tuple[CRS | None, Affine]:
    y, x = spatial
    located = plane.rio.set_spatial_dims(x_dim=x, y_dim=y)
    stored: Affine = located.rio.transform()
    if not (x in plane.coords and y in plane.coords and min(plane.sizes[x], plane.sizes[y]) > 1):
        return located.rio.crs, stored
    # A subset keeps the GeoTransform of the whole: where they differ, the coordinates are right.
    measured: Affine = located.rio.transform(recalc=True)
    near = all(abs(p - q) <= 1e-3 * abs(measured.a) for p, q in zip(stored[:6], measured[:6], strict=True))
    return located.rio.crs, stored if near else measured


def _time(dataset: xr.Dataset, plane: xr.DataArray) -> datetime | None:
    for name in plane.coords:
        coordinate = plane.coords[name]
        if str(name).lower() in _TIMES and coordinate.ndim == 0:
            decoded = xr.decode_cf(coordinate.to_dataset(name="value").reset_coords(drop=True))["value"]
            return parse_time(
                str(np.datetime_as_string(decoded.values)) if decoded.dtype.kind == "M" else str(decoded.values)
            )
    return time_from_tags({**dataset.attrs, **plane.attrs})
