"""What is written after a scene's last shard: quality arrays, the smaller overviews, and that it is complete."""

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from harmonium.models.payload import Mode
from harmonium.pipeline import overview
from harmonium.pipeline.chunk_payloads import parse, shard_payloads, stored_grid
from harmonium.pipeline.scene_layout import COMPLETE, group_path, remove_leftovers, set_state, unspecified_types
from harmonium.pipeline.stats import valid_mask


def finish(url: str, scene_id: str) -> None:
    """Write the summaries of a scene whose shards are all stored, and mark it complete.

    Raises
    ------
    ArchiveError
        If a chunk is missing or damaged.
    """
    remove_leftovers(url, scene_id)
    scene_group = zarr.open_group(url, path=f"scenes/{scene_id}", mode="r+")
    own = scene_group.attrs["harmonium"]
    assert isinstance(own, dict)
    for name in own["groups"]:
        path = group_path(scene_id, str(name))
        _quality(url, path).to_zarr(url, group=f"{path}/quality", mode="w", consolidated=False, zarr_format=3)
        _write_overviews(url, path)
        with unspecified_types():
            zarr.consolidate_metadata(url, path=path)
    set_state(scene_group, COMPLETE)


def _quality(url: str, path: str) -> xr.Dataset:
    """What was measured, from the headers of all payloads, one shard in memory at a time."""
    image = zarr.open_array(url, path=f"{path}/image", mode="r")
    grid = stored_grid(image)
    bands, counts = image.shape[0], grid.chunk_counts
    nbytes, mode = np.zeros(counts, np.uint32), np.zeros(counts, np.uint8)
    count = np.zeros((bands, *counts), np.uint32)
    mse, max_error = np.zeros((bands, *counts)), np.zeros((bands, *counts))
    for shard in grid.shards():
        for row, column, data in shard_payloads(image, shard):
            payload = parse(image.path, row, column, data)
            quality, here = payload.quality, (slice(None), row, column)
            nbytes[row, column], mode[row, column] = quality.nbytes, payload.mode
            count[here], mse[here], max_error[here] = quality.count, quality.mse, quality.max_error
    per_chunk, per_band = ("chunk_y", "chunk_x"), ("band", "chunk_y", "chunk_x")
    modes = {"flag_values": [int(each) for each in Mode], "flag_meanings": " ".join(each.name.lower() for each in Mode)}
    mse_name = "mean squared error, NaN where no pixel carries data"
    return xr.Dataset(
        {
            "bytes": (per_chunk, nbytes, {"long_name": "length of the payload", "units": "byte"}),
            "mode": (per_chunk, mode, {"long_name": "how the chunk is coded", **modes}),
            "count": (per_band, count, {"long_name": "pixels that carry data"}),
            "mse": (per_band, mse, {"long_name": mse_name, "units": "DN2"}),
            "max_error": (per_band, max_error, {"long_name": "largest absolute error", "units": "DN"}),
        }
    )


def _write_overviews(url: str, path: str) -> None:
    """Halve the first level, which came with the shards, down to the smallest."""
    image = zarr.open_array(url, path=f"{path}/image", mode="r")
    fill = np.asarray(image.fill_value).item()
    (first, _), *others = overview.levels(*image.shape[1:])
    level = np.asarray(zarr.open_array(url, path=f"{path}/overview/{first}", mode="r")[:])
    for factor, _ in others:
        level = overview.reduce_by(level, 2, valid_mask(level, fill), nodata=fill)
        zarr.create_array(
            url,
            name=f"{path}/overview/{factor}",
            data=level,
            chunks=level.shape,
            fill_value=fill,
            compressors=[ZstdCodec(level=9)],
            dimension_names=("band", "y", "x"),
            overwrite=True,
        )
