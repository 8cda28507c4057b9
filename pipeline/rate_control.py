"""One quantiser step for a whole resolution group, from samples of it, so that the group has the PSNR or ratio asked.

An equal step everywhere is the best trade of bytes for squared error: chunks that are easy get fewer bytes, and no
chunk is better than the others need. So the step is sought once for a group, before its first shard, and every chunk is
coded with it.

    group ── windows ── encode with a step, measure ──┐
               │               ▲                      ├── step
               └───────────────┴── another step ──────┘

A small group is measured whole, in its own chunks; of a larger one, windows spread evenly over it. They are chosen by
their place alone, and their numbers are added in order, so the step is the same with Dask and without.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from harmonium.errors import SceneError
from harmonium.models import targets
from harmonium.models.quality import Quality
from harmonium.models.targets import Psnr, Ratio, Step
from harmonium.pipeline import scene_layout
from harmonium.pipeline.cluster import Executor, InProcess
from harmonium.pipeline.grid import Tile, TileGrid
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.stats import valid_mask
from harmonium.pipeline.step_search import Measure, falls_short, search
from harmonium.pipeline.torch_threads import single_threaded
from harmonium.pipeline.zarr_codec import HarmoniumCodec

WINDOW = 256
"""Side of a window, in pixels: a smaller one is coded unlike a chunk."""

SHARE = 0.15
"""Part of a large group that is measured."""

LEAST, MOST = 64, 256
"""Windows that are measured, at least and at most: a group of no more than the least, 4 million pixels, is whole."""

_FIRST = 8
"""Windows that the search begins with: the step that they need is near the one that all need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """A group whose step is sought."""

    url: str
    """The archive, which holds the model."""

    model: str
    """SHA-256 of the model."""

    peak: float
    """Value range that PSNR refers to, in DN."""

    scene_id: str
    """Name of the scene."""

    group: ResolutionGroup
    """Where the pixels come from."""

    grid: TileGrid
    """Chunks in which the group will be stored."""

    asked: Psnr | Ratio
    """What the group is to have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFound:
    """The step of a group."""

    scene_id: str
    """Name of the scene."""

    group: str
    """Name of the resolution group."""

    asked: Psnr | Ratio
    """What was asked."""

    step: Step
    """What every chunk of the group is to be coded with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTask:
    """Everything that a worker needs to measure one window."""

    codec: HarmoniumCodec
    """With the step to try."""

    group: ResolutionGroup
    """Where the pixels come from."""

    tile: Tile
    """The window's pixels."""

    side: int
    """Side of the chunk that they are coded in, in pixels; 0 for the window itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """A group for which no step was found."""

    scene_id: str
    """Name of the scene."""

    error: Exception
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What is measured of a group."""

    first: list[Tile]
    """Few windows full of data, with which the search begins; none where they would be all."""

    windows: list[Tile]
    """Windows spread over the group, or all of its chunks."""

    side: int
    """Side of the chunks, 0 for windows."""


def find_steps(requests: Sequence[StepRequest], executor: Executor) -> Iterator[StepFound | StepFailed]:
    """Find the steps of groups, yielding each as it is found.

    A group of few windows is one task, so that many small scenes keep all workers busy; the windows of a large one are
    tasks of their own.
    """
    small = [request for request in requests if _is_small(request)]
    large = [request for request in requests if not _is_small(request)]
    for outcome in executor.map(find_step, ((request,) for request in small)):
        scene_id = small[outcome.index].scene_id
        yield outcome.result if outcome.error is None else StepFailed(scene_id=scene_id, error=outcome.error)
    for request in large:
        try:
            yield find_step(request, executor)
        except Exception as error:  # noqa: BLE001 - whatever one scene's task raised: the others go on
            yield StepFailed(scene_id=request.scene_id, error=error)


def find_step(request: StepRequest, executor: Executor | None = None) -> StepFound:
    """The step of one group; the body of a task, or many tasks of an executor's.

    Raises
    ------
    SceneError
        If no step gives what was asked.
    """
    executor = executor or InProcess()
    sample = choose_sample(request.group, request.grid, executor)
    limits = _limits(request)
    start = None
    if sample.first:
        near = _measured(request, sample.first, 0, executor)
        start = search(request.asked, request.peak, near, limits=limits, slope_too=True)
    measure = _measured(request, sample.windows, sample.side, executor)
    found = search(request.asked, request.peak, measure, start, limits)
    if falls_short(request.asked, found):
        raise SceneError(
            f"Scene {request.scene_id}, group {request.group.name}: no step gives {targets.text(request.asked)}; the "
            f"nearest, {targets.text(found.step)}, is {found.miss:.1f} dB off; ask for less, or for Lossless"
        )
    return StepFound(scene_id=request.scene_id, group=request.group.name, asked=request.asked, step=found.step)


