"""Codes that decode nearest: a decoder as the codebook of an exact search, and its training with codes found so.

    k(x) = argmin_k |x - decode(k)|²        over all 2^K states of K binary code units, K <= 16

An encoder network only guesses this code, and learns badly through hard units which codes to use. Where they can be
enumerated, they are found by looking at all. Training alternates between finding the
codes of some cells and fitting the decoder to the cells at these codes: k-means (Lloyd 1982) with a network in place of
free centroids, or expectation-maximisation with the single most probable state (Neal and Hinton 1998, section 5).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harmonium.models.contrastive_divergence import has_finite_gradient
from harmonium.models.training import Batches
from harmonium.models.unrolled import UnrolledStack

MAX_UNITS = 16
"""Most binary code units that are searched: their 65 536 codes decode in a second or two."""

Points = Callable[[Tensor], Tensor]
"""Visible values (cells, visible) to points (cells, n), between which distortion is the squared distance."""

_MAX_NUMBERS = 1 << 26
"""Most visible values that all codes decode to together: 256 MiB in float32. A foreign file may ask for far more."""

_DECODED_AT_ONCE = 4096
_DISTANCES_AT_ONCE = 1 << 22
"""Distances that a search holds at a time: 16 MiB in float32."""


def can_search(net: UnrolledStack) -> bool:
    """Whether all codes of a network can be looked at: units have two states, and neither they nor values are many."""
    units = len(net.states)
    few = units <= MAX_UNITS and net.shape.sizes[0] << units <= _MAX_NUMBERS
    return few and bool((net.states == 2).all())


def check_search(net: UnrolledStack) -> None:
    """Raise `ValueError` if not all codes of a network can be looked at (`can_search`)."""
    if not can_search(net):
        raise ValueError(
            f"A search for codes needs at most {MAX_UNITS} units of 2 states, whose codes decode to at most "
            f"{_MAX_NUMBERS} values together; found {len(net.states)} units of {int(net.states.min())} to "
            f"{int(net.states.max())} states and {net.shape.sizes[0]} visible values: take the network's own encoder"
        )


class Codebook:
    """What each code of a network decodes to, as points."""

    @torch.no_grad()
    def __init__(self, net: UnrolledStack, points: Points) -> None:
        """Decode all codes.

        Raises
        ------
        ValueError
            If they are too many, or code units have other than two states.
        """
        check_search(net)
        units = len(net.states)
        shifts = torch.arange(units, device=net.spacing.device)
        numbers = torch.arange(1 << units, device=net.spacing.device)
        self.codes = ((numbers.unsqueeze(1) >> shifts) & 1).to(torch.int32)
        """All of them, (2^units, units)."""

        self.points = torch.cat([points(net.decode(some)) for some in torch.split(self.codes, _DECODED_AT_ONCE)])
        """What each decodes to, (2^units, n)."""

        self._half_norms = self.points.square().sum(1) / 2

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """The codes (cells, units) int32 of the points nearest to x (cells, n); of equally near ones, the first.

        Distances are compared as far as float32 holds |p|² / 2: nearer ones than its rounding count as equal.
        """
        at_once = max(1, _DISTANCES_AT_ONCE // len(self.points))
        # |x - p|² / 2 without |x|² / 2, which is the same for all codes.
        found = [
            torch.addmm(self._half_norms, some, self.points.T, alpha=-1).argmin(1) for some in torch.split(x, at_once)
        ]
        return self.codes[torch.cat(found)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSchedule:
    """How a decoder is trained with codes that are searched: Adam, the step size falling to zero along a cosine."""

    rounds: int
    """How often codes are found anew."""

    steps: int = 150
    """Parameter updates in each round."""

    cells: int = 16_384
    """Cells whose codes are found in each round."""

    batch: int = 256
    """Cells in a batch, drawn from them."""

    learning_rate: float = 1e-3
    """Step size at the start."""

    def __post_init__(self) -> None:
        if self.rounds < 0 or min(self.steps, self.cells, self.batch) < 1 or not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"A search needs rounds >= 0, steps, cells and batch >= 1 and a finite learning_rate > 0, got {self}"
            )


def train_decoder(
    net: UnrolledStack, batches: Batches, schedule: SearchSchedule, generator: torch.Generator, points: Points
) -> Iterator[float]:
    """Train the decoder of `net` in place, yielding the mean squared distance of each step's batch.

    Parameters
    ----------
    net
        A network whose codes can be searched (`can_search`); its encoder stays as it is.
    batches
        Source of visible values (cells, visible).
    generator
        Source of the draws from a round's cells, a CPU one.
    points
        Where squared distance is distortion.

    Raises
    ------
    ValueError
        If the codes cannot be searched.
    FloatingPointError
        As soon as a loss or its gradient is not finite; the weights are those before that step.
    """
    check_search(net)
    optimiser = torch.optim.Adam(net.decoder.parameters(), lr=schedule.learning_rate, foreach=True)
    total = max(1, schedule.rounds * schedule.steps)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=total)
    for number in range(schedule.rounds):
        x = points(next(batches(schedule.cells)))
        codes = Codebook(net, points).nearest(x)
        for _ in range(schedule.steps):
            rows = torch.randint(len(x), (schedule.batch,), generator=generator).to(x.device)
            loss = (points(net.decode(codes[rows])) - x[rows]).square().sum(1).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            value = float(loss.detach())
            if not math.isfinite(value) or not has_finite_gradient(net.decoder):
                raise FloatingPointError(
                    f"The decoder's training left the finite numbers in round {number + 1} of {schedule.rounds}; "
                    f"mask cells that are not finite, or lower the learning rate (now {schedule.learning_rate})"
                )
            optimiser.step()
            annealing.step()
            yield value
