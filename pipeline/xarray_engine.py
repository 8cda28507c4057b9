"""xarray's `engine="harmonium"`: opens a group of a scene in an archive, wherever the archive was moved to."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint

from harmonium.pipeline.archive import open_archive


class HarmoniumEntrypoint(BackendEntrypoint):
    """Opens `archive.zarr/scenes/ID/GROUP`, telling the process first where the archive's models are."""

    description = "Resolution groups of scenes in harmonium archives"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "mask_and_scale")

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[str],
        *,
        drop_variables: str | Iterable[str] | None = None,
        mask_and_scale: bool = True,
    ) -> xr.Dataset:
        """See `xarray.open_dataset`."""
        url, scene, group = _parts(str(filename_or_obj))
        archive = open_archive(url)
        return xr.open_dataset(
            archive.url,
            engine="zarr",
            group=archive[scene][group].path,
            consolidated=False,
            mask_and_scale=mask_and_scale,
            drop_variables=drop_variables,
        )

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Never: a group opens with xarray's own zarr engine, too, which is what a path without an engine means."""
        return False


def _parts(text: str) -> tuple[str, str, str]:
    """Archive, scene and group of a path ARCHIVE/scenes/SCENE/GROUP."""
    parts = text.rstrip("/").split("/scenes/")
    tail = parts[-1].split("/")
    if len(parts) < 2 or len(tail) != 2:
        raise ValueError(f"engine='harmonium' opens ARCHIVE/scenes/SCENE/GROUP, found {Path(text)}")
    return "/scenes/".join(parts[:-1]), tail[0], tail[1]
