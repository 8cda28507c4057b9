r"""Training of deep Boltzmann machines: greedily, jointly, or jointly from the start by centring.

Greedy pre-training (Salakhutdinov and Hinton 2009) makes one RBM of each pair of layers, in which everything
that will have a second neighbour in the deep machine counts double already:

    lowest machine    v is there twice      p(h1 | v) = σ(2 W_0ᵀ s(v) + b)    p(v | h1)  = σ(W_0 h1 + b)
    between           W_1 counts twice      p(h2 | h1) = σ(2 W_1ᵀ h1 + b)     p(h1 | h2) = σ(2 W_1 h2 + b)
    top machine       h_L is there twice    p(h_L | ...) = σ(Wᵀ h + b)        p(h | h_L) = σ(2 W h_L + b)

`DBM.compose` then takes half the energy of each. Where visible states are tensors, the lowest machine is a tensor RBM.
Joint training climbs the variational bound: the positive phase is mean field's, the negative one that of chains which
persist from step to step. With one hidden layer this is PCD, or CD-k if the chains start at the data.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harmonium.models import energy_model
from harmonium.models.centring import Activities, Offsets, centre_gradient
from harmonium.models.contrastive_divergence import Statistics
from harmonium.models.dbm import DBM, mean_field, set_gradient, statistics
from harmonium.models.layer_chain import LayerChain, States, interleaved
from harmonium.models.tensor_rbm import Stackable

# --- greedy ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubling:
    """By how much the inputs of one pre-trained machine count."""

    up: float
    """Factor on what the hidden layer gets."""

    down: float
    """Factor on what the visible layer gets."""

    @classmethod
    def of(cls, index: int, depth: int) -> "Doubling":
        """That of machine `index`, 0 the lowest, of `depth` machines; a single one is an ordinary RBM."""
        if not 0 <= index < depth:
            raise ValueError(f"A stack of {depth} machines has numbers 0 to {depth - 1}, got {index}")
        return cls(up=2.0 if index < depth - 1 else 1.0, down=2.0 if index > 0 else 1.0)

    def inputs_up(self, rbm: Stackable, v: Tensor) -> Tensor:
        """What the hidden layer gets from v, (batch, hidden)."""
        return self.up * rbm.inputs_up(v)

    def inputs_down(self, rbm: Stackable, h: Tensor) -> Tensor:
        """What the visible layer gets from h, (batch, visible)."""
        return self.down * rbm.inputs_down(h)

    @torch.no_grad()
    def activities(self, rbm: Stackable, v: Tensor, inputs: Tensor) -> Activities:
        """Sums of both layers' statistics at v, the hidden ones by their mean given v; `inputs` are `inputs_up`'s."""
        hidden = rbm.hidden.coupled(rbm.hidden.mean(inputs, rbm.hidden_parameters), rbm.hidden_parameters)
        return Activities(count=len(v), visible=rbm.coupled_visible(v).sum(0), hidden=hidden.sum(0))

    def statistics(self, rbm: Stackable, v: Tensor, inputs: Tensor | None = None) -> Statistics:
        """Those of the doubled machine's energy, but for doubled layers and weights, which count once."""
        return rbm.statistics(v, up=self.up, down=self.down, inputs=inputs)


@torch.no_grad()
def pretraining_gradient(
    rbm: Stackable, v: Tensor, doubling: Doubling, k: int, generator: torch.Generator, inputs: Tensor | None = None
) -> Tensor:
    """Store the CD-k descent direction of one pre-trained machine in its `.grad`s; the particles, of the shape of v.

    It is that of the doubled machine's energy, except that doubled layers and weights learn at the pace of single ones.
    `inputs`, what `doubling.inputs_up` gives at v, may be handed in where it is known already.
    """
    given = doubling.inputs_up(rbm, v) if inputs is None else inputs
    particles = v
    for step in range(k):
        a = doubling.inputs_up(rbm, particles) if step else given
        h = rbm.hidden.sample(a, rbm.hidden_parameters, generator)
        drawn = rbm.visible.sample(doubling.inputs_down(rbm, h), rbm.visible_parameters, generator)
        particles = drawn.reshape(v.shape)
    energy_model.set_gradient(rbm, doubling.statistics(rbm, v, given), doubling.statistics(rbm, particles))
    return particles


def pretrain(
    rbm: Stackable,
    batches: Iterable[Tensor],
    doubling: Doubling,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    k: int = 1,
    *,
    offset_rate: float | None = None,
    layer: str = "the machine",
    first_step: int = 0,
) -> Iterator[float]:
    """Train one machine of the stack in place, yielding each step's mean squared difference of data and particles.

    Parameters
    ----------
    offset_rate
        Share of a batch's mean activities in the running offsets of centring; None does not centre.
    layer, first_step
        What errors call this machine, and the number of its first step here.

    Raises
    ------
    FloatingPointError
        As soon as a batch, its particles, a gradient or a parameter is not finite; the parameters are those before that
        step.
    """
    offsets: Offsets | None = None
    for step, v in enumerate(batches, first_step):
        _check_batch(v, step, layer)
        with torch.no_grad():
            inputs = doubling.inputs_up(rbm, v)
        particles = pretraining_gradient(rbm, v, doubling, k, generator, inputs)
        if offset_rate is not None:
            activities = doubling.activities(rbm, v, inputs)
            offsets = Offsets.start(activities) if offsets is None else offsets.slide(activities, offset_rate)
            centre_gradient(rbm, offsets)
        error = float((particles - v).square().mean())
        if not math.isfinite(error):
            raise FloatingPointError(
                f"The particles of {layer} left the finite numbers at step {step}; lower the learning rate"
            )
        energy_model.update(rbm, optimiser, step, layer)
        yield error


