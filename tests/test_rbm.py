"""Units and machines against sums over all states, and integrals over real ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from harmonium.models.categorical import Categorical
from harmonium.models.contrastive_divergence import Schedule, set_gradient, train
from harmonium.models.energy_model import free_energy_statistics
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, LimitedState, RectifiedGaussian, Units

from .enumeration import assert_same, chi_square, counts_of, expected, gradients, joint_energies, randomise, states

VISIBLE = (Bernoulli, Gaussian, RectifiedGaussian, LimitedState)
HIDDEN = (Bernoulli, RectifiedGaussian, LimitedState)

Kind = type[Units]


def layer(kind: Kind, size: int) -> Units:
    return LimitedState(size=size, states=5, spacing=0.75) if kind is LimitedState else kind(size=size)


def machine(visible: Kind, hidden: Kind, sizes: tuple[int, int] = (2, 2), seed: int = 0, scale: float = 0.4) -> RBM:
    rbm = RBM(layer(visible, sizes[0]), layer(hidden, sizes[1])).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.normal_(0.0, scale, generator=generator)
    return rbm


def axis(units: Units) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States of one unit and their weights: those of Gauss and Legendre for reals."""
    if isinstance(units, Bernoulli):
        values, weights = np.array([0.0, 1.0]), np.ones(2)
    elif isinstance(units, LimitedState):
        values = (np.arange(units.states) - (units.states - 1) / 2) * units.spacing
        weights = np.ones(units.states)
    else:
        low, high = (0.0, 14.0) if isinstance(units, RectifiedGaussian) else (-14.0, 14.0)
        nodes, weights = np.polynomial.legendre.leggauss(100)
        values = low + (nodes + 1) / 2 * (high - low)
        weights = weights * (high - low) / 2
    return values, weights


def grid(units: Units) -> tuple[Tensor, Tensor]:
    """All states of a layer (n, size), and the logarithms of their weights (n,)."""
    values, weights = axis(units)
    states = np.array(list(itertools.product(values, repeat=units.size)))
    log_weights = np.log(np.array(list(itertools.product(weights, repeat=units.size)))).sum(1)
    return torch.from_numpy(states), torch.from_numpy(log_weights)


def some_states(units: Units, count: int = 5, seed: int = 1) -> Tensor:
    values, _ = axis(units)
    near = values[np.abs(values) < 3]
    return torch.from_numpy(np.random.default_rng(seed).choice(near, (count, units.size)))


