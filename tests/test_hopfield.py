"""Hopfield networks against their formulas, enumeration, and the exact distribution of the crosstalk."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from harmonium.models.hopfield import (
    Hopfield,
    asynchronous_step,
    damage,
    hebbian,
    overlap,
    pseudo_inverse,
    recall_asynchronous,
    recall_synchronous,
    synchronous_step,
)

# For tensors this small, threads that wait for each other cost more than they gain.
pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_patterns(count: int, units: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randint(0, 2, (count, units), generator=seeded(seed)).to(dtype) - 1


def random_network(units: int, seed: int = 0) -> Hopfield:
    weight = torch.randn(units, units, generator=seeded(seed), dtype=torch.float64)
    threshold = torch.randn(units, generator=seeded(seed + 1), dtype=torch.float64)
    return Hopfield(weight=(weight + weight.T).fill_diagonal_(0), threshold=threshold)


def all_states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=units)), dtype=torch.float64)


# --- storage and energy ----------------------------------------------------------------------------------------------


def test_hebbs_rule_is_the_sum_of_products() -> None:
    patterns = random_patterns(3, 7)
    weight = hebbian(patterns).weight
    for i, j in itertools.product(range(7), repeat=2):
        expected = 0.0 if i == j else float(sum(p[i] * p[j] for p in patterns)) / 7
        assert float(weight[i, j]) == pytest.approx(expected, abs=1e-12)


def test_pseudo_inverse_is_personnazs_formula() -> None:
    patterns = random_patterns(4, 11).numpy()
    gram = np.linalg.inv(patterns @ patterns.T / 11)
    expected = np.einsum("ai,ab,bj->ij", patterns, gram, patterns) / 11
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(pseudo_inverse(torch.from_numpy(patterns)).weight.numpy(), expected, atol=1e-12)


@given(units=st.integers(1, 8), seed=st.integers(0, 1000))
def test_energy_and_fixed_points_by_enumeration(units: int, seed: int) -> None:
    network, states = random_network(units, seed), all_states(units)
    w, theta = network.weight.numpy(), network.threshold.numpy()
    pairs = list(itertools.combinations(range(units), 2))
    energies = {
        tuple(s): -sum(w[i, j] * s[i] * s[j] for i, j in pairs) + sum(t * x for t, x in zip(theta, s, strict=True))
        for s in states.tolist()
    }
    np.testing.assert_allclose(network.energy(states).numpy(), list(energies.values()), rtol=0, atol=1e-10)

    def turned(s: tuple[float, ...], i: int) -> tuple[float, ...]:
        return (*s[:i], -s[i], *s[i + 1 :])

    minima = [all(energies[turned(s, i)] >= e for i in range(units)) for s, e in energies.items()]
    assert network.is_fixed(states).tolist() == minima


# --- dynamics --------------------------------------------------------------------------------------------------------


@given(
    units=st.integers(1, 40),
    rule=st.sampled_from(("random", "hebbian", "pseudo-inverse")),
    seed=st.integers(0, 1000),
)
def test_energy_never_rises_asynchronously(units: int, rule: str, seed: int) -> None:
    patterns = random_patterns(max(1, units // 4), units, seed)
    rules = {"random": lambda: random_network(units, seed), "hebbian": lambda: hebbian(patterns)}
    network = rules.get(rule, lambda: pseudo_inverse(patterns))()
    states, generator = random_patterns(6, units, seed + 1), seeded(seed)
    while not network.is_fixed(states).all():
        at_rest = network.is_fixed(states)
        following = asynchronous_step(network, states, generator)
        assert (following != states).sum(1).tolist() == (~at_rest).long().tolist()
        assert (network.energy(following) <= network.energy(states) + 1e-11).all()
        states = following


def test_every_unit_that_can_turn_has_the_same_chance() -> None:
    network, state = random_network(12, 3), random_patterns(1, 12, 1)
    candidates = network.unstable(state)[0]
    assert candidates.sum() >= 3
    many = state.expand(6000, -1)
    turned = asynchronous_step(network, many, seeded()) != many
    assert not turned[:, ~candidates].any()
    assert stats.chisquare(turned.sum(0)[candidates].numpy()).pvalue > 1e-3
    # The same test notices an order that is not random.
    assert stats.chisquare(np.eye(int(candidates.sum()))[0] * 6000).pvalue < 1e-3


def test_synchronous_step_is_the_sign_of_the_field() -> None:
    network, states = random_network(9), random_patterns(20, 9)
    expected = np.sign(states.numpy() @ network.weight.numpy() - network.threshold.numpy())
    np.testing.assert_array_equal(synchronous_step(network, states).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ties_leave_units_as_they_are(dtype: torch.dtype) -> None:
    # Ten units: sums of tenths that cancel leave 1e-17 behind, which must not turn a unit.
    network = hebbian(random_patterns(4, 10, 2, dtype))
    states = all_states(10).to(dtype)
    integers = (states.double() @ (network.weight.double() * 10).round()).long()
    assert (integers == 0).any()
    assert torch.equal(network.unstable(states), states.long() * integers < 0)


def test_two_units_that_imitate_each_other_swap_for_ever() -> None:
    network = Hopfield(weight=torch.tensor([[0.0, 1.0], [1.0, 0.0]]), threshold=torch.zeros(2))
    states = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    recall = recall_synchronous(network, states)
    assert recall.cycling.tolist() == [True, False, True]
    assert recall.fixed.tolist() == [False, True, False]
    assert recall.steps.tolist() == [0, 0, 0]
    in_turn = recall_asynchronous(network, states, seeded())
    assert in_turn.fixed.all()
    assert in_turn.steps.tolist() == [1, 0, 1]
    assert (in_turn.states.prod(1) == 1).all()


@given(units=st.integers(1, 30), seed=st.integers(0, 1000))
def test_synchronous_updates_end_at_rest_or_in_a_cycle_of_two(units: int, seed: int) -> None:
    network, states = random_network(units, seed), random_patterns(10, units, seed)
    recall = recall_synchronous(network, states)
    assert (recall.fixed ^ recall.cycling).all()
    once = synchronous_step(network, recall.states)
    assert torch.equal((once == recall.states).all(1), recall.fixed)
    assert torch.equal(synchronous_step(network, once), recall.states)
    # The state named is the one that so many steps lead to.
    for row, count in enumerate(recall.steps.tolist()):
        one = states[row : row + 1]
        for _ in range(count):
            one = synchronous_step(network, one)
        assert torch.equal(one[0], recall.states[row])


def test_recall_that_is_given_up_says_so() -> None:
    network = hebbian(random_patterns(2, 50))
    damaged = damage(random_patterns(2, 50), 0.3, seeded())
    recall = recall_asynchronous(network, damaged, seeded(), max_steps=1)
    assert not recall.fixed.any()
    assert recall.steps.tolist() == [1, 1]
    network, states = random_network(40, 1), random_patterns(10, 40, 1)
    recall = recall_synchronous(network, states, max_steps=0)
    assert torch.equal(recall.states, states)
    assert not recall.fixed.any()


def test_a_generator_decides_the_order() -> None:
    network, states = random_network(30), random_patterns(5, 30)
    first, again, other = (recall_asynchronous(network, states, seeded(seed)).states for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_one_pattern_comes_back_from_anything_closer_to_it_than_to_its_negative() -> None:
    patterns = random_patterns(1, 101)
    network = hebbian(patterns)
    for share in (0.1, 0.3, 0.49):
        damaged = damage(patterns.expand(8, -1), share, seeded())
        for recall in (recall_asynchronous(network, damaged, seeded()), recall_synchronous(network, damaged)):
            assert torch.equal(recall.states, patterns.expand(8, -1))


@pytest.mark.parametrize("count", [20, 60, 120])
def test_crosstalk_turns_as_many_units_as_the_binomial_distribution_says(count: int) -> None:
    """A unit of a stored pattern turns if the crosstalk, (p - 1)(n - 1) random signs, adds up to less than -(n - 1).

    Units of one network share weights, so that the number of errors varies more than if they were independent:
    measured over 20 networks, whose spread gives the standard error, of which four and a half are allowed.
    """
    n, signs = 200, (count - 1) * 199
    expected = stats.binom.cdf(math.ceil((signs - (n - 1)) / 2) - 1, signs, 0.5)
    shares = []
    for seed in range(20):
        patterns = random_patterns(count, n, seed)
        shares.append(float(hebbian(patterns).unstable(patterns).double().mean()))
    error = float(np.std(shares, ddof=1)) / math.sqrt(len(shares))
    assert error < 0.1 * expected + 1e-4
    assert np.mean(shares) == pytest.approx(expected, abs=4.5 * error + 1e-5)


def test_hebbian_memory_ends_near_fourteen_patterns_for_a_hundred_units() -> None:
    """Amit, Gutfreund and Sompolinsky 1985: overlap 0.97 at 0.138 patterns per unit, none that lasts beyond it."""
    overlaps = {}
    for load in (0.05, 0.10, 0.25):
        patterns = random_patterns(round(load * 600), 600, dtype=torch.float32)
        some = patterns[:20]
        recall = recall_asynchronous(hebbian(patterns), damage(some, 0.1, seeded()), seeded())
        assert recall.fixed.all()
        overlaps[load] = float(overlap(recall.states, some).diagonal().mean())
    assert overlaps[0.05] > 0.998
    assert overlaps[0.10] > 0.97
    assert overlaps[0.25] < 0.7


def test_pseudo_inverse_keeps_what_hebbs_rule_loses() -> None:
    patterns = random_patterns(60, 200)
    assert not hebbian(patterns).is_fixed(patterns).any()
    network = pseudo_inverse(patterns)
    assert network.is_fixed(patterns).all()
    recall = recall_asynchronous(network, damage(patterns, 0.05, seeded()), seeded())
    assert float(overlap(recall.states, patterns).diagonal().mean()) > 0.99


@given(
    count=st.integers(1, 8),
    units=st.integers(1, 24),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)
def test_pseudo_inverse_keeps_any_patterns(count: int, units: int, seed: int, dtype: torch.dtype) -> None:
    patterns = random_patterns(count, units, seed, dtype)
    # Correlated, repeated and opposite ones included.
    patterns = torch.cat([patterns, patterns[:1], -patterns[-1:], damage(patterns[:1], 1 / units, seeded(seed))])
    assert pseudo_inverse(patterns).is_fixed(patterns).all()


@given(share=st.floats(0, 1), units=st.integers(1, 50), seed=st.integers(0, 1000))
def test_damage_turns_that_share(share: float, units: int, seed: int) -> None:
    states = random_patterns(4, units, seed)
    damaged = damage(states, share, seeded(seed))
    assert ((damaged != states).sum(1) == round(share * units)).all()
    torch.testing.assert_close(
        overlap(damaged, states).diagonal(), torch.full((4,), 1 - 2 * round(share * units) / units).double()
    )


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "threshold", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2), r"got \(2, 3\) and \(2,\)"),
        (torch.zeros(2, 2), torch.zeros(3), r"got \(2, 2\) and \(3,\)"),
        (torch.zeros(0, 0), torch.zeros(0), r"got \(0, 0\)"),
        (torch.eye(2), torch.zeros(2), r"\|w_ii\| up to 1"),
        (torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.zeros(2), r"\|W - Wᵀ\| up to 1"),
        (torch.full((2, 2), math.nan), torch.zeros(2), "weight must be finite, got 4"),
        (torch.zeros(2, 2), torch.tensor([0.0, math.inf]), "threshold must be finite, got 1"),
    ],
    ids=str,
)
def test_networks_that_cannot_be(weight: Tensor, threshold: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hopfield(weight=weight, threshold=threshold)


def test_dtypes_that_do_not_fit() -> None:
    with pytest.raises(TypeError, match=r"weight must be of a floating dtype, got torch\.int64"):
        Hopfield(weight=torch.zeros(2, 2, dtype=torch.int64), threshold=torch.zeros(2))
    with pytest.raises(TypeError, match=r"Patterns must be of a floating dtype, got torch\.int64"):
        hebbian(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"torch\.float64 like the weights, got torch\.float32"):
        random_network(3).energy(torch.ones(1, 3))


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (torch.ones(3), r"\(batch, 3\) and not empty, got \(3,\)"),
        (torch.ones(2, 4), r"\(batch, 3\) and not empty, got \(2, 4\)"),
        (torch.zeros(2, 3), r"-1 or \+1"),
        (torch.full((2, 3), math.nan), r"-1 or \+1"),
    ],
    ids=str,
)
def test_states_that_do_not_fit(states: Tensor, message: str) -> None:
    network = random_network(3)
    with pytest.raises(ValueError, match=message):
        network.energy(states.double())
    with pytest.raises(ValueError, match=message):
        recall_synchronous(network, states.double())
    with pytest.raises(ValueError, match=message):
        recall_asynchronous(network, states.double(), seeded())


def test_patterns_and_damage_that_cannot_be() -> None:
    for rule in (hebbian, pseudo_inverse):
        with pytest.raises(ValueError, match=r"Patterns must be -1 or \+1"):
            rule(torch.tensor([[0.0, 1.0]]))
        with pytest.raises(ValueError, match=r"\(batch, n\) and not empty, got \(0, 3\)"):
            rule(torch.ones(0, 3))
    with pytest.raises(ValueError, match=r"within 0 and 1, got 1\.5"):
        damage(torch.ones(1, 3), 1.5, seeded())
