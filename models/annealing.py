r"""Simulated annealing: a minimum of any energy, by Metropolis steps at a falling temperature.

        E  ╲      ╱╲          p_k(x) is proportional to exp(-E(x) / T_k)     (Kirkpatrick, Gelatt and Vecchi 1983)
            ╲ ↷ ╱   ╲    ╱    T_1 > T_2 > ... > 0
             ╲╱  ↷   ╲  ╱
                      ╲╱

While T is high the chain climbs out of local minima; as it falls the chain stays in the deepest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harmonium.models.mcmc import LogDensity, Proposal, metropolis_hastings_step, start_chains

Energy = Callable[[Tensor], Tensor]
"""States (chains, ...) to energies (chains,); +inf where a state is forbidden."""


def geometric_cooling(first: float, last: float, steps: int) -> Tensor:
    """Temperatures (steps,) float64 that go from first to last by the same factor at every step."""
    _check_schedule(torch.tensor([first, last]), steps)
    return torch.logspace(math.log10(first), math.log10(last), steps, dtype=torch.float64)


def logarithmic_cooling(first: float, steps: int) -> Tensor:
    """Temperatures (steps,) float64, first · log 2 / log(1 + k) for k = 1, 2 ... (Geman and Geman 1984, theorem B).

    Slow enough to end in the global minimum with certainty, if the first temperature is high enough; in practice too
    slow.
    """
    _check_schedule(torch.tensor([first]), steps)
    return first * math.log(2) / torch.log1p(torch.arange(1, steps + 1, dtype=torch.float64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Annealed:
    """What simulated annealing found."""

    best: Tensor
    """The state of least energy that each chain has seen, (chains, ...)."""

    best_energy: Tensor
    """Its energy, (chains,)."""

    x: Tensor
    """Where the chains ended, (chains, ...)."""

    energy: Tensor
    """Energy of those states, (chains,)."""


@torch.no_grad()
def simulated_annealing(
    energy: Energy, x: Tensor, proposal: Proposal, temperatures: Tensor, generator: torch.Generator
) -> Annealed:
    """One Metropolis-Hastings step for exp(-E / T) at each of the temperatures.

    Parameters
    ----------
    energy
        What is to become small.
    x
        Where the chains start, (chains, ...).
    proposal
        Where they may go from a state.
    temperatures
        T_k > 0, (steps,), as by `geometric_cooling`.
    generator
        Source of all randomness, on the states' device.
    """
    if temperatures.ndim != 1:
        raise ValueError(f"Temperatures must be (steps,), got {tuple(temperatures.shape)}")
    _check_schedule(temperatures, len(temperatures))
    chains = start_chains(_tempered(energy, 1.0), x)
    now = best = -chains.log_density
    best_x = x
    for temperature in temperatures.tolist():
        chains = replace(chains, log_density=-now / temperature)
        chains = metropolis_hastings_step(chains, _tempered(energy, temperature), proposal, generator)
        now = -chains.log_density * temperature
        better = now < best
        best = torch.where(better, now, best)
        best_x = torch.where(better.reshape(-1, *(1 for _ in x.shape[1:])), chains.x, best_x)
    # Evaluated anew: in the loop the energies were divided and multiplied by temperatures, with some rounding.
    return Annealed(best=best_x, best_energy=energy(best_x), x=chains.x, energy=energy(chains.x))


def _tempered(energy: Energy, temperature: float) -> LogDensity:
    return lambda state: -energy(state) / temperature


def _check_schedule(temperatures: Tensor, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"A schedule needs temperatures (steps,) with 1 step or more, got {steps} steps")
    bad = ~((temperatures > 0) & torch.isfinite(temperatures))
    if bool(bad.any()):
        raise ValueError(f"Temperatures must be positive and finite, got {float(temperatures[bad][0])}")
