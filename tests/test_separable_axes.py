"""Separable axes against numpy: Kronecker products, eigenvalues, covariances that are products themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harmonium.models.principal_axes import PrincipalAxes
from harmonium.models.unrolled import StackShape, UnrolledStack

MODES = (2, 3, 4)
VISIBLE = 24


def kronecker(matrices: Sequence[NDArray[Any]]) -> NDArray[Any]:
    product: NDArray[Any] = np.ones([1] * matrices[0].ndim)
    for matrix in matrices:
        product = np.kron(product, matrix)
    return product


def mode_covariance(size: int) -> NDArray[np.float64]:
    """Neighbours are alike, with variances of their own."""
    rng = np.random.default_rng(size)
    deviation = rng.uniform(0.5, 2.0, size)
    alike = 0.7 ** np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    return alike * np.outer(deviation, deviation)


COVARIANCES = [mode_covariance(size) for size in MODES]


def separable_cells(count: int) -> torch.Tensor:
    """Cells whose sample covariance is the Kronecker product of the modes', exactly but for rounding."""
    rng = np.random.default_rng(0)
    white = rng.normal(size=(count, VISIBLE))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T))).T
    root = np.linalg.cholesky(kronecker(COVARIANCES))
    return torch.from_numpy((white @ root.T + np.arange(VISIBLE)).astype(np.float32))


def any_cells(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(VISIBLE, VISIBLE, generator=torch.Generator().manual_seed(7))
    return torch.randn(count, VISIBLE, generator=generator) @ mixing + torch.arange(float(VISIBLE))


def test_a_separable_covariance_is_decorrelated_exactly() -> None:
    x = separable_cells(500)
    axes = PrincipalAxes.separable(x, MODES, 0.0)
    eigenvalues = kronecker([np.linalg.eigvalsh(covariance)[::-1] for covariance in COVARIANCES])
    np.testing.assert_allclose(axes.variances, eigenvalues, rtol=1e-3)
    found = np.cov(axes.project(x).double().numpy().T)
    np.testing.assert_allclose(found, np.diag(eigenvalues), atol=1e-4 * eigenvalues.max())


def test_axes_are_the_kronecker_product_of_those_of_each_mode() -> None:
    x = any_cells(200)
    axes = PrincipalAxes.separable(x, MODES, 0.5)
    np.testing.assert_allclose(axes.directions.T @ axes.directions, np.eye(VISIBLE), atol=1e-5)
    centred = (x.double() - x.double().mean(0)).numpy().reshape(-1, *MODES)
    unfolded = [np.moveaxis(centred, mode, 0).reshape(size, -1) for mode, size in enumerate(MODES, start=1)]
    of_modes = [np.linalg.eigh(values @ values.T)[1][:, ::-1] for values in unfolded]
    expected = kronecker(of_modes)
    # Eigenvectors have no sign.
    np.testing.assert_allclose(np.abs((axes.directions.numpy() * expected).sum(0)), 1, atol=1e-5)


def test_variances_are_those_of_the_coordinates() -> None:
    x = any_cells(300)
    coordinates = PrincipalAxes.separable(x, MODES, 0.0).project(x).numpy()
    np.testing.assert_allclose(PrincipalAxes.separable(x, MODES, 0.0).variances, coordinates.var(0, ddof=1), rtol=1e-3)
    white = PrincipalAxes.separable(x, MODES, 1.0).project(x).numpy()
    np.testing.assert_allclose(white.var(0, ddof=1), 1, rtol=1e-3)


def test_one_mode_has_the_principal_axes() -> None:
    x = any_cells(300)
    separable, principal = PrincipalAxes.separable(x, (VISIBLE,), 0.5), PrincipalAxes.of(x, 0.5)
    torch.testing.assert_close(separable.directions, principal.directions)
    torch.testing.assert_close(separable.variances, principal.variances, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_folding_leaves_the_function_unchanged() -> None:
    x = any_cells(50)
    axes = PrincipalAxes.separable(x, MODES, 0.5)
    net = UnrolledStack(StackShape(sizes=(VISIBLE, 9, 4), hidden="sigmoid", code="sigmoid", visible="identity"))
    for parameter in net.parameters():
        parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
    along = net.code_input(axes.project(x))
    back = net.decode_values(along.round()) * axes.scale @ axes.directions.T + axes.mean
    axes.fold(net)
    torch.testing.assert_close(net.code_input(x), along, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.decode_values(along.round()), back, rtol=1e-4, atol=1e-4)
    errors = axes.squared_error(axes.project(any_cells(50, 1)), axes.project(x))
    assert float(errors) == pytest.approx(float((any_cells(50, 1) - x).square().sum(1).mean()), rel=1e-3)


def test_values_that_are_all_alike() -> None:
    axes = PrincipalAxes.separable(torch.full((10, VISIBLE), 3.0), MODES, 1.0)
    assert torch.equal(axes.project(torch.full((2, VISIBLE), 3.0)), torch.zeros(2, VISIBLE))


def test_cells_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"cells \(cells, 24\) for modes \(2, 3, 4\), found \(10, 8\)"):
        PrincipalAxes.separable(torch.zeros(10, 8), MODES, 0.5)
