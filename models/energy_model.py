r"""What the models of this library have in common, and the gradient of their likelihood.

    p(v, h) = exp(-E(v, h)) / Z          F(v) = -log sum_h exp(-E(v, h))          log p(v) = -F(v) - log Z

    ∂ log p(v) / ∂θ  =  <-∂F/∂θ>_data  -  <-∂F/∂θ>_model      (Ackley, Hinton and Sejnowski 1985; LeCun et al. 2006)

    data ─────── statistics ───┐
                               ├── set_gradient ── update ── parameters
    particles ── statistics ───┘       (torch.optim)
        └─ of any sampler: a step of Gibbs sampling from the data, persistent chains, tempered ones, an exact draw

The update rule is `torch.optim.SGD`'s: with learning rate η, momentum ν and weight decay λ,

    Δθ(t) = ν Δθ(t-1) + η (∂ log p / ∂θ - λ θ)

which is the rule of Fischer and Igel (2012) with η λ for their λ, as long as η stays the same; where η changes,
torch applies the new one to the momentum, too.

A sampler may need the distribution at an inverse temperature β: E_β(x) = E_0(x) + β U(x), where E_0 is what keeps the
states of a unit apart (x²/2σ² of a real unit, 0 of a binary one) and U the biases and interactions. At β = 0 all units
are independent; for units that are 0 or 1, E_β = β E.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Sums of -∂E/∂θ over `count` states, for every learned parameter θ of a model by its name."""

    count: int
    """Number of states that were summed."""

    sums: dict[str, Tensor]
    """Parameter name (as in `named_parameters`) to a tensor of that parameter's shape."""

    def merge(self, other: Self) -> Self:
        """Statistics of both batches together."""
        sums = {name: value + other.sums[name] for name, value in self.sums.items()}
        return type(self)(count=self.count + other.count, sums=sums)


class EnergyModel(Protocol):
    """A distribution over visible and hidden states, known up to its normalisation."""

    def energy(self, v: Tensor, h: Tensor, /) -> Tensor:
        """E(v, h), (batch,)."""

    def free_energy(self, v: Tensor, /) -> Tensor:
        """F(v), the hidden states summed out, (batch,); differentiable in the parameters."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What may be learned."""


class ChainModel(Protocol):
    """A model that Markov chains run on, their states (chains, ...) whatever the model makes of them.

    Chains of a restricted machine are visible states: the hidden ones are drawn anew in every step.
    """

    def gibbs_step(self, state: Tensor, generator: torch.Generator, beta: Tensor | None = None) -> Tensor:
        """One step of a chain that leaves p, at inverse temperatures `beta` (chains,), as it is."""

    def state_energy(self, state: Tensor, beta: Tensor | None = None) -> Tensor:
        """-log of the chain's unnormalised distribution, (chains,)."""

    def statistics(self, state: Tensor) -> Statistics:
        """Sums over the chains of -∂E/∂θ, or its conditional expectation."""


def unnormalised_log_likelihood(model: EnergyModel, v: Tensor) -> Tensor:
    """Log p(v) + log Z, (batch,)."""
    return -model.free_energy(v)


def free_energy_statistics(model: EnergyModel, v: Tensor) -> Statistics:
    """Sums of -∂F/∂θ over a batch v (batch, ...), by automatic differentiation: for every model."""
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.enable_grad():
        total = unnormalised_log_likelihood(model, v).sum()
        found = torch.autograd.grad(total, list(learned.values()), materialize_grads=True)
    return Statistics(count=len(v), sums=dict(zip(learned, found, strict=True)))


@torch.no_grad()
def set_gradient(model: nn.Module, positive: Statistics, negative: Statistics) -> None:
    """Store in every learned parameter's `.grad` the descent direction of -log p: negative minus positive phase."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            mean = negative.sums[name] / negative.count
            parameter.grad = mean.sub_(positive.sums[name], alpha=1 / positive.count)


@torch.no_grad()
def update(model: nn.Module, optimiser: torch.optim.Optimizer, step: int, layer: str = "the model") -> None:
    """Take the optimiser's step along the stored gradients, unless it leaves the finite numbers.

    Parameters
    ----------
    model
        What is trained.
    optimiser
        Made for the model's parameters.
    step, layer
        Named in the error: number of the update, and which model of a stack this is.

    Raises
    ------
    FloatingPointError
        If a gradient or a parameter is not finite; the parameters are those before the step. The optimiser's own state
        may be spoilt: make a new one to go on.
    """
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not is_finite(parameter.grad):
            raise FloatingPointError(_left_finite(f"The gradient of {name!r}", layer, step, optimiser))
    before = [parameter.clone() for parameter in model.parameters()]
    optimiser.step()
    spoilt = [name for name, parameter in model.named_parameters() if not is_finite(parameter)]
    if spoilt:
        for parameter, value in zip(model.parameters(), before, strict=True):
            parameter.copy_(value)
        raise FloatingPointError(_left_finite(f"Parameter {spoilt[0]!r}", layer, step, optimiser))


def is_finite(x: Tensor) -> bool:
    """Whether all numbers of a tensor are."""
    # Both extremes carry NaN on, and take one pass without a tensor of truth values.
    return not x.numel() or all(math.isfinite(extreme) for extreme in torch.aminmax(x))


def _left_finite(what: str, layer: str, step: int, optimiser: torch.optim.Optimizer) -> str:
    rates = ", ".join(str(group["lr"]) for group in optimiser.param_groups)
    return f"{what} of {layer} left the finite numbers at step {step}; lower the learning rate (now {rates})"
