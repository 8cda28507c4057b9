"""Deep machines on tensors against ordinary ones with the expanded weights, and against sums over all states."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harmonium.models.annealing_path import Path, base_rates, temperatures
from harmonium.models.dbm import DBM, mean_field, set_gradient, statistics
from harmonium.models.dbm_training import (
    Doubling,
    JointSchedule,
    joint_gradient,
    lifted,
    pretrain,
    pretraining_gradient,
    start,
    train_jointly,
)
from harmonium.models.layer_chain import LayerChain
from harmonium.models.partition_function import ais, exact_log_partition
from harmonium.models.rbm import RBM
from harmonium.models.tensor_rbm import CP, FactoredWeight, Stackable, TensorRBM, Tucker, WeightForm
from harmonium.models.units import Bernoulli, Gaussian, Units

from .deep_machines import exact_phases, expanded, expanded_by, generator, log_likelihood, machine
from .enumeration import assert_same, gradients, randomise

# For tensors this small, threads that wait for each other cost more than they gain.
pytestmark = pytest.mark.usefixtures("one_thread")

MODES = (2, 1, 2)
FORMS: list[WeightForm] = [CP(rank=2), Tucker(ranks=(2, 1, 2, 3))]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
visibles = pytest.mark.parametrize(
    "visible", [Bernoulli(size=4), Gaussian(size=4), Gaussian(size=4, variance=0.6)], ids=str
)


@torch.no_grad()
def dense(dbm: DBM) -> DBM:
    """The ordinary machine with the expanded weight."""
    twin = DBM(dbm.units[0], dbm.units[1:]).double()
    twin.layer_parameters.load_state_dict(dbm.layer_parameters.state_dict())
    for mine, its in zip(twin.weights, dbm.weights, strict=True):
        mine.copy_(expanded(its) if isinstance(its, FactoredWeight) else its)
    return twin


def tensor_machine(visible: Units, form: WeightForm, above: tuple[int, ...] = (3, 2), seed: int = 0) -> DBM:
    return machine((visible.size, *above), seed, visible=visible, first=FactoredWeight(MODES, above[0], form))


@st.composite
def machines(draw: st.DrawFn) -> DBM:
    modes = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    above = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    ranks = st.integers(1, 3)
    form: WeightForm = CP(rank=draw(ranks))
    if draw(st.booleans()):
        form = Tucker(ranks=tuple(draw(ranks) for _ in range(len(modes) + 1)))
    size = math.prod(modes)
    visible = draw(st.sampled_from((Bernoulli(size=size), Gaussian(size=size), Gaussian(size=size, variance=0.7))))
    return machine(
        (size, *above), draw(st.integers(0, 99)), visible=visible, first=FactoredWeight(modes, above[0], form)
    )


def some_tensors(dbm: DBM, count: int = 5, seed: int = 0) -> Tensor:
    v = torch.rand(count, *dbm.modes, dtype=torch.float64, generator=generator(seed))
    return v if isinstance(dbm.units[0], Gaussian) else (v < 0.4).double()


# --- the machine with the expanded weights ---------------------------------------------------------------------------


@given(dbm=machines(), seed=st.integers(0, 99))
@torch.no_grad()
def test_it_is_the_machine_with_the_expanded_weights(dbm: DBM, seed: int) -> None:
    twin, v = dense(dbm), some_tensors(dbm, seed=seed)
    rows = v.flatten(1)
    hidden = [(torch.rand(5, units.size, generator=generator(seed)) < 0.5).double() for units in dbm.units[1:]]
    torch.testing.assert_close(dbm.energy(v, hidden), twin.energy(rows, hidden), rtol=0, atol=1e-10)
    found, wanted = mean_field(dbm.chain(), dbm.rows(v)), mean_field(twin.chain(), rows)
    torch.testing.assert_close(found.means, wanted.means, rtol=0, atol=1e-10)
    bounds = [dbm.lower_bound(v, found.means, 1.5), twin.lower_bound(rows, wanted.means, 1.5)]
    torch.testing.assert_close(*bounds, rtol=0, atol=1e-9)
    draws = [one.gibbs_step((x, *hidden), generator(seed)) for one, x in ((dbm, v), (twin, rows))]
    assert draws[0][0].shape == v.shape
    torch.testing.assert_close((draws[0][0].flatten(1), *draws[0][1:]), draws[1], rtol=0, atol=1e-10)


@forms
@visibles
@torch.no_grad()
def test_partition_functions_are_those_of_the_expanded_machine(visible: Units, form: WeightForm) -> None:
    dbm = tensor_machine(visible, form)
    chains = dbm.chain(), dense(dbm).chain()
    exact = [float(exact_log_partition(chain)) for chain in chains]
    assert exact[0] == pytest.approx(exact[1], abs=1e-10)
    if isinstance(visible, Bernoulli):
        total = torch.logsumexp(log_likelihood(dbm, all_tensors()), 0)
        assert float(total) == pytest.approx(0.0, abs=1e-10)
    paths = [Path(chain=chain, base=base_rates(chain), parity=1) for chain in chains]
    estimates = [ais(path, temperatures(50), 20, generator(1)).value for path in paths]
    assert estimates[0] == pytest.approx(estimates[1], abs=1e-9)
    bottom = TensorRBM(MODES, visible, Bernoulli(size=3), form).double()
    randomise(bottom)
    of_rbm = float(exact_log_partition(LayerChain.of_rbm(bottom)))
    assert of_rbm == pytest.approx(float(exact_log_partition(DBM.compose([bottom]).chain())), abs=1e-10)


def all_tensors() -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4).reshape(-1, *MODES)


# --- gradients -------------------------------------------------------------------------------------------------------


def learned(dbm: DBM) -> dict[str, Tensor]:
    return {name: p for name, p in dbm.named_parameters() if p.requires_grad}


@forms
@visibles
def test_gradient_is_that_of_the_exact_likelihood(visible: Units, form: WeightForm) -> None:
    dbm = tensor_machine(visible, form)
    v = some_tensors(dbm, 3)
    wanted = torch.autograd.grad(-log_likelihood(dbm, v).mean(), list(learned(dbm).values()))
    assert_same(exact_gradient(dbm, v), dict(zip(learned(dbm), wanted, strict=True)), atol=1e-8)


def exact_gradient(dbm: DBM, v: Tensor, offsets: list[Tensor] | None = None) -> dict[str, Tensor]:
    """What is stored for exact phases."""
    dbm.zero_grad()
    set_gradient(dbm, *exact_phases(dbm, v), offsets)
    return {name: g for name, g in gradients(dbm).items() if g is not None}


@forms
@visibles
def test_centred_gradient_is_that_of_the_centred_parameters(visible: Units, form: WeightForm) -> None:
    """Autograd of the likelihood in the weights' parameters θ and c = b + shift(θ); Δb is Δc - ∂shift/∂θ Δθ."""
    dbm = tensor_machine(visible, form)
    v = some_tensors(dbm, 3)
    offsets = [torch.rand(units.size, dtype=torch.float64, generator=generator(units.size)) for units in dbm.units]
    values = {name: p.detach() for name, p in learned(dbm).items()}
    weights = [name for name in values if name.startswith("weights.")]
    biases = [f"layer_parameters.{layer}.bias" for layer in range(3)]

    def shift(*theta: Tensor) -> tuple[Tensor, ...]:
        """W_i μ_i+1 + W_i-1ᵀ μ_i-1 of each layer, by the formula of the form."""
        named = dict(zip(weights, theta, strict=True))
        first, second = first_weight(form, named), named["weights.1"]
        return first @ offsets[1], first.T @ offsets[0] + second @ offsets[2], second.T @ offsets[1]

    theta = [values[name].clone().requires_grad_() for name in weights]
    centred = [(values[name] + own).detach().requires_grad_() for name, own in zip(biases, shift(*theta), strict=True)]
    others = {name: x for name, x in values.items() if name not in weights + biases}
    others = {name: x.clone().requires_grad_() for name, x in others.items()}
    put = {**others, **dict(zip(weights, theta, strict=True))}
    put |= {name: c - own for name, c, own in zip(biases, centred, shift(*theta), strict=True)}
    loss = -torch.func.functional_call(Likelihood(dbm), {f"dbm.{name}": x for name, x in put.items()}, (v,)).mean()
    found = torch.autograd.grad(loss, [*theta, *centred, *others.values()])
    steps, own, rest = found[: len(theta)], found[len(theta) : len(theta) + 3], found[len(theta) + 3 :]
    _, moved = torch.autograd.functional.jvp(shift, tuple(x.detach() for x in theta), steps)  # type: ignore[no-untyped-call]
    wanted = dict(zip([*weights, *others], [*steps, *rest], strict=True))
    wanted |= {name: c - m for name, c, m in zip(biases, own, moved, strict=True)}
    assert_same(exact_gradient(dbm, v, offsets), wanted, atol=1e-8)


