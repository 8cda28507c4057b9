"""Training by the likelihood of what is coded and the squared error of what is restored.

What is coded are whole numbers of exact data, without any relaxation. A training crop is rounded with a step drawn
log-uniformly, so that one model serves all rates; a tenth fewer bits of a crop count alike at every rate. It is rounded
as an encoder does it, at a price for bits under the networks as they are.
What the decoder will know is known here: the low band as it is restored from coarser levels, planes and steps before.
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
from harmonium.models.detail_coding import DEAD_ZONE, PRICE
from harmonium.models.scale_tables import LARGEST_INDEX, PER_OCTAVE, RESTORED, SHAPES, SMALLEST, WIDER
from harmonium.models.subbands import CLASSES, LEVELS, level_class
from harmonium.models.wavelet import DETAILS

CROP = 128
"""Side of a training crop in pixels."""

STEP_RANGE = (0.002, 0.09)
"""Steps drawn in training, in shares of the peak: about 34 to 60 dB."""

FINE_STEPS = 0.15
"""Share of crops with steps of one or a few DN, as without loss."""

PRICED = 0.75
"""Share of the other crops that are coded at the encoders' price of bits; the rest is rounded to the nearest."""

_FLOOR = 0.005
"""Nats for a coefficient, added to those of a crop before their logarithm: nearly empty crops should not rule."""

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
        examples = [_examples(*_draw_crop(sources, draw), draw, networks, device) for _ in range(schedule.batch)]
        loss, bits = _loss(networks, examples, device)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimiser.step()
        if keep is not None:
            keep(number + 1, optimiser.state_dict())
        yield bits


def calibration(
    networks: nn.ModuleList, sources: Sequence[Source], crops: int, seed: int
) -> list[list[tuple[Tensor, Tensor]]]:
    """Features and companded details of every level, the finest first, of crops as in training."""
    draw = random.Random(f"{seed} calibration")
    device = next(networks.parameters()).device
    found = [_examples(*_draw_crop(sources, draw), draw, networks, device) for _ in range(crops)]
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

    values: Tensor
    """What was rounded to them, in steps, float32; the numbers themselves where nothing is to be restored."""

    def planes(self, kept: slice) -> "_Example":
        """Some planes of it."""
        return _Example(**{name: getattr(self, name)[kept] for name in self.__slots__})


def _examples(
    pixels: Tensor, peak: float, draw: random.Random, networks: nn.ModuleList, device: torch.device
) -> list[_Example]:
    """One of each level, the finest first, of a crop."""
    fine = draw.random() < FINE_STEPS
    step = peak / 10_000 * draw.uniform(1, 8) if fine else peak * math.exp(draw.uniform(*map(math.log, STEP_RANGE)))
    price = PRICE if draw.random() < PRICED else 0.0
    exact = fine and not price
    centred = pixels - pixels.mean((1, 2), keepdim=True)
    low, details = subbands.analyse(centred.mul(RESTORED / step).round())
    angles = subbands.spectral_angles(details)
    order = torch.arange(len(pixels))
    first = draw.randint(0, max(len(pixels) - MAX_PLANES, 0))
    kept = slice(first, first + MAX_PLANES)
    found = []
    shapes = subbands.low_shapes(*pixels.shape[1:])
    for level in range(LEVELS - 1, -1, -1):
        kind, gain = level_class(level), subbands.gain_column(level)
        rotated = plane_rotation.to_planes(details[level], angles[kind]).mul(gain / RESTORED)
        low_planes = plane_rotation.to_planes(low, angles[kind]).mul(subbands.low_gain(level) * SIXTEENTHS / RESTORED)
        low_planes = low_planes.floor().to(torch.int32)
        if price:
            numbers = (rotated.abs() + DEAD_ZONE).floor() * rotated.sign()
            first_example = _example(low_planes, numbers, numbers, order)
            numbers = _cheaper(networks[kind], rotated, first_example, price, device)
        else:
            numbers = rotated.round()
        example = _example(low_planes, numbers, numbers if exact else rotated, order)
        found.append(example.planes(kept))
        if not exact:
            numbers = numbers + _restored(networks[kind], example, device)
        restored = plane_rotation.to_bands(numbers.mul(RESTORED / gain).round(), angles[kind])
        low = subbands.synthesise_level(low, restored, shapes[level])
    return found[::-1]


def _example(low_planes: Tensor, numbers: Tensor, values: Tensor, order: Tensor) -> _Example:
    sixteenths = numbers.mul(SIXTEENTHS).to(torch.int32)
    return _Example(
        features=features(low_planes, _before(sixteenths), order),
        details=companded(sixteenths),
        numbers=numbers.float(),
        values=values.float(),
    )


@torch.no_grad()
def _restored(network: nn.Module, example: _Example, device: torch.device) -> Tensor:
    """What is added to the numbers of an example, in steps."""
    return _beside(network, example.features.to(device), example.details.to(device)).cpu().double()


