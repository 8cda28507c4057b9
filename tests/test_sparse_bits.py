"""Products over the ones of binary states, against dense ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harmonium.models.rbm import RBM
from harmonium.models.sparse_bits import SparseBits, statistics
from harmonium.models.units import Bernoulli, Gaussian


@given(
    st.integers(1, 7), st.integers(1, 9), st.integers(1, 5), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 99)
)
def test_products_equal_dense_ones(batch: int, size: int, width: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    v = (torch.rand(batch, size, generator=generator) < share).to(torch.float64)
    weight = torch.randn(size, width, generator=generator, dtype=torch.float64)
    h = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    bits = SparseBits.of(v)
    assert len(bits) == batch
    torch.testing.assert_close(bits.product(weight), v @ weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(bits.transposed_product(h), v.T @ h, rtol=0, atol=1e-12)
    assert bits.counts().tolist() == v.sum(0).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_are_those_of_the_machine(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rbm = RBM(Bernoulli(size=30), Bernoulli(size=20)).initialise(generator, scale=0.5).to(dtype)
    v = (torch.rand(64, 30, generator=generator) < 0.2).to(dtype)
    found, expected = statistics(rbm, SparseBits.of(v)), rbm.statistics(v)
    assert found.count == expected.count
    assert found.sums.keys() == expected.sums.keys()
    for name, value in expected.sums.items():
        torch.testing.assert_close(found.sums[name], value)


def test_what_is_no_bit_is_refused() -> None:
    with pytest.raises(ValueError, match="of 0 and 1"):
        SparseBits.of(torch.tensor([[0.0, 0.5]]))
    with pytest.raises(ValueError, match="of 0 and 1"):
        SparseBits.of(torch.tensor([[0.0, torch.nan]]))
    with pytest.raises(ValueError, match=r"found shape \(2,\)"):
        SparseBits.of(torch.zeros(2))


def test_factors_of_another_length_are_refused() -> None:
    bits = SparseBits.of(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"\(3, any\), found \(2, 5\)"):
        bits.product(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"\(2, any\), found \(3, 5\)"):
        bits.transposed_product(torch.zeros(3, 5))


def test_other_units_are_refused() -> None:
    with pytest.raises(ValueError, match="Bernoulli units, found Gaussian"):
        statistics(RBM(Gaussian(size=3), Bernoulli(size=2)), SparseBits.of(torch.ones(2, 3)))
