r"""Parallel tempering: chains at several temperatures that exchange their states.

    β = 1     o──o──o╲ ╱o──o──o      negative particles        hot chains walk freely between modes; what they find,
    β = 2/3   o──o──o╱ ╲o╲ ╱o──o                               swaps bring down to β = 1, which keeps its exact
    β = 1/3   o──o──o──o─╱─╲o──o                               distribution
    β = 0     o──o──o──o──o──o─o      independent units

(Geyer 1991; for restricted machines Desjardins, Courville, Bengio, Vincent and Delalleau 2010, and Cho, Raiko and Ilin
2010.) After a Gibbs step at every β, neighbours i and j exchange their states with probability

    min(1, exp(e_i(x_i) + e_j(x_j) - e_i(x_j) - e_j(x_i)))       e_i(x) = -log of the unnormalised distribution at β_i

even pairs in one step, odd pairs in the next. For a restricted machine x is a visible state and e the free energy at β,
so that the hidden units, summed out, do not stand in the way of a swap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from harmonium.models.energy_model import ChainModel


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapStatistics:
    """How states moved between temperatures, as sums that can be merged over workers."""

    proposed: Tensor
    """Swaps proposed between each temperature and the next, (temperatures - 1,) int64."""

    accepted: Tensor
    """Those of them that were accepted."""

    round_trips: Tensor
    """Ways of states from β = 1 to the hottest chains and back, () int64: what tells whether hot chains are of use."""

    @property
    def rates(self) -> Tensor:
        """Share of accepted swaps between each temperature and the next; NaN where none was proposed."""
        return self.accepted / self.proposed

    def merge(self, other: Self) -> Self:
        """Statistics of both runs together."""
        return type(self)(
            proposed=self.proposed + other.proposed,
            accepted=self.accepted + other.accepted,
            round_trips=self.round_trips + other.round_trips,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperedChains:
    """Chains at every temperature, to be kept from update to update as `PersistentChains` are."""

    betas: Tensor
    """Inverse temperatures from 1 downwards, (temperatures,) in the particles' dtype."""

    states: Tensor
    """States (temperatures, chains, ...)."""

    returning: Tensor
    """Where a state was last, of both ends: -1 neither, 0 at β = 1, 1 at the hottest after β = 1; as `states`, int8."""

    odd: bool
    """Whether the next swaps are those of odd pairs."""

    swaps: SwapStatistics
    """Since the start."""

    @classmethod
    def start(cls, particles: Tensor, betas: Sequence[float]) -> Self:
        """Chains (chains, ...) from these states, the same at every inverse temperature.

        Raises
        ------
        ValueError
            If `betas` are not at least two that fall from 1 and stay at 0 or above.
        """
        falling = all(a > b for a, b in pairwise(betas))
        if len(betas) < 2 or betas[0] != 1 or not falling or not math.inf > betas[-1] >= 0:
            raise ValueError(
                f"Expected at least two inverse temperatures that fall from 1.0 and are not below 0, got {list(betas)}"
            )
        device, count = particles.device, len(betas)
        pairs = torch.zeros(count - 1, dtype=torch.int64, device=device)
        return cls(
            betas=torch.tensor(list(betas), dtype=particles.dtype, device=device),
            states=particles.expand(count, *particles.shape).clone(),
            returning=torch.full((count, len(particles)), -1, dtype=torch.int8, device=device),
            odd=False,
            swaps=SwapStatistics(proposed=pairs, accepted=pairs, round_trips=pairs.new_zeros(())),
        )

    @property
    def particles(self) -> Tensor:
        """States at β = 1, (chains, ...): the negative particles."""
        return self.states[0]

    @torch.no_grad()
    def advance(self, model: ChainModel, generator: torch.Generator, k: int = 1) -> Self:
        """The chains after k Gibbs steps at every temperature, each followed by swaps."""
        chains = self
        for _ in range(k):
            flat = model.gibbs_step(chains.states.flatten(0, 1), generator, chains._per_state(chains.betas))
            chains = replace(chains, states=flat.reshape(chains.states.shape))._swapped(model, generator)
        return chains

    def _per_state(self, betas: Tensor) -> Tensor:
        return betas.repeat_interleave(self.states.shape[1])

    def _swapped(self, model: ChainModel, generator: torch.Generator) -> Self:
        temperatures, chains = self.states.shape[:2]
        here = torch.arange(temperatures, device=self.states.device)
        lower = here[int(self.odd) : -1 : 2]
        partner = here.clone()
        partner[lower], partner[lower + 1] = lower + 1, lower
        flat = self.states.flatten(0, 1)
        own = model.state_energy(flat, self._per_state(self.betas))
        exchanged = model.state_energy(flat, self._per_state(self.betas[partner]))
        gain = (own - exchanged).reshape(temperatures, chains)
        accepted = accept(gain[lower] + gain[lower + 1], generator)

        source = here.unsqueeze(1).repeat(1, chains)
        source[lower] = torch.where(accepted, lower[:, None] + 1, lower[:, None])
        source[lower + 1] = torch.where(accepted, lower[:, None], lower[:, None] + 1)
        columns = torch.arange(chains, device=source.device)
        returning, trips = _arrived(self.returning[source, columns])
        proposed, taken = self.swaps.proposed.clone(), self.swaps.accepted.clone()
        proposed[lower] += chains
        taken[lower] += accepted.sum(1)
        swaps = SwapStatistics(proposed=proposed, accepted=taken, round_trips=self.swaps.round_trips + trips)
        states = self.states[source, columns]
        return replace(self, states=states, returning=returning, odd=not self.odd, swaps=swaps)


def accept(log_ratio: Tensor, generator: torch.Generator) -> Tensor:
    """Metropolis' decision with probability min(1, exp(log_ratio)), of the same shape."""
    uniform = torch.rand(log_ratio.shape, dtype=log_ratio.dtype, device=log_ratio.device, generator=generator)
    return torch.log(uniform) < log_ratio


def _arrived(returning: Tensor) -> tuple[Tensor, Tensor]:
    """Mark the states at both ends, and count those that are back at β = 1 from the hottest chains."""
    returning = returning.clone()
    back = (returning[0] == 1).sum()
    returning[0] = 0
    returning[-1] = torch.where(returning[-1] == 0, 1, returning[-1])
    return returning, back
