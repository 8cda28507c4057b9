"""The learned optimiser against the LSTM's equations in numpy, finite differences, and exact enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from harmonium.models import learned_optimiser
from harmonium.models.contrastive_divergence import negative_particles
from harmonium.models.energy_model import set_gradient, update
from harmonium.models.learned_optimiser import (
    LearnedDescent,
    LearnedOptimiser,
    LikelihoodTask,
    MetaSchedule,
    Task,
    meta_train,
    preprocess,
    unroll,
)
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, RectifiedGaussian

from .enumeration import binary, joint_energies, randomise

# For tensors this small, threads that wait for each other cost more than they gain.
pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh(size: int = 3, scale: float = 0.5, seed: int = 0) -> LearnedOptimiser:
    return LearnedOptimiser(size, scale).double().initialise(seeded(seed))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def machine(visible: int = 3, hidden: int = 2) -> RBM:
    rbm = RBM(Bernoulli(size=visible), Bernoulli(size=hidden)).double()
    randomise(rbm)
    return rbm


@dataclass(kw_only=True)
class Bowl:
    """f(θ) = Σ a θ² / 2, whose gradient is shown as it is."""

    steepness: Tensor
    begin: Tensor

    def start(self) -> Tensor:
        return self.begin.clone()

    def gradient(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        return self.steepness * parameters

    def loss(self, parameters: Tensor) -> Tensor:
        return 0.5 * (self.steepness * parameters.square()).sum()


@dataclass(kw_only=True)
class Recorded:
    """A task whose gradients are noted, and shown again whatever the parameters, once it is replayed."""

    task: Task
    notes: list[Tensor] = field(default_factory=list)
    replayed: Iterable[Tensor] | None = None

    def replay(self) -> Recorded:
        return Recorded(task=self.task, replayed=iter(self.notes))

    def start(self) -> Tensor:
        return self.task.start()

    def gradient(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        if self.replayed is not None:
            return next(iter(self.replayed))
        self.notes.append(self.task.gradient(parameters, generator))
        return self.notes[-1]

    def loss(self, parameters: Tensor) -> Tensor:
        return self.task.loss(parameters)


def bowl() -> Bowl:
    return Bowl(steepness=torch.tensor([0.5, 1.0, 3.0, 0.2], dtype=torch.float64), begin=noise(4, seed=7))


def unrolled(rule: LearnedOptimiser, task: Task, steps: int, seed: int = 3) -> Tensor:
    start = task.start()
    return unroll(rule, task, start, rule.blank(len(start)), steps, seeded(seed))[0]


# --- the optimiser ---------------------------------------------------------------------------------------------------


def test_the_gradient_is_split_by_the_formula_of_the_appendix() -> None:
    edge = math.exp(-10)
    values = [0.0, 1e-30, -1e-6, 0.999 * edge, -0.999 * edge, edge, -1.001 * edge, 1e-3, -0.5, 1.0, 20.0]
    expected = [
        (math.log(abs(x)) / 10, math.copysign(1, x)) if abs(x) >= edge else (-1.0, math.exp(10) * x) for x in values
    ]
    found = preprocess(torch.tensor(values, dtype=torch.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(preprocess(torch.tensor([-0.1, 0.2]), p=1.0), [(-1, -0.1 * math.e), (-1, 0.2 * math.e)])


Floats = NDArray[np.float64]


def lstm(x: Floats, h: Floats, c: Floats, cell: nn.LSTMCell) -> list[Floats]:
    """One coordinate's step by the equations of Hochreiter and Schmidhuber with forget gates, unit by unit."""
    size = len(h)
    of_x, of_h = cell.weight_ih.detach().numpy(), cell.weight_hh.detach().numpy()
    bias = (cell.bias_ih + cell.bias_hh).detach().numpy()
    a = [sum(of_x[r] * x) + sum(of_h[r] * h) + bias[r] for r in range(4 * size)]
    gates = [1 / (1 + np.exp(-np.array(a[part * size : (part + 1) * size]))) for part in (0, 1, 3)]
    new = gates[1] * c + gates[0] * np.tanh(a[2 * size : 3 * size])
    return [gates[2] * np.tanh(new), new]


