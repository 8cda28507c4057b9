"""The tensor machine against the dense RBM with its expanded weights."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harmonium.models.categorical import Categorical
from harmonium.models.energy_model import free_energy_statistics, set_gradient
from harmonium.models.rbm import RBM
from harmonium.models.tensor_rbm import CP, TensorRBM, Tucker, WeightForm
from harmonium.models.units import Bernoulli, Gaussian, RectifiedGaussian, Units

from .deep_machines import expanded
from .enumeration import assert_same, binary, chi_square, counts_of, expected, gradients, randomise


def machine(modes: tuple[int, ...], visible: type[Units], hidden: Units, form: WeightForm, seed: int = 0) -> TensorRBM:
    trbm = TensorRBM(modes, visible(size=math.prod(modes)), hidden, form).double()
    randomise(trbm, seed, 0.6)
    return trbm


@torch.no_grad()
def dense(trbm: TensorRBM) -> RBM:
    rbm = RBM(trbm.visible, trbm.hidden).double()
    rbm.weight.copy_(expanded(trbm.factors))
    rbm.visible_parameters.load_state_dict(trbm.visible_parameters.state_dict())
    rbm.hidden_parameters.load_state_dict(trbm.hidden_parameters.state_dict())
    return rbm


@st.composite
def machines(draw: st.DrawFn) -> TensorRBM:
    modes = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    kinds_above = (Bernoulli(size=3), RectifiedGaussian(size=2), Categorical(size=1, states=3), Gaussian(size=2))
    hidden: Units = draw(st.sampled_from(kinds_above))
    ranks = st.integers(1, 3)
    form: WeightForm = CP(rank=draw(ranks))
    if draw(st.booleans()):
        form = Tucker(ranks=tuple(draw(ranks) for _ in range(len(modes) + 1)))
    kinds: tuple[type[Units], ...] = (Bernoulli, Gaussian, RectifiedGaussian)
    visible = draw(st.sampled_from(kinds))
    return machine(modes, visible, hidden, form, draw(st.integers(0, 99)))


@given(trbm=machines(), seed=st.integers(0, 99))
@torch.no_grad()
def test_it_is_the_machine_with_the_expanded_weights(trbm: TensorRBM, seed: int) -> None:
    rbm = dense(trbm)
    torch.testing.assert_close(trbm.dense_weight(), rbm.weight.detach(), rtol=0, atol=1e-12)
    generator = torch.Generator().manual_seed(seed)
    v = torch.rand(3, *trbm.modes, dtype=torch.float64, generator=generator)
    h = torch.rand(3, trbm.hidden.width, dtype=torch.float64, generator=generator)
    beta = torch.tensor([0.0, 0.4, 1.0]).double()
    pairs = [
        (trbm.energy(v, h), rbm.energy(v.flatten(1), h)),
        (trbm.free_energy(v), rbm.free_energy(v.flatten(1))),
        (trbm.free_energy(v, beta), rbm.free_energy(v.flatten(1), beta)),
        (trbm.mean_hidden(v), rbm.mean_hidden(v.flatten(1))),
        (trbm.mean_visible(h).flatten(1), rbm.mean_visible(h)),
    ]
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)
    draws = [m.gibbs_step(x, torch.Generator().manual_seed(seed)) for m, x in ((trbm, v), (rbm, v.flatten(1)))]
    assert draws[0].shape == v.shape
    torch.testing.assert_close(draws[0].flatten(1), draws[1], rtol=0, atol=1e-8)


@given(trbm=machines())
def test_statistics_are_those_of_the_dense_machine_by_the_chain_rule(trbm: TensorRBM) -> None:
    v = torch.rand(4, *trbm.modes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, wanted = trbm.statistics(v), dense(trbm).statistics(v.flatten(1))
    factors = {name: p for name, p in trbm.named_parameters() if name.startswith("factors.")}
    chained = torch.autograd.grad((expanded(trbm.factors) * wanted.sums["weight"]).sum(), list(factors.values()))
    sums = {**wanted.sums, **dict(zip(factors, chained, strict=True))}
    del sums["weight"]
    assert found.count == 4
    assert_same(found.sums, sums, atol=1e-8)
    assert_same(found.sums, dict(free_energy_statistics(trbm, v).sums), atol=1e-8)


@pytest.mark.parametrize("form", [CP(rank=2), Tucker(ranks=(2, 1, 2, 2))], ids=lambda form: type(form).__name__)
def test_gradient_is_that_of_the_exact_likelihood(form: WeightForm) -> None:
    trbm = machine((2, 2, 2), Bernoulli, Bernoulli(size=3), form)
    tensors = binary(8).reshape(-1, 2, 2, 2)
    data = tensors[[15, 240, 204, 15]]
    (trbm.free_energy(data).mean() + torch.logsumexp(-trbm.free_energy(tensors), 0)).backward()  # type: ignore[no-untyped-call]
    exact = gradients(trbm)
    p = torch.softmax(-trbm.free_energy(tensors).detach(), 0)
    negative = expected([trbm.statistics(v[None]) for v in tensors], p)
    set_gradient(trbm, trbm.statistics(data), negative)
    assert_same({name: g for name, g in gradients(trbm).items() if g is not None}, exact, atol=1e-8)


@torch.no_grad()
def test_chains_reach_the_exact_distribution() -> None:
    trbm = machine((2, 3), Bernoulli, Bernoulli(size=3), CP(rank=2))
    p = torch.softmax(-trbm.free_energy(binary(6).reshape(-1, 2, 3)), 0)
    v, generator = torch.zeros(8000, 2, 3, dtype=torch.float64), torch.Generator().manual_seed(0)
    for _ in range(40):
        v = trbm.gibbs_step(v, generator)
    counts = counts_of(v.flatten(1), binary(6))
    assert chi_square(counts, p) > 1e-3
    trbm.factors["mode_0"].mul_(1.3)
    assert chi_square(counts, torch.softmax(-trbm.free_energy(binary(6).reshape(-1, 2, 3)), 0)) < 1e-6


@pytest.mark.parametrize("form", [CP(rank=20), Tucker(ranks=(4, 4, 3, 10))], ids=lambda form: type(form).__name__)
def test_factors_are_few_and_start_with_small_weights(form: WeightForm) -> None:
    trbm = TensorRBM((8, 8, 4), Gaussian(size=256), Bernoulli(size=100), form)
    found = [
        float(trbm.initialise(torch.Generator().manual_seed(seed), 0.01).dense_weight().detach().square().mean())
        for seed in range(20)
    ]
    assert math.sqrt(sum(found) / 20) == pytest.approx(0.01, rel=0.15)
    assert sum(p.numel() for p in trbm.factors.values()) < 256 * 100 / 8


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"each of the 12 entries of \(2, 2, 3\), got Bernoulli\(size=4\)"):
        TensorRBM((2, 2, 3), Bernoulli(size=4), Bernoulli(size=1), CP(rank=1))
    with pytest.raises(ValueError, match="rank >= 1, got 0"):
        CP(rank=0)
    with pytest.raises(ValueError, match=r"got \(2, 0\)"):
        Tucker(ranks=(2, 0))
    with pytest.raises(ValueError, match=r"Expected 3 ranks for 2 visible modes and the hidden, got \(1, 1\)"):
        TensorRBM((2, 2), Bernoulli(size=4), Bernoulli(size=1), Tucker(ranks=(1, 1)))
    trbm = TensorRBM((2, 3), Bernoulli(size=6), Bernoulli(size=1), CP(rank=1))
    with pytest.raises(ValueError, match=r"visible states \(batch, \*\(2, 3\)\), found shape \(1, 6\)"):
        trbm.free_energy(torch.zeros(1, 6))
    with pytest.raises(ValueError, match=r"visible states of torch.float32.*found torch.float64"):
        trbm.free_energy(torch.zeros(1, 2, 3).double())
