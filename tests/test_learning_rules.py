"""Samplers and gradients of the learning rules against the exact distribution and likelihood, by enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harmonium.models import tempering
from harmonium.models.boltzmann_machine import BoltzmannMachine
from harmonium.models.categorical import Categorical
from harmonium.models.centring import Activities, Offsets, centre_gradient
from harmonium.models.contrastive_divergence import Schedule, negative_particles, train
from harmonium.models.convolutional_rbm import ConvolutionalRBM
from harmonium.models.energy_model import Statistics, set_gradient, update
from harmonium.models.persistent_chains import FastPersistentChains, PersistentChains
from harmonium.models.rbm import RBM
from harmonium.models.sparsity import HiddenActivity, Sparsity
from harmonium.models.tempering import SwapStatistics, TemperedChains
from harmonium.models.units import Bernoulli, Gaussian, RectifiedGaussian, Units

from .enumeration import assert_same, binary, chi_square, counts_of, expected, gradients, randomise

V, H = 5, 4
STATES = binary(V)
# Two clusters, which plain chains seldom leave once they are learned.
DATA = STATES[[0, 0, 1, 16, 31, 31, 15, 30]]
BETAS = (1.0, 0.75, 0.5, 0.25, 0.0)


def machine(seed: int = 0, scale: float = 1.0) -> RBM:
    rbm = RBM(Bernoulli(size=V), Bernoulli(size=H)).double()
    randomise(rbm, seed, scale)
    return rbm


@torch.no_grad()
def exact_p(rbm: RBM) -> Tensor:
    return torch.softmax(-rbm.free_energy(STATES), 0)


def likelihood(rbm: RBM, data: Tensor = DATA) -> Tensor:
    return -rbm.free_energy(data).mean() - torch.logsumexp(-rbm.free_energy(STATES), 0)


def exact_gradient(rbm: RBM) -> dict[str, Tensor | None]:
    rbm.zero_grad()
    (-likelihood(rbm)).backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in rbm.named_parameters() if p.grad is not None}
    rbm.zero_grad()
    return dict(found)


def stored(rbm: RBM) -> dict[str, Tensor]:
    return {name: g for name, g in gradients(rbm).items() if g is not None}


# --- every rule raises the exact likelihood --------------------------------------------------------------------------

Negative = Callable[[RBM, int, torch.Generator], Tensor]


def contrastive(k: int) -> Callable[[], Negative]:
    return lambda: lambda rbm, step, generator: negative_particles(rbm, DATA.repeat(25, 1), k, generator)


def persistent() -> Negative:
    chains = PersistentChains(particles=DATA.repeat(25, 1))

    def draw(rbm: RBM, step: int, generator: torch.Generator) -> Tensor:
        nonlocal chains
        chains = chains.advance(rbm, generator)
        return chains.particles

    return draw


def fast() -> Negative:
    chains: FastPersistentChains | None = None

    def draw(rbm: RBM, step: int, generator: torch.Generator) -> Tensor:
        nonlocal chains
        chains = (chains or FastPersistentChains.start(rbm, DATA.repeat(25, 1))).advance(rbm, generator)
        chains = chains.learn(rbm.statistics(DATA), rbm.statistics(chains.particles), rate=0.05)
        return chains.particles

    return draw


def tempered() -> Negative:
    chains = TemperedChains.start(DATA.repeat(10, 1), BETAS)

    def draw(rbm: RBM, step: int, generator: torch.Generator) -> Tensor:
        nonlocal chains
        chains = chains.advance(rbm, generator)
        return chains.particles

    return draw


RULES = {"CD-1": contrastive(1), "CD-5": contrastive(5), "PCD": persistent, "FPCD": fast, "PT": tempered}


@pytest.mark.parametrize("centred", [False, True], ids=["plain", "centred"])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_raises_the_exact_likelihood(rule: str, centred: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rbm = RBM(Bernoulli(size=V), Bernoulli(size=H)).initialise(generator, 0.1).double()
    draw = RULES[rule]()
    offsets = Offsets.start(Activities.of(rbm, DATA))
    optimiser = torch.optim.SGD(rbm.parameters(), lr=0.2, momentum=0.5)
    before = float(likelihood(rbm).detach())
    for step in range(150):
        set_gradient(rbm, rbm.statistics(DATA), rbm.statistics(draw(rbm, step, generator)))
        if centred:
            offsets = offsets.slide(Activities.of(rbm, DATA), 0.05)
            centre_gradient(rbm, offsets)
        update(rbm, optimiser, step)
    entropy = 0.5 * math.log(4) + 0.5 * math.log(8)
    assert before == pytest.approx(-V * math.log(2), abs=0.05)
    assert before + 0.6 < float(likelihood(rbm).detach()) < -entropy


@pytest.mark.parametrize(
    ("value", "what"), [(math.nan, "batch of step 0 of layer 2"), (1e30, "of layer 2 left the fin")]
)
def test_training_names_the_layer_and_keeps_its_last_good_state(value: float, what: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rbm = RBM(Gaussian(size=V), RectifiedGaussian(size=H)).initialise(generator)
    before = {name: p.detach().clone() for name, p in rbm.named_parameters()}
    batches = itertools.repeat(torch.full((8, V), value))
    with pytest.raises(FloatingPointError, match=what):
        list(train(rbm, batches, Schedule(steps=5), generator, "layer 2"))
    assert_same({name: p.detach() for name, p in rbm.named_parameters()}, dict(before), atol=0)


# --- chains at a standing model --------------------------------------------------------------------------------------


def assert_within_standard_error(rbm: RBM, draws: Tensor, exact: dict[str, Tensor | None]) -> None:
    set_gradient(rbm, rbm.statistics(DATA), rbm.statistics(draws))
    # Every statistic lies between 0 and 1: its standard error is at most 1 / (2 √count).
    assert_same(stored(rbm), exact, atol=4.5 * 0.5 / len(draws) ** 0.5)


@pytest.mark.parametrize("rule", ["PCD", "FPCD", "PT"])
def test_the_stationary_gradient_is_the_exact_one(rule: str) -> None:
    rbm, generator = machine(), torch.Generator().manual_seed(0)
    start = torch.zeros(8000, V, dtype=torch.float64)
    chains: PersistentChains | FastPersistentChains | TemperedChains
    if rule == "PCD":
        chains = PersistentChains(particles=start).advance(rbm, generator, 60)
    elif rule == "FPCD":
        chains = FastPersistentChains.start(rbm, start).advance(rbm, generator, 60)
    else:
        chains = TemperedChains.start(start, BETAS).advance(rbm, generator, 25)
    assert_within_standard_error(rbm, chains.particles, exact_gradient(rbm))
    assert chi_square(counts_of(chains.particles, STATES), exact_p(rbm)) > 1e-3


def test_one_step_from_the_data_has_another_expectation() -> None:
    """What the test above would notice: CD-1 is biased."""
    rbm, generator = machine(), torch.Generator().manual_seed(0)
    particles = negative_particles(rbm, DATA.repeat(1000, 1), 1, generator)
    with pytest.raises(AssertionError):
        assert_within_standard_error(rbm, particles, exact_gradient(rbm))
    assert chi_square(counts_of(particles, STATES), exact_p(rbm)) < 1e-6


# --- fast weights ----------------------------------------------------------------------------------------------------


def test_without_fast_weights_chains_are_persistent_ones() -> None:
    rbm, start = machine(), DATA.repeat(3, 1)
    plain = PersistentChains(particles=start).advance(rbm, torch.Generator().manual_seed(7), 5)
    quick = FastPersistentChains.start(rbm, start).advance(rbm, torch.Generator().manual_seed(7), 5)
    assert torch.equal(plain.particles, quick.particles)


def test_fast_weights_are_added_while_chains_run_and_only_then() -> None:
    rbm, moved = machine(), machine(seed=1)
    before = {name: p.detach().clone() for name, p in rbm.named_parameters()}
    difference = {name: p.detach() - before[name] for name, p in moved.named_parameters()}
    chains = FastPersistentChains(particles=DATA, fast=difference).advance(rbm, torch.Generator().manual_seed(3), 4)
    wanted = PersistentChains(particles=DATA).advance(moved, torch.Generator().manual_seed(3), 4)
    assert torch.equal(chains.particles, wanted.particles)
    assert_same({name: p.detach() for name, p in rbm.named_parameters()}, dict(before), atol=0)
    with pytest.raises(ValueError, match="visible states"):
        FastPersistentChains(particles=DATA[:, :2], fast=difference).advance(rbm, torch.Generator())
    assert_same({name: p.detach() for name, p in rbm.named_parameters()}, dict(before), atol=0)


def test_fast_weights_learn_and_forget() -> None:
    rbm = machine()
    positive, negative = rbm.statistics(DATA), rbm.statistics(STATES[:3])
    set_gradient(rbm, positive, negative)
    once = FastPersistentChains.start(rbm, DATA).learn(positive, negative, rate=0.5)
    assert_same(once.fast, {name: -0.5 * g for name, g in stored(rbm).items()}, atol=1e-12)
    later = once.learn(positive, positive, rate=0.5)
    assert_same(later.fast, {name: 0.95 * value for name, value in once.fast.items()}, atol=1e-12)
    with pytest.raises(ValueError, match=r"rate >= 0 and 0 <= decay < 1, got 0.1, 1"):
        once.learn(positive, negative, rate=0.1, decay=1)


# --- parallel tempering ----------------------------------------------------------------------------------------------


@pytest.fixture
def two_valleys() -> RBM:
    """A machine with a deep valley at all zeros and one at all ones, between which Gibbs steps hardly pass."""
    rbm = RBM(Bernoulli(size=V), Bernoulli(size=H)).double()
    with torch.no_grad():
        rbm.weight.fill_(2.4)
        rbm.visible_parameters["bias"].fill_(-2.4 * H / 2)
        rbm.hidden_parameters["bias"].fill_(-2.4 * V / 2)
        rbm.visible_parameters["bias"][0] += 0.3
    return rbm


def temper(rbm: RBM, steps: int) -> TemperedChains:
    start = torch.zeros(2000, V, dtype=torch.float64)
    betas = (1.0, 0.8, 0.6, 0.4, 0.2)
    return TemperedChains.start(start, betas).advance(rbm, torch.Generator().manual_seed(0), steps)


def test_tempered_chains_are_exact_where_plain_ones_are_caught(two_valleys: RBM) -> None:
    chains = temper(two_valleys, 100)
    for beta, states in zip(chains.betas, chains.states, strict=True):
        p = torch.softmax(-two_valleys.free_energy(STATES, beta.expand(len(STATES))).detach(), 0)
        assert chi_square(counts_of(states, STATES), p) > 1e-3
    plain = PersistentChains(particles=torch.zeros(2000, V, dtype=torch.float64))
    plain = plain.advance(two_valleys, torch.Generator().manual_seed(0), 100)
    assert chi_square(counts_of(plain.particles, STATES), exact_p(two_valleys)) < 1e-6


def test_swaps_that_ignore_the_energies_are_noticed(two_valleys: RBM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempering, "accept", lambda log_ratio, generator: torch.ones_like(log_ratio, dtype=torch.bool))
    chains = temper(two_valleys, 100)
    assert chi_square(counts_of(chains.particles, STATES), exact_p(two_valleys)) < 1e-6


def test_swap_statistics(two_valleys: RBM) -> None:
    chains = temper(two_valleys, 100)
    swaps = chains.swaps
    assert swaps.proposed.tolist() == [50 * 2000] * 4
    assert ((swaps.rates > 0.1) & (swaps.rates < 1)).all()
    # Up and down through five temperatures takes eight steps at least.
    assert 0 < int(swaps.round_trips) < 5 * 2000 * 100 / 8
    # In equilibrium, the rate is the mean over pairs of states of the probability of a swap.
    energies = torch.stack([two_valleys.free_energy(STATES, b.expand(32)).detach() for b in chains.betas[:2]])
    p = torch.softmax(-energies, 1)
    ratio = energies[0][:, None] + energies[1][None, :] - energies[0][None, :] - energies[1][:, None]
    exact = float((p[0][:, None] * p[1][None, :] * ratio.clamp(max=0).exp()).sum())
    late = chains.advance(two_valleys, torch.Generator().manual_seed(5), 50)
    rate = (late.swaps.accepted - swaps.accepted)[0] / (late.swaps.proposed - swaps.proposed)[0]
    assert float(rate) == pytest.approx(exact, abs=0.01)
    merged = swaps.merge(late.swaps)
    assert merged.proposed.tolist() == [(50 + 75) * 2000] * 4
    assert int(merged.round_trips) == int(swaps.round_trips) + int(late.swaps.round_trips)


def test_round_trips_are_counted_from_end_to_end() -> None:
    """A model without energies accepts every swap: each state moves on by one temperature, and turns round."""

    class Flat:
        def gibbs_step(self, state: Tensor, generator: torch.Generator, beta: Tensor | None = None) -> Tensor:
            return state

        def state_energy(self, state: Tensor, beta: Tensor | None = None) -> Tensor:
            return state[:, 0] * 0

        def statistics(self, state: Tensor) -> Statistics:
            return Statistics(count=len(state), sums={})

    chains = TemperedChains.start(torch.zeros(1, 1), (1.0, 0.5, 0.25, 0.0))
    trips = []
    for _ in range(17):
        chains = chains.advance(Flat(), torch.Generator().manual_seed(0))
        trips.append(int(chains.swaps.round_trips))
    # Four states walk 1 → 4 → 1 in eight steps (two of them at the ends), one behind the other.
    assert trips[:7] == [0] * 7
    assert trips[-1] - trips[8] == 4
    assert chains.swaps.proposed.tolist() == [9, 8, 9]


@pytest.mark.parametrize(
    "model",
    [
        RBM(Gaussian(size=2), Categorical(size=1, states=3)),
        RBM(RectifiedGaussian(size=3), Bernoulli(size=2)),
        ConvolutionalRBM(Gaussian(size=1), Bernoulli(size=2), kernel=(2, 2)),
        BoltzmannMachine(2, 2),
    ],
    ids=lambda model: type(model).__name__,
)
def test_tempered_chains_of_any_model_stay_finite(model: RBM | ConvolutionalRBM | BoltzmannMachine) -> None:
    randomise(model)
    if isinstance(model, RBM):
        start = torch.zeros(6, model.visible.width)
    else:
        start = torch.zeros(6, 4) if isinstance(model, BoltzmannMachine) else torch.zeros(6, 1, 3, 3)
    chains = TemperedChains.start(start, (1.0, 0.5, 0.0)).advance(model, torch.Generator().manual_seed(0), 4)
    assert chains.particles.shape == start.shape
    assert bool(torch.isfinite(chains.states).all())


@torch.no_grad()
def test_tempered_gaussian_units_have_their_moments() -> None:
    """One visible and one hidden unit: the mean and variance at β = 1 by quadrature."""
    rbm = RBM(Gaussian(size=1), Bernoulli(size=1)).double()
    rbm.weight.fill_(3.0)
    rbm.visible_parameters["bias"].fill_(-1.5)
    start = torch.full((8000, 1), -1.5).double()
    chains = TemperedChains.start(start, BETAS).advance(rbm, torch.Generator().manual_seed(0), 40)
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    for beta, states in zip(chains.betas, chains.states, strict=True):
        p = torch.softmax(-rbm.free_energy(x, beta.expand(4001)), 0)
        mean = float(p @ x[:, 0])
        variance = float(p @ (x[:, 0] - mean).square())
        assert abs(float(states.mean()) - mean) < 4.5 * math.sqrt(variance / 8000)
        assert float(states.var()) == pytest.approx(variance, rel=0.07)


@pytest.mark.parametrize(
    "betas",
    [(), (1.0,), (0.9, 0.5), (1.0, 1.0), (1.0, 0.5, 0.7), (1.0, -0.1), (1.0, math.nan), (math.inf, 1.0)],
    ids=str,
)
def test_temperatures_that_cannot_be(betas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"inverse temperatures that fall from 1.0 and are not below 0, got"):
        TemperedChains.start(DATA, betas)


def test_swap_rates_of_nothing() -> None:
    zero = torch.zeros(2, dtype=torch.int64)
    assert SwapStatistics(proposed=zero, accepted=zero, round_trips=zero.sum()).rates.isnan().all()


# --- centring --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "visible", [Bernoulli(size=V), Categorical(size=2, states=3), Gaussian(size=3)], ids=lambda u: type(u).__name__
)
def test_centred_gradient_is_that_of_the_centred_parameters(visible: Units) -> None:
    """g' by automatic differentiation in W, b' = b + W λ, c' = c + Wᵀ μ; then Δb = Δb' - ΔW λ, Δc = Δc' - ΔWᵀ μ."""
    rbm = RBM(visible, Bernoulli(size=H)).double()
    randomise(rbm)
    generator = torch.Generator().manual_seed(1)
    data = visible.sample(torch.zeros(6, visible.width).double(), rbm.visible_parameters, generator).detach()
    points = visible.sample(torch.zeros(9, visible.width).double(), rbm.visible_parameters, generator).detach()
    offsets = Offsets.start(Activities.of(rbm, data))
    weight = rbm.weight.detach().clone().requires_grad_()
    b = (rbm.visible_parameters["bias"].detach() + weight.detach() @ offsets.hidden).requires_grad_()
    c = (rbm.hidden_parameters["bias"].detach() + weight.detach().T @ offsets.visible).requires_grad_()
    replaced = {
        "weight": weight,
        "visible_parameters.bias": b - weight @ offsets.hidden,
        "hidden_parameters.bias": c - weight.T @ offsets.visible,
    }
    # Any difference of two means of F serves: positive against negative phase.
    total = free_energy_with(rbm, replaced, data).mean() - free_energy_with(rbm, replaced, points).mean()
    g_weight, g_b, g_c = torch.autograd.grad(total, [weight, b, c])
    set_gradient(rbm, rbm.statistics(data), rbm.statistics(points))
    centre_gradient(rbm, offsets)
    found = stored(rbm)
    torch.testing.assert_close(found["weight"], g_weight, rtol=0, atol=1e-10)
    wanted_b, wanted_c = g_b - g_weight @ offsets.hidden, g_c - g_weight.T @ offsets.visible
    torch.testing.assert_close(found["visible_parameters.bias"], wanted_b, rtol=0, atol=1e-10)
    torch.testing.assert_close(found["hidden_parameters.bias"], wanted_c, rtol=0, atol=1e-10)


