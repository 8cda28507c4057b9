"""Learning rules on bars and stripes, measured by the exact likelihood, for the figures of docs/guide."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harmonium.models.boltzmann_machine import binary_states
from harmonium.models.centring import Activities, Offsets, centre_gradient
from harmonium.models.energy_model import set_gradient, update
from harmonium.models.layer_chain import LayerChain
from harmonium.models.partition_function import exact_log_partition
from harmonium.models.persistent_chains import PersistentChains
from harmonium.models.rbm import RBM
from harmonium.models.tempering import TemperedChains
from harmonium.models.units import Bernoulli

STEPS = 6000
_SIDE = 4
_HIDDEN = 16
_EVERY = 100
_RATE = 0.1
_CHAINS_PER_IMAGE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Where negative particles come from, and whether gradients are centred."""

    k: int = 1
    """Gibbs steps for each update."""

    persistent: bool = False
    """Whether chains go on from update to update."""

    temperatures: int = 1
    """Inverse temperatures from 1 to 0; 1 does not temper."""

    centred: bool = False
    """Whether gradients are centred at running means."""


RULES = {
    "CD-1": Rule(),
    "CD-10": Rule(k=10),
    "PCD": Rule(persistent=True),
    "tempering": Rule(persistent=True, temperatures=10),
    "tempering, centred": Rule(persistent=True, temperatures=10, centred=True),
}


def bars_and_stripes(side: int) -> Tensor:
    """Images in which whole rows or whole columns are on, (2 · 2^side, side²): all on and all off are there twice."""
    lines = binary_states(side)
    return torch.cat([lines.repeat_interleave(side, 1), lines.repeat(1, side)])


def best_possible() -> float:
    """Mean log-likelihood of a model that has the data's own frequencies."""
    _, counts = np.unique(bars_and_stripes(_SIDE), axis=0, return_counts=True)
    share = counts / counts.sum()
    return float((share * np.log(share)).sum())


def _training(rule: Rule, seed: int) -> Iterator[RBM]:
    """The machine before the first update and after each."""
    data, generator = bars_and_stripes(_SIDE), torch.Generator().manual_seed(seed)
    rbm = RBM(Bernoulli(size=_SIDE**2), Bernoulli(size=_HIDDEN)).initialise(generator)
    particles = data.repeat(_CHAINS_PER_IMAGE, 1)
    chains: PersistentChains | TemperedChains = PersistentChains(particles=particles)
    if rule.temperatures > 1:
        hottest = rule.temperatures - 1
        chains = TemperedChains.start(particles, [index / hottest for index in range(hottest, -1, -1)])
    optimiser = torch.optim.SGD(rbm.parameters(), lr=_RATE)
    offsets = Offsets.start(Activities.of(rbm, data))
    for step in range(STEPS):
        yield rbm
        advanced = chains.advance(rbm, generator, rule.k)
        set_gradient(rbm, rbm.statistics(data), rbm.statistics(advanced.particles))
        if rule.centred:
            offsets = offsets.slide(Activities.of(rbm, data), 0.01)
            centre_gradient(rbm, offsets)
        update(rbm, optimiser, step)
        chains = advanced if rule.persistent else chains
    yield rbm


def likelihoods(rule: Rule, seed: int) -> list[float]:
    """Exact mean log-likelihood in nats before the first update and after every 100th."""
    data = bars_and_stripes(_SIDE)
    found = []
    for step, rbm in enumerate(_training(rule, seed)):
        if step % _EVERY == 0:
            with torch.no_grad():
                log_z = float(exact_log_partition(LayerChain.of_rbm(rbm)))
                found.append(float(-rbm.free_energy(data).mean()) - log_z)
    return found


def trained(rule: Rule, seed: int) -> RBM:
    """The machine at the end."""
    *_, rbm = _training(rule, seed)
    return rbm
