r"""The Hopfield network: an associative memory of units s_i = ±1, each coupled to every other.

        s_1 ──── s_2         E(s) = -1/2 sᵀ W s + θᵀ s           (Hopfield 1982; W symmetric, w_ii = 0)
         │ \   /  │          f    = W s - θ                      (field)
         │   X    │          s_i ← sgn(f_i), and stays where f_i = 0
         │ /   \  │          turning unit i changes E by 2 s_i f_i
        s_3 ──── s_4

Asynchronous updates turn one unit at a time, and only against its field: E falls with every turn, so that the state
comes to rest. Synchronous updates turn all such units at once; with symmetric W the state comes to rest or ends in a
cycle of two states (Goles-Chacc, Fogelman-Soulie and Pellegrin 1985).

    Hebbian          W = Ξᵀ Ξ / n, the diagonal removed           (Hopfield 1982)
    pseudo-inverse   W = Ξ⁺ Ξ, the diagonal removed               (Personnaz, Guyon and Dreyfus 1985)

Ξ (patterns, n) holds the patterns to be remembered. Hebb's rule recalls up to about 0.138 n random patterns, with some
units wrong (Amit, Gutfreund and Sompolinsky 1985); the pseudo-inverse keeps every pattern, also those that
resemble each other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hopfield:
    """A Hopfield network of n units. States are (batch, n) of ±1 in the network's dtype, on its device."""

    weight: Tensor
    """W, (n, n), symmetric with a zero diagonal."""

    threshold: Tensor
    """θ, (n,): unit i turns to +1 where the others add up to more."""

    def __post_init__(self) -> None:
        for name, value in (("weight", self.weight), ("threshold", self.threshold)):
            if not value.is_floating_point():
                raise TypeError(f"{name} must be of a floating dtype, got {value.dtype}; convert it with .to()")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"{name} must be finite, got {int((~torch.isfinite(value)).sum())} values that are not"
                )
        n = len(self.threshold) if self.threshold.ndim == 1 else 0
        if not n or self.weight.shape != (n, n):
            raise ValueError(
                f"A network of n units needs weight (n, n) and threshold (n,), got {tuple(self.weight.shape)} "
                f"and {tuple(self.threshold.shape)}"
            )
        if not torch.equal(self.weight, self.weight.T) or bool(self.weight.diagonal().any()):
            raise ValueError(
                "weight must be symmetric with a zero diagonal, or the energy could rise; "
                f"got |W - Wᵀ| up to {float((self.weight - self.weight.T).abs().max()):g} "
                f"and |w_ii| up to {float(self.weight.diagonal().abs().max()):g}"
            )

    @property
    def units(self) -> int:
        """Number of units n."""
        return len(self.threshold)

    def energy(self, states: Tensor) -> Tensor:
        """E(s), (batch,)."""
        _check_states("States", states, self.weight)
        return -0.5 * ((states @ self.weight) * states).sum(1) + states @ self.threshold

    def field(self, states: Tensor) -> Tensor:
        """W s - θ, (batch, n); exactly zero where it is zero to rounding, so that ties are ties in any dtype."""
        f = states @ self.weight - self.threshold
        rounding = torch.finfo(f.dtype).eps * (self.weight.abs().sum(0) + self.threshold.abs())
        return torch.where(f.abs() > 4 * rounding, f, 0)

    def unstable(self, states: Tensor) -> Tensor:
        """Mask of the units that their field would turn, (batch, n)."""
        _check_states("States", states, self.weight)
        return states * self.field(states) < 0

    def is_fixed(self, states: Tensor) -> Tensor:
        """Whether no unit would turn, (batch,)."""
        return ~self.unstable(states).any(1)


def hebbian(patterns: Tensor) -> Hopfield:
    """A network that remembers patterns (patterns, n) of ±1 by Hebb's rule."""
    _check_states("Patterns", patterns)
    return _network(patterns.T @ patterns / patterns.shape[1])


def pseudo_inverse(patterns: Tensor) -> Hopfield:
    """A network that remembers patterns (patterns, n) of ±1 by projection on their span.

    Every pattern is a fixed point, however much they resemble each other, except where the patterns leave a unit
    undetermined: its weights are then zero, and it keeps any state.
    """
    _check_states("Patterns", patterns)
    # V Vᵀ over an orthonormal basis of the span; rounding in Ξ⁺ Ξ grows with Ξ's condition.
    dtype = torch.promote_types(patterns.dtype, torch.float32)
    rounding = 8 * torch.finfo(dtype).eps * max(patterns.shape)
    _, scale, basis = torch.linalg.svd(patterns.to(dtype), full_matrices=False)
    basis = basis[scale > rounding * scale[0]]
    projection = basis.T @ basis
    # Where the span holds a unit's own axis, what is left of its row and column is rounding.
    determined = 1 - projection.diagonal() > rounding
    return _network((projection * (determined & determined[:, None])).to(patterns.dtype))


