"""Predicts how the details of one wavelet level are distributed, from what a decoder knows already.

    low band of the level ─────── differences to 8 neighbours ──┐
    details of two planes before ───────────────────────────────┼─ 3×3 ── 3×3 ── trunk
                                                                ┘                  │
    details of this plane so far ── 5×5, every other line ── + ─ 1×1 ── 1×1 ── head of step 1 ... 6
                                                                                   │
                                                       centre, log of scale, shape ┘

    the same, and all details of this plane ─ 3×3 ── 3×3 ── 1×1 ── where between two steps they are restored

A level's three bands of details are coded in six steps: half of the lines of the first band, the other half, then the
second band, the third. The lines of a band run along its smooth direction. Within a step all coefficients are coded at
once, so that a step is one pass of a small network over a plane.

When a plane's details are known, a second network tells what was rounded away: up to half a step beside each number,
from all around it. Where nothing is lost, it has nothing to tell.

Values are in sixteenths of the quantiser's step; so one network serves all rates, sensors and numbers of bands. It is
trained by the likelihood of the whole numbers that are coded and the squared error of what is restored, and used in
whole numbers (`integer_network`).
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from harmonium.models.wavelet import DETAILS

SIXTEENTHS = 16
"""Input values are whole numbers of a sixteenth of a step."""

PLANES_BEFORE = 2
"""Planes whose details a plane is predicted from."""

STEPS = 2 * DETAILS
"""Steps in which the details of a level are coded."""

OUTPUTS = 3
"""Centre in units of the scale, logarithm of the scale, shape."""

FEATURES = 8 + 8 + 1 + DETAILS * PLANES_BEFORE + 1

MOST_RESTORED = 0.5
"""Steps that a detail is restored beside its number at the most: outliers cannot do harm."""

_CLAMP = (1 << 16) - 1
_NEIGHBOURS = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
_LINEAR_UNIT = 32
_LINEAR_CLAMP = 127


@dataclass(frozen=True, slots=True)
class Step:
    """What is coded at once."""

    band: int
    """Band of details."""

    parity: int
    """0: even lines, 1: odd lines."""

    @property
    def along_rows(self) -> bool:
        """Whether lines are rows of the plane; else they are columns."""
        return self.band != 1

    @property
    def known(self) -> int:
        """Number of bands that are known at least in part."""
        return self.band + self.parity

    @property
    def stride(self) -> tuple[int, int]:
        """Of the layer that sees the details."""
        return (2, 1) if self.along_rows else (1, 2)

    def take(self, plane: Tensor) -> Tensor:
        """The lines of this step of (..., height, width); a view."""
        return plane[..., self.parity :: 2, :] if self.along_rows else plane[..., self.parity :: 2]


STEP_ORDER = tuple(Step(band, parity) for band in range(DETAILS) for parity in range(2))


@cache
def _companding() -> Tensor:
    values = torch.arange(_CLAMP + 1, dtype=torch.float64) / SIXTEENTHS
    return torch.log1p(values).mul(SIXTEENTHS).add(0.5).floor().float()


def companded(sixteenths: Tensor) -> Tensor:
    """sign(v) log(1 + |v|) of v in steps, in whole sixteenths: int32 of any shape to float32."""
    return _companding()[sixteenths.abs().clamp(max=_CLAMP)].mul_(sixteenths.sign())


def features(low: Tensor, before: Tensor, planes_before: Tensor) -> Tensor:
    """What the trunk sees, whole numbers as float32.

    Parameters
    ----------
    low
        (planes, height, width) int32, the low band of the level in sixteenths.
    before
        (planes, 6, height, width) int32, details of the two planes before in sixteenths, 0 where there is none.
    planes_before
        (planes,) int, how many planes there are before, of which 0, 1 or more is told.

    Returns
    -------
    Tensor
        (planes, `FEATURES`, height, width).
    """
    height, width = low.shape[1:]
    padded = F.pad(low[:, None].double(), (1, 1, 1, 1), mode="replicate").to(torch.int32)[:, 0]
    differences = torch.stack(
        [padded[:, row : row + height, column : column + width] - low for row, column in _NEIGHBOURS], 1
    ).clamp_(-_CLAMP, _CLAMP)
    activity = differences.abs().sum(1, keepdim=True).clamp_(max=_CLAMP).float()
    # Sums of at most 25 (2^16 - 1), exact in float32 in any order.
    around = F.avg_pool2d(F.pad(activity, (2, 2, 2, 2), mode="replicate"), 5, 1, divisor_override=1)
    scale = around.mul_(1 / 8).floor_().add_(25 * 8)  # 25 times the mean difference and half a step
    linear = differences.float().mul_(_LINEAR_UNIT).mul_(25).div_(scale).floor_().clamp_(-_LINEAR_CLAMP, _LINEAR_CLAMP)
    curvature = torch.div(differences.sum(1, keepdim=True), 8, rounding_mode="floor")
    order = planes_before.clamp(max=2).mul(8).float().reshape(-1, 1, 1, 1).expand(-1, 1, height, width)
    parts = [companded(differences), linear, companded(curvature), companded(before), order]
    return torch.cat(parts, 1)


class LevelNetwork(nn.Module):
    """Network of one level, or of several that share it, in floating point, to be trained; see the module."""

    def __init__(self, trunk: int = 32, head: int = 32) -> None:
        super().__init__()
        self.trunk_layers = nn.ModuleList(
            [nn.Conv2d(FEATURES, trunk, 3, padding=1), nn.Conv2d(trunk, trunk, 3, padding=1)]
        )
        # The first step knows no details: its layer is there to keep the numbering, and takes no part.
        self.known = nn.ModuleList(nn.Conv2d(max(step.known, 1), head, 5, bias=False) for step in STEP_ORDER)
        self.joined = nn.ModuleList(nn.Conv2d(trunk, head, 1) for _ in STEP_ORDER)
        self.hidden = nn.ModuleList(nn.Conv2d(head, head, 1) for _ in STEP_ORDER)
        self.outputs = nn.ModuleList(nn.Conv2d(head, OUTPUTS, 1) for _ in STEP_ORDER)
        self.restoring = nn.ModuleList(
            [
                nn.Conv2d(FEATURES + DETAILS, trunk, 3, padding=1),
                nn.Conv2d(trunk, trunk, 3, padding=1),
                nn.Conv2d(trunk, DETAILS, 1),
            ]
        )
        for layer in [convolution(self.outputs, number) for number in range(STEPS)] + [convolution(self.restoring, 2)]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(bias_of(layer))

    def trunk(self, seen: Tensor) -> Tensor:
        """Features in whole sixteenths (planes, `FEATURES`, height, width) to (planes, trunk, height, width)."""
        seen = seen / SIXTEENTHS
        for layer in self.trunk_layers:
            seen = F.relu(layer(seen))
        return seen

    def head(self, number: int, trunk: Tensor, details: Tensor) -> Tensor:
        """Outputs (planes, 3, lines, columns), or (planes, 3, rows, lines), of a step.

        `details` are companded, in whole sixteenths, (planes, 3, height, width): only those known at the step are seen.
        """
        step = STEP_ORDER[number]
        lines = step.take(trunk)
        if not lines.numel():  # a plane of one line has no odd ones
            return lines[:, :OUTPUTS]
        found: Tensor = self.joined[number](lines)
        if step.known:
            seen = known_details(details, step) / SIXTEENTHS
            found = found + F.conv2d(seen, convolution(self.known, number).weight, stride=step.stride)
        found = F.relu(self.hidden[number](F.relu(found)))
        return convolution(self.outputs, number)(found)  # type: ignore[no-any-return]

    def restored(self, seen: Tensor, details: Tensor) -> Tensor:
        """Steps beside the numbers (planes, 3, height, width), from features and companded details of all bands."""
        found = torch.cat([seen, details], 1) / SIXTEENTHS
        for number in range(len(self.restoring)):
            found = convolution(self.restoring, number)(found if number == 0 else F.relu(found))
        return found.clamp(-MOST_RESTORED, MOST_RESTORED)


def convolution(layers: nn.ModuleList, number: int) -> nn.Conv2d:
    """One of the convolutions of a list."""
    layer = layers[number]
    assert isinstance(layer, nn.Conv2d)
    return layer


def bias_of(layer: nn.Conv2d) -> Tensor:
    """The bias of a layer that has one."""
    assert layer.bias is not None
    return layer.bias


def known_details(details: Tensor, step: Step) -> Tensor:
    """What a step sees of details (planes, 3, height, width): known bands, with a margin of zeros for its 5 × 5 layer.

    With strides of two along its lines, the layer is centred on the lines of the step.
    """
    seen = details[:, : step.known]
    if step.parity:
        half = torch.zeros_like(seen[:, step.band])
        earlier = Step(step.band, 0)
        earlier.take(half).copy_(earlier.take(seen[:, step.band]))
        seen = torch.cat([seen[:, : step.band], half[:, None]], 1)
    lines, across = (2 - step.parity, 2), (2, 2)
    return F.pad(seen, (*across, *lines) if step.along_rows else (*lines, *across))
