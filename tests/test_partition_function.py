"""Partition functions against sums over all states, annealing against exact transition matrices."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harmonium.models.annealing_path import Path, base_rates, temperatures
from harmonium.models.dbm import DBM, mean_field
from harmonium.models.layer_chain import LayerChain
from harmonium.models.partition_function import (
    ais,
    exact_log_partition,
    log_sum_over_states,
    mean_log_likelihood,
    raise_log_likelihood,
    reverse_ais,
)
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, LimitedState, RectifiedGaussian, Units

from .deep_machines import generator, log_sum_by_energies, machine, stack_of
from .enumeration import binary

# For tensors this small, threads that wait for each other cost more than they gain.
pytestmark = pytest.mark.usefixtures("one_thread")


def path_of(chain: LayerChain, parity: int = 0, data: Tensor | None = None) -> Path:
    return Path(chain=chain, base=base_rates(chain, data), parity=parity)


# --- exact -----------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4).filter(lambda s: sum(s) <= 12), seed=st.integers(0, 99)
)
@torch.no_grad()
def test_exact_log_partition_is_the_sum_over_all_states(sizes: list[int], seed: int) -> None:
    chain = machine(tuple(sizes), seed).chain()
    assert float(exact_log_partition(chain)) == pytest.approx(float(log_sum_by_energies(chain)), abs=1e-10)


@torch.no_grad()
def test_exact_log_partition_in_many_batches() -> None:
    chain = machine((18, 17), scale=0.3).chain()
    # The other half has 2^18 states: another sum, batched another way.
    other = log_sum_over_states(lambda x: chain.log_unnormalised(0, (x,)), 18)
    assert float(exact_log_partition(chain)) == pytest.approx(float(other), abs=1e-9)


@torch.no_grad()
def test_exact_log_partition_over_real_units() -> None:
    (rbm,) = stack_of([Gaussian(size=1), Bernoulli(size=3)], 0.5)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    integral = torch.logsumexp(
        torch.from_numpy(np.log(14 * weights)) - rbm.free_energy(torch.from_numpy(14 * nodes)[:, None]), 0
    )
    assert float(exact_log_partition(LayerChain.of_rbm(rbm))) == pytest.approx(float(integral), abs=1e-9)


@torch.no_grad()
def test_exact_log_partition_of_states_that_are_more_than_two() -> None:
    rbm = RBM(LimitedState(size=2, states=3), Bernoulli(size=4)).double().initialise(generator(), 0.7)
    v = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=2)), dtype=torch.float64)
    total = torch.logsumexp(-rbm.free_energy(v), 0)
    assert float(exact_log_partition(LayerChain.of_rbm(rbm))) == pytest.approx(float(total), abs=1e-10)


def test_gradient_of_the_exact_log_partition_is_the_models_mean() -> None:
    dbm = machine((4, 3))
    (gradient,) = torch.autograd.grad(exact_log_partition(dbm.chain()), dbm.weights[0])
    with torch.no_grad():
        states = binary(7)
        v, h = states[:, :4], states[:, 4:]
        p = torch.softmax(-dbm.energy(v, (h,)), 0)
    torch.testing.assert_close(gradient, (v * p[:, None]).T @ h, rtol=0, atol=1e-10)


@torch.no_grad()
def test_likelihoods_of_all_states_sum_to_one() -> None:
    chain = machine((6, 4)).chain()
    log_z = float(exact_log_partition(chain))
    p = [math.exp(mean_log_likelihood(chain, v[None], log_z)) for v in binary(6)]
    assert sum(p) == pytest.approx(1.0, abs=1e-10)


def test_what_cannot_be_enumerated_says_so() -> None:
    with pytest.raises(ValueError, match="1 to 30 binary units can be enumerated, got 784"):
        exact_log_partition(DBM(Bernoulli(size=784), [Bernoulli(size=800)]).chain())
    with pytest.raises(ValueError, match="needs a half of Bernoulli layers, got Gaussian, RectifiedGaussian"):
        exact_log_partition(LayerChain.of_rbm(RBM(Gaussian(size=2), RectifiedGaussian(size=2))))
    with pytest.raises(ValueError, match="closed form for 2 layers, got 3"):
        mean_log_likelihood(machine((2, 2, 2)).chain(), torch.zeros(1, 2), 0.0)


# --- the path --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "geometric", "piecewise"])
def test_temperatures_rise_from_zero_to_one(schedule: str) -> None:
    betas = temperatures(29, schedule)  # type: ignore[arg-type]
    assert betas[0] == 0
    assert betas[-1] == 1
    assert len(betas) == 30
    assert all(low < high for low, high in itertools.pairwise(betas))
    if schedule == "piecewise":
        np.testing.assert_allclose([betas[1], betas[9]], [0.5, 0.9], atol=1e-12)


@pytest.mark.parametrize("betas", [[0.0], [0.0, 0.5], [0.1, 1.0], [0.0, 0.7, 0.6, 1.0]], ids=str)
def test_temperatures_out_of_range_are_refused(betas: list[float]) -> None:
    with pytest.raises(ValueError, match="must rise from 0 to 1"):
        ais(path_of(machine((3, 2)).chain()), betas, 2, generator())


@torch.no_grad()
def test_the_path_starts_with_base_rates_and_ends_with_the_machine() -> None:
    chain, data = machine((4, 3)).chain(), (torch.rand(5000, 4, generator=generator()) < 0.3).double()
    path = path_of(chain, data=data)
    assert path.log_base_partition() == pytest.approx(float(log_sum_by_energies(path.at(0.0))), abs=1e-10)
    assert float(log_sum_by_energies(path.at(1.0))) == pytest.approx(float(log_sum_by_energies(chain)), abs=1e-12)
    drawn = path.at(0.0).independent(20_000, generator(1))
    np.testing.assert_allclose(drawn[0].mean(0), data.mean(0), atol=0.02)
    np.testing.assert_allclose(drawn[1].mean(0), 0.5, atol=0.02)


# --- annealed importance sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parity", [0, 1])
@torch.no_grad()
def test_ais_lies_within_its_error_bar_for_twenty_hidden_units(parity: int) -> None:
    chain = machine((30, 20)).chain()
    exact = float(exact_log_partition(chain))
    estimate = ais(path_of(chain, parity), temperatures(1000), 200, generator(1))
    assert estimate.standard_error < 0.02
    assert abs(estimate.value - exact) < 3 * estimate.standard_error
    assert estimate.interval[0] < exact < estimate.interval[1]
    assert estimate.effective_chains > 150


@torch.no_grad()
def test_float32_loses_less_than_the_error_bar() -> None:
    dbm = machine((30, 20))
    exact = float(exact_log_partition(dbm.chain()))
    estimate = ais(path_of(dbm.float().chain()), temperatures(1000), 200, generator(2))
    assert abs(estimate.value - exact) < 3 * estimate.standard_error < 0.06


@pytest.mark.parametrize(
    "visible", [Gaussian(size=6), LimitedState(size=6, states=4, spacing=0.8)], ids=lambda units: type(units).__name__
)
@torch.no_grad()
def test_ais_of_other_visible_units(visible: Units) -> None:
    (rbm,) = stack_of([visible, Bernoulli(size=8)], 0.4)
    chain = LayerChain.of_rbm(rbm)
    data = torch.randn(50, 6, dtype=torch.float64, generator=generator())
    for parity in (0, 1):
        estimate = ais(path_of(chain, parity, data), temperatures(300), 400, generator(1))
        assert abs(estimate.value - float(exact_log_partition(chain))) < 3.5 * estimate.standard_error < 0.1


@torch.no_grad()
def test_ais_of_deep_machines() -> None:
    for sizes in ((8, 7, 5), (6, 6, 5, 4)):
        chain = machine(sizes).chain()
        estimate = ais(path_of(chain, 1), temperatures(500), 300, generator(3))
        assert abs(estimate.value - float(exact_log_partition(chain))) < 3 * estimate.standard_error < 0.1


def is_unbiased(log_w: Tensor, expected: float) -> bool:
    """Whether weights average to exp(expected), by their own spread."""
    w = torch.exp(log_w - expected)
    return abs(float(w.mean()) - 1) < 4 * float(w.std()) / math.sqrt(len(w))


@torch.no_grad()
def test_few_temperatures_leave_the_weights_unbiased_and_a_wrong_path_does_not() -> None:
    """With 5 temperatures, log w itself is far off; only its exponential averages to Z / Z_0."""
    chain = machine((5, 4), scale=1.0).chain()
    path, betas = path_of(chain), temperatures(5)
    exact = float(exact_log_partition(chain)) - path.log_base_partition()
    right = ais(path, betas, 20_000, generator())
    assert is_unbiased(right.log_weights, exact)
    assert float(right.log_weights.mean()) < exact - 0.05
    states = chain.independent(20_000, generator(1))
    noise = generator(2)
    for _ in range(50):
        states = chain.gibbs_step(states, noise)
    reverse = reverse_ais(path, betas, states[:1], generator(3))
    assert is_unbiased(reverse.log_weights, -exact)
    assert -float(reverse.log_weights.mean()) > exact + 0.05
    # Chains that do not start with samples of the model.
    wrong = reverse_ais(path, betas, path.at(0.0).independent(20_000, generator())[:1], generator())
    assert not is_unbiased(wrong.log_weights, -exact)


@torch.no_grad()
def test_the_two_directions_close_in_on_log_z() -> None:
    chain = machine((12, 10), scale=1.0).chain()
    exact, path = float(exact_log_partition(chain)), path_of(chain)
    states = chain.independent(500, generator())
    for _ in range(300):
        states = chain.gibbs_step(states, generator(1))
    gaps = []
    for count in (5, 50, 500):
        below = float(ais(path, temperatures(count), 500, generator(2)).log_weights.mean())
        above = -float(reverse_ais(path, temperatures(count), states[:1], generator(3)).log_weights.mean())
        assert below < exact - path.log_base_partition() < above
        gaps.append(above - below)
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2]


# --- RAISE -----------------------------------------------------------------------------------------------------------


def transition(chain: LayerChain, path: Path, beta: float) -> Tensor:
    """The matrix p(v' | v) of a Gibbs step at an inverse temperature, over all visible states."""
    annealed = path.at(beta)
    v, h = (binary(units.size) for units in chain.units)
    pairs = -torch.stack([annealed.energy((v, row.expand(len(v), -1))) for row in h], 1)
    return torch.softmax(pairs, 1) @ torch.softmax(pairs, 0).T


@torch.no_grad()
def test_raise_is_unbiased_for_the_annealing_sampler_and_below_the_likelihood() -> None:
    chain = machine((4, 3), scale=2.0).chain()
    path, betas, v = path_of(chain), temperatures(4), binary(4)
    sampler = torch.softmax(path.at(0.0).log_unnormalised(0, (v,)), 0)
    for beta in betas[1:]:
        sampler = sampler @ transition(chain, path, beta)
    exact = chain.log_unnormalised(0, (v,)) - exact_log_partition(chain)
    chains = 4000
    single = raise_log_likelihood(path, betas, v.repeat_interleave(chains, 0), 1, generator())
    w = (single.reshape(len(v), chains) - sampler.log()[:, None]).exp()
    z = (w.mean(1) - 1) / (w.std(1) / math.sqrt(chains))
    assert float(z.abs().max()) < 4
    # The test has the power to tell the sampler's probabilities from the machine's ...
    w = (single.reshape(len(v), chains) - exact[:, None]).exp()
    assert float(((w.mean(1) - 1) / (w.std(1) / math.sqrt(chains))).abs().max()) > 6
    # ... and on average over the machine's own samples, it is conservative.
    bound = single.reshape(len(v), chains).mean(1)
    assert float((exact.exp() * (bound - exact)).sum()) < -0.05


@torch.no_grad()
def test_raise_averages_its_chains_and_tightens() -> None:
    chain, v, repeats = machine((6, 5), scale=1.2).chain(), binary(6), 300
    path = path_of(chain)
    exact = chain.log_unnormalised(0, (v,)) - exact_log_partition(chain)

    def gap(steps: int, chains: int) -> float:
        estimate = raise_log_likelihood(path, temperatures(steps), v.repeat(repeats, 1), chains, generator())
        return float((exact.exp() * (exact - estimate.reshape(repeats, -1).mean(0))).sum())

    gaps = [gap(3, 1), gap(3, 8), gap(30, 8)]
    assert gaps[0] > 1.5 * gaps[1] > 3 * gaps[2] > 0
    assert gaps[2] < 0.02


@torch.no_grad()
def test_raise_of_a_deep_machine_takes_mean_field_for_the_posterior() -> None:
    dbm = machine((6, 5, 4), scale=0.8)
    chain, v = dbm.chain(), binary(6)
    hidden = binary(9)
    log_f = torch.stack(
        [torch.logsumexp(-dbm.energy(row.expand(len(hidden), -1), hidden.split([5, 4], 1)), 0) for row in v]  # type: ignore[no-untyped-call]
    )
    exact = log_f - exact_log_partition(chain)
    means = mean_field(chain, v).means
    estimate = raise_log_likelihood(path_of(chain, 1), temperatures(300), v, 20, generator(), means[0::2])
    gap = float((exact.exp() * (exact - estimate)).sum())
    assert -0.02 < gap < 0.1
    with pytest.raises(ValueError, match="got parity 0, 3 layers, no posterior"):
        raise_log_likelihood(path_of(chain), temperatures(3), v, 2, generator())
