r"""Markov chain Monte Carlo: draws from a density of which only ratios are known.

        x ──→ proposal q(x' | x) ──→ accept?  ─┬─ yes ─→ x'       many chains at once, (chains, ...)
        ↑                                      └─ no ──→ x
        └────────────────────────────────────────────┘

    accept with probability min(1, p(x') q(x | x') / (p(x) q(x' | x)))           (Hastings 1970)
    Gibbs: x_block ~ p(x_block | the rest), block by block                       (Geman and Geman 1984)

`collect` discards a burn-in and thins, for these and for any other step, such as a sweep of an Ising model. Its draws,
(chains, draws, ...), have the layout of arviz, which says whether the chains have mixed: `arviz.rhat`, `arviz.ess`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

State = TypeVar("State")

LogDensity = Callable[[Tensor], Tensor]
"""States (chains, ...) to log p, up to a constant, (chains,); -inf where p is zero."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposed:
    """States to go to."""

    x: Tensor
    """(chains, ...)."""

    log_ratio: Tensor | None = None
    """log q(x | x') - log q(x' | x), (chains,); None if the proposal is symmetric."""


Proposal = Callable[[Tensor, torch.Generator], Proposed]
"""States (chains, ...) and a generator to states to go to."""


def normal_steps(scale: float | Tensor) -> Proposal:
    """Symmetric steps from N(0, scale²), the same for all coordinates or one by one."""
    _check_positive("The scale of steps", torch.as_tensor(scale))

    def propose(x: Tensor, generator: torch.Generator) -> Proposed:
        return Proposed(x=x + scale * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device))

    return propose


def uniform_steps(reach: float | Tensor) -> Proposal:
    """Symmetric steps, uniform within ±reach, the same for all coordinates or one by one."""
    _check_positive("The reach of steps", torch.as_tensor(reach))

    def propose(x: Tensor, generator: torch.Generator) -> Proposed:
        uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return Proposed(x=x + reach * (2 * uniform - 1))

    return propose


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chains:
    """Metropolis-Hastings chains at one moment. They can go on from it."""

    x: Tensor
    """States, (chains, ...)."""

    log_density: Tensor
    """log p(x), (chains,)."""

    accepted: Tensor
    """Steps that were accepted so far, (chains,) int64."""

    steps: int = 0
    """Steps so far."""

    @property
    def acceptance(self) -> Tensor:
        """Share of the steps that were accepted, (chains,)."""
        return self.accepted / max(self.steps, 1)


def start_chains(log_density: LogDensity, x: Tensor) -> Chains:
    """Chains that start at x (chains, ...), where the density must be positive."""
    if x.ndim < 1 or not x.is_floating_point():
        raise ValueError(f"Chains start at floating states (chains, ...), got {tuple(x.shape)} {x.dtype}")
    value = _evaluate(log_density, x, 0)
    if bool((value == -torch.inf).any()):
        raise ValueError(f"Chains must start where p > 0, got p = 0 for {int((value == -torch.inf).sum())} of {len(x)}")
    return Chains(x=x, log_density=value, accepted=torch.zeros(len(x), dtype=torch.long, device=x.device))


@torch.no_grad()
def metropolis_hastings_step(
    chains: Chains, log_density: LogDensity, proposal: Proposal, generator: torch.Generator
) -> Chains:
    """Chains after one step.

    Raises
    ------
    FloatingPointError
        If the log density or the proposal's log ratio is NaN or +inf; `chains` are the last good state.
    """
    proposed = _propose(proposal, chains.x, generator, chains.steps)
    value = _evaluate(log_density, proposed.x, chains.steps + 1)
    gain = value - chains.log_density
    accepted = _accepts(gain if proposed.log_ratio is None else gain + proposed.log_ratio, generator)
    return Chains(
        x=_choose(accepted, proposed.x, chains.x),
        log_density=torch.where(accepted, value, chains.log_density),
        accepted=chains.accepted + accepted,
        steps=chains.steps + 1,
    )


