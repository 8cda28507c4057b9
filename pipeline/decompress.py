"""From the archive back to a GeoTIFF: a window, some bands, with everything that the scene knew about itself."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonium.errors import ArchiveError, HarmoniumError, SceneError
from harmonium.pipeline.archive import ArchivedGroup, ArchivedScene
from harmonium.pipeline.cog import write_cog
from harmonium.pipeline.grid import Tile, TileGrid
from harmonium.pipeline.scene_layout import COMPLETE
from harmonium.pipeline.windows import Bbox, check_bbox, window_of


def decompress(
    scene: ArchivedScene,
    out: str | Path,
    *,
    group_name: str | None = None,
    bands: Sequence[str] = (),
    bbox: tuple[Bbox, Any] | None = None,
    window: Tile | None = None,
) -> Tile:
    """Write one resolution group as a Cloud Optimized GeoTIFF, chunk by chunk.

    Parameters
    ----------
    scene
        A complete scene.
    out
        The file; replaced if it is there.
    group_name
        Resolution group; None takes the finest.
    bands
        Bands, in this order; none means all.
    bbox
        A place and its CRS; the pixels that it touches are written.
    window
        The same in pixels; at most one of the two.

    Returns
    -------
    Tile
        What was written.

    Raises
    ------
    ArchiveError
        If the scene is not complete, or damaged.
    SceneError
        If group, bands or window are not the scene's.
    """
    if scene.state != COMPLETE:
        raise ArchiveError(f"Scene {scene.id} is {scene.state}: run the same `harmonium compress` again to complete it")
    group = scene[group_name or next(iter(scene))]
    array = group.open(chunks=None)
    height, width = array.shape[1:]
    tile = _tile(group, array, bbox, window)
    unknown = [band for band in bands if band not in group.bands]
    if unknown:
        raise SceneError(f"Group {group.name} has the bands {', '.join(group.bands)}, found {', '.join(unknown)}")
    chosen = tuple(bands) or group.bands
    indices = [group.bands.index(band) for band in chosen]
    grid = TileGrid(height=height, width=width, chunk=group.image.chunks[1])
    scales, offsets = _radiometry(array.attrs, len(group.bands))
    nodata = array.rio.nodata
    write_cog(
        out,
        read=lambda part: _read(group, part, tile, indices),
        tiles=_parts(grid, tile),
        shape=(len(chosen), tile.height, tile.width),
        dtype=array.dtype,
        crs=array.rio.crs,
        transform=array.rio.transform() * array.rio.transform().translation(tile.col_off, tile.row_off),
        nodata=None if nodata is None else float(nodata),
        band_names=chosen,
        scales=[scales[index] for index in indices],
        offsets=[offsets[index] for index in indices],
        tags=_tags(scene),
    )
    return tile


def _tile(group: ArchivedGroup, array: Any, bbox: tuple[Bbox, Any] | None, window: Tile | None) -> Tile:
    height, width = array.shape[1:]
    whole = Tile(col_off=0, row_off=0, width=width, height=height)
    if bbox is not None and window is not None:
        raise SceneError("Give a bbox or a window of pixels, not both")
    if bbox is not None:
        place, crs = bbox
        found = window_of(check_bbox(place, crs), crs, array.rio.crs, array.rio.transform(), height, width)
        if found is None:
            raise SceneError(f"The bbox {place} lies beside group {group.name}, whose bounds are {array.rio.bounds()}")
        return found
    if window is None:
        return whole
    if window.intersection(whole) != window:
        raise SceneError(f"Group {group.name} has {height} rows and {width} columns, found the window {window}")
    return window


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
    except HarmoniumError:
        raise
    except (ValueError, RuntimeError) as error:
        where = f"rows {rows.start} to {rows.stop}, columns {columns.start} to {columns.stop}"
        raise ArchiveError(f"{group.path}, {where}: {error}; `harmonium verify` names the chunk") from error
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
