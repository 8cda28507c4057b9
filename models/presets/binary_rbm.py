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
from torch import Tensor

from harmonium.models import cell_transform, contrastive_divergence, fine_tuning
from harmonium.models.block_transform import BlockTransform
from harmonium.models.cell_transform import CellTransform
from harmonium.models.cells import from_bit_probabilities, to_bits
from harmonium.models.code_prior import PackedBits
from harmonium.models.presets import Blocks, FitOptions, Fitted, Report
from harmonium.models.radiometry import Radiometry, default_peak
from harmonium.models.rbm import RBM
from harmonium.models.training import StageLog, hold_out, noise_source, random_batches, steps
from harmonium.models.units import Bernoulli
from harmonium.models.unrolled import UnrolledStack, unroll

_VISIBLE = 512
_HIDDEN = 256
_CD_STEPS = 1000
_FINE_TUNING_STEPS = 3000


class BinaryRbm:
    """See the module."""

    name = "binary-rbm"
    patch = 8
    default_bits = 1.0

    def fit(self, blocks: Blocks, options: FitOptions, report: Report) -> Fitted:
        """See `Preset.fit`."""
        if blocks.dtype != np.uint8:
            raise ValueError(f"binary-rbm codes 8-bit pixels, got {blocks.dtype}; use real-rbm for such scenes")
        bands = blocks.shape[1]
        code_bits = max(1, round((options.bits or self.default_bits) * 64))
        if code_bits > _VISIBLE:
            raise ValueError(f"binary-rbm codes up to 8 bits per pixel, got bits={options.bits}; ask for fewer")
        learn, held_out = hold_out(blocks)
        # Every band of a block is a cell of its own.
        x = to_bits(torch.from_numpy(learn.reshape(-1, 64).astype(np.int32))).to(options.device)
        generator = torch.Generator().manual_seed(options.seed)
        log = StageLog(report)

        net = unroll(_train_stack(x, code_bits, options, generator, log))
        schedule = fine_tuning.Schedule(steps=steps(_FINE_TUNING_STEPS, options.effort))
        batches = random_batches(x, schedule.batch, generator)
        noise = noise_source(generator, options)
        losses = fine_tuning.fine_tune(net, batches, schedule, noise, _squared_pixel_error)
        log.run("fine-tuning", schedule.steps, losses)

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


def _train_stack(
    x: Tensor, code_bits: int, options: FitOptions, generator: torch.Generator, log: StageLog
) -> list[RBM]:
    """Train both machines, one after the other, each on the means of the one below; x (cells, 512)."""
    stack = [
        RBM(Bernoulli(size=_VISIBLE), Bernoulli(size=_HIDDEN)),
        RBM(Bernoulli(size=_HIDDEN), Bernoulli(size=code_bits)),
    ]
    schedule = contrastive_divergence.Schedule(steps=steps(_CD_STEPS, options.effort), learning_rate=3e-3)
    noise = noise_source(generator, options)
    for number, rbm in enumerate(stack, start=1):
        rbm.initialise(generator).to(options.device)
        _match_visible_bias(rbm, x)
        batches = random_batches(x, schedule.batch, generator)
        log.run(f"cd-{number}", schedule.steps, contrastive_divergence.train(rbm, batches, schedule, noise))
        with torch.no_grad():
            x = rbm.mean_hidden(x)
    return stack


@torch.no_grad()
def _match_visible_bias(rbm: RBM, x: Tensor) -> None:
    """Start the visible biases at the log odds of the data (Hinton 2010, section 8.1)."""
    share = x.mean(0).clamp(0.01, 0.99)
    rbm.visible_parameters["bias"].copy_(torch.log(share / (1 - share)))


def _squared_pixel_error(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Summed squared error of a cell's pixels in units of 255 DN, averaged over the batch; both (cells, 512) bits."""
    error = from_bit_probabilities(reconstruction - target) / 255
    return error.square().sum(1).mean()


def _measure(net: UnrolledStack, blocks: Blocks, peak: float) -> dict[str, float]:
    pixels = torch.from_numpy(blocks.reshape(-1, 64).astype(np.int32))
    with torch.no_grad():
        decoded = from_bit_probabilities(net.decode(net.encode(to_bits(pixels)))).round()
        error = float((decoded - pixels).square().mean(dtype=torch.float64))
    psnr = 10 * math.log10(peak**2 / max(error, 1e-12))
    return {"bits_per_pixel": len(net.states) / 64, "psnr_db": round(psnr, 3)}
