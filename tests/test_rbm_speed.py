"""The benchmark of an epoch's speed: the same training by either kind of product, and its measure of quality."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

from benchmarks.rbm_speed import Task, of_harmonium, pseudo_likelihood


def task(count: int = 300) -> Task:
    images = (torch.rand(count, 784, generator=torch.Generator().manual_seed(0)) ** 4 > 0.5).float()
    return Task(images=images, batch=128, chains=16, epochs=2, seed=0, rate_of_rbms=0.5)


def test_sparse_and_dense_products_train_the_same_machine() -> None:
    *_, sparse = of_harmonium(task())
    start, *_, dense = (tuple(part.detach().clone() for part in parts) for parts in of_harmonium(task(), sparse=False))
    assert float((dense[0] - start[0]).abs().max()) > 0.01
    for one, other in zip(sparse, dense, strict=True):
        torch.testing.assert_close(one, other)


def test_pseudo_likelihood_is_that_of_the_conditionals_of_single_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    visible, hidden = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (5, 3))
    v = (torch.rand(1, 5, generator=generator) < 0.5).double()

    def unnormalised(x: Tensor) -> Tensor:
        every_h = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
        return torch.exp((x @ visible) + every_h @ (x @ weight + hidden)).sum()

    expected = 0.0
    for pixel in range(5):
        turned = v[0].clone()
        turned[pixel] = 1 - turned[pixel]
        here = unnormalised(v[0])
        expected += float(torch.log(here / (here + unnormalised(turned))))
    found = pseudo_likelihood((weight, visible, hidden), v.expand(200_000, -1), generator)
    assert found == pytest.approx(expected, rel=0.01)