def collect(
    step: Callable[[State], State],
    state: State,
    position: Callable[[State], Tensor],
    *,
    draws: int,
    burn_in: int = 0,
    thin: int = 1,
) -> tuple[State, Tensor]:
    """Run chains of any kind.

    Parameters
    ----------
    step
        One state of the chains to the next.
    state
        Where they start.
    position
        A state to what is kept of it, (chains, ...).
    draws
        How many positions are kept.
    burn_in
        Steps before the first of them, which are forgotten.
    thin
        Steps from one to the next, and from the burn-in to the first.

    Returns
    -------
    State, Tensor
        The last state, from which the chains can go on, and the positions (chains, draws, ...).
    """
    if draws < 1 or burn_in < 0 or thin < 1:
        raise ValueError(f"Need draws >= 1, burn_in >= 0 and thin >= 1, got {draws=}, {burn_in=}, {thin=}")
    for _ in range(burn_in):
        state = step(state)
    kept = []
    for _ in range(draws):
        for _ in range(thin):
            state = step(state)
        kept.append(position(state))
    return state, torch.stack(kept, dim=1)


def metropolis_hastings(
    log_density: LogDensity,
    x: Tensor,
    proposal: Proposal,
    generator: torch.Generator,
    *,
    draws: int,
    burn_in: int = 0,
    thin: int = 1,
) -> tuple[Chains, Tensor]:
    """Draws (chains, draws, ...) from p by chains that start at x (chains, ...), after the chains' last state."""

    def step(chains: Chains) -> Chains:
        return metropolis_hastings_step(chains, log_density, proposal, generator)

    chains = start_chains(log_density, x)
    return collect(step, chains, lambda state: state.x, draws=draws, burn_in=burn_in, thin=thin)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditional:
    """How to draw some of the variables, given all others."""

    block: Tensor
    """Which variables: their numbers, (size,) int64."""

    draw: Callable[[Tensor, torch.Generator], Tensor]
    """All variables (chains, variables) and a generator to the block's new values, (chains, size)."""

    def __post_init__(self) -> None:
        if self.block.ndim != 1 or self.block.dtype != torch.long or len(set(self.block.tolist())) < len(self.block):
            raise ValueError(
                "A block must be (size,) int64 numbers of variables, none of them twice, "
                f"got {tuple(self.block.shape)} {self.block.dtype}: {self.block.tolist()}"
            )


@torch.no_grad()
def gibbs_sweep(x: Tensor, conditionals: Sequence[Conditional], generator: torch.Generator) -> Tensor:
    """States (chains, variables) after every block was drawn anew, in the order given."""
    for conditional in conditionals:
        values = conditional.draw(x, generator)
        if values.shape != (len(x), len(conditional.block)):
            raise ValueError(
                f"A conditional must draw ({len(x)}, {len(conditional.block)}) values for the block "
                f"{conditional.block.tolist()}, got {tuple(values.shape)}"
            )
        x = x.index_copy(1, conditional.block, values)
    return x


def _propose(proposal: Proposal, x: Tensor, generator: torch.Generator, step: int) -> Proposed:
    proposed = proposal(x, generator)
    if proposed.x.shape != x.shape or proposed.x.dtype != x.dtype:
        raise ValueError(
            f"A proposal must keep shape and dtype {tuple(x.shape)} {x.dtype}, "
            f"got {tuple(proposed.x.shape)} {proposed.x.dtype}"
        )
    if proposed.log_ratio is not None:
        _check_log("The proposal's log ratio", proposed.log_ratio, len(x), step + 1)
    return proposed


def _evaluate(log_density: LogDensity, x: Tensor, step: int) -> Tensor:
    value = log_density(x)
    _check_log("The log density", value, len(x), step)
    return value


def _check_log(name: str, value: Tensor, chains: int, step: int) -> None:
    if value.shape != (chains,):
        raise ValueError(f"{name} must be ({chains},), one value for each chain, got {tuple(value.shape)}")
    bad = torch.isnan(value) | (value == torch.inf)
    if bool(bad.any()):
        raise FloatingPointError(
            f"{name} must be finite or -inf, got {float(value[bad][0])} at step {step} in chain "
            f"{int(bad.nonzero()[0, 0])}; give -inf where a state is impossible"
        )


def _check_positive(name: str, value: Tensor) -> None:
    if not bool(((value > 0) & torch.isfinite(value)).all()):
        raise ValueError(f"{name} must be positive and finite, got {value.tolist()}")


def _accepts(log_probability: Tensor, generator: torch.Generator) -> Tensor:
    dtype = torch.promote_types(log_probability.dtype, torch.float32)
    size, device = log_probability.shape, log_probability.device
    return torch.rand(size, generator=generator, dtype=dtype, device=device).log() < log_probability


def _choose(mask: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """Per chain, (chains, ...)."""
    return torch.where(mask.reshape(-1, *(1 for _ in other.shape[1:])), chosen, other)
