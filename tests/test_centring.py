"""Centred gradients of all machines against the likelihood of the centred machine, summed over all states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from harmonium.models.boltzmann_machine import BoltzmannMachine
from harmonium.models.centring import Activities, Offsets, centre_gradient
from harmonium.models.convolutional_rbm import ConvolutionalRBM
from harmonium.models.energy_model import set_gradient, update
from harmonium.models.tensor_rbm import CP, TensorRBM, Tucker, WeightForm
from harmonium.models.units import Bernoulli, Gaussian, Units

from .deep_machines import expanded_by, generator
from .enumeration import assert_same, binary, gradients, randomise, states

# For tensors this small, threads that wait for each other cost more than they gain.
pytestmark = pytest.mark.usefixtures("one_thread")

Named = dict[str, Tensor]
Machine = TensorRBM | ConvolutionalRBM | BoltzmannMachine


@dataclass(frozen=True)
class Case:
    """A machine, and what it is when it is centred."""

    model: Machine
    offsets: Offsets
    v: Tensor
    """All visible states, (n, ...)."""
    log_weights: Tensor
    """Their weights in sums, (n,)."""
    energies: Callable[[Named], Tensor]
    """Of the centred machine, by its parameters: (n, hidden states)."""
    shifts: Callable[[Named], Named]
    """What offsets take from the biases."""


def offsets_for(visible: int, hidden: int) -> Offsets:
    draw = torch.rand(visible + hidden, dtype=torch.float64, generator=generator(7))
    return Offsets(visible=draw[:visible], hidden=draw[visible:])


def tensor_case(visible: Units, modes: tuple[int, ...], form: WeightForm) -> Case:
    model = TensorRBM(modes, visible, Bernoulli(size=3), form).double()
    randomise(model, scale=0.4)
    offsets, (v, log_weights), h = offsets_for(visible.size, 3), states(visible), binary(3)

    def weight(named: Named) -> Tensor:
        factors = {name.removeprefix("factors."): x for name, x in named.items()}
        return expanded_by(form, factors)

    def energies(named: Named) -> Tensor:
        b = named["visible_parameters.bias"]
        if isinstance(visible, Gaussian):
            variance = named["visible_parameters.log_variance"].exp()
            s, own = v / variance, ((v - b).square() / (2 * variance)).sum(1)
        else:
            s, own = v, -v @ b
        pairs = (s - offsets.visible) @ weight(named) @ (h - offsets.hidden).T
        return own[:, None] - h @ named["hidden_parameters.bias"] - pairs

    def shifts(named: Named) -> Named:
        w = weight(named)
        return {"visible_parameters.bias": w @ offsets.hidden, "hidden_parameters.bias": w.T @ offsets.visible}

    return Case(model, offsets, v.reshape(-1, *modes), log_weights, energies, shifts)


def convolutional_case(channels: int, kernel: tuple[int, int], size: tuple[int, int], stride: tuple[int, int]) -> Case:
    model = ConvolutionalRBM(Bernoulli(size=channels), Bernoulli(size=2), kernel=kernel, stride=stride).double()
    randomise(model, scale=0.6)
    offsets, one_pixel = offsets_for(channels, 2), kernel == (1, 1)
    offsets = offsets if one_pixel else offsets.visible_only()
    rows, columns = model.hidden_shape(*size)
    v, h = binary(channels * math.prod(size)).reshape(-1, channels, *size), binary(2 * rows * columns)
    h = h.reshape(-1, 2, rows, columns)

    def energies(named: Named) -> Tensor:
        up = F.conv2d(v - offsets.visible[:, None, None], named["weight"], stride=stride)
        pairs = up.flatten(1) @ (h - offsets.hidden[:, None, None]).flatten(1).T
        own = v.sum((2, 3)) @ named["visible_parameters.bias"]
        return -own[:, None] - h.sum((2, 3)) @ named["hidden_parameters.bias"] - pairs

    def shifts(named: Named) -> Named:
        found = {"hidden_parameters.bias": torch.einsum("kcyx,c->k", named["weight"], offsets.visible)}
        if one_pixel:
            found["visible_parameters.bias"] = torch.einsum("kcyx,k->c", named["weight"], offsets.hidden)
        return found

    return Case(model, offsets, v, torch.zeros(len(v)).double(), energies, shifts)


def lateral_case(visible: int, hidden: int) -> Case:
    model = BoltzmannMachine(visible, hidden).double()
    randomise(model, scale=0.6)
    offsets, v, h = offsets_for(visible, hidden), binary(visible), binary(hidden).reshape(1 << hidden, hidden)

    def couplings(named: Named) -> Tensor:
        """All of them as one symmetric matrix."""
        r, s = named["visible_lateral"].triu(1), named["hidden_lateral"].triu(1)
        upper = torch.cat([torch.cat([r, named["weight"]], 1), torch.cat([torch.zeros_like(named["weight"].T), s], 1)])
        return upper + upper.T

    mean = torch.cat([offsets.visible, offsets.hidden])

    def energies(named: Named) -> Tensor:
        x = torch.cat([v.repeat_interleave(len(h), 0), h.repeat(len(v), 1)], 1)
        quadratic = 0.5 * torch.einsum("ni,ij,nj->n", x - mean, couplings(named), x - mean)
        return (-quadratic - x @ torch.cat([named["visible_bias"], named["hidden_bias"]])).reshape(len(v), len(h))

    def shifts(named: Named) -> Named:
        both = couplings(named) @ mean
        return {"visible_bias": both[:visible], "hidden_bias": both[visible:]}

    return Case(model, offsets, v, torch.zeros(len(v)).double(), energies, shifts)


CASES = {
    "tensor-CP": tensor_case(Bernoulli(size=4), (2, 1, 2), CP(rank=2)),
    "tensor-Tucker": tensor_case(Bernoulli(size=4), (2, 1, 2), Tucker(ranks=(2, 1, 2, 2))),
    "tensor-reals": tensor_case(Gaussian(size=2), (1, 2), CP(rank=3)),
    "convolutional": convolutional_case(2, (2, 2), (2, 3), (1, 1)),
    "convolutional-stride": convolutional_case(1, (2, 2), (2, 4), (1, 2)),
    "convolutional-pixels": convolutional_case(2, (1, 1), (2, 2), (1, 1)),
    "lateral": lateral_case(4, 3),
    "lateral-visible-only": lateral_case(4, 0),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
DATA = [1, 2, 2, -2]


def loss_of(energies: Tensor, log_weights: Tensor) -> Tensor:
    """-log p of some states, log Z from all of them."""
    log_f = torch.logsumexp(-energies, 1)
    return torch.logsumexp(log_f + log_weights, 0) - log_f[DATA].mean()


def store_exact_gradient(case: Case) -> Named:
    case.model.zero_grad()
    free_energy = case.model.free_energy(case.v)
    (torch.logsumexp(case.log_weights - free_energy, 0) + free_energy[DATA].mean()).backward()  # type: ignore[no-untyped-call]
    return stored(case.model)


def stored(model: Machine) -> Named:
    return {name: g.clone() for name, g in gradients(model).items() if g is not None}


@cases
def test_centred_gradient_is_that_of_the_centred_machine(case: Case) -> None:
    """Its own parameters are θ and b' = b + t(θ): the step in b is that in b' less ∂t/∂θ Δθ."""
    usual = {name: p.detach() for name, p in case.model.named_parameters() if p.requires_grad}
    named = {name: x + case.shifts(usual).get(name, torch.zeros_like(x)) for name, x in usual.items()}
    leaves = {name: x.clone().requires_grad_() for name, x in named.items()}
    energies = case.energies(leaves)
    found = torch.autograd.grad(loss_of(energies, case.log_weights), list(leaves.values()))
    wanted = dict(zip(leaves, found, strict=True))
    # It is the same distribution.
    free_energy = case.model.free_energy(case.v)
    differences = torch.logsumexp(-energies, 1) + free_energy
    torch.testing.assert_close(differences, differences[:1].expand_as(differences), rtol=0, atol=1e-9)
    biases = list(case.shifts(usual))

    def shifts(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(case.shifts(dict(zip(usual, values, strict=True))).values())

    _, moved = torch.autograd.functional.jvp(shifts, tuple(usual.values()), found)  # type: ignore[no-untyped-call]
    for name, value in zip(biases, moved, strict=True):
        wanted[name] = wanted[name] - value
    before = store_exact_gradient(case)
    centre_gradient(case.model, case.offsets)
    assert_same(stored(case.model), dict(wanted), atol=1e-8)
    assert any(float((before[name] - wanted[name]).abs().max()) > 1e-3 for name in biases)


@cases
def test_at_no_offsets_nothing_is_centred(case: Case) -> None:
    before = store_exact_gradient(case)
    nothing = Offsets(visible=torch.zeros_like(case.offsets.visible), hidden=torch.zeros_like(case.offsets.hidden))
    centre_gradient(case.model, nothing)
    assert_same(stored(case.model), dict(before), atol=0)


# --- what it is for --------------------------------------------------------------------------------------------------


def stepped(model: Machine, v: Tensor, data: list[int], offsets: Offsets | None) -> float:
    """Likelihood of some of all states v after one exact step of gradient ascent."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)

    def loss() -> Tensor:
        free_energy = model.free_energy(v)
        return torch.logsumexp(-free_energy, 0) + free_energy[data].mean()

    loss().backward()  # type: ignore[no-untyped-call]
    if offsets is not None:
        centre_gradient(model, offsets)
    update(model, optimiser, 0)
    return -float(loss().detach())