def test_updates_and_memory_are_those_of_the_equations() -> None:
    rule, gradient, memory = fresh(), noise(5), noise(4, 5, 3, seed=1)
    change, after = rule(gradient, memory)
    for n in range(5):
        before = memory[:, n].numpy()
        lower = lstm(preprocess(gradient)[n].numpy(), before[0], before[1], rule.lower)
        upper = lstm(lower[0], before[2], before[3], rule.upper)
        np.testing.assert_allclose(after[:, n].detach(), [*lower, *upper], rtol=1e-12)
        out = rule.output.weight[0].detach().numpy() @ upper[0] + float(rule.output.bias.detach()[0])
        assert float(change[n].detach()) == pytest.approx(0.5 * out, rel=1e-12)


@given(order=st.permutations(range(6)), seed=st.integers(0, 100))
def test_coordinates_do_not_know_of_each_other(order: list[int], seed: int) -> None:
    rule, memory = fresh(), fresh().blank(6)
    shuffled = memory
    for step in range(3):
        gradient = noise(6, seed=seed + step)
        change, memory = rule(gradient, memory)
        changed, shuffled = rule(gradient[order], shuffled)
        torch.testing.assert_close(changed, change[order], rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(shuffled, memory[:, order], rtol=1e-12, atol=1e-15)


def test_weights_come_from_the_generator_alone_and_are_zero_before() -> None:
    before = torch.random.get_rng_state()
    rule = LearnedOptimiser()
    change, _ = rule(torch.ones(3), rule.blank(3))
    assert not change.any()
    one, other = (LearnedOptimiser().initialise(seeded(4)).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert 0.9 * 20**-0.5 < float(one["lower.weight_hh"].abs().max()) <= 20**-0.5
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_state_dict_holds_all_that_was_learned() -> None:
    rule, loaded = fresh(scale=0.25), LearnedOptimiser(3, scale=1.0).double()
    loaded.load_state_dict(rule.state_dict())
    inputs = noise(5), noise(4, 5, 3, seed=1)
    assert all(torch.equal(found, wanted) for found, wanted in zip(loaded(*inputs), rule(*inputs), strict=True))


def test_inputs_that_do_not_fit_are_refused() -> None:
    rule = fresh()
    with pytest.raises(ValueError, match=r"gradient \(n,\) of torch.float64.*found \(2, 2\)"):
        rule(noise(2, 2), rule.blank(4))
    with pytest.raises(ValueError, match=r"of torch.float32; flatten the gradient or cast"):
        rule(torch.ones(4), rule.blank(4))
    for size, scale in ((0, 0.1), (3, 0.0), (3, math.inf), (3, math.nan)):
        with pytest.raises(ValueError, match="size >= 1 and a finite scale > 0, got"):
            LearnedOptimiser(size, scale)


# --- at work ---------------------------------------------------------------------------------------------------------


def contrast(rbm: RBM, v: Tensor, generator: torch.Generator) -> None:
    set_gradient(rbm, rbm.statistics(v), rbm.statistics(negative_particles(rbm, v, 1, generator)))


def test_it_moves_each_parameter_by_the_rules_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_optimiser, "_ROWS", 4)  # weights come in two parts, the last of them not full
    rbm, rule = machine(), fresh()
    descent = LearnedDescent(rbm.parameters(), rule, lr=0.7)
    values = {name: p.detach().clone() for name, p in rbm.named_parameters()}
    memories = {name: rule.blank(p.numel()) for name, p in rbm.named_parameters()}
    generator = seeded(1)
    for step in range(3):
        contrast(rbm, binary(3), generator)
        for name, p in rbm.named_parameters():
            assert p.grad is not None
            change, memories[name] = rule(p.grad.flatten(), memories[name].detach())
            values[name] += 0.7 * change.detach().view_as(p)
        update(rbm, descent, step)
    for name, p in rbm.named_parameters():
        torch.testing.assert_close(p.detach(), values[name], rtol=1e-12, atol=1e-15)


def test_a_parameter_without_gradient_stays_and_one_that_is_not_contiguous_moves() -> None:
    still, moving = nn.Parameter(noise(2)), nn.Parameter(noise(2, 3).T)
    moving.grad = noise(3, 2, seed=1).T.contiguous().T
    before, rule = moving.detach().clone(), fresh()
    LearnedDescent([still, moving], rule).step()
    change, _ = rule(moving.grad.flatten(), rule.blank(6))
    torch.testing.assert_close(moving.detach(), before + change.detach().view(3, 2))
    assert torch.equal(still, noise(2))


def test_training_goes_on_from_a_state_dict() -> None:
    trained, rule = [], fresh()
    for resumed in (False, True):
        rbm, generator = machine(), seeded(1)
        descent = LearnedDescent(rbm.parameters(), rule)
        for step in range(4):
            if resumed and step == 2:
                document = descent.state_dict()
                descent = LearnedDescent(rbm.parameters(), rule)
                descent.load_state_dict(document)
            contrast(rbm, binary(3), generator)
            update(rbm, descent, step)
        trained.append(rbm)
    for one, other in zip(*(rbm.parameters() for rbm in trained), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(value: float) -> None:
    first, second = nn.Parameter(noise(2)), nn.Parameter(noise(3))
    descent = LearnedDescent([first, second], fresh())
    first.grad, second.grad = noise(2), torch.tensor([1.0, value, 0.0], dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="finite gradient, found 1 values of 3 that are not"):
        descent.step()
    assert torch.equal(first, noise(2))
    assert not descent.state_dict()["state"]


def test_it_refuses_rates_and_dtypes_that_do_not_fit() -> None:
    for rate in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="finite lr >= 0, got"):
            LearnedDescent([nn.Parameter(noise(2))], fresh(), lr=rate)
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"torch.float64, as the rule is, found \(2,\) of torch.float32"):
        LearnedDescent([parameter], fresh()).step()


