"""Codecs that are quick to make: fitted for a moment, or put together from numbers that float32 holds exactly."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harmonium.models import context_training, model_file, presets
from harmonium.models.block_transform import BlockTransform
from harmonium.models.cell_transform import CellTransform
from harmonium.models.chunk_codec import ChunkCodec
from harmonium.models.code_prior import CodePrior, StaticTables
from harmonium.models.codec import Codec
from harmonium.models.context_training import Source
from harmonium.models.detail_coding import DetailModel
from harmonium.models.model_file import GroupModel
from harmonium.models.presets import transform
from harmonium.models.radiometry import Radiometry
from harmonium.models.unrolled import StackShape, UnrolledStack

RANGES = {"uint8": (120, 30), "int16": (0, 2000), "uint16": (3000, 800), "float32": (0.3, 0.1)}
"""Mean and deviation of the made-up pixels of each type."""


def smooth_pixels(shape: tuple[int, int, int], dtype: str, seed: int = 0) -> NDArray[Any]:
    """Random pixels (bands, height, width) whose neighbours are alike, without extreme values."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    for shift in (1, 2, 4):
        for along in (1, 2):
            values = (values + np.roll(values, shift, along)) / np.sqrt(2)
    mean, deviation = RANGES[dtype]
    values = np.clip(mean + deviation * values / 3, mean - 3 * deviation, mean + 3 * deviation)
    return values.astype(dtype)


def blocks(count: int, bands: int, dtype: str, seed: int = 0) -> NDArray[Any]:
    """Blocks (count, bands, 8, 8) cut out of smooth pixels."""
    columns = -(-count // 16)
    pixels = smooth_pixels((bands, 128, 8 * columns), dtype, seed)
    cut = pixels.reshape(bands, 16, 8, columns, 8).transpose(1, 3, 0, 2, 4)
    return np.ascontiguousarray(cut.reshape(-1, bands, 8, 8)[:count])


def silent(_stage: str, _done: int, _steps: int, _error: float) -> None:
    """Report nothing."""


def fit(preset: str, samples: NDArray[Any], seed: int = 0, **options: Any) -> presets.Fitted:
    torch.set_num_threads(1)
    return presets.get(preset).fit(samples, presets.FitOptions(seed=seed, effort=0.003, **options), silent)


def group(
    preset: str, fitted: presets.Fitted, training: Mapping[str, Any] | None = None, resolution: float | None = 10.0
) -> GroupModel:
    codec = model_file.make_codec(fitted.radiometry, fitted.transform, fitted.prior)
    return GroupModel(
        preset=preset,
        bands=tuple(f"B{band + 1:02}" for band in range(fitted.radiometry.bands)),
        resolution=resolution,
        codec=codec,
        training=fitted.record if training is None else training,
    )


@cache
def fitted_codec(preset: str, dtype: str, bands: int) -> Codec:
    """A codec fitted once per session."""
    return of_cells(group(preset, fit(preset, blocks(256, bands, dtype))).codec)


def of_cells(codec: ChunkCodec) -> Codec:
    """A codec that has a transform of cells and a prior: one of every preset but `transform`."""
    assert isinstance(codec, Codec)
    return codec


def transform_of(fitted: presets.Fitted) -> BlockTransform:
    """The transform that any preset but `transform` has learned."""
    assert not isinstance(fitted.transform, DetailModel)
    return fitted.transform


def prior_of(fitted: presets.Fitted) -> CodePrior:
    """The prior that any preset but `transform` has learned."""
    assert fitted.prior is not None
    return fitted.prior


@cache
def untrained() -> DetailModel:
    """What a codec of the preset `transform` needs, from small networks that learned nothing."""
    torch.set_num_threads(1)
    source = Source(pixels=smooth_pixels((2, 256, 256), "uint16"), peak=10_000.0)
    return transform.finish(context_training.new_networks(0, 4, 4), [source], seed=0)


@cache
def by_hand(bands: int = 2, dtype: str = "uint16") -> Codec:
    """A codec without rounding: each code unit is one pixel in quarters of its scale, each decodes to 16 pixels.

    Code unit j is pixel 16 j of the cell, j = 0 ... 4 bands - 1, in 64 states from -32 on; pixels 16 j to 16 j + 15 are
    decoded as that value. All weights are powers of two, and all sums have one term that is not zero.
    """
    visible, units = 64 * bands, 4 * bands
    net = UnrolledStack(StackShape(sizes=(visible, units), hidden="identity", code="identity", visible="identity"))
    to_code, to_pixels = torch.zeros(units, visible), torch.zeros(visible, units)
    for unit in range(units):
        to_code[unit, 16 * unit] = 4.0
        to_pixels[16 * unit : 16 * unit + 16, unit] = 0.25
    net.load_state_dict(
        {
            "encoder.0.weight": to_code,
            "encoder.0.bias": torch.zeros(units),
            "decoder.0.weight": to_pixels,
            "decoder.0.bias": torch.zeros(visible),
            "spacing": torch.ones(units),
            "low": torch.full((units,), -32, dtype=torch.int32),
            "states": torch.full((units,), 64, dtype=torch.int32),
        }
    )
    # Frequencies rise from 10 084 to 22 684 in steps of 200; together 2^20.
    table = 16_384 + 100 * (2 * np.arange(64) - 63)
    offset, scale = {"uint16": (2048.0, 256.0), "int16": (0.0, 256.0), "uint8": (128.0, 16.0), "float32": (0.0, 1.0)}[
        dtype
    ]
    return Codec(
        radiometry=Radiometry(dtype=dtype, offset=(offset,) * bands, scale=(scale,) * bands, peak=4096.0),
        transform=CellTransform(net, bands, "values"),
        prior=StaticTables([table.astype(np.int64)] * units),
    )