def _network(weight: Tensor) -> Hopfield:
    symmetric = (weight + weight.T) / 2
    return Hopfield(weight=symmetric.fill_diagonal_(0), threshold=torch.zeros_like(weight[0]))


def asynchronous_step(network: Hopfield, states: Tensor, generator: torch.Generator) -> Tensor:
    """In every state, turn one unit, drawn from those that their field would turn; (batch, n). Fixed points stay.

    This is updating the units one by one in random order, with the updates left out that change nothing: from a given
    state, every unit that can turn has the same chance to come first.
    """
    return _turn_one(states, network.unstable(states), generator)


def synchronous_step(network: Hopfield, states: Tensor) -> Tensor:
    """Turn all units that their field would turn, (batch, n)."""
    return torch.where(network.unstable(states), -states, states)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recall:
    """Where states came to after some updates."""

    states: Tensor
    """(batch, n); of a cycle, one of its two states."""

    steps: Tensor
    """Updates until the state came to rest, entered its cycle, or was given up, (batch,) int64."""

    fixed: Tensor
    """Whether the state is at rest, (batch,)."""

    cycling: Tensor
    """Whether the state and its successor follow each other for ever, (batch,); never after asynchronous updates."""


def recall_asynchronous(
    network: Hopfield, states: Tensor, generator: torch.Generator, max_steps: int | None = None
) -> Recall:
    """Turn one unit at a time, in all states of a batch side by side, until all are at rest.

    Parameters
    ----------
    network
        What remembers.
    states
        Damaged patterns, (batch, n).
    generator
        Source of the order, on the states' device.
    max_steps
        Most turns in one state; 20 n if not given, which is far more than recall of a damaged pattern takes.
    """
    steps = torch.zeros(len(states), dtype=torch.long, device=states.device)
    unstable = network.unstable(states)
    for _ in range(20 * network.units if max_steps is None else max_steps):
        moving = unstable.any(1)
        if not bool(moving.any()):
            break
        steps += moving
        states = _turn_one(states, unstable, generator)
        unstable = network.unstable(states)
    fixed = ~unstable.any(1)
    return Recall(states=states, steps=steps, fixed=fixed, cycling=torch.zeros_like(fixed))


def recall_synchronous(network: Hopfield, states: Tensor, max_steps: int = 1000) -> Recall:
    """Turn all units at once until every state is at rest or goes to and fro between two states.

    Parameters
    ----------
    network
        What remembers.
    states
        Damaged patterns, (batch, n).
    max_steps
        Most updates.
    """
    steps = torch.zeros(len(states), dtype=torch.long, device=states.device)
    following = synchronous_step(network, states)
    fixed = cycling = torch.zeros_like(steps, dtype=torch.bool)
    for step in range(max_steps + 1):
        after_next = synchronous_step(network, following)
        fixed = (following == states).all(1)
        cycling = (after_next == states).all(1) & ~fixed
        moving = ~(fixed | cycling)
        if step == max_steps or not bool(moving.any()):
            break
        steps += moving
        states = torch.where(moving[:, None], following, states)
        following = torch.where(moving[:, None], after_next, following)
    return Recall(states=states, steps=steps, fixed=fixed, cycling=cycling)


def overlap(states: Tensor, patterns: Tensor) -> Tensor:
    """Mean product of states (batch, n) with each of the patterns (patterns, n): 1 is equal; (batch, patterns)."""
    return states @ patterns.T / patterns.shape[1]


def damage(states: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """States with a random `share` of their units turned, the same number in each; (batch, n)."""
    if not 0 <= share <= 1:
        raise ValueError(f"The share of damaged units must be within 0 and 1, got {share}")
    order = torch.rand(states.shape, generator=generator, device=states.device).argsort(1)
    return torch.where(order < round(share * states.shape[1]), -states, states)


def _turn_one(states: Tensor, unstable: Tensor, generator: torch.Generator) -> Tensor:
    # Uniform among the candidates: the largest of independent numbers, of which the others' are below all.
    chance = torch.rand(states.shape, generator=generator, device=states.device)
    unit = torch.where(unstable, chance, -1.0).argmax(1, keepdim=True)
    turned = torch.where(unstable.gather(1, unit), -states.gather(1, unit), states.gather(1, unit))
    return states.scatter(1, unit, turned)


def _check_states(name: str, states: Tensor, like: Tensor | None = None) -> None:
    if not states.is_floating_point() or (like is not None and states.dtype != like.dtype):
        expected = "of a floating dtype" if like is None else f"{like.dtype} like the weights"
        raise TypeError(f"{name} must be {expected}, got {states.dtype}; convert them with .to()")
    if states.ndim != 2 or not states.numel() or (like is not None and states.shape[1] != len(like)):
        raise ValueError(
            f"{name} must be (batch, {'n' if like is None else len(like)}) and not empty, got {tuple(states.shape)}"
        )
    if not bool((states.abs() == 1).all()):
        raise ValueError(f"{name} must be -1 or +1; make them of bits by 2 * bits - 1")