# --- its training ----------------------------------------------------------------------------------------------------


def exact_loss(rbm: RBM, v: Tensor) -> Tensor:
    """Mean -log p(v) from the energies of all pairs of states."""
    h = binary(rbm.hidden.size)
    log_z = torch.logsumexp(-joint_energies(rbm, binary(rbm.visible.size), h), dim=(0, 1))
    return log_z - torch.logsumexp(-joint_energies(rbm, v, h), dim=1).mean()


def test_a_task_is_judged_by_the_exact_likelihood_and_its_gradient_is_that_of_the_likelihood() -> None:
    rbm, v = machine(), binary(3)[[1, 1, 4, 7, 2]]
    task = LikelihoodTask(rbm, v)
    parameters = task.start().requires_grad_()
    found = task.loss(parameters)
    wanted = exact_loss(rbm, v)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-12)
    (slope,) = torch.autograd.grad(found, parameters)
    slopes = torch.autograd.grad(wanted, list(rbm.parameters()))
    torch.testing.assert_close(slope, torch.cat([one.flatten() for one in slopes]))


def test_a_task_shows_the_gradient_of_contrastive_divergence() -> None:
    rbm, v = machine(), binary(3)[[1, 1, 4, 7, 2]]
    task, elsewhere = LikelihoodTask(rbm, v, batch=50, k=2), noise(11, seed=9)
    found = task.gradient(elsewhere, seeded(5))
    torch.testing.assert_close(task.start(), torch.cat([p.detach().flatten() for p in rbm.parameters()]))
    nn.utils.vector_to_parameters(elsewhere, rbm.parameters())
    generator = seeded(5)
    batch = v[torch.randint(5, (50,), generator=generator)]
    set_gradient(rbm, rbm.statistics(batch), rbm.statistics(negative_particles(rbm, batch, 2, generator)))
    torch.testing.assert_close(found, torch.cat([p.grad.flatten() for p in rbm.parameters() if p.grad is not None]))


