"""`binary-dbm`: 8×8 pixels of 8 bits as 512 binary units, a deep Boltzmann machine, K-bit codes of fixed length.

    code    Bernoulli  K = 64 × bits per pixel    packed: exactly K bits a cell and band
    hidden  Bernoulli  250
    hidden  Bernoulli  500
    hidden  Bernoulli  1000
    visible Bernoulli  512                        the bits of a pixel, most significant first; plain or Gray code

The machine is trained greedily and jointly, unrolled, and fine-tuned (`harmonium.models.deep_training`). A pixel is
decoded as its expectation, Σ 2^k p(bit k = 1), and fine-tuning weighs its error in DN. Codes of up to 16 bits are then
those that decode nearest, found by looking at all (`harmonium.models.nearest_codes`). Bands are coded one by one, with
the same network.

Pixels of more than 8 bits, and real ones, have a binary form, too: an affine map takes the range of each band, from its
0.1 to its 99.9 percentile widened by a tenth on either side, to 0 ... 255, where it is rounded; what lies outside is
clipped. The map is the codec's `Radiometry`. 8-bit pixels are taken as they are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harmonium.models import cell_transform
from harmonium.models.block_transform import BlockTransform
from harmonium.models.cell_transform import CellTransform, VisibleUnits
from harmonium.models.cells import from_bit_probabilities, to_bits
from harmonium.models.code_prior import PackedBits
from harmonium.models.deep_training import Stages, binary_stack, train_deep
from harmonium.models.presets import Blocks, FitOptions, Fitted, Report
from harmonium.models.radiometry import Radiometry
from harmonium.models.training import StageLog, fitted, hold_out, peak_of, symmetric_batches
from harmonium.models.units import Bernoulli
from harmonium.models.unrolled import UnrolledStack

_VISIBLE = 512
_BIAS_CELLS = 4096
"""Cells that the visible biases start from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryDbm:
    """See the module."""

    hidden: tuple[int, ...] = (1000, 500, 250)
    """Units of the layers between pixels and code, the lowest first."""

    gray: bool = False
    """Whether bits are those of the Gray code, in which neighbouring values differ in one bit."""

    stages: Stages = field(default_factory=Stages)
    """How long it is trained."""

    name = "binary-dbm"
    patch = 8
    default_bits = 0.25

    def fit(self, blocks: Blocks, options: FitOptions, report: Report) -> Fitted:
        """See `Preset.fit`."""
        code_bits = max(1, round((options.bits or self.default_bits) * 64))
        if code_bits > _VISIBLE:
            raise ValueError(f"binary-dbm codes up to 8 bits per pixel, got bits={options.bits}; ask for fewer")
        learn, held_out = hold_out(blocks)
        radiometry = _radiometry(learn, options)
        # Every band of a block is a cell of its own.
        x = radiometry.normalise(learn).reshape(-1, 64).to(options.device)
        log = StageLog(report)
        net = self._train(x, code_bits, options, log).cpu()
        units: VisibleUnits = "gray" if self.gray else "bits"
        transform = CellTransform(net, blocks.shape[1], units, self.stages.encoder(net))
        return fitted(radiometry, transform, PackedBits(transform.states), options, log, blocks, held_out)

    def load(self, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockTransform:
        """See `Preset.load`."""
        return cell_transform.load(spec, tensors)

    def _train(self, x: Tensor, code_bits: int, options: FitOptions, log: StageLog) -> UnrolledStack:
        """All stages on cells x (cells, 64) of values 0 ... 255."""
        generator = torch.Generator().manual_seed(options.seed)

        def batches(batch: int) -> Iterator[Tensor]:
            return (to_bits(cells, gray=self.gray) for cells in symmetric_batches(x, batch, generator))

        layers = (*self.hidden, code_bits)
        stack = binary_stack(Bernoulli(size=_VISIBLE), layers, to_bits(x[:_BIAS_CELLS], gray=self.gray), generator)
        return train_deep(stack, batches, self.stages, options, generator, log, self._pixels)

    def _pixels(self, bits: Tensor) -> Tensor:
        """Expected pixels (cells, 64) in units of 255, of probabilities of bits (cells, 512)."""
        return from_bit_probabilities(bits, gray=self.gray) / 255


PRESET = BinaryDbm()


def _radiometry(blocks: Blocks, options: FitOptions) -> Radiometry:
    """8-bit pixels as they are; a robust range of the others onto 0 ... 255."""
    dtype, bands = blocks.dtype.name, blocks.shape[1]
    if dtype == "uint8":
        offset, scale = np.zeros(bands), np.ones(bands)
    else:
        values = blocks.astype(np.float64).transpose(1, 0, 2, 3).reshape(bands, -1)
        low, high = np.percentile(values, (0.1, 99.9), axis=1)
        margin = 0.1 * (high - low)
        offset, span = low - margin, high - low + 2 * margin
        # A band of one value needs no levels; at least a step that float32 can hold.
        scale = np.where(span > 0, span / 255, np.maximum(np.abs(low), 1.0) / 255)
    return Radiometry(
        dtype=dtype,
        offset=tuple(offset.tolist()),
        scale=tuple(scale.tolist()),
        peak=peak_of(blocks, options),
    )
