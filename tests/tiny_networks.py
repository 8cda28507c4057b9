"""Small models of the codec `transform`: of numbers that nothing but whole-number arithmetic makes, or random ones."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from harmonium.models import context_training, scale_tables
from harmonium.models.code_prior import TABLE_BITS
from harmonium.models.context_network import FEATURES, OUTPUTS, STEP_ORDER, LevelNetwork
from harmonium.models.context_training import Schedule, Source, new_networks
from harmonium.models.detail_coding import DetailModel
from harmonium.models.integer_network import IntegerLayer, IntegerLevel
from harmonium.models.radiometry import Radiometry, default_peak
from harmonium.models.scale_tables import FIXED_SCALES, FRACTIONS, REACH, SCALES, SHAPES, SYMBOLS
from harmonium.models.subbands import CLASSES
from harmonium.models.symbol_coding import Tables
from harmonium.models.transform_codec import TransformCodec
from harmonium.models.wavelet import DETAILS

from .tiny_models import smooth_pixels

CHANNELS = 4


class WholeNumbers:
    """Numbers of a linear congruential generator (Knuth's MMIX), the same wherever Python runs."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def draw(self, least: int, most: int) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return least + (self.state >> 33) % (most - least + 1)

    def tensor(self, shape: tuple[int, ...], least: int, most: int) -> Tensor:
        count = int(np.prod(shape))
        return torch.tensor([self.draw(least, most) for _ in range(count)], dtype=torch.int64).reshape(shape)


def whole_level(seed: int) -> IntegerLevel:
    """A network whose scales follow differences of the low band across and down, and that sees a little of all else."""
    numbers = WholeNumbers(seed)

    def layer(base: Tensor, most: int, factor: float, bias: Tensor | None = None) -> IntegerLayer:
        """Weights `base`, one in eight changed by up to `most`."""
        chosen = numbers.tensor(tuple(base.shape), 0, 7) == 0
        weight = base + chosen * numbers.tensor(tuple(base.shape), -most, most)
        bias = numbers.tensor((len(base),), 0, 40) if bias is None else bias
        return IntegerLayer(
            weight=weight.bfloat16(), bias=bias.bfloat16(), factor=torch.full((len(base),), factor).bfloat16()
        )

    differences = torch.zeros(CHANNELS, FEATURES, 3, 3, dtype=torch.int64)
    for channel, (first, second) in enumerate(((3, 4), (4, 3), (1, 6), (6, 1))):  # west, east; north, south
        differences[channel, first, 1, 1], differences[channel, second, 1, 1] = 8, -8
    same = torch.eye(CHANNELS, dtype=torch.int64)[:, :, None, None]
    last = torch.zeros(OUTPUTS, CHANNELS, 1, 1, dtype=torch.int64)
    last[1] = 48

    heads = range(len(STEP_ORDER))
    return IntegerLevel(
        trunk_layers=(
            layer(differences, 2, 2**-4),
            layer(28 * same.expand(-1, -1, 3, 3), 3, 2**-8),
        ),
        joined=tuple(layer(64 * same, 9, 2**-6) for _ in heads),
        known=tuple(
            numbers.tensor((CHANNELS, max(step.known, 1), 5, 5), -4, 4).bfloat16() * min(step.known, 1)
            for step in STEP_ORDER
        ),
        hidden=tuple(layer(64 * same, 9, 2**-6) for _ in heads),
        outputs=tuple(layer(last, 30, 2**-5, torch.tensor([0, -1824, 0])) for _ in heads),
        restoring=(
            layer(F.pad(differences, (0, 0, 0, 0, 0, DETAILS)), 2, 2**-4),
            layer(64 * F.pad(same, (1, 1, 1, 1)), 3, 2**-6),
            layer(16 * same[:DETAILS], 16, 2**-6),
        ),
    )


def whole_frequencies() -> NDArray[np.int64]:
    """Tables that fall by a ratio from the centre on, which no logarithm or exponential was taken for."""
    away = np.abs(np.arange(SYMBOLS) - (REACH + 1))
    found = []
    for scale in FIXED_SCALES[:SCALES].tolist():
        for shape in range(len(SHAPES)):
            ratio = ((scale + 256 * shape) << 10) // (scale + 256 * shape + 700)
            falling = [1 << 30]
            for _ in range(REACH + 2):
                falling.append(falling[-1] * ratio >> 10)
            weights = np.array(falling, np.int64)[np.concatenate([away, [REACH + 2]])][:SYMBOLS]
            for fraction in range(FRACTIONS):
                share = fraction - FRACTIONS // 2
                neighbour = np.roll(weights, int(np.sign(share)))
                mixed = (FRACTIONS - 1 - abs(share)) * weights + abs(share) * neighbour
                table = 1 + mixed * ((1 << TABLE_BITS) - SYMBOLS) // mixed.sum()
                table[table.argmax()] += (1 << TABLE_BITS) - table.sum()
                found.append(table)
    return np.array(found, np.int64)


@cache
def whole_model() -> DetailModel:
    """Of whole numbers alone."""
    torch.set_num_threads(1)
    return DetailModel(
        networks=tuple(whole_level(100 + number) for number in range(CLASSES)), tables=Tables(whole_frequencies())
    )


@cache
def tables() -> Tables:
    """Those of the package."""
    return Tables(scale_tables.frequencies())


@cache
def model() -> DetailModel:
    """Networks of `whole_model` with the package's tables."""
    return DetailModel(networks=whole_model().networks, tables=tables())


def codec(dtype: str, bands: int, found: DetailModel | None = None, peak: float | None = None) -> TransformCodec:
    radiometry = Radiometry(dtype=dtype, offset=(0.0,) * bands, scale=(1.0,) * bands, peak=peak or default_peak(dtype))
    return TransformCodec(radiometry=radiometry, model=found or model())


def random_networks(seed: int) -> nn.ModuleList:
    """Untrained networks whose last layers are not 0."""
    found, generator = new_networks(seed, CHANNELS, CHANNELS), torch.Generator().manual_seed(seed)
    for network in found:
        assert isinstance(network, LevelNetwork)
        for layer in (*network.outputs, network.restoring[-1]):
            for values in layer.parameters():
                nn.init.normal_(values, std=0.2, generator=generator)
    return found


@cache
def source() -> Source:
    """Two bands to draw crops from."""
    return Source(pixels=smooth_pixels((2, 128, 136), "uint16"), peak=10_000.0)


@cache
def trained_networks() -> tuple[nn.ModuleList, nn.ModuleList]:
    """Networks before and after some steps of training."""
    schedule = Schedule(steps=20, batch=1, learning_rate=1e-2, warm_up=3)
    after = random_networks(0)
    list(context_training.train(after, [source()], schedule, seed=1))
    return random_networks(0), after
