"""The `transform` codec on whole scenes, chunk by chunk as archives hold them: its curve, and what a bound takes.

All bytes of all payloads count: headers, tables of bands, angles of the rotations.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.archive_peers import Point, point
from benchmarks.archive_scenes import Scene
from benchmarks.bounded_peers import BOUNDS
from harmonium.models.chunk_codec import ChunkCodec
from harmonium.models.targets import Lossless, MaxError, Step, Target
from harmonium.pipeline.grid import TileGrid

CHUNK = 512
"""Side of a chunk in pixels: the archive's default."""

SPACING = 2.25
"""Between two points of a curve, about, in dB."""

_FIRST_STEP = 0.03
"""In shares of the peak."""

_STEEPEST, _FLATTEST = 1.2, 0.25
"""Of a curve: dB that a halved step brings, in shares of 6.02 dB."""

_MOST_POINTS = 10
"""On each side of the first."""


def coded(scene: Scene, codec: ChunkCodec, target: Target) -> Point:
    """A scene through payloads: every chunk is compressed to the target, and decoded from its bytes."""
    decoded, nbytes = np.empty_like(scene.pixels), 0
    _, height, width = scene.pixels.shape
    for tile in TileGrid(height=height, width=width, chunk=CHUNK).chunks():
        place = (slice(None), *tile.slices)
        pixels = np.ascontiguousarray(scene.pixels[place])
        # Pixels that were not observed have a value, here and for all peers: none is marked.
        payload = codec.compress(pixels, float("nan"), target).payload
        decoded[place] = codec.decompress(payload, pixels.shape)
        nbytes += len(payload)
    return point(scene, decoded, nbytes)


def transform_curve(scene: Scene, codec: ChunkCodec, low: float, high: float) -> list[Point]:
    """Points with one step for the whole scene, from below `low` to above `high` dB, rising.

    The walk on either side ends at the first point beyond, or where all pixels are exact or the step is the peak.
    """
    first = _FIRST_STEP * scene.peak
    middle = coded(scene, codec, Step(first))
    coarser = _walk(scene, codec, (first, middle), low, sign=1)
    finer = _walk(scene, codec, (first, middle), high, sign=-1)
    return [*reversed(coarser), middle, *finer]


def _walk(scene: Scene, codec: ChunkCodec, start: tuple[float, Point], end: float, sign: int) -> list[Point]:
    """Points from the first on, to where the PSNR is beyond `end`; `sign` 1 for coarser steps, -1 for finer ones."""
    (step, last), slope, found = start, 0.8, list[Point]()
    while len(found) < _MOST_POINTS and sign * (last.psnr - end) > 0 and step < scene.peak:
        new_step = step * 10 ** (sign * SPACING / (20 * slope))
        new = coded(scene, codec, Step(new_step))
        found.append(new)
        if sign < 0 and not np.isfinite(new.psnr):
            break
        if np.isfinite([last.psnr, new.psnr]).all():
            gained = (last.psnr - new.psnr) / (20 * np.log10(new_step / step))
            slope = float(np.clip(gained, _FLATTEST, _STEEPEST))
        step, last = new_step, new
    return found


def transform_bounded(scene: Scene, codec: ChunkCodec, bounds: Sequence[int] = BOUNDS) -> list[Point]:
    """A point at each bound, 0 without loss, errors verified.

    Raises
    ------
    RuntimeError
        If an error is larger than the bound.
    """
    found = []
    for bound in bounds:
        reached = coded(scene, codec, MaxError(bound) if bound else Lossless())
        if reached.max_error > bound:
            raise RuntimeError(f"The codec was to keep {bound} DN on {scene.name}, found {reached.max_error:g} DN")
        found.append(reached)
    return found
