"""All states of small layers, and whether draws come from a distribution over them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from harmonium.models.categorical import Categorical
from harmonium.models.energy_model import Statistics
from harmonium.models.units import Bernoulli, Gaussian, LimitedState, RectifiedGaussian, Units


def binary(size: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=size)), dtype=torch.float64)


def states_of_one(units: Units) -> tuple[Tensor, Tensor]:
    """States of one unit (n, width) and the logarithms of their weights, those of Gauss and Legendre for reals."""
    if isinstance(units, Categorical):
        return torch.eye(units.states, dtype=torch.float64), torch.zeros(units.states, dtype=torch.float64)
    if isinstance(units, Bernoulli):
        values = torch.tensor([0.0, 1.0], dtype=torch.float64)
    elif isinstance(units, LimitedState):
        values = (torch.arange(units.states, dtype=torch.float64) - (units.states - 1) / 2) * units.spacing
    else:
        assert isinstance(units, Gaussian | RectifiedGaussian)
        low, high = (0.0, 14.0) if isinstance(units, RectifiedGaussian) else (-14.0, 14.0)
        nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(100))
        return (low + (nodes + 1) / 2 * (high - low))[:, None], torch.log(weights * (high - low) / 2)
    return values[:, None], torch.zeros(len(values), dtype=torch.float64)


def states(units: Units) -> tuple[Tensor, Tensor]:
    """All states of a layer (n, width), and the logarithms of their weights (n,)."""
    values, log_weights = states_of_one(units)
    index = torch.tensor(list(itertools.product(range(len(values)), repeat=units.size)))
    return values[index].flatten(1), log_weights[index].sum(1)


def joint_energies(model: object, v: Tensor, h: Tensor) -> Tensor:
    """Energies (len(v), len(h)) of all pairs."""
    pairs = v.repeat_interleave(len(h), 0), h.repeat(len(v), *[1] * (h.ndim - 1))
    found: Tensor = model.energy(*pairs)  # type: ignore[attr-defined]
    return found.reshape(len(v), len(h))


def randomise(model: nn.Module, seed: int = 0, scale: float = 0.5) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, scale, generator=generator)


def expected(parts: list[Statistics], p: Tensor) -> Statistics:
    """Statistics of single states, weighed by their probabilities, as of one state."""
    names = parts[0].sums
    sums = {
        name: sum((w * part.sums[name] for w, part in zip(p, parts, strict=True)), torch.zeros(())) for name in names
    }
    return Statistics(count=1, sums=sums)


def assert_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor | None], atol: float) -> None:
    assert set(found) == set(wanted)
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=atol, msg=f"{name}: {value} is not {wanted[name]}")


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def counts_of(draws: Tensor, among: Tensor) -> NDArray[np.int64]:
    """How often each state of `among` (n, size) was drawn; draws (m, size). Any other draw is an error."""
    kinds, place = torch.unique(torch.cat([among, draws]), dim=0, return_inverse=True)
    counts: Tensor = torch.bincount(place[len(among) :], minlength=len(kinds))[place[: len(among)]]
    assert len(kinds) == len(among)
    return counts.numpy()


def chi_square(counts: NDArray[np.int64], p: Tensor) -> float:
    """Probability of counts at least so far from p; states that are expected less than 5 times are thrown together."""
    wanted = p.double().numpy() * counts.sum()
    rare = wanted < 5
    observed, wanted = (np.append(x[~rare], x[rare].sum()) for x in (counts, wanted))
    statistic = ((observed - wanted) ** 2 / np.maximum(wanted, 1e-9))[wanted > 1e-9].sum()
    return float(stats.chi2.sf(statistic, max(int((wanted > 1e-9).sum()) - 1, 1)))
