r"""The Boltzmann machine with lateral connections, its units 0 or 1.

        hidden   h   o---o---o      S    E(v, h) = -½ vᵀ R v - ½ hᵀ S h - vᵀ W h - b·v - c·h
                     |\ /|\ /|      W
        visible  v   o---o---o      R    (Ackley, Hinton and Sejnowski 1985; Salakhutdinov and Hinton 2009, section 2)

R and S are symmetric with an empty diagonal. The visible units are not independent given the hidden ones, nor the other
way round, so that sums over hidden states need enumeration, and classical Gibbs sampling visits one unit after another.

Here a step of sampling takes a whole layer at once. R + δ I = A Aᵀ is positive semidefinite for δ = -λ_min(R), and

    exp(½ vᵀ R v) is proportional to ∫ exp(-½ |z|² + zᵀ Aᵀ v - ½ δ Σ v) dz               (as v² = v)

so that Gaussian units z, drawn from N(Aᵀ v, I), make the visible units independent (Hubbard 1959; Martens and Sutskever
2010). The larger δ, the more a layer holds on to its last state, and the slower the chain: without R and S it is the
block Gibbs sampler of the restricted machine.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from harmonium.models.energy_model import Statistics

_MAX_ENUMERATED = 20
"""Most units of a layer whose states are enumerated."""

_ENTRIES = 1 << 22
"""Energies that enumeration keeps at a time."""


def binary_states(size: int, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """All states of `size` units that are 0 or 1, (2^size, size), the last unit the fastest.

    Raises
    ------
    ValueError
        If there are more than a million.
    """
    if size > _MAX_ENUMERATED:
        raise ValueError(
            f"Enumeration takes at most {_MAX_ENUMERATED} units, got {size} with 2^{size} states; estimate instead"
        )
    number = torch.arange(1 << size, device=device).unsqueeze(1)
    return (number >> torch.arange(size - 1, -1, -1, device=device) & 1).to(dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanField:
    """A factorised approximation of p(h | v)."""

    means: Tensor
    """Probability of 1 of every hidden unit, (batch, hidden)."""

    change: float
    """Largest change of a mean in the last step, before damping: 0 at a solution of the mean-field equations."""


class BoltzmannMachine(nn.Module):
    """A Boltzmann machine of `visible` and `hidden` units that are 0 or 1.

    Notes
    -----
    `visible_lateral` and `hidden_lateral` hold R and S in their upper triangle; the rest is never read. Chains run on
    visible and hidden states side by side, (chains, visible + hidden): see `join` and `split`.
    """

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        if visible < 1 or hidden < 0:
            raise ValueError(f"A Boltzmann machine needs visible >= 1 and hidden >= 0 units, got {visible}, {hidden}")
        self.visible, self.hidden = visible, hidden
        self.weight = nn.Parameter(torch.zeros(visible, hidden))
        self.visible_lateral = nn.Parameter(torch.zeros(visible, visible))
        self.hidden_lateral = nn.Parameter(torch.zeros(hidden, hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, scale: float = 0.01) -> Self:
        """Draw all weights from N(0, scale²)."""
        for weights in (self.weight, self.visible_lateral, self.hidden_lateral):
            weights.normal_(0.0, scale, generator=generator)
        self.visible_lateral.triu_(1)
        self.hidden_lateral.triu_(1)
        return self

    def join(self, v: Tensor, h: Tensor) -> Tensor:
        """The state (batch, visible + hidden) of a chain."""
        return torch.cat([self._checked(v, "visible", self.visible), self._checked(h, "hidden", self.hidden)], dim=-1)

    def split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of `join`."""
        state = self._checked(state, "visible and hidden", self.visible + self.hidden)
        return state[..., : self.visible], state[..., self.visible :]

    def _checked(self, x: Tensor, layer: str, size: int) -> Tensor:
        if x.shape[-1:] != (size,) or x.dtype != self.weight.dtype:
            raise ValueError(
                f"Expected {layer} states (batch, {size}) of {self.weight.dtype}, found {tuple(x.shape)} of {x.dtype}; "
                "put the batch first, and cast the states or the machine"
            )
        return x

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """E(v, h), (batch,); of means, the expected energy of independent units."""
        v, h = self._checked(v, "visible", self.visible), self._checked(h, "hidden", self.hidden)
        return self._visible_energy(v) + self._hidden_energy(h) - ((v @ self.weight) * h).sum(-1)

    def _visible_energy(self, v: Tensor) -> Tensor:
        return -((v @ self.visible_lateral.triu(1)) * v).sum(-1) - v @ self.visible_bias

    def _hidden_energy(self, h: Tensor) -> Tensor:
        return -((h @ self.hidden_lateral.triu(1)) * h).sum(-1) - h @ self.hidden_bias

    def state_energy(self, state: Tensor, beta: Tensor | None = None) -> Tensor:
        """β E of a chain's state, (chains,)."""
        energy = self.energy(*self.split(state))
        return energy if beta is None else beta * energy

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v), (batch,), by enumeration of the hidden states: at most 20 units."""
        v = self._checked(v, "visible", self.visible)
        return self._visible_energy(v) - torch.logsumexp(self._log_hidden(v), dim=-1)

    def hidden_posterior(self, v: Tensor) -> Tensor:
        """p(h | v) of all hidden states, (batch, 2^hidden) in the order of `binary_states`."""
        return torch.softmax(self._log_hidden(self._checked(v, "visible", self.visible)), dim=-1)

    def _log_hidden(self, v: Tensor) -> Tensor:
        h = binary_states(self.hidden, dtype=v.dtype, device=v.device)
        return v @ self.weight @ h.T - self._hidden_energy(h)

    def log_partition(self) -> Tensor:
        """Log Z, a scalar, by enumeration of all states: at most 20 units in either layer."""
        v = binary_states(self.visible, dtype=self.weight.dtype, device=self.weight.device)
        rows = max(1, _ENTRIES >> self.hidden)
        return torch.logsumexp(-torch.cat([self.free_energy(part) for part in torch.split(v, rows)]), dim=0)

    def visible_conditional(self, v: Tensor, h: Tensor) -> Tensor:
        """p(v_i = 1 | all other units), (batch, visible)."""
        return torch.sigmoid(v @ _symmetric(self.visible_lateral) + h @ self.weight.T + self.visible_bias)

    def hidden_conditional(self, v: Tensor, h: Tensor) -> Tensor:
        """p(h_j = 1 | all other units), (batch, hidden)."""
        return torch.sigmoid(h @ _symmetric(self.hidden_lateral) + v @ self.weight + self.hidden_bias)

    @torch.no_grad()
    def gibbs_step(self, state: Tensor, generator: torch.Generator, beta: Tensor | None = None) -> Tensor:
        """Draw all visible, then all hidden units anew, (chains, visible + hidden); see the module."""
        v, h = self.split(state)
        v = _redraw(v, h @ self.weight.T + self.visible_bias, self.visible_lateral, generator, beta)
        return torch.cat([v, self.sample_hidden(v, h, generator, beta)], dim=-1)

    @torch.no_grad()
    def sample_hidden(self, v: Tensor, h: Tensor, generator: torch.Generator, beta: Tensor | None = None) -> Tensor:
        """One step of a chain of hidden states, (batch, hidden), that leaves p(h | v) as it is."""
        return _redraw(h, v @ self.weight + self.hidden_bias, self.hidden_lateral, generator, beta)

    @torch.no_grad()
    def mean_field(self, v: Tensor, *, steps: int = 100, damping: float = 0.5, tolerance: float = 1e-6) -> MeanField:
        """Solve μ_j = σ(c_j + Σ W_ij v_i + Σ S_kj μ_k) by iteration of all units at once (Peterson and Anderson 1987).

        `damping` is the share of the last means that is kept: without it, strong lateral weights make the means swing.
        Iteration ends after `steps`, or when no mean changes by more than `tolerance`.
        """
        if steps < 1 or not 0 <= damping < 1:
            raise ValueError(f"Mean field needs steps >= 1 and 0 <= damping < 1, got {steps}, {damping}")
        v = self._checked(v, "visible", self.visible)
        means = torch.sigmoid(v @ self.weight + self.hidden_bias)
        change = math.inf
        for _ in range(steps):
            difference = self.hidden_conditional(v, means) - means
            change = float(difference.abs().max()) if difference.numel() else 0.0
            means = means + (1 - damping) * difference
            if change <= tolerance:
                break
        return MeanField(means=means, change=change)

    def mean_field_bound(self, v: Tensor, means: Tensor) -> Tensor:
        """Lower bound of log p(v) + log Z by independent hidden units of these means, (batch,)."""
        entropy: Tensor = torch.special.entr(means) + torch.special.entr(1 - means)
        return entropy.sum(-1) - self.energy(v, means)

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers of visible and of hidden units."""
        return self.visible, self.hidden

    def mean_hidden(self, state: Tensor) -> Tensor:
        """p(h_j = 1 | all other units) at joined states, (batch, hidden)."""
        return self.hidden_conditional(*self.split(state))

    def activities(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Visible and hidden states, or means, of joined ones."""
        return self.split(state)

    def bias_shifts(self, visible: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """What offsets (visible,), (hidden,) take from the biases, by their names (`harmonium.models.centring`)."""
        return {
            "visible_bias": self.weight @ hidden + _symmetric(self.visible_lateral) @ visible,
            "hidden_bias": visible @ self.weight + _symmetric(self.hidden_lateral) @ hidden,
        }

    @torch.no_grad()
    def statistics(self, state: Tensor) -> Statistics:
        """Sums of -∂E/∂θ over joined states; for means in place of h, its expectation over independent units."""
        v, h = self.split(state)
        sums = {
            "weight": v.T @ h,
            "visible_lateral": (v.T @ v).triu(1),
            "hidden_lateral": (h.T @ h).triu(1),
            "visible_bias": v.sum(0),
            "hidden_bias": h.sum(0),
        }
        return Statistics(count=len(state), sums=sums)


def _symmetric(upper: Tensor) -> Tensor:
    half = upper.triu(1)
    return half + half.T


def _redraw(x: Tensor, a: Tensor, lateral: Tensor, generator: torch.Generator, beta: Tensor | None) -> Tensor:
    """A layer of states x (batch, n) drawn anew, given its input a from outside, by way of Gaussian units."""
    inverse = x.new_ones(()) if beta is None else beta.unsqueeze(-1)
    root, shift = _root(lateral)
    scaled = inverse.sqrt()
    noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    z = scaled * (x @ root) + noise
    p = torch.sigmoid(inverse * (a - shift / 2) + scaled * (z @ root.T))
    return torch.bernoulli(p, generator=generator)


def _root(lateral: Tensor) -> tuple[Tensor, Tensor]:
    """A and δ with A Aᵀ = R + δ I and the least δ."""
    if not lateral.numel():
        return lateral, lateral.new_zeros(())
    values, vectors = torch.linalg.eigh(_symmetric(lateral))
    # An empty diagonal has eigenvalues of sum zero: the least is not above zero, but for rounding.
    shift = (-values[0]).clamp(min=0)
    return vectors * (values + shift).clamp(min=0).sqrt(), shift
