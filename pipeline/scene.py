"""Scenes: one acquisition each, from GeoTIFF, JPEG 2000, NetCDF, Zarr or a product's folder; opening reads no pixel."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harmonium.errors import SceneError
from harmonium.pipeline.resolution_group import ResolutionGroup, group_layers
from harmonium.pipeline.scene_datasets import dataset_layers
from harmonium.pipeline.scene_files import (
    PathLike,
    as_paths,
    find_files,
    is_remote,
    is_zarr,
    product_metadata,
    scene_id_from,
)
from harmonium.pipeline.scene_metadata import require_id, require_time
from harmonium.pipeline.scene_rasters import raster_layer
from harmonium.pipeline.stats import valid_mask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from harmonium.pipeline.scene_layer import Layer

__all__ = ["GeoreferenceWarning", "ResolutionGroup", "Scene", "open_scene", "valid_mask"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_NETCDF3 = b"CDF"


class GeoreferenceWarning(UserWarning):
    """A scene says nothing about where on Earth it lies; its CRS stays absent."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """One acquisition. Holds paths and metadata, so that it is small, can be pickled, and reads in any process."""

    id: str
    """Name of [A-Za-z0-9_.-] only, never a path."""
    groups: tuple[ResolutionGroup, ...]
    """One or more, the finest first, each of another name."""
    time: datetime | None
    """Acquisition, with its time zone; None where nothing tells."""
    platform: str | None
    """As STAC writes it: `sentinel-2a`, `landsat-8`; None where nothing tells."""
    sensor: str | None
    """As STAC writes it: `msi`, `oli-tirs`; None where nothing tells."""
    source: tuple[str, ...]
    """The paths that the scene was opened from, as given."""

    def __post_init__(self) -> None:
        require_id(self.id)
        names = [group.name for group in self.groups]
        if not names or len(set(names)) != len(names):
            raise SceneError(
                f"expected resolution groups of different names; found {names}; make scenes with open_scene"
            )
        if self.time is not None and self.time.tzinfo is None:
            raise SceneError(f"expected a time with its zone; found {self.time}; use time.replace(tzinfo=datetime.UTC)")

    def group(self, name: str) -> ResolutionGroup:
        """Return the resolution group of that name.

        Raises
        ------
        SceneError
            There is none.
        """
        found = next((group for group in self.groups if group.name == name), None)
        if found is None:
            names = ", ".join(group.name for group in self.groups)
            raise SceneError(
                f"expected a resolution group of scene {self.id}: {names}; found {name!r}; choose one of them"
            )
        return found


def open_scene(
    path_or_paths: PathLike | Sequence[PathLike],
    *,
    time: str | datetime | None = None,
    scene_id: str | None = None,
) -> Scene:
    """Open one acquisition; reads headers and metadata, no pixel.

    Parameters
    ----------
    path_or_paths
        One file of many bands, files of one or more bands each, a folder of either, a Sentinel-2 .SAFE folder, a
        NetCDF-4 file or a Zarr store with variables (band, y, x) or (y, x). The content decides on the format, not the
        suffix. A file that is named is never left out; in folders, previews and quality layers are, and of the bands
        that a Level-2A .SAFE repeats, the coarser copies.
    time
        Acquisition, such as `2020-05-01` or full ISO 8601, UTC where it names no zone. Given, it wins over metadata,
        which win over names, which win over a TIFF's DateTime (which may be the time of writing).
    scene_id
        Name of the scene; None takes it from the product, folder or file.

    Returns
    -------
    Scene
        Files of the same shape, CRS and transform form one group; bands are in the sensor's order.

    Raises
    ------
    SceneError
        Nothing is there, it is no raster, a dtype is not uint8, int16, uint16 or float32, there are no bands, axes of
        unknown meaning, or files that do not go together.

    Warns
    -----
    GeoreferenceWarning
        A group has no CRS.

    Notes
    -----
    Since processing baseline 04.00 (2022-01-25), Sentinel-2's DN are shifted: reflectance = (DN - 1000) / 10000. The
    shift is read from MTD_MSIL*.xml, else told by the baseline in the product's name, and kept as `scale_factor`
    0.0001 and `add_offset` -0.1, so that reflectance = DN * scale_factor + add_offset. Tags in the files themselves
    win. DN are stored as they are: neither scale nor offset is ever applied.
    """
    paths = as_paths(path_or_paths)
    given_time = require_time(time)
    files = find_files(paths)
    layers = [layer for file in files for layer in _layers(file, alone=len(files) == 1)]
    product = product_metadata(files)
    scene = Scene(
        id=scene_id_from(paths) if scene_id is None else scene_id,
        groups=group_layers(layers, product),
        time=given_time or _first_time(layers) or product.time or _first_weak_time(layers),
        platform=product.platform,
        sensor=product.sensor,
        source=paths,
    )
    if any(group.crs is None for group in scene.groups):
        warnings.warn(
            f"scene {scene.id} has no coordinate reference system; it is used without one. "
            "Assign one with gdal_edit.py -a_srs if you know it",
            GeoreferenceWarning,
            stacklevel=2,
        )
    return scene


def _layers(path: str, *, alone: bool) -> list[Layer]:
    if is_zarr(path):
        return dataset_layers(path, "zarr")
    head = b""
    if not is_remote(path):
        with Path(path).open("rb") as file:
            head = file.read(8)
    if head.startswith(_NETCDF3):
        raise SceneError(
            f"expected NetCDF-4; found the classic NetCDF-3 format in {path}; convert it with nccopy -k nc4"
        )
    if head == _HDF5:
        return dataset_layers(path, "h5netcdf")
    return [raster_layer(path, alone=alone)]


def _first_time(layers: list[Layer]) -> datetime | None:
    return next((layer.time for layer in layers if layer.time is not None), None)


def _first_weak_time(layers: list[Layer]) -> datetime | None:
    return next((layer.weak_time for layer in layers if layer.weak_time is not None), None)
