"""Draws of single units against their probabilities; see `test_rbm.py` for energies and conditionals."""

from __future__ import annotations

import pytest
import torch

from harmonium.models.units import Bernoulli


# Coarse dtypes have coarse probabilities, but the draws may not be coarser still.
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_bernoulli_draws_have_the_units_probabilities(dtype: torch.dtype) -> None:
    p = torch.tensor([0.0, 1e-4, 0.1, 0.5, 0.731, 0.999, 1.0])
    units, parameters = Bernoulli(size=7), {"bias": torch.zeros(7, dtype=dtype)}
    a, noise = torch.logit(p).to(dtype), torch.Generator().manual_seed(0)
    p = units.mean(a, parameters).to(torch.float64)
    x = torch.cat([units.sample(a.expand(100_000, -1), parameters, noise) for _ in range(5)])
    assert x.dtype == dtype
    assert set(x.unique().tolist()) == {0.0, 1.0}  # type: ignore[no-untyped-call]
    error = (x.to(torch.float64).mean(0) - p).abs() / (p * (1 - p) / len(x)).sqrt().clamp(min=1e-9)
    assert float(error.max()) < 4.5
    correlation = torch.corrcoef(x[:, 2:5].to(torch.float64).T)
    torch.testing.assert_close(correlation, torch.eye(3, dtype=torch.float64), rtol=0, atol=0.007)
