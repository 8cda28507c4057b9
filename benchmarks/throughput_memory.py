"""The memory of coding a large window chunk by chunk, each direction in a new process."""

from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import transform_models
from benchmarks.archive_scenes import Scene
from benchmarks.common import Table
from benchmarks.transform_peers import CHUNK
from harmonium.models.targets import Step
from harmonium.pipeline.grid import Tile, TileGrid
from harmonium.pipeline.torch_threads import single_threaded

_MIB = float(1 << 20)


def high_water() -> int:
    """The most memory that this process has had resident, in bytes."""
    status = Path("/proc/self/status").read_text()
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def tiles(size: int) -> Iterator[Tile]:
    """Chunks of the window."""
    return TileGrid(height=size, width=size, chunk=CHUNK).chunks()


def mirrored(pixels: NDArray[Any], tile: Tile) -> NDArray[Any]:
    """A chunk of the scene (band, y, x), mirrored at its edges as often as it takes."""
    index = []
    for place, length in zip(tile.slices, pixels.shape[1:], strict=True):
        within = np.arange(place.start, place.stop) % (2 * length)
        index.append(np.where(within < length, within, 2 * length - 1 - within))
    return pixels[:, index[0]][:, :, index[1]]


def encode(connection: Connection, scene: Scene, model: bytes, size: int, step: float) -> None:
    """Sends memory before and at the most, and the payloads."""
    codec = transform_models.codec(model, scene.pixels.dtype.name, len(scene.pixels), scene.peak)
    before = high_water()
    with single_threaded():
        found = [codec.compress(mirrored(scene.pixels, tile), float("nan"), Step(step)).payload for tile in tiles(size)]
    connection.send((before, high_water(), found))


def decode(connection: Connection, scene: Scene, model: bytes, size: int, payloads: list[bytes]) -> None:
    """Sends memory before and at the most, and nothing else; the window is put together."""
    codec = transform_models.codec(model, scene.pixels.dtype.name, len(scene.pixels), scene.peak)
    bands, before = len(scene.pixels), high_water()
    window = np.empty((bands, size, size), scene.pixels.dtype)
    with single_threaded():
        for tile, payload in zip(tiles(size), payloads, strict=True):
            rows, columns = tile.slices
            window[:, rows, columns] = codec.decompress(payload, (bands, tile.height, tile.width))
    connection.send((before, high_water(), None))


def measure(scene: Scene, model: bytes, size: int, step: float) -> dict[str, dict[str, int]]:
    """Bytes before and at the most, of encoding and of decoding."""
    before, most, payloads = _in_new_process(encode, scene, model, size, step)
    found = {"encode": {"before": before, "most": most}}
    before, most, _ = _in_new_process(decode, scene, model, size, payloads)
    return found | {"decode": {"before": before, "most": most}}


def _in_new_process(function: Any, *arguments: Any) -> Any:
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def table(peaks: dict[str, dict[str, int]], scene: Scene, size: int) -> Table:
    """Both directions."""
    rows = [
        (way, f"{found['before'] / _MIB:.0f}", f"{found['most'] / _MIB:.0f}", f"{_grown(found):.0f}")
        for way, found in peaks.items()
    ]
    pixels = len(scene.pixels) * size**2 * scene.pixels.dtype.itemsize / _MIB
    title = (
        f"Resident memory of one process, MiB: {size} × {size} × {len(scene.pixels)} {scene.pixels.dtype}, "
        f"{pixels:.0f} MiB of pixels, chunk by chunk; decoded into one array"
    )
    return Table(title=title, columns=("direction", "before", "at the most", "more"), rows=tuple(rows))


def _grown(found: dict[str, int]) -> float:
    return (found["most"] - found["before"]) / _MIB
