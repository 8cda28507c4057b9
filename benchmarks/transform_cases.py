"""Chunks of all kinds that the `transform` codec is tried on, made up or cut from scenes, and what it is to promise."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import archive_scenes
from benchmarks.common import Skipped
from harmonium.models.radiometry import DTYPES
from harmonium.models.targets import Lossless, MaxError, Step, Target

_SPREAD = {"uint8": (120, 30), "int16": (0, 2000), "uint16": (3000, 800), "float32": (0.3, 0.1)}
"""Mean and deviation of made-up pixels."""

_SCENES = {"spyndex-10m": 160, "naip-5m": 136, "bouconne-10m": 72, "landsat8-15m": 136}
"""Scenes of which a square of that side is taken from the middle, where they are here."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A chunk."""

    name: str
    """What tables call it."""

    pixels: NDArray[Any]
    """(band, y, x)."""

    fill: float
    """Value of pixels without data; NaN where none is marked."""


def targets(dtype: str) -> list[Target]:
    """What a chunk of this type may be promised, from coarse to exact."""
    if dtype == "float32":
        return [Step(0.05), Step(0.001)]
    unit = 1 if dtype == "uint8" else 10
    return [Step(40 * unit), Step(3 * unit), MaxError(2), Lossless()]


def smooth(shape: tuple[int, int, int], dtype: str, seed: int) -> NDArray[Any]:
    """Made-up pixels (band, y, x) whose neighbours, and whose bands, are alike."""
    draw = np.random.default_rng(seed)
    values = 0.3 * draw.normal(size=shape) + draw.normal(size=(1, *shape[1:]))
    for shift in (1, 2, 4):
        for axis in (1, 2):
            values = (values + np.roll(values, shift, axis)) / np.sqrt(2)
    mean, deviation = _SPREAD[dtype]
    values = mean + deviation * values / 3
    if dtype == "float32":
        return values.astype(np.float32)
    limits = np.iinfo(dtype)
    found: NDArray[Any] = np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return found


def made_up(side: int = 120) -> list[Case]:
    """Chunks of all types, with and without pixels that carry no data, with extreme values, and flat ones."""
    found = []
    for seed, dtype in enumerate(DTYPES):
        bands = 1 + seed
        pixels = smooth((bands, side, side - 7), dtype, seed)
        found.append(Case(name=f"smooth {dtype}", pixels=pixels, fill=float("nan")))
        marked = pixels.copy()
        marked[:, : side // 3, : side // 2] = 0
        marked[0, side // 2 :, side // 2] = 0
        found.append(Case(name=f"masked {dtype}", pixels=marked, fill=0.0))
        if dtype != "float32":
            limits = np.iinfo(dtype)
            noise = np.random.default_rng(seed).integers(limits.min, limits.max, (2, 40, 41), dtype, endpoint=True)
            found.append(Case(name=f"noise {dtype}", pixels=noise, fill=float("nan")))
    found.append(Case(name="flat", pixels=np.full((2, 30, 20), 7, np.uint16), fill=float("nan")))
    found.append(Case(name="empty", pixels=np.zeros((2, 30, 20), np.uint16), fill=0.0))
    found.append(Case(name="one pixel", pixels=np.full((1, 1, 1), 9, np.uint16), fill=0.0))
    return found


def cut() -> list[Case]:
    """Chunks of scenes of the development data; none where they are not here."""
    found = []
    for name, side in _SCENES.items():
        try:
            scene = archive_scenes.load(name, side)
        except Skipped:
            continue
        found.append(Case(name=name, pixels=scene.pixels, fill=float("nan")))
    return found
