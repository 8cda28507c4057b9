r"""An energy on features of a deep network: a restricted machine that no longer looks at the pixels themselves.

    experts   h    o   o   o           E(x, h) = e_x(x) + e_h(h) - f(s(x))ᵀ W h
                    \ /|\ /   W        F(x)    = e_x(x) - sum_j softplus(f(s(x))ᵀ W_j + c_j)
    features  f  o   o   o   o
                  ↑ relu ↑             the features are computed, not drawn: given x the experts are independent,
    visible   x  o   o   o   o   o     but given h the visible units are not, and there is no step of Gibbs sampling

With real x this is, up to a constant, the product of experts of Kim and Bengio (2016), in their letters

    E(x) = xᵀx/σ² - bᵀx - sum_j softplus(W_jᵀ f(x) + c_j)

where the Gaussian units' variance is σ²/2 and their bias, the centre, b σ²/2. With bits the first term is missing.
Without a layer of features f is the identity and the model is the RBM. Rectified features grow no faster than x, so
that the square always wins and the density can be normalised.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from harmonium.models.rbm import check_dtype, layer_parameters
from harmonium.models.units import Bernoulli, Units


class DeepEnergy(nn.Module):
    """An `EnergyModel` whose experts see features of the visible state.

    Parameters
    ----------
    visible
        What x consists of.
    features
        Units in each layer of rectified features, the lowest first; none makes the model an RBM.
    experts
        The hidden units on top.

    Notes
    -----
    Weights are (below, above), zero until `initialise` or a caller fills them.
    """

    def __init__(self, visible: Units, *, features: Sequence[int], experts: Bernoulli) -> None:
        super().__init__()
        if any(size < 1 for size in features):
            raise ValueError(f"A layer of features needs at least 1 unit, got {tuple(features)}")
        self.visible, self.hidden = visible, experts
        self.visible_parameters = layer_parameters(visible)
        self.hidden_parameters = layer_parameters(experts)
        sizes = (visible.width, *features)
        self.feature_weights = nn.ParameterList([torch.zeros(below, above) for below, above in pairwise(sizes)])
        self.feature_biases = nn.ParameterList([torch.zeros(size) for size in features])
        self.weight = nn.Parameter(torch.zeros(sizes[-1], experts.size))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, scale: float = 0.01) -> Self:
        """Draw the experts' weights from N(0, scale²), the features' from N(0, 2 / inputs) as He et al. (2015)."""
        for weight in self.feature_weights:
            weight.normal_(0.0, math.sqrt(2 / len(weight)), generator=generator)
        self.weight.normal_(0.0, scale, generator=generator)
        return self

    def features(self, x: Tensor) -> Tensor:
        """What the experts see of x (batch, visible), (batch, features)."""
        x = self.visible.coupled(self._checked(x, self.visible), self.visible_parameters)
        for weight, bias in zip(self.feature_weights, self.feature_biases, strict=True):
            x = torch.relu(x @ weight + bias)
        return x

    def energy(self, v: Tensor, h: Tensor, /) -> Tensor:
        """E(x, h), (batch,); x (batch, visible), h (batch, experts)."""
        interaction = ((self.features(v) @ self.weight) * self._checked(h, self.hidden)).sum(-1)
        own = self.visible.self_energy(v, self.visible_parameters)
        return own + self.hidden.self_energy(h, self.hidden_parameters) - interaction

    def free_energy(self, v: Tensor, /) -> Tensor:
        """F(x), (batch,); differentiable in the parameters and in x."""
        experts = self.hidden.log_partition(self.features(v) @ self.weight, self.hidden_parameters)
        return self.visible.self_energy(v, self.visible_parameters) - experts.sum(-1)

    def _checked(self, x: Tensor, units: Units) -> Tensor:
        if x.ndim != 2 or x.shape[1] != units.width:
            raise ValueError(f"Expected states (batch, {units.width}) of {units}, found shape {tuple(x.shape)}")
        return check_dtype(x, type(units).__name__, self.weight.dtype)