def test_a_task_keeps_what_is_not_learned() -> None:
    rbm = RBM(Gaussian(size=2, variance=0.25), Bernoulli(size=3)).double()
    with torch.no_grad():
        rbm.weight.copy_(noise(2, 3))
    v = noise(6, 2, seed=1)
    task = LikelihoodTask(rbm, v)
    assert len(task.start()) == 2 * 3 + 2 + 3 == len(task.gradient(task.start(), seeded()))
    # p(v) is a mixture of normals, one for each h, with variance 1/4 and mean W h; their weights come from Z(h).
    mean = binary(3) @ rbm.weight.detach().T
    log_share = 2 * mean.square().sum(1)
    log_p = torch.logsumexp(log_share - 2 * (v[:, None] - mean).square().sum(2), 1) - torch.logsumexp(log_share, 0)
    wanted = float(math.log(2 * math.pi * 0.25) - log_p.mean())
    assert float(task.loss(task.start()).detach()) == pytest.approx(wanted, rel=1e-7)  # log σ² was float32


def test_a_task_that_cannot_be_summed_is_refused() -> None:
    rbm = RBM(Gaussian(size=2), RectifiedGaussian(size=3)).double()
    task = LikelihoodTask(rbm, noise(6, 2))
    with pytest.raises(ValueError, match="Enumeration needs a half of Bernoulli layers"):
        task.loss(task.start())


@pytest.mark.parametrize("task", [bowl(), LikelihoodTask(machine(), binary(3)[[1, 1, 4, 7, 2]])], ids=["bowl", "rbm"])
def test_the_meta_gradient_is_the_difference_quotient_with_the_shown_gradients_held_fast(task: Task) -> None:
    rule, recorded = fresh(), Recorded(task=task)
    loss = unrolled(rule, recorded, steps=4)
    torch.autograd.backward(loss)
    step = 1e-5
    for parameter in rule.parameters():
        assert parameter.grad is not None
        for index in itertools.islice(np.ndindex(*parameter.shape), 6):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[index] += sign * step
                    sides.append(float(unrolled(rule, recorded.replay(), steps=4)))
                    parameter[index] -= sign * step
            quotient = (sides[0] - sides[1]) / (2 * step)
            assert float(parameter.grad[index]) == pytest.approx(quotient, rel=1e-5, abs=1e-8)


def test_the_meta_gradient_leaves_out_how_the_shown_gradients_change() -> None:
    rule = fresh()
    randomise(rule, scale=2)  # fresh weights hardly care for the magnitude of a gradient
    torch.autograd.backward(unrolled(rule, bowl(), steps=4))
    slope, step = rule.output.bias.grad, 1e-5
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            rule.output.bias.add_(sign * step)
            sides.append(float(unrolled(rule, bowl(), steps=4)))
            rule.output.bias.sub_(sign * step)
    whole = (sides[0] - sides[1]) / (2 * step)
    assert slope is not None
    assert abs(whole - float(slope)) > 1e-3 * abs(whole)


def test_parts_of_an_unrolled_training_join_and_are_cut_by_detach() -> None:
    rule, task = fresh(), bowl()
    start, blank = task.start(), rule.blank(4)
    whole, *end = unroll(rule, task, start, blank, 6, seeded())
    first, *middle = unroll(rule, task, start, blank, 4, seeded())
    second, *found = unroll(rule, task, middle[0], middle[1], 2, seeded())
    torch.testing.assert_close((4 * first + 2 * second) / 6, whole)
    torch.testing.assert_close(found, end)
    cut, *_ = unroll(rule, task, middle[0].detach(), middle[1].detach(), 2, seeded())
    slopes = [torch.autograd.grad(loss, rule.output.weight, retain_graph=True)[0] for loss in (second, cut)]
    assert float(cut.detach()) == float(second.detach())
    assert not torch.allclose(slopes[0], slopes[1])