def free_energy_with(rbm: RBM, parameters: dict[str, Tensor], v: Tensor) -> Tensor:
    """Free energy of a machine in whose place other parameters stand."""

    class Free(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rbm = rbm

        def forward(self, v: Tensor) -> Tensor:
            return self.rbm.free_energy(v)

    named = {f"rbm.{name}": value for name, value in parameters.items()}
    found: Tensor = torch.func.functional_call(Free(), named, (v,))
    return found


@torch.no_grad()
def flipped(rbm: RBM, flips: Tensor) -> RBM:
    """The same distribution over states whose visible units are complemented where `flips` is 1."""
    other, sign = RBM(rbm.visible, rbm.hidden).double(), 1 - 2 * flips
    other.weight.copy_(rbm.weight * sign[:, None])
    other.visible_parameters["bias"].copy_(rbm.visible_parameters["bias"] * sign)
    other.hidden_parameters["bias"].copy_(rbm.hidden_parameters["bias"] + flips @ rbm.weight)
    return other


def stepped(rbm: RBM, data: Tensor, centred: bool) -> Tensor:
    """Likelihood of the data after one exact step of gradient ascent."""
    p = torch.softmax(-rbm.free_energy(STATES).detach(), 0)
    negative = expected([rbm.statistics(v[None]) for v in STATES], p)
    set_gradient(rbm, rbm.statistics(data), negative)
    if centred:
        centre_gradient(rbm, Offsets.start(Activities.of(rbm, data)))
    update(rbm, torch.optim.SGD(rbm.parameters(), lr=0.7), 0)
    return likelihood(rbm, data).detach()


@given(seed=st.integers(0, 99), flips=st.lists(st.sampled_from((0.0, 1.0)), min_size=V, max_size=V))
def test_centred_steps_do_not_depend_on_what_is_called_one(seed: int, flips: list[float]) -> None:
    flip = torch.tensor(flips, dtype=torch.float64)
    data = (DATA - flip).abs()
    steps = [
        (stepped(machine(seed), DATA, centred), stepped(flipped(machine(seed), flip), data, centred))
        for centred in (True, False)
    ]
    torch.testing.assert_close(*steps[0], rtol=0, atol=1e-10)
    if flip.any():
        assert float((steps[1][0] - steps[1][1]).abs()) > 1e-8


def test_without_offsets_nothing_is_centred_and_offsets_slide() -> None:
    rbm = machine()
    set_gradient(rbm, rbm.statistics(DATA), rbm.statistics(STATES))
    before = {name: g.clone() for name, g in stored(rbm).items()}
    nothing = Offsets(visible=torch.zeros(V).double(), hidden=torch.zeros(H).double())
    centre_gradient(rbm, nothing)
    assert_same(stored(rbm), dict(before), atol=0)
    activities = Activities.of(rbm, DATA[:3]).merge(Activities.of(rbm, DATA[3:]))
    moved = nothing.slide(activities, 0.25)
    torch.testing.assert_close(moved.visible, 0.25 * DATA.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(moved.hidden, 0.25 * rbm.mean_hidden(DATA).mean(0).detach(), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"sliding factor needs to be from 0 to 1, got 1.5"):
        nothing.slide(activities, 1.5)
    with pytest.raises(ValueError, match=r"offsets of 5 visible and 4 hidden units, found \(\(4,\), \(5,\)\)"):
        centre_gradient(rbm, Offsets(visible=nothing.hidden, hidden=nothing.visible))
    rbm.zero_grad()
    with pytest.raises(ValueError, match="found none; call set_gradient before"):
        centre_gradient(rbm, nothing)


# --- sparsity --------------------------------------------------------------------------------------------------------


def test_penalty_gradient_is_that_of_the_cross_entropy() -> None:
    """With the same input in all cases, the derivative of the formula by the bias is exact."""
    rbm, sparsity = machine(), Sparsity(target=0.1, cost=0.7)
    v = DATA[:1].expand(6, -1)
    sparsity = sparsity.observe(HiddenActivity.of(rbm, v[:2]).merge(HiddenActivity.of(rbm, v[2:])))
    q = rbm.mean_hidden(v).mean(0)
    penalty = -0.7 * (0.1 * q.log() + 0.9 * (1 - q).log()).sum()
    penalty.backward()  # type: ignore[no-untyped-call]
    wanted = gradients(rbm)["hidden_parameters.bias"]
    rbm.hidden_parameters["bias"].grad = torch.ones(H).double()
    sparsity.add_gradient(rbm)
    assert wanted is not None
    torch.testing.assert_close(stored(rbm)["hidden_parameters.bias"], wanted + 1, rtol=0, atol=1e-12)


def test_activity_is_smoothed_and_reaches_the_target() -> None:
    rbm, sparsity = machine(scale=0.1), Sparsity(target=0.05, cost=5.0, decay=0.5)
    first, second = HiddenActivity.of(rbm, DATA), HiddenActivity.of(rbm, STATES)
    smooth = sparsity.observe(first).observe(second).activity
    assert smooth is not None
    torch.testing.assert_close(smooth, 0.5 * first.total / 8 + 0.5 * second.total / 32)
    generator, optimiser = torch.Generator().manual_seed(0), torch.optim.SGD(rbm.parameters(), lr=0.1)
    for step in range(300):
        set_gradient(rbm, rbm.statistics(DATA), rbm.statistics(negative_particles(rbm, DATA, 1, generator)))
        sparsity = sparsity.observe(HiddenActivity.of(rbm, DATA))
        sparsity.add_gradient(rbm)
        update(rbm, optimiser, step)
    np.testing.assert_allclose(rbm.mean_hidden(DATA).mean(0).detach(), 0.05, atol=0.03)


def test_activity_of_a_convolutional_machine_is_that_of_its_places() -> None:
    crbm = ConvolutionalRBM(Bernoulli(size=1), Bernoulli(size=3), kernel=(2, 2)).double()
    randomise(crbm)
    v = torch.rand(4, 1, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    activity = HiddenActivity.of(crbm, v)
    assert activity.count == 4 * 2 * 4
    torch.testing.assert_close(activity.total, crbm.mean_hidden(v).sum((0, 2, 3)).detach())


def lateral() -> BoltzmannMachine:
    bm = BoltzmannMachine(V, H).double()
    randomise(bm)
    return bm


def test_penalty_gradient_with_lateral_connections_is_that_of_the_cross_entropy() -> None:
    """All other units stand still, so that a bias moves its own unit's mean alone."""
    bm, sparsity = lateral(), Sparsity(target=0.1, cost=0.7)
    state = bm.join(DATA[:1], binary(H)[5:6])
    on_off = []
    for unit in range(V, V + H):
        pair = state.repeat(2, 1)
        pair[:, unit] = torch.tensor([1.0, 0.0])
        on_off.append(bm.energy(*bm.split(pair)))
    q = torch.stack([torch.softmax(-energies, 0)[0] for energies in on_off])
    penalty = -0.7 * (0.1 * q.log() + 0.9 * (1 - q).log()).sum()
    (wanted,) = torch.autograd.grad(penalty, bm.hidden_bias)
    bm.hidden_bias.grad = torch.ones(H).double()
    sparsity.observe(HiddenActivity.of(bm, state.expand(6, -1))).add_gradient(bm)
    torch.testing.assert_close(bm.hidden_bias.grad, wanted + 1, rtol=0, atol=1e-12)


def test_activity_with_lateral_connections_reaches_the_target() -> None:
    bm, sparsity = lateral(), Sparsity(target=0.05, cost=5.0, decay=0.5)
    generator, optimiser = torch.Generator().manual_seed(0), torch.optim.SGD(bm.parameters(), lr=0.1)
    chains = bm.join(DATA, bm.mean_field(DATA).means)
    for step in range(300):
        clamped, chains = bm.join(DATA, bm.mean_field(DATA).means), bm.gibbs_step(chains, generator)
        set_gradient(bm, bm.statistics(clamped), bm.statistics(chains))
        sparsity = sparsity.observe(HiddenActivity.of(bm, clamped))
        sparsity.add_gradient(bm)
        update(bm, optimiser, step)
    exact = bm.hidden_posterior(DATA).detach() @ binary(H)
    np.testing.assert_allclose(exact.mean(0), 0.05, atol=0.03)


def test_sparsity_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"0 < target < 1.*got target=1.0"):
        Sparsity(target=1.0, cost=1.0)
    with pytest.raises(ValueError, match="call observe and set_gradient before"):
        Sparsity(target=0.1, cost=1.0).add_gradient(machine())
    with pytest.raises(ValueError, match="needs Bernoulli hidden units, got RectifiedGaussian"):
        Sparsity(target=0.1, cost=1.0).add_gradient(RBM(Bernoulli(size=1), RectifiedGaussian(size=1)))
