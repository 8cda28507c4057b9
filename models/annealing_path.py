"""The models between independent units and a machine, through which annealing leads.

    β = 0                                          β = 1
    independent units  ──────────────────────────▶ the machine
    weights 0          weights β W                 weights W
    biases b_base      (1 - β) b_base + β b        biases b

For Bernoulli units this is the geometric path exp(-(1 - β) E_0 - β E) of Salakhutdinov and Murray (2008), with
their base-rate model at its start. Other parameters, such as variances, are the machine's all the way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from harmonium.models.layer_chain import LayerChain
from harmonium.models.units import Bernoulli, Gaussian


def temperatures(count: int, schedule: Literal["linear", "geometric", "piecewise"] = "linear") -> list[float]:
    """Inverse temperatures from 0 to 1 in `count` steps.

    `geometric` shortens all steps by the same factor until the last is a 1000th of the first; `piecewise` takes 500
    parts in 14 500 to 0.5, 4 000 to 0.9 and 10 000 to 1, as Salakhutdinov and Murray (2008).
    """
    if count < 1:
        raise ValueError(f"Annealing takes at least 1 step, got {count}")
    share = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    if schedule == "geometric":
        share = -torch.expm1(share * math.log(1e-3)) / (1 - 1e-3)
    elif schedule == "piecewise":
        knots, values = (0.0, 500 / 14_500, 4500 / 14_500, 1.0), (0.0, 0.5, 0.9, 1.0)
        share = sum(
            (
                (share - left).clamp(0, right - left) * ((high - low) / (right - left))
                for left, right, low, high in zip(knots[:-1], knots[1:], values[:-1], values[1:], strict=True)
            ),
            torch.zeros_like(share),
        )
    return [0.0, *share[1:-1].tolist(), 1.0]


def base_rates(chain: LayerChain, data: Tensor | None = None) -> tuple[dict[str, Tensor], ...]:
    """Biases of the model at β = 0: visible ones that give the mean of `data`, zero for Bernoulli hidden units.

    Without data, and for units of other kinds, those of the model itself. One observation is added to each state of a
    binary pixel, as a pixel that was never on would have no logarithm.
    """
    base = [dict(parameters) for parameters in chain.parameters]
    for layer, units in enumerate(chain.units[1:], start=1):
        if isinstance(units, Bernoulli):
            base[layer]["bias"] = torch.zeros_like(base[layer]["bias"])
    if data is not None and isinstance(chain.units[0], Bernoulli):
        base[0]["bias"] = torch.logit((data.sum(0) + 1) / (len(data) + 2)).to(chain.dtype)
    elif data is not None and isinstance(chain.units[0], Gaussian):
        base[0]["bias"] = data.mean(0).to(chain.dtype)
    return tuple(base)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Path:
    """The models between independent units and a machine, one for each inverse temperature β."""

    chain: LayerChain
    """The machine, at β = 1."""

    base: tuple[dict[str, Tensor], ...]
    """Every layer's parameters at β = 0 (`base_rates`)."""

    parity: int = 0
    """Which layers are sampled: 0 for the visible and every second, as for an RBM, 1 for the others, as for a DBM."""

    def at(self, beta: float) -> LayerChain:
        """The machine at an inverse temperature."""
        parameters = tuple(
            {name: torch.lerp(base[name], value, beta) for name, value in own.items()}
            for own, base in zip(self.chain.parameters, self.base, strict=True)
        )
        return replace(self.chain, parameters=parameters, strength=beta)

    def log_base_partition(self) -> float:
        """Log Z of the independent units."""
        zero = self.chain.weights[0].new_zeros((1, 1), dtype=self.chain.dtype)
        layers = zip(self.chain.units, self.base, strict=True)
        return sum(
            float(units.log_partition(zero.expand(1, units.size), own).sum(dtype=torch.float64))
            for units, own in layers
        )


def check_temperatures(betas: Sequence[float]) -> None:
    """Raise `ValueError` unless these inverse temperatures rise from 0 to 1."""
    steps_up = all(low < high for low, high in pairwise(betas))
    if len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or not steps_up:
        raise ValueError(
            f"Inverse temperatures must rise from 0 to 1 in at least 1 step, got {len(betas)} that "
            f"{'start' if steps_up else 'do not always rise; they start'} with {list(betas[:2])} and end with "
            f"{list(betas[-2:])}; take them from `temperatures`"
        )
