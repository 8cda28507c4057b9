"""Uniform quantisation of code units: steps, numbers of states, and how bits are shared out among units."""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonium.models.unrolled import UnrolledStack

MAX_STATES = 1 << 14
"""Most states that a unit gets."""

_SPARE_RANGE = 4
"""Entropy-coded units get this many times the range of states that they took, so that brighter scenes fit, too."""

_MAX_BITS = 10
_STEPS = 0.02 * 1.15 ** np.arange(36)
"""Steps, in deviations, among which the best for a number of states is looked for: 0.02 to 2.7."""


def step_for_rate(values: Tensor, bits: float) -> float:
    """The step at which values (cells, units), rounded to its multiples, carry `bits` a cell: by bisection.

    Counted states of n cells never carry more than log2 n bits a unit. Beyond half of that, the density of each unit is
    taken from the step at which it carries half: with steps so fine that it is flat within one, each halving adds a bit
    (Gish and Pierce 1968).

    Raises
    ------
    ValueError
        If a unit would need more states than there are.
    """
    columns = values.cpu().numpy()
    countable = math.log2(max(len(columns), 2)) / 2
    if bits <= countable * columns.shape[1]:
        return _bisected(partial(_counted, columns), bits)
    units = [column[:, None] for column in columns.T]
    finest = [_bisected(partial(_counted, unit), countable) for unit in units]

    def rate(step: float) -> float:
        counted = (_counted(unit, max(step, least)) for unit, least in zip(units, finest, strict=True))
        return sum(counted) + sum(max(math.log2(least / step), 0.0) for least in finest)

    step = _bisected(rate, bits)
    states = float(np.ptp(columns, axis=0).max()) / step + 1
    if states > MAX_STATES:
        raise ValueError(
            f"{bits:g} bits for the {len(units)} code units of a cell need steps so fine that a unit would take "
            f"{states:.3g} states, expected at most {MAX_STATES}; ask for fewer bits"
        )
    return step


def _counted(values: NDArray[np.float32], step: float) -> float:
    """Bits of a cell's code by the states of values (cells, units)."""
    return entropy(np.rint(values / step))


def _bisected(rate: Callable[[float], float], bits: float) -> float:
    """The least step whose rate, which falls with the step, is not above `bits`; from 1e-6 to 1e6."""
    low, high = 1e-6, 1e6
    for _ in range(28):
        step = math.sqrt(low * high)
        low, high = (step, high) if rate(step) > bits else (low, step)
    return high


def entropy(levels: NDArray[np.float32]) -> float:
    """Empirical entropy of a cell's code in bits, units taken one by one; levels (cells, units)."""
    total = 0.0
    for column in levels.T:
        _, counts = np.unique(column, return_counts=True)
        share = counts / len(column)
        total -= float((share * np.log2(share)).sum())
    return total


@torch.no_grad()
def open_range(net: UnrolledStack) -> None:
    """Let the quantiser have as many states as a unit may get: for training, before `limit_range`."""
    net.states.fill_(MAX_STATES)
    net.low.fill_(-MAX_STATES // 2)


@torch.no_grad()
def limit_range(net: UnrolledStack, x: Tensor) -> None:
    """Give each code unit four times the range of states that it took on x (cells, visible), and 8 at the least."""
    levels = net.code_input(x).round()
    lowest, highest = levels.amin(0), levels.amax(0)
    net.states.copy_((_SPARE_RANGE * (highest - lowest + 1)).clamp(min=8, max=MAX_STATES))
    # Whole numbers beyond 2^24 do not exist in float32, and a stack refuses such states.
    net.low.copy_(((lowest + highest) / 2 - net.states / 2).clamp(-(1 << 24), (1 << 24) - MAX_STATES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiser:
    """How one unit is quantised: 2^bits states that are `step` apart, symmetric about the unit's mean."""

    bits: int
    """At least 0."""

    step: float
    """Distance between neighbouring states."""

    error: float
    """Mean squared error that it was chosen for."""


def best_quantiser(values: NDArray[np.float64], bits: int) -> Quantiser:
    """The uniform quantiser of 2^bits states about the mean of values (n,) with the least squared error (Max 1960)."""
    centred = values - values.mean()
    deviation = float(centred.std()) or 1.0
    if bits == 0:
        return Quantiser(bits=0, step=deviation, error=float(np.square(centred).mean()))
    top = 2 ** (bits - 1)
    candidates = []
    for step in deviation * _STEPS * (32 / 2**bits if bits > 5 else 1.0):
        level = np.clip(np.floor(centred / step), -top, top - 1) + 0.5
        candidates.append(Quantiser(bits=bits, step=float(step), error=float(np.square(centred - level * step).mean())))
    return min(candidates, key=lambda quantiser: quantiser.error)


def share_bits(values: NDArray[np.float64], bits: int) -> list[Quantiser]:
    """Quantisers for the units of values (n, units) that have `bits` together: each next bit goes where it saves most.

    Raises
    ------
    ValueError
        If there are more bits than the units can take, 10 each.
    """
    units = values.shape[1]
    if bits > _MAX_BITS * units:
        raise ValueError(f"{units} code units take up to {_MAX_BITS} bits each, got {bits} bits; ask for fewer")
    chosen = [best_quantiser(values[:, unit], 0) for unit in range(units)]
    following = [best_quantiser(values[:, unit], 1) for unit in range(units)]
    queue = [(after.error - now.error, unit) for unit, (now, after) in enumerate(zip(chosen, following, strict=True))]
    heapq.heapify(queue)
    for _ in range(bits):
        _, unit = heapq.heappop(queue)
        chosen[unit] = following[unit]
        if chosen[unit].bits < _MAX_BITS:
            following[unit] = best_quantiser(values[:, unit], chosen[unit].bits + 1)
            heapq.heappush(queue, (following[unit].error - chosen[unit].error, unit))
    return chosen
