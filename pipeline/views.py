"""Other arrays over the bytes of an image: its payloads, and its codes, without decoding a pixel.

An image is stored as shards of chunks; what a chunk's bytes mean is said by the array's metadata alone. A view is a
Zarr array with metadata of its own over the same stored objects: nothing is stored twice, and zarr does the work.

    image     (band, y, x)            chunk (band, 512, 512)    codec harmonium
    payloads  (1, chunk_y, chunk_x)   chunk (1, 1, 1)           codec harmonium.payload    bytes
    codes     (unit, cell_y, cell_x)  chunk (unit, 64, 64)      codec harmonium.codes      integers
"""

import asyncio
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.abc.store import ByteRequest, Store
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, BufferPrototype, NDBuffer
from zarr.registry import register_codec
from zarr.storage import WrapperStore

from harmonium.errors import ArchiveError
from harmonium.models.cells import CELL, cell_grid
from harmonium.models.chunk_codec import ChunkCodec
from harmonium.pipeline.torch_threads import single_threaded
from harmonium.pipeline.zarr_codec import NAME, HarmoniumCodec


class _MetadataStore(WrapperStore[Store]):
    """A store that answers for one metadata document itself."""

    def __init__(self, store: Store, key: str, document: bytes) -> None:
        super().__init__(store)
        self._key = key
        self._document = document

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self._key, self._document)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if key == self._key:
            return prototype.buffer.from_bytes(self._document)
        return await self._store.get(key, prototype, byte_range)


@dataclass(frozen=True)
class PayloadCodec(ArrayBytesCodec):
    """One element, the bytes of a payload, to itself."""

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """It has nothing to configure."""
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Name only."""
        return {"name": "harmonium.payload"}

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """Nothing about the array changes the codec."""
        return self

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Unknown: payloads vary in length."""
        raise NotImplementedError("payloads vary in length")

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return chunk_spec.prototype.buffer.from_bytes(chunk_data.as_numpy_array().item())

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        element = np.empty(chunk_spec.shape, dtype=object)
        element.fill(chunk_data.to_bytes())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(element)


@dataclass(frozen=True, init=False)
class CodesCodec(HarmoniumCodec):
    """Payloads to the integer codes that they hold; reads only."""

    def to_dict(self) -> dict[str, Any]:
        """As the pixels' codec, under another name."""
        return {**super().to_dict(), "name": "harmonium.codes"}

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        raise ArchiveError("Codes can be read, not written; write pixels")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(_decode_codes, await self._find_codec(), chunk_data, chunk_spec)


def _decode_codes(codec: ChunkCodec, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
    _, cell_rows, cell_columns = chunk_spec.shape
    shape = (codec.radiometry.bands, cell_rows * CELL, cell_columns * CELL)
    with single_threaded():
        codes = codec.codes(chunk_data.to_bytes(), shape)
    return chunk_spec.prototype.nd_buffer.from_numpy_array(codes.astype(chunk_spec.dtype.to_native_dtype()))


register_codec("harmonium.payload", PayloadCodec)
register_codec("harmonium.codes", CodesCodec)


def payloads(image: zarr.Array[Any], *, writable: bool = False) -> zarr.Array[Any]:
    """The payloads of an image as an array of `bytes` (1, chunk_y, chunk_x); empty where no chunk is stored."""
    chunks, shards = _chunks_and_shards(image)
    return _view(
        image,
        shape=(1, *(-(-side // chunk) for side, chunk in zip(image.shape[1:], chunks[1:], strict=True))),
        shard=(1, *(shard // chunk for shard, chunk in zip(shards[1:], chunks[1:], strict=True))),
        chunk=(1, 1, 1),
        codec={"name": "harmonium.payload"},
        data_type="variable_length_bytes",
        fill_value="",
        writable=writable,
    )


def one_payload(view: zarr.Array[Any], row: int, column: int) -> bytes:
    """The payload of one chunk in a view of payloads; empty where no chunk is stored."""
    element = view[:, row : row + 1, column : column + 1]
    return bytes(np.asarray(element, dtype=object)[0, 0, 0])


def codes(image: zarr.Array[Any]) -> zarr.Array[Any]:
    """The integer codes of an image, (unit, cell_y, cell_x); zeros where no pixel carries data."""
    serializer = serializer_of(image)
    codec = serializer.codec()
    chunks, shards = _chunks_and_shards(image)
    units = codec.units
    return _view(
        image,
        shape=(units, *cell_grid(*image.shape[1:])),
        shard=(units, *(side // CELL for side in shards[1:])),
        chunk=(units, *(side // CELL for side in chunks[1:])),
        codec={**serializer.to_dict(), "name": "harmonium.codes"},
        data_type=codec.code_type,
        fill_value=0,
    )


@dataclass(frozen=True)
class LazyCodes:
    """The codes of an image for Dask. Its pickle is the image's, which any process opens; a view's own is not."""

    image: zarr.Array[Any]
    """The image (band, y, x)."""

    @cached_property
    def view(self) -> zarr.Array[Any]:
        """Its codes (unit, cell_y, cell_x)."""
        return codes(self.image)

    @property
    def shape(self) -> tuple[int, ...]:
        """(units, cell rows, cell columns)."""
        return self.view.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Unsigned integers."""
        return self.view.dtype

    @property
    def ndim(self) -> int:
        """Three."""
        return self.view.ndim

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.asarray(self.view[key])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.image,)


def serializer_of(image: zarr.Array[Any]) -> HarmoniumCodec:
    """The codec that an image's chunks were written with.

    Raises
    ------
    ArchiveError
        If they were written with another kind of codec.
    """
    serializer = image.serializer
    if not isinstance(serializer, HarmoniumCodec):
        raise ArchiveError(f"{image.path} is coded by {type(serializer).__name__}, not by {NAME!r}: it has no payloads")
    return serializer


def _chunks_and_shards(image: zarr.Array[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    serializer_of(image)
    cells = all(side % CELL == 0 for side in image.chunks[1:])
    if len(image.shape) != 3 or image.shards is None or not cells:
        raise ArchiveError(
            f"{image.path} has chunks {image.chunks} in shards {image.shards}: views need an image (band, y, x) in "
            f"shards of chunks whose sides are multiples of {CELL} pixels, as archives hold it"
        )
    return image.chunks, image.shards


def _view(
    image: zarr.Array[Any],
    *,
    shape: tuple[int, ...],
    shard: tuple[int, ...],
    chunk: tuple[int, ...],
    codec: dict[str, Any],
    data_type: str,
    fill_value: str | int,
    writable: bool = False,
) -> zarr.Array[Any]:
    document = image.metadata.to_dict()
    sharding = json.loads(json.dumps(document["codecs"]))[0]
    sharding["configuration"]["chunk_shape"] = list(chunk)
    # The first inner codec turns an array into bytes; what follows it, the checksum, stays.
    sharding["configuration"]["codecs"][0] = codec
    own = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard)}},
        "chunk_key_encoding": document["chunk_key_encoding"],
        "fill_value": fill_value,
        "codecs": [sharding],
        "attributes": {},
    }
    key = f"{image.path}/zarr.json" if image.path else "zarr.json"
    store = _MetadataStore(image.store, key, json.dumps(own).encode())
    return zarr.open_array(store, path=image.path, mode="r+" if writable else "r")
