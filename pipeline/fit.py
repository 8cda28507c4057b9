"""Fitting: blocks are sampled over all scenes in parallel, then each resolution group is trained as a task of its own.

    scene, scene, ... ─┬─ sample a tile ─┐
                       ├─ sample a tile ─┼─ train r10m ─┐
                       └─ ...            ┘              ├─ model file
                       ┌─ sample a tile ─── train r20m ─┘

What is sampled stays on the workers until the training takes it. Blocks are drawn by generators seeded with the scene, the
group and the tile, so they do not depend on who draws them, or when.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rasterio.crs import CRS

from harmonium.errors import HarmoniumError, SceneError
from harmonium.models import model_file, presets
from harmonium.models.codec import Codec
from harmonium.models.model_file import GroupModel, ModelFile
from harmonium.models.presets import FitOptions, Report
from harmonium.pipeline.cluster import Executor, FanIn, TaskReport
from harmonium.pipeline.grid import Tile, TileGrid
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.stats import BandStats, valid_mask
from harmonium.pipeline.torch_threads import single_threaded
from harmonium.pipeline.windows import Bbox, check_bbox, window_of

SAMPLE_BLOCKS = 60_000
"""Blocks that a training sees, over all scenes."""

MAX_TILES = 64
"""Tiles that are read for them, at the most, however many scenes there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTask:
    """Everything that a worker needs to sample one tile."""

    scene_id: str
    """Name of the scene."""

    group: ResolutionGroup
    """Where the pixels come from."""

    tile: Tile
    """Which of them are read."""

    blocks: int
    """How many blocks to draw."""

    patch: int
    """Side of a block in pixels."""

    seed: int
    """The fit's seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a tile gave."""

    blocks: NDArray[Any]
    """(n, band, patch, patch), native type; fewer than asked for where pixels carry no data."""

    stats: BandStats
    """Of all pixels of the tile that carry data."""


def fit(
    scenes: Sequence[Scene], preset: str, options: FitOptions, executor: Executor, listen: Report | None = None
) -> ModelFile:
    """Learn a model for every resolution group of the scenes.

    Parameters
    ----------
    scenes
        At least one; those that have a group of the same name must agree in its bands, type and resolution.
    preset
        Name of a preset.
    options
        Seed, rate and effort.
    executor
        Where to run.
    listen
        Told, in this process, how the trainings proceed; stages are named `GROUP: STAGE`.

    Raises
    ------
    SceneError
        If the scenes do not agree, or carry too little data.
    UsageError, ClusterError
        As the executor.
    """
    groups = _agreeing_groups(scenes)
    report = executor.reporter(listen or _ignore)
    jobs = [_job(name, members, preset, options, report) for name, members in groups.items()]
    trained: dict[int, ModelFile] = {}
    for outcome in executor.fan_in(jobs, gpu=True):
        if outcome.error is not None:
            raise outcome.error
        trained[outcome.index] = model_file.from_bytes(outcome.result)
    return model_file.make({name: trained[index].groups[name] for index, name in enumerate(groups)})


def clip(scene: Scene, bbox: Bbox, crs: CRS) -> Scene:
    """The part of a scene that a bbox touches; reads no pixel.

    Raises
    ------
    SceneError
        If the scene has no georeference, or lies elsewhere.
    """
    groups = []
    for group in scene.groups:
        tile = window_of(check_bbox(bbox, crs), crs, group.crs, group.transform, *group.shape[1:])
        if tile is None:
            raise SceneError(f"Scene {scene.id} lies beside the bbox {bbox}; leave it out, or choose another bbox")
        rows, columns = tile.slices
        groups.append(
            replace(
                group,
                sources=tuple(source.isel(y=rows, x=columns) for source in group.sources),
                transform=group.transform * group.transform.translation(tile.col_off, tile.row_off),
            )
        )
    return replace(scene, groups=tuple(groups))


def _ignore(stage: str, step: int, steps: int, value: float) -> None:
    pass


def _agreeing_groups(scenes: Sequence[Scene]) -> dict[str, list[tuple[str, ResolutionGroup]]]:
    """Name of a resolution group to all scenes' names and groups of that name."""
    found: dict[str, list[tuple[str, ResolutionGroup]]] = {}
    for scene in scenes:
        for group in scene.groups:
            found.setdefault(group.name, []).append((scene.id, group))
    if not found:
        raise SceneError("A fit needs at least one scene, got none")
    for name, members in found.items():
        (first_id, first), *others = members
        for scene_id, group in others:
            if (group.bands, group.dtype, group.resolution) != (first.bands, first.dtype, first.resolution):
                raise SceneError(
                    f"Group {name} of {first_id} has {', '.join(first.bands)} as {first.dtype}, of {scene_id} "
                    f"{', '.join(group.bands)} as {group.dtype}; fit such scenes apart"
                )
    return found