def first_weight(form: WeightForm, named: dict[str, Tensor]) -> Tensor:
    factors = {name.removeprefix("weights.0."): x for name, x in named.items() if name.startswith("weights.0.")}
    return expanded_by(form, factors)


class Likelihood(torch.nn.Module):
    def __init__(self, dbm: DBM) -> None:
        super().__init__()
        self.dbm = dbm

    def forward(self, v: Tensor) -> Tensor:
        return log_likelihood(self.dbm, v)


@forms
def test_small_centred_steps_go_along_the_gradient_that_they_say(form: WeightForm) -> None:
    """The centred machine's biases, b_i + W_i μ_i+1 + W_i-1ᵀ μ_i-1, move by their own gradient, to first order."""
    dbm = tensor_machine(Bernoulli(size=4), form)
    offsets = [torch.full((units.size,), 0.3, dtype=torch.float64) for units in dbm.units]
    uncentred, centred = (exact_gradient(dbm, some_tensors(dbm, 3), chosen) for chosen in (None, offsets))

    @torch.no_grad()
    def centred_bias(rate: float) -> Tensor:
        moved = {name: p - rate * centred[name] for name, p in learned(dbm).items()}
        return moved["layer_parameters.0.bias"] + first_weight(form, moved) @ offsets[1]

    slope = (centred_bias(1e-5) - centred_bias(-1e-5)) / 2e-5
    torch.testing.assert_close(slope, -uncentred["layer_parameters.0.bias"], rtol=0, atol=1e-8)


