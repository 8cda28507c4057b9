"""From the archive back to a GeoTIFF: a window, some bands, with everything that the scene knew about itself."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rioxarray  # noqa: F401 - gives arrays their `.rio`
import xarray as xr
from numpy.typing import NDArray
from rasterio.crs import CRS

from harmonium.errors import ArchiveError, ModelError, PayloadError, SceneError, UsageError
from harmonium.pipeline.archive import ArchivedGroup, ArchivedScene
from harmonium.pipeline.cog import write_cog
from harmonium.pipeline.grid import Tile, TileGrid
from harmonium.pipeline.scene_layout import COMPLETE
from harmonium.pipeline.windows import LONLAT, Bbox, moved, parse_crs, window_of


def decompress(
    scene: ArchivedScene,
    out: str | Path,
    *,
    group: str | None = None,
    bands: Sequence[str] = (),
    bbox: Bbox | None = None,
    crs: CRS | str = LONLAT,
    window: Tile | None = None,
) -> Tile:
    """Write one resolution group as a Cloud Optimized GeoTIFF, chunk by chunk.

    Parameters
    ----------
    scene
        A complete scene.
    out
        The file; replaced if it is there, and only by a whole one.
    group
        Resolution group; None takes the finest.
    bands
        Bands, in this order; none means all.
    bbox, crs
        A place: (west, south, east, north); the pixels that it touches are written.
    window
        The same in pixels; at most one of the two.

    Returns
    -------
    Tile
        What was written.

    Raises
    ------
    ArchiveError
        If the scene is not complete.
    PayloadError
        If a chunk is damaged.
    ModelError
        If the model is missing or damaged.
    SceneError, UsageError
        If group, bands, bbox or window are not the scene's, or the file cannot be written.
    """
    if scene.state != COMPLETE:
        raise ArchiveError(f"Scene {scene.id} is {scene.state}: run the same `harmonium compress` again to complete it")
    if bbox is not None and window is not None:
        raise UsageError("Give a bbox or a window of pixels, not both")
    source = scene[group or next(iter(scene))]
    array = source.open(chunks=None)
    _, height, width = array.shape
    tile = _bbox_tile(source, array, bbox, parse_crs(crs)) if bbox is not None else _tile(source, array, window)
    chosen = _bands(source, bands)
    indices = [source.bands.index(band) for band in chosen]
    scales, offsets = _radiometry(array.attrs, len(source.bands))
    write_cog(
        out,
        read=lambda part: _read(source, part, tile, indices),
        tiles=_parts(TileGrid(height=height, width=width, chunk=source.image.chunks[1]), tile),
        shape=(len(chosen), tile.height, tile.width),
        dtype=array.dtype,
        crs=array.rio.crs,
        transform=moved(array.rio.transform(), tile),
        nodata=None if array.rio.nodata is None else float(array.rio.nodata),
        band_names=chosen,
        scales=[scales[index] for index in indices],
        offsets=[offsets[index] for index in indices],
        tags=_tags(scene),
    )
    return tile


def _bbox_tile(group: ArchivedGroup, array: xr.DataArray, bbox: Bbox, crs: CRS) -> Tile:
    found = window_of(bbox, crs, array.rio.crs, array.rio.transform(), *array.shape[1:])
    if found is None:
        raise SceneError(
            f"The bbox {bbox} lies beside group {group.name}, whose bounds are {array.rio.bounds()} in "
            f"{array.rio.crs.to_string()}; choose another bbox"
        )
    return found


def _tile(group: ArchivedGroup, array: xr.DataArray, window: Tile | None) -> Tile:
    _, height, width = array.shape
    whole = Tile(col_off=0, row_off=0, width=width, height=height)
    if window is not None and window.intersection(whole) != window:
        raise SceneError(
            f"Group {group.name} has {width} columns and {height} rows, found the window {window}; choose one inside"
        )
    return window or whole


def _bands(group: ArchivedGroup, bands: Sequence[str]) -> tuple[str, ...]:
    if unknown := [band for band in bands if band not in group.bands]:
        raise SceneError(
            f"Group {group.name} has the bands {', '.join(group.bands)}, found {', '.join(unknown)}; choose among them"
        )
    return tuple(bands) or group.bands


def _parts(grid: TileGrid, tile: Tile) -> Iterator[Tile]:
    """Parts of a window that each lie in one chunk, relative to the window."""
    for chunk in grid.intersecting(tile):
        part = chunk.intersection(tile)
        assert part is not None
        yield part.relative_to(tile)


def _read(group: ArchivedGroup, part: Tile, tile: Tile, indices: Sequence[int]) -> NDArray[Any]:
    rows = slice(tile.row_off + part.row_off, tile.row_off + part.row_off + part.height)
    columns = slice(tile.col_off + part.col_off, tile.col_off + part.col_off + part.width)
    try:
        pixels = np.asarray(group.image[:, rows, columns])
    except ModelError:
        raise
    except (ValueError, RuntimeError) as error:
        where = f"rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}"
        raise PayloadError(
            f"{group.path}, {where}: {error}; `harmonium verify` names every chunk that is damaged"
        ) from error
    return pixels[list(indices)]


def _radiometry(attributes: dict[str, Any], bands: int) -> tuple[list[float], list[float]]:
    """Scale and offset of every band."""
    if "scales" in attributes:
        return list(attributes["scales"]), list(attributes["offsets"])
    return [attributes.get("scale_factor", 1.0)] * bands, [attributes.get("add_offset", 0.0)] * bands


def _tags(scene: ArchivedScene) -> dict[str, str]:
    properties = scene.item["properties"]
    tags = {"SCENE": scene.id, "MODEL": scene.model}
    if properties.get("datetime") is not None:
        tags["ACQUISITION_DATETIME"] = datetime.fromisoformat(properties["datetime"]).isoformat()
    if "platform" in properties:
        tags["PLATFORM"] = str(properties["platform"])
    return tags
