"""A model file: codecs for one or several resolution groups, in one safetensors file with a JSON header. Never pickle.

The identity of a model is the SHA-256 of the file's bytes. The header's metadata has one key, `harmonium`, whose JSON
names the format, the groups, and how they were trained; tensors are called `GROUP/transform/NAME` and
`GROUP/prior/NAME`.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from harmonium.errors import ModelError
from harmonium.models import code_prior, presets
from harmonium.models.block_transform import BlockTransform
from harmonium.models.chunk_codec import ChunkCodec
from harmonium.models.code_prior import CodePrior
from harmonium.models.codec import Codec
from harmonium.models.detail_coding import DetailModel
from harmonium.models.radiometry import Radiometry
from harmonium.models.transform_codec import TransformCodec

FORMAT = 1

MAX_BYTES = 256 << 20
"""Longest model file that is read: the largest preset takes a few MiB, and a foreign file may claim anything."""

_MAX_HEADER_BYTES = 4 << 20
"""Longest header: parsed JSON takes some twenty times its bytes."""

_GROUP_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
"""Group names become parts of tensor names and of paths in stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupModel:
    """The codec of one resolution group, and what it is for."""

    preset: str
    """Name of the preset that made it and knows how to load it."""

    bands: tuple[str, ...]
    """Names of the bands, in the order of the codec's."""

    resolution: float | None
    """Pixel size in units of the CRS, None where the training scenes had no georeference."""

    codec: ChunkCodec
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
    """Serialise models; the same models give the same bytes.

    Raises
    ------
    ValueError
        If the name of a group is not made of letters, digits, `_`, `-` and `.`.
    """
    tensors: dict[str, Tensor] = {}
    header: dict[str, Any] = {"format": FORMAT, "groups": {}}
    for name, group in groups.items():
        _check_group_name(name)
        transform, prior = _parts(group.codec)
        for key, tensor in transform.to_tensors().items():
            # A copy: groups may share their networks, and safetensors stores no tensor twice.
            tensors[f"{name}/transform/{key}"] = tensor.cpu().clone()
        for key, array in (prior.to_arrays() if prior else {}).items():
            tensors[f"{name}/prior/{key}"] = _narrow(array)
        header["groups"][name] = {
            "preset": group.preset,
            "bands": list(group.bands),
            "resolution": group.resolution,
            "radiometry": asdict(group.codec.radiometry),
            "transform": transform.to_spec(),
            "prior": prior.kind if prior else CONTEXT,
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
        specs = _typed(header, "groups", dict)
        _check_tensor_names(tensors, specs)
        groups = {name: _load_group(spec, _below(tensors, f"{name}/")) for name, spec in specs.items()}
    except ModelError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"The model file contradicts itself ({type(error).__name__}: {error}); it is damaged, fetch or fit it again"
        ) from error
    if not groups:
        raise ModelError("The model file has no resolution group; fit the model again")
    return ModelFile(groups=groups, data=data)


def make(groups: Mapping[str, GroupModel]) -> ModelFile:
    """A model file of these groups."""
    return from_bytes(to_bytes(groups))


CONTEXT = "context"
"""In place of a prior's kind: the transform's networks choose the tables."""


def _parts(codec: ChunkCodec) -> tuple[BlockTransform | DetailModel, CodePrior | None]:
    """What a model file keeps of a codec beside its radiometry."""
    match codec:
        case TransformCodec(model=model):
            return model, None
        case Codec(transform=transform, prior=prior):
            return transform, prior
    raise TypeError(f"Model files hold Codec and TransformCodec, not {type(codec).__name__}")


