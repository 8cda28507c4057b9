"""Fitting: blocks are sampled over all scenes in parallel, then each resolution group is trained as a task of its own.

    scene, scene, ... ─┬─ sample a tile ─┐
                       ├─ sample a tile ─┼─ train r10m ─┐
                       └─ ...            ┘              ├─ model file
                       ┌─ sample a tile ─── train r20m ─┘

What is sampled stays on the workers until the training takes it. Blocks are drawn by generators that are seeded with
the scene's name, the group and the tile, and are put in that order, so that a model depends neither on who draws them,
nor when, nor on the order in which the scenes are given.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rasterio.crs import CRS

from harmonium.errors import HarmoniumError, SceneError, UsageError
from harmonium.models import model_file, presets
from harmonium.models.model_file import GroupModel, ModelFile
from harmonium.models.preset_settings import with_settings
from harmonium.models.presets import FitOptions, Report
from harmonium.pipeline.cluster import Executor, FanIn, TaskReport
from harmonium.pipeline.fit_checks import agreeing_groups, check_pixels, check_preset
from harmonium.pipeline.grid import Tile, TileGrid
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.stats import BandStats, valid_mask
from harmonium.pipeline.torch_threads import single_threaded
from harmonium.pipeline.windows import LONLAT, Bbox, moved, parse_crs, window_of

SAMPLE_PIXELS = 60_000 * 64
"""Pixels of a band that blocks are drawn for, over all scenes."""

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
    """(n, band, patch, patch), native type; fewer than asked for where the tile has no more without masked pixels."""

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
    UsageError
        If there is no such preset, it has no such setting, or the pixels have fewer bits than were asked for.
    ClusterError
        If the cluster is lost.
    """
    check_preset(preset, options.settings)
    groups = agreeing_groups(scenes)
    for name, members in groups.items():
        check_pixels(name, [group for _, group in members], preset, options)
    report = executor.reporter(listen or _ignore)
    jobs = [_job(name, members, preset, options, report) for name, members in groups.items()]
    trained: dict[int, ModelFile] = {}
    for outcome in executor.fan_in(jobs, gpu=True):
        if outcome.error is not None:
            raise outcome.error
        trained[outcome.index] = model_file.from_bytes(outcome.result)
    return model_file.make({name: trained[index].groups[name] for index, name in enumerate(groups)})


def fit_options(
    *,
    seed: int = 0,
    bits: float | None = None,
    effort: float = 1.0,
    peak: float | None = None,
    settings: Sequence[str] = (),
) -> FitOptions:
    """What a user chose.

    Raises
    ------
    UsageError
        If a number is out of its range.
    """
    for name, value in (("bits", bits), ("effort", effort), ("peak", peak)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name}: expected a number above 0, found {value:g}; give another, or none")
    try:
        return FitOptions(seed=seed, bits=bits, effort=effort, peak=peak, settings=tuple(settings))
    except ValueError as error:
        raise UsageError(f"seed: expected 0 to 2^63 - 1, found {seed}; give another, or none") from error


def clip(scene: Scene, bbox: Bbox, crs: CRS | str = LONLAT) -> Scene:
    """The part of a scene that a bbox (west, south, east, north) touches; reads no pixel.

    Raises
    ------
    SceneError
        If the scene has no georeference, or lies elsewhere.
    UsageError
        If bbox or CRS are not what they should be.
    """
    crs = parse_crs(crs)
    groups = []
    for group in scene.groups:
        tile = window_of(bbox, crs, group.crs, group.transform, *group.shape[1:])
        if tile is None:
            raise SceneError(f"Scene {scene.id} lies beside the bbox {bbox}; leave it out, or choose another bbox")
        rows, columns = tile.slices
        groups.append(
            replace(
                group,
                sources=tuple(source.isel(y=rows, x=columns) for source in group.sources),
                transform=moved(group.transform, tile),
            )
        )
    return replace(scene, groups=tuple(groups))


def _ignore(stage: str, step: int, steps: int, value: float) -> None:
    pass


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
            blocks=-(-SAMPLE_PIXELS * tile.width * tile.height // (total_pixels * patch**2)),
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
    """Draw blocks without masked pixels from one tile, at any pixel offset, each offset at most once."""
    pixels = task.group.read(task.tile)
    valid = valid_mask(pixels, task.group.nodata)
    stats = BandStats.from_pixels(pixels, valid)
    side = task.patch
    if min(pixels.shape[1:]) < side:
        return Sample(blocks=np.empty((0, len(pixels), side, side), pixels.dtype), stats=stats)
    whole = _without_masked(np.asarray(valid.all(axis=0)), side)
    key = [zlib.crc32(task.scene_id.encode()), zlib.crc32(task.group.name.encode())]
    generator = np.random.default_rng([task.seed, *key, task.tile.row_off, task.tile.col_off])
    offsets = np.flatnonzero(whole)
    chosen = generator.choice(offsets, min(task.blocks, len(offsets)), replace=False)
    rows, columns = np.unravel_index(chosen, whole.shape)
    windows = sliding_window_view(pixels, (side, side), axis=(1, 2))
    return Sample(blocks=np.ascontiguousarray(windows[:, rows, columns].swapaxes(0, 1)), stats=stats)


def _without_masked(valid: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Whether no pixel of the block that begins at (y, x) is masked; shape (height - side + 1, width - side + 1)."""
    for axis in (0, 1):
        valid = np.asarray(sliding_window_view(valid, side, axis=axis).all(axis=-1))
    return valid


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
    if not len(blocks):
        side = blocks.shape[-1]
        raise SceneError(
            f"Group {name}: no block of {side} × {side} pixels carries data in all bands; give other scenes"
        )
    stats = BandStats.empty(len(bands))
    for sample in samples:
        stats = stats.merge(sample.stats)
    if torch.cuda.is_available():
        options = replace(options, device=torch.device("cuda"))
    try:
        with single_threaded():
            chosen = with_settings(presets.get(preset), options.settings)
            fitted = chosen.fit(blocks, options, lambda stage, *rest: report(f"{name}: {stage}", *rest))
    except HarmoniumError:
        raise
    except ValueError as error:
        raise SceneError(f"Group {name}: {error}") from error
    codec = model_file.make_codec(fitted.radiometry, fitted.transform, fitted.prior)
    group = GroupModel(
        preset=preset,
        bands=bands,
        resolution=resolution,
        codec=codec,
        training={**fitted.record, **_chosen(options), "pixels": _describe(stats)},
    )
    return model_file.to_bytes({name: group})


def _chosen(options: FitOptions) -> dict[str, Any]:
    """Settings, where there are some."""
    return {"settings": list(options.settings)} if options.settings else {}


def _describe(stats: BandStats) -> dict[str, Any]:
    """Band statistics as JSON values."""
    return {
        "count": int(stats.count),
        "mean": [round(float(value), 4) for value in stats.mean],
        "deviation": [round(float(value), 4) for value in np.sqrt(np.diag(stats.covariance))],
    }
