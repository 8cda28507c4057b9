"""Code units of a balanced network against their covariance, and the nearest that are uncorrelated."""

from __future__ import annotations

import copy
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from harmonium.models.balance import balance
from harmonium.models.unrolled import StackShape, UnrolledStack

pytestmark = pytest.mark.usefixtures("one_thread")


def cells() -> Tensor:
    """Twelve bits, neighbours of which are mostly the same."""
    generator = torch.Generator().manual_seed(6)
    shared = torch.rand(600, 4, generator=generator).repeat_interleave(3, 1)
    return (0.6 * shared + 0.4 * torch.rand(600, 12, generator=generator)).round()


def alike(units: int) -> UnrolledStack:
    """A network whose code units all look for nearly the same."""
    net = UnrolledStack(StackShape(sizes=(12, 8, units), hidden="sigmoid", code="sigmoid", visible="sigmoid"))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
        last = cast("torch.nn.Linear", net.encoder[-1])
        last.weight.copy_(last.weight[:1] + 0.1 * last.weight)
    return net


def code_inputs(net: UnrolledStack, x: Tensor) -> Tensor:
    """What the code units get, before they are squashed."""
    last = net.encoder[-1](torch.sigmoid(net.encoder[0](x)))
    return cast("Tensor", last)


@torch.no_grad()
@pytest.mark.parametrize("units", [1, 2, 5])
def test_balanced_codes_are_uncorrelated_where_they_said_the_same(units: int) -> None:
    x, net = cells(), alike(units)
    before = code_inputs(net, x).T.numpy()
    assert units == 1 or np.abs(np.corrcoef(before)[0, 1:]).min() > 0.8
    balance(net, x)
    after = np.cov(code_inputs(net, x).T.numpy()).reshape(units, units)
    np.testing.assert_allclose(after, 1.5**2 * np.eye(units), atol=0.01)


@torch.no_grad()
def test_code_units_stay_those_that_they_are_most_like() -> None:
    """The symmetric root: of all uncorrelated units with variance 1, the nearest."""
    x, net = cells(), alike(4)
    last = copy.deepcopy(net.encoder[-1])
    balance(net, x)
    before = last(torch.sigmoid(net.encoder[0](x)))
    centred = (before - before.mean(0)).double().numpy()
    u, _, vt = np.linalg.svd(centred, full_matrices=False)
    nearest = u @ vt  # the polar factor
    expected = 1.5 * nearest / nearest.std(0, ddof=1)
    np.testing.assert_allclose(code_inputs(net, x), expected, atol=0.02)


@torch.no_grad()
@pytest.mark.parametrize("units", [9, 40])
def test_more_code_units_than_there_are_below(units: int) -> None:
    """They cannot all be uncorrelated, but say all that the layer below does, and stay finite."""
    x, net = cells(), alike(units)
    balance(net, x)
    inputs = code_inputs(net, x)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters())
    np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-2)
    np.testing.assert_allclose(inputs.std(0), 1.5, rtol=1e-2)
    variances = np.linalg.eigvalsh(np.cov(inputs.T.numpy()))[::-1]
    assert variances[7] > 0.2 * variances[0]
    assert variances[8] < 1e-3 * variances[0]