@torch.no_grad()
def _cheaper(network: nn.Module, values: Tensor, example: _Example, price: float, device: torch.device) -> Tensor:
    """Numbers for values in steps that take less of squared error and price of bits together, as encoders choose them.

    Each nearest number is weighed against the next one towards 0, under what the network says beside an example's.
    """
    found = torch.empty_like(values)
    outputs = _outputs(network, example.features.to(device), example.details.to(device))
    for step, output in zip(STEP_ORDER, outputs, strict=True):
        wanted = step.take(values[:, step.band])
        nearest = (wanted.abs() + 0.5).floor()
        offers = torch.stack([nearest, (nearest - 1).clamp(min=0)]).mul(wanted.sign())
        bits = negative_log_likelihood(output.float(), offers.float().to(device)).cpu() / math.log(2)
        costs = (wanted - offers) ** 2 + price * bits
        step.take(found[:, step.band]).copy_(torch.where(costs[1] < costs[0], offers[1], offers[0]))
    return found


def _loss(
    networks: nn.ModuleList, examples: Sequence[Sequence[_Example]], device: torch.device
) -> tuple[Tensor, float]:
    """What is minimised, and the bits for each of all coefficients.

    Logarithms of a crop's nats for each coefficient, and of its squared errors beside those of the numbers alone.
    """
    totals = [torch.zeros((), device=device) for _ in examples]
    counts = [sum(level.numbers.numel() for level in crop) for crop in examples]
    errors = [torch.full((2,), _FLOOR * count, device=device) for count in counts]
    for level in range(LEVELS):
        # Crops of one size go through the network together.
        by_shape: dict[torch.Size, list[int]] = {}
        for place, crop in enumerate(examples):
            by_shape.setdefault(crop[level].numbers.shape[2:], []).append(place)
        for places in by_shape.values():
            alike = [examples[place][level] for place in places]
            parts = [torch.cat([getattr(one, name) for one in alike]).to(device) for name in _Example.__slots__]
            network, planes = networks[level_class(level)], [len(one.numbers) for one in alike]
            for place, own in zip(places, torch.split(_nats(network, *parts[:3]), planes), strict=True):
                totals[place] = totals[place] + own.sum()
            for place, both in zip(places, torch.split(_squared_errors(network, *parts), planes), strict=True):
                errors[place] = errors[place] + both.sum(0)
    each = torch.stack(totals) / torch.tensor(counts, device=device)
    bits = float(torch.stack(totals).sum().detach()) / sum(counts) / math.log(2)
    before, after = torch.stack(errors).unbind(1)
    return (each + _FLOOR).log().mean() + (after / before).log().mean(), bits


def _before(details: Tensor) -> Tensor:
    """Details (planes, 3, ...) of the two planes before each, (planes, 6, ...)."""
    found = details.new_zeros(len(details), PLANES_BEFORE * DETAILS, *details.shape[2:])
    for distance in range(1, PLANES_BEFORE + 1):
        place = slice((distance - 1) * DETAILS, distance * DETAILS)
        found[distance:, place] = details[: max(len(details) - distance, 0)]
    return found


def _outputs(network: nn.Module, seen: Tensor, details: Tensor) -> list[Tensor]:
    """Of all steps, in bfloat16."""
    assert isinstance(network, LevelNetwork)
    with torch.autocast(seen.device.type, torch.bfloat16):
        trunk = network.trunk(seen.contiguous(memory_format=torch.channels_last))
        return [network.head(number, trunk, details) for number in range(len(STEP_ORDER))]


def _nats(network: nn.Module, seen: Tensor, details: Tensor, numbers: Tensor) -> Tensor:
    """Of each plane."""
    total = torch.zeros(len(numbers), device=seen.device)
    for step, found in zip(STEP_ORDER, _outputs(network, seen, details), strict=True):
        total = total + negative_log_likelihood(found.float(), step.take(numbers[:, step.band])).sum((1, 2))
    return total


def _beside(network: nn.Module, seen: Tensor, details: Tensor) -> Tensor:
    """What is restored beside the numbers, in steps; in bfloat16 but for its last rounding."""
    assert isinstance(network, LevelNetwork)
    with torch.autocast(seen.device.type, torch.bfloat16):
        return network.restored(seen.contiguous(memory_format=torch.channels_last), details).float()


def _squared_errors(network: nn.Module, seen: Tensor, details: Tensor, numbers: Tensor, values: Tensor) -> Tensor:
    """Of each plane's numbers, and of what is restored, in squared steps: (planes, 2)."""
    wrong = values - numbers
    exact = (wrong == 0).flatten(1).all(1)
    after = wrong - _beside(network, seen, details)
    both = torch.stack([wrong.square().sum((1, 2, 3)), after.square().sum((1, 2, 3))], 1)
    return both.masked_fill(exact[:, None], 0.0)