def lesson(seed: int = 0, tasks: int = 12, learning_rate: float = 0.05) -> tuple[LearnedOptimiser, list[float], Task]:
    task = LikelihoodTask(machine(4, 2), binary(4)[[0, 15, 15, 3, 12]], batch=20)
    rule, schedule = (
        fresh(size=4, scale=0.1),
        MetaSchedule(tasks=tasks, horizon=20, unrolled=8, learning_rate=learning_rate),
    )
    return rule, list(meta_train(rule, itertools.repeat(task), schedule, seeded(seed))), task


def test_practice_lowers_the_loss_on_the_task() -> None:
    rule, losses, task = lesson()
    before, after = (float(unrolled(one, task, steps=20, seed=99).detach()) for one in (fresh(size=4, scale=0.1), rule))
    start = float(task.loss(task.start()).detach())
    assert len(losses) == 12
    assert after < before - 0.2
    assert after < start - 0.2
    assert sum(losses[-3:]) < sum(losses[:3])


def test_practice_is_repeated_by_its_generator() -> None:
    before = torch.random.get_rng_state()
    (one, losses, _), (other, again, _), (_, different, _) = lesson(tasks=2), lesson(tasks=2), lesson(1, tasks=2)
    assert losses == again != different
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_loss_that_is_yielded_is_the_mean_over_the_horizon() -> None:
    rule, task = fresh(), bowl()
    schedule = MetaSchedule(tasks=3, horizon=7, unrolled=3, learning_rate=1e-12)
    expected = float(unrolled(rule, task, steps=7).detach())
    assert list(meta_train(rule, [task], schedule, seeded())) == pytest.approx([expected], rel=1e-6)


@dataclass(kw_only=True)
class Broken(Bowl):
    """A bowl with a gradient or a loss that is not finite from the second part of the training on."""

    shown: float = 1.0
    felt: float = 1.0
    calls: int = 0

    def gradient(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        self.calls += 1
        return super().gradient(parameters, generator) * (self.shown if self.calls > 2 else 1)

    def loss(self, parameters: Tensor) -> Tensor:
        return super().loss(parameters) * (self.felt if self.calls > 2 else 1)


@pytest.mark.parametrize(
    ("shown", "felt", "message"),
    [
        (math.inf, 1.0, "finite gradient, found 4 values of 4"),
        (1.0, math.nan, "'lower.weight_ih' of the learned optim"),
    ],
)
def test_practice_stops_at_numbers_that_are_not_finite(shown: float, felt: float, message: str) -> None:
    task = Broken(steepness=bowl().steepness, begin=bowl().begin, shown=shown, felt=felt)
    rule, good = fresh(), fresh()
    with pytest.raises(FloatingPointError, match=message):
        list(meta_train(rule, [task], MetaSchedule(tasks=1, horizon=4, unrolled=2), seeded()))
    next(meta_train(good, [bowl()], MetaSchedule(tasks=1, horizon=2, unrolled=2), seeded()))
    for found, wanted in zip(rule.parameters(), good.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_gradient_that_is_too_long_is_shortened() -> None:
    # Adam's first step does not depend on the gradient's length as long as that is far above its epsilon of 1e-8.
    moved = []
    for largest in (1.0, 1e-10):
        rule = fresh()
        schedule = MetaSchedule(tasks=1, horizon=2, unrolled=2, learning_rate=0.01, largest_gradient=largest)
        list(meta_train(rule, [bowl()], schedule, seeded()))
        moved.append(float((rule.output.bias - fresh().output.bias).abs().detach().max()))
    assert moved[0] == pytest.approx(0.01, rel=1e-3)
    assert moved[1] < 2e-4


@pytest.mark.parametrize(
    "wrong",
    [{"tasks": -1}, {"horizon": 0}, {"unrolled": 0}, {"learning_rate": 0.0}, {"largest_gradient": math.inf}],
)
def test_schedules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="A schedule needs tasks >= 0, horizon and unrolled >= 1"):
        MetaSchedule(**{"tasks": 1, **wrong})  # type: ignore[arg-type]