# --- stacks ----------------------------------------------------------------------------------------------------------


def stack(visible: Units, form: WeightForm) -> tuple[TensorRBM, RBM]:
    bottom = TensorRBM(MODES, visible, Bernoulli(size=3), form).double()
    top = RBM(Bernoulli(size=3), Bernoulli(size=2)).double()
    randomise(bottom, 1)
    randomise(top, 2)
    return bottom, top


@torch.no_grad()
def dense_bottom(bottom: TensorRBM) -> RBM:
    rbm = RBM(bottom.visible, bottom.hidden).double()
    rbm.weight.copy_(expanded(bottom.factors))
    rbm.visible_parameters.load_state_dict(bottom.visible_parameters.state_dict())
    rbm.hidden_parameters.load_state_dict(bottom.hidden_parameters.state_dict())
    return rbm


@forms
@visibles
@torch.no_grad()
def test_composition_keeps_the_factors_and_the_names(visible: Units, form: WeightForm) -> None:
    bottom, top = stack(visible, form)
    dbm, twin = DBM.compose([bottom, top]), DBM.compose([dense_bottom(bottom), top])
    v, hidden = some_tensors(dbm), [(torch.rand(5, n, generator=generator()) < 0.5).double() for n in (3, 2)]
    torch.testing.assert_close(dbm.energy(v, hidden), twin.energy(v.flatten(1), hidden), rtol=0, atol=1e-12)
    factors = {name.replace("factors", "weights.0") for name in bottom.state_dict() if name.startswith("factors")}
    assert set(dbm.state_dict()) == set(twin.state_dict()) - {"weights.0"} | factors
    assert {"weights.0", "weights.1", "layer_parameters.0.bias"} <= set(twin.state_dict())
    # The factors are copied, and come back from a state.
    copy = tensor_machine(visible, form, seed=9)
    copy.load_state_dict(dbm.state_dict())
    bottom.factors["hidden"].zero_()
    torch.testing.assert_close(copy.energy(v, hidden), twin.energy(v.flatten(1), hidden), rtol=0, atol=1e-12)


