"""A codec: pixels of a chunk ⇄ the bytes of its payload. Pure: no file, no cluster, no global.

    pixels ── mask ─────────────────────────────────────────── zlib ──┐
       └───── Radiometry ── BlockTransform ── codes ── CodePrior ─────┤ payload
                                                                      │
    pixels ◀─ mask ◀─ Radiometry ◀─ BlockTransform ◀─ CodePrior ◀─────┘

A chunk is decoded again as soon as it is encoded, from the very bytes that will be stored, and what that gives is
measured and put beside them.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from harmonium.models.block_transform import BlockTransform
from harmonium.models.cells import CELL, cell_grid
from harmonium.models.chunk_codec import (
    Encoded,
    check_pixels,
    keep_data_apart,
    plain_codes,
    plain_pixels,
    unpack_for,
)
from harmonium.models.code_prior import CodePrior
from harmonium.models.payload import Mode, Payload, classify, pack_mask, packed_size, unpack_mask
from harmonium.models.quality import measure, unmeasured
from harmonium.models.radiometry import Pixels, Radiometry
from harmonium.models.targets import Target


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

    @property
    def targets(self) -> bool:
        """See `ChunkCodec`."""
        return False

    @property
    def units(self) -> int:
        """See `ChunkCodec`."""
        return len(self.transform.states)

    @property
    def code_type(self) -> str:
        """See `ChunkCodec`."""
        return np.min_scalar_type(max(self.transform.states) - 1).name

    @property
    def description(self) -> str:
        """See `ChunkCodec`."""
        return f"{self.units} code units, {self.prior.kind}"

    @torch.inference_mode()
    def compress(self, pixels: Pixels, fill: float, target: Target | None = None) -> Encoded:
        """See `ChunkCodec.compress`."""
        check_pixels(pixels, self.radiometry)
        if target is not None:
            raise ValueError(
                f"This model's rate was chosen when it was fitted, found the target {target}; leave it out, or use a "
                "model of the preset transform"
            )
        classes = classify(pixels, fill)
        valid = np.ones(pixels.shape, np.bool_) if classes is None else classes == 0
        mode, codes = plain_codes(pixels, valid, classes) or self._encode(pixels, valid, classes)
        mask, planes = pack_mask(classes)
        payload = Payload(
            mode=mode,
            dtype=self.radiometry.dtype,
            shape=pixels.shape,
            fill=fill,
            mask=mask,
            mask_planes=planes,
            codes=codes,
            quality=unmeasured(len(pixels)),
        )
        decoded = self._reconstruct(payload, classes)
        quality = measure(pixels, decoded, valid, packed_size(len(pixels), mask, codes))
        return Encoded(payload=replace(payload, quality=quality).pack(), quality=quality, decoded=decoded)

    @torch.inference_mode()
    def decompress(self, data: bytes, shape: tuple[int, int, int] | None = None) -> Pixels:
        """See `ChunkCodec.decompress`."""
        payload = unpack_for(self.radiometry, data, shape)
        return self._reconstruct(payload, unpack_mask(payload))

    def codes(self, data: bytes, shape: tuple[int, int, int] | None = None) -> NDArray[np.int32]:
        """See `ChunkCodec.codes`."""
        payload = unpack_for(self.radiometry, data, shape)
        rows, columns = cell_grid(*payload.shape[1:])
        if payload.mode is not Mode.LEARNED:
            return np.zeros((self.units, rows, columns), np.int32)
        return self._decode_codes(payload.codes, rows, columns, unpack_mask(payload))

    def _encode(
        self, pixels: Pixels, valid: NDArray[np.bool_], classes: NDArray[np.uint8] | None
    ) -> tuple[Mode, bytes]:
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

    def _reconstruct(self, payload: Payload, classes: NDArray[np.uint8] | None) -> Pixels:
        _, height, width = payload.shape
        if payload.mode is Mode.LEARNED:
            rows, columns = cell_grid(height, width)
            states = torch.from_numpy(self._decode_codes(payload.codes, rows, columns, classes))
            pixels = self.radiometry.restore(self.transform.decode(states, height, width))
        else:
            pixels = plain_pixels(payload, classes)
        return keep_data_apart(pixels, classes, payload.fill)


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
