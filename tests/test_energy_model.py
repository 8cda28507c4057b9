"""The gradient of the likelihood from statistics of any sampler, and the update rule, against the formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harmonium.models.energy_model import (
    Statistics,
    free_energy_statistics,
    set_gradient,
    unnormalised_log_likelihood,
    update,
)
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, LimitedState

from .enumeration import assert_same, binary, expected, gradients, joint_energies, randomise, states


def small(seed: int = 0) -> RBM:
    rbm = RBM(Bernoulli(size=5), Bernoulli(size=4)).double()
    randomise(rbm, seed, 0.8)
    return rbm


def exact_gradient(rbm: RBM, data: Tensor) -> dict[str, Tensor | None]:
    """Of -log p, by automatic differentiation of the likelihood summed over all states."""
    rbm.zero_grad()
    log_z = torch.logsumexp(unnormalised_log_likelihood(rbm, binary(5)), 0)
    (log_z - unnormalised_log_likelihood(rbm, data).mean()).backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in rbm.named_parameters() if p.grad is not None}
    rbm.zero_grad()
    return dict(found)


DATA = binary(5)[[3, 7, 7, 28, 31, 0]]


@torch.no_grad()
def test_unnormalised_log_likelihood_sums_over_the_hidden_states() -> None:
    rbm = small()
    wanted = torch.logsumexp(-joint_energies(rbm, DATA, binary(4)), 1)
    torch.testing.assert_close(unnormalised_log_likelihood(rbm, DATA), wanted, rtol=0, atol=1e-10)


def test_positive_minus_negative_phase_is_the_exact_gradient() -> None:
    rbm = small()
    exact = exact_gradient(rbm, DATA)
    p = torch.softmax(-rbm.free_energy(binary(5)).detach(), 0)
    negative = expected([rbm.statistics(v[None]) for v in binary(5)], p)
    set_gradient(rbm, rbm.statistics(DATA), negative)
    assert_same({name: g for name, g in gradients(rbm).items() if g is not None}, exact, atol=1e-10)


def test_negative_particles_may_come_from_any_sampler() -> None:
    """Exact draws of a table stand in for one: the gradient is the exact one to within its standard error."""
    rbm = small()
    exact = exact_gradient(rbm, DATA)
    p = torch.softmax(-rbm.free_energy(binary(5)).detach(), 0)
    count = 40_000
    drawn = binary(5)[torch.multinomial(p, count, replacement=True, generator=torch.Generator().manual_seed(0))]
    set_gradient(rbm, rbm.statistics(DATA), rbm.statistics(drawn))
    # Every statistic lies between 0 and 1: its standard error is at most 1 / (2 √count).
    assert_same({name: g for name, g in gradients(rbm).items() if g is not None}, exact, atol=4.5 * 0.5 / count**0.5)


def test_statistics_by_automatic_differentiation_are_those_in_closed_form() -> None:
    rbm = RBM(Gaussian(size=3), LimitedState(size=2, states=4)).double()
    randomise(rbm)
    v = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, closed = free_energy_statistics(rbm, v), rbm.statistics(v)
    assert found.count == closed.count
    assert_same(found.sums, dict(closed.sums), atol=1e-10)


def test_hidden_units_that_learn_a_variance_have_statistics_by_automatic_differentiation() -> None:
    rbm = RBM(Bernoulli(size=2), Gaussian(size=1)).double()
    randomise(rbm, scale=0.3)
    (h, log_h), v = states(rbm.hidden), binary(2)
    summed = torch.logsumexp(log_h - joint_energies(rbm, v, h), 1).sum()
    summed.backward()  # type: ignore[no-untyped-call]
    assert_same(free_energy_statistics(rbm, v).sums, gradients(rbm), atol=1e-8)


def test_automatic_differentiation_gives_zeros_where_nothing_depends_on_a_parameter() -> None:
    rbm = small()
    rbm.register_parameter("idle", torch.nn.Parameter(torch.ones(2)))
    assert torch.equal(free_energy_statistics(rbm, DATA).sums["idle"], torch.zeros(2))


@given(cuts=st.lists(st.integers(1, 5), max_size=3, unique=True), seed=st.integers(0, 99))
def test_statistics_merge_in_any_order(cuts: list[int], seed: int) -> None:
    rbm = small(seed)
    parts = [rbm.statistics(part) for part in torch.tensor_split(DATA, sorted(cuts))]
    order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(seed)).tolist()
    merged = parts[order[0]]
    for index in order[1:]:
        merged = merged.merge(parts[index])
    whole = rbm.statistics(DATA)
    assert merged.count == whole.count == len(DATA)
    assert_same(merged.sums, dict(whole.sums), atol=1e-12)


@given(rate=st.floats(1e-3, 0.5), momentum=st.floats(0.0, 0.95), decay=st.floats(0.0, 0.1), seed=st.integers(0, 99))
def test_sgd_is_the_update_rule(rate: float, momentum: float, decay: float, seed: int) -> None:
    """Δθ(t) = ν Δθ(t-1) + η (∂ log p / ∂θ - λ θ)."""
    rbm = small(seed)
    optimiser = torch.optim.SGD(rbm.parameters(), lr=rate, momentum=momentum, weight_decay=decay)
    theta = {name: p.detach().clone() for name, p in rbm.named_parameters()}
    delta = {name: torch.zeros_like(p) for name, p in theta.items()}
    for step in range(6):
        set_gradient(rbm, rbm.statistics(DATA), rbm.statistics(binary(5)[step : step + 3]))
        ascent = {name: -g for name, g in gradients(rbm).items() if g is not None}
        update(rbm, optimiser, step)
        for name in theta:
            delta[name] = momentum * delta[name] + rate * (ascent[name] - decay * theta[name])
            theta[name] = theta[name] + delta[name]
    assert_same({name: p.detach() for name, p in rbm.named_parameters()}, dict(theta), atol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(value: float) -> None:
    rbm = small()
    before = {name: p.detach().clone() for name, p in rbm.named_parameters()}
    positive = rbm.statistics(DATA)
    sums = dict(positive.sums)
    sums["hidden_parameters.bias"] = torch.tensor([0.0, value, 0.0, 0.0]).double()
    set_gradient(rbm, positive, Statistics(count=6, sums=sums))
    optimiser = torch.optim.SGD(rbm.parameters(), lr=0.125)
    message = r"gradient of 'hidden_parameters.bias' of layer 2 left the finite numbers at step 17; .*\(now 0.125\)"
    with pytest.raises(FloatingPointError, match=message):
        update(rbm, optimiser, 17, "layer 2")
    assert_same({name: p.detach() for name, p in rbm.named_parameters()}, dict(before), atol=0)


def test_a_step_that_leaves_the_finite_numbers_is_taken_back() -> None:
    rbm = small()
    before = {name: p.detach().clone() for name, p in rbm.named_parameters()}
    optimiser = torch.optim.SGD(rbm.parameters(), lr=1e300)
    set_gradient(rbm, rbm.statistics(DATA), rbm.statistics(DATA[:1]))
    for parameter in rbm.parameters():
        assert parameter.grad is not None
        parameter.grad *= 1e20
    with pytest.raises(FloatingPointError, match=r"Parameter 'weight' of the model .* step 3; lower the learning rate"):
        update(rbm, optimiser, 3)
    assert_same({name: p.detach() for name, p in rbm.named_parameters()}, dict(before), atol=0)
