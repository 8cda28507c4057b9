"""How a scene lies in an archive: its groups' metadata before the first pixel, its summaries after the last.

A scene's `state` tells how far it got: `preparing` until all metadata are there, `writing` until every shard is, then
`complete`, which is the very last act. What was killed while `preparing` is made anew; `writing` is resumed.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
import zarr.errors
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync

from harmonium.errors import ArchiveError, PayloadError
from harmonium.models.payload import Mode, Payload, unpack
from harmonium.pipeline import overview, views
from harmonium.pipeline.grid import Tile, TileGrid
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.stac import stac_item
from harmonium.pipeline.zarr_codec import HarmoniumCodec

PREPARING, WRITING, COMPLETE = "preparing", "writing", "complete"


def fill_value(group: ResolutionGroup) -> float | int:
    """Value of pixels without data: the scene's nodata; where it has none, NaN for floats and 0 for integers."""
    if group.nodata is not None:
        return group.nodata
    return float("nan") if group.dtype.kind == "f" else 0


def group_path(scene_id: str, group_name: str) -> str:
    """Path of a resolution group in an archive."""
    return f"scenes/{scene_id}/{group_name}"


def grid_of(group: ResolutionGroup) -> TileGrid:
    """Chunks and shards in which a group is stored."""
    return TileGrid.for_shape(*group.shape[1:])


# --- before the first pixel ----------------------------------------------------------------------------------------


def prepare(url: str, scene: Scene, model: str, peaks: dict[str, float]) -> None:
    """Write all metadata of a scene whose state then is `writing`; anything that stood there before is removed.

    Parameters
    ----------
    url
        The archive.
    scene
        What will be written.
    model
        SHA-256 of the model, which the archive holds already.
    peaks
        For each group the value range that PSNR refers to, in DN.
    """
    attributes = {
        "stac": stac_item(scene).to_dict(include_self_link=False, transform_hrefs=False),
        "harmonium": {
            "state": PREPARING,
            "model": model,
            "groups": [group.name for group in scene.groups],
            "source": [str(source) for source in scene.source],
        },
    }
    root = zarr.open_group(url, mode="r+")
    root.require_group("scenes")
    scene_group = root.create_group(f"scenes/{scene.id}", overwrite=True, attributes=attributes)
    for group in scene.groups:
        codec = HarmoniumCodec(model=model, group=group.name, source=url)
        _create_group(url, group_path(scene.id, group.name), group, codec, peaks[group.name])
    _set_state(scene_group, WRITING)