def flipped_lateral(model: BoltzmannMachine, flips: Tensor) -> BoltzmannMachine:
    """The same distribution over states of which those units are complemented where `flips` is 1, hidden ones too."""
    other, sign = BoltzmannMachine(model.visible, model.hidden).double(), 1 - 2 * flips
    v, h = sign.split([model.visible, model.hidden])  # type: ignore[no-untyped-call]
    f, g = flips.split([model.visible, model.hidden])  # type: ignore[no-untyped-call]
    with torch.no_grad():
        other.weight.copy_(v[:, None] * model.weight * h)
        other.visible_lateral.copy_(v[:, None] * model.visible_lateral * v)
        other.hidden_lateral.copy_(h[:, None] * model.hidden_lateral * h)
        r, s = (x.triu(1) + x.triu(1).T for x in (model.visible_lateral, model.hidden_lateral))
        other.visible_bias.copy_(v * (model.visible_bias + r @ f + model.weight @ g))
        other.hidden_bias.copy_(h * (model.hidden_bias + s @ g + model.weight.T @ f))
    return other


@given(seed=st.integers(0, 99), flips=st.lists(st.sampled_from((0.0, 1.0)), min_size=7, max_size=7))
def test_centred_steps_do_not_depend_on_what_is_called_one(seed: int, flips: list[float]) -> None:
    """With lateral connections, in either layer."""
    flip, v = torch.tensor(flips, dtype=torch.float64), binary(4)
    mean = torch.rand(7, dtype=torch.float64, generator=generator(seed))

    def both(centred: bool) -> list[float]:
        results = []
        for chosen in (torch.zeros(7).double(), flip):
            model = BoltzmannMachine(4, 3).double()
            randomise(model, seed, 0.7)
            moved = (mean - chosen).abs()
            offsets = Offsets(visible=moved[:4], hidden=moved[4:]) if centred else None
            results.append(stepped(flipped_lateral(model, chosen), (v - chosen[:4]).abs(), [1, 7, 7, 12], offsets))
        return results

    centred, plain = both(centred=True), both(centred=False)
    assert centred[0] == pytest.approx(centred[1], abs=1e-10)
    if flip.any():
        assert abs(plain[0] - plain[1]) > 1e-8