@torch.no_grad()
def lifted(
    stack: Sequence[Stackable], depth: int, batches: Iterable[Tensor], generator: torch.Generator
) -> Iterator[Tensor]:
    """The batches as the machine above `stack` sees them, drawn layer by layer; `depth` counts all machines.

    Raises
    ------
    FloatingPointError
        If a batch is not finite: units that are drawn would not show it.
    """
    for step, batch in enumerate(batches):
        _check_batch(batch, step, f"machine {len(stack)}")
        x = batch
        for index, rbm in enumerate(stack):
            inputs = Doubling.of(index, depth).inputs_up(rbm, x)
            x = rbm.hidden.sample(inputs, rbm.hidden_parameters, generator)
        yield x


def _check_batch(v: Tensor, step: int, layer: str) -> None:
    if not energy_model.is_finite(v):
        raise FloatingPointError(
            f"The batch of step {step} of {layer} holds values that are not finite; mask such pixels"
        )


# --- joint -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class JointSchedule:
    """What a step of joint training does."""

    gibbs_steps: int = 5
    """Even/odd steps of the chains."""

    persistent: bool = True
    """Whether chains go on from where they are; otherwise they start at the data and its mean field (CD-k)."""

    mean_field_iterations: int = 10
    """Most iterations of mean field."""

    mean_field_tolerance: float = 1e-3
    """Change of a mean at which they end."""

    offset_rate: float | None = None
    """Share of a batch's means in the running offsets of centring; None does not centre."""

    products: torch.dtype | None = None
    """Dtype in which chains and mean field take matrix products; None for that of the parameters."""

    def __post_init__(self) -> None:
        rate = 0.5 if self.offset_rate is None else self.offset_rate
        if self.gibbs_steps < 1 or self.mean_field_iterations < 1 or not 0 <= rate <= 1:
            raise ValueError(
                "Joint training needs gibbs_steps >= 1, mean_field_iterations >= 1 and an offset_rate from 0 to 1, "
                f"got {self}"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JointState:
    """What one step of joint training hands to the next."""

    chains: States
    """States of all layers, each (chains, size), visible tensors as rows."""

    offsets: tuple[Tensor, ...]
    """Centres of all layers' statistics, each (size,)."""

    iterations: int = 0
    """Of the last mean field."""


@torch.no_grad()
def start(dbm: DBM, count: int, data: Tensor, generator: torch.Generator) -> JointState:
    """Chains drawn without input, and offsets at the means of `data` (batch, ...) and of its mean field."""
    chain, v = dbm.chain(), dbm.rows(data)
    layers = (v, *mean_field(chain, v).means)
    return JointState(
        chains=chain.independent(count, generator),
        offsets=tuple(chain.coupled(layer, x).mean(0) for layer, x in enumerate(layers)),
    )


@torch.no_grad()
def joint_gradient(
    dbm: DBM, v: Tensor, state: JointState, schedule: JointSchedule, generator: torch.Generator
) -> JointState:
    """Store the descent direction of a batch v (batch, ...) in the `.grad`s, and return the next state."""
    chain, v = dbm.chain(schedule.products), dbm.rows(v)
    posterior = mean_field(chain, v, iterations=schedule.mean_field_iterations, tolerance=schedule.mean_field_tolerance)
    layers = (v, *posterior.means)
    particles = state.chains if schedule.persistent else layers
    for _ in range(schedule.gibbs_steps):
        particles = chain.gibbs_step(particles, generator)
    positive, offsets = statistics(chain, layers), state.offsets
    if schedule.offset_rate is not None:
        offsets = tuple(
            torch.lerp(offset, chain.coupled(layer, x).mean(0), schedule.offset_rate)
            for layer, (offset, x) in enumerate(zip(offsets, layers, strict=True))
        )
    negative = negative_statistics(chain, particles)
    set_gradient(dbm, positive, negative, None if schedule.offset_rate is None else offsets)
    return JointState(chains=particles, offsets=offsets, iterations=posterior.iterations)


def negative_statistics(chain: LayerChain, particles: Sequence[Tensor]) -> Statistics:
    """Statistics of the particles with the odd layers replaced by their means given the even ones.

    The expectation stays and part of the sampling noise goes. Gaussian layers are even where they occur, and are drawn.
    """
    even = tuple(particles[0::2])
    return statistics(chain, interleaved(even, chain.mean_half(1, even)))


def train_jointly(
    dbm: DBM,
    batches: Iterable[Tensor],
    optimiser: torch.optim.Optimizer,
    schedule: JointSchedule,
    state: JointState,
    generator: torch.Generator,
    *,
    layer: str = "the deep machine",
    first_step: int = 0,
) -> Iterator[JointState]:
    """Train the machine in place, a step for each batch, yielding the state to go on from.

    Parameters
    ----------
    layer, first_step
        What errors call this machine, and the number of its first step here.

    Raises
    ------
    FloatingPointError
        As soon as a batch, a gradient or a parameter is not finite; the parameters are those before that step, as is
        the state that was yielded last.
    """
    for step, v in enumerate(batches, first_step):
        _check_batch(v, step, layer)
        state = joint_gradient(dbm, v, state, schedule, generator)
        energy_model.update(dbm, optimiser, step, layer)
        yield state
