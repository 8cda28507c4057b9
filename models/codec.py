"""A codec: pixels of a chunk ⇄ the bytes of its payload. Pure: no file, no cluster, no global.

    pixels ── mask ─────────────────────────────────────────── zlib ──┐
       └───── Radiometry ── BlockTransform ── codes ── CodePrior ─────┤ payload
                                                                      │
    pixels ◀─ mask ◀─ Radiometry ◀─ BlockTransform ◀─ CodePrior ◀─────┘

A chunk is decoded again as soon as it is encoded, from the very bytes that will be stored, and what that gives is
measured and put beside them.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from harmonium.errors import PayloadError
from harmonium.models.block_transform import BlockTransform
from harmonium.models.cells import CELL, cell_grid
from harmonium.models.code_prior import CodePrior
from harmonium.models.payload import (
    MAX_BANDS,
    MAX_PIXELS,
    Mode,
    Payload,
    classify,
    native_fill,
    pack_mask,
    packed_size,
    put_special,
    unpack,
    unpack_mask,
)
from harmonium.models.quality import Quality, measure
from harmonium.models.radiometry import Pixels, Radiometry


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A chunk after encoding, and what it decodes to."""

    payload: bytes
    """The bytes to store."""

    quality: Quality
    """What was measured by decoding them; the same numbers stand in the payload."""

    decoded: Pixels
    """What they decode to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How the chunks of one resolution group are coded."""

    radiometry: Radiometry
    """What pixel values mean to the transform."""

    transform: BlockTransform
    """Pixels ⇄ codes."""

    prior: CodePrior
    """Codes ⇄ bytes."""

    def __post_init__(self) -> None:
        if self.transform.bands != self.radiometry.bands:
            raise ValueError(
                f"Transform of {self.transform.bands} bands does not fit a radiometry of {self.radiometry.bands}"
            )
        if tuple(self.prior.states) != self.transform.states:
            raise ValueError(
                f"The prior's {len(self.prior.states)} numbers of states differ from the transform's "
                f"{len(self.transform.states)}; make both from the same fit"
            )

    @torch.inference_mode()
    def compress(self, pixels: Pixels, fill: float) -> Encoded:
        """Encode one chunk, decode it again, and measure.

        Parameters
        ----------
        pixels
            (bands, height, width) in the native type.
        fill
            Pixels of this value carry no data: they come back exactly, and no other pixel comes back as this value. So
            do NaN and infinities, whatever the fill value. One that the native type cannot hold marks no pixel.

        Raises
        ------
        ValueError
            If the chunk has other bands or another type than the codec was made for, or no pixels, or too many.
        """
        bands = self.radiometry.bands
        if pixels.ndim != 3 or len(pixels) != bands or pixels.dtype != self.radiometry.dtype:
            raise ValueError(
                f"This codec takes chunks of {bands} bands of {self.radiometry.dtype}, got shape {pixels.shape} of "
                f"{pixels.dtype}; fit a model for such data"
            )
        if bands > MAX_BANDS or not 1 <= pixels.size <= MAX_PIXELS:
            raise ValueError(
                f"A chunk has at most {MAX_BANDS} bands and 1 to {MAX_PIXELS} values, got shape {pixels.shape}; choose "
                "other chunks"
            )
        classes = classify(pixels, fill)
        valid = np.ones(pixels.shape, np.bool_) if classes is None else classes == 0
        mode, codes = self._encode(pixels, valid, classes)
        mask, planes = pack_mask(classes)
        nbytes = packed_size(bands, mask, codes)
        decoded = self._reconstruct(mode, codes, pixels.shape, classes, fill)
        payload = Payload(
            mode=mode,
            dtype=self.radiometry.dtype,
            shape=pixels.shape,
            fill=fill,
            mask=mask,
            mask_planes=planes,
            codes=codes,
            quality=measure(pixels, decoded, valid, nbytes),
        )
        return Encoded(payload=payload.pack(), quality=payload.quality, decoded=decoded)

    @torch.inference_mode()
    def decompress(self, data: bytes, shape: tuple[int, int, int] | None = None) -> Pixels:
        """Pixels (bands, height, width) of a payload.

        Parameters
        ----------
        data
            The payload.
        shape
            (bands, height, width) that the caller expects. Without it, a few foreign bytes may ask for the memory of
            `MAX_PIXELS` values.

        Raises
        ------
        PayloadError
            If the payload is damaged, of an unknown version, of another shape than expected, or was not made by a
            codec for such chunks.
        """
        payload = self._unpack(data, shape)
        return self._reconstruct(payload.mode, payload.codes, payload.shape, unpack_mask(payload), payload.fill)

    def codes(self, data: bytes, shape: tuple[int, int, int] | None = None) -> NDArray[np.int32]:
        """Integer codes (units, cell_rows, cell_columns) of a payload; zeros where no pixel was coded.

        `shape` is that of the chunk in pixels, and checked, as in `decompress`.

        Raises
        ------
        PayloadError
            As `decompress`.
        """
        payload = self._unpack(data, shape)
        rows, columns = cell_grid(*payload.shape[1:])
        if payload.mode is not Mode.LEARNED:
            return np.zeros((len(self.transform.states), rows, columns), np.int32)
        return self._decode_codes(payload.codes, rows, columns, unpack_mask(payload))

    def _unpack(self, data: bytes, shape: tuple[int, int, int] | None) -> Payload:
        payload = unpack(data)
        if shape is not None and payload.shape != tuple(shape):
            raise PayloadError(
                f"Expected a chunk of shape {tuple(shape)}, the payload's header says {payload.shape}; the chunk is "
                "damaged, or lies in the wrong place"
            )
        if payload.shape[0] != self.radiometry.bands or payload.dtype != self.radiometry.dtype:
            raise PayloadError(
                f"The payload holds {payload.shape[0]} bands of {payload.dtype}, the model is for "
                f"{self.radiometry.bands} of {self.radiometry.dtype}; the chunk is damaged, or was written with "
                "another model"
            )
        return payload

    def _encode(
        self, pixels: Pixels, valid: NDArray[np.bool_], classes: NDArray[np.uint8] | None
    ) -> tuple[Mode, bytes]:
        if classes is not None and not valid.any():
            return Mode.EMPTY, b""
        if (constant := _constant_bands(pixels, valid)) is not None:
            return Mode.CONSTANT, constant.astype("<f8").tobytes()
        values = self.radiometry.normalise(pixels)
        if classes is not None:
            values = _fill_smoothly(values, torch.from_numpy(valid))
        codes = self.transform.encode(values).flatten(1).numpy()
        return Mode.LEARNED, self.prior.encode(codes if classes is None else codes[:, _occupied(classes)])

    def _decode_codes(
        self, data: bytes, rows: int, columns: int, classes: NDArray[np.uint8] | None
    ) -> NDArray[np.int32]:
        """Codes (units, cell_rows, cell_columns): those of cells without data are not stored, and 0."""
        if classes is None:
            return self.prior.decode(data, rows * columns).reshape(-1, rows, columns)
        occupied = _occupied(classes)
        codes = np.zeros((len(self.transform.states), rows * columns), np.int32)
        codes[:, occupied] = self.prior.decode(data, int(np.count_nonzero(occupied)))
        return codes.reshape(-1, rows, columns)

    def _reconstruct(
        self, mode: Mode, codes: bytes, shape: tuple[int, ...], classes: NDArray[np.uint8] | None, fill: float
    ) -> Pixels:
        bands, height, width = shape
        dtype = np.dtype(self.radiometry.dtype)
        if mode is Mode.LEARNED:
            rows, columns = cell_grid(height, width)
            states = torch.from_numpy(self._decode_codes(codes, rows, columns, classes))
            pixels = self.radiometry.restore(self.transform.decode(states, height, width))
        else:
            expected = bands * 8 if mode is Mode.CONSTANT else 0
            if len(codes) != expected or (mode is Mode.EMPTY and (classes is None or (classes == 0).any())):
                raise PayloadError(
                    f"A chunk of mode {mode.name} has {expected} bytes of codes, found {len(codes)}, and an EMPTY "
                    "one a mask of all its pixels; the chunk is damaged"
                )
            constant = np.frombuffer(codes, "<f8") if mode is Mode.CONSTANT else np.zeros(bands)
            with np.errstate(all="ignore"):
                native = constant.astype(dtype)
            if not (native == constant).all():
                raise PayloadError(f"The constants {constant} are not {dtype} values; the chunk is damaged")
            pixels = np.broadcast_to(native[:, None, None], shape).copy()
        return _keep_data_apart(pixels, classes, fill)