@given(seed=st.integers(0, 99), flips=st.lists(st.sampled_from((0.0, 1.0)), min_size=2, max_size=2))
def test_centred_steps_do_not_depend_on_what_is_called_one_in_a_channel(seed: int, flips: list[float]) -> None:
    v, flip = binary(8).reshape(-1, 2, 1, 4), torch.tensor(flips, dtype=torch.float64)

    def both(centred: bool) -> list[float]:
        results = []
        for chosen in (torch.zeros(2).double(), flip):
            model = ConvolutionalRBM(Bernoulli(size=2), Bernoulli(size=2), kernel=(1, 2)).double()
            randomise(model, seed, 0.7)
            with torch.no_grad():
                model.hidden_parameters["bias"] += torch.einsum("kcyx,c->k", model.weight, chosen)
                model.weight.mul_((1 - 2 * chosen)[:, None, None])
                model.visible_parameters["bias"].mul_(1 - 2 * chosen)
            images = (v - chosen[:, None, None]).abs()
            offsets = Offsets.start(Activities.of(model, images[[3, 40, 40, 77]])).visible_only() if centred else None
            results.append(stepped(model, images, [3, 40, 40, 77], offsets))
        return results

    centred, plain = both(centred=True), both(centred=False)
    assert centred[0] == pytest.approx(centred[1], abs=1e-10)
    if flip.any():
        assert abs(plain[0] - plain[1]) > 1e-8


