"""`real-dbm`: 8×8 pixels of all bands as real values, a deep Boltzmann machine, K-bit codes of fixed length.

    code    Bernoulli  K = 64 × bands × bits per pixel    packed: exactly K bits a cell
    hidden  Bernoulli  250
    hidden  Bernoulli  500
    hidden  Bernoulli  1000
    hidden  Bernoulli  512
    visible Gaussian   64 per band, along principal axes

A Gaussian layer with one variance for all learns little but the mean of a cell from pixels as they are: along
principal axes their variances span five decades. The machine sees coordinates in which these are halved in the
logarithm (`harmonium.models.principal_axes`), for all bands together, so that covariances between bands are part of
it. It is trained greedily and jointly, unrolled, and fine-tuned for squared error in DN (`harmonium.models.
deep_training`); then the axes are put into the first and last weights. Codes of up to 16 bits are those that decode
nearest, found by looking at all (`harmonium.models.nearest_codes`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harmonium.models import cell_transform
from harmonium.models.block_transform import BlockTransform
from harmonium.models.cell_transform import CellTransform
from harmonium.models.code_prior import PackedBits
from harmonium.models.deep_training import Stages, binary_stack, train_deep
from harmonium.models.presets import Blocks, FitOptions, Fitted, Report
from harmonium.models.principal_axes import PrincipalAxes
from harmonium.models.rbm import RBM
from harmonium.models.tensor_rbm import Stackable
from harmonium.models.training import StageLog, equal_errors, fitted, hold_out
from harmonium.models.units import Gaussian, Units
from harmonium.models.unrolled import UnrolledStack

WHITENING = 0.5
"""By how much variances are evened out, in the logarithm."""

_NOISE = 0.5
"""Variance of the visible units, in coordinates whose largest has a variance of about √64."""

_BIAS_CELLS = 4096
"""Cells that the visible biases start from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealDbm:
    """See the module."""

    hidden: tuple[int, ...] = (512, 1000, 500, 250)
    """Units of the layers between pixels and code, the lowest first."""

    stages: Stages = field(default_factory=Stages)
    """How long it is trained."""

    name = "real-dbm"
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
        transform = CellTransform(net, blocks.shape[1], "values", self.stages.encoder(net))
        return fitted(radiometry, transform, PackedBits(transform.states), options, log, blocks, held_out)

    def load(self, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockTransform:
        """See `Preset.load`."""
        return cell_transform.load(spec, tensors)

    def _train(self, x: Tensor, code_bits: int, options: FitOptions, log: StageLog) -> UnrolledStack:
        """All stages on cells x (cells, 64 * bands) of normalised pixels."""
        generator = torch.Generator().manual_seed(options.seed)
        axes = self._axes(x)
        visible = Gaussian(size=x.shape[1], variance=_NOISE)
        layers, sample = (*self.hidden, code_bits), axes.project(x[:_BIAS_CELLS])
        stack = binary_stack(visible, layers, sample, generator, self._lowest)
        net = train_deep(stack, axes.batches(x, generator), self.stages, options, generator, log, axes.scaled)
        axes.fold(net)
        return net

    def _axes(self, x: Tensor) -> PrincipalAxes:
        """Coordinates that cells x (cells, visible) are learned in."""
        return PrincipalAxes.of(x, WHITENING)

    def _lowest(self, visible: Units, hidden: Units) -> Stackable:
        """The machine of visible and first hidden layer, untrained."""
        return RBM(visible, hidden)


PRESET = RealDbm()
