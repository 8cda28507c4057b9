"""Which files make up a scene: a file, a list of files, a folder, a Sentinel-2 .SAFE folder, a Zarr store."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from harmonium.errors import SceneError
from harmonium.pipeline.scene_metadata import (
    ProductMetadata,
    band_from_name,
    is_auxiliary,
    metadata_from_name,
    metadata_from_safe,
    resolution_from_name,
    safe_id,
    without_band,
)

_SUFFIXES = "tif tiff jp2 j2k jpx img vrt nc nc4 cdf h5 hdf5 zarr"
RASTER_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""What a folder is searched for. A file that is given by name may have any suffix."""
_ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
_SAFE_DEPTH = 6  # PRODUCT.SAFE/GRANULE/L1C_…/IMG_DATA/R10m/file

PathLike = str | os.PathLike[str]


def is_remote(path: str) -> bool:
    """Tell whether a path is a URL or one of GDAL's virtual file systems, which cannot be looked up here."""
    return "://" in path or path.startswith("/vsi")


def is_zarr(path: str) -> bool:
    """Tell whether a path is a Zarr store of format 2 or 3."""
    if is_remote(path):
        return path.rstrip("/").endswith(".zarr")
    return any((Path(path) / mark).is_file() for mark in _ZARR_MARKS)


def as_paths(path_or_paths: PathLike | Sequence[PathLike]) -> tuple[str, ...]:
    """Return the paths as strings.

    Raises
    ------
    SceneError
        There is none, or one does not exist.
    """
    given = (path_or_paths,) if isinstance(path_or_paths, str | os.PathLike) else path_or_paths
    paths = tuple(os.fspath(path) for path in given)
    if not paths:
        raise SceneError("expected the path of at least one file; found an empty list; name the files of the scene")
    for path in paths:
        if not is_remote(path) and not Path(path).exists():
            raise SceneError(f"expected a file or folder; found nothing at {path}; check the path")
    return paths


def find_files(paths: Sequence[str]) -> list[str]:
    """Return the files (and Zarr stores) that hold the scene's bands.

    A file that is named is never left out. A folder gives the rasters in it by their suffix, except quality layers and
    previews; a .SAFE folder those below GRANULE/*/IMG_DATA, each band at its finest resolution only (Level-2A repeats
    bands at coarser ones: name those files to have them).

    Raises
    ------
    SceneError
        A folder holds no raster.
    """
    found: list[str] = []
    for path in paths:
        if is_remote(path) or is_zarr(path) or Path(path).is_file():
            found.append(path)
        else:
            found.extend(str(file) for file in _rasters_in(Path(path)))
    return found


def _rasters_in(folder: Path) -> list[Path]:
    safe = _is_safe(folder)
    if safe:
        candidates = folder.glob("GRANULE/*/IMG_DATA/**/*")
    else:
        # Level-2A keeps its bands in R10m, R20m, R60m, also where they were copied out of the product.
        candidates = (file for pattern in ("*", "[Rr][0-9]*m/*") for file in folder.glob(pattern))
    rasters = [
        file
        for file in sorted(candidates)
        if file.suffix.lower() in RASTER_SUFFIXES and not file.name.startswith(".") and not is_auxiliary(file.stem)
        if file.is_file() or is_zarr(str(file))
    ]
    if not rasters:
        raise SceneError(
            f"expected bands in the folder {folder}; found no file with a suffix of "
            f"{', '.join(sorted(RASTER_SUFFIXES))} that is neither preview nor quality layer; name the files themselves"
        )
    return _finest_of_each_band(rasters) if safe else rasters


def _finest_of_each_band(files: list[Path]) -> list[Path]:
    finest: dict[str, Path] = {}
    for file in files:
        key = f"{without_band(file.stem)} {band_from_name(file.stem) or file.stem}"
        before = finest.get(key)
        if before is None or (resolution_from_name(file.stem) or 0) < (resolution_from_name(before.stem) or 0):
            finest[key] = file
    return list(finest.values())


def _is_safe(folder: Path) -> bool:
    return folder.suffix.lower() == ".safe" or (folder / "GRANULE").is_dir()


def product_metadata(files: Sequence[str]) -> ProductMetadata:
    """Return what the product of these files tells: its metadata file first, then names, from the file's upwards.

    Raises
    ------
    SceneError
        The metadata file of a .SAFE folder is damaged.
    """
    if is_remote(files[0]):
        names = list(reversed([part for part in files[0].split("/") if part]))
        folders: list[Path] = []
    else:
        file = Path(files[0]).absolute()
        folders = [file, *file.parents][:_SAFE_DEPTH]
        names = [folder.name for folder in folders]
    metadata = ProductMetadata()
    for folder in folders:
        if _is_safe(folder):
            for xml in sorted(folder.glob("MTD_MSI*.xml"))[:1]:
                metadata = metadata.or_else(metadata_from_safe(xml))
            break
    for name in names[:_SAFE_DEPTH]:
        metadata = metadata.or_else(metadata_from_name(name))
    return metadata


def scene_id_from(paths: Sequence[str]) -> str:
    """Return a scene's id: the stem of the product, folder or file, or what the stems of several files share."""
    stems = [_stem(path) for path in paths]
    if len(stems) == 1:
        return safe_id(stems[0])
    common = {without_band(stem) for stem in stems}
    if len(common) == 1 and any(common):
        return safe_id(common.pop())
    parents = {Path(path).absolute().parent.name for path in paths}
    return safe_id(parents.pop() if len(parents) == 1 else stems[0])


def _stem(path: str) -> str:
    pure = Path(path) if is_remote(path) else Path(path).absolute()
    known = {".safe", *RASTER_SUFFIXES}
    if pure.suffix.lower() in known or (not pure.is_dir() and re.fullmatch(r"\.[A-Za-z0-9]{1,5}", pure.suffix)):
        return pure.stem
    return pure.name
