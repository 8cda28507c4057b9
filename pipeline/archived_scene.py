"""One scene of an archive and its resolution groups: what is known of them, their pixels, codes, quality, lazily."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr

from harmonium.errors import ArchiveError, SceneNotFound
from harmonium.models import targets
from harmonium.models.quality import Quality
from harmonium.models.targets import Target
from harmonium.pipeline import views

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
    def asked(self) -> Target | None:
        """What was asked when the scene was compressed; None for a model that takes no target."""
        own = self.group.attrs.asdict().get("harmonium", {})
        asked = own.get("asked") if isinstance(own, dict) else own
        return None if asked is None else self._target(asked)

    @property
    def target(self) -> Target | None:
        """What every chunk was coded with: what was asked, or the step that was found for that."""
        return views.serializer_of(self.image).target

    def _target(self, document: object) -> Target:
        try:
            return targets.from_json(document)
        except ValueError as error:
            raise ArchiveError(f"{self.path}: {error}; {_remedy(self.path)}") from error

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
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArchiveError(f"Scene {self.id}: {path}/zarr.json is damaged ({error}); {_remedy(path)}") from error
        own = _entry(attributes, path, "harmonium", dict)
        _entry(attributes, path, "stac", dict)
        names = _entry(own, path, "groups", list)
        if not names or not all(isinstance(name, str) and is_name(name) for name in names):
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


def is_name(text: str) -> bool:
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
