"""Small archives, made in this process by models that are put together by hand."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonium.models import model_file
from harmonium.models.model_file import GroupModel, ModelFile
from harmonium.models.radiometry import Radiometry
from harmonium.models.targets import Target
from harmonium.models.transform_codec import TransformCodec
from harmonium.pipeline import compress as pipeline_compress
from harmonium.pipeline.archive import Archive, create_archive
from harmonium.pipeline.cluster import Executor, InProcess
from harmonium.pipeline.compress import SceneDone, SceneFailed, ShardDone, StepFound
from harmonium.pipeline.scene import Scene

from .tiny_models import by_hand, smooth_pixels, untrained

Event = StepFound | ShardDone | SceneFailed | SceneDone


@cache
def hand_made(bands: int = 2, dtype: str = "uint16", resolution: float | None = 10.0, group: str = "r10m") -> ModelFile:
    """A model for bands B01, B02, ... in one group."""
    return model_file.make(
        {
            group: GroupModel(
                preset="real-rbm",
                bands=tuple(f"B{band + 1:02}" for band in range(bands)),
                resolution=resolution,
                codec=by_hand(bands, dtype),
                training={"held_out": {"psnr_db": 30.0, "bits_per_pixel": 0.5}},
            )
        }
    )


@cache
def any_rate(bands: int = 2, dtype: str = "uint16", group: str = "r10m", peak: float = 10_000.0) -> ModelFile:
    """A model that takes targets, of untrained networks, for bands B01, B02, ... in one group."""
    radiometry = Radiometry(dtype=dtype, offset=(0.0,) * bands, scale=(1.0,) * bands, peak=peak)
    made = GroupModel(
        preset="transform",
        bands=tuple(f"B{band + 1:02}" for band in range(bands)),
        resolution=None,
        codec=TransformCodec(radiometry=radiometry, model=untrained()),
        training={},
    )
    return model_file.make({group: made})


def pixels(shape: tuple[int, int, int], dtype: str = "uint16", seed: int = 0, hole: int | None = None) -> NDArray[Any]:
    """Smooth pixels (band, y, x); with a `hole` value in a corner, whose edge cuts through cells."""
    made = smooth_pixels(shape, dtype, seed)
    if hole is not None:
        made[:, : shape[1] // 3, : shape[2] // 3] = hole
    return made


def compress(
    url: Path | str,
    scenes: Sequence[Scene],
    model: ModelFile,
    executor: Executor | None = None,
    target: Target | None = None,
) -> tuple[Archive, list[Event]]:
    """What `harmonium compress` does, and what it reports."""
    pipeline_compress.check_scenes(scenes, model, target)
    archive = create_archive(url)
    pipeline_compress.check_archive(archive, scenes, model, target)
    return archive, list(pipeline_compress.compress(archive, scenes, model, executor or InProcess(), target))


@contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """A Dask client of worker processes; on any free port, so that test runs stand side by side."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


def shards_made(events: Sequence[Event]) -> int:
    return sum(isinstance(event, ShardDone) for event in events)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def shard_files(archive: Path) -> list[Path]:
    """Every shard of every image."""
    return sorted(path for path in archive.glob("scenes/*/*/image/c/**/*") if path.is_file())


def decoded_in_one_piece(
    model: ModelFile, scene_pixels: NDArray[Any], chunk: int, fill: float, target: Target | None = None
) -> NDArray[Any]:
    """What a scene decodes to, chunk by chunk without Zarr, archive or Dask."""
    codec = next(iter(model.groups.values())).codec
    bands, height, width = scene_pixels.shape
    decoded = np.empty_like(scene_pixels)
    for row in range(0, height, chunk):
        for column in range(0, width, chunk):
            piece = scene_pixels[:, row : row + chunk, column : column + chunk]
            padded = np.full((bands, chunk, chunk), fill, scene_pixels.dtype)
            padded[:, : piece.shape[1], : piece.shape[2]] = piece
            back = codec.compress(padded, fill, target).decoded
            decoded[:, row : row + chunk, column : column + chunk] = back[:, : piece.shape[1], : piece.shape[2]]
    return decoded
