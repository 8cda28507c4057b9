"""Contrastive divergence: the learning rule of the restricted Boltzmann machine.

    ∂ log p(v) / ∂θ  =  <-∂E/∂θ>_data  -  <-∂E/∂θ>_model            (Hinton 2002)

CD-k replaces the second mean by one over chains that start at the data and run k Gibbs steps. The statistics of a batch
are *sums* with a count, so that they can be merged over the parts of a batch in any order.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harmonium.models.energy_model import ChainModel, is_finite, update
from harmonium.models.energy_model import Statistics as Statistics
from harmonium.models.energy_model import set_gradient as set_gradient
from harmonium.models.rbm import RBM, RestrictedMachine


def statistics(rbm: RestrictedMachine, v: Tensor) -> Statistics:
    """See `RestrictedMachine.statistics`."""
    return rbm.statistics(v)


@torch.no_grad()
def negative_particles(model: ChainModel, v: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """States (batch, visible) after k Gibbs steps from v.

    All are draws: means in place of the last ones would lack the conditional variance, and a Gaussian layer trained on
    them would let its own variance grow without end.
    """
    for _ in range(k):
        v = model.gibbs_step(v, generator)
    return v


def has_finite_gradient(module: nn.Module) -> bool:
    """Whether a step along the stored gradients leaves every parameter finite."""
    return all(is_finite(parameter.grad) for parameter in module.parameters() if parameter.grad is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How one RBM is trained by contrastive divergence."""

    steps: int
    """Number of parameter updates."""

    batch: int = 256
    """Cells in a batch."""

    k: int = 1
    """Gibbs steps between the data and the negative particles."""

    learning_rate: float = 1e-3
    """Step size at the start; it falls to zero along half a cosine."""

    momentum: float = 0.9
    """Share of the last update that is kept."""

    weight_decay: float = 1e-5
    """L2 penalty on the weights, never on biases or variances."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or self.k < 1 or not self.learning_rate > 0:
            raise ValueError(f"A schedule needs steps >= 0, batch >= 1, k >= 1 and learning_rate > 0, got {self}")


def train(
    rbm: RBM, batches: Iterable[Tensor], schedule: Schedule, generator: torch.Generator, layer: str = "the machine"
) -> Iterator[float]:
    """Train `rbm` in place by CD-k, yielding each step's mean squared difference between data and particles.

    Parameters
    ----------
    rbm
        The machine; its parameters are changed.
    batches
        Visible states (batch, visible), at least `schedule.steps` of them.
    schedule
        How long and how fast.
    generator
        Source of all randomness, on the parameters' device.
    layer
        What errors call this machine.

    Raises
    ------
    FloatingPointError
        As soon as a batch, its reconstruction, a gradient or a parameter is not finite; the parameters are those before
        that step.
    """
    others = [parameter for name, parameter in rbm.named_parameters() if name != "weight"]
    # Momentum and decoupled weight decay with a step size per parameter: in satellite pixels the leading component has
    # a variance 10^5 times that of the last, and one step size for all would be far too small for nearly all.
    optimiser = torch.optim.AdamW(
        [{"params": [rbm.weight], "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
        betas=(schedule.momentum, 0.999),
        foreach=True,
    )
    for step, v in zip(range(schedule.steps), batches, strict=False):
        if not is_finite(v):
            raise FloatingPointError(
                f"The batch of step {step} of {layer} holds values that are not finite; mask such pixels"
            )
        particles = negative_particles(rbm, v, schedule.k, generator)
        error = float((particles - v).square().mean())
        set_gradient(rbm, statistics(rbm, v), statistics(rbm, particles))
        if not math.isfinite(error):
            raise FloatingPointError(
                f"The particles of {layer} left the finite numbers at step {step} of {schedule.steps}; "
                f"lower the learning rate (now {schedule.learning_rate})"
            )
        rate = schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        update(rbm, optimiser, step, layer)
        yield error
