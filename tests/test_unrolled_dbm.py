from __future__ import annotations

import pytest
import torch

from harmonium.models.dbm import DBM, mean_field
from harmonium.models.tensor_rbm import CP, FactoredWeight, Tucker, WeightForm
from harmonium.models.units import Bernoulli, Gaussian, Units
from harmonium.models.unrolled_dbm import expand_factors, keep_factors, unroll_dbm


def machine(visible: Units, first: FactoredWeight | None = None) -> DBM:
    dbm = DBM(visible, [Bernoulli(size=5), Bernoulli(size=4), Bernoulli(size=3)], first)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in dbm.parameters() if p.requires_grad):
            parameter.normal_(0.0, 1.0, generator=generator)
    return dbm


@pytest.mark.parametrize("visible", [Bernoulli(size=6), Gaussian(size=6), Gaussian(size=6, variance=0.25)])
@torch.no_grad()
def test_the_encoder_is_the_start_of_mean_field_layer_by_layer(visible: Units) -> None:
    dbm = machine(visible)
    net = unroll_dbm(dbm)
    v = torch.rand(20, 6, generator=torch.Generator().manual_seed(1))
    start = mean_field(dbm.chain(), v, iterations=0).means
    x = v
    for layer, mean in zip(net.encoder, start, strict=True):
        x = torch.sigmoid(layer(x))
        torch.testing.assert_close(x, mean)
    assert torch.equal(net.encode(v), (start[-1] > 0.5).to(torch.int32))


@torch.no_grad()
def test_both_halves_by_hand() -> None:
    dbm = machine(Gaussian(size=6))
    chain = dbm.chain()
    (w0, w1, w2), b = chain.weights, [parameters["bias"] for parameters in chain.parameters]
    variance = torch.exp(chain.parameters[0]["log_variance"])
    v = torch.rand(20, 6, generator=torch.Generator().manual_seed(1))
    h1 = torch.sigmoid(2 * (v / variance) @ w0 + b[1])
    h2 = torch.sigmoid(2 * h1 @ w1 + b[2])
    code = (torch.sigmoid(h2 @ w2 + b[3]) > 0.5).float()
    down2 = torch.sigmoid(2 * code @ w2.T + b[2])
    down1 = torch.sigmoid(2 * down2 @ w1.T + b[1])
    net = unroll_dbm(dbm)
    assert torch.equal(net.encode(v).float(), code)
    torch.testing.assert_close(net.decode(net.encode(v)), down1 @ w0.T + b[0])


@torch.no_grad()
def test_one_hidden_layer_has_one_neighbour_and_nothing_doubles() -> None:
    dbm = DBM(Bernoulli(size=4), [Bernoulli(size=3)]).initialise(torch.Generator().manual_seed(0), scale=1.0)
    net = unroll_dbm(dbm)
    torch.testing.assert_close(net.encoder[0].weight, dbm.weights[0].T)
    torch.testing.assert_close(net.decoder[0].weight, dbm.weights[0])


@pytest.mark.parametrize("form", [CP(rank=3), Tucker(ranks=(2, 2, 3))], ids=lambda form: type(form).__name__)
@pytest.mark.parametrize("visible", [Bernoulli(size=6), Gaussian(size=6, variance=0.25)])
@torch.no_grad()
def test_a_network_keeps_the_factors_of_its_machine_without_a_change_of_the_function(
    visible: Units, form: WeightForm
) -> None:
    dbm = machine(visible, FactoredWeight((2, 3), 5, form))
    dense, net = unroll_dbm(dbm), unroll_dbm(dbm)
    keep_factors(net, dbm)
    v = torch.rand(20, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net.code_input(v), dense.code_input(v), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.decode(dense.encode(v)), dense.decode(dense.encode(v)), rtol=1e-4, atol=1e-5)
    count = sum(parameter.numel() for parameter in net.parameters())
    spared = 2 * (6 * 5 - sum(factor.numel() for factor in dbm.weights[0].values()))
    assert count == sum(parameter.numel() for parameter in dense.parameters()) - spared
    code = dense.encode(v)
    up, down = net.code_input(v), net.decode(code)
    expand_factors(net)
    assert torch.equal(net.code_input(v), up)
    assert torch.equal(net.decode(code), down)
    assert set(net.state_dict()) == set(dense.state_dict())


def test_a_network_of_matrices_stays_as_it_is() -> None:
    dbm = machine(Gaussian(size=6))
    net = unroll_dbm(dbm)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    keep_factors(net, dbm)
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)


def test_variances_of_their_own_cannot_go_into_the_hidden_factor() -> None:
    dbm = machine(Gaussian(size=6), FactoredWeight((2, 3), 5, CP(rank=3)))
    with pytest.raises(ValueError, match=r"visible units of one variance, found precisions of .* fix the variance"):
        keep_factors(unroll_dbm(dbm), dbm)
