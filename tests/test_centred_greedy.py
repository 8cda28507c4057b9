"""Greedy training that is centred: its step against centred coordinates, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from harmonium.models import dbm_training
from harmonium.models.dbm_training import Doubling
from harmonium.models.deep_training import binary_stack
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli

pytestmark = pytest.mark.usefixtures("one_thread")


def bits(count: int, seed: int = 9) -> Tensor:
    """Sixteen bits in four groups that are alike, each on in 85 of 100 cells; 3 of 100 bits are flipped."""
    generator = torch.Generator().manual_seed(seed)
    groups = 1 - (torch.rand(count, 4, generator=generator) < 0.15).float().repeat_interleave(4, 1)
    return torch.where(torch.rand(groups.shape, generator=generator) < 0.03, 1 - groups, groups)


@pytest.mark.parametrize(("up", "down"), [(1.0, 1.0), (2.0, 1.0), (2.0, 2.0), (1.0, 2.0)])
def test_a_centred_step_is_that_in_centred_coordinates(up: float, down: float) -> None:
    """In W, b + W λ and c + Wᵀ μ, CD-1's step is one of centred statistics; offsets are the batch's means."""
    v = bits(40).double()
    rate, doubling = 0.1, Doubling(up=up, down=down)

    def machine() -> RBM:
        rbm = RBM(Bernoulli(size=16), Bernoulli(size=5)).double()
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in rbm.parameters():
                parameter.normal_(0.0, 0.5, generator=generator)
        return rbm

    rbm, before = machine(), machine()
    optimiser = torch.optim.SGD(rbm.parameters(), lr=rate)
    noise = torch.Generator().manual_seed(5)
    list(dbm_training.pretrain(rbm, [v], doubling, optimiser, noise, offset_rate=0.3))
    particles = dbm_training.pretraining_gradient(machine(), v, doubling, 1, torch.Generator().manual_seed(5))
    w, c = before.weight.detach(), before.hidden_parameters["bias"].detach()
    h, h_drawn = (torch.sigmoid(up * x @ w + c) for x in (v, particles))
    mu, lam = v.mean(0), h.mean(0)
    step_w = ((v - mu).T @ (h - lam) - (particles - mu).T @ (h_drawn - lam)) / len(v)
    step_b = (v - particles).mean(0) - step_w @ lam
    step_c = (h - h_drawn).mean(0) - step_w.T @ mu
    for name, expected in (
        ("weight", step_w),
        ("visible_parameters.bias", step_b),
        ("hidden_parameters.bias", step_c),
    ):
        found = (rbm.get_parameter(name) - before.get_parameter(name)).detach() / rate
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert float(step_w.abs().max()) > 1e-3


def dimensions(inputs: Tensor) -> float:
    """Participation ratio of a covariance's eigenvalues: in how many directions its units vary."""
    variances = np.linalg.eigvalsh(np.cov(inputs.T.numpy()))
    return float(variances.sum() ** 2 / np.square(variances).sum())


def test_centred_machines_learn_features_that_are_less_alike() -> None:
    """Of bits that are mostly on."""
    x = bits(2000)

    def trained_with(offset_rate: float | None) -> float:
        [machine] = binary_stack(Bernoulli(size=16), (8,), x, torch.Generator().manual_seed(0))
        optimiser = torch.optim.Adam(machine.parameters(), lr=3e-3)
        source = (x[64 * step % 1900 :][:64] for step in range(300))
        noise = torch.Generator().manual_seed(1)
        list(dbm_training.pretrain(machine, source, Doubling.of(0, 2), optimiser, noise, offset_rate=offset_rate))
        with torch.no_grad():
            return dimensions(machine.inputs_up(x))

    assert trained_with(0.05) > 1.3 * trained_with(None)
