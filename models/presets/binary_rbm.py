"""`binary-rbm`: 8×8 pixels of 8 bits as 512 binary units, a stack of two machines, K-bit codes of fixed length.

    code    Bernoulli  K = 64 × bits per pixel    packed: exactly K bits a cell and band
              │ RBM 2
    hidden  Bernoulli  256
              │ RBM 1
    visible Bernoulli  512                        the bits of a pixel, most significant first

The pixel is decoded as its expectation, Σ 2^k p(bit k = 1), and fine-tuning weighs its error in DN. Bands are coded one
by one, with the same stack.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonium.models import cell_transform, contrastive_divergence, fine_tuning
from harmonium.models.block_transform import BlockTransform
from harmonium.models.cell_transform import CellTransform
from harmonium.models.cells import from_bit_probabilities, to_bits
from harmonium.models.code_prior import PackedBits
from harmonium.models.presets import FitOptions, Fitted, Report
from harmonium.models.radiometry import Radiometry, default_peak
from harmonium.models.rbm import RBM
from harmonium.models.training import StageLog, hold_out, random_batches, steps
from harmonium.models.units import Bernoulli
from harmonium.models.unrolled import UnrolledStack, unroll

_HIDDEN = 256
_CD_STEPS = 1000
_FINE_TUNING_STEPS = 3000


class BinaryRbm:
    """See the module."""

    name = "binary-rbm"
    patch = 8
    default_bits = 1.0

    def fit(self, blocks: NDArray[np.generic], options: FitOptions, report: Report) -> Fitted:
        """See `Preset.fit`."""
        if blocks.dtype != np.uint8:
            raise ValueError(f"binary-rbm codes 8-bit pixels, got {blocks.dtype}; use real-rbm for such scenes")
        bands = blocks.shape[1]
        learn, held_out = hold_out(blocks)
        # Every band of a block is a cell of its own.
        x = to_bits(torch.from_numpy(learn.reshape(-1, 64).astype(np.int32))).to(options.device)
        generator = torch.Generator().manual_seed(options.seed)
        log = StageLog(report)

        code_bits = max(1, round((options.bits or self.default_bits) * 64))
        stack = [
            RBM(Bernoulli(size=512), Bernoulli(size=_HIDDEN)),
            RBM(Bernoulli(size=_HIDDEN), Bernoulli(size=code_bits)),
        ]
        cd = contrastive_divergence.Schedule(steps=steps(_CD_STEPS, options.effort), learning_rate=3e-3)
        below = x
        for number, rbm in enumerate(stack, start=1):
            rbm.initialise(generator).to(options.device)
            _match_visible_bias(rbm, below)
            batches = random_batches(below, cd.batch, generator)
            log.run(f"cd-{number}", cd.steps, contrastive_divergence.train(rbm, batches, cd, generator))
            with torch.no_grad():
                below = rbm.mean_hidden(below)

        net = unroll(stack)
        schedule = fine_tuning.Schedule(steps=steps(_FINE_TUNING_STEPS, options.effort))
        batches = random_batches(x, schedule.batch, generator)
        log.run(
            "fine-tuning",
            schedule.steps,
            fine_tuning.fine_tune(net, batches, schedule, generator, _squared_pixel_error),
        )
        net = net.cpu()
        peak = options.peak or default_peak("uint8")
        record = {
            "seed": options.seed,
            "effort": options.effort,
            "blocks": len(blocks),
            "stages": log.stages,
            "held_out": _measure(net, held_out, peak),
        }
        transform = CellTransform(net, bands, "bits")
        radiometry = Radiometry(dtype="uint8", offset=(0.0,) * bands, scale=(1.0,) * bands, peak=peak)
        return Fitted(radiometry=radiometry, transform=transform, prior=PackedBits(transform.states), record=record)

    def load(self, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockTransform:
        """See `Preset.load`."""
        return cell_transform.load(spec, tensors)


PRESET = BinaryRbm()


@torch.no_grad()
def _match_visible_bias(rbm: RBM, x: Tensor) -> None:
    """Start the visible biases at the log odds of the data (Hinton 2010, section 8.1)."""
    share = x.mean(0).clamp(0.01, 0.99)
    rbm.visible_parameters["bias"].copy_(torch.log(share / (1 - share)))


def _squared_pixel_error(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Summed squared error of a cell's pixels in units of 255 DN, averaged over the batch; both (cells, 512) bits."""
    error = from_bit_probabilities(reconstruction - target) / 255
    return error.square().sum(1).mean()


def _measure(net: UnrolledStack, blocks: NDArray[np.generic], peak: float) -> dict[str, float]:
    pixels = torch.from_numpy(blocks.reshape(-1, 64).astype(np.int32))
    with torch.no_grad():
        decoded = from_bit_probabilities(net.decode(net.encode(to_bits(pixels)))).round()
        error = float((decoded - pixels).square().mean(dtype=torch.float64))
    psnr = 10 * math.log10(peak**2 / max(error, 1e-12))
    return {"bits_per_pixel": len(net.states) / 64, "psnr_db": round(psnr, 3)}
