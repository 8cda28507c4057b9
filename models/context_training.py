"""Training of the context networks by the likelihood of what is coded: whole numbers, exact data, no relaxation.

A training crop is rounded with a step drawn log-uniformly, so that one model serves all rates. What the decoder will
know is known here: the low band as it is restored from coarser levels, planes and steps before.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harmonium.models import plane_rotation, subbands
from harmonium.models.cells import CELL
from harmonium.models.context_network import PLANES_BEFORE, SIXTEENTHS, STEP_ORDER, LevelNetwork, companded, features
from harmonium.models.scale_tables import LARGEST_INDEX, PER_OCTAVE, RESTORED, SHAPES, SMALLEST, WIDER
from harmonium.models.subbands import CLASSES, LEVELS, level_class
from harmonium.models.wavelet import DETAILS

CROP = 128
"""Side of a training crop in pixels."""

STEP_RANGE = (0.0014, 0.09)
"""Steps drawn in training, in shares of the peak: about 34 to 60 dB."""

FINE_STEPS = 0.15
"""Share of crops with steps of one or a few DN, as without loss."""

DEAD_ZONE = (0.36, 0.5)
"""What is added to magnitudes before they are rounded down, drawn for each crop."""

MAX_PLANES = 6
"""Bands of a crop that a training step looks at."""

_LOG_SCALES = (math.log(SMALLEST), math.log(SMALLEST) + LARGEST_INDEX / PER_OCTAVE * math.log(2))
_MAX_CENTRE = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Pixels that crops are drawn from."""

    pixels: NDArray[Any]
    """(bands, height, width) of a scene, or (n, bands, `CROP`, `CROP`) of blocks."""

    peak: float
    """Value range in DN."""

    weight: float = 1.0
    """How often it is drawn, beside others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How to train."""

    steps: int
    """Number of steps."""

    batch: int = 4
    """Crops in a step."""

    learning_rate: float = 3e-3
    """Adam's, at its highest: it rises over the first steps and falls to a hundredth by a cosine."""

    warm_up: int = 50
    """Steps in which the rate rises."""


