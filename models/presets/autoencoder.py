"""`autoencoder`: a deep autoencoder of all bands of 8×8 pixels, a real code, uniformly quantised and entropy-coded.

    code    real       one step for all units, one static table of frequencies each
    hidden  rectified  250
    hidden  rectified  500
    hidden  rectified  1000
    hidden  rectified  512
    visible            64 per band, along principal axes

The network starts at the Karhunen-Loève transform, at pre-trained machines, or at random (`harmonium.models.
deep_start`), and is fine-tuned for distortion and rate (`harmonium.models.fine_tuning`), in rounds. Before each, the
step is found that gives the rate that was asked for, and with it what a bit is worth: where steps of size Δ add the
squared error E to a cell of n code units, one more bit for each would divide it by 4, so that λ = 2 ln 2 E / n.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harmonium.models import cell_transform, fine_tuning
from harmonium.models.block_transform import BlockTransform
from harmonium.models.cell_transform import CellTransform
from harmonium.models.code_prior import StaticTables
from harmonium.models.deep_start import Start, start_network
from harmonium.models.deep_training import StageSchedule, pretrain_apart
from harmonium.models.presets import Blocks, FitOptions, Fitted, Report
from harmonium.models.principal_axes import PrincipalAxes
from harmonium.models.training import StageLog, equal_errors, fitted, hold_out, noise_source, steps
from harmonium.models.uniform_codes import limit_range, open_range, step_for_rate
from harmonium.models.unrolled import UnrolledStack

_WHITENING = 0.5
_UNITS_PER_BIT = 0.75
_SEARCH_CELLS = 10_000
"""Cells that the search for the step looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoencoder:
    """See the module."""

    hidden: tuple[int, ...] = (512, 1000, 500, 250)
    """Units of the layers between pixels and code, the lowest first; at least two for each code unit."""

    start: Start = "principal"
    """Where training starts from."""

    greedy_steps: int = 400
    """Of each machine, where training starts from machines."""

    rounds: tuple[int, ...] = (400, 800, 1300)
    """Steps of backpropagation in each round of fine-tuning."""

    learning_rate: float = 1e-4
    """Step size of backpropagation at its start."""

    name = "autoencoder"
    patch = 8
    default_bits = 0.5

    def fit(self, blocks: Blocks, options: FitOptions, report: Report) -> Fitted:
        """See `Preset.fit`."""
        learn, held_out = hold_out(blocks)
        radiometry = equal_errors(learn, options)
        x = radiometry.normalise(learn).reshape(len(learn), -1).to(options.device)
        log = StageLog(report)
        net = self._train(x, options.bits or self.default_bits, options, log).cpu()
        limit_range(net, x.cpu())
        transform = CellTransform(net, blocks.shape[1], "values")
        codes = net.encode(x.cpu()).T.numpy()
        prior = StaticTables.learn(codes, transform.states)
        return fitted(radiometry, transform, prior, options, log, blocks, held_out)

    def load(self, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockTransform:
        """See `Preset.load`."""
        return cell_transform.load(spec, tensors)

    def _train(self, x: Tensor, bits: float, options: FitOptions, log: StageLog) -> UnrolledStack:
        """From cells x (cells, 64 * bands) of normalised pixels to a network, at `bits` per visible value."""
        generator = torch.Generator().manual_seed(options.seed)
        noise = noise_source(generator, options)
        axes = PrincipalAxes.of(x, _WHITENING)
        batches = axes.batches(x, generator)
        visible = x.shape[1]
        # At low rates most components would carry nothing, and cost time.
        units = min(visible, max(64, round(_UNITS_PER_BIT * bits * visible)))
        sample = axes.project(x[:_SEARCH_CELLS])
        greedy = StageSchedule(steps=steps(self.greedy_steps, options.effort))
        pretraining = partial(pretrain_apart, batches=batches, schedule=greedy, generator=noise, log=log)
        net = start_network(self.start, sample, self.hidden, units, generator, pretraining)
        open_range(net)
        # One step for all in visible values: that of a principal component is counted in its own scale.
        relative = 1 / axes.scale[:units] if self.start == "principal" else torch.ones_like(net.spacing)
        for number, count in enumerate((0, *self.rounds)):
            if number:
                schedule = fine_tuning.Schedule(
                    steps=steps(count, options.effort),
                    batch=256,
                    learning_rate=self.learning_rate,
                    rate_weight=_worth_of_a_bit(net, sample, axes, noise),
                )
                losses = fine_tuning.fine_tune(net, batches(schedule.batch), schedule, noise, axes.squared_error)
                log.run(f"fine-tuning-{number}", schedule.steps, losses)
            _set_step(net, sample, bits * visible, relative)
        axes.fold(net)
        return net


PRESET = Autoencoder()


@torch.no_grad()
def _set_step(net: UnrolledStack, z: Tensor, bits: float, relative: Tensor) -> None:
    """Let the codes of z (cells, visible) carry `bits` a cell, with steps in the ratio of `relative` (units,)."""
    values = net.code_input(z) * net.spacing / relative
    net.spacing.copy_(step_for_rate(values, bits) * relative)


@torch.no_grad()
def _worth_of_a_bit(net: UnrolledStack, z: Tensor, axes: PrincipalAxes, generator: torch.Generator) -> float:
    """λ, from the squared error that noise of a step's size in the code adds to the reconstruction of z."""
    codes = net.code_input(z)
    noise = torch.rand(codes.shape, dtype=codes.dtype, device=codes.device, generator=generator) - 0.5
    added = axes.squared_error(net.decode_values(codes + noise), net.decode_values(codes))
    return 2 * math.log(2) * float(added) / codes.shape[1]
