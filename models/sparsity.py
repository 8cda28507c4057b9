r"""A sparsity target: hidden units that are active in a given share of the cases.

    penalty = -cost Σ_j (p log q_j + (1 - p) log(1 - q_j))          ∂ penalty / ∂ input_j = cost (q_j - p)

q_j is the mean activity of unit j, smoothed over batches, p the target (Hinton 2010, section 11). The derivative is
added to the hidden biases only, as Lee, Ekanadham and Ng (2008) do, which leaves the weights to the data. Where hidden
units have lateral connections, q_j is the mean of unit j given all others, and the derivative that by its own input.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from harmonium.models.boltzmann_machine import BoltzmannMachine
from harmonium.models.rbm import RestrictedMachine
from harmonium.models.units import Bernoulli


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenActivity:
    """Sum of the hidden means over `count` states, or places in them."""

    count: int
    """Number of means that were summed for each unit."""

    total: Tensor
    """Sum of E[h | v], (hidden,)."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: RestrictedMachine | BoltzmannMachine, state: Tensor) -> Self:
        """Activity at visible states (batch, ...), or joined ones of a machine with lateral connections.

        Of a convolutional machine it is that over all places.
        """
        h = model.mean_hidden(state)
        rows = h.movedim(1, -1).reshape(-1, h.shape[1])
        return cls(count=len(rows), total=rows.sum(0))

    def merge(self, other: Self) -> Self:
        """Activity of both batches together."""
        return type(self)(count=self.count + other.count, total=self.total + other.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsity:
    """A target, and the activity that was seen so far."""

    target: float
    """Mean activity p that units should have, between 0 and 1."""

    cost: float
    """Weight of the penalty against the log-likelihood of one state in nats."""

    decay: float = 0.9
    """Share of the old activity that is kept at each batch."""

    activity: Tensor | None = None
    """Smoothed activity q, (hidden,); None before the first batch."""

    def __post_init__(self) -> None:
        if not 0 < self.target < 1 or not self.cost >= 0 or not 0 <= self.decay < 1:
            raise ValueError(
                f"A sparsity target needs 0 < target < 1, cost >= 0 and 0 <= decay < 1, got target={self.target}, "
                f"cost={self.cost}, decay={self.decay}"
            )

    def observe(self, batch: HiddenActivity) -> Self:
        """With the activity of one more batch."""
        mean = batch.total / batch.count
        return replace(self, activity=mean if self.activity is None else torch.lerp(mean, self.activity, self.decay))

    @torch.no_grad()
    def add_gradient(self, model: RestrictedMachine | BoltzmannMachine) -> None:
        """Add the penalty's derivative to the stored gradient of the hidden biases.

        Raises
        ------
        ValueError
            If hidden units are not Bernoulli ones, or nothing was observed or no gradient stored before.
        """
        bias = model.hidden_bias
        if isinstance(model, RestrictedMachine) and not isinstance(model.hidden, Bernoulli):
            raise ValueError(  # noqa: TRY004 - the type is right, its units are not
                f"A sparsity target needs Bernoulli hidden units, got {type(model.hidden).__name__}"
            )
        if self.activity is None or bias.grad is None:
            raise ValueError("Expected an activity and a gradient, found none; call observe and set_gradient before")
        bias.grad += self.cost * (self.activity - self.target)
