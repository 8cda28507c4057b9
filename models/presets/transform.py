"""`transform`: wavelet, rotation of the bands, context networks; one model for every rate and any bands.

    code    whole numbers, by an energy that the context chooses   one table of 1044 for each
              │ context network: trunk, six heads
            details of 6 wavelet levels, planes of rotated bands
              │
    visible pixels of all bands

Unlike the other presets, a model has no rate: the target is named when scenes are compressed. What is learned is how
whole numbers are distributed, by plain likelihood. A fit goes on from the packaged model, if the wheel has one, with a
low learning rate; so that minutes are enough, and few scenes cannot spoil what many taught.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from harmonium.models import context_training, integer_network, packaged, scale_tables
from harmonium.models.context_network import LevelNetwork
from harmonium.models.context_training import Schedule, Source
from harmonium.models.detail_coding import DetailModel
from harmonium.models.integer_network import IntegerLevel
from harmonium.models.presets import Blocks, FitOptions, Fitted, Report
from harmonium.models.radiometry import Radiometry, default_peak
from harmonium.models.subbands import level_class
from harmonium.models.symbol_coding import Tables
from harmonium.models.targets import Step
from harmonium.models.training import StageLog, steps
from harmonium.models.transform_codec import TransformCodec

_MEASURED_STEP = 0.01
"""Of the peak: the step at which a fit tells rate and PSNR of what was held out."""

_MEASURED_BLOCKS = 4
_CALIBRATION_CROPS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """See the module."""

    name: str = "transform"

    patch: int = context_training.CROP
    """Side of sample blocks."""

    trunk: int = 48
    """Channels of a network's trunk, where none is packaged."""

    head: int = 32
    """Channels of its heads."""

    train_steps: int = 250
    """Steps of a fit that goes on from the packaged model; without it, eight times as many."""

    learning_rate: float = 3e-4
    """Of a fit that goes on; without a packaged model, ten times as high."""

    start: str | None = "transform"
    """Packaged model that a fit goes on from, or none."""

    def fit(self, blocks: Blocks, options: FitOptions, report: Report) -> Fitted:
        """See `Preset.fit`.

        Raises
        ------
        ValueError
            Also if bits are asked for: the rate is chosen when scenes are compressed.
        """
        if options.bits is not None:
            raise ValueError(
                f"transform has no rate of its own, found bits {options.bits:g}; leave them out, and give a target "
                "when you compress"
            )
        learn, held_out = _hold_out(blocks)
        dtype, bands = blocks.dtype.name, blocks.shape[1]
        peak = options.peak or default_peak(dtype)
        source = Source(pixels=learn, peak=peak)
        start = packaged.networks(self.start) if self.start in packaged.names() else None
        networks = start if start is not None else context_training.new_networks(options.seed, self.trunk, self.head)
        factor = 8 if start is None else 1
        schedule = Schedule(
            steps=steps(self.train_steps * factor, options.effort),
            learning_rate=self.learning_rate * (10 if start is None else 1),
        )
        log = StageLog(report)
        networks = networks.to(options.device)
        losses = context_training.train(networks, [source], schedule, seed=options.seed, device=options.device)
        log.run("likelihood", schedule.steps, losses)
        model = finish(networks.cpu(), [source], options.seed)
        radiometry = Radiometry(dtype=dtype, offset=(0.0,) * bands, scale=(1.0,) * bands, peak=peak)
        codec = TransformCodec(radiometry=radiometry, model=model)
        record = {
            "seed": options.seed,
            "effort": options.effort,
            "blocks": len(blocks),
            "start": None if start is None else self.start,
            "stages": log.stages,
            "held_out": _measure(codec, held_out[:_MEASURED_BLOCKS], peak),
        }
        return Fitted(radiometry=radiometry, transform=model, prior=None, record=record)

    def load(self, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> DetailModel:
        """See `Preset.load`."""
        return DetailModel.load(spec, tensors)


PRESET = Transform()


def _hold_out(blocks: Blocks) -> tuple[Blocks, Blocks]:
    """Blocks to learn from, and every tenth or the last, to measure on."""
    if blocks.ndim != 4 or blocks.shape[2] != blocks.shape[3] or len(blocks) < 2:
        raise ValueError(
            f"A fit of transform takes two blocks or more of {context_training.CROP} × {context_training.CROP} pixels "
            f"without masked ones, found shape {blocks.shape}; give more or larger scenes, or use the packaged model"
        )
    held_out = np.arange(len(blocks)) % 10 == 9
    held_out[-1] |= not held_out.any()
    return blocks[~held_out], blocks[held_out]


def finish(networks: nn.ModuleList, sources: list[Source], seed: int) -> DetailModel:
    """Trained networks in whole numbers, with their tables; ranges of activations are taken from the sources."""
    examples = context_training.calibration(networks, sources, _CALIBRATION_CROPS, seed)
    rounded: list[IntegerLevel] = []
    for kind, network in enumerate(networks):
        own = [example for crop in examples for level, example in enumerate(crop) if level_class(level) == kind]
        assert isinstance(network, LevelNetwork)
        rounded.append(integer_network.rounded(network, own))
    return DetailModel(
        networks=tuple(rounded),
        tables=Tables(scale_tables.frequencies()),
    )


def _measure(codec: TransformCodec, blocks: Blocks, peak: float) -> dict[str, float]:
    qualities = [codec.compress(block, math.nan, Step(_MEASURED_STEP * peak)).quality for block in blocks]
    total = qualities[0]
    for quality in qualities[1:]:
        total = total.merge(quality)
    mse = float(total.squared_error.sum() / total.count.sum())
    return {
        "bits_per_pixel": round(total.bits_per_pixel, 4),
        "psnr_db": round(10 * math.log10(peak**2 / max(mse, 1e-12)), 3),
    }