def parameters(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre and scale in steps, and weight of the wide part, of a network's outputs (..., 3, rows, columns)."""
    centre, scale, shape = outputs.unbind(-3)
    sigma = (scale - 0.5).clamp(*_LOG_SCALES).exp()
    return centre.clamp(-_MAX_CENTRE, _MAX_CENTRE) * sigma, sigma, (shape - 1.5).sigmoid().clamp(SHAPES[0], SHAPES[-1])


def negative_log_likelihood(outputs: Tensor, numbers: Tensor) -> Tensor:
    """In nats, of whole numbers of any shape under outputs (..., 3, rows, columns)."""
    centre, sigma, weight = parameters(outputs)
    distance = (numbers - centre).abs()  # the distribution is symmetric, and the near tail loses fewer digits

    def mass(width: Tensor) -> Tensor:
        return torch.sigmoid((0.5 - distance) / width) - torch.sigmoid((-0.5 - distance) / width)

    return -torch.log(((1 - weight) * mass(sigma) + weight * mass(sigma * WIDER)).clamp(min=1e-9))


def new_networks(seed: int, trunk: int, head: int) -> nn.ModuleList:
    """Networks of all classes of levels, untrained; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleList(LevelNetwork(trunk, head) for _ in range(CLASSES))


def train(
    networks: nn.ModuleList,
    sources: Sequence[Source],
    schedule: Schedule,
    *,
    seed: int,
    device: torch.device | None = None,
    first_step: int = 0,
    optimiser_state: dict[str, Any] | None = None,
    keep: Callable[[int, dict[str, Any]], None] | None = None,
) -> Iterator[float]:
    """Train in place, yielding the bits for each coefficient of every step.

    Parameters
    ----------
    first_step, optimiser_state
        To go on from what `keep` was called with: its step and its state; the networks are those of that step, too.
    """
    device = device or torch.device("cpu")
    optimiser = torch.optim.Adam(networks.parameters(), lr=schedule.learning_rate)
    if optimiser_state is not None:
        optimiser.load_state_dict(optimiser_state)
    for number in range(first_step, schedule.steps):
        # A generator for each step, so that a training that was cut goes on as if it had not been.
        draw = random.Random(f"{seed} {number}")
        share = 0.5 + 0.5 * math.cos(math.pi * number / schedule.steps)
        rate = schedule.learning_rate * min(1, (number + 1) / schedule.warm_up) * (0.01 + 0.99 * share)
        for group in optimiser.param_groups:
            group["lr"] = rate
        examples = [_examples(*_draw_crop(sources, draw), draw) for _ in range(schedule.batch)]
        loss = _loss(networks, examples, device)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimiser.step()
        if keep is not None:
            keep(number + 1, optimiser.state_dict())
        yield float(loss.detach()) / math.log(2)


def calibration(sources: Sequence[Source], crops: int, seed: int) -> list[list[tuple[Tensor, Tensor]]]:
    """Features and companded details of every level, the finest first, of crops as in training."""
    draw = random.Random(f"{seed} calibration")
    found = [_examples(*_draw_crop(sources, draw), draw) for _ in range(crops)]
    return [[(level.features, level.details) for level in crop] for crop in found]


def _draw_crop(sources: Sequence[Source], draw: random.Random) -> tuple[Tensor, float]:
    source = draw.choices(sources, [source.weight for source in sources])[0]
    pixels = source.pixels
    if pixels.ndim == 4:
        pixels = pixels[draw.randrange(len(pixels))]
    height, width = pixels.shape[1:]
    side = min(CROP, height // CELL * CELL, width // CELL * CELL)
    row, column = draw.randint(0, height - side), draw.randint(0, width - side)
    crop = torch.from_numpy(pixels[:, row : row + side, column : column + side].astype(np.float64))
    for axis in (1, 2):
        if draw.random() < 0.5:
            crop = crop.flip(axis)
    return crop.mT.contiguous() if draw.random() < 0.5 else crop, source.peak


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    """What a network sees of some planes of a level, and what it has to predict."""

    features: Tensor
    """(planes, `FEATURES`, rows, columns) float32."""

    details: Tensor
    """Companded, (planes, 3, rows, columns) float32."""

    numbers: Tensor
    """Coded whole numbers (planes, 3, rows, columns) float32."""


def _examples(pixels: Tensor, peak: float, draw: random.Random) -> list[_Example]:
    """One of each level, the finest first, of a crop."""
    if draw.random() < FINE_STEPS:
        step = peak / 10_000 * draw.uniform(1, 8)
    else:
        step = peak * math.exp(draw.uniform(*map(math.log, STEP_RANGE)))
    dead_zone = draw.uniform(*DEAD_ZONE)
    centred = pixels - pixels.mean((1, 2), keepdim=True)
    low, details = subbands.analyse(centred.mul(RESTORED / step).round())
    angles = subbands.spectral_angles(details)
    first = draw.randint(0, max(len(pixels) - MAX_PLANES, 0))
    kept = slice(first, first + MAX_PLANES)
    order = torch.arange(len(pixels))[kept]
    found = []
    shapes = subbands.low_shapes(*pixels.shape[1:])
    for level in range(LEVELS - 1, -1, -1):
        kind, gain = level_class(level), subbands.gain_column(level)
        rotated = plane_rotation.to_planes(details[level], angles[kind]).mul(gain / RESTORED)
        numbers = (rotated.abs() + dead_zone).floor() * rotated.sign()
        low_planes = plane_rotation.to_planes(low, angles[kind]).mul(subbands.low_gain(level) * SIXTEENTHS / RESTORED)
        sixteenths = numbers.mul(SIXTEENTHS).to(torch.int32)
        example = _Example(
            features=features(low_planes.floor().to(torch.int32)[kept], _before(sixteenths)[kept], order),
            details=companded(sixteenths[kept]),
            numbers=numbers[kept].float(),
        )
        found.append(example)
        restored = plane_rotation.to_bands(numbers.mul(RESTORED / gain).round(), angles[kind])
        low = subbands.synthesise_level(low, restored, shapes[level])
    return found[::-1]


def _loss(networks: nn.ModuleList, examples: Sequence[Sequence[_Example]], device: torch.device) -> Tensor:
    """Mean negative log likelihood of the coefficients of all crops, in nats."""
    total, count = torch.zeros((), device=device), 0
    for level in range(LEVELS):
        # Crops of one size go through the network together.
        by_shape: dict[torch.Size, list[_Example]] = {}
        for crop in examples:
            by_shape.setdefault(crop[level].numbers.shape[2:], []).append(crop[level])
        for alike in by_shape.values():
            parts = [torch.cat([getattr(one, name) for one in alike]).to(device) for name in _Example.__slots__]
            loss, coefficients = _level_loss(networks[level_class(level)], *parts)
            total, count = total + loss, count + coefficients
    return total / count


def _before(details: Tensor) -> Tensor:
    """Details (planes, 3, ...) of the two planes before each, (planes, 6, ...)."""
    found = details.new_zeros(len(details), PLANES_BEFORE * DETAILS, *details.shape[2:])
    for distance in range(1, PLANES_BEFORE + 1):
        place = slice((distance - 1) * DETAILS, distance * DETAILS)
        found[distance:, place] = details[: max(len(details) - distance, 0)]
    return found


def _level_loss(network: nn.Module, seen: Tensor, details: Tensor, numbers: Tensor) -> tuple[Tensor, int]:
    assert isinstance(network, LevelNetwork)
    total, count = torch.zeros((), device=seen.device), 0
    with torch.autocast(seen.device.type, torch.bfloat16):
        trunk = network.trunk(seen.contiguous(memory_format=torch.channels_last))
        outputs = [network.head(number, trunk, details) for number in range(len(STEP_ORDER))]
    for step, found in zip(STEP_ORDER, outputs, strict=True):
        wanted = step.take(numbers[:, step.band])
        total = total + negative_log_likelihood(found.float(), wanted).sum()
        count += wanted.numel()
    return total, count