def energies_over_hidden(rbm: RBM, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (n, hidden), their log weights (n,), and energies (batch, n)."""
    h, log_weights = grid(rbm.hidden)
    return h, log_weights, torch.stack([rbm.energy(row.expand(len(h), -1), h) for row in v])


pairings = pytest.mark.parametrize(
    ("visible", "hidden"), list(itertools.product(VISIBLE, HIDDEN)), ids=lambda kind: kind.__name__
)


def own_energy(units: Units, x: Tensor, bias: Tensor, variance: Tensor) -> float:
    if isinstance(units, Bernoulli):
        return -float((bias * x).sum())
    if isinstance(units, Gaussian):
        return float(((x - bias) ** 2 / (2 * variance)).sum())
    return float((x**2 / 2 - bias * x).sum())


@pairings
@torch.no_grad()
def test_energy_is_the_formula(visible: Kind, hidden: Kind) -> None:
    rbm = machine(visible, hidden, (3, 2))
    v, h = some_states(rbm.visible), some_states(rbm.hidden)
    variance = rbm.visible_parameters["log_variance"].exp() if visible is Gaussian else torch.ones(3)
    for row, (x, y) in enumerate(zip(v, h, strict=True)):
        expected = (
            own_energy(rbm.visible, x, rbm.visible_parameters["bias"], variance)
            + own_energy(rbm.hidden, y, rbm.hidden_parameters["bias"], torch.ones(2))
            - float((x / variance) @ rbm.weight @ y)
        )
        assert float(rbm.energy(v, h)[row]) == pytest.approx(expected, abs=1e-12)


@pairings
@torch.no_grad()
def test_free_energy_sums_the_hidden_layer_out(visible: Kind, hidden: Kind) -> None:
    rbm = machine(visible, hidden)
    v = some_states(rbm.visible)
    _, log_weights, energies = energies_over_hidden(rbm, v)
    torch.testing.assert_close(rbm.free_energy(v), -torch.logsumexp(log_weights - energies, 1), rtol=0, atol=1e-9)


@given(
    visible=st.sampled_from((Bernoulli, LimitedState)),
    hidden=st.sampled_from((Bernoulli, LimitedState)),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    seed=st.integers(0, 1000),
    scale=st.sampled_from((0.1, 1.0, 5.0)),
)
@torch.no_grad()
def test_free_energy_for_any_size(visible: Kind, hidden: Kind, sizes: tuple[int, int], seed: int, scale: float) -> None:
    rbm = machine(visible, hidden, sizes, seed, scale)
    v = some_states(rbm.visible, seed=seed)
    _, log_weights, energies = energies_over_hidden(rbm, v)
    torch.testing.assert_close(rbm.free_energy(v), -torch.logsumexp(log_weights - energies, 1), rtol=1e-9, atol=1e-9)


@pairings
@torch.no_grad()
def test_conditionals_of_the_hidden_layer(visible: Kind, hidden: Kind) -> None:
    rbm = machine(visible, hidden)
    v = some_states(rbm.visible)
    h, log_weights, energies = energies_over_hidden(rbm, v)
    torch.testing.assert_close(rbm.mean_hidden(v), torch.softmax(log_weights - energies, 1) @ h, rtol=0, atol=1e-8)
    # No state has less energy than the mode.
    assert (rbm.energy(v, rbm.mode_hidden(v)) <= energies.amin(1) + 1e-12).all()


@pairings
@torch.no_grad()
def test_conditionals_of_the_visible_layer(visible: Kind, hidden: Kind) -> None:
    rbm = machine(visible, hidden)
    h = some_states(rbm.hidden)
    v, log_weights = grid(rbm.visible)
    energies = torch.stack([rbm.energy(v, row.expand(len(v), -1)) for row in h])
    torch.testing.assert_close(rbm.mean_visible(h), torch.softmax(log_weights - energies, 1) @ v, rtol=0, atol=1e-8)


# --- samples ---------------------------------------------------------------------------------------------------------


def sample_is_drawn_from(draw: Callable[[Tensor], Tensor], units: Units, a: Tensor, log_p: Tensor) -> bool:
    """Whether 20 000 draws pass for the density exp(log_p) (up to a factor) on the grid of a layer of one unit."""
    states, log_weights = grid(units)
    p = torch.softmax(log_p + log_weights, 0).numpy()
    x = draw(a.expand(20_000, -1)).numpy()[:, 0]
    values = states.numpy()[:, 0]
    if isinstance(units, Gaussian | RectifiedGaussian):
        mean = float(p @ values)
        deviation = math.sqrt(float(p @ (values - mean) ** 2))
        z = (x.mean() - mean) / deviation * math.sqrt(len(x))
        spread = (x.std() / deviation - 1) * math.sqrt(len(x))
        return bool(abs(z) < 4 and abs(spread) < 8)
    counts = np.array([(np.abs(x - value) < 1e-9).sum() for value in values])
    likely = p * len(x) > 5
    if counts.sum() != len(x) or counts[~likely].sum() > 30:
        return False
    rest = np.array([p[~likely].sum() * len(x) + 1e-9])
    expected = np.append(p[likely] * len(x), rest)
    observed = np.append(counts[likely], counts[~likely].sum())
    return bool(stats.chi2.sf(((observed - expected) ** 2 / (expected + 1e-6)).sum(), likely.sum()) > 1e-4)


@pytest.mark.parametrize("kind", VISIBLE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("strength", [-2.0, 0.3, 1.7])
@torch.no_grad()
def test_samples_follow_the_conditional_and_wrong_ones_are_noticed(kind: Kind, strength: float) -> None:
    units = layer(kind, 1)
    parameters = {name: torch.full((1,), 0.2).double() for name in units.initial_parameters()}
    a = torch.full((1,), strength).double()
    states, _ = grid(units)
    log_p = units.coupled(states, parameters)[:, 0] * a - units.self_energy(states, parameters)
    generator = torch.Generator().manual_seed(0)

    def right(inputs: Tensor) -> Tensor:
        return units.sample(inputs, parameters, generator)

    def wrong(inputs: Tensor) -> Tensor:
        return units.sample(inputs + 0.1, parameters, generator)

    assert sample_is_drawn_from(right, units, a, log_p)
    assert not sample_is_drawn_from(wrong, units, a, log_p)


@pytest.mark.parametrize("m", [4.0, 0.0, -4.9, -8.0, -9.9, -50.0])
@torch.no_grad()
def test_rectified_units_far_from_zero_in_float32(m: float) -> None:
    """Where a normal's tail has few digits of float32 left."""
    units, parameters = RectifiedGaussian(size=1), {"bias": torch.zeros(1)}
    exact = stats.truncnorm(-m, np.inf, loc=m)
    a = torch.full((50_000, 1), m)
    assert float(units.mean(a, parameters)[0]) == pytest.approx(exact.mean(), rel=1e-3)
    x = units.sample(a, parameters, torch.Generator().manual_seed(1)).double().numpy()[:, 0]
    assert stats.ks_1samp(x, exact.cdf).pvalue > 1e-4
    assert float(units.log_partition(a, parameters)[0]) == pytest.approx(
        0.5 * m * m + 0.5 * math.log(2 * math.pi) + stats.norm.logcdf(m), rel=1e-4
    )


@pytest.mark.parametrize("m", [-1e3, -1e4, -1e5])
def test_rectified_mean_has_no_cancellation(m: float) -> None:
    mean = RectifiedGaussian(size=1).mean(torch.tensor([[m]]), {"bias": torch.zeros(1)})
    assert float(mean) == pytest.approx(-1 / m, rel=1e-4)


def test_limited_state_weights_keep_their_digits_at_large_values() -> None:
    units = LimitedState(size=1, states=16_001, spacing=1.0)
    a, parameters = torch.tensor([[5000.25]]), {"bias": torch.zeros(1)}
    exact = units.mean(a.double(), {"bias": torch.zeros(1).double()})
    assert float(units.mean(a, parameters)) == pytest.approx(float(exact), abs=1e-3)


@given(m=st.lists(st.floats(-30, 30), min_size=1, max_size=5))
def test_two_states_are_a_shifted_bernoulli_unit(m: list[float]) -> None:
    two, one = LimitedState(size=len(m), states=2), Bernoulli(size=len(m))
    a, bias = torch.tensor([m]).double(), {"bias": torch.zeros(len(m)).double()}
    torch.testing.assert_close(two.mean(a, bias) + 0.5, one.mean(a, bias))
    # exp(-x²/2) is the same at both states, ±1/2; the input adds ±a/2.
    torch.testing.assert_close(two.log_partition(a, bias), one.log_partition(a, bias) - a / 2 - 0.125)


@given(
    m=st.lists(st.floats(-50, 50), min_size=1, max_size=6),
    states=st.integers(2, 40),
    spacing=st.sampled_from((0.25, 0.7, 1.0, 3.0)),
)
def test_mode_of_limited_states_is_uniform_rounding(m: list[float], states: int, spacing: float) -> None:
    units = LimitedState(size=len(m), states=states, spacing=spacing)
    values = (np.arange(states) - (states - 1) / 2) * spacing
    mode = units.mode(torch.tensor([m]).double(), {"bias": torch.zeros(len(m)).double()}).numpy()[0]
    nearest = np.abs(np.array(m)[:, None] - values).min(axis=1)
    np.testing.assert_allclose(np.abs(np.array(m) - mode), nearest, atol=1e-12)
    assert np.isclose(mode[:, None], values).any(axis=1).all()


@pytest.mark.parametrize(("states", "spacing"), [(1, 1.0), (3, 0.0), (3, -1.0), (3, math.nan), (3, math.inf)], ids=str)
def test_limited_states_that_cannot_be(states: int, spacing: float) -> None:
    with pytest.raises(ValueError, match="states >= 2 and a finite spacing > 0, got states="):
        LimitedState(size=1, states=states, spacing=spacing)


def test_initialise_draws_small_weights() -> None:
    rbm = RBM(Bernoulli(size=40), Bernoulli(size=50)).initialise(torch.Generator().manual_seed(0))
    assert float(rbm.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert not rbm.visible_parameters["bias"].any()


# --- further kinds of unit -------------------------------------------------------------------------------------------

LABELS = Categorical(size=2, states=3)
FIXED = Gaussian(size=2, variance=0.7)
PAIRS: list[tuple[Units, Units]] = [
    (LABELS, Bernoulli(size=3)),
    (LABELS, Categorical(size=2, states=4)),
    (Bernoulli(size=3), LABELS),
    (LABELS, FIXED),
    (LABELS, Gaussian(size=2)),
    (FIXED, Bernoulli(size=3)),
    (FIXED, LABELS),
    (RectifiedGaussian(size=2), LABELS),
]
further = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(type(units).__name__ for units in pair))


def randomised(pair: tuple[Units, Units], seed: int = 0, scale: float = 0.5) -> RBM:
    rbm = RBM(*pair).double()
    randomise(rbm, seed, scale)
    return rbm


@further
@torch.no_grad()
def test_further_kinds_against_sums_over_all_states(pair: tuple[Units, Units]) -> None:
    rbm = randomised(pair)
    (v, log_v), (h, log_h) = states(rbm.visible), states(rbm.hidden)
    some_v, some_h = v[:: max(1, len(v) // 7)], h[:: max(1, len(h) // 7)]
    up, down = joint_energies(rbm, some_v, h), joint_energies(rbm, v, some_h)
    torch.testing.assert_close(rbm.free_energy(some_v), -torch.logsumexp(log_h - up, 1), rtol=0, atol=1e-8)
    torch.testing.assert_close(rbm.mean_hidden(some_v), torch.softmax(log_h - up, 1) @ h, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        rbm.mean_visible(some_h), torch.softmax(log_v[:, None] - down, 0).T @ v, rtol=0, atol=1e-8
    )
    assert (rbm.energy(some_v, rbm.mode_hidden(some_v)) <= up.amin(1) + 1e-12).all()


@further
def test_gradients_of_further_kinds_are_those_of_the_exact_likelihood(pair: tuple[Units, Units]) -> None:
    visible, hidden = pair
    # One real unit: two would need the statistics of 10 000 points.
    rbm = randomised(
        (replace(visible, size=1) if isinstance(visible, Gaussian | RectifiedGaussian) else visible, hidden)
    )
    v, log_v = states(rbm.visible)
    data = v[[3, 1, 1, -2]]
    likelihood = -rbm.free_energy(data).mean() - torch.logsumexp(log_v - rbm.free_energy(v), 0)
    (-likelihood).backward()  # type: ignore[no-untyped-call]
    exact = gradients(rbm)
    p = torch.softmax(log_v - rbm.free_energy(v).detach(), 0)
    heavy = p > 1e-14
    negative = expected([rbm.statistics(row[None]) for row in v[heavy]], p[heavy])
    set_gradient(rbm, rbm.statistics(data), negative)
    assert_same({name: g for name, g in gradients(rbm).items() if g is not None}, exact, atol=1e-8)


@given(
    kind=st.sampled_from((Bernoulli, Gaussian, RectifiedGaussian)),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    seed=st.integers(0, 99),
)
def test_statistics_of_hidden_units_that_learn_a_variance(kind: Kind, sizes: tuple[int, int], seed: int) -> None:
    """Against automatic differentiation of the free energy."""
    rbm = randomised((kind(size=sizes[0]), Gaussian(size=sizes[1])), seed)
    v = torch.rand(5, sizes[0], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = rbm.statistics(v)
    assert "hidden_parameters.log_variance" in found.sums
    assert_same(found.sums, dict(free_energy_statistics(rbm, v).sums), atol=1e-8)
    # The mean alone is not enough: a half of a state's square is its variance.
    mean = rbm.mean_hidden(v).detach()
    with torch.no_grad():
        a = mean - rbm.hidden_parameters["bias"]
        of_the_mean = rbm.hidden.statistics(mean, a, rbm.hidden_parameters)["log_variance"]
    torch.testing.assert_close(found.sums["hidden_parameters.log_variance"], of_the_mean + 5 / 2)


@torch.no_grad()
def test_energy_of_labels_is_the_formula_of_potts() -> None:
    rbm = randomised((LABELS, Bernoulli(size=3)))
    k, h = torch.tensor([[2, 0], [1, 1]]), torch.tensor([[1.0, 0, 1], [0, 1, 1]]).double()
    weight = rbm.weight.reshape(2, 3, 3)
    bias = rbm.visible_parameters["bias"].reshape(2, 3)
    for row in range(2):
        wanted = -float(h[row] @ rbm.hidden_parameters["bias"])
        for unit in range(2):
            wanted -= float(bias[unit, k[row, unit]] + weight[unit, k[row, unit]] @ h[row])
        assert float(rbm.energy(LABELS.one_hot(k, torch.float64), h)[row]) == pytest.approx(wanted, abs=1e-12)


@torch.no_grad()
def test_two_labels_are_a_bernoulli_unit() -> None:
    two, one = Categorical(size=3, states=2), Bernoulli(size=3)
    a = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    zeros, zero = ({"bias": torch.zeros(n, dtype=torch.float64)} for n in (6, 3))
    difference = a[:, 1::2] - a[:, ::2]
    torch.testing.assert_close(two.mean(a, zeros)[:, 1::2], one.mean(difference, zero))
    torch.testing.assert_close(two.log_partition(a, zeros) - a[:, ::2], one.log_partition(difference, zero))


@torch.no_grad()
def test_draws_of_labels() -> None:
    units = Categorical(size=2, states=3)
    a = torch.tensor([0.3, -1.0, 0.8, 0.0, 2.0, -3.0]).double()
    bias = {"bias": torch.linspace(-0.5, 0.5, 6).double()}
    everything, _ = states(units)
    p = torch.softmax(everything @ (a + bias["bias"]), 0)
    generator = torch.Generator().manual_seed(0)
    right = units.sample(a.expand(20_000, -1), bias, generator)
    wrong = units.sample(1.1 * a.expand(20_000, -1), bias, generator)
    assert chi_square(counts_of(right, everything), p) > 1e-3
    assert chi_square(counts_of(wrong, everything), p) < 1e-6


@given(states=st.integers(2, 6), labels=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_labels_and_one_hot_states_are_the_same(states: int, labels: list[int]) -> None:
    units = Categorical(size=len(labels), states=states)
    k = torch.tensor([labels])
    if max(labels) >= states:
        with pytest.raises(ValueError, match=f"labels from 0 to {states - 1}, got {min(labels)} to {max(labels)}"):
            units.one_hot(k)
    else:
        x = units.one_hot(k)
        assert x.shape == (1, units.width)
        assert torch.equal(units.labels(x), k)


def test_labels_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="states >= 2, got states=1"):
        Categorical(size=1, states=1)
    with pytest.raises(ValueError, match=r"integer labels \(batch, 2\), got \(1, 2\) torch.float32"):
        LABELS.one_hot(torch.zeros(1, 2))


def test_a_fixed_variance_stays() -> None:
    rbm = RBM(Gaussian(size=3, variance=0.25), Bernoulli(size=2))
    kept = rbm.visible_parameters["log_variance"]
    assert not kept.requires_grad
    torch.testing.assert_close(kept, torch.full((3,), math.log(0.25)))
    v = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert set(rbm.statistics(v).sums) == {"weight", "visible_parameters.bias", "hidden_parameters.bias"}
    list(train(rbm, itertools.repeat(v), Schedule(steps=5), torch.Generator().manual_seed(0)))
    assert torch.equal(rbm.visible_parameters["log_variance"], torch.full((3,), math.log(0.25)))
    with pytest.raises(ValueError, match=r"variance > 0.*got 0.0"):
        Gaussian(size=1, variance=0.0)


def test_states_of_another_shape_or_type_are_refused() -> None:
    rbm = RBM(Bernoulli(size=4), LABELS)
    with pytest.raises(ValueError, match=r"Expected visible states \(batch, 4\).*found shape \(2, 5\)"):
        rbm.free_energy(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"Expected hidden states \(batch, 6\).*states=3.*found shape \(2, 2\)"):
        rbm.mean_visible(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"Expected visible states of torch.float32.*found torch.float64"):
        rbm.sample_hidden(torch.zeros(2, 4).double(), torch.Generator())


@pytest.mark.parametrize("pair", [(Bernoulli(size=2), LABELS), (FIXED, Bernoulli(size=2))], ids=["discrete", "real"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 1.7])
@torch.no_grad()
def test_inverse_temperatures_multiply_biases_and_weights(pair: tuple[Units, Units], beta: float) -> None:
    rbm = randomised(pair)
    (v, log_v), (h, log_h) = states(rbm.visible), states(rbm.hidden)
    biases = rbm.visible.coupled(v, rbm.visible_parameters) @ rbm.visible_parameters["bias"]
    energy = joint_energies(rbm, v, h)
    own = joint_energies_without_interaction(rbm, v, h) + biases[:, None] + h @ rbm.hidden_parameters["bias"]
    tempered = own + beta * (energy - own)
    some = slice(None, None, max(1, len(v) // 9))
    inverse = torch.full((len(v[some]),), beta, dtype=torch.float64)
    log_p = log_h - tempered[some]
    torch.testing.assert_close(rbm.free_energy(v[some], inverse), -torch.logsumexp(log_p, 1), rtol=0, atol=1e-8)
    torch.testing.assert_close(rbm.mean_hidden(v[some], inverse), torch.softmax(log_p, 1) @ h, rtol=0, atol=1e-8)
    down = torch.softmax(log_v[:, None] - tempered, 0).T @ v
    found = rbm.mean_visible(h, torch.full((len(h),), beta, dtype=torch.float64))
    torch.testing.assert_close(found, down, rtol=0, atol=1e-8)


def joint_energies_without_interaction(rbm: RBM, v: Tensor, h: Tensor) -> Tensor:
    own_v = rbm.visible.self_energy(v, rbm.visible_parameters)
    return own_v[:, None] + rbm.hidden.self_energy(h, rbm.hidden_parameters)
