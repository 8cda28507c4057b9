"""Presets: each file of this folder is one way to make a codec from sample blocks, named and found by itself.

To add one, put a file here that defines `PRESET`, an object with the methods of `Preset`: nothing else has to be told.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonium.models.block_transform import BlockTransform
from harmonium.models.code_prior import CodePrior
from harmonium.models.detail_coding import DetailModel
from harmonium.models.radiometry import Radiometry

Blocks = NDArray[Any]
"""Sample blocks (n, bands, patch, patch) in their native type."""

Report = Callable[[str, int, int, float], None]
"""Called with the stage, steps done, steps in all, and the last error or loss of a training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """What a user may choose about a fit, whatever the preset."""

    seed: int = 0
    """The same blocks and the same seed give the same model, on one machine and with one number of threads."""

    bits: float | None = None
    """Target bits per pixel and band; None takes the preset's own."""

    effort: float = 1.0
    """Factor on the number of training steps."""

    peak: float | None = None
    """Value range that PSNR refers to, in DN; None takes the default of the pixel type."""

    settings: tuple[str, ...] = ()
    """`NAME=VALUE` each: what of the preset is to be different (`harmonium.models.preset_settings`)."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where to train."""

    def __post_init__(self) -> None:
        positive = [value for value in (self.effort, self.bits, self.peak) if value is not None]
        if not all(0 < value < math.inf for value in positive) or not 0 <= self.seed < 1 << 63:
            raise ValueError(f"Expected effort, bits and peak above 0 and a seed of 0 to 2^63 - 1, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What a preset has learned."""

    radiometry: Radiometry
    """What pixel values mean to the transform."""

    transform: BlockTransform | DetailModel
    """Pixels ⇄ codes, on the CPU; of the preset `transform`, its networks and tables."""

    prior: CodePrior | None
    """Codes ⇄ bytes; None where the transform's networks choose tables."""

    record: Mapping[str, Any]
    """How it was learned and what it gives on blocks held out: JSON values, no times."""


class Preset(Protocol):
    """One way to make a codec."""

    name: str
    """What users call it."""

    patch: int
    """Side in pixels of the sample blocks that it learns from, a multiple of 8."""

    def fit(self, blocks: Blocks, options: FitOptions, report: Report) -> Fitted:
        """Learn from blocks (n, bands, patch, patch) in the native type, none of which holds a masked pixel.

        Raises
        ------
        ValueError
            If the blocks are too few, or of a type that the preset does not code.
        """

    def load(self, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockTransform | DetailModel:
        """Inverse of the transform's `to_spec` and `to_tensors`.

        Raises
        ------
        ValueError, KeyError, TypeError
            If they contradict themselves.
        """


def names() -> tuple[str, ...]:
    """Names of all presets, sorted."""
    return tuple(sorted(_presets()))


def get(name: str) -> Preset:
    """The preset of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    known = _presets()
    if name not in known:
        raise ValueError(f"Unknown preset {name!r}; known are {', '.join(sorted(known))}")
    return known[name]


def _presets() -> dict[str, Preset]:
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    known: dict[str, Preset] = {}
    for module in modules:
        preset: Preset = module.PRESET
        if preset.name in known:
            raise ValueError(f"Two presets are called {preset.name!r}; the second is in {module.__name__}: rename it")
        known[preset.name] = preset
    return known
