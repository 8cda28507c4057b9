"""Fine-tuning an unrolled stack by backpropagation, for distortion and, where codes are entropy-coded, for rate.

    loss  =  distortion(x', x)  +  λ · bits(code)

Distortion uses the hard codes with straight-through gradients, or what stands in for them (`CodeUnits`). Bits are
those of a logistic density of each unit's own, integrated over the quantiser's bins at codes with uniform noise in
place of rounding (Ballé, Laparra and Simoncelli 2017). At high rate a uniform quantiser of step Δ has
distortion Δ²/12, which one more bit divides by 4: there the slope is λ = Δ² ln 2 / 6, so the step alone sets the trade.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from harmonium.models.contrastive_divergence import has_finite_gradient
from harmonium.models.unrolled import UnrolledStack

Distortion = Callable[[Tensor, Tensor], Tensor]
"""(reconstruction, target), both (cells, visible), to the mean over the batch of a cell's summed error."""


CodeUnits = Literal["rounded", "dithered", "noisy"]
"""What the decoder sees of the code while it is fine-tuned.

`rounded`: the codes themselves, gradients passed straight through. `dithered`: units round at random, to either
neighbour in proportion to its nearness, gradients passed straight through (binary units are drawn from their means).
`noisy`: uniform noise in place of rounding, exact gradients (Ballé, Laparra and Simoncelli 2017).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How an unrolled stack is fine-tuned: Adam, the step size falling to zero along half a cosine."""

    steps: int
    """Number of parameter updates."""

    batch: int = 512
    """Cells in a batch."""

    learning_rate: float = 1e-3
    """Step size at the start."""

    rate_weight: float = 0.0
    """λ: how much distortion one bit is worth; 0 where codes have fixed length."""

    code: CodeUnits = "rounded"
    """What the decoder sees of the code."""

    def __post_init__(self) -> None:
        if self.code not in get_args(CodeUnits):
            raise ValueError(f"Code units are one of {', '.join(get_args(CodeUnits))}, got {self.code!r}")
        if self.steps < 0 or self.batch < 1 or not self.learning_rate > 0 or not self.rate_weight >= 0:
            raise ValueError(
                f"A schedule needs steps >= 0, batch >= 1, learning_rate > 0 and rate_weight >= 0, got {self}"
            )


def squared_error(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Summed squared error of a cell, averaged over the batch; both (cells, visible)."""
    return (reconstruction - target).square().sum(1).mean()


class LogisticRate(nn.Module):
    """Bits that codes would need, under a logistic density for each unit; codes in units of their spacing."""

    def __init__(self, codes: Tensor) -> None:
        """Start from the moments of `codes` (cells, units)."""
        super().__init__()
        self.location = nn.Parameter(codes.mean(0))
        # A logistic of scale s has the standard deviation s π / √3.
        self.log_scale = nn.Parameter(torch.log((codes.std(0) * math.sqrt(3) / math.pi).clamp(min=0.05)))

    def forward(self, codes: Tensor) -> Tensor:
        """Mean bits of a cell, for codes (cells, units)."""
        scale = torch.exp(-self.log_scale)
        # The bin on the side of the nearer tail: the difference of two sigmoids keeps its digits there.
        distance = -(codes - self.location).abs()
        mass = torch.sigmoid((distance + 0.5) * scale) - torch.sigmoid((distance - 0.5) * scale)
        return -torch.log2(mass.clamp(min=1e-9)).sum(1).mean()


def fine_tune(
    net: UnrolledStack,
    batches: Iterable[Tensor],
    schedule: Schedule,
    generator: torch.Generator,
    distortion: Distortion = squared_error,
) -> Iterator[float]:
    """Fine-tune `net` in place, yielding the loss of each step.

    Parameters
    ----------
    net
        The unrolled stack; its weights change, its quantiser does not.
    batches
        Visible values (cells, visible): one batch for the start of the rate's density, then one for each step.
    schedule
        How long, how fast, and what a bit is worth.
    generator
        Source of the noise that stands in for rounding, on the parameters' device.
    distortion
        What reconstruction costs.

    Raises
    ------
    FloatingPointError
        As soon as a loss or its gradient is not finite; the weights are those before that step.
    """
    source = iter(batches)
    first = next(source, None)
    if first is None or schedule.steps == 0:
        return
    rate = LogisticRate(net.code_input(first).detach()).to(first.device)
    optimiser = torch.optim.Adam(
        [
            {"params": net.parameters(), "lr": schedule.learning_rate},
            # The density has to follow the codes, not to lead them.
            {"params": rate.parameters(), "lr": 10 * schedule.learning_rate},
        ],
        foreach=True,
    )
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=schedule.steps)
    for step, x in zip(range(schedule.steps), source, strict=False):
        codes, reconstruction = _seen_by_decoder(net, x, schedule.code, generator)
        loss = distortion(reconstruction, x)
        if schedule.rate_weight:
            loss = loss + schedule.rate_weight * rate(codes + _half_step_noise(codes, generator))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        value = float(loss.detach())
        if not math.isfinite(value) or not has_finite_gradient(net):
            raise FloatingPointError(
                f"Fine-tuning left the finite numbers at step {step} of {schedule.steps}; "
                f"lower the learning rate (now {schedule.learning_rate})"
            )
        optimiser.step()
        annealing.step()
        yield value


def _seen_by_decoder(
    net: UnrolledStack, x: Tensor, code: CodeUnits, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Code inputs and reconstruction, with the code as the schedule wants it."""
    codes: Tensor
    reconstruction: Tensor
    if code == "noisy":
        codes = net.code_input(x)
        return codes, net.decode_values(codes + _half_step_noise(codes, generator))
    dither = None
    if code == "dithered":
        dither = _half_step_noise(net.spacing.expand(len(x), -1), generator)
    codes, reconstruction = net(x, dither)
    return codes, reconstruction


def _half_step_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise uniform on ±1/2, of that shape."""
    return torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator) - 0.5
