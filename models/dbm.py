r"""The deep Boltzmann machine (Salakhutdinov and Hinton 2009).

    h2   o  o  o         E(v, h) = e_v(v) - s(v)ᵀ W_0 h1 - h1ᵀ W_1 h2 - ... - sum_i b_iᵀ h_i
          \ | /  W_1
    h1   o  o  o  o      p(h1 | v, h2) = σ(W_0ᵀ s(v) + W_1 h2 + b_1)
          \ | /  W_0     p(h2 | h1)    = σ(W_1ᵀ h1 + b_2)
    v    o  o  o         p(v | h1)     = Bernoulli, or Gaussian with mean W_0 h1 + b_0

Undirected between all layers, in contrast to the DBN (`harmonium.models.dbn`). The posterior of the hidden layers has
no closed form; mean field takes the factorised q(h) = prod q_i that is locally nearest to it, which bounds from below:

    log p(v) >= sum_h q(h) (-E(v, h)) + H(q) - log Z

With one hidden layer the machine is an RBM and the bound is the log-likelihood. `harmonium.models.dbm_training` trains.

Visible states may be tensors, such as rows × columns × bands, with W_0 in factors (`harmonium.models.tensor_rbm`). All
computations see the dense W_0, which is expanded once for each `chain`; its gradient is carried back to the factors.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self, cast

import torch
from torch import Tensor, nn

from harmonium.models.contrastive_divergence import Statistics
from harmonium.models.layer_chain import LayerChain, States, named
from harmonium.models.rbm import RBM, layer_parameters
from harmonium.models.tensor_rbm import FactoredWeight, Stackable, TensorRBM
from harmonium.models.units import Bernoulli, Gaussian, Units


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeanField:
    """The factorised posterior of a batch."""

    means: States
    """q_i(h = 1) of every hidden layer, the lowest first, each (batch, size)."""

    iterations: int
    """How often all layers were updated."""

    change: float
    """The largest change of any mean in the last iteration."""

    converged: bool
    """Whether that is below the tolerance."""


class DBM(nn.Module):
    """A deep Boltzmann machine with Bernoulli hidden layers.

    Parameters
    ----------
    visible
        Bernoulli or Gaussian units.
    hidden
        One or more layers of Bernoulli units, the lowest first.
    first
        The weight between the visible and the lowest hidden layer in factors; a matrix by default.

    Notes
    -----
    `weights[i]` is (size of layer i, size of layer i + 1), zero until `initialise`, or `first`; `layer_parameters[i]`
    holds the parameters of layer i, 0 being the visible one. States are tuples of all layers, each (batch, size); with
    `first`, visible ones are (batch, *modes), except in a `LayerChain`.
    """

    def __init__(self, visible: Units, hidden: Sequence[Units], first: FactoredWeight | None = None) -> None:
        super().__init__()
        wrong = [type(units).__name__ for units in hidden if not isinstance(units, Bernoulli)]
        if not isinstance(visible, Bernoulli | Gaussian) or wrong or not hidden:
            raise ValueError(
                "A DBM takes Bernoulli or Gaussian visible units and at least one layer of Bernoulli hidden units, got "
                f"{type(visible).__name__} below {', '.join(type(units).__name__ for units in hidden) or 'nothing'}"
            )
        self.units: tuple[Units, ...] = (visible, *hidden)
        shapes = [(below.size, above.size) for below, above in pairwise(self.units)]
        if first is not None and first.shape != shapes[0]:
            raise ValueError(f"Expected factors of a weight {shapes[0]}, found those of {first.shape}")
        weights = [torch.zeros(shape) for shape in shapes]
        self.weights = nn.ParameterList(weights if first is None else [first, *weights[1:]])
        self.layer_parameters = nn.ModuleList([layer_parameters(units) for units in self.units])

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, scale: float = 0.01) -> Self:
        """Draw all weights from N(0, scale²), and factors so that their weight has that variance."""
        for weight in self.weights:
            if isinstance(weight, FactoredWeight):
                weight.initialise(generator, scale)
            else:
                weight.normal_(0.0, scale, generator=generator)
        return self

    @classmethod
    @torch.no_grad()
    def compose(cls, stack: Sequence[Stackable]) -> Self:
        """The machine that pre-trained RBMs make together: half the energy of each (`harmonium.models.dbm_training`).

        What counts double in a pre-trained machine, its inputs or a whole layer of it, then counts once; a layer
        between two machines gets the mean of the biases that they have for it (Salakhutdinov and Hinton 2009). The
        lowest machine may be a tensor RBM.
        """
        for below, above in pairwise(stack):
            if below.hidden != above.visible or not isinstance(above, RBM):
                raise ValueError(
                    f"{below.hidden} cannot stand below {type(above).__name__} of {above.visible}; stack RBMs that "
                    "share a layer"
                )
        first = copy.deepcopy(stack[0].factors) if isinstance(stack[0], TensorRBM) else None
        visible = named(stack[0].visible_parameters)
        dbm = cls(stack[0].visible, [rbm.hidden for rbm in stack], first).to(visible["bias"])
        for weight, rbm in zip(dbm.weights, stack, strict=True):
            if isinstance(rbm, RBM):
                weight.copy_(rbm.weight)
        for name, value in visible.items():
            dbm._layer(0)[name].copy_(value)
        for layer, (below, above) in enumerate(pairwise(stack), start=1):
            bias = 0.5 * (below.hidden_parameters["bias"] + above.visible_parameters["bias"])
            dbm._layer(layer)["bias"].copy_(bias)
        dbm._layer(len(stack))["bias"].copy_(stack[-1].hidden_parameters["bias"])
        return dbm

    def _layer(self, layer: int) -> nn.ParameterDict:
        return cast("nn.ParameterDict", self.layer_parameters[layer])

    @property
    def modes(self) -> tuple[int, ...]:
        """Shape of a visible state."""
        first = self.weights[0]
        return first.modes if isinstance(first, FactoredWeight) else (self.units[0].size,)

    def rows(self, v: Tensor) -> Tensor:
        """Visible states (batch, *modes) as a `LayerChain` has them, (batch, size)."""
        first = self.weights[0]
        return first.rows(v) if isinstance(first, FactoredWeight) else v

    def chain(self, products: torch.dtype | None = None) -> LayerChain:
        """The machine as a value that shares its tensors; with `products`, its weights cast to that dtype."""
        chain = LayerChain(
            units=self.units,
            parameters=tuple(named(self._layer(layer)) for layer in range(len(self.units))),
            weights=tuple(weight.dense() if isinstance(weight, FactoredWeight) else weight for weight in self.weights),
        )
        return chain if products is None else chain.with_products_in(products)

    def energy(self, v: Tensor, hidden: Sequence[Tensor]) -> Tensor:
        """E(v, h), (batch,)."""
        return self.chain().energy((self.rows(v), *hidden))

    def gibbs_step(self, states: Sequence[Tensor], generator: torch.Generator) -> States:
        """One even/odd step of block Gibbs sampling: all odd layers given the even ones, then the reverse."""
        v, *hidden = self.chain().gibbs_step((self.rows(states[0]), *states[1:]), generator)
        return (v.reshape(-1, *self.modes), *hidden)

    @torch.no_grad()
    def lower_bound(self, v: Tensor, means: Sequence[Tensor], log_z: float) -> Tensor:
        """The variational lower bound on log p(v) in nats for each row, (batch,) float64, by log Z."""
        total = -self.energy(v, means).to(torch.float64) - log_z
        for mean in means:
            total += (torch.special.entr(mean) + torch.special.entr(1 - mean)).sum(-1, dtype=torch.float64)
        return total


@torch.no_grad()
def mean_field(chain: LayerChain, v: Tensor, *, iterations: int = 50, tolerance: float = 1e-5) -> MeanField:
    """Coordinate ascent of the bound in blocks: odd layers, then even ones, until no mean moves by `tolerance`.

    Every update is the exact maximum over its layers, so that the bound never falls. The start is a pass upwards in
    which inputs from below count double, as the layers above have yet to speak (Salakhutdinov and Hinton 2009).

    Raises
    ------
    ValueError
        If v is not (batch, visible).
    """
    visible = chain.units[0]
    if v.ndim != 2 or v.shape[1] != visible.size:
        raise ValueError(f"Mean field takes states (batch, {visible.size}), got shape {tuple(v.shape)}")
    weights, s = chain.weights, chain.coupled(0, v)
    below = (s.to(weights[0].dtype) @ weights[0]).to(v.dtype)
    means: list[Tensor] = []
    a = below
    for layer in range(1, len(chain.units)):
        if layer > 1:
            a = (means[-1].to(weights[layer - 1].dtype) @ weights[layer - 1]).to(v.dtype)
        doubling = 2.0 if layer < len(chain.units) - 1 else 1.0
        means.append(chain.units[layer].mean(doubling * a, chain.parameters[layer]))
    if len(means) == 1:
        return MeanField(means=tuple(means), iterations=0, change=0.0, converged=True)
    hidden = LayerChain(units=chain.units[1:], parameters=chain.parameters[1:], weights=weights[1:])
    change, done = float("inf"), 0
    while done < iterations and change >= tolerance:
        moved = []
        for parity in (0, 1):
            inputs = hidden.inputs(parity, means[1 - parity :: 2])
            for place, layer in enumerate(range(parity, len(means), 2)):
                a = inputs[place] + below if layer == 0 else inputs[place]
                mean = hidden.units[layer].mean(a, hidden.parameters[layer])
                moved.append((mean - means[layer]).abs().max())
                means[layer] = mean
        change, done = float(torch.stack(moved).max()), done + 1
    return MeanField(means=tuple(means), iterations=done, change=change, converged=change < tolerance)


@torch.no_grad()
def statistics(chain: LayerChain, states: Sequence[Tensor]) -> Statistics:
    """Sums of -∂E/∂θ over a batch of states of all layers, by the names of `DBM.named_parameters` with dense weights.

    The layers of one half, except Gaussian ones, may be given by their means given the other half, or all hidden layers
    by those of a factorised posterior: the expectation of the statistics is then exact.
    """
    coupled = [chain.coupled(layer, x) for layer, x in enumerate(states)]
    sums = {f"weights.{i}": below.T @ above for i, (below, above) in enumerate(pairwise(coupled))}
    # Only variances need the input that the visible layer gets from above.
    quadratic = chain.units[0].learned != {"bias"}
    to_visible = coupled[1] @ chain.weights[0].T.to(coupled[1].dtype) if quadratic else torch.zeros_like(states[0])
    for layer, x in enumerate(states):
        a = to_visible if layer == 0 else torch.zeros_like(x)
        for name, value in chain.units[layer].statistics(x, a, chain.parameters[layer]).items():
            sums[f"layer_parameters.{layer}.{name}"] = value
    return Statistics(count=len(states[0]), sums=sums)


@torch.no_grad()
def set_gradient(dbm: DBM, positive: Statistics, negative: Statistics, offsets: Sequence[Tensor] | None = None) -> None:
    """Store in every learned parameter's `.grad` the descent direction of -log p: negative minus positive phase.

    Parameters
    ----------
    offsets
        One (size,) for each layer: the gradient is then that of the machine whose states are centred at the offsets,
        E = -(s(x_i) - μ_i)ᵀ W_i (s(x_i+1) - μ_i+1) ..., carried back to the parameters as they are (Montavon and Müller
        2012; Melchior, Fischer and Wiskott 2016). It needs no pre-training to learn a deep machine.
    """
    descent = {
        name: (value / negative.count).sub_(positive.sums[name], alpha=1 / positive.count)
        for name, value in negative.sums.items()
    }
    if offsets is not None:
        _centre_weights(descent, offsets)
    steps = [descent[f"weights.{i}"] for i in range(len(dbm.weights))]
    for i, weight in enumerate(dbm.weights):
        if isinstance(weight, FactoredWeight):
            factors = weight.pull_back(descent.pop(f"weights.{i}"))
            descent |= {f"weights.{i}.{name}": value for name, value in factors.items()}
            if offsets is not None:
                steps[i] = weight.push_forward(factors)
    if offsets is not None:
        _uncentre_biases(descent, steps, offsets)
    for name, parameter in dbm.named_parameters():
        if parameter.requires_grad:
            parameter.grad = descent[name]


def _centre_weights(descent: dict[str, Tensor], offsets: Sequence[Tensor]) -> None:
    """Let the weights' gradients be those of the centred machine, whose biases are b_i + W_i μ_i+1 + W_i-1ᵀ μ_i-1."""
    # For Bernoulli and Gaussian units alike, the bias's statistic is s(x) up to a constant.
    for i, (below, above) in enumerate(pairwise(offsets)):
        b, c = (descent[f"layer_parameters.{layer}.bias"] for layer in (i, i + 1))
        descent[f"weights.{i}"].addr_(below, c, alpha=-1).addr_(b, above, alpha=-1)


def _uncentre_biases(descent: dict[str, Tensor], steps: Sequence[Tensor], offsets: Sequence[Tensor]) -> None:
    """Carry steps of the centred machine's biases back, given those of its dense weights."""
    for i, (step, (below, above)) in enumerate(zip(steps, pairwise(offsets), strict=True)):
        descent[f"layer_parameters.{i}.bias"].addmv_(step, above, alpha=-1)
        descent[f"layer_parameters.{i + 1}.bias"].addmv_(step.T, below, alpha=-1)
