"""Deep Boltzmann machines against sums over all states of all layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harmonium.models import contrastive_divergence as cd
from harmonium.models.annealing_path import Path, base_rates, temperatures
from harmonium.models.dbm import DBM, mean_field, set_gradient, statistics
from harmonium.models.dbm_training import (
    Doubling,
    JointSchedule,
    joint_gradient,
    lifted,
    negative_statistics,
    pretrain,
    pretraining_gradient,
    start,
    train_jointly,
)
from harmonium.models.layer_chain import LayerChain, States
from harmonium.models.partition_function import ais, exact_log_partition
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, RectifiedGaussian, Units

from .deep_machines import (
    all_states,
    exact_phases,
    expectation,
    generator,
    log_joint,
    log_likelihood,
    machine,
    sizes_of,
    some_data,
    stack_of,
)
from .enumeration import chi_square, counts_of

# For tensors this small, threads that wait for each other cost more than they gain.
pytestmark = pytest.mark.usefixtures("one_thread")

Layers = tuple[int, ...]

depths = pytest.mark.parametrize("sizes", [(4, 3), (4, 3, 3), (3, 3, 2, 2)], ids=str)


# --- energy and conditionals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("visible", [Bernoulli, Gaussian])
@depths
@torch.no_grad()
def test_energy_is_the_formula(sizes: Layers, visible: type[Units]) -> None:
    dbm = machine(sizes, visible=visible(size=sizes[0]))
    states = [torch.rand(5, size, dtype=torch.float64, generator=generator(size)) for size in sizes]
    found = dbm.energy(states[0], states[1:])
    weights = [weight.numpy() for weight in dbm.weights]
    parameters = [{name: value.numpy() for name, value in own.items()} for own in dbm.chain().parameters]
    for row in range(5):
        x = [state[row].numpy() for state in states]
        variance = np.exp(parameters[0].get("log_variance", np.zeros(sizes[0])))
        if visible is Gaussian:
            expected = float(((x[0] - parameters[0]["bias"]) ** 2 / (2 * variance)).sum())
        else:
            expected = -float(x[0] @ parameters[0]["bias"])
        expected -= float((x[0] / variance) @ weights[0] @ x[1])
        for layer in range(1, len(sizes)):
            expected -= float(x[layer] @ parameters[layer]["bias"])
        for layer in range(1, len(weights)):
            expected -= float(x[layer] @ weights[layer] @ x[layer + 1])
        assert float(found[row]) == pytest.approx(expected, abs=1e-12)


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=5).filter(lambda s: sum(s) <= 11), seed=st.integers(0, 99)
)
@torch.no_grad()
def test_conditionals_of_both_halves_are_those_of_the_joint_distribution(sizes: list[int], seed: int) -> None:
    dbm = machine(tuple(sizes), seed)
    chain, layers = dbm.chain(), all_states(sizes)
    log_p = -chain.energy(layers)
    for parity in (0, 1):
        means = chain.mean_half(parity, layers[1 - parity :: 2])
        key = torch.cat(layers[1 - parity :: 2], 1) @ (2.0 ** torch.arange(chain.half_size(1 - parity)).double())
        for given_state in torch.unique(key):
            alike = key == given_state
            p = torch.softmax(log_p[alike], 0)
            for mean, x in zip(means, layers[parity::2], strict=True):
                expected = p @ x[alike]
                torch.testing.assert_close(mean[alike], expected.expand(int(alike.sum()), -1), rtol=0, atol=1e-10)
        # What remains of the other half's distribution when this one is summed out.
        summed = torch.stack([torch.logsumexp(log_p[key == given_state], 0) for given_state in key])
        torch.testing.assert_close(
            chain.log_unnormalised(1 - parity, layers[1 - parity :: 2]), summed, rtol=0, atol=1e-10
        )


@torch.no_grad()
def test_one_hidden_layer_is_an_rbm() -> None:
    (rbm,) = stack_of([Gaussian(size=4), Bernoulli(size=3)], 0.5)
    dbm, v = DBM.compose([rbm]), torch.randn(7, 4, dtype=torch.float64, generator=generator())
    h = rbm.sample_hidden(v, generator(1))
    torch.testing.assert_close(dbm.energy(v, (h,)), rbm.energy(v, h))
    torch.testing.assert_close(dbm.chain().log_unnormalised(0, (v,)), -rbm.free_energy(v))
    torch.testing.assert_close(dbm.gibbs_step((v, h), generator(2))[0], rbm.gibbs_step(v, generator(2)))
    found, expected = statistics(dbm.chain(), (v, rbm.mean_hidden(v))), cd.statistics(rbm, v)
    names = {"weights.0": "weight", "layer_parameters.1.bias": "hidden_parameters.bias"}
    for name, value in found.sums.items():
        old = names.get(name, name.replace("layer_parameters.0", "visible_parameters"))
        torch.testing.assert_close(value, expected.sums[old])
    # The posterior factorises: the bound is the likelihood.
    posterior = mean_field(dbm.chain(), v)
    assert posterior.converged
    log_z = float(exact_log_partition(dbm.chain()))
    torch.testing.assert_close(
        dbm.lower_bound(v, posterior.means, log_z), -rbm.free_energy(v) - log_z, rtol=0, atol=1e-9
    )


# --- mean field ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("visible", [Bernoulli, Gaussian])
@depths
def test_mean_field_is_a_stationary_point_below_the_likelihood(sizes: Layers, visible: type[Units]) -> None:
    dbm = machine(sizes, visible=visible(size=sizes[0]))
    v = some_data(sizes[0])
    posterior = mean_field(dbm.chain(), v, iterations=2000, tolerance=1e-13)
    assert posterior.converged
    means = [mean.clone().requires_grad_() for mean in posterior.means]
    bound = -dbm.energy(v, means) + sum(
        (torch.special.entr(mean) + torch.special.entr(1 - mean)).sum(1) for mean in means
    )
    for gradient in torch.autograd.grad(bound.sum(), means):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-8)
    with torch.no_grad():
        log_z = float(exact_log_partition(dbm.chain()))
    found = dbm.lower_bound(v, posterior.means, log_z)
    torch.testing.assert_close(found, bound.detach() - log_z, rtol=0, atol=1e-10)
    gap = log_likelihood(dbm, v).detach() - found
    assert float(gap.min()) > -1e-9
    assert float(gap.max()) < 1
    # The gap is the divergence of the factorised posterior from the true one.
    hidden, log_f = log_joint(dbm, v)
    log_q = torch.zeros_like(log_f)
    for mean, h in zip(posterior.means, hidden, strict=True):
        log_q = log_q + torch.log(mean[:, None] * h + (1 - mean[:, None]) * (1 - h)).sum(2)
    divergence = (log_q.exp() * (log_q - torch.log_softmax(log_f, 1))).sum(1)
    torch.testing.assert_close(gap, divergence.detach(), rtol=0, atol=1e-8)


@torch.no_grad()
def test_the_bound_rises_with_every_iteration_until_it_converges() -> None:
    dbm, v = machine((6, 5, 4), scale=1.2), some_data(6, 20)
    bounds, posterior = [], mean_field(dbm.chain(), v, iterations=1)
    for iterations in range(1, 30):
        posterior = mean_field(dbm.chain(), v, iterations=iterations, tolerance=1e-6)
        bounds.append(dbm.lower_bound(v, posterior.means, 0.0))
        if posterior.converged:
            break
        assert posterior.iterations == iterations
    assert posterior.converged
    assert posterior.change < 1e-6
    assert all(bool((later >= earlier - 1e-12).all()) for earlier, later in itertools.pairwise(bounds))


def test_mean_field_refuses_states_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"takes states \(batch, 4\), got shape \(2, 5\)"):
        mean_field(machine((4, 3)).chain(), torch.zeros(2, 5))


# --- gradients -------------------------------------------------------------------------------------------------------


@depths
def test_statistics_give_the_exact_gradient(sizes: Layers) -> None:
    dbm = machine(sizes)
    v = some_data(sizes[0], 3)
    expected = torch.autograd.grad(-log_likelihood(dbm, v).mean(), list(dbm.parameters()))
    set_gradient(dbm, *exact_phases(dbm, v))
    for (name, parameter), gradient in zip(dbm.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-8, msg=name)


def test_statistics_of_gaussian_units_are_the_gradient_of_the_energy() -> None:
    dbm = machine((3, 3, 2), visible=Gaussian(size=3))
    states = [torch.rand(4, size, dtype=torch.float64, generator=generator(size)) for size in (3, 3, 2)]
    expected = torch.autograd.grad(-dbm.energy(states[0], states[1:]).sum(), list(dbm.parameters()))
    found = statistics(dbm.chain(), states)
    assert found.count == 4
    for (name, _), gradient in zip(dbm.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found.sums[name], gradient, rtol=0, atol=1e-10, msg=name)


@depths
def test_centred_gradient_is_that_of_the_centred_parameters(sizes: Layers) -> None:
    """Autograd of the likelihood in W and c, where b = c - W μ: the ascent carried back to W and b."""
    dbm = machine(sizes)
    v = some_data(sizes[0], 3)
    offsets = [torch.rand(size, dtype=torch.float64, generator=generator(size)) for size in sizes]
    weights = [weight.detach().clone().requires_grad_() for weight in dbm.weights]

    def towards(layer: int, matrices: Sequence[Tensor]) -> Tensor:
        """What centring at the neighbours' offsets takes from a layer's bias."""
        below = matrices[layer - 1].T @ offsets[layer - 1] if layer > 0 else torch.zeros(())
        above = matrices[layer] @ offsets[layer + 1] if layer < len(matrices) else torch.zeros(())
        return below + above

    centred = []
    for layer, parameters in enumerate(dbm.chain().parameters):
        own = (parameters["bias"] + towards(layer, list(dbm.weights))).detach().requires_grad_()
        centred.append(own)
    chain = LayerChain(
        units=dbm.units,
        parameters=tuple({"bias": own - towards(layer, weights)} for layer, own in enumerate(centred)),
        weights=tuple(weights),
    )
    hidden = all_states(sizes[1:])
    log_f = torch.stack([-chain.energy((row.expand(len(hidden[0]), -1), *hidden)) for row in v])
    loss = -(torch.logsumexp(log_f, 1) - exact_log_partition(chain)).mean()
    gradients = torch.autograd.grad(loss, [*weights, *centred])
    set_gradient(dbm, *exact_phases(dbm, v), offsets)
    moved = gradients[: len(weights)]
    for i, expected in enumerate(moved):
        torch.testing.assert_close(dbm.weights[i].grad, expected, rtol=0, atol=1e-8)
    for layer, expected in enumerate(gradients[len(weights) :]):
        found = dict(dbm.named_parameters())[f"layer_parameters.{layer}.bias"].grad
        torch.testing.assert_close(found, expected - towards(layer, moved), rtol=0, atol=1e-8)


@torch.no_grad()
def test_statistics_are_sums_that_merge() -> None:
    chain, states = machine((4, 3, 2)).chain(), all_states((4, 3, 2))
    whole = statistics(chain, states)
    parts = statistics(chain, [x[:100] for x in states]).merge(statistics(chain, [x[100:] for x in states]))
    assert whole.count == parts.count == 512
    for name, value in whole.sums.items():
        torch.testing.assert_close(parts.sums[name], value)


@torch.no_grad()
def test_means_in_the_negative_phase_keep_its_expectation() -> None:
    dbm = machine((4, 3, 2))
    chain, layers = dbm.chain(), all_states((4, 3, 2))
    p = torch.softmax(-chain.energy(layers), 0)
    raw = expectation(chain, layers, p)
    total: dict[str, Tensor] = {}
    for row in range(len(p)):
        for name, value in negative_statistics(chain, [x[row : row + 1] for x in layers]).sums.items():
            total[name] = total.get(name, torch.zeros_like(value)) + p[row] * value
    for name, value in raw.sums.items():
        torch.testing.assert_close(total[name], value, rtol=0, atol=1e-10)


# --- sampling --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def reaches_the_distribution(dbm: DBM, step: Callable[[States], States]) -> bool:
    """Whether 40 000 chains pass a chi-square test over all states after 40 steps."""
    layers = all_states(sizes_of(dbm))
    states = dbm.chain().independent(40_000, generator(9))
    for _ in range(40):
        states = step(states)
    p = torch.softmax(-dbm.energy(layers[0], layers[1:]), 0)
    return chi_square(counts_of(torch.cat(states, 1), torch.cat(layers, 1)), p) > 1e-4


@pytest.mark.parametrize("sizes", [(3, 3), (3, 3, 2), (2, 2, 2, 2)], ids=str)
@torch.no_grad()
def test_even_odd_gibbs_reaches_the_exact_distribution_and_wrong_samplers_do_not(sizes: Layers) -> None:
    dbm, noise = machine(sizes, scale=0.9), generator(1)
    chain = dbm.chain()

    def synchronous(states: States) -> States:
        """Both halves at once, each given the *old* other one."""
        even, odd = chain.sample_half(0, states[1::2], noise), chain.sample_half(1, states[0::2], noise)
        return tuple((even, odd)[layer % 2][layer // 2] for layer in range(len(states)))

    def without_the_top(states: States) -> States:
        """Layers below the top drawn as in a DBN, without what they get from above."""
        top = chain.gibbs_step(states, noise)
        inputs = chain.inputs(1, top[0::2][:1] + tuple(torch.zeros_like(x) for x in top[2::2]))
        odd = chain.draw(1, inputs, noise)
        return tuple(odd[layer // 2] if layer % 2 else x for layer, x in enumerate(top))

    assert reaches_the_distribution(dbm, lambda states: dbm.gibbs_step(states, noise))
    assert not reaches_the_distribution(dbm, synchronous)
    if len(sizes) > 2:
        assert not reaches_the_distribution(dbm, without_the_top)


@torch.no_grad()
def test_a_generator_gives_the_same_chains_again() -> None:
    dbm = machine((5, 4, 3))
    first, second = (dbm.chain().independent(10, generator(3)) for _ in range(2))
    for layer, again in zip(dbm.gibbs_step(first, generator(4)), dbm.gibbs_step(second, generator(4)), strict=True):
        assert torch.equal(layer, again)


# --- pre-training ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_composition_is_half_the_energy_of_the_doubled_machines() -> None:
    stack = stack_of([Bernoulli(size=size) for size in (3, 2, 3, 2)], 0.8)
    dbm = DBM.compose(stack)
    v, h1, h2, h3 = all_states((3, 2, 3, 2))

    def bias(which: int, x: Tensor, side: str) -> Tensor:
        rbm = stack[which]
        own: Tensor = (rbm.visible_parameters if side == "visible" else rbm.hidden_parameters)["bias"]
        return x @ own

    def pair(which: int, x: Tensor, y: Tensor) -> Tensor:
        return (x @ stack[which].weight * y).sum(1)

    lowest = -2 * pair(0, v, h1) - 2 * bias(0, v, "visible") - bias(0, h1, "hidden")
    between = -2 * pair(1, h1, h2) - bias(1, h1, "visible") - bias(1, h2, "hidden")
    top = -2 * pair(2, h2, h3) - bias(2, h2, "visible") - 2 * bias(2, h3, "hidden")
    torch.testing.assert_close(dbm.energy(v, (h1, h2, h3)), 0.5 * (lowest + between + top))
    with pytest.raises(ValueError, match=r"Bernoulli\(size=2\) cannot stand below RBM of Bernoulli\(size=3\)"):
        DBM.compose([stack[0], stack[0]])


@pytest.mark.parametrize(("index", "up", "down"), [(0, 2.0, 1.0), (1, 2.0, 2.0), (2, 1.0, 2.0)])
@torch.no_grad()
def test_doubled_machines_draw_from_the_conditionals_of_their_energy(index: int, up: float, down: float) -> None:
    rbm = RBM(Bernoulli(size=3), Bernoulli(size=2)).double().initialise(generator(), 1.0)
    doubling = Doubling.of(index, 3)
    v, h = all_states((3, 2))
    torch.testing.assert_close(doubling.inputs_up(rbm, v), up * v @ rbm.weight)
    torch.testing.assert_close(doubling.inputs_down(rbm, h), down * h @ rbm.weight.T)


def test_an_undoubled_machine_is_pretrained_by_contrastive_divergence() -> None:
    rbm = RBM(Gaussian(size=4), Bernoulli(size=3)).double().initialise(generator(), 0.5)
    v = torch.randn(9, 4, dtype=torch.float64, generator=generator())
    particles = pretraining_gradient(rbm, v, Doubling.of(0, 1), 2, generator(1))
    torch.testing.assert_close(particles, cd.negative_particles(rbm, v, 2, generator(1)))
    found = [parameter.grad for parameter in rbm.parameters()]
    cd.set_gradient(rbm, cd.statistics(rbm, v), cd.statistics(rbm, particles))
    for gradient, parameter in zip(found, rbm.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


# --- joint training --------------------------------------------------------------------------------------------------


PATTERNS = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0], [0, 1, 0, 1, 1, 1]], dtype=torch.float64)


def images(count: int, seed: int = 0) -> Tensor:
    """One of three patterns each, with a tenth of the pixels turned round."""
    noise = generator(seed)
    chosen = PATTERNS[torch.randint(3, (count,), generator=noise)]
    turned = torch.rand(count, 6, generator=noise) < 0.1
    return torch.where(turned, 1 - chosen, chosen)


def exact_mean(dbm: DBM) -> float:
    with torch.no_grad():
        return float(log_likelihood(dbm, images(500, 1)).mean())


def learn(dbm: DBM, schedule: JointSchedule, steps: int = 800) -> None:
    optimiser = torch.optim.SGD(dbm.parameters(), lr=0.1)
    state = start(dbm, 50, images(200, 2), generator(1))
    batches = (images(50, 100 + step) for step in range(steps))
    for _ in train_jointly(dbm, batches, optimiser, schedule, state, generator(2)):
        pass


@pytest.mark.parametrize(
    ("sizes", "schedule"),
    [
        ((6, 5, 3), JointSchedule(offset_rate=0.05)),
        ((6, 4, 3, 2), JointSchedule(offset_rate=0.05, gibbs_steps=2)),
        ((6, 6), JointSchedule(persistent=False, gibbs_steps=5)),
        ((6, 6), JointSchedule(offset_rate=0.05, products=torch.float32)),
    ],
    ids=["centred", "centred-deeper", "cd", "centred-pcd-float32"],
)
def test_joint_training_raises_the_exact_likelihood(sizes: Layers, schedule: JointSchedule) -> None:
    """Without pre-training; six independent fair pixels have -4.16 nats."""
    dbm = DBM(Bernoulli(size=6), [Bernoulli(size=size) for size in sizes[1:]]).double().initialise(generator())
    before = exact_mean(dbm)
    learn(dbm, schedule)
    assert before == pytest.approx(-6 * np.log(2), abs=0.05)
    assert exact_mean(dbm) > before + 0.5


def test_greedy_pretraining_and_joint_training_raise_the_exact_likelihood() -> None:
    stack = [RBM(Bernoulli(size=a), Bernoulli(size=b)).double() for a, b in ((6, 6), (6, 4))]
    noise = generator(3)
    for index, rbm in enumerate(stack):
        rbm.initialise(noise, 0.1)
        optimiser = torch.optim.SGD(rbm.parameters(), lr=0.1)
        batches = lifted(stack[:index], 2, (images(50, step) for step in range(600)), noise)
        errors = list(pretrain(rbm, batches, Doubling.of(index, 2), optimiser, noise))
        assert len(errors) == 600
    dbm = DBM.compose(stack)
    pretrained = exact_mean(dbm)
    assert pretrained > -6 * np.log(2) + 0.02
    learn(dbm, JointSchedule(), 600)
    assert exact_mean(dbm) > pretrained + 0.05


SPOILT = [
    ("batch", torch.nan, 0.1, "The batch of step 12 of layer 2 holds values that are not finite; mask such pixels"),
    ("batch", torch.inf, 0.1, "The batch of step 12 of layer 2 holds values that are not finite; mask such pixels"),
    ("gradient", 1e200, 0.1, "The gradient of .* of layer 2 left the finite numbers at step 12; .*now 0.1"),
    ("parameter", 1.0, torch.inf, "Parameter .* of layer 2 left the finite numbers at step 12; .*now inf"),
]
spoilt = pytest.mark.parametrize(("value", "rate", "message"), [row[1:] for row in SPOILT], ids=[r[0] for r in SPOILT])


def batches_until(value: float) -> Iterator[Tensor]:
    """Steps 10 and 11 go well."""
    yield from (torch.randn(6, 4, dtype=torch.float64, generator=generator(step)) for step in range(2))
    yield torch.full((6, 4), value, dtype=torch.float64)


def copies(module: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def assert_stays(module: torch.nn.Module, good: list[Tensor]) -> None:
    assert all(torch.equal(old, new) for old, new in zip(good, module.parameters(), strict=True))


@spoilt
def test_joint_training_names_layer_and_step_and_keeps_the_last_good_state(
    value: float, rate: float, message: str
) -> None:
    dbm = machine((4, 3, 2), visible=Gaussian(size=4))
    state = start(dbm, 5, some_data(4), generator())
    optimiser = torch.optim.SGD(dbm.parameters(), lr=0.1)
    run = train_jointly(
        dbm, batches_until(value), optimiser, JointSchedule(), state, generator(), layer="layer 2", first_step=10
    )
    state = [next(run) for _ in range(2)][-1]
    good = copies(dbm)
    optimiser.param_groups[0]["lr"] = rate
    with pytest.raises(FloatingPointError, match=message):
        next(run)
    assert_stays(dbm, good)
    # With another batch and another optimiser, training goes on from there.
    again = torch.optim.SGD(dbm.parameters(), lr=0.1)
    after = next(train_jointly(dbm, [some_data(4)], again, JointSchedule(), state, generator()))
    assert all(bool(x.isfinite().all()) for x in (*after.chains, *dbm.parameters()))


@spoilt
def test_pretraining_names_layer_and_step_and_keeps_the_last_good_state(
    value: float, rate: float, message: str
) -> None:
    (rbm,) = stack_of([Gaussian(size=4), Bernoulli(size=3)], 0.5)
    optimiser = torch.optim.SGD(rbm.parameters(), lr=0.1)
    run = pretrain(rbm, batches_until(value), Doubling.of(0, 2), optimiser, generator(), layer="layer 2", first_step=10)
    next(run), next(run)
    good = copies(rbm)
    optimiser.param_groups[0]["lr"] = rate
    if value == 1e200:
        message = "The particles of layer 2 left the finite numbers at step 12; lower the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        next(run)
    assert_stays(rbm, good)


def test_a_gradient_of_pretraining_that_is_not_finite_is_refused() -> None:
    (rbm,) = stack_of([Gaussian(size=4), Bernoulli(size=3)], 0.5)
    with torch.no_grad():
        rbm.visible_parameters["log_variance"].fill_(-709.7)
    good = copies(rbm)
    optimiser = torch.optim.SGD(rbm.parameters(), lr=0.1)
    run = pretrain(rbm, [some_data(4)], Doubling.of(0, 2), optimiser, generator(), layer="layer 1")
    with pytest.raises(FloatingPointError, match=r"The gradient of .* of layer 1 left the finite numbers at step 0"):
        next(run)
    assert_stays(rbm, good)


def test_batches_that_are_not_finite_do_not_get_lost_on_the_way_up() -> None:
    stack = stack_of([Gaussian(size=4), Bernoulli(size=3)], 0.5)
    seen = lifted(stack, 2, batches_until(torch.nan), generator())
    assert [next(seen).shape for _ in range(2)] == [(6, 3)] * 2
    with pytest.raises(FloatingPointError, match="The batch of step 2 of machine 1 holds values that are not finite"):
        next(seen)


@torch.no_grad()
def test_a_step_of_training_goes_on_from_the_state_it_gets() -> None:
    dbm = machine((4, 3, 2))
    state = start(dbm, 5, some_data(4), generator())
    schedule = JointSchedule(offset_rate=0.5, gibbs_steps=1)
    after = joint_gradient(dbm, some_data(4), state, schedule, generator(7))
    expected = dbm.gibbs_step(state.chains, generator(7))
    assert all(torch.equal(found, x) for found, x in zip(after.chains, expected, strict=True))
    torch.testing.assert_close(after.offsets[0], 0.5 * state.offsets[0] + 0.5 * some_data(4).mean(0))


@pytest.mark.parametrize("visible", [Bernoulli, Gaussian])
@torch.no_grad()
def test_bound_with_annealed_log_z(visible: type[Units]) -> None:
    dbm = machine((8, 6, 5), scale=0.5, visible=visible(size=8))
    chain, v = dbm.chain(), some_data(8)
    data = some_data(8, 50)
    estimate = ais(Path(chain=chain, base=base_rates(chain, data), parity=1), temperatures(400), 300, generator())
    assert abs(estimate.value - float(exact_log_partition(chain))) < 3 * estimate.standard_error < 0.1
    bound = dbm.lower_bound(v, mean_field(chain, v).means, estimate.value)
    assert float((log_likelihood(dbm, v) - bound).min()) > -3 * estimate.standard_error


def test_machines_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="takes Bernoulli or Gaussian visible units"):
        DBM(RectifiedGaussian(size=3), [Bernoulli(size=2)])
    with pytest.raises(ValueError, match="got Bernoulli below Gaussian"):
        DBM(Bernoulli(size=3), [Gaussian(size=2)])
    with pytest.raises(ValueError, match="got Bernoulli below nothing"):
        DBM(Bernoulli(size=3), [])
    with pytest.raises(ValueError, match="gibbs_steps >= 1"):
        JointSchedule(gibbs_steps=0)
    with pytest.raises(ValueError, match="numbers 0 to 1, got 2"):
        Doubling.of(2, 2)
    with pytest.raises(ValueError, match=r"needs weights \[\(3, 2\)\]"):
        LayerChain(units=(Bernoulli(size=3), Bernoulli(size=2)), parameters=({}, {}), weights=(torch.zeros(2, 3),))
