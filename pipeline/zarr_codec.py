"""The Zarr v3 codec `harmonium`: chunks of pixels to payloads. All numerics are `harmonium.models.codec.Codec`'s.

{"name": "harmonium", "configuration": {"model": "<sha256>", "group": "r10m", "source": "<where it was>"}}
"""

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.chunk_grids import ChunkGrid, RegularChunkGrid
from zarr.core.dtype import ZDType

from harmonium.errors import ModelError
from harmonium.models.codec import Codec
from harmonium.models.model_file import ModelFile
from harmonium.pipeline import model_sources
from harmonium.pipeline.torch_threads import single_threaded

NAME = "harmonium"


@dataclass(frozen=True, init=False)
class HarmoniumCodec(ArrayBytesCodec):
    """Serializer for arrays (..., band, y, x) or (y, x) whose chunks hold all bands of a model's group.

    Parameters
    ----------
    model
        A model file's path, its SHA-256 where a source knows it (`harmonium.pipeline.model_sources`), or the model.
    group
        Resolution group of the model; may be left out where it has only one.
    source
        Where other processes find the model; None takes what this process knows.

    Notes
    -----
    Pixels equal to the array's fill value, NaN and infinities come back exactly; all others as the model decodes them.
    """

    model: str
    group: str
    source: str | None

    is_fixed_size = False

    def __init__(self, *, model: str | Path | ModelFile, group: str | None = None, source: str | None = None) -> None:
        loaded = None
        if isinstance(model, ModelFile):
            loaded = model
            model_sources.register(model, source)
        elif not _is_digest(str(model)):
            loaded = model_sources.load_file(model)
        digest = str(model) if loaded is None else loaded.sha256
        if group is None:
            groups = tuple((loaded or model_sources.load(digest, source)).groups)
            if len(groups) != 1:
                raise ModelError(f"The model has the groups {', '.join(groups)}; say which with group=...")
            group = groups[0]
        elif loaded is not None and group not in loaded.groups:
            raise ModelError(f"The model has the groups {', '.join(loaded.groups)}, not {group!r}")
        # The class is frozen; only its constructor sets fields.
        object.__setattr__(self, "model", digest)
        object.__setattr__(self, "group", group)
        object.__setattr__(self, "source", source or model_sources.known_source(digest))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read the JSON above; the model itself is looked for when the first chunk is coded."""
        configuration = data.get("configuration")
        if not isinstance(configuration, dict) or not _is_digest(configuration.get("model")):
            raise ModelError(f"The codec {NAME!r} needs configuration.model, a SHA-256; found {configuration!r}")
        group, source = configuration.get("group"), configuration.get("source")
        if not isinstance(group, str) or not isinstance(source, str | None):
            raise ModelError(
                f"The codec {NAME!r} needs a group and perhaps a source, both strings; found {configuration}"
            )
        return cls(model=configuration["model"], group=group, source=source)

    def to_dict(self) -> dict[str, Any]:
        """The JSON above."""
        configuration: dict[str, Any] = {"model": self.model, "group": self.group}
        if self.source is not None:
            configuration["source"] = self.source
        return {"name": NAME, "configuration": configuration}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the source that this process knows: a worker may never have opened the archive."""
        known = model_sources.known_source(self.model)
        return _restore, (type(self), self.model, self.group, self.source, known)

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """Nothing about the array changes the codec."""
        return self

    def validate(self, *, shape: tuple[int, ...], dtype: ZDType[Any, Any], chunk_grid: ChunkGrid) -> None:
        """Refuse arrays whose chunks the model cannot code, before anything of them is written.

        Only where this process has read the model: opening an array reads none. Inside shards zarr does not ask; there
        the first chunk is refused.

        Raises
        ------
        ModelError
            If the model is for chunks of other bands or another type.
        """
        model = model_sources.loaded(self.model)
        if model is not None and self.group in model.groups and isinstance(chunk_grid, RegularChunkGrid):
            _picture_shape(chunk_grid.chunk_shape, dtype.to_native_dtype(), model.groups[self.group].codec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Unknown: payloads vary in length."""
        raise NotImplementedError("payloads vary in length")

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(_encode, await self._find_codec(), chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(_decode, await self._find_codec(), chunk_data, chunk_spec)

    async def _find_codec(self) -> Codec:
        """`codec()`, for the event loop.

        Searching reads from stores, which needs the loop's own threads. Chunks that waited for the model in all of
        these would wait for ever, so the search has a thread apart.
        """
        if model_sources.loaded(self.model) is not None:
            return self.codec()
        searcher = ThreadPoolExecutor(1, thread_name_prefix="harmonium-model")
        try:
            return await asyncio.get_running_loop().run_in_executor(searcher, self.codec)
        finally:
            searcher.shutdown(wait=False)

    def codec(self) -> Codec:
        """The codec of the model's group.

        Raises
        ------
        ModelNotFound
            If no source has the model.
        ModelError
            If it has no such group.
        """
        groups = model_sources.load(self.model, self.source).groups
        if self.group not in groups:
            raise ModelError(f"The model {self.model} has the groups {', '.join(groups)}, not {self.group!r}")
        return groups[self.group].codec


def _restore(
    cls: type[HarmoniumCodec], model: str, group: str, source: str | None, known: str | None
) -> HarmoniumCodec:
    if known is not None and model_sources.known_source(model) is None:
        model_sources.register_source(model, known)
    return cls(model=model, group=group, source=source)


def _encode(codec: Codec, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
    pixels = chunk_data.as_numpy_array()
    shape = _picture_shape(chunk_spec.shape, pixels.dtype, codec)
    with single_threaded():
        encoded = codec.compress(np.ascontiguousarray(pixels).reshape(shape), float(chunk_spec.fill_value))
    return chunk_spec.prototype.buffer.from_bytes(encoded.payload)


def _decode(codec: Codec, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
    shape = _picture_shape(chunk_spec.shape, chunk_spec.dtype.to_native_dtype(), codec)
    with single_threaded():
        pixels = codec.decompress(chunk_data.to_bytes(), shape)
    return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def _picture_shape(shape: tuple[int, ...], dtype: np.dtype[Any], codec: Codec) -> tuple[int, int, int]:
    """(bands, height, width) of a chunk, whatever axes of length 1 stand before them."""
    bands, expected = codec.radiometry.bands, codec.radiometry.dtype
    if dtype != expected:
        raise ModelError(
            f"The model codes {expected} pixels, the array holds {dtype}; convert it, or fit another model"
        )
    if len(shape) < 2 or math.prod(shape[:-2]) != bands:
        raise ModelError(
            f"The model codes {bands} band(s) together, in arrays (..., band, y, x) or, for one band, (y, x); found "
            f"chunks of shape {shape}: set them to all bands and one step of whatever axes stand before"
        )
    return bands, shape[-2], shape[-1]
