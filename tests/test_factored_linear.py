"""Layers with weights in factors against ordinary ones with the expanded weights."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from harmonium.models.factored_linear import expand, factorise, set_weight
from harmonium.models.tensor_rbm import CP, FactoredWeight, Tucker, WeightForm

from .deep_machines import expanded, expanded_by, generator

MODES, HIDDEN = (2, 3, 2), 5
forms = pytest.mark.parametrize("form", [CP(rank=4), Tucker(ranks=(2, 2, 2, 3))], ids=lambda form: type(form).__name__)
directions = pytest.mark.parametrize("upwards", [True, False], ids=["up", "down"])


def factored_weight(
    form: WeightForm, modes: tuple[int, ...] = MODES, hidden: int = HIDDEN, seed: int = 0
) -> FactoredWeight:
    weight = FactoredWeight(modes, hidden, form).double()
    with torch.no_grad():
        for factor in weight.values():
            factor.normal_(0.0, 1.0, generator=generator(seed))
    return weight


def layer_of(weight: FactoredWeight, upwards: bool) -> nn.Linear:
    """An ordinary layer with the weight by the formula of its form."""
    dense = expanded(weight).detach()
    layer = nn.Linear(*(dense.shape if upwards else dense.shape[::-1])).double()
    with torch.no_grad():
        layer.weight.copy_(dense.T if upwards else dense)
        layer.bias.normal_(0.0, 1.0, generator=generator(3))
    return layer


def gradient(loss: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def factors_of(layer: nn.Linear) -> dict[str, Tensor]:
    """Of a layer in factors, by the names of `FactoredWeight`."""
    named = {name.rpartition(".")[2]: p for name, p in layer.named_parameters() if name != "bias"}
    return {"hidden" if name == "original" else name: p for name, p in named.items()}


@forms
@directions
def test_outputs_and_gradients_are_those_of_the_expanded_weight(form: WeightForm, upwards: bool) -> None:
    weight = factored_weight(form)
    layer, dense = layer_of(weight, upwards), layer_of(weight, upwards)
    factorise(layer, weight, upwards=upwards)
    x, target = (torch.randn(7, n, generator=generator(n)).double() for n in (dense.in_features, dense.out_features))
    torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=1e-10)
    factors = factors_of(layer)
    assert set(factors) == set(weight)
    found = gradient(((layer(x) - target) ** 2).sum(), {**factors, "bias": layer.bias})
    own = {name: f.detach().clone().requires_grad_() for name, f in factors.items()}
    by_formula = expanded_by(form, own)
    y = x @ (by_formula if upwards else by_formula.T) + layer.bias
    wanted = gradient(((y - target) ** 2).sum(), {**own, "bias": layer.bias})
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@forms
@directions
def test_expanding_leaves_an_ordinary_layer_with_the_same_function(form: WeightForm, upwards: bool) -> None:
    weight = factored_weight(form)
    layer = layer_of(weight, upwards)
    factorise(layer, weight, upwards=upwards)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(8)).double())
    x = torch.randn(7, layer.in_features, generator=generator(1)).double()
    before = layer(x)
    expand(layer)
    assert type(layer) is nn.Linear
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    assert layer.weight.is_leaf
    assert layer.weight.is_contiguous()
    assert torch.equal(layer(x), before)
    expand(layer)  # there is nothing to expand
    assert torch.equal(layer(x), before)


@forms
@directions
def test_factors_are_copies(form: WeightForm, upwards: bool) -> None:
    weight = factored_weight(form)
    layer = layer_of(weight, upwards)
    factorise(layer, weight, upwards=upwards)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        for factor in weight.values():
            factor.zero_()
    assert torch.equal(layer.weight, before)


@given(
    modes=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    rank=st.integers(1, 9),
    upwards=st.booleans(),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_a_given_weight_becomes_the_nearest_of_its_visible_factors(
    modes: tuple[int, ...], rank: int, upwards: bool, seed: int
) -> None:
    """The residual of a least-squares solution is orthogonal to all that the visible factors can make."""
    weight = factored_weight(CP(rank=rank), modes, seed=seed)
    layer = layer_of(weight, upwards)
    factorise(layer, weight, upwards=upwards)
    visible = expanded_by(CP(rank=rank), {**weight, "hidden": torch.eye(rank).double()})
    wanted = torch.randn(layer.weight.shape, generator=generator(seed)).double()
    set_weight(layer, wanted)
    residual = wanted - layer.weight
    to_visible = residual.T if upwards else residual
    assert float((visible.T @ to_visible).abs().max()) < 1e-8 * (1 + float(visible.norm()))
    scales = torch.rand(HIDDEN, generator=generator(seed)).double() + 0.5
    within = layer.weight * (scales.unsqueeze(1) if upwards else scales)
    set_weight(layer, within)
    torch.testing.assert_close(layer.weight, within, rtol=0, atol=1e-8)
    assert wanted.shape == (HIDDEN, math.prod(modes))[:: 1 if upwards else -1]


@torch.no_grad()
def test_factors_that_are_alike_give_no_hidden_factor_without_bound() -> None:
    weight = factored_weight(CP(rank=2))
    for name in ("mode_0", "mode_1", "mode_2"):
        weight[name][:, 1] = weight[name][:, 0] * (1 + 1e-9)
    layer = layer_of(weight, upwards=True)
    factorise(layer, weight, upwards=True)
    set_weight(layer, torch.randn(layer.weight.shape, generator=generator()).double())
    assert float(factors_of(layer)["hidden"].abs().max()) < 100


def test_an_ordinary_layer_takes_the_weight_as_it_is() -> None:
    layer = nn.Linear(3, 2)
    parameter = layer.weight
    set_weight(layer, torch.arange(6.0).reshape(2, 3))
    assert layer.weight is parameter
    assert torch.equal(layer.weight, torch.arange(6.0).reshape(2, 3))


@directions
def test_as_many_hidden_as_visible_units(upwards: bool) -> None:
    weight = factored_weight(CP(rank=4), hidden=12)
    layer = layer_of(weight, upwards)
    before = layer.weight.detach().clone()
    factorise(layer, weight, upwards=upwards)
    torch.testing.assert_close(layer.weight.detach(), before, rtol=0, atol=1e-10)


@directions
def test_a_layer_of_another_size(upwards: bool) -> None:
    expected = "12 to 5" if upwards else "5 to 12"
    with pytest.raises(ValueError, match=f"a layer from {expected} units, found 12 to 4"):
        factorise(nn.Linear(12, 4), factored_weight(CP(rank=1)), upwards=upwards)
