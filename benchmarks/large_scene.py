"""Memory and speed of `harmonium compress` on a scene as large as a Sentinel-2 tile, and of reading windows of it.

The scene is the demo scene (or --scene) mirrored to --size pixels, as one tiled GeoTIFF. It is not compressed unless
asked for, so that the time to read it is the disk's, not another codec's; having just been written, it is in memory.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import GROUP, ROOT, Report, Table, spread, verdict
from benchmarks.processes import Run, compress_command, watch
from harmonium.errors import ClusterError
from harmonium.models.chunk_codec import ChunkCodec
from harmonium.models.presets import FitOptions
from harmonium.models.quality import psnr
from harmonium.pipeline.archive import ArchivedGroup, create_archive
from harmonium.pipeline.cluster import InProcess, Outcome
from harmonium.pipeline.compress import compress
from harmonium.pipeline.model_sources import load_file
from harmonium.pipeline.scene import Scene, open_scene
from harmonium.pipeline.scene_layout import fill_value, grid_of
from harmonium.pipeline.torch_threads import single_threaded

_SCENE = "large"
_GIB = float(1 << 30)
_STEADY = "of these, after the first was stored"
_LIMIT_WORKER_GIB, _LIMIT_CLIENT_GIB, _LIMIT_SPEED, _LIMIT_OTHER, _LIMIT_WINDOW = 1.5, 0.5, 60.0, 40.0, 0.3


class _Counting(InProcess):
    """Counts the tasks that it is handed and runs none of them."""

    tasks = 0

    def map(
        self,
        function: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        *,
        gpu: bool = False,
    ) -> Iterator[Outcome]:
        """See `Executor.map`."""
        for index, _ in enumerate(arguments):
            self.tasks += 1
            yield Outcome(index=index, error=ClusterError("only counted"))


def _count_tasks(scene: Scene, model: Path, folder: Path) -> int:
    """Tasks that compressing the scene submits; the executor submits one to Dask for each it is handed."""
    executor = _Counting()
    for _ in compress(create_archive(folder / "counted.zarr"), [scene], load_file(model), executor):
        pass
    return executor.tasks


def _codec_split(codec: ChunkCodec, scene: Scene, chunks: int) -> dict[str, list[float]]:
    """Seconds to compress, and to decompress, the same chunks one after the other, on one thread."""
    group = scene.group(GROUP)
    grid, fill = grid_of(group), float(fill_value(group))
    whole = [tile for tile in grid.chunks() if tile.width == tile.height == grid.chunk]
    chosen = np.random.default_rng(0).choice(len(whole), min(chunks, len(whole)), replace=False)
    seconds: dict[str, list[float]] = {"compress": [], "decompress": []}
    with single_threaded():
        for number, index in enumerate([chosen[0], *chosen]):
            pixels = group.read(whole[index])
            begun = time.perf_counter()
            payload = codec.compress(pixels, fill).payload
            encoded = time.perf_counter()
            codec.decompress(payload)
            if number:  # the first is for warming up
                seconds["compress"].append(encoded - begun)
                seconds["decompress"].append(time.perf_counter() - encoded)
    return seconds


def _phases(run: Run, group: Path) -> dict[str, float]:
    """Wall seconds of start-up, shards and summaries, by the times of the files that each ends with."""
    # The first overview's metadata is the last file that is written before shards, and never again.
    prepared = min(file.stat().st_mtime for file in group.glob("overview/*/zarr.json"))
    stored = sorted(file.stat().st_mtime for file in group.glob("image/c/*/*/*"))
    return {
        "start": prepared - run.begun,
        "shards": stored[-1] - prepared,
        _STEADY: stored[-1] - stored[0],
        "summaries and end": run.ended - stored[-1],
        "command": run.ended - run.begun,
    }


def _first_megabytes(group: Path, scene: Scene) -> float:
    """Pixels of the shard that was stored first."""
    first = min(group.glob("image/c/*/*/*"), key=lambda file: file.stat().st_mtime)
    tile = grid_of(scene.groups[0]).shard_tile(int(first.parent.name), int(first.name))
    return len(scene.groups[0].bands) * tile.width * tile.height * scene.groups[0].dtype.itemsize / 1e6


def _windows(group: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.windows", str(group)]
    return dict(json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout))


def _walls(run: Run, phases: dict[str, float], first: float) -> Table:
    """Wall time of each phase; `first` is the size of the first shard in MB."""
    megabytes = run.document["pixel_bytes"] / 1e6
    rows = []
    for name, seconds in phases.items():
        rate = (megabytes - first if name == _STEADY else megabytes) / max(seconds, 1e-9)
        shown = "" if name in ("start", "summaries and end") else f"{rate:.1f}"
        limit = (f"≥ {_LIMIT_SPEED:.0f}", verdict(rate >= _LIMIT_SPEED)) if shown else ("", "")
        rows.append((name, f"{seconds:.2f}", shown, *limit))
    return Table(title="Wall time", columns=("phase", "s", "MB/s of pixels", "limit", ""), rows=tuple(rows))


def _parts(run: Run, phases: dict[str, float], split: dict[str, list[float]], workers: int) -> Table:
    """Where the workers' seconds went."""
    spent = run.document["worker_seconds"]
    share = float(np.median(np.array(split["decompress"]) / np.array(split["compress"])))
    available = workers * phases["shards"]
    parts = {
        "read": spent["read"],
        "encode and measure": spent["codec"] * (1 - share),
        "decode": spent["codec"] * share,
        "write": spent["write"],
    }
    parts["other (imports, opening arrays, scheduling, waiting)"] = available - sum(parts.values())
    rows = [(name, f"{seconds:.2f}", f"{100 * seconds / available:.1f}", "", "") for name, seconds in parts.items()]
    for name in ("shards", "command"):
        wall = workers * phases[name]
        percent = 100 * (1 - spent["codec"] / wall)
        limit = (f"< {_LIMIT_OTHER:.0f} %", verdict(percent < _LIMIT_OTHER))
        rows.append((f"all but codec, of {name}", f"{wall - spent['codec']:.2f}", f"{percent:.1f}", *limit))
    return Table(title=f"Seconds of {workers} workers", columns=("part", "s", "%", "limit", ""), rows=tuple(rows))