LEARNERS: dict[str, tuple[Machine, tuple[int, ...], float, float]] = {
    "tensor": (TensorRBM((2, 1, 2), Bernoulli(size=4), Bernoulli(size=3), CP(rank=3)), (2, 1, 2), 1.0, 0.05),
    "convolutional": (ConvolutionalRBM(Bernoulli(size=1), Bernoulli(size=4), kernel=(1, 3)), (1, 1, 4), 0.3, 0.3),
    "lateral": (BoltzmannMachine(4, 3), (4,), 0.3, 0.1),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_centred_training_learns_more_than_single_pixels(name: str) -> None:
    """With the activities of data as offsets that slide, and chains that go on for the model."""
    noise = generator(1)
    model, shape, scale, rate = LEARNERS[name]
    randomise(model.double(), scale=scale)
    v = binary(4).reshape(-1, *shape)
    data = v[[3, 3, 3, 12, 12, 12, 5, 10]].repeat(20, *[1] * len(shape))

    def clamped() -> Tensor:
        if isinstance(model, BoltzmannMachine):
            return model.join(data, model.mean_field(data).means)
        return data

    @torch.no_grad()
    def likelihood() -> float:
        return float(-model.free_energy(data).mean() - torch.logsumexp(-model.free_energy(v), 0))

    optimiser, chains = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.5), clamped()
    offsets = Offsets.start(Activities.of(model, clamped()))
    for step in range(300):
        with torch.no_grad():
            chains = model.gibbs_step(chains, noise)
        set_gradient(model, model.statistics(clamped()), model.statistics(chains))
        offsets = offsets.slide(Activities.of(model, clamped()), 0.1)
        centre_gradient(model, offsets.visible_only() if name == "convolutional" else offsets)
        update(model, optimiser, step)
    # Each pixel is as often 0 as 1: without weights there is nothing to learn.
    assert likelihood() > -4 * math.log(2) + 0.3


# --- activities ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_activities_are_means_of_the_statistics() -> None:
    tensor = TensorRBM((2, 1, 2), Gaussian(size=4, variance=0.5), Bernoulli(size=3), CP(rank=2)).double()
    randomise(tensor)
    v = torch.rand(5, 2, 1, 2, dtype=torch.float64, generator=generator())
    found = Offsets.start(Activities.of(tensor, v[:2]).merge(Activities.of(tensor, v[2:])))
    torch.testing.assert_close(found.visible, v.flatten(1).mean(0) / 0.5)
    torch.testing.assert_close(found.hidden, tensor.mean_hidden(v).mean(0))
    images = ConvolutionalRBM(Bernoulli(size=2), Bernoulli(size=3), kernel=(2, 2)).double()
    randomise(images)
    v = torch.rand(5, 2, 3, 4, dtype=torch.float64, generator=generator())
    found = Offsets.start(Activities.of(images, v))
    torch.testing.assert_close(found.visible, v.mean((0, 2, 3)))
    torch.testing.assert_close(found.hidden, images.mean_hidden(v).mean((0, 2, 3)))
    assert not found.visible_only().hidden.any()
    assert torch.equal(found.visible_only().visible, found.visible)
    lateral = BoltzmannMachine(4, 3).double()
    v, h = (torch.rand(5, n, dtype=torch.float64, generator=generator(n)) for n in (4, 3))
    found = Offsets.start(Activities.of(lateral, lateral.join(v, h)))
    torch.testing.assert_close((found.visible, found.hidden), (v.mean(0), h.mean(0)))


def test_what_cannot_be() -> None:
    case = CASES["convolutional"]
    store_exact_gradient(case)
    hidden = Offsets(visible=case.offsets.visible, hidden=torch.tensor([0.0, 0.1]).double())
    with pytest.raises(ValueError, match=r"no hidden offsets for filters of \(2, 2\) pixels.*offsets.visible_only\(\)"):
        centre_gradient(case.model, hidden)
    with pytest.raises(ValueError, match=r"offsets of 4 visible and 3 hidden units, found \(\(2,\), \(2,\)\)"):
        centre_gradient(CASES["lateral"].model, hidden)
