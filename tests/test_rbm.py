"""Units and machines against sums over all states, and integrals over real ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, LimitedState, RectifiedGaussian, Units

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
