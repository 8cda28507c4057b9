"""`limited-state-autoencoder`: a deep autoencoder of all bands of 8×8 pixels, codes of fixed length.

    code    limited-state  2^b states for unit j, b_1 + b_2 + ... = K = 64 × bands × bits per pixel, packed
    hidden  rectified      250
    hidden  rectified      500
    hidden  rectified      1000
    hidden  rectified      512
    visible                64 per band, along principal axes

Each code unit has the number of states that it is worth: bits go one by one to the unit whose error falls most by it,
which is how transform codes share out bits (Gersho and Gray 1992, section 8.3), here by the errors that the best
uniform quantisers have on the training cells. The network starts at the Karhunen-Loève transform and is trained from
there (`harmonium.models.deep_start`), by straight-through gradients. With `entropy_coded` the same codes are stored by
static tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from harmonium.models import cell_transform, fine_tuning
from harmonium.models.block_transform import BlockTransform
from harmonium.models.cell_transform import CellTransform
from harmonium.models.code_prior import CodePrior, PackedBits, StaticTables
from harmonium.models.deep_start import Start, start_network
from harmonium.models.deep_training import StageSchedule, pretrain_apart
from harmonium.models.presets import Blocks, FitOptions, Fitted, Report
from harmonium.models.principal_axes import PrincipalAxes
from harmonium.models.training import StageLog, equal_errors, fitted, hold_out, noise_source, steps
from harmonium.models.uniform_codes import best_quantiser, share_bits
from harmonium.models.unrolled import UnrolledStack

_WHITENING = 0.5
_SEARCH_CELLS = 4096
"""Cells that bits are shared out on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitedStateAutoencoder:
    """See the module."""

    hidden: tuple[int, ...] = (512, 1000, 500, 250)
    """Units of the layers between pixels and code, the lowest first; at least two for each code unit."""

    start: Start = "principal"
    """Where training starts from."""

    greedy_steps: int = 400
    """Of each machine, where training starts from machines."""

    fine_tuning_steps: int = 2500
    """Steps of backpropagation; 0 leaves the start as it is."""

    code: fine_tuning.CodeUnits = "rounded"
    """What the decoder sees of the code while it is fine-tuned."""

    learning_rate: float = 1e-4
    """Step size of backpropagation at its start."""

    entropy_coded: bool = False
    """Whether codes are stored by static tables instead of in their full length."""

    name = "limited-state-autoencoder"
    patch = 8
    default_bits = 0.25

    def fit(self, blocks: Blocks, options: FitOptions, report: Report) -> Fitted:
        """See `Preset.fit`."""
        learn, held_out = hold_out(blocks)
        radiometry = equal_errors(learn, options)
        x = radiometry.normalise(learn).reshape(len(learn), -1).to(options.device)
        code_bits = max(1, round((options.bits or self.default_bits) * x.shape[1]))
        log = StageLog(report)
        net = self._train(x, code_bits, options, log).cpu()
        transform = CellTransform(net, blocks.shape[1], "values")
        prior: CodePrior = PackedBits(transform.states)
        if self.entropy_coded:
            prior = StaticTables.learn(net.encode(x.cpu()).T.numpy(), transform.states)
        return fitted(radiometry, transform, prior, options, log, blocks, held_out)

    def load(self, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockTransform:
        """See `Preset.load`."""
        return cell_transform.load(spec, tensors)

    def _train(self, x: Tensor, code_bits: int, options: FitOptions, log: StageLog) -> UnrolledStack:
        """From cells x (cells, 64 * bands) of normalised pixels to a network."""
        generator = torch.Generator().manual_seed(options.seed)
        noise = noise_source(generator, options)
        axes = PrincipalAxes.of(x, _WHITENING)
        batches = axes.batches(x, generator)
        sample = axes.project(x[:_SEARCH_CELLS])
        quantisers = share_bits((sample * axes.scale).cpu().double().numpy(), code_bits)
        bits = [quantiser.bits for quantiser in quantisers if quantiser.bits]
        greedy = StageSchedule(steps=steps(self.greedy_steps, options.effort))
        pretraining = partial(pretrain_apart, batches=batches, schedule=greedy, generator=noise, log=log)
        net = start_network(self.start, sample, self.hidden, len(bits), generator, pretraining)
        _set_states(net, sample, bits)
        if self.fine_tuning_steps:
            count = steps(self.fine_tuning_steps, options.effort)
            tuning = fine_tuning.Schedule(steps=count, batch=256, learning_rate=self.learning_rate, code=self.code)
            losses = fine_tuning.fine_tune(net, batches(tuning.batch), tuning, noise, axes.squared_error)
            log.run("fine-tuning", count, losses)
        axes.fold(net)
        return net


PRESET = LimitedStateAutoencoder()


@torch.no_grad()
def _set_states(net: UnrolledStack, z: Tensor, bits: list[int]) -> None:
    """Give code unit j 2^bits[j] states, as far apart as is best for its values on z, symmetric about their mean."""
    values = net.code_input(z)
    mean = values.mean(0)
    quantisers = [best_quantiser(v, b) for v, b in zip(values.T.cpu().double().numpy(), bits, strict=True)]
    step = torch.tensor([quantiser.step for quantiser in quantisers], device=z.device)
    # States are whole numbers of steps, and the middle between two of them has to be the mean.
    shift = mean - step / 2
    last, first = cast("nn.Linear", net.encoder[-1]), cast("nn.Linear", net.decoder[0])
    last.bias.sub_(shift)
    first.bias.add_(first.weight @ shift)
    net.spacing.copy_(step)
    net.states.copy_(torch.from_numpy(2 ** np.array(bits)))
    net.low.copy_(-(net.states // 2))