def _job(
    name: str, members: Sequence[tuple[str, ResolutionGroup]], preset: str, options: FitOptions, report: TaskReport
) -> FanIn:
    patch = presets.get(preset).patch
    tiles = [(scene_id, group, tile) for scene_id, group in members for tile in _tiles(group)]
    generator = np.random.default_rng([options.seed, zlib.crc32(name.encode())])
    if len(tiles) > MAX_TILES:
        tiles = [tiles[index] for index in np.sort(generator.choice(len(tiles), MAX_TILES, replace=False))]
    total_pixels = sum(tile.width * tile.height for _, _, tile in tiles)
    tasks = [
        SampleTask(
            scene_id=scene_id,
            group=group,
            tile=tile,
            blocks=-(-SAMPLE_BLOCKS * tile.width * tile.height // total_pixels),
            patch=patch,
            seed=options.seed,
        )
        for scene_id, group, tile in tiles
    ]
    _, first = members[0]
    return FanIn(
        part=sample_tile,
        arguments=[(task,) for task in tasks],
        whole=train_group,
        extra=(name, first.bands, first.resolution, preset, options, report),
    )


def _tiles(group: ResolutionGroup) -> Iterator[Tile]:
    return TileGrid.for_shape(*group.shape[1:]).shards()


def sample_tile(task: SampleTask) -> Sample:
    """Draw blocks without masked pixels from one tile, at any pixel offset, with replacement."""
    pixels = task.group.read(task.tile)
    valid = valid_mask(pixels, task.group.nodata)
    stats = BandStats.from_pixels(pixels, valid)
    side = task.patch
    if min(pixels.shape[1:]) < side:
        return Sample(blocks=np.empty((0, len(pixels), side, side), pixels.dtype), stats=stats)
    key = [zlib.crc32(task.scene_id.encode()), zlib.crc32(task.group.name.encode())]
    generator = np.random.default_rng([task.seed, *key, task.tile.row_off, task.tile.col_off])
    whole = sliding_window_view(valid.all(axis=0), (side, side))
    # Twice as many as needed, for some will touch pixels without data.
    rows = generator.integers(0, whole.shape[0], 2 * task.blocks)
    columns = generator.integers(0, whole.shape[1], 2 * task.blocks)
    usable = np.flatnonzero(whole[rows, columns].all(axis=(1, 2)))[: task.blocks]
    windows = sliding_window_view(pixels, (side, side), axis=(1, 2))
    blocks = windows[:, rows[usable], columns[usable]].swapaxes(0, 1)
    return Sample(blocks=np.ascontiguousarray(blocks), stats=stats)


def train_group(
    samples: Sequence[Sample],
    name: str,
    bands: tuple[str, ...],
    resolution: float | None,
    preset: str,
    options: FitOptions,
    report: TaskReport,
) -> bytes:
    """Train one resolution group: the body of a task. Returns a model file of this group alone.

    Raises
    ------
    SceneError
        If the preset cannot learn from these blocks.
    """
    blocks = np.concatenate([sample.blocks for sample in samples])
    stats = BandStats.empty(len(bands))
    for sample in samples:
        stats = stats.merge(sample.stats)
    if torch.cuda.is_available():
        options = replace(options, device=torch.device("cuda"))
    try:
        with single_threaded():
            fitted = presets.get(preset).fit(blocks, options, lambda stage, *rest: report(f"{name}: {stage}", *rest))
    except HarmoniumError:
        raise
    except ValueError as error:
        raise SceneError(f"Group {name}: {error}") from error
    codec = Codec(radiometry=fitted.radiometry, transform=fitted.transform, prior=fitted.prior)
    group = GroupModel(
        preset=preset,
        bands=bands,
        resolution=resolution,
        codec=codec,
        training={**fitted.record, "pixels": _describe(stats)},
    )
    return model_file.to_bytes({name: group})


def _describe(stats: BandStats) -> dict[str, Any]:
    """Band statistics as JSON values."""
    return {
        "count": int(stats.count),
        "mean": [round(float(value), 4) for value in stats.mean],
        "deviation": [round(float(value), 4) for value in np.sqrt(np.diag(stats.covariance))],
    }
