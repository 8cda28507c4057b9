"""The learning rule against gradients of the exact likelihood, by enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harmonium.models import contrastive_divergence
from harmonium.models.contrastive_divergence import Schedule, Statistics, negative_particles, set_gradient, statistics
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, LimitedState, RectifiedGaussian, Units

VISIBLE: list[Units] = [
    Bernoulli(size=3),
    Gaussian(size=3),
    RectifiedGaussian(size=3),
    LimitedState(size=3, states=5, spacing=0.5),
]
HIDDEN: list[Units] = [Bernoulli(size=2), RectifiedGaussian(size=2), LimitedState(size=2, states=4, spacing=1.5)]


def machine(visible: Units, hidden: Units, seed: int = 0, scale: float = 0.5) -> RBM:
    rbm = RBM(visible, hidden).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.normal_(0.0, scale, generator=generator)
    return rbm


def binary_states(size: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=size)), dtype=torch.float64)


def log_likelihood(rbm: RBM, v: Tensor) -> Tensor:
    """Mean log p(v) of a machine whose visible units are binary."""
    return -rbm.free_energy(v).mean() - torch.logsumexp(-rbm.free_energy(binary_states(rbm.visible.size)), 0)


def gradients(rbm: RBM) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in rbm.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("visible", VISIBLE, ids=lambda units: type(units).__name__)
@pytest.mark.parametrize("hidden", HIDDEN, ids=lambda units: type(units).__name__)
@given(seed=st.integers(0, 100), count=st.integers(1, 6))
def test_statistics_are_the_gradient_of_the_free_energy(visible: Units, hidden: Units, seed: int, count: int) -> None:
    rbm = machine(visible, hidden, seed)
    v = torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = statistics(rbm, v)
    (-rbm.free_energy(v).sum()).backward()  # type: ignore[no-untyped-call]
    assert found.count == count
    assert set(found.sums) == set(gradients(rbm))
    for name, gradient in gradients(rbm).items():
        torch.testing.assert_close(found.sums[name], gradient, rtol=0, atol=1e-8)


def test_statistics_of_parts_merge() -> None:
    rbm = machine(VISIBLE[1], HIDDEN[1])
    v = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole, merged = statistics(rbm, v), statistics(rbm, v[:2]).merge(statistics(rbm, v[2:]))
    assert merged.count == whole.count
    for name, value in whole.sums.items():
        torch.testing.assert_close(merged.sums[name], value)


def exact_negative(rbm: RBM) -> Statistics:
    """Statistics under the model's own distribution, as of one state."""
    v = binary_states(rbm.visible.size)
    p = torch.softmax(-rbm.free_energy(v), 0)
    parts = [statistics(rbm, row.unsqueeze(0)) for row in v]
    sums = {
        name: torch.stack([share * part.sums[name] for share, part in zip(p, parts, strict=True)]).sum(0)
        for name in parts[0].sums
    }
    return Statistics(count=1, sums=sums)


@pytest.fixture
def binary() -> tuple[RBM, Tensor, dict[str, Tensor]]:
    """A machine, data, and the gradient of -log p by autograd."""
    rbm = machine(Bernoulli(size=4), Bernoulli(size=3), scale=1.0)
    v = binary_states(4)[[0, 3, 3, 15, 12]]
    (-log_likelihood(rbm, v)).backward()  # type: ignore[no-untyped-call]
    return rbm, v, gradients(rbm)


def test_gradient_is_exact_under_the_exact_model(binary: tuple[RBM, Tensor, dict[str, Tensor]]) -> None:
    rbm, v, exact = binary
    with torch.no_grad():
        set_gradient(rbm, statistics(rbm, v), exact_negative(rbm))
    for name, gradient in gradients(rbm).items():
        torch.testing.assert_close(gradient, exact[name], rtol=0, atol=1e-12)


def test_more_gibbs_steps_come_nearer_to_the_exact_gradient(binary: tuple[RBM, Tensor, dict[str, Tensor]]) -> None:
    rbm, v, exact = binary
    many = v.repeat(4000, 1)
    errors = []
    for k in (1, 3, 30):
        particles = negative_particles(rbm, many, k, torch.Generator().manual_seed(0))
        set_gradient(rbm, statistics(rbm, v), statistics(rbm, particles))
        found = gradients(rbm)
        errors.append(max(float((found[name] - exact[name]).abs().max()) for name in exact))
    assert errors[0] > 2 * errors[1] > 2 * errors[2]
    assert errors[2] < 0.015  # some 20 000 chains: a standard error of 0.004


def test_training_raises_the_likelihood() -> None:
    generator = torch.Generator().manual_seed(0)
    data = binary_states(4)[[0, 3, 3, 15, 12]].float()
    rbm = RBM(Bernoulli(size=4), Bernoulli(size=3)).initialise(generator)
    before = float(log_likelihood(rbm.double(), data.double()).detach())
    rbm.float()
    batches = (data[torch.randint(5, (64,), generator=generator)] for _ in itertools.count())
    errors = list(contrastive_divergence.train(rbm, batches, Schedule(steps=300, k=2, learning_rate=0.03), generator))
    assert len(errors) == 300
    best = -(3 * 0.2 * torch.tensor(0.2).log() + 0.4 * torch.tensor(0.4).log()).item()
    after = float(log_likelihood(rbm.double(), data.double()).detach())
    assert before == pytest.approx(-4 * 0.6931, abs=0.05)
    assert before + 0.4 < after <= -best


def test_gaussian_units_learn_the_variance_of_the_data() -> None:
    """Negative particles that are means instead of draws would let it grow without end."""
    generator = torch.Generator().manual_seed(0)
    rbm = RBM(Gaussian(size=2), Bernoulli(size=1))
    deviation = torch.tensor([0.5, 2.0])
    batches = (torch.randn(256, 2, generator=generator) * deviation for _ in itertools.count())
    list(contrastive_divergence.train(rbm, batches, Schedule(steps=500, learning_rate=0.02), generator))
    torch.testing.assert_close(
        rbm.visible_parameters["log_variance"].detach().exp(), deviation.square(), rtol=0.2, atol=0
    )


def endless(v: Tensor) -> Iterator[Tensor]:
    while True:
        yield v


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("visible", [Bernoulli(size=4), Gaussian(size=4)], ids=lambda units: type(units).__name__)
def test_training_stops_before_it_leaves_the_finite_numbers(visible: Units, value: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rbm = RBM(visible, RectifiedGaussian(size=2)).initialise(generator)
    before = {name: p.detach().clone() for name, p in rbm.named_parameters()}
    training = contrastive_divergence.train(rbm, endless(torch.full((8, 4), value)), Schedule(steps=5), generator)
    with pytest.raises(FloatingPointError, match="finite"):
        list(training)
    for name, parameter in rbm.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=0)


def test_a_schedule_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"k >= 1.*k=0"):
        Schedule(steps=1, k=0)
