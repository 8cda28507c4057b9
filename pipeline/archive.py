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
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.errors import GroupNotFoundError

from harmonium.errors import ArchiveError, ModelError, SceneNotFound
from harmonium.models.model_file import ModelFile
from harmonium.models.quality import Quality
from harmonium.pipeline import model_sources, views

FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What scenes and groups may be called."""


@dataclass(frozen=True)
class ArchivedGroup:
    """One resolution group of an archived scene."""

    url: str
    """Where the archive is."""

    path: str
    """Path of the group in the archive, `scenes/ID/r10m`."""

    @cached_property
    def group(self) -> zarr.Group:
        """The Zarr group."""
        return zarr.open_group(self.url, path=self.path, mode="r")

    @cached_property
    def image(self) -> zarr.Array[Any]:
        """The Zarr array (band, y, x) whose chunks are payloads."""
        return zarr.open_array(self.url, path=f"{self.path}/image", mode="r")

    @property
    def name(self) -> str:
        """`r10m`."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return tuple(str(band) for band in _entry(self.group.attrs.asdict(), self.path, "bands", list))

    @property
    def peak(self) -> float:
        """Value range that PSNR refers to, in DN."""
        return float(_entry(self.group.attrs.asdict(), self.path, "peak", (int, float)))

    @property
    def codes(self) -> xr.DataArray:
        """Integer codes (unit, cell_y, cell_x), lazily: chunks in which no pixel carries data give zeros."""
        lazy = views.LazyCodes(self.image)
        array = da.from_array(lazy, chunks=lazy.view.shards)  # type: ignore[no-untyped-call]
        return xr.DataArray(array, dims=("unit", "cell_y", "cell_x"), name="codes")

    def open(self, *, chunks: Any = "auto", decode: bool = False) -> xr.DataArray:
        """The pixels (band, y, x), lazily, with CRS, coordinates and attributes.

        Parameters
        ----------
        chunks
            As in `xarray.open_zarr`; None opens without Dask.
        decode
            Apply nodata, scale and offset, which gives floats; otherwise native DN.
        """
        dataset: xr.Dataset = xr.open_zarr(
            self.url, group=self.path, consolidated=False, mask_and_scale=decode, chunks=chunks
        )
        return dataset["image"]

    def quality_by_chunk(self) -> xr.Dataset:
        """What was measured per chunk (chunk_y, chunk_x): `bytes`, `mode`; per band: `count`, `mse`, `max_error`."""
        dataset: xr.Dataset = xr.open_zarr(self.url, group=f"{self.path}/quality", consolidated=False, chunks=None)
        return dataset.load()

    def quality(self) -> Quality:
        """What was measured of the whole group."""
        chunks = self.quality_by_chunk()
        count = chunks["count"].values.astype(np.int64)
        squared = np.where(count > 0, chunks["mse"].values * count, 0.0)
        return Quality(
            nbytes=int(chunks["bytes"].sum()),
            count=count.sum(axis=(1, 2)),
            squared_error=squared.sum(axis=(1, 2)),
            max_error=chunks["max_error"].values.max(axis=(1, 2)),
        )


@dataclass(frozen=True)
class ArchivedScene(Mapping[str, ArchivedGroup]):
    """One scene of an archive; maps the names of its resolution groups to them."""

    url: str
    """Where the archive is."""

    id: str
    """Name of the scene."""

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the scene's Zarr group.

        Raises
        ------
        ArchiveError
            If they cannot be read, or are no scene's.
        """
        path = f"scenes/{self.id}"
        try:
            attributes = zarr.open_group(self.url, path=path, mode="r").attrs.asdict()
        except (ValueError, KeyError, TypeError) as error:
            raise ArchiveError(f"Scene {self.id}: {path}/zarr.json is damaged ({error}); {_remedy(path)}") from error
        own = _entry(attributes, path, "harmonium", dict)
        _entry(attributes, path, "stac", dict)
        names = _entry(own, path, "groups", list)
        if not names or not all(isinstance(name, str) and _is_name(name) for name in names):
            raise ArchiveError(f"Scene {self.id} has no resolution groups, or unnamed ones: {names}; {_remedy(path)}")
        if not isinstance(own.get("state"), str) or not isinstance(own.get("model"), str):
            raise ArchiveError(f"Scene {self.id} tells no state, or no model: {own}; {_remedy(path)}")
        return attributes

    @property
    def state(self) -> str:
        """`preparing` or `writing` while a run has not finished, or after it was killed; then `complete`."""
        return str(self.attributes["harmonium"]["state"])

    @property
    def item(self) -> dict[str, Any]:
        """The scene's STAC item."""
        return dict(self.attributes["stac"])

    @property
    def model(self) -> str:
        """SHA-256 of the model that coded the scene."""
        return str(self.attributes["harmonium"]["model"])

    def __contains__(self, name: object) -> bool:
        return name in self.attributes["harmonium"]["groups"]

    def __getitem__(self, name: str) -> ArchivedGroup:
        if name not in self:
            raise SceneNotFound(f"Scene {self.id} has the resolution groups {', '.join(self)}, not {name!r}")
        return ArchivedGroup(self.url, f"scenes/{self.id}/{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.attributes["harmonium"]["groups"])

    def __len__(self) -> int:
        return len(self.attributes["harmonium"]["groups"])


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
        if not isinstance(scene_id, str) or not _is_name(scene_id):
            return False
        return sync(self._store.exists(f"scenes/{scene_id}/zarr.json"))

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
    names = sorted([name async for name in store.list_dir(folder) if _is_name(name)])
    nodes = await asyncio.gather(*(store.exists(f"{folder}/{name}/zarr.json") for name in names))
    return [name for name, is_node in zip(names, nodes, strict=True) if is_node]


def _is_name(text: str) -> bool:
    """Whether a text can be a scene or a group, and never lead elsewhere."""
    return _NAME.fullmatch(text) is not None


def _entry(attributes: Mapping[str, Any], path: str, key: str, kind: type | tuple[type, ...]) -> Any:
    """One of the attributes that harmonium wrote."""
    value = attributes.get(key)
    if not isinstance(value, kind):
        raise ArchiveError(f"{path} should have the attribute {key!r}, found {value!r}; {_remedy(path)}")
    return value


def _remedy(path: str) -> str:
    return f"delete {'/'.join(path.split('/')[:2])} in the archive and compress the scene again"


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
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
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
    if "://" not in url and path.exists() and (not path.is_dir() or (any(path.iterdir()) and not _is_zarr(path))):
        raise ArchiveError(f"{url} exists and is not an archive; name another path")
    try:
        zarr.open_group(url, mode="r")
    except (FileNotFoundError, GroupNotFoundError):
        zarr.create_group(url, attributes={"harmonium": {"format": FORMAT}})
    return open_archive(url)


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))


def _absolute(url: str | Path) -> str:
    # Workers may have another working directory.
    text = str(url)
    return text if "://" in text else str(Path(text).absolute())
