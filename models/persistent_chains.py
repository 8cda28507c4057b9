r"""Persistent chains: negative particles that are not thrown away between updates.

    update t        data ── statistics ─────────────────┐
                                                        ├── gradient ── θ(t + 1)
    particles(t) ── k Gibbs steps ── particles(t + 1) ──┘                 │
                         └─ under θ(t), or θ(t) + fast weights            └─ the chains go on from where they are

Persistent contrastive divergence (Younes 1989; Tieleman 2008) keeps chains that follow the slowly
changing model. Fast persistent contrastive divergence (Tieleman and Hinton 2009) lets them run under weights that learn
quickly and forget quickly: what the chains have just visited becomes improbable, and drives them on. The model itself
learns without the fast weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from harmonium.models.contrastive_divergence import negative_particles
from harmonium.models.energy_model import ChainModel, Statistics


class ChainModule(ChainModel, Protocol):
    """A model that chains run on, with its parameters by name."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """See `torch.nn.Module`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistentChains:
    """Chains of a model that go on from update to update."""

    particles: Tensor
    """States (chains, ...): at the start those of data, or of any other origin."""

    def advance(self, model: ChainModel, generator: torch.Generator, k: int = 1) -> Self:
        """The chains after k more steps under the model as it is now."""
        return replace(self, particles=negative_particles(model, self.particles, k, generator))


@dataclass(frozen=True, slots=True, kw_only=True)
class FastPersistentChains:
    """Persistent chains with fast weights on top of the model's."""

    particles: Tensor
    """States (chains, ...)."""

    fast: dict[str, Tensor]
    """Fast weights by the name of the parameter that they are added to while the chains run."""

    @classmethod
    def start(cls, model: ChainModule, particles: Tensor) -> Self:
        """Chains from these states, all fast weights zero, one for every learned parameter."""
        learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return cls(particles=particles, fast={name: torch.zeros_like(p) for name, p in learned.items()})

    def advance(self, model: ChainModule, generator: torch.Generator, k: int = 1) -> Self:
        """The chains after k more steps under the model's weights plus the fast ones."""
        with _added(model, self.fast):
            particles = negative_particles(model, self.particles, k, generator)
        return replace(self, particles=particles)

    @torch.no_grad()
    def learn(self, positive: Statistics, negative: Statistics, rate: float, decay: float = 19 / 20) -> Self:
        """Fast weights after an update: `decay` times the old ones plus `rate` times the ascent direction.

        Raises
        ------
        ValueError
            If rate is below 0 or decay outside 0 to 1.
        """
        if not rate >= 0 or not 0 <= decay < 1:
            raise ValueError(f"Fast weights need rate >= 0 and 0 <= decay < 1, got {rate}, {decay}")
        fast = {
            name: decay * value + rate * (positive.sums[name] / positive.count - negative.sums[name] / negative.count)
            for name, value in self.fast.items()
        }
        return replace(self, fast=fast)


@contextmanager
def _added(model: ChainModule, addends: dict[str, Tensor]) -> Iterator[None]:
    """Let the model's parameters be larger by these for a while; then they are the same again, bit by bit."""
    parameters = [(parameter, addends[name]) for name, parameter in model.named_parameters() if name in addends]
    kept = [parameter.detach().clone() for parameter, _ in parameters]
    try:
        with torch.no_grad():
            for parameter, addend in parameters:
                parameter.add_(addend)
        yield
    finally:
        with torch.no_grad():
            for (parameter, _), value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