@forms
@visibles
@pytest.mark.parametrize("depth", [1, 2])
def test_pretraining_is_that_of_the_expanded_machine_by_the_chain_rule(
    visible: Units, form: WeightForm, depth: int
) -> None:
    bottom, _ = stack(visible, form)
    rbm, v = dense_bottom(bottom), some_tensors(DBM.compose([bottom]))
    doubling = Doubling.of(0, depth)
    particles = pretraining_gradient(bottom, v, doubling, 2, generator(1))
    wanted = pretraining_gradient(rbm, v.flatten(1), doubling, 2, generator(1))
    assert particles.shape == v.shape
    torch.testing.assert_close(particles.flatten(1), wanted, rtol=0, atol=1e-10)
    factors = list(bottom.factors.values())
    assert rbm.weight.grad is not None
    chained = torch.autograd.grad((expanded(bottom.factors) * rbm.weight.grad).sum(), factors)
    sums = {**gradients(rbm), **{f"factors.{n}": g for n, g in zip(bottom.factors, chained, strict=True)}}
    del sums["weight"]
    assert_same({name: g for name, g in gradients(bottom).items() if g is not None}, sums, atol=1e-10)


# --- training --------------------------------------------------------------------------------------------------------

PATTERNS = torch.tensor([[[1, 0], [1, 0], [0, 1]], [[0, 1], [1, 1], [0, 0]]], dtype=torch.float64)


def images(count: int, visible: Units, seed: int) -> Tensor:
    """One of two patterns (3, 2) each, with a tenth of the pixels turned round, or with noise."""
    noise = generator(seed)
    chosen = PATTERNS[torch.randint(2, (count,), generator=noise)]
    if isinstance(visible, Gaussian):
        return chosen + 0.3 * torch.randn(count, 3, 2, dtype=torch.float64, generator=noise)
    return torch.where(torch.rand(count, 3, 2, generator=noise) < 0.1, 1 - chosen, chosen)


def batches(visible: Units, steps: int) -> Iterator[Tensor]:
    return (images(50, visible, 100 + step) for step in range(steps))


@torch.no_grad()
def mean_likelihood(dbm: DBM) -> float:
    return float(log_likelihood(dbm, images(300, dbm.units[0], 1)).mean())


def learn(dbm: DBM, schedule: JointSchedule, steps: int, rate: float) -> None:
    visible = dbm.units[0]
    state = start(dbm, 50, images(200, visible, 2), generator(1))
    optimiser = torch.optim.SGD(dbm.parameters(), lr=rate)
    for _ in train_jointly(dbm, batches(visible, steps), optimiser, schedule, state, generator(2)):
        pass


# What pixels have that are independent: four have a mean of one half, two are nearly sure.
INDEPENDENT_BITS = -4 * math.log(2) + 2 * (0.9 * math.log(0.9) + 0.1 * math.log(0.1))
INDEPENDENT_REALS = -3 * math.log(2 * math.pi * 0.09) - 4 * (0.25 + 0.09) / 0.18 - 2 * 0.5


@pytest.mark.parametrize("form", [CP(rank=4), Tucker(ranks=(3, 2, 4))], ids=lambda form: type(form).__name__)
@pytest.mark.parametrize(
    ("visible", "rate", "independent"),
    [(Bernoulli(size=6), 0.1, INDEPENDENT_BITS), (Gaussian(size=6, variance=0.09), 0.01, INDEPENDENT_REALS)],
    ids=["bits", "reals"],
)
def test_centred_joint_training_learns_more_than_single_pixels(
    visible: Units, rate: float, independent: float, form: WeightForm
) -> None:
    dbm = DBM(visible, [Bernoulli(size=5), Bernoulli(size=2)], FactoredWeight((3, 2), 5, form)).double()
    dbm.initialise(generator(), 0.5)
    assert mean_likelihood(dbm) < independent - 0.5
    learn(dbm, JointSchedule(offset_rate=0.05, gibbs_steps=2), 250, rate)
    assert mean_likelihood(dbm) > independent + 0.5


