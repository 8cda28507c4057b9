from __future__ import annotations

import pytest
import torch

from harmonium.models.dbm import DBM, mean_field
from harmonium.models.units import Bernoulli, Gaussian, Units
from harmonium.models.unrolled_dbm import unroll_dbm


def machine(visible: Units) -> DBM:
    dbm = DBM(visible, [Bernoulli(size=5), Bernoulli(size=4), Bernoulli(size=3)])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in dbm.parameters():
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
