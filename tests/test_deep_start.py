from __future__ import annotations

import numpy as np
import pytest
import torch

from harmonium.models.deep_start import principal_network, random_network
from harmonium.models.principal_axes import PrincipalAxes
from harmonium.models.training import random_batches


def cells(count: int, seed: int = 0) -> torch.Tensor:
    """Six correlated values about means that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, 6, generator=torch.Generator().manual_seed(7))
    return torch.randn(count, 6, generator=generator) @ mixing + torch.arange(6.0)


@pytest.mark.parametrize(("whitening", "variance"), [(0.0, None), (1.0, 1.0)])
def test_coordinates_are_uncorrelated_and_the_largest_comes_first(whitening: float, variance: float | None) -> None:
    x = cells(5000)
    axes = PrincipalAxes.of(x, whitening)
    covariance = np.cov(axes.project(x).numpy().T)
    expected = np.linalg.eigvalsh(np.cov(x.numpy().T))[::-1]
    np.testing.assert_allclose(covariance, np.diag(expected if variance is None else [variance] * 6), atol=0.02)
    np.testing.assert_allclose(axes.variances, expected, rtol=1e-3)


def test_errors_of_coordinates_are_those_of_the_values() -> None:
    x, y = cells(50), cells(50, seed=1)
    axes = PrincipalAxes.of(x, 0.5)
    error = float((x - y).square().sum(1).mean())
    assert float(axes.squared_error(axes.project(y), axes.project(x))) == pytest.approx(error, rel=1e-4)


def test_values_that_are_all_alike() -> None:
    axes = PrincipalAxes.of(torch.full((10, 4), 3.0), 1.0)
    assert torch.equal(axes.project(torch.full((2, 4), 3.0)), torch.zeros(2, 4))


@torch.no_grad()
def test_the_principal_start_is_the_transform_whatever_the_depth() -> None:
    x = cells(400)
    axes = PrincipalAxes.of(x, 0.5)
    net = principal_network(6, (20, 30, 9), 3, torch.Generator().manual_seed(0))
    assert net.shape.sizes == (6, 20, 30, 9, 3)
    torch.testing.assert_close(net.code_input(axes.project(x)), axes.project(x)[:, :3])
    axes.fold(net)
    kept = axes.directions[:, :3]
    expected = (x - axes.mean) @ kept @ kept.T + axes.mean
    torch.testing.assert_close(net.decode_values(net.code_input(x)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_hidden_layers_are_wide_enough_for_pairs() -> None:
    net = principal_network(6, (4,), 5, torch.Generator().manual_seed(0))
    assert net.shape.sizes == (6, 10, 5)
    z = cells(20)
    torch.testing.assert_close(net.decode_values(net.code_input(z))[:, :5], z[:, :5])


def test_features_beside_the_components_can_be_learned() -> None:
    """The weights from them are zero at first, but not their gradient; then theirs is not, either."""
    net = principal_network(6, (20, 20), 2, torch.Generator().manual_seed(0))
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3)
    for _, x in zip(range(2), random_batches(cells(100), 50, torch.Generator().manual_seed(0)), strict=False):
        optimiser.zero_grad()
        torch.autograd.backward((net.decode_values(net.code_input(x)) - x).square().mean())
        optimiser.step()
    beside = net.decoder[0].weight.grad
    assert isinstance(beside, torch.Tensor)
    assert float(beside[4:].abs().max()) > 0


@torch.no_grad()
def test_random_weights_pass_signals_on() -> None:
    net = random_network(200, (300, 300, 300), 100, torch.Generator().manual_seed(0))
    z = torch.randn(500, 200, generator=torch.Generator().manual_seed(1))
    assert float(net.code_input(z).square().mean()) == pytest.approx(1.0, rel=0.3)