def test_greedy_pretraining_and_joint_training_raise_the_exact_likelihood() -> None:
    visible, noise = Bernoulli(size=6), generator(3)
    rbms: list[Stackable] = [
        TensorRBM((3, 2), visible, Bernoulli(size=5), CP(rank=4)).double().initialise(noise, 0.1),
        RBM(Bernoulli(size=5), Bernoulli(size=3)).double().initialise(noise, 0.1),
    ]
    for index, rbm in enumerate(rbms):
        optimiser = torch.optim.SGD(rbm.parameters(), lr=0.1)
        seen = lifted(rbms[:index], 2, batches(visible, 100), noise)
        assert len(list(pretrain(rbm, seen, Doubling.of(index, 2), optimiser, noise))) == 100
    dbm = DBM.compose(rbms)
    pretrained = mean_likelihood(dbm)
    assert pretrained > -6 * math.log(2) + 0.5
    learn(dbm, JointSchedule(gibbs_steps=2), 200, 0.05)
    assert mean_likelihood(dbm) > max(pretrained, INDEPENDENT_BITS) + 0.3


@forms
@torch.no_grad()
def test_a_step_of_training_is_that_of_the_expanded_machine(form: WeightForm) -> None:
    """The same chains, offsets and gradients of upper layers, in another dtype of products as well."""
    dbm = tensor_machine(Gaussian(size=4), form)
    twin, v = dense(dbm), some_tensors(dbm)
    for products in (None, torch.float32):
        schedule = JointSchedule(offset_rate=0.5, gibbs_steps=2, products=products)
        after = [
            joint_gradient(one, x, start(one, 6, x, generator(2)), schedule, generator(3))
            for one, x in ((dbm, v), (twin, v.flatten(1)))
        ]
        torch.testing.assert_close(after[0].chains, after[1].chains, rtol=0, atol=1e-5)
        torch.testing.assert_close(after[0].offsets, after[1].offsets, rtol=0, atol=1e-6)
        torch.testing.assert_close(dbm.weights[1].grad, twin.weights[1].grad, rtol=0, atol=1e-5)


# --- what cannot be --------------------------------------------------------------------------------------------------


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"factors of a weight \(4, 3\), found those of \(4, 2\)"):
        DBM(Bernoulli(size=4), [Bernoulli(size=3)], FactoredWeight(MODES, 2, CP(rank=1)))
    dbm = tensor_machine(Bernoulli(size=4), CP(rank=1))
    with pytest.raises(ValueError, match=r"visible states \(batch, \*\(2, 1, 2\)\), found shape \(5, 4\)"):
        dbm.energy(torch.zeros(5, 4), [torch.zeros(5, 3), torch.zeros(5, 2)])
    above = TensorRBM((3, 1), Bernoulli(size=3), Bernoulli(size=2), CP(rank=1))
    with pytest.raises(ValueError, match=r"Bernoulli\(size=3\) cannot stand below TensorRBM of Bernoulli\(size=3\)"):
        DBM.compose([RBM(Bernoulli(size=4), Bernoulli(size=3)), above])


@torch.no_grad()
def test_a_fixed_variance_stays() -> None:
    """In ordinary machines as well."""
    for dbm in (
        tensor_machine(Gaussian(size=4, variance=0.6), CP(rank=2)),
        machine((4, 3), visible=Gaussian(size=4, variance=0.6)),
    ):
        v = torch.randn(5, *dbm.modes, dtype=torch.float64, generator=generator())
        sums = statistics(dbm.chain(), (dbm.rows(v), *mean_field(dbm.chain(), dbm.rows(v)).means)).sums
        assert "layer_parameters.0.log_variance" not in sums
        before = dbm.chain().parameters[0]["log_variance"].clone()
        state = start(dbm, 5, v, generator())
        list(train_jointly(dbm, [v], torch.optim.SGD(dbm.parameters(), lr=0.1), JointSchedule(), state, generator()))
        assert torch.equal(dbm.chain().parameters[0]["log_variance"], before)