def _constant_bands(pixels: Pixels, valid: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """The one value that each band has where it is valid, (bands,), or None if a band has several."""
    constants = np.zeros(len(pixels))
    for band, (values, mask) in enumerate(zip(pixels, valid, strict=True)):
        inside = values[mask] if not mask.all() else values.reshape(-1)
        if inside.size:
            # One look at the first row spares most chunks a pass over all their pixels.
            if (inside[: values.shape[1]] != inside[0]).any() or (inside != inside[0]).any():
                return None
            constants[band] = inside[0]
    return constants


def _occupied(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which cells, row-major over the grid, hold a pixel that carries data in some band."""
    height, width = classes.shape[1:]
    rows, columns = cell_grid(height, width)
    valid = np.zeros((rows * CELL, columns * CELL), np.bool_)
    valid[:height, :width] = (classes == 0).any(axis=0)
    occupied: NDArray[np.bool_] = valid.reshape(rows, CELL, columns, CELL).any(axis=(1, 3)).reshape(-1)
    return occupied


def _fill_smoothly(values: Tensor, valid: Tensor) -> Tensor:
    """Replace masked pixels by the mean of their cell's valid ones, 0 in cells without any: cheap to code."""
    weight = valid.to(values.dtype)
    kept = torch.where(valid, values, 0.0)
    mean = F.avg_pool2d(kept, CELL, ceil_mode=True) / F.avg_pool2d(weight, CELL, ceil_mode=True).clamp(min=1e-6)
    spread = mean.repeat_interleave(CELL, dim=1).repeat_interleave(CELL, dim=2)
    return torch.where(valid, values, spread[:, : values.shape[1], : values.shape[2]])


def _keep_data_apart(pixels: Pixels, classes: NDArray[np.uint8] | None, fill: float) -> Pixels:
    """Put the masked values in, and move data that happens to equal the fill value to its neighbour."""
    value = native_fill(fill, pixels.dtype)
    if value is not None:
        collides = pixels == value
        if collides.any():
            pixels[collides] = _neighbour(value, pixels.dtype)
    if classes is not None:
        put_special(pixels, classes, fill)
    return pixels


def _neighbour(value: np.generic, dtype: np.dtype[Any]) -> np.generic:
    """The value next above `value`, or next below the type's largest."""
    if dtype.kind == "f":
        towards = np.inf if value < np.finfo(dtype).max else -np.inf
        return cast("np.generic", np.nextafter(value, dtype.type(towards)))
    step = 1 if int(value) < np.iinfo(dtype).max else -1
    return cast("np.generic", dtype.type(int(value) + step))
