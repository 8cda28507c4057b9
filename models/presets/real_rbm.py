"""`real-rbm`: 8×8 pixels of all bands as real values, a stack of two machines, limited-state codes.

    code    Limited-state  K grows with the rate asked for   k ∈ 0 ... L_j - 1, one static table of frequencies each
              │ RBM 2
    hidden  Rectified      2 K                               features in pairs of opposite sign
              │ RBM 1
    visible Gaussian       64 per band, learned variance

The first machine starts where contrastive divergence of a Gaussian machine ends: at the principal components
(Karakida, Okada and Amari 2016; the closed form is that of probabilistic PCA, Tipping and Bishop 1999), each
held by a pair of rectified units of opposite sign. The second starts by joining the pairs, so that the untrained stack
is the Karhunen-Loève transform. Both are then trained by CD-1, unrolled, and fine-tuned for distortion and rate.

The conditional of a limited-state unit rounds to the nearest state. With unit posterior variance, one step of every
code unit is the same number of DN, which is what entropy-coded quantisation wants (Gish and Pierce 1968); how many, is
found by bisection for the rate that was asked for. Fine-tuning makes the codes cheaper than they were, so it is done in
rounds, and the step is found anew before each.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from harmonium.models import cell_transform, contrastive_divergence, fine_tuning
from harmonium.models.block_transform import BlockTransform
from harmonium.models.cell_transform import CellTransform
from harmonium.models.code_prior import StaticTables
from harmonium.models.presets import Blocks, FitOptions, Fitted, Report
from harmonium.models.radiometry import Radiometry
from harmonium.models.rbm import RBM
from harmonium.models.training import (
    StageLog,
    bits_per_cell,
    equal_errors,
    hold_out,
    noise_source,
    random_batches,
    steps,
)
from harmonium.models.uniform_codes import MAX_STATES, limit_range, step_for_rate
from harmonium.models.units import Gaussian, LimitedState, RectifiedGaussian
from harmonium.models.unrolled import UnrolledStack, unroll

_CD_STEPS = 300
_FINE_TUNING_ROUNDS = (200, 300, 700)
_LEARNING_RATE = 3e-4
"""At three times this, one fit in several came out 1 to 2 dB worse on pixels that it had not seen."""

_UNITS_PER_BIT = 0.75
_SEARCH_CELLS = 10_000
"""Cells that the search for the step looks at."""


class RealRbm:
    """See the module."""

    name = "real-rbm"
    patch = 8
    default_bits = 0.5

    def fit(self, blocks: Blocks, options: FitOptions, report: Report) -> Fitted:
        """See `Preset.fit`."""
        learn, held_out = hold_out(blocks)
        radiometry = equal_errors(learn, options)
        generator = torch.Generator().manual_seed(options.seed)
        x = _normalise(learn, radiometry).to(options.device)
        log = StageLog(report)

        bits = options.bits or self.default_bits
        stack, noise = _principal_stack(x, bits)
        stack[-1] = _with_spacing(stack, x, bits)
        _train_stack(stack, x, options, generator, log)
        net = _balance(unroll(stack), noise)
        step = _fine_tune(net, x, bits, options, generator, log)
        net = net.cpu()
        limit_range(net, x.cpu())
        codes = net.encode(x.cpu()).T.numpy()
        prior = StaticTables.learn(codes, [int(count) for count in net.states])
        transform = CellTransform(net, blocks.shape[1], "values")
        record = {
            "seed": options.seed,
            "effort": options.effort,
            "blocks": len(blocks),
            "step_dn": round(step * radiometry.scale[0], 4),
            "stages": log.stages,
            "held_out": _measure(net, prior, held_out, radiometry),
        }
        return Fitted(radiometry=radiometry, transform=transform, prior=prior, record=record)

    def load(self, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockTransform:
        """See `Preset.load`."""
        return cell_transform.load(spec, tensors)


PRESET = RealRbm()


def _normalise(blocks: Blocks, radiometry: Radiometry) -> Tensor:
    """Blocks (n, bands, 8, 8) to visible values (n, bands * 64)."""
    return radiometry.normalise(blocks).reshape(len(blocks), -1)


def _train_stack(stack: list[RBM], x: Tensor, options: FitOptions, generator: torch.Generator, log: StageLog) -> None:
    """Train both machines by CD-1, one after the other, each on the modes of the one below; x (cells, visible)."""
    schedule = contrastive_divergence.Schedule(steps=steps(_CD_STEPS, options.effort), learning_rate=1e-5)
    noise = noise_source(generator, options)
    for number, rbm in enumerate(stack, start=1):
        batches = random_batches(x, schedule.batch, generator)
        log.run(f"cd-{number}", schedule.steps, contrastive_divergence.train(rbm, batches, schedule, noise))
        with torch.no_grad():
            x = rbm.mode_hidden(x)


@torch.no_grad()
def _balance(net: UnrolledStack, noise: float) -> UnrolledStack:
    """Let hidden and code units speak in visible values instead of noise deviations; the function is the same.

    A machine's units count in deviations of the visible noise, so that its weights up are as large as the noise is
    small, and those down as small. Adam takes steps of one size for all, which would wipe the small ones out.
    """
    (up, to_code), (from_code, down) = net.encoder, net.decoder
    # Rectified units let a factor through: each layer but the last is scaled, the last one scaled back.
    for tensor in (up.weight, up.bias, to_code.bias, net.spacing, from_code.bias):
        cast("Tensor", tensor).mul_(noise)
    cast("Tensor", down.weight).div_(noise)
    return net


def _fine_tune(
    net: UnrolledStack, x: Tensor, bits: float, options: FitOptions, generator: torch.Generator, log: StageLog
) -> float:
    """Fine-tune for the trade of rate and distortion at `bits` per visible value; the step in visible values."""
    step = 0.0
    for number, count in enumerate(_FINE_TUNING_ROUNDS, start=1):
        with torch.no_grad():
            values = net.code_input(x[:_SEARCH_CELLS]) * net.spacing
        # After `_balance`, a code unit's value is a visible one's.
        step = step_for_rate(values, bits * x.shape[1])
        net.spacing.fill_(step)
        schedule = fine_tuning.Schedule(
            steps=steps(count, options.effort),
            learning_rate=_LEARNING_RATE,
            rate_weight=step**2 * math.log(2) / 6,
        )
        batches = random_batches(x, schedule.batch, generator)
        losses = fine_tuning.fine_tune(net, batches, schedule, noise_source(generator, options))
        log.run(f"fine-tuning-{number}", schedule.steps, losses)
    return step


def _principal_stack(x: Tensor, bits: float) -> tuple[list[RBM], float]:
    """Both machines at their closed-form start, the code layer without limits; and the visible deviation."""
    visible = x.shape[1]
    # At low rates most components would carry nothing, and cost time.
    units = min(visible, max(64, round(_UNITS_PER_BIT * bits * visible)))
    mean = x.mean(0, dtype=torch.float64)
    covariance = torch.cov(x.T.double())
    variances, directions = torch.linalg.eigh(covariance)
    variances, directions = variances.flip(0), directions.flip(1)
    # The noise is what the discarded components carry; at the least a thousandth of a deviation, where none are.
    noise = max(float(variances[units:].mean()) if units < visible else 0.0, 1e-6)
    kept = torch.sqrt((noise * (1 - noise / variances[:units].clamp(min=noise * 1.01))).clamp(min=0))
    loadings = (directions[:, :units] * kept).float()

    first = RBM(Gaussian(size=visible), RectifiedGaussian(size=2 * units)).to(x.device)
    second = RBM(RectifiedGaussian(size=2 * units), LimitedState(size=units, states=3)).to(x.device)
    with torch.no_grad():
        first.weight.copy_(torch.cat([loadings, -loadings], dim=1))
        first.visible_parameters["log_variance"].fill_(math.log(noise))
        first.visible_parameters["bias"].copy_(mean)
        first.hidden_parameters["bias"].copy_(-(mean.float() / noise) @ first.weight)
        identity = torch.eye(units, device=x.device)
        second.weight.copy_(torch.cat([identity, -identity]))
    return [first, second], math.sqrt(noise)


def _with_spacing(stack: list[RBM], x: Tensor, bits: float) -> RBM:
    """The second machine with states so far apart that the codes of x carry `bits` per visible value."""
    with torch.no_grad():
        values = stack[0].mode_hidden(x[:_SEARCH_CELLS]) @ stack[1].weight
    # States closer than a sixteenth of a deviation are as good as none between, and would only cost memory.
    spacing = max(step_for_rate(values, bits * x.shape[1]), 1 / 16)
    reach = 2 * math.ceil(float(values.abs().max()) / spacing)
    states = 2 * min(max(reach, 1), MAX_STATES // 2 - 1) + 1
    limited = RBM(stack[1].visible, LimitedState(size=values.shape[1], states=states, spacing=spacing)).to(x.device)
    limited.load_state_dict(stack[1].state_dict())
    return limited


def _measure(net: UnrolledStack, prior: StaticTables, blocks: Blocks, radiometry: Radiometry) -> dict[str, float]:
    with torch.no_grad():
        x = _normalise(blocks, radiometry)
        codes = net.encode(x)
        error = float((net.decode(codes) - x).square().mean(dtype=torch.float64)) * radiometry.scale[0] ** 2
    bits = bits_per_cell(prior, codes.T.numpy()) / x.shape[1]
    psnr = 10 * math.log10(radiometry.peak**2 / max(error, 1e-12))
    return {"bits_per_pixel": round(bits, 4), "psnr_db": round(psnr, 3)}
