"""xarray's `engine="harmonium"`: opens a group of a scene in an archive, wherever the archive was moved to."""

import os
from collections.abc import Iterable
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint

from harmonium.errors import ArchiveError, UsageError
from harmonium.pipeline.archive import open_archive
from harmonium.pipeline.scene_layout import COMPLETE


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
        url, scene_id, group = _parts(os.fspath(filename_or_obj))
        archive = open_archive(url)
        scene = archive[scene_id]
        if scene.state != COMPLETE:
            raise ArchiveError(
                f"Scene {scene_id} is {scene.state}: run the same `harmonium compress` again to complete it"
            )
        return xr.open_dataset(
            archive.url,
            engine="zarr",
            group=scene[group].path,
            consolidated=False,
            mask_and_scale=mask_and_scale,
            drop_variables=drop_variables,
        )

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Never: a group opens with xarray's own zarr engine, too, which is what a path without an engine means."""
        return False


def _parts(text: str) -> tuple[str, str, str]:
    """Archive, scene and group of a path ARCHIVE/scenes/SCENE/GROUP."""
    url, _, tail = text.rstrip("/").rpartition("/scenes/")
    scene, _, group = tail.partition("/")
    if not url or not scene or not group or "/" in group:
        raise UsageError(f"engine='harmonium' opens ARCHIVE/scenes/SCENE/GROUP, found {text}")
    return url, scene, group
