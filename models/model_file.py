"""A model file: codecs for one or several resolution groups, in one safetensors file with a JSON header. Never pickle.

The identity of a model is the SHA-256 of the file's bytes. The header's metadata has one key, `harmonium`, whose JSON
names the format, the groups, and how they were trained; tensors are called `GROUP/transform/NAME` and `GROUP/prior/NAME`.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from harmonium.errors import ModelError
from harmonium.models import code_prior, presets
from harmonium.models.codec import Codec
from harmonium.models.radiometry import Radiometry

FORMAT = 1

MAX_BYTES = 256 << 20
"""Longest model file that is read: the largest preset takes a few MiB, and a foreign file may claim anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupModel:
    """The codec of one resolution group, and what it is for."""

    preset: str
    """Name of the preset that made it and knows how to load it."""

    bands: tuple[str, ...]
    """Names of the bands, in the order of the codec's."""

    resolution: float | None
    """Pixel size in units of the CRS, None where the training scenes had no georeference."""

    codec: Codec
    """The codec itself."""

    training: Mapping[str, Any]
    """Record of the training: JSON values only, no times, so that the same seed gives the same bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """Codecs by the name of their resolution group, with the bytes that they were read from or will be written to."""

    groups: Mapping[str, GroupModel]
    """Resolution group, such as `r10m`, to its model."""

    data: bytes
    """The file."""

    @property
    def sha256(self) -> str:
        """Identity of the model: 64 hexadecimal digits."""
        return hashlib.sha256(self.data).hexdigest()


def to_bytes(groups: Mapping[str, GroupModel]) -> bytes:
    """Serialise models; the same models give the same bytes."""
    tensors: dict[str, Tensor] = {}
    header: dict[str, Any] = {"format": FORMAT, "groups": {}}
    for name, group in groups.items():
        for key, tensor in group.codec.transform.to_tensors().items():
            tensors[f"{name}/transform/{key}"] = tensor.cpu()
        for key, array in group.codec.prior.to_arrays().items():
            tensors[f"{name}/prior/{key}"] = _narrow(array)
        header["groups"][name] = {
            "preset": group.preset,
            "bands": list(group.bands),
            "resolution": group.resolution,
            "radiometry": asdict(group.codec.radiometry),
            "transform": group.codec.transform.to_spec(),
            "prior": group.codec.prior.kind,
            "training": dict(group.training),
        }
    # One key only: safetensors keeps metadata in a hash map, whose order is not the same from run to run.
    return save_tensors(tensors, metadata={"harmonium": json.dumps(header, sort_keys=True, allow_nan=False)})


def from_bytes(data: bytes) -> ModelFile:
    """Read a model file; nothing in it is executed, and nothing is allocated that its bytes do not cover.

    Raises
    ------
    ModelError
        If the bytes are not a model file, or one of an unknown format, or one that contradicts itself.
    """
    header = _read_header(data)
    try:
        tensors = load_tensors(data)
        groups = {
            str(name): _load_group(spec, _below(tensors, f"{name}/")) for name, spec in dict(header["groups"]).items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"The model file contradicts itself: {type(error).__name__}: {error}") from error
    if not groups:
        raise ModelError("The model file has no resolution group; fit the model again")
    return ModelFile(groups=groups, data=data)


def make(groups: Mapping[str, GroupModel]) -> ModelFile:
    """A model file of these groups."""
    return from_bytes(to_bytes(groups))


def _narrow(array: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
    return torch.from_numpy(array.astype(np.int32))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read_header(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise ModelError(f"A model file has at most {MAX_BYTES} bytes, found {len(data)}")
    foreign = "This is not a harmonium model file; `harmonium fit` makes one"
    if len(data) < 8:
        raise ModelError(f"{foreign} (found {len(data)} bytes)")
    (length,) = struct.unpack_from("<Q", data)
    if length > len(data) - 8:
        raise ModelError(f"{foreign} (its header would be {length} bytes long)")
    try:
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["harmonium"])
        version = header["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{foreign} (its header has no `harmonium` entry)") from error
    if version != FORMAT:
        raise ModelError(f"Model file of format {version!r}; this harmonium reads format {FORMAT}: upgrade it")
    return dict(header)


def _load_group(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GroupModel:
    preset = presets.get(spec["preset"])
    radiometry = Radiometry(
        dtype=spec["radiometry"]["dtype"],
        offset=tuple(float(v) for v in spec["radiometry"]["offset"]),
        scale=tuple(float(v) for v in spec["radiometry"]["scale"]),
        peak=float(spec["radiometry"]["peak"]),
    )
    arrays = {name: value.numpy().astype(np.int64) for name, value in _below(tensors, "prior/").items()}
    codec = Codec(
        radiometry=radiometry,
        transform=preset.load(spec["transform"], _below(tensors, "transform/")),
        prior=code_prior.from_arrays(spec["prior"], arrays),
    )
    bands = tuple(str(band) for band in spec["bands"])
    if len(bands) != radiometry.bands:
        raise ValueError(f"{len(bands)} band names for {radiometry.bands} bands")
    resolution = None if spec["resolution"] is None else float(spec["resolution"])
    return GroupModel(
        preset=str(spec["preset"]),
        bands=bands,
        resolution=resolution,
        codec=codec,
        training=dict(spec["training"]),
    )
