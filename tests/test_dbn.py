"""Deep belief networks against sums over all states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from harmonium.models.contrastive_divergence import Schedule, train
from harmonium.models.dbn import DBN, lifted, turned_over
from harmonium.models.layer_chain import LayerChain
from harmonium.models.partition_function import exact_log_partition
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, LimitedState, RectifiedGaussian, Units

from .deep_machines import generator, stack_of
from .enumeration import binary, chi_square, counts_of

# For tensors this small, threads that wait for each other cost more than they gain.
pytestmark = pytest.mark.usefixtures("one_thread")


def network(sizes: tuple[int, ...], scale: float = 1.0) -> DBN:
    return DBN(stack_of([Bernoulli(size=size) for size in sizes], scale))


def bernoulli(x: Tensor, mean: Tensor) -> Tensor:
    """Probabilities of all states x (n, size), given each of some means (batch, size); (batch, n)."""
    return (mean[:, None] * x + (1 - mean[:, None]) * (1 - x)).prod(2)


def log_z_top(dbn: DBN) -> float:
    with torch.no_grad():
        return float(exact_log_partition(LayerChain.of_rbm(dbn.machines[-1])))


@torch.no_grad()
def exact_probabilities(dbn: DBN) -> Tensor:
    """P(v) of all visible states, from the top down."""
    top = dbn.machines[-1]
    p = torch.softmax(-top.free_energy(binary(top.visible.size)), 0)
    for rbm in reversed(dbn.machines[:-1]):
        p = p @ bernoulli(binary(rbm.visible.size), rbm.mean_visible(binary(rbm.hidden.size)))
    return p


def data(count: int, seed: int = 0) -> Tensor:
    """Images of 5 pixels that are one of two patterns, a tenth of the pixels turned round."""
    noise = generator(seed)
    patterns = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 1, 0]], dtype=torch.float64)
    chosen = patterns[torch.randint(2, (count,), generator=noise)]
    return torch.where(torch.rand(count, 5, generator=noise) < 0.1, 1 - chosen, chosen)


# --- the bound -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_bound_is_the_mean_over_all_upward_passes_and_below_the_likelihood() -> None:
    dbn = network((4, 3, 3))
    v, h = binary(4), binary(3)
    lower, top = dbn.machines
    q = bernoulli(h, lower.mean_hidden(v))
    log_p = torch.log(bernoulli(v, lower.mean_visible(h))).T - top.free_energy(h) - log_z_top(dbn)
    expected = (q * (log_p - q.log())).sum(1)
    exact = exact_probabilities(dbn).log()
    assert bool((expected < exact).all())
    draws = 4000
    found = dbn.lower_bound(v.repeat(draws, 1), log_z_top(dbn), generator()).reshape(draws, -1)
    z = (found.mean(0) - expected) / (found.std(0) / math.sqrt(draws))
    assert float(z.abs().max()) < 4
    # Every draw is an importance weight: on average over Q, their exponentials are the likelihood itself.
    torch.testing.assert_close((q * (log_p - q.log()).exp()).sum(1), exact.exp(), rtol=0, atol=1e-10)
    ratio = (found - exact).exp()
    assert float(((ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(draws))).abs().max()) < 4


@pytest.mark.parametrize(
    "layers",
    [
        (Bernoulli(size=5), Bernoulli(size=4)),
        (Gaussian(size=3), Bernoulli(size=4)),
        (LimitedState(size=3, states=4), Bernoulli(size=3)),
    ],
    ids=lambda layers: type(layers[0]).__name__,
)
@torch.no_grad()
def test_with_the_machine_turned_over_on_top_the_bound_is_the_likelihood(layers: tuple[Units, Units]) -> None:
    """Whatever is drawn on the way up (Hinton et al. 2006): log Z of both machines is the same."""
    (rbm,) = stack_of(layers, 0.7)
    v = rbm.sample_visible((torch.rand(50, rbm.hidden.size, generator=generator()) < 0.5).double(), generator(1))
    log_z = float(exact_log_partition(LayerChain.of_rbm(rbm)))
    dbn = DBN([rbm, turned_over(rbm)])
    torch.testing.assert_close(dbn.lower_bound(v, log_z, generator(2)), -rbm.free_energy(v) - log_z, rtol=0, atol=1e-8)
    thrice = DBN([rbm, turned_over(rbm), turned_over(turned_over(rbm))])
    torch.testing.assert_close(
        thrice.lower_bound(v, log_z, generator(3)), -rbm.free_energy(v) - log_z, rtol=0, atol=1e-8
    )


@torch.no_grad()
def test_a_single_machine_is_its_own_bound() -> None:
    dbn, v = network((4, 3)), binary(4)
    log_z = log_z_top(dbn)
    torch.testing.assert_close(
        dbn.lower_bound(v, log_z, generator()), exact_probabilities(dbn).log(), rtol=0, atol=1e-9
    )


# --- sampling --------------------------------------------------------------------------------------------------------


def passes(x: Tensor, p: Tensor) -> bool:
    """Whether draws x of binary states pass a chi-square test for their probabilities p."""
    return chi_square(counts_of(x, binary(x.shape[1])), p / p.sum()) > 1e-4


@torch.no_grad()
def test_ancestral_sampling_reaches_the_exact_distribution_and_wrong_samplers_do_not() -> None:
    dbn, noise = network((3, 3, 2, 3), scale=1.5), generator()
    p = exact_probabilities(dbn)
    begin = (torch.rand(40_000, 2, generator=noise) < 0.5).double()
    v, top = dbn.sample(begin, 60, noise)
    assert passes(v, p)
    # The chain's own state goes on where it was.
    assert passes(dbn.sample(top, 1, noise)[0], p)
    assert not passes(dbn.sample(begin, 0, noise)[0], p)

    def by_means(x: Tensor) -> Tensor:
        """Means passed down in place of states."""
        for rbm in reversed(dbn.machines[1:-1]):
            x = rbm.mean_visible(x)
        return dbn.machines[0].sample_visible(x, noise)

    assert not passes(by_means(top), p)


@torch.no_grad()
def test_upward_pass() -> None:
    dbn, v = network((4, 3, 2)), binary(4)
    first, second = dbn.up(v)
    torch.testing.assert_close(first, dbn.machines[0].mean_hidden(v))
    torch.testing.assert_close(second, dbn.machines[1].mean_hidden(first))
    layers = dbn.sample_up(v[3:4].expand(40_000, -1), generator())
    assert [layer.shape[1] for layer in layers] == [4, 3, 2]
    q = bernoulli(binary(3), dbn.machines[0].mean_hidden(v[3:4]))[0]
    assert passes(layers[1], q)
    assert passes(layers[2], q @ bernoulli(binary(2), dbn.machines[1].mean_hidden(binary(3))))


# --- training --------------------------------------------------------------------------------------------------------


def test_training_the_upper_machine_raises_the_bound() -> None:
    lower = RBM(Bernoulli(size=5), Bernoulli(size=4)).double().initialise(generator(), 0.1)
    noise = generator(1)

    def batches(dbn: DBN, index: int) -> Iterator[Tensor]:
        return lifted(dbn, index, (data(50, step) for step in range(400)), noise)

    def learn(dbn: DBN, index: int, steps: int, k: int) -> None:
        schedule = Schedule(steps=steps, batch=50, k=k, learning_rate=0.03, weight_decay=0.0)
        for _ in train(dbn.machines[index], batches(dbn, index), schedule, noise):
            pass

    def mean(measure: Callable[[Tensor], Tensor]) -> float:
        with torch.no_grad():
            return float(measure(data(2000, 9_999)).mean())

    learn(DBN([lower]), 0, 200, 1)
    log_z = log_z_top(DBN([lower]))
    alone = mean(lambda v: -lower.free_energy(v) - log_z)
    dbn = DBN([lower, turned_over(lower)])
    start = mean(lambda v: dbn.lower_bound(v, log_z_top(dbn), noise))
    assert start == pytest.approx(alone, abs=1e-8)
    learn(dbn, 1, 400, 5)
    assert mean(lambda v: dbn.lower_bound(v, log_z_top(dbn), noise)) > start + 0.02


def test_stacks_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="at least one RBM"):
        DBN([])
    with pytest.raises(ValueError, match=r"RectifiedGaussian\(size=2\) cannot stand below Bernoulli\(size=2\)"):
        DBN([RBM(Bernoulli(size=3), RectifiedGaussian(size=2)), RBM(Bernoulli(size=2), Bernoulli(size=2))])
