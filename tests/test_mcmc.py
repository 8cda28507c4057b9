"""Markov chains against numpy and brute force; samplers against densities that are known."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from harmonium.models.annealing import geometric_cooling, logarithmic_cooling, simulated_annealing
from harmonium.models.ising import Ising, all_spins, exact_distribution, heat_bath, state_number
from harmonium.models.markov_chain import MarkovChain
from harmonium.models.mcmc import (
    Conditional,
    Proposal,
    Proposed,
    collect,
    gibbs_sweep,
    metropolis_hastings,
    metropolis_hastings_step,
    normal_steps,
    start_chains,
    uniform_steps,
)

# For tensors this small, threads that wait for each other cost more than they gain.
pytestmark = pytest.mark.usefixtures("one_thread")

# The chain of Andrieu, de Freitas, Doucet and Jordan 2003 (section 3): from everywhere it comes near (0.2, 0.4, 0.4).
THREE_STATES = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.1, 0.9], [0.6, 0.4, 0.0]], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain(rows: list[list[float]]) -> MarkovChain:
    return MarkovChain(transition=torch.tensor(rows, dtype=torch.float64))


@st.composite
def chains(draw: st.DrawFn, most: int = 7) -> MarkovChain:
    """Chains of which many are reducible or periodic: few edges, at least one from each state."""
    n = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.random((n, n)) * (rng.random((n, n)) < draw(st.sampled_from((0.05, 0.2, 0.5, 1.0))))
    weights[np.arange(n), rng.integers(0, n, n)] += 0.5
    return MarkovChain(transition=torch.from_numpy(weights / weights.sum(1, keepdims=True)))


def ways(markov: MarkovChain, longest: int) -> NDArray[np.bool_]:
    """[k - 1, i, j]: whether k steps can lead from i to j."""
    edges = markov.transition.numpy() > 0
    powers = list(itertools.accumulate([edges] * longest, lambda power, edge: (power.astype(int) @ edge) > 0))
    return np.array(powers)


# --- Markov chains ---------------------------------------------------------------------------------------------------


def test_three_states() -> None:
    markov = MarkovChain(transition=THREE_STATES)
    assert markov.is_irreducible()
    assert markov.periods().tolist() == [1, 1, 1]
    assert markov.is_ergodic()
    assert not markov.has_detailed_balance()
    # By hand: π_1 = 0.6 π_3 and π_2 = π_3 / 0.9.
    exact = np.array([0.6, 1 / 0.9, 1.0]) / (0.6 + 1 / 0.9 + 1.0)
    np.testing.assert_allclose(markov.stationary().numpy(), exact, rtol=0, atol=1e-14)
    np.testing.assert_allclose(markov.stationary().numpy(), [0.2, 0.4, 0.4], rtol=0, atol=0.04)
    first = torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0]], dtype=torch.float64)
    np.testing.assert_allclose(markov.distribution_after(first, 1).numpy()[0], [0.18, 0.64, 0.18], atol=1e-14)
    np.testing.assert_allclose(markov.distribution_after(first, 200).numpy(), [exact, exact], rtol=0, atol=1e-12)


def test_paths_follow_the_chain_and_another_chain_is_noticed() -> None:
    markov = MarkovChain(transition=THREE_STATES)

    def passes(paths: Tensor) -> bool:
        k_steps = markov.distribution_after(torch.eye(3, dtype=torch.float64)[:1], 3)[0].numpy()
        counts = np.bincount(paths[:, 3].numpy(), minlength=3)
        return bool(stats.chisquare(counts, k_steps * len(paths)).pvalue > 1e-3)

    start = torch.zeros(20_000, dtype=torch.long)
    paths = markov.sample(start, 3, seeded())
    assert paths.shape == (20_000, 4)
    assert not paths[:, 0].any()
    assert passes(paths)
    other = MarkovChain(transition=0.97 * THREE_STATES + 0.01)
    assert not passes(other.sample(start, 3, seeded()))


@given(markov=chains())
def test_structure_by_brute_force(markov: MarkovChain) -> None:
    n = markov.states
    # From a set of n states, n² - 2 n + 2 steps show every length that matters (Wielandt); twice that is enough.
    possible = ways(markov, 2 * n * n + 4)
    reaches = possible.any(0) | np.eye(n, dtype=bool)
    same = reaches & reaches.T
    labels = markov.classes().numpy()
    np.testing.assert_array_equal(labels[:, None] == labels, same)
    assert markov.is_irreducible() == bool(same.all())
    periods = [int(np.gcd.reduce(np.flatnonzero(possible[:, i, i]) + 1)) for i in range(n)]
    assert markov.periods().tolist() == periods
    assert markov.is_ergodic() == bool(same.all() and set(periods) == {1})
    closed = {frozenset(np.flatnonzero(same[i])) for i in range(n) if (reaches[i] <= same[i]).all()}
    assert {frozenset(members) for members in markov.closed_classes()} == closed


@given(markov=chains(), steps=st.integers(0, 40))
def test_stationary_distribution_stays(markov: MarkovChain, steps: int) -> None:
    if len(markov.closed_classes()) > 1:
        with pytest.raises(ValueError, match="is unique with 1 closed class, got"):
            markov.stationary()
        return
    pi = markov.stationary()
    assert float(pi.sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(pi @ markov.transition, pi, rtol=0, atol=1e-12)
    torch.testing.assert_close(markov.distribution_after(pi[None], steps)[0], pi, rtol=0, atol=1e-10)
    inside = torch.zeros(markov.states, dtype=torch.bool)
    inside[markov.closed_classes()[0]] = True
    assert (pi[inside] > 0).all()
    assert (pi[~inside] < 1e-14).all()


@given(n=st.integers(2, 12))
def test_a_ring_of_one_direction_has_its_length_as_period(n: int) -> None:
    ring = MarkovChain(transition=torch.eye(n, dtype=torch.float64).roll(1, 1))
    assert ring.is_irreducible()
    assert ring.periods().tolist() == [n] * n
    assert not ring.is_ergodic()
    torch.testing.assert_close(ring.stationary(), torch.full((n,), 1 / n, dtype=torch.float64))
    assert ring.has_detailed_balance() == (n == 2)


def test_states_without_return_have_no_period() -> None:
    markov = chain([[0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert markov.periods().tolist() == [0, 0, 1]
    assert markov.closed_classes() == [[2]]
    assert not markov.is_ergodic()
    assert markov.stationary().tolist() == pytest.approx([0, 0, 1])


def test_two_islands_have_no_one_distribution() -> None:
    markov = chain([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])
    with pytest.raises(ValueError, match=r"got 2: the states \[0\] and \[2\] never meet"):
        markov.stationary()


@given(n=st.integers(1, 8), seed=st.integers(0, 1000))
def test_detailed_balance_of_metropolis_and_not_of_random_chains(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.random(n) + 0.1
    p /= p.sum()
    # Uniform proposals, accepted as Metropolis does.
    rows = np.minimum(1, p / p[:, None]) / n
    rows[np.arange(n), np.arange(n)] += 1 - rows.sum(1)
    markov = MarkovChain(transition=torch.from_numpy(rows))
    assert markov.has_detailed_balance()
    assert markov.has_detailed_balance(torch.from_numpy(p))
    np.testing.assert_allclose(markov.stationary().numpy(), p, rtol=0, atol=1e-12)
    if n > 2:
        rows = rng.random((n, n)) + 0.1
        assert not MarkovChain(transition=torch.from_numpy(rows / rows.sum(1, keepdims=True))).has_detailed_balance()


def test_a_heat_bath_sweep_as_a_chain_over_all_states() -> None:
    """The sampler's own transitions, counted, have the Boltzmann distribution as their stationary one."""
    model = Ising.on_lattice((3,), coupling=0.7, field=0.3, beta=0.8, periodic=False, dtype=torch.float64)
    after = heat_bath(model, all_spins(model).repeat_interleave(50_000, 0), seeded())
    counts = torch.zeros(8, 8, dtype=torch.float64)
    for i, following in enumerate(state_number(after).reshape(8, -1)):
        counts[i] = torch.bincount(following, minlength=8)
    markov = MarkovChain(transition=counts / 50_000)
    assert markov.is_ergodic()
    torch.testing.assert_close(markov.stationary(), exact_distribution(model), rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.5, 0.6], [0.5, 0.5]], r"Row 0 .* got the least value 0\.5 and the sum 1\.1; divide"),
        ([[0.5, 0.5], [1.5, -0.5]], r"Row 1 .* got the least value -0\.5"),
        ([[0.5, 0.5], [math.nan, 1.0]], "Row 1 .* nan"),
        ([[math.inf, 0.5], [0.5, 0.5]], "Row 0 .* inf"),
        ([[0.5, 0.5]], r"\(states, states\), got \(1, 2\)"),
    ],
    ids=str,
)
def test_matrices_that_are_no_chains(rows: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chain(rows)


def test_chains_asked_for_what_cannot_be() -> None:
    with pytest.raises(TypeError, match=r"floating dtype, got torch\.int64"):
        MarkovChain(transition=torch.eye(2, dtype=torch.int64))
    markov = MarkovChain(transition=THREE_STATES.float())
    with pytest.raises(ValueError, match="steps must be 0 or more, got -1"):
        markov.distribution_after(torch.eye(3), -1)
    with pytest.raises(ValueError, match=r"\(batch, 3\), got \(3,\)"):
        markov.distribution_after(torch.ones(3) / 3, 1)
    with pytest.raises(ValueError, match="Initial distribution 1 must be a distribution"):
        markov.distribution_after(torch.tensor([[1.0, 0, 0], [1.0, 1.0, 0]]), 1)
    with pytest.raises(ValueError, match="States are 0 to 2, got 0 to 3"):
        markov.sample(torch.tensor([0, 3]), 1, seeded())
    with pytest.raises(ValueError, match=r"\(chains,\) int64"):
        markov.sample(torch.tensor([0.0]), 1, seeded())
    with pytest.raises(ValueError, match=r"must be \(3,\), got \(2,\)"):
        markov.has_detailed_balance(torch.ones(2) / 2)


# --- Metropolis and Hastings -----------------------------------------------------------------------------------------


def normal(x: Tensor) -> Tensor:
    """N(-2, 1) without its constant, x (chains, 1)."""
    return -0.5 * (x[:, 0] + 2).square()


def in_twenty_cells(x: Tensor, cdf: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> bool:
    """Whether independent draws fall evenly into twenty cells of equal probability."""
    cells = np.clip((cdf(x.double().numpy().ravel()) * 20).astype(int), 0, 19)
    return bool(stats.chisquare(np.bincount(cells, minlength=20)).pvalue > 1e-3)


@pytest.mark.parametrize(
    ("proposal", "steps"),
    [
        (normal_steps(0.4), stats.norm(0, 0.4)),
        (uniform_steps(0.4), stats.uniform(-0.4, 0.8)),
    ],
    ids=["normal steps", "uniform steps"],
)
def test_the_lectures_normal_from_steps_of_two_fifths(proposal: Proposal, steps: Any) -> None:
    """N(-2, 1) from Metropolis steps of 0.4: 4000 chains, each of which gives one independent draw."""
    x = torch.zeros(4000, 1, dtype=torch.float64)
    state, draws = metropolis_hastings(normal, x, proposal, seeded(), draws=1, burn_in=400)
    assert draws.shape == (4000, 1, 1)
    assert in_twenty_cells(draws, stats.norm(-2, 1).cdf)
    # From a state of N(-2, 1), a step d is accepted with probability 2 Φ(-|d| / 2).
    at_rest, _ = metropolis_hastings(normal, state.x, proposal, seeded(), draws=50)
    expected = steps.expect(lambda d: 2 * stats.norm.cdf(-abs(d) / 2))
    assert float(at_rest.acceptance.mean()) == pytest.approx(expected, abs=0.005)
    # Too short a burn-in fails the same test, and so does a target whose variance is a fifth larger.
    _, early = metropolis_hastings(normal, x, proposal, seeded(), draws=1, burn_in=10)
    assert not in_twenty_cells(early, stats.norm(-2, 1).cdf)
    _, wide = metropolis_hastings(lambda y: normal(y) / 1.2, x, proposal, seeded(), draws=1, burn_in=400)
    assert not in_twenty_cells(wide, stats.norm(-2, 1).cdf)


def test_an_asymmetric_proposal_needs_its_ratio() -> None:
    """Gamma(3) by multiplication with lognormal factors: q(x | x') / q(x' | x) = x' / x."""

    def gamma(x: Tensor) -> Tensor:
        return torch.where(x > 0, 2 * x.log() - x, -torch.inf)

    def multiply(x: Tensor, generator: torch.Generator, *, corrected: bool) -> Proposed:
        factor = torch.exp(0.8 * torch.randn(x.shape, generator=generator, dtype=x.dtype))
        return Proposed(x=x * factor, log_ratio=factor.log() if corrected else None)

    x = torch.ones(4000, dtype=torch.float64)
    for corrected in (True, False):
        proposal = partial(multiply, corrected=corrected)
        _, draws = metropolis_hastings(gamma, x, proposal, seeded(), draws=1, burn_in=80)
        assert in_twenty_cells(draws, stats.gamma(3).cdf) == corrected


def test_states_of_no_density_are_never_entered() -> None:
    def half_normal(x: Tensor) -> Tensor:
        return torch.where(x > 0, -0.5 * x.square(), -torch.inf)

    _, draws = metropolis_hastings(
        half_normal, torch.ones(4000, dtype=torch.float64), normal_steps(1.0), seeded(), draws=20, burn_in=60
    )
    assert (draws > 0).all()
    assert in_twenty_cells(draws[:, -1], stats.halfnorm().cdf)


def test_chains_go_on_where_they_stopped() -> None:
    x, generator = torch.zeros(3, 2), seeded(5)

    def both(state: Tensor) -> Tensor:
        return -0.5 * state.square().sum(1)

    whole, draws = metropolis_hastings(both, x, normal_steps(1.0), seeded(5), draws=6, burn_in=2, thin=3)
    state = start_chains(both, x)
    positions = []
    for _ in range(20):
        state = metropolis_hastings_step(state, both, normal_steps(1.0), generator)
        positions.append(state.x)
    assert torch.equal(draws, torch.stack(positions[4::3], dim=1))
    assert torch.equal(whole.x, state.x)
    assert torch.equal(whole.accepted, state.accepted)
    assert whole.steps == 20
    assert draws.shape == (3, 6, 2)


def test_collect_counts_steps() -> None:
    last, kept = collect(lambda k: k + 1, 0, lambda k: torch.tensor([k]), draws=4, burn_in=10, thin=3)
    assert last == 22
    assert kept.tolist() == [[13, 16, 19, 22]]
    with pytest.raises(ValueError, match="got draws=0, burn_in=-1, thin=1"):
        collect(lambda k: k, 0, lambda k: torch.tensor([k]), draws=0, burn_in=-1)


def test_densities_and_proposals_that_fail_are_named() -> None:
    x = torch.zeros(4, 1)
    with pytest.raises(ValueError, match="p > 0, got p = 0 for 4 of 4"):
        start_chains(lambda state: torch.full((len(state),), -torch.inf), x)
    with pytest.raises(ValueError, match=r"must be \(4,\), one value for each chain, got \(4, 1\)"):
        start_chains(lambda state: state, x)
    with pytest.raises(ValueError, match=r"floating states \(chains, ...\), got \(4,\) torch\.int64"):
        start_chains(normal, torch.zeros(4, dtype=torch.long))
    with pytest.raises(FloatingPointError, match="got nan at step 0 in chain 0"):
        start_chains(lambda state: state[:, 0] * math.nan, x)

    def square_root(state: Tensor) -> Tensor:
        return state[:, 0].sqrt()

    with pytest.raises(FloatingPointError, match=r"log density must be finite or -inf, got nan at step 1 in chain \d"):
        metropolis_hastings(square_root, x, normal_steps(1.0), seeded(), draws=1)
    state = start_chains(normal, x)
    with pytest.raises(ValueError, match=r"keep shape and dtype \(4, 1\) torch\.float32, got \(4,\) torch\.float32"):
        metropolis_hastings_step(state, normal, lambda y, _: Proposed(x=y[:, 0]), seeded())
    with pytest.raises(FloatingPointError, match="proposal's log ratio must be finite or -inf, got inf"):
        metropolis_hastings_step(
            state, normal, lambda y, _: Proposed(x=y, log_ratio=torch.full((4,), torch.inf)), seeded()
        )
    for steps in (normal_steps, uniform_steps):
        with pytest.raises(ValueError, match=r"must be positive and finite, got 0\.0"):
            steps(0.0)


# --- Gibbs -----------------------------------------------------------------------------------------------------------


def coin(block: list[int], probability: Callable[[Tensor], Tensor]) -> Conditional:
    """Draws binary variables, given the probability that each is one."""
    return Conditional(block=torch.tensor(block), draw=lambda x, g: torch.bernoulli(probability(x), generator=g))


def test_gibbs_reaches_the_exact_distribution_and_a_wrong_conditional_does_not() -> None:
    """Two binary variables a, b against a third c: p is proportional to exp(1.2 c (a - b) - 0.5 a + 0.3 c)."""
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    a, b, c = states.T
    exact = torch.softmax(1.2 * c * (a - b) - 0.5 * a + 0.3 * c, 0).numpy()

    def passes(strength: float) -> bool:
        pair = coin([0, 1], lambda x: torch.sigmoid(torch.stack([1.2 * x[:, 2] - 0.5, -1.2 * x[:, 2]], 1)))
        third = coin([2], lambda x: torch.sigmoid(strength * (x[:, :1] - x[:, 1:2]) + 0.3))
        generator, start = seeded(), torch.zeros(20_000, 3, dtype=torch.float64)
        _, draws = collect(lambda x: gibbs_sweep(x, [pair, third], generator), start, lambda x: x, draws=1, burn_in=20)
        numbers = (draws[:, 0] @ torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)).long()
        return bool(stats.chisquare(np.bincount(numbers, minlength=8), exact * 20_000).pvalue > 1e-3)

    assert passes(1.2)
    assert not passes(1.0)


def test_gibbs_of_correlated_normals() -> None:
    def given_other(other: int) -> Callable[[Tensor, torch.Generator], Tensor]:
        return lambda x, g: 0.8 * x[:, [other]] + 0.6 * torch.randn(len(x), 1, generator=g, dtype=x.dtype)

    blocks = [Conditional(block=torch.tensor([i]), draw=given_other(1 - i)) for i in range(2)]
    generator = seeded()
    x = torch.full((4000, 2), 3.0, dtype=torch.float64)
    for _ in range(40):
        x = gibbs_sweep(x, blocks, generator)
    assert in_twenty_cells(x[:, 0], stats.norm().cdf)
    assert in_twenty_cells((x[:, 0] - x[:, 1]) / math.sqrt(0.4), stats.norm().cdf)
    assert not in_twenty_cells((x[:, 0] - x[:, 1]) / math.sqrt(0.5), stats.norm().cdf)


def test_conditionals_that_do_not_fit() -> None:
    for block in (torch.tensor([0, 0]), torch.tensor([0.0]), torch.tensor(0)):
        with pytest.raises(ValueError, match="none of them twice"):
            Conditional(block=block, draw=lambda x, _: x)
    wrong = Conditional(block=torch.tensor([0]), draw=lambda x, _: x)
    with pytest.raises(ValueError, match=r"must draw \(2, 1\) values for the block \[0\], got \(2, 3\)"):
        gibbs_sweep(torch.zeros(2, 3), [wrong], seeded())


# --- annealing -------------------------------------------------------------------------------------------------------


def test_schedules() -> None:
    np.testing.assert_allclose(geometric_cooling(8.0, 0.5, 5).numpy(), [8, 4, 2, 1, 0.5])
    np.testing.assert_allclose(logarithmic_cooling(3.0, 4).numpy(), 3 * math.log(2) / np.log([2, 3, 4, 5]), rtol=1e-12)
    for first, last, steps in ((0.0, 1.0, 3), (1.0, -1.0, 3), (math.inf, 1.0, 3)):
        with pytest.raises(ValueError, match="Temperatures must be positive and finite, got"):
            geometric_cooling(first, last, steps)
    with pytest.raises(ValueError, match="1 step or more, got 0 steps"):
        logarithmic_cooling(1.0, 0)
    with pytest.raises(ValueError, match=r"must be \(steps,\), got \(\)"):
        simulated_annealing(lambda x: x, torch.zeros(1), normal_steps(1.0), torch.tensor(1.0), seeded())


def rastrigin(x: Tensor) -> Tensor:
    """Minima near all integers, the lowest at 0."""
    return (x.square() - 2 * torch.cos(2 * math.pi * x) + 2).sum(1)


def test_annealing_finds_the_minimum_where_a_quench_stays_in_the_next_best() -> None:
    x = torch.full((50, 2), 4.0, dtype=torch.float64)
    slow = simulated_annealing(rastrigin, x, uniform_steps(0.45), geometric_cooling(5.0, 0.05, 2000), seeded())
    quench = simulated_annealing(rastrigin, x, uniform_steps(0.45), torch.full((2000,), 0.01), seeded())
    assert (slow.best.abs() < 0.3).all(1).double().mean() > 0.9
    assert not (quench.best.abs() < 0.3).all(1).any()
    assert torch.equal(slow.best_energy, rastrigin(slow.best))
    assert torch.equal(slow.energy, rastrigin(slow.x))
    assert (slow.best_energy <= slow.energy + 1e-12).all()


def test_annealing_finds_the_ground_state_of_a_spin_glass() -> None:
    couplings = torch.randn(12, 12, generator=seeded(3), dtype=torch.float64)
    glass = Ising.on_pairs((couplings + couplings.T).fill_diagonal_(0))
    least = float(glass.energy(all_spins(glass)).min())

    def turn_one(spins: Tensor, generator: torch.Generator) -> Proposed:
        site = torch.randint(0, 12, (len(spins), 1), generator=generator)
        return Proposed(x=spins.scatter(1, site, -spins.gather(1, site)))

    start = glass.random_spins(50, seeded())
    found = simulated_annealing(glass.energy, start, turn_one, geometric_cooling(20.0, 0.3, 600), seeded())
    assert float(found.best_energy.min()) == pytest.approx(least, abs=1e-10)
    assert (found.best_energy < least + 1e-9).double().mean() > 0.5


# --- diagnostics -----------------------------------------------------------------------------------------------------


def import_arviz() -> Any:
    with warnings.catch_warnings():
        # arviz 0.23 announces its next version as soon as it is imported.
        warnings.simplefilter("ignore")
        return pytest.importorskip("arviz")


def test_arviz_tells_mixed_chains_from_stuck_ones() -> None:
    arviz = import_arviz()
    start = torch.linspace(-12, 8, 8, dtype=torch.float64)[:, None]
    _, draws = metropolis_hastings(normal, start, normal_steps(2.4), seeded(), draws=1000, burn_in=100)
    mixed = draws[..., 0].numpy()
    assert float(arviz.rhat(mixed)) < 1.01
    size = float(arviz.ess(mixed))
    assert 500 < size < 8000
    assert mixed.mean() == pytest.approx(-2, abs=4.5 / math.sqrt(size))
    _, stuck = metropolis_hastings(normal, start, normal_steps(0.05), seeded(), draws=200)
    assert float(arviz.rhat(stuck[..., 0].numpy())) > 1.5
