"""The convolutional machine against the RBM with its unrolled weights, and against sums over all states."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harmonium.models.categorical import Categorical
from harmonium.models.convolutional_rbm import ConvolutionalRBM
from harmonium.models.energy_model import free_energy_statistics, set_gradient
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, LimitedState, RectifiedGaussian, Units

from .enumeration import assert_same, binary, chi_square, counts_of, expected, gradients, randomise


def machine(
    visible: Units, hidden: Units, kernel: tuple[int, int], stride: tuple[int, int], seed: int = 0
) -> ConvolutionalRBM:
    crbm = ConvolutionalRBM(visible, hidden, kernel=kernel, stride=stride).double()
    randomise(crbm, seed, 0.4)
    return crbm


@torch.no_grad()
def unrolled(crbm: ConvolutionalRBM, rows: int, columns: int) -> RBM:
    """The dense machine, its weights put in place one by one; units in the order of a flattened image."""
    (down, across), (kernel_rows, kernel_columns) = crbm.hidden_shape(rows, columns), crbm.kernel
    channels, filters = crbm.visible.size, crbm.hidden.size
    weight = np.zeros((channels, rows, columns, filters, down, across))
    places = itertools.product(range(down), range(across), range(kernel_rows), range(kernel_columns))
    for y, x, dy, dx in places:
        row, column = y * crbm.stride[0] + dy, x * crbm.stride[1] + dx
        weight[:, row, column, :, y, x] += crbm.weight[:, :, dy, dx].T.numpy()
    dense = RBM(type(crbm.visible)(size=channels * rows * columns), type(crbm.hidden)(size=filters * down * across))
    dense.double()
    dense.weight.copy_(torch.from_numpy(weight.reshape(dense.weight.shape)))
    for name, value in crbm.visible_parameters.items():
        dense.visible_parameters[name].copy_(value.repeat_interleave(rows * columns))
    for name, value in crbm.hidden_parameters.items():
        dense.hidden_parameters[name].copy_(value.repeat_interleave(down * across))
    return dense


@given(
    visible=st.sampled_from((Bernoulli, Gaussian, RectifiedGaussian)),
    hidden=st.sampled_from((Bernoulli, RectifiedGaussian)),
    widths=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    places=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_it_is_the_machine_with_the_unrolled_weights(
    visible: type[Units],
    hidden: type[Units],
    widths: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    places: tuple[int, int],
    seed: int,
) -> None:
    stride = (min(stride[0], kernel[0]), min(stride[1], kernel[1]))
    rows, columns = (k + s * (n - 1) for k, s, n in zip(kernel, stride, places, strict=True))
    crbm = machine(visible(size=widths[0]), hidden(size=widths[1]), kernel, stride, seed)
    dense = unrolled(crbm, rows, columns)
    generator = torch.Generator().manual_seed(seed)
    v = torch.rand(2, widths[0], rows, columns, dtype=torch.float64, generator=generator)
    h = torch.rand(2, widths[1], *places, dtype=torch.float64, generator=generator)
    beta = torch.tensor([0.3, 1.0]).double()
    assert crbm.hidden_shape(rows, columns) == places
    pairs = [
        (crbm.energy(v, h), dense.energy(v.flatten(1), h.flatten(1))),
        (crbm.free_energy(v), dense.free_energy(v.flatten(1))),
        (crbm.free_energy(v, beta), dense.free_energy(v.flatten(1), beta)),
        (crbm.mean_hidden(v).flatten(1), dense.mean_hidden(v.flatten(1))),
        (crbm.mean_hidden(v, beta).flatten(1), dense.mean_hidden(v.flatten(1), beta)),
        (crbm.mode_hidden(v).flatten(1), dense.mode_hidden(v.flatten(1))),
        (crbm.mean_visible(h).flatten(1), dense.mean_visible(h.flatten(1))),
    ]
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("visible", "hidden"),
    [
        (Bernoulli(size=2), Bernoulli(size=3)),
        (Gaussian(size=2), Bernoulli(size=3)),
        (Gaussian(size=2, variance=0.5), RectifiedGaussian(size=2)),
        (Bernoulli(size=1), Gaussian(size=2)),
        (LimitedState(size=1, states=4), Categorical(size=1, states=3)),
        (Categorical(size=2, states=3), Bernoulli(size=2)),
    ],
    ids=lambda units: type(units).__name__,
)
def test_statistics_are_the_gradient_of_the_free_energy(visible: Units, hidden: Units) -> None:
    crbm = machine(visible, hidden, (2, 3), (1, 2))
    v = torch.rand(4, visible.width, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = crbm.statistics(v)
    assert found.count == 4
    assert_same(found.sums, dict(free_energy_statistics(crbm, v).sums), atol=1e-8)
    parts = crbm.statistics(v[:1]).merge(crbm.statistics(v[1:]))
    assert_same(parts.sums, dict(found.sums), atol=1e-10)


def test_gradient_is_that_of_the_exact_likelihood() -> None:
    crbm = machine(Bernoulli(size=1), Bernoulli(size=2), (2, 2), (1, 1))
    images = binary(8).reshape(-1, 1, 2, 4)
    data = images[[15, 240, 51, 129]]
    (crbm.free_energy(data).mean() + torch.logsumexp(-crbm.free_energy(images), 0)).backward()  # type: ignore[no-untyped-call]
    exact = gradients(crbm)
    p = torch.softmax(-crbm.free_energy(images).detach(), 0)
    negative = expected([crbm.statistics(v[None]) for v in images], p)
    set_gradient(crbm, crbm.statistics(data), negative)
    assert_same({name: g for name, g in gradients(crbm).items() if g is not None}, exact, atol=1e-8)


@torch.no_grad()
def test_chains_reach_the_exact_distribution() -> None:
    crbm = machine(Bernoulli(size=1), Bernoulli(size=2), (2, 2), (1, 1))
    crbm.weight.mul_(2)
    images = binary(6).reshape(-1, 1, 2, 3)
    p = torch.softmax(-crbm.free_energy(images), 0)

    def after(steps: int, beta: Tensor | None = None) -> Tensor:
        v, generator = torch.zeros(8000, 1, 2, 3, dtype=torch.float64), torch.Generator().manual_seed(0)
        for _ in range(steps):
            v = crbm.gibbs_step(v, generator, beta)
        return v.flatten(1)

    assert chi_square(counts_of(after(40), binary(6)), p) > 1e-3
    assert chi_square(counts_of(after(40, torch.full((8000,), 0.7).double()), binary(6)), p) < 1e-6


def test_overlap_and_what_cannot_be() -> None:
    crbm = ConvolutionalRBM(Bernoulli(size=1), Bernoulli(size=2), kernel=(5, 4), stride=(2, 4))
    assert crbm.overlap == (3, 0)
    crbm.initialise(torch.Generator().manual_seed(0), 0.5)
    assert float(crbm.weight.detach().std()) == pytest.approx(0.5, rel=0.3)
    with pytest.raises(ValueError, match=r"strides from 1 to the kernel's \(2, 2\).*got \(3, 1\)"):
        ConvolutionalRBM(Bernoulli(size=1), Bernoulli(size=1), kernel=(2, 2), stride=(3, 1))
    with pytest.raises(ValueError, match=r"multiple of \(2, 4\) more, found \(6, 8\); crop or pad"):
        crbm.free_energy(torch.zeros(1, 1, 6, 8))
    with pytest.raises(ValueError, match=r"visible states \(batch, 1, rows, columns\).*found \(1, 2, 5, 4\)"):
        crbm.free_energy(torch.zeros(1, 2, 5, 4))
    with pytest.raises(ValueError, match=r"hidden states of torch.float32"):
        crbm.mean_visible(torch.zeros(1, 2, 1, 1, dtype=torch.float16))