def _memory(run: Run) -> Table:
    limits = {"worker": _LIMIT_WORKER_GIB, "client": _LIMIT_CLIENT_GIB}
    rows = []
    for peak in sorted(run.peaks.values(), key=lambda peak: peak.role):
        most, limit = max(peak.sampled, peak.kernel) / _GIB, limits.get(peak.role)
        ends = ("", "") if limit is None else (f"< {limit}", verdict(most < limit))
        rows.append((peak.role, f"{peak.sampled / _GIB:.3f}", f"{peak.kernel / _GIB:.3f}", *ends))
    columns = ("process", "sampled GiB", "kernel's high-water mark GiB", "limit", "")
    return Table(title="Peak resident memory", columns=columns, rows=tuple(rows))


def _result(run: Run, archive: Path, shards: int, tasks: int) -> Table:
    group = ArchivedGroup(str(archive), f"scenes/{_SCENE}/{GROUP}")
    quality = group.quality()
    files = [file for file in archive.rglob("*") if file.is_file()]
    stored = sum(file.stat().st_size for file in files)
    pixels = run.document["pixel_bytes"]
    overall = float(psnr(quality.squared_error.sum() / quality.count.sum(), group.peak))
    bands = ", ".join(f"{band} {value:.2f}" for band, value in zip(group.bands, quality.psnr(group.peak), strict=True))
    rows = (
        ("pixels", f"{pixels / 1e6:.1f} MB"),
        ("archive, all its files", f"{stored / 1e6:.2f} MB in {len(files)} files"),
        ("payloads", f"{quality.nbytes / 1e6:.2f} MB, {quality.bits_per_pixel:.3f} bits per pixel and band"),
        ("ratio, pixels to archive", f"{pixels / stored:.1f}"),
        ("PSNR, all bands", f"{overall:.2f} dB (peak {group.peak:g}; {bands})"),
        ("largest error", f"{quality.max_error.max():g} DN"),
        ("tasks per shard", f"{tasks} / {shards} = {tasks / shards:g}"),
    )
    return Table(title="Archive", columns=("what", "measured"), rows=rows)


