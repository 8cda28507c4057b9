r"""Markov chains with finitely many states, and the questions that decide whether one can be sampled from.

        0.9                          P_ij = p(x_t+1 = j | x_t = i), rows sum to one
       ┌──┐  0.1                     p_t  = p_0 Pᵗ
       └─ a ────→ b ─┐               π    = π P                   (stationary)
          ↑       │  │ 0.5           π_i P_ij = π_j P_ji          (detailed balance, from which the former follows)
          └───────┘←─┘
             0.5

A chain is *irreducible* if every state leads to every other, has the *period* k if it can return to a state only after
multiples of k steps, and is *ergodic* if it is irreducible and of period 1: then p_t tends to π from every p_0 (Norris
1997, theorems 1.7.7 and 1.8.3).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MarkovChain:
    """A Markov chain, by its transition matrix."""

    transition: Tensor
    """P, (states, states): row i is the distribution of the state that follows state i."""

    def __post_init__(self) -> None:
        p = self.transition
        if not p.is_floating_point():
            raise TypeError(f"The transition matrix must be of a floating dtype, got {p.dtype}; convert it with .to()")
        if p.ndim != 2 or p.shape[0] != p.shape[1] or not len(p):
            raise ValueError(f"The transition matrix must be (states, states), got {tuple(p.shape)}")
        _check_distributions("Row", p)

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.transition)

    @property
    def _edges(self) -> csr_array:
        return csr_array(self.transition.detach().cpu().numpy() > 0)

    def _to_device(self, per_state: NDArray[np.integer[Any]]) -> Tensor:
        return torch.as_tensor(per_state, dtype=torch.long, device=self.transition.device)

    def distribution_after(self, initial: Tensor, steps: int) -> Tensor:
        """p_0 Pᵗ, (batch, states), for initial distributions (batch, states)."""
        if steps < 0:
            raise ValueError(f"A chain goes forward: steps must be 0 or more, got {steps}")
        if initial.ndim != 2 or initial.shape[1] != self.states:
            raise ValueError(f"Initial distributions must be (batch, {self.states}), got {tuple(initial.shape)}")
        _check_distributions("Initial distribution", initial)
        power: Tensor = torch.linalg.matrix_power(self.transition, steps)
        return initial @ power

    def classes(self) -> Tensor:
        """Number of each state's communicating class: states that lead to each other; (states,)."""
        return self._to_device(self._classes())

    def _classes(self) -> NDArray[np.int32]:
        labels: NDArray[np.int32] = connected_components(self._edges, directed=True, connection="strong")[1]
        return labels

    def closed_classes(self) -> list[list[int]]:
        """The classes that no transition leaves, as lists of their states; every chain has one or more."""
        labels = self._classes()
        source, target = self._edges.nonzero()
        left = np.unique(labels[source[labels[source] != labels[target]]])
        return [np.flatnonzero(labels == k).tolist() for k in np.setdiff1d(labels, left)]

    def is_irreducible(self) -> bool:
        """Whether every state leads to every other."""
        return not self._classes().any()

    def periods(self) -> Tensor:
        """Greatest common divisor of the lengths of each state's ways back to itself, 0 if there is none; (states,).

        Along any edge i → j within a class, distance(i) + 1 - distance(j), the distances counted from one state of that
        class, is a multiple of its period, and these numbers have no greater common divisor (Denardo 1977).
        """
        labels = self._classes()
        source, target = self._edges.nonzero()
        within = labels[source] == labels[target]
        source, target = source[within], target[within]
        distance = _distances(source, target, np.unique(labels, return_index=True)[1], self.states)
        surplus = np.abs(distance[source] + 1 - distance[target])
        of_class = np.zeros(labels.max() + 1, dtype=np.int64)
        np.gcd.at(of_class, labels[source], surplus)
        return self._to_device(of_class[labels])

    def is_aperiodic(self) -> bool:
        """Whether every state has the period 1."""
        return bool((self.periods() == 1).all())

    def is_ergodic(self) -> bool:
        """Whether p_t tends to one π with π_i > 0 from everywhere: irreducible and aperiodic."""
        return self.is_irreducible() and self.is_aperiodic()

    def stationary(self) -> Tensor:
        """The stationary distribution π, (states,). For a periodic chain it is what p_t is on average over a period.

        Raises
        ------
        ValueError
            If there are several: with more than one closed class, π depends on where the chain starts.
        """
        closed = self.closed_classes()
        if len(closed) > 1:
            raise ValueError(
                f"The stationary distribution is unique with 1 closed class, got {len(closed)}: the states {closed[0]} "
                f"and {closed[1]} never meet; split the chain, or use distribution_after"
            )
        # With E all ones, π (I - P + E) is a row of ones, and the matrix is regular if there is but one π.
        p = self.transition
        system = torch.eye(self.states, dtype=p.dtype, device=p.device) - p + 1
        pi: Tensor = torch.linalg.solve(system.T, torch.ones_like(p[0]))
        return pi.clamp(min=0) / pi.clamp(min=0).sum()

    def has_detailed_balance(self, distribution: Tensor | None = None, tolerance: float | None = None) -> bool:
        """Whether π_i P_ij = π_j P_ji for all pairs of states.

        Parameters
        ----------
        distribution
            π, (states,); the stationary one if not given.
        tolerance
            Largest difference that counts as none; rounding of the dtype if not given.
        """
        pi = self.stationary() if distribution is None else distribution
        if pi.shape != (self.states,):
            raise ValueError(f"The distribution must be ({self.states},), got {tuple(pi.shape)}")
        flow = pi[:, None] * self.transition
        limit = 64 * torch.finfo(flow.dtype).eps if tolerance is None else tolerance
        return bool((flow - flow.T).abs().max() <= limit)

    def sample(self, initial: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Paths (chains, steps + 1) of states, int64, from the initial states (chains,)."""
        if initial.ndim != 1 or initial.dtype != torch.long:
            raise ValueError(f"Initial states must be (chains,) int64, got {tuple(initial.shape)} {initial.dtype}")
        if bool(((initial < 0) | (initial >= self.states)).any()):
            raise ValueError(f"States are 0 to {self.states - 1}, got {int(initial.min())} to {int(initial.max())}")
        path = [initial]
        for _ in range(steps):
            path.append(torch.multinomial(self.transition[path[-1]], 1, generator=generator).squeeze(1))
        return torch.stack(path, dim=1)


def _check_distributions(name: str, rows: Tensor) -> None:
    """Raise unless every row is finite, not negative, and sums to one up to rounding."""
    # NaN compares false, infinity has no sum of one.
    bad = ~(rows >= 0).all(1) | ~((rows.sum(1) - 1).abs() <= torch.finfo(rows.dtype).eps * (rows.shape[1] + 8))
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"{name} {first} must be a distribution, not negative and of sum 1, got the least value "
            f"{float(rows[first].min()):g} and the sum {float(rows[first].sum()):.9g}; divide rows by their sums"
        )


def _distances(
    source: NDArray[np.int32], target: NDArray[np.int32], roots: NDArray[np.int64], states: int
) -> NDArray[np.int64]:
    """Edges on the shortest way from the root of each state's class to it, (states,)."""
    # One search for all classes: it starts at an extra node with an edge to every root.
    rows = np.concatenate([source, np.full(len(roots), states)])
    columns = np.concatenate([target, roots])
    graph = csr_array((np.ones(len(rows)), (rows, columns)), shape=(states + 1, states + 1))
    distance: NDArray[np.float64] = dijkstra(graph, indices=states, unweighted=True)
    return distance[:states].astype(np.int64) - 1
