"""The Zarr v3 codec `harmonium`: chunks of pixels to payloads. All numerics are the `ChunkCodec`'s of the model.

{"name": "harmonium", "configuration": {"model": "<sha256>", "group": "r10m", "source": "<where it was>"}}

A codec that was asked for a target has it as `target`; one of a packaged model says as `packaged` how to build that.
"""

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.chunk_grids import ChunkGrid, RegularChunkGrid
from zarr.core.dtype import ZDType

from harmonium.errors import ModelError, ModelNotFound, UsageError
from harmonium.models import targets
from harmonium.models.chunk_codec import ChunkCodec
from harmonium.models.model_file import ModelFile
from harmonium.models.targets import Target
from harmonium.pipeline import model_sources, packaged_models
from harmonium.pipeline.packaged_models import DEFAULT_NAME, Packaged
from harmonium.pipeline.target_checks import check_target
from harmonium.pipeline.torch_threads import single_threaded

NAME = "harmonium"


@dataclass(frozen=True, init=False)
class HarmoniumCodec(ArrayBytesCodec):
    """Serializer for arrays (..., band, y, x) or (y, x) whose chunks hold all bands of a model's group.

    Parameters
    ----------
    model
        A model file's path, its SHA-256 where a source knows it (`harmonium.pipeline.model_sources`), or the model. A
        name, or nothing, takes a model that comes with harmonium.
    group
        Resolution group of the model; may be left out where it has only one.
    source
        Where other processes find the model; None takes what this process knows.
    target
        What every chunk is promised, where the model takes targets: `Psnr(45)`, `MaxError(1)`, ...
    dtype, bands, peak
        What a packaged model is to code: pixel type, number of bands, and the range in DN that PSNR refers to, where
        it is not that of the type.

    Raises
    ------
    ModelError
        If the model cannot be read, or has no such group, or no packaged model codes such pixels.
    UsageError
        If the model needs a target and there is none, or the other way round, or arguments do not go together.

    Notes
    -----
    Pixels equal to the array's fill value, NaN and infinities come back exactly; all others as the model decodes them.
    """

    model: str
    group: str
    source: str | None
    target: Target | None
    packaged: Packaged | None

    is_fixed_size = False

    def __init__(
        self,
        *,
        model: str | Path | ModelFile | None = None,
        group: str | None = None,
        source: str | None = None,
        target: Target | None = None,
        dtype: str | np.dtype[Any] | None = None,
        bands: int | None = None,
        peak: float | None = None,
    ) -> None:
        packaged = _chosen(model, dtype, bands, peak)
        loaded = None
        if packaged is not None:
            loaded = packaged.model()
        elif isinstance(model, ModelFile):
            loaded = model
            model_sources.register(model, source)
        elif not _is_digest(str(model)):
            loaded = model_sources.load_file(str(model))
        digest = str(model) if loaded is None else loaded.sha256
        loaded = loaded or model_sources.loaded(digest)
        if group is None:
            loaded = loaded or model_sources.load(digest, source)
            if len(loaded.groups) != 1:
                raise ModelError(f"The model has the groups {', '.join(loaded.groups)}; say which with group=...")
            (group,) = loaded.groups
        if loaded is not None:
            check_target(_codec_of(loaded, group), target)
        self._set(digest, group, source, target, packaged)

    def _set(
        self, model: str, group: str, source: str | None, target: Target | None, packaged: Packaged | None
    ) -> None:
        # The class is frozen; its fields are set here only.
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "group", group)
        object.__setattr__(self, "source", source or model_sources.known_source(model))
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "packaged", packaged)

    @classmethod
    def _unchecked(
        cls, model: str, group: str, source: str | None, target: Target | None, packaged: Packaged | None
    ) -> Self:
        """From what was checked before, or will be when it is used; looks for no model."""
        made = cls.__new__(cls)
        made._set(model, group, source, target, packaged)
        return made

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
        target, packaged = configuration.get("target"), configuration.get("packaged")
        try:
            return cls._unchecked(
                configuration["model"],
                group,
                source,
                None if target is None else targets.from_json(target),
                None if packaged is None else Packaged.from_json(packaged),
            )
        except ValueError as error:
            raise ModelError(f"The codec {NAME!r}: {error}; found {configuration}") from error

    def to_dict(self) -> dict[str, Any]:
        """The JSON above."""
        configuration: dict[str, Any] = {"model": self.model, "group": self.group}
        if self.source is not None:
            configuration["source"] = self.source
        if self.target is not None:
            configuration["target"] = targets.to_json(self.target)
        if self.packaged is not None:
            configuration["packaged"] = self.packaged.to_json()
        return {"name": NAME, "configuration": configuration}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the source that this process knows: a worker may never have opened the archive."""
        known = model_sources.known_source(self.model)
        return _restore, (type(self), self.model, self.group, self.source, self.target, self.packaged, known)

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
        return await asyncio.to_thread(_encode, await self._find_codec(), chunk_data, chunk_spec, self.target)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(_decode, await self._find_codec(), chunk_data, chunk_spec)

    async def _find_codec(self) -> ChunkCodec:
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

    def codec(self) -> ChunkCodec:
        """The codec of the model's group.

        Raises
        ------
        ModelNotFound
            If no source has the model, and it is not a packaged one of this harmonium.
        ModelError
            If it has no such group.
        """
        if self.packaged is not None and model_sources.loaded(self.model) is None:
            # Another harmonium may have other networks; then a source may still have the file.
            with suppress(ModelError):
                self.packaged.model()
        try:
            model = model_sources.load(self.model, self.source)
        except ModelNotFound as error:
            if self.packaged is None:
                raise
            raise ModelNotFound(
                f"{error}. It is the packaged model {self.packaged.name!r}, of which this harmonium has another or "
                "none; install the harmonium that wrote the array"
            ) from error
        return _codec_of(model, self.group)


def _chosen(model: object, dtype: str | np.dtype[Any] | None, bands: int | None, peak: float | None) -> Packaged | None:
    """The packaged model that the arguments of a codec name; None if they name a model of another kind."""
    if model is None or (isinstance(model, str) and model in packaged_models.names()):
        named = None if dtype is None else np.dtype(dtype).name
        return packaged_models.for_array(model or DEFAULT_NAME, named, bands, peak)
    if (dtype, bands, peak) != (None, None, None):
        raise UsageError(
            f"dtype, bands and peak are chosen for packaged models ({', '.join(packaged_models.names())}); a model "
            "file has its own: leave them out"
        )
    return None


def _codec_of(model: ModelFile, group: str) -> ChunkCodec:
    if group not in model.groups:
        raise ModelError(f"The model {model.sha256} has the groups {', '.join(model.groups)}, not {group!r}")
    return model.groups[group].codec


def _restore(
    cls: type[HarmoniumCodec],
    model: str,
    group: str,
    source: str | None,
    target: Target | None,
    packaged: Packaged | None,
    known: str | None,
) -> HarmoniumCodec:
    if known is not None and model_sources.known_source(model) is None:
        model_sources.register_source(model, known)
    return cls._unchecked(model, group, source, target, packaged)


def _encode(codec: ChunkCodec, chunk_data: NDBuffer, chunk_spec: ArraySpec, target: Target | None) -> Buffer:
    pixels = chunk_data.as_numpy_array()
    shape = _picture_shape(chunk_spec.shape, pixels.dtype, codec)
    with single_threaded():
        encoded = codec.compress(np.ascontiguousarray(pixels).reshape(shape), float(chunk_spec.fill_value), target)
    return chunk_spec.prototype.buffer.from_bytes(encoded.payload)


def _decode(codec: ChunkCodec, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
    shape = _picture_shape(chunk_spec.shape, chunk_spec.dtype.to_native_dtype(), codec)
    with single_threaded():
        pixels = codec.decompress(chunk_data.to_bytes(), shape)
    return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def _picture_shape(shape: tuple[int, ...], dtype: np.dtype[Any], codec: ChunkCodec) -> tuple[int, int, int]:
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