def _reading(windows: dict[str, Any]) -> Table:
    warm = windows["warm"]
    holds = verdict(float(np.median(warm)) < _LIMIT_WINDOW)
    rows = (
        ("import numpy and xarray", f"{windows['import']:.3f}", "", ""),
        ("xr.open_zarr (finds the codec, which imports torch)", f"{windows['open']:.3f}", "", ""),
        ("first window (loads the model)", f"{windows['first']:.3f}", "", ""),
        (f"{len(warm)} more: median (min–max)", spread(warm, 3), f"< {_LIMIT_WINDOW}", holds),
        ("the slowest of them", f"{max(warm):.3f}", f"< {_LIMIT_WINDOW}", verdict(max(warm) < _LIMIT_WINDOW)),
    )
    title = "Windows of 512 × 512 pixels, all bands, not aligned to chunks, in a new process"
    return Table(title=title, columns=("what", "s", "limit", ""), rows=rows)


def measure(options: argparse.Namespace) -> Report:
    """Make the scene, compress it, read it."""
    source = common.demo_scene() if options.scene is None else open_scene(options.scene)
    with common.work_folder(options.work) as folder:
        model, file, archive = folder / "large.harmonium", folder / f"{_SCENE}.tif", folder / "archive.zarr"
        if archive.exists():
            raise SystemExit(f"{archive} is there already: delete it, or name another folder")
        model.write_bytes(common.fit_or_load(options.model, source, FitOptions(effort=options.effort)).data)
        common.write_mirrored(source, options.size, file, options.compression)
        scene = open_scene(file, scene_id=_SCENE)
        tasks = _count_tasks(scene, model, folder)
        run = watch(compress_command(file, archive, model, options.workers))
        group = archive / "scenes" / _SCENE / GROUP
        phases, first = _phases(run, group), _first_megabytes(group, scene)
        split = _codec_split(load_file(model).groups[GROUP].codec, scene, options.side_chunks)
        windows = _windows(group)
        archived = _result(run, archive, run.document["shards_made"], tasks)
    speed, spent = _walls(run, phases, first), _parts(run, phases, split, options.workers)
    measured = {"phases": phases, "worker_seconds": run.document["worker_seconds"], "codec_seconds": split}
    peaks = [asdict(peak) for peak in run.peaks.values()]
    return Report(
        name="large_scene",
        tables=[speed, spent, _memory(run), archived, _reading(windows)],
        notes=_notes(options, split, scene),
        measured={**measured, "peaks": peaks, "windows": windows},
    )


def _notes(options: argparse.Namespace, split: dict[str, list[float]], scene: Scene) -> tuple[str, ...]:
    group = scene.group(GROUP)
    megabytes = len(group.bands) * grid_of(group).chunk ** 2 * group.dtype.itemsize / 1e6
    sides = ", ".join(f"{name} {spread([megabytes / s for s in values], 1)}" for name, values in split.items())
    return (
        f"Scene of {options.size} × {options.size} pixels, {options.workers} local workers, float32; GeoTIFF "
        f"compression {options.compression}, in the page cache. Limits are those for 10980 × 10980 and 2 workers.",
        "Start: imports, cluster, metadata. Shards: from there to the last one stored; in the first of them every "
        "worker imports what it needs. Every chunk is decoded again and measured before it is written.",
        f"Codec by itself, one thread, {len(split['compress'])} chunks, MB/s: {sides}; compress includes decoding. The "
        "share of decoding in the workers' codec seconds is taken from there.",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, publish."""
    parser = common.parser(__doc__)
    parser.add_argument("--size", type=int, default=10980, help="rows and columns of the scene")
    parser.add_argument("--scene", type=Path, help="scene to mirror, of 10 m bands [the demo scene]")
    parser.add_argument("--model", type=Path, help="model file [a real-rbm fitted to the scene that is mirrored]")
    parser.add_argument("--compression", choices=("none", "deflate", "zstd"), default="none", help="of the GeoTIFF")
    parser.add_argument("--workers", type=int, default=2, help="local workers")
    parser.add_argument("--work", type=Path, help="folder for scene and archive, which stay [a temporary one]")
    parser.add_argument("--side-chunks", type=int, default=16, help="chunks to split the codec's seconds on")
    common.run(measure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
