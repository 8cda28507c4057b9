r"""A directed generator in place of the Markov chain: trained towards an energy model while that is being trained.

    z ~ N(0, 1) ── G ── x ── statistics ── negative phase ──┐
                   ▲    │                                   ├── gradient ── θ(t + 1)
                   │    └── F(x) - entropy ─ gradient       │
                   └───────────────┘    data ── statistics ─┘

(Kim and Bengio 2016.) Two distributions stand for one: p(x), proportional to exp(-F(x)), which can be weighed but not
drawn from, and q(x), that of the generator, which can be drawn from in one pass but not weighed. The model climbs the
likelihood with the generator's states as negative particles; the generator descends

    KL(q | p) - log Z  =  <F(x)>_q - H(q)

whose entropy H(q) is unknown. Their surrogate is that of the normalised layers' activations n γ + β, each taken for an
independent Gaussian of mean β and variance γ²:

    H  ≈  sum_units ½ log(2πe γ²)

Here the last layer is normalised, too: what lies above the last γ could otherwise undo any entropy below it. For real x
its part is the largest entropy that the variances allow. In the layers below, a factor on γ and β changes nothing but
the surrogate, since the next layer is normalised again.

Bits are drawn independently with probabilities p(z), and H(q) = H(x|z) + I(x; z): the first is known in closed form,
and only the second is left to the surrogate. The energy is taken at p(z), where it has a gradient. F is concave for an
RBM with binary visible units, so that <F(x)> ≤ F(p(z)): without surrogate the generator descends an upper bound of its
divergence, and without the noise or the bias of a gradient through draws. The negative phase gets draws: means would
lack the conditional variance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from harmonium.models.deep_energy import DeepEnergy
from harmonium.models.energy_model import EnergyModel, free_energy_statistics, is_finite, set_gradient, update
from harmonium.models.rbm import RestrictedMachine

EnergyModule: TypeAlias = RestrictedMachine | DeepEnergy
"""An energy model that is a module; others work, too, if their states are (batch, visible)."""

_EPSILON = 1e-5

# --- the generator ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Normalisation:
    """What every layer's activations are normalised by, the lowest first."""

    means: tuple[Tensor, ...]
    """Of each unit, (size,)."""

    variances: tuple[Tensor, ...]
    """Likewise, biased: divided by the size of the batch."""

    def slide(self, batch: Self, share: float) -> Self:
        """Moved by that share towards the values of a batch."""
        return type(self)(
            means=tuple(torch.lerp(old, new, share) for old, new in zip(self.means, batch.means, strict=True)),
            variances=tuple(
                torch.lerp(old, new, share) for old, new in zip(self.variances, batch.variances, strict=True)
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generated:
    """What a generator makes of latent states."""

    states: Tensor
    """x, (batch, visible), without a gradient: drawn bits, or reals."""

    means: Tensor
    """<x> given z, (batch, visible), differentiable in the generator: probabilities of the bits, or x itself."""

    entropy: Tensor
    """H(x|z) in nats, its mean over z, (): 0 for reals, which z determines."""

    normalisation: Normalisation
    """That of this batch, or the one that was handed in."""


class DirectedGenerator(nn.Module):
    """Rectified layers from latent normal variables to visible states, every layer batch-normalised.

    Parameters
    ----------
    visible
        Units of a visible state.
    output
        What they are: `bits`, drawn from a Bernoulli distribution each, or `reals`, which z determines.
    latent
        Units of z.
    hidden
        Units in each layer between, the lowest first.

    Notes
    -----
    Layer l is γ (x W - m) / s + β with its batch's mean m and standard deviation s (Ioffe and Szegedy 2015), where
    `weights` are (below, above), `scales` γ and `shifts` β. Weights are zero until `initialise` or a caller fills them.
    """

    def __init__(self, visible: int, output: Literal["bits", "reals"], *, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = (latent, *hidden, visible)
        if min(sizes) < 1 or output not in ("bits", "reals"):
            raise ValueError(f"Expected layers of at least 1 unit and output bits or reals, got {sizes} and {output!r}")
        self.output, self.latent = output, latent
        self.weights = nn.ParameterList([torch.zeros(below, above) for below, above in pairwise(sizes)])
        self.scales = nn.ParameterList([torch.ones(size) for size in sizes[1:]])
        self.shifts = nn.ParameterList([torch.zeros(size) for size in sizes[1:]])

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, data: Tensor | None = None) -> Self:
        """Draw weights from N(0, 1 / inputs), and begin at the mean of `data` (n, visible), for reals at its spread."""
        for weight in self.weights:
            weight.normal_(0.0, 1 / math.sqrt(len(weight)), generator=generator)
        if data is not None and self.output == "bits":
            self.shifts[-1].copy_(torch.logit((data.sum(0) + 1) / (len(data) + 2)))
        elif data is not None:
            self.shifts[-1].copy_(data.mean(0))
            self.scales[-1].copy_(data.std(0))
        return self

    def latent_states(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws of z, (count, latent)."""
        weight = self.weights[0]
        return torch.randn(count, self.latent, dtype=weight.dtype, device=weight.device, generator=generator)

    def forward(self, z: Tensor, generator: torch.Generator, normalisation: Normalisation | None = None) -> Generated:
        """What becomes of z (batch, latent), normalised by the batch's own moments or by those handed in.

        Raises
        ------
        ValueError
            If z is of another shape, or a single row is to be normalised by itself.
        """
        if z.ndim != 2 or z.shape[1] != self.latent or (normalisation is None and len(z) < 2):
            raise ValueError(
                f"Expected latent states (batch, {self.latent}), at least 2 unless a normalisation is given, found "
                f"shape {tuple(z.shape)}"
            )
        a, found = self._activations(z, normalisation)
        if self.output == "reals":
            return Generated(states=a.detach(), means=a, entropy=a.new_zeros(()), normalisation=found)
        p = torch.sigmoid(a)
        return Generated(
            states=torch.bernoulli(p.detach(), generator=generator),
            means=p,
            entropy=(F.softplus(a) - a * p).sum(1).mean(),
            normalisation=found,
        )

    def _activations(self, x: Tensor, given: Normalisation | None) -> tuple[Tensor, Normalisation]:
        """The last layer's activations (batch, visible), and what all layers were normalised by."""
        means, variances = list[Tensor](), list[Tensor]()
        for layer, (weight, scale, shift) in enumerate(zip(self.weights, self.scales, self.shifts, strict=True)):
            a = (x if layer == 0 else torch.relu(x)) @ weight
            if given is None:
                variance, mean = torch.var_mean(a, 0, correction=0)
            else:
                variance, mean = given.variances[layer], given.means[layer]
            x = scale * (a - mean) * torch.rsqrt(variance + _EPSILON) + shift
            means.append(mean.detach())
            variances.append(variance.detach())
        return x, Normalisation(means=tuple(means), variances=tuple(variances))

    @torch.no_grad()
    def sample(self, count: int, normalisation: Normalisation, generator: torch.Generator) -> Tensor:
        """Independent draws from q, (count, visible), in one pass."""
        return self.forward(self.latent_states(count, generator), generator, normalisation).states

    def surrogate_entropy(self) -> Tensor:
        """Sum over all normalised units of the entropy of a Gaussian of variance γ², (), in nats."""
        units = torch.cat(list(self.scales))
        return 0.5 * torch.log(2 * math.pi * math.e * units.square()).sum()


def objective(model: EnergyModel, generator: DirectedGenerator, made: Generated, entropy_weight: float) -> Tensor:
    """What the generator descends: <F> - H(x|z) - `entropy_weight` times the surrogate, ()."""
    energy = model.free_energy(made.means).mean()
    return energy - made.entropy - entropy_weight * generator.surrogate_entropy()


# --- training both ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What a step of training an energy model and a generator on each other does."""

    particles: int = 100
    """States that are generated in a step."""

    entropy_weight: float = 1.0
    """Factor on the surrogate entropy. With 0, reals collapse onto the states of least energy."""

    slide: float = 0.01
    """Share of a batch in the running normalisation."""

    def __post_init__(self) -> None:
        if self.particles < 2 or not self.entropy_weight >= 0 or not 0 < self.slide <= 1:
            raise ValueError(f"A schedule needs particles >= 2, entropy_weight >= 0 and 0 < slide <= 1, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingState:
    """What one step hands to the next, beside the parameters."""

    step: int
    """Updates that were made."""

    normalisation: Normalisation
    """The generator's running one, by which `DirectedGenerator.sample` draws."""


@torch.no_grad()
def start(generator: DirectedGenerator, noise: torch.Generator, count: int = 1000) -> TrainingState:
    """The state before training, normalised by `count` latent states."""
    made: Generated = generator(generator.latent_states(count, noise), noise)
    return TrainingState(step=0, normalisation=made.normalisation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisers:
    """One for each of the two."""

    model: torch.optim.Optimizer
    """Made for the energy model's parameters."""

    generator: torch.optim.Optimizer
    """Made for the generator's."""


def joint_step(
    model: EnergyModule,
    generator: DirectedGenerator,
    v: Tensor,
    optimisers: Optimisers,
    schedule: Schedule,
    state: TrainingState,
    noise: torch.Generator,
) -> TrainingState:
    """Update both once, on a batch v (batch, visible) and on as many generated states as the schedule says.

    Raises
    ------
    FloatingPointError
        If the batch, a gradient or a parameter is not finite; both have the parameters from before the step. The
        optimisers' own state may be spoilt: make new ones to go on.
    """
    if not is_finite(v):
        raise FloatingPointError(f"The batch of step {state.step} holds values that are not finite; mask such data")
    made: Generated = generator(generator.latent_states(schedule.particles, noise), noise)
    parameters = list(generator.parameters())
    gradients = torch.autograd.grad(objective(model, generator, made, schedule.entropy_weight), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    set_gradient(model, free_energy_statistics(model, v), free_energy_statistics(model, made.states))
    with torch.no_grad():
        before = [parameter.clone() for parameter in parameters]
        update(generator, optimisers.generator, state.step, "the generator")
        try:
            update(model, optimisers.model, state.step, "the energy model")
        except FloatingPointError:
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
            raise
    return TrainingState(
        step=state.step + 1, normalisation=state.normalisation.slide(made.normalisation, schedule.slide)
    )
