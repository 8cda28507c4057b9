"""The archive: a Zarr v3 group that holds scenes as compressed arrays, and the models that decode them.

    archive.zarr/                      {"harmonium": {"format": 1}}
      models/<sha256>                  uint8: a model file
      scenes/<id>/                     {"stac": the STAC item, "harmonium": state, model, provenance}
        r10m/image                     (band, y, x): serializer `harmonium`, then crc32c, sharded
        r10m/{band,y,x,spatial_ref}    coordinates, as xarray and rioxarray write them
        r10m/quality/{bytes,count,mse,max_error,mode}    per chunk (and band)
        r10m/overview/{32,64,...}      reduced pictures in standard codecs

docs/format.md says it exactly.
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync

from harmonium.errors import ArchiveError, ModelError, SceneNotFound
from harmonium.models.model_file import ModelFile
from harmonium.pipeline import model_sources
from harmonium.pipeline.archived_scene import ArchivedGroup, ArchivedScene, is_name

__all__ = ["FORMAT", "Archive", "ArchivedGroup", "ArchivedScene", "create_archive", "open_archive"]

FORMAT = 1


@dataclass(frozen=True)
class Archive(Mapping[str, ArchivedScene]):
    """An archive; maps scene names to scenes. Opening one reads no pixel and executes nothing that is stored in it."""

    url: str
    """Where it is: a path, or whatever zarr opens."""

    @property
    def _store(self) -> Store:
        return zarr.open_group(self.url, mode="r").store

    def __getitem__(self, scene_id: str) -> ArchivedScene:
        if scene_id not in self:
            raise SceneNotFound(f"No scene {scene_id!r} in {self.url}; `harmonium ls {self.url}` names those it has")
        return ArchivedScene(self.url, scene_id)

    def __contains__(self, scene_id: object) -> bool:
        # A scene's name is never a path: anything else would look outside scenes/.
        named = isinstance(scene_id, str) and is_name(scene_id)
        return named and sync(self._store.exists(f"scenes/{scene_id}/zarr.json"))

    def __iter__(self) -> Iterator[str]:
        return iter(sync(_children(self._store, "scenes")))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def models(self) -> list[str]:
        """SHA-256 of the models that the archive holds."""
        return sync(_children(self._store, "models"))

    def add_model(self, model: ModelFile) -> None:
        """Store a model, unless the archive has it whole; a run that was killed may have left a part of it."""
        try:
            whole = model_sources.read(self.url, model.sha256) is not None
        except ModelError:
            whole = False
        if not whole:
            data = np.frombuffer(model.data, np.uint8)
            zarr.create_array(
                self.url, name=f"models/{model.sha256}", data=data, chunks=data.shape, compressors=None, overwrite=True
            )
        model_sources.register(model, self.url)


async def _children(store: Store, folder: str) -> list[str]:
    """Names of the Zarr nodes in a folder, sorted, without reading them."""
    names = sorted([name async for name in store.list_dir(folder) if is_name(name)])
    nodes = await asyncio.gather(*(store.exists(f"{folder}/{name}/zarr.json") for name in names))
    return [name for name, is_node in zip(names, nodes, strict=True) if is_node]


def open_archive(url: str | Path) -> Archive:
    """Open an archive for reading.

    Raises
    ------
    ArchiveError
        If there is none, or it is of an unknown format.
    """
    url = _absolute(url)
    try:
        attributes = zarr.open_group(url, mode="r").attrs.asdict()
    except (AttributeError, FileNotFoundError, NotADirectoryError, TypeError, ValueError) as error:
        raise ArchiveError(f"No archive at {url}; `harmonium compress SCENE... -a {url}` makes one") from error
    own = attributes.get("harmonium")
    version = own.get("format") if isinstance(own, dict) else None
    if version is None:
        raise ArchiveError(f"{url} is a Zarr group, but not a harmonium archive; name another path")
    if version != FORMAT:
        raise ArchiveError(f"{url} has archive format {version!r}; this harmonium reads format {FORMAT}: upgrade it")
    archive = Archive(url)
    for sha256 in archive.models():
        model_sources.register_source(sha256, url)
    return archive


def create_archive(url: str | Path) -> Archive:
    """Open an archive for writing, making it if nothing is there.

    Raises
    ------
    ArchiveError
        If something else is there.
    """
    url = _absolute(url)
    path = Path(url)
    if "://" not in url and path.exists() and not (path.is_dir() and (_is_zarr(path) or _is_empty(path))):
        raise ArchiveError(f"{url} exists and is not an archive; name another path")
    try:
        zarr.open_group(url, mode="r")
    except FileNotFoundError:
        zarr.create_group(url, attributes={"harmonium": {"format": FORMAT}})
    except ValueError as error:
        raise ArchiveError(f"{url} is not an archive ({error}); name another path") from error
    return open_archive(url)


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))


def _is_empty(folder: Path) -> bool:
    """Whether there is nothing, or no more than a run left that was killed when it made the archive."""
    return all(each.suffix == ".partial" for each in folder.iterdir())


def _absolute(url: str | Path) -> str:
    # Workers may have another working directory.
    text = str(url)
    return text if "://" in text else str(Path(text).absolute())