def _narrow(array: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
    narrow = array.astype(np.int32)
    if not (narrow == array).all():
        raise ValueError(f"A prior's numbers must fit 32 bits, found {array.min()} to {array.max()}")
    return torch.from_numpy(narrow)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _check_group_name(name: str) -> None:
    if not _GROUP_NAME.fullmatch(name):
        raise ValueError(
            f"Group name {name!r}: expected at most 100 letters, digits, '_', '-' and '.', not starting with '.'"
        )


def _check_tensor_names(tensors: Mapping[str, Tensor], groups: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless every tensor belongs to the transform or the prior of one of the groups."""
    for group in groups:
        _check_group_name(group)
    for name in tensors:
        group, part, *_ = [*name.split("/"), "", ""]
        if group not in groups or part not in ("transform", "prior"):
            raise ValueError(f"Tensor {name!r} belongs to none of the groups {', '.join(groups)}")


def _typed(spec: Mapping[Any, Any], key: object, *kinds: type) -> Any:
    """The entry `key` of a JSON object, `ValueError` if it is of none of these types."""
    value = spec[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"Entry {key!r}: expected {expected}, found {type(value).__name__}")
    return value


def _numbers(spec: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = dict(enumerate(_typed(spec, key, list)))
    return tuple(float(_typed(values, position, float, int)) for position in values)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_header(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise ModelError(f"A model file has at most {MAX_BYTES} bytes, found {len(data)}")
    foreign = "This is not a harmonium model file; `harmonium fit` makes one"
    if len(data) < 8:
        raise ModelError(f"{foreign} (found {len(data)} bytes)")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise ModelError(f"{foreign} (its header would be {length} bytes long)")
    try:
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]["harmonium"]
        header = json.loads(metadata, parse_constant=_refuse_constant)
        version = header["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{foreign} (its header has no `harmonium` entry)") from error
    if version != FORMAT:
        raise ModelError(f"Model file of format {version!r}; this harmonium reads format {FORMAT}: upgrade it")
    return dict(header)


def _load_group(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GroupModel:
    name = _typed(spec, "preset", str)
    if name not in presets.names():
        raise ModelError(
            f"The model was made by the preset {name!r}, this harmonium has {', '.join(presets.names())}; upgrade it, "
            "or install what brings that preset"
        )
    radiometry = _load_radiometry(_typed(spec, "radiometry", dict))
    bands = tuple(_typed(spec, "bands", list))
    if len(bands) != radiometry.bands or not all(isinstance(band, str) for band in bands):
        raise ValueError(f"Expected {radiometry.bands} names of bands, found {len(bands)} entries")
    resolution = _typed(spec, "resolution", float, int, type(None))
    if resolution is not None and not 0 < resolution < math.inf:
        raise ValueError(f"Expected a resolution above 0, found {resolution}")
    transform = presets.get(name).load(_typed(spec, "transform", dict), _below(tensors, "transform/"))
    prior, arrays = _typed(spec, "prior", str), _prior_arrays(tensors)
    codec = make_codec(radiometry, transform, None if prior == CONTEXT else code_prior.from_arrays(prior, arrays))
    return GroupModel(
        preset=name,
        bands=bands,
        resolution=None if resolution is None else float(resolution),
        codec=codec,
        training=_typed(spec, "training", dict),
    )


def make_codec(radiometry: Radiometry, transform: BlockTransform | DetailModel, prior: CodePrior | None) -> ChunkCodec:
    """The codec of what a preset learned.

    Raises
    ------
    ValueError
        If the parts do not fit each other.
    """
    if isinstance(transform, DetailModel):
        if prior is not None:
            raise ValueError(f"The preset transform has no prior of its own, found {prior.kind!r}")
        return TransformCodec(radiometry=radiometry, model=transform)
    if prior is None:
        raise ValueError(f"A {type(transform).__name__} needs a prior, found none")
    return Codec(radiometry=radiometry, transform=transform, prior=prior)


def _load_radiometry(spec: Mapping[str, Any]) -> Radiometry:
    return Radiometry(
        dtype=_typed(spec, "dtype", str),
        offset=_numbers(spec, "offset"),
        scale=_numbers(spec, "scale"),
        peak=float(_typed(spec, "peak", float, int)),
    )


def _prior_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    found = _below(tensors, "prior/")
    for name, value in found.items():
        if value.dtype != torch.int32:
            raise ValueError(f"Tensor 'prior/{name}': expected {torch.int32}, found {value.dtype}")
    return {name: value.numpy().astype(np.int64) for name, value in found.items()}
