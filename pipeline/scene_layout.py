"""How a scene lies in an archive before its last pixel is there: its groups' metadata, and which shards are missing.

A scene's `state` tells how far it got: `preparing` until all metadata are there, `writing` until every shard is, then
`complete`, which is the very last act. What was killed while `preparing` is made anew; `writing` is resumed.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.array as da
import zarr
import zarr.errors
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync

from harmonium.models import targets
from harmonium.models.model_file import ModelFile
from harmonium.models.targets import Target
from harmonium.pipeline import overview
from harmonium.pipeline.chunk_payloads import is_whole, stored_grid
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


def prepare(
    url: str, scene: Scene, model: ModelFile, asked: Target | None = None, kept: Mapping[str, Target] | None = None
) -> None:
    """Write all metadata of a scene whose state then is `writing`; anything that stood there before is removed.

    Parameters
    ----------
    url
        The archive.
    scene
        What will be written.
    model
        The model, which the archive holds already.
    asked
        What the user asked of every group, None for models that take no target.
    kept
        For each group the target that its chunks are coded with, where that is another.
    """
    attributes = {
        "stac": stac_item(scene).to_dict(include_self_link=False, transform_hrefs=False),
        "harmonium": {
            "state": PREPARING,
            "model": model.sha256,
            "groups": [group.name for group in scene.groups],
            "source": [str(source) for source in scene.source],
        },
    }
    root = zarr.open_group(url, mode="r+")
    root.require_group("scenes")
    scene_group = root.create_group(f"scenes/{scene.id}", overwrite=True, attributes=attributes)
    for group in scene.groups:
        target = (kept or {}).get(group.name, asked)
        codec = HarmoniumCodec(model=model, group=group.name, source=url, target=target)
        own = _group_attributes(group, model.groups[group.name].codec.radiometry.peak, asked)
        _create_group(url, group_path(scene.id, group.name), group, codec, own)
    set_state(scene_group, WRITING)


def _create_group(
    url: str, path: str, group: ResolutionGroup, codec: HarmoniumCodec, attributes: dict[str, Any]
) -> None:
    grid = grid_of(group)
    fill = fill_value(group)
    bands = len(group.bands)
    # xarray and rioxarray write coordinates and attributes by their own conventions; the pixels come later.
    image = group.data
    image.attrs = _attributes(group)
    placeholder = da.zeros(group.shape, dtype=group.dtype, chunks=(bands, *grid.shard_shape))
    dataset = image.copy(data=placeholder).to_dataset(name="image").assign_attrs(attributes)
    encoding: dict[str, Any] = {
        "chunks": (bands, grid.chunk, grid.chunk),
        "shards": (bands, *grid.shard_shape),
        "serializer": codec,
        "compressors": [Crc32cCodec()],
        "fill_value": fill,
    }
    if group.nodata is None:
        # xarray would call NaN the nodata value of floats that have none.
        encoding["_FillValue"] = None
    if group.crs is not None:
        # Named as a coordinate, too, so that plain `xr.open_zarr` makes it one and rioxarray finds the CRS.
        dataset["image"].encoding.clear()
        dataset["image"].attrs |= {"coordinates": "spatial_ref", "grid_mapping": "spatial_ref"}
    with unspecified_types():
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


def _group_attributes(group: ResolutionGroup, peak: float, asked: Target | None) -> dict[str, Any]:
    """GeoZarr's `proj:` and `spatial:` attributes, and what harmonium needs to know."""
    attributes: dict[str, Any] = {
        "bands": list(group.bands),
        "peak": peak,
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": list(group.shape[1:]),
    }
    if asked is not None:
        attributes["harmonium"] = {"asked": targets.to_json(asked)}
    if group.crs is not None:
        authority = group.crs.to_authority()
        if authority is not None:
            attributes["proj:code"] = ":".join(authority)
        attributes["proj:wkt2"] = group.crs.to_wkt(version="WKT2_2019")
        attributes["spatial:transform"] = [float(value) for value in group.transform[:6]]
    return attributes


# --- while shards come in ------------------------------------------------------------------------------------------


def missing_shards(url: str, path: str) -> list[Tile]:
    """Tiles of the shards that are not stored, or not whole.

    zarr writes a file in one atomic step, so those that are stored are whole, unless the machine lost its power. Such
    a shard is deleted, because zarr reads a shard before it writes to it.
    """
    image = zarr.open_array(url, path=f"{path}/image", mode="r+")
    grid = stored_grid(image)
    missing = []
    for tile in grid.shards():
        key = _shard_key(image, grid, tile)
        if not sync(image.store.exists(key)):
            missing.append(tile)
        elif not is_whole(image, tile):
            sync(image.store.delete(key))
            missing.append(tile)
    return missing


def _shard_key(image: zarr.Array[Any], grid: TileGrid, tile: Tile) -> str:
    rows, columns = grid.shard_shape
    return f"{image.path}/c/0/{tile.row_off // rows}/{tile.col_off // columns}"


def remove_leftovers(url: str, scene_id: str) -> None:
    """Delete the files that a killed process was writing; only local stores leave such."""
    root = Path(url)
    for partial in (
        *root.glob("*.partial"),
        *root.glob("models/**/*.partial"),
        *root.glob("scenes/*.partial"),
        *root.glob(f"scenes/{scene_id}/**/*.partial"),
    ):
        partial.unlink(missing_ok=True)


def set_state(scene_group: zarr.Group, state: str) -> None:
    """Say how far a scene got."""
    own = scene_group.attrs["harmonium"]
    assert isinstance(own, dict)
    scene_group.attrs["harmonium"] = {**own, "state": state}


@contextmanager
def unspecified_types() -> Iterator[None]:
    """Band names are stored as text, and groups consolidated, which Zarr's specification has not settled yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        yield