def _create_group(url: str, path: str, group: ResolutionGroup, codec: HarmoniumCodec, peak: float) -> None:
    grid = grid_of(group)
    fill = fill_value(group)
    bands = len(group.bands)
    # xarray and rioxarray write coordinates and attributes by their own conventions; the pixels come later.
    image = group.data
    image.attrs = _attributes(group)
    placeholder = da.zeros(group.shape, dtype=group.dtype, chunks=(bands, *grid.shard_shape))  # type: ignore[no-untyped-call]
    dataset = image.copy(data=placeholder).to_dataset(name="image").assign_attrs(_group_attributes(group, peak))
    encoding: dict[str, Any] = {
        "chunks": (bands, grid.chunk, grid.chunk),
        "shards": (bands, *grid.shard_shape),
        "serializer": codec,
        "compressors": [Crc32cCodec()],
        "fill_value": fill,
    }
    if group.crs is not None:
        # Named as a coordinate, too, so that plain `xr.open_zarr` makes it one and rioxarray finds the CRS.
        dataset["image"].encoding.clear()
        dataset["image"].attrs |= {"coordinates": "spatial_ref", "grid_mapping": "spatial_ref"}
    with _unspecified_types():
        dataset.to_zarr(
            url, group=path, mode="w", compute=False, consolidated=False, zarr_format=3, encoding={"image": encoding}
        )
    factor, (height, width) = overview.levels(*group.shape[1:])[0]
    piece = tuple(-(-side // factor) for side in grid.shard_shape)
    zarr.create_array(
        url,
        name=f"{path}/overview/{factor}",
        shape=(bands, height, width),
        chunks=(bands, *piece),
        dtype=group.dtype,
        fill_value=fill,
        compressors=[ZstdCodec(level=9)],
        dimension_names=("band", "y", "x"),
    )


def _attributes(group: ResolutionGroup) -> dict[str, Any]:
    """What xarray applies when it decodes, as CF has it; left out where it would change nothing."""
    attributes: dict[str, Any] = {}
    if group.nodata is not None:
        attributes["_FillValue"] = group.dtype.type(group.nodata)
    if len(set(group.scales)) == len(set(group.offsets)) == 1:
        if (group.scales[0], group.offsets[0]) != (1, 0):
            attributes |= {"scale_factor": group.scales[0], "add_offset": group.offsets[0]}
    else:
        # CF has one scale for an array; these are kept, and applied by nobody.
        attributes |= {"scales": list(group.scales), "offsets": list(group.offsets)}
    return attributes


def _group_attributes(group: ResolutionGroup, peak: float) -> dict[str, Any]:
    """GeoZarr's `proj:` and `spatial:` attributes, and what harmonium needs to know."""
    attributes: dict[str, Any] = {
        "bands": list(group.bands),
        "peak": peak,
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": list(group.shape[1:]),
    }
    if group.crs is not None:
        authority = group.crs.to_authority()
        if authority is not None:
            attributes["proj:code"] = ":".join(authority)
        attributes["proj:wkt2"] = group.crs.to_wkt(version="WKT2_2019")
        attributes["spatial:transform"] = [float(value) for value in group.transform[:6]]
    return attributes


# --- while shards come in ------------------------------------------------------------------------------------------


def shard_index(grid: TileGrid, tile: Tile) -> tuple[int, int]:
    """Index along (y, x) of the shard that a tile is."""
    rows, columns = grid.shard_shape
    return tile.row_off // rows, tile.col_off // columns


def missing_shards(url: str, path: str, grid: TileGrid) -> list[Tile]:
    """Tiles of the shards that are not stored; zarr writes each in one atomic step, so those that are, are whole."""
    image = zarr.open_array(url, path=f"{path}/image", mode="r")
    store = image.store

    async def stored(tile: Tile) -> bool:
        row, column = shard_index(grid, tile)
        return await store.exists(f"{image.path}/c/0/{row}/{column}")

    return [tile for tile in grid.shards() if not sync(stored(tile))]


def remove_leftovers(url: str, scene_id: str) -> None:
    """Delete the files that a killed process was writing; only local stores leave such."""
    folder = Path(url) / "scenes" / scene_id
    if folder.is_dir():
        for partial in folder.rglob("*.partial"):
            partial.unlink(missing_ok=True)


# --- after the last pixel ------------------------------------------------------------------------------------------


def finish(url: str, scene_id: str) -> None:
    """Write the summaries of a scene whose shards are all stored, and mark it complete.

    Raises
    ------
    ArchiveError
        If a chunk is missing or damaged.
    """
    remove_leftovers(url, scene_id)
    scene_group = zarr.open_group(url, path=f"scenes/{scene_id}", mode="r+")
    for name in scene_group.attrs["harmonium"]["groups"]:  # type: ignore[index, call-overload, union-attr]
        path = group_path(scene_id, str(name))
        _write_quality(url, path)
        _write_overviews(url, path)
        with _unspecified_types():
            zarr.consolidate_metadata(url, path=path)
    _set_state(scene_group, COMPLETE)


def chunk_payloads(url: str, path: str) -> Iterator[tuple[int, int, bytes]]:
    """Index along (y, x) and bytes of every chunk of a group, one shard in memory at a time.

    Raises
    ------
    ArchiveError
        If a shard is damaged; the message names the scene, the group and the chunk.
    """
    view = views.payloads(zarr.open_array(url, path=f"{path}/image", mode="r"))
    _, rows, columns = view.shape
    _, shard_rows, shard_columns = view.shards or view.chunks
    for row in range(0, rows, shard_rows):
        for column in range(0, columns, shard_columns):
            block = _block(
                view, slice(row, min(row + shard_rows, rows)), slice(column, min(column + shard_columns, columns))
            )
            for index in np.ndindex(min(shard_rows, rows - row), min(shard_columns, columns - column)):
                chunk = (row + index[0], column + index[1])
                yield (*chunk, block[index] if block is not None else _one_payload(view, path, *chunk))


def _block(view: zarr.Array[Any], rows: slice, columns: slice) -> NDArray[np.object_] | None:
    """The payloads of one shard, or None if it cannot be read whole: read one by one, they tell which is to blame."""
    try:
        return np.asarray(view[0, rows, columns], dtype=object)
    except (ValueError, RuntimeError):
        return None


def _one_payload(view: zarr.Array[Any], path: str, row: int, column: int) -> bytes:
    try:
        return views.one_payload(view, row, column)
    except (ValueError, RuntimeError) as error:
        raise ArchiveError(f"{describe_chunk(path, row, column)}: {error}; compress the scene again") from error


def describe_chunk(path: str, row: int, column: int) -> str:
    """Name a chunk for people."""
    _, scene_id, group = path.split("/")
    return f"Scene {scene_id}, group {group}, chunk (y {row}, x {column})"


def read_header(path: str, row: int, column: int, data: bytes) -> Payload:
    """Take a chunk's payload apart.

    Raises
    ------
    ArchiveError
        If it is missing or damaged.
    """
    if not data:
        raise ArchiveError(f"{describe_chunk(path, row, column)} is missing; compress the scene again")
    try:
        return unpack(data)
    except PayloadError as error:
        raise ArchiveError(f"{describe_chunk(path, row, column)}: {error}; compress the scene again") from error


def _write_quality(url: str, path: str) -> None:
    group = zarr.open_group(url, path=path, mode="r")
    bands = len(group.attrs["bands"])  # type: ignore[arg-type]
    view = views.payloads(zarr.open_array(url, path=f"{path}/image", mode="r"))
    grid: tuple[int, int] = view.shape[1:]  # type: ignore[assignment]
    nbytes, mode = np.zeros(grid, np.uint32), np.zeros(grid, np.uint8)
    count = np.zeros((bands, *grid), np.uint32)
    mse, max_error = np.zeros((bands, *grid)), np.zeros((bands, *grid))
    for row, column, data in chunk_payloads(url, path):
        payload = read_header(path, row, column, data)
        quality, here = payload.quality, (slice(None), row, column)
        nbytes[row, column], mode[row, column] = quality.nbytes, payload.mode
        count[here], mse[here], max_error[here] = quality.count, quality.mse, quality.max_error
    per_chunk, per_band = ("chunk_y", "chunk_x"), ("band", "chunk_y", "chunk_x")
    modes = {"flag_values": [int(each) for each in Mode], "flag_meanings": " ".join(each.name.lower() for each in Mode)}
    dataset = xr.Dataset(
        {
            "bytes": (per_chunk, nbytes, {"long_name": "length of the payload", "units": "byte"}),
            "mode": (per_chunk, mode, {"long_name": "how the chunk is coded", **modes}),
            "count": (per_band, count, {"long_name": "pixels that carry data"}),
            "mse": (
                per_band,
                mse,
                {"long_name": "mean squared error, NaN where no pixel carries data", "units": "DN2"},
            ),
            "max_error": (per_band, max_error, {"long_name": "largest absolute error", "units": "DN"}),
        }
    )
    dataset.to_zarr(url, group=f"{path}/quality", mode="w", consolidated=False, zarr_format=3)


def _write_overviews(url: str, path: str) -> None:
    """Halve the first level, which came with the shards, down to the smallest."""
    image = zarr.open_array(url, path=f"{path}/image", mode="r")
    below: NDArray[Any] | None = None
    for factor, _ in overview.levels(*image.shape[1:]):
        name = f"{path}/overview/{factor}"
        if below is None:
            below = np.asarray(zarr.open_array(url, path=name, mode="r")[:])
            continue
        fill = image.fill_value.item()  # type: ignore[union-attr]
        below = overview.reduce_by(below, 2, _observed(below, fill), nodata=fill)
        zarr.create_array(
            url,
            name=name,
            data=below,
            chunks=below.shape,
            fill_value=fill,
            compressors=[ZstdCodec(level=9)],
            dimension_names=("band", "y", "x"),
            overwrite=True,
        )


def _observed(pixels: NDArray[Any], fill: float) -> NDArray[np.bool_]:
    observed: NDArray[np.bool_] = np.isfinite(pixels) & (pixels != fill)
    return observed


def _set_state(scene_group: zarr.Group, state: str) -> None:
    own = scene_group.attrs["harmonium"]
    scene_group.attrs["harmonium"] = {**own, "state": state}  # type: ignore[dict-item]


@contextmanager
def _unspecified_types() -> Iterator[None]:
    """Band names are stored as text, and groups consolidated, which Zarr's specification has not settled yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        yield
