"""Small machines of several layers, and sums over all their states."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from harmonium.models.dbm import DBM, statistics
from harmonium.models.energy_model import Statistics
from harmonium.models.layer_chain import LayerChain, States
from harmonium.models.partition_function import exact_log_partition
from harmonium.models.rbm import RBM
from harmonium.models.tensor_rbm import CP, FactoredWeight, WeightForm
from harmonium.models.units import Bernoulli, Gaussian, Units

from .enumeration import binary, randomise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def machine(
    sizes: Sequence[int],
    seed: int = 0,
    scale: float = 0.7,
    visible: Units | None = None,
    first: FactoredWeight | None = None,
) -> DBM:
    dbm = DBM(visible or Bernoulli(size=sizes[0]), [Bernoulli(size=size) for size in sizes[1:]], first).double()
    randomise(dbm, seed, scale)
    return dbm


def stack_of(layers: Sequence[Units], scale: float) -> list[RBM]:
    """RBMs that share layers, with parameters of their own each."""
    stack = [RBM(below, above).double() for below, above in pairwise(layers)]
    for seed, rbm in enumerate(stack):
        randomise(rbm, seed, scale)
    return stack


def all_states(sizes: Sequence[int]) -> States:
    """Every state of some binary layers together, each (states, size)."""
    return binary(sum(sizes)).split(list(sizes), 1)  # type: ignore[no-untyped-call, no-any-return]


def sizes_of(dbm: DBM) -> list[int]:
    return [units.size for units in dbm.units]


def some_data(size: int, count: int = 6) -> Tensor:
    return (torch.rand(count, size, generator=generator(5)) < 0.4).double()


def expanded(weight: FactoredWeight) -> Tensor:
    """The weight by the formula of its form, (product of modes, hidden)."""
    return expanded_by(weight.form, dict(weight.items()))


def expanded_by(form: WeightForm, factors: dict[str, Tensor]) -> Tensor:
    modes = [factors[name] for name in sorted(factors) if name.startswith("mode_")]
    letters = "abcdef"[: len(modes)]
    if isinstance(form, CP):
        rule = ",".join(f"{letter}z" for letter in letters) + f",hz->{letters}h"
        found = torch.einsum(rule, *modes, factors["hidden"])
    else:
        rule = ",".join(f"{letter}{letter.upper()}" for letter in letters)
        rule = f"{rule},hH,{letters.upper()}H->{letters}h"
        found = torch.einsum(rule, *modes, factors["hidden"], factors["core"])
    return found.flatten(0, -2)


# --- sums over states ------------------------------------------------------------------------------------------------


def log_joint(dbm: DBM, v: Tensor) -> tuple[States, Tensor]:
    """All hidden states, and -E(v, h) for every row of v and each of them, (batch, hidden states)."""
    hidden = all_states(sizes_of(dbm)[1:])
    return hidden, torch.stack([-dbm.energy(row.expand(len(hidden[0]), *row.shape), hidden) for row in v])


def log_likelihood(dbm: DBM, v: Tensor) -> Tensor:
    """Exact log p(v), (batch,), with log Z from the sum over all states where v is binary."""
    if isinstance(dbm.units[0], Gaussian):
        return torch.logsumexp(log_joint(dbm, v)[1], 1) - exact_log_partition(dbm.chain())
    return torch.logsumexp(log_joint(dbm, v)[1], 1) - log_sum_by_energies(dbm.chain())


def log_sum_by_energies(chain: LayerChain) -> Tensor:
    """Log Z of binary layers from nothing but the energy of every state of all of them together."""
    return torch.logsumexp(-chain.energy(all_states([units.size for units in chain.units])), 0)


def expectation(chain: LayerChain, states: Sequence[Tensor], p: Tensor) -> Statistics:
    """Exact mean of the statistics over states with probabilities p, of count 1."""
    sums: dict[str, Tensor] = {}
    for row in range(len(p)):
        one = statistics(chain, [x[row : row + 1] for x in states])
        for name, value in one.sums.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + p[row] * value
    return Statistics(count=1, sums=sums)


@torch.no_grad()
def exact_phases(dbm: DBM, v: Tensor) -> tuple[Statistics, Statistics]:
    """Both phases of the gradient, by enumeration; v as the machine takes it."""
    chain = dbm.chain()
    hidden, log_f = log_joint(dbm, v)
    phases = [
        expectation(chain, (row.expand(len(hidden[0]), -1), *hidden), torch.softmax(own, 0))
        for row, own in zip(dbm.rows(v), log_f, strict=True)
    ]
    positive = phases[0]
    for phase in phases[1:]:
        positive = positive.merge(phase)
    return positive, negative_phase(chain)


def negative_phase(chain: LayerChain) -> Statistics:
    """Exact mean over the model."""
    sizes = [units.size for units in chain.units]
    if not isinstance(chain.units[0], Gaussian):
        layers = all_states(sizes)
        return expectation(chain, layers, torch.softmax(-chain.energy(layers), 0))
    hidden = all_states(sizes[1:])
    own = chain.parameters[0]
    mean = hidden[0] @ chain.weights[0].T + own["bias"]
    # Statistics are at most quadratic in each real unit: two points with its mean and variance do for the normal.
    root = (0.5 * own["log_variance"]).exp()
    centre = chain.energy((mean, *hidden))
    v, twice = torch.cat([mean - root, mean + root]), tuple(torch.cat([h, h]) for h in hidden)
    return expectation(chain, (v, *twice), torch.softmax(-centre, 0).repeat(2) / 2)
