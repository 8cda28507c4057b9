from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from harmonium.models.fine_tuning import LogisticRate, Schedule, fine_tune, squared_error
from harmonium.models.unrolled import StackShape, UnrolledStack


def make_net(seed: int = 0) -> UnrolledStack:
    """Random weights, 64 states a unit."""
    net = UnrolledStack(StackShape(sizes=(6, 5, 3), hidden="relu", code="identity", visible="identity"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    net.spacing.fill_(0.25)
    net.low.fill_(-32)
    net.states.fill_(64)
    return net


def batches(seed: int = 0, scale: float = 1.0) -> Iterator[Tensor]:
    """Six values of three hidden causes."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(3, 6, generator=generator)
    while True:
        yield scale * torch.randn(64, 3, generator=generator) @ mixing


@pytest.mark.parametrize("rate_weight", [0.0, 0.05])
def test_the_loss_goes_down(rate_weight: float) -> None:
    schedule = Schedule(steps=150, batch=64, learning_rate=1e-2, rate_weight=rate_weight)
    losses = list(fine_tune(make_net(), batches(), schedule, torch.Generator().manual_seed(0)))
    assert len(losses) == 150
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_paying_for_bits_saves_bits() -> None:
    x = next(batches(seed=5))
    entropies = []
    for rate_weight in (0.0, 1.0):
        net = make_net()
        schedule = Schedule(steps=150, batch=64, learning_rate=1e-2, rate_weight=rate_weight)
        list(fine_tune(net, batches(), schedule, torch.Generator().manual_seed(0)))
        codes = net.encode(x).numpy()
        shares = [np.unique(column, return_counts=True)[1] / len(column) for column in codes.T]
        entropies.append(-sum(float((share * np.log2(share)).sum()) for share in shares))
    assert entropies[1] < entropies[0] - 1


@torch.no_grad()
def test_rate_is_that_of_an_ideal_code_for_a_logistic_source() -> None:
    rng = np.random.default_rng(0)
    location, scale = np.array([0.0, 3.3, -20.0]), np.array([0.7, 4.0, 30.0])
    samples = rng.logistic(location, scale, (40_000, 3))
    _, bits = np.unique(np.rint(samples[:, 1]), return_counts=True)
    rate = LogisticRate(torch.from_numpy(samples))
    empirical = 0.0
    for column in np.rint(samples).T:
        share = np.unique(column, return_counts=True)[1] / len(column)
        empirical -= float((share * np.log2(share)).sum())
    assert len(bits) > 10
    assert float(rate(torch.from_numpy(np.rint(samples)))) == pytest.approx(empirical, rel=0.01)


@torch.no_grad()
def test_rate_is_finite_far_from_the_density() -> None:
    rate = LogisticRate(torch.randn(100, 2, generator=torch.Generator().manual_seed(0)))
    bits = rate(torch.tensor([[1e30, -1e30]]))
    assert float(bits) == pytest.approx(2 * np.log2(1e9), rel=1e-3)


def test_squared_error_sums_over_a_cell() -> None:
    assert float(squared_error(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2))) == 2.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e18, 1e30])
def test_it_stops_before_it_leaves_the_finite_numbers(bad: float) -> None:
    net = make_net()
    source = itertools.chain(itertools.islice(batches(), 4), itertools.repeat(torch.full((64, 6), bad)))
    training = fine_tune(net, source, Schedule(steps=10, batch=64), torch.Generator())
    seen: list[dict[str, Tensor]] = []
    with pytest.raises(FloatingPointError, match="at step 3 of 10; lower the learning rate"):
        seen.extend({name: p.detach().clone() for name, p in net.named_parameters()} for _ in training)
    assert len(seen) == 3
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter.detach(), seen[-1][name])


@pytest.mark.parametrize("steps", [0, 3])
def test_nothing_to_do(steps: int) -> None:
    net = make_net()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    source = iter([]) if steps else batches()
    assert list(fine_tune(net, source, Schedule(steps=steps), torch.Generator())) == []
    assert all(torch.equal(now, then) for now, then in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize(
    "change",
    [{"steps": -1}, {"batch": 0}, {"learning_rate": 0.0}, {"rate_weight": -1.0}, {"rate_weight": float("nan")}],
)
def test_schedules_that_cannot_be(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="A schedule needs"):
        Schedule(**{"steps": 1, **change})  # type: ignore[arg-type]