def measure_window(task: WindowTask) -> Quality:
    """Encode one window and measure it: the body of a task."""
    pixels = task.group.read(task.tile)
    fill = scene_layout.fill_value(task.group)
    if task.side:
        whole = np.full((len(pixels), task.side, task.side), np.asarray(fill).astype(pixels.dtype))
        whole[:, : task.tile.height, : task.tile.width] = pixels
        pixels = whole
    with single_threaded():
        return task.codec.codec().compress(np.ascontiguousarray(pixels), fill, task.codec.target).quality


def _measured(request: StepRequest, windows: Sequence[Tile], side: int, executor: Executor) -> Measure:
    """What the group is expected to give with a step, from these windows."""
    group = request.group
    bands, height, width = group.shape
    share = sum(tile.width * tile.height for tile in windows) / (height * width)
    head = _bytes_beside_numbers(bands)
    chunks = math.prod(request.grid.chunk_counts)

    def measure(step: Step) -> tuple[Quality, float]:
        codec = HarmoniumCodec(model=request.model, group=group.name, source=request.url, target=step)
        tasks = [WindowTask(codec=codec, group=group, tile=tile, side=side) for tile in windows]
        total = reduce(Quality.merge, in_order(executor, measure_window, [(task,) for task in tasks]))
        # Windows have more headers than chunks.
        nbytes = (total.nbytes - head * len(windows)) / share + head * chunks
        return total, bands * height * width * group.dtype.itemsize / nbytes

    return measure


def _bytes_beside_numbers(bands: int) -> int:
    """About what a chunk has beside its coded numbers: header, offsets, errors, angles of one byte each."""
    return 16 + 9 * bands + 3 * (bands * (bands - 1) // 2)


def _is_small(request: StepRequest) -> bool:
    return math.prod(request.grid.chunk_counts) <= _FIRST


def choose_sample(group: ResolutionGroup, stored: TileGrid, executor: Executor) -> Sample:
    """Choose what is measured of a group; reads windows, to see where the data are."""
    grid = TileGrid(height=group.shape[1], width=group.shape[2], chunk=WINDOW)
    order = spread(grid)
    small = len(order) <= LEAST
    count = len(order) if small else min(max(LEAST, int(SHARE * len(order))), MOST)
    valid = _valid_pixels(group, order[:count], executor)
    if sum(valid) < count * WINDOW**2 / 2:
        # Windows without data cost no time to encode: more of them, until those with data are as many.
        wanted = min(int(count * count * WINDOW**2 / (sum(valid) + 1)), 4 * count)
        valid += _valid_pixels(group, order[count:wanted], executor)
    fullest = [tile for tile, known in zip(order, valid, strict=False) if known >= max(valid) / 2]
    first = fullest[: min(max(1, int(SHARE * len(fullest))), _FIRST)]
    if len(order) == 1:
        first = []
    if small:
        return Sample(first=first, windows=list(stored.chunks()), side=stored.chunk)
    return Sample(first=first, windows=order[: len(valid)], side=0)


def count_valid(group: ResolutionGroup, tile: Tile) -> int:
    """Values of a window that carry data, for each band: the body of a task."""
    return int(valid_mask(group.read(tile), scene_layout.fill_value(group)).sum()) // len(group.bands)


def spread(grid: TileGrid) -> list[Tile]:
    """The chunks of a grid in such an order that any number of the first lie evenly over its area.

    By the height of a plane wave of irrational slopes, on which no row, column or diagonal has more low places than
    another. The slopes are those of the sequence R2 (Roberts, "The unreasonable effectiveness of quasirandom
    sequences", 2018): powers of the root of x³ = x + 1.
    """
    rows, columns = np.indices(grid.chunk_counts).reshape(2, -1)
    wave = (0.7548776662466927 * rows + 0.5698402909980532 * columns) % 1
    places = np.argsort(wave, kind="stable")
    return [grid.chunk_tile(int(rows[place]), int(columns[place])) for place in places]


def _valid_pixels(group: ResolutionGroup, tiles: Sequence[Tile], executor: Executor) -> list[int]:
    return in_order(executor, count_valid, [(group, tile) for tile in tiles])


def in_order(executor: Executor, function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
    """What a function returns for all arguments, in their order; raises what the first of its tasks raised that ended.

    Sums of floats depend on the order, tasks end in any.
    """
    found: list[Any] = [None] * len(arguments)
    for outcome in executor.map(function, arguments):
        if outcome.error is not None:
            raise outcome.error
        found[outcome.index] = outcome.result
    return found


def _limits(request: StepRequest) -> tuple[float, float] | None:
    """Least and largest step in DN: below the least, integers come back exactly."""
    return (1 / 16, 2.0**18) if request.group.dtype.kind != "f" else None
