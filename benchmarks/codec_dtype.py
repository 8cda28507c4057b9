"""Codec speed with the linear layers in float32 against bfloat16, what bfloat16 costs, and where a chunk's time goes.

Everything but the linear layers stays in float32: with fewer digits, state numbers and sums of error would be wrong.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import common
from benchmarks.common import GROUP, Report, Table, spread
from harmonium.models.cell_transform import CellTransform
from harmonium.models.cells import from_cells, to_cells
from harmonium.models.codec import Codec
from harmonium.models.presets import FitOptions
from harmonium.models.quality import Quality, psnr
from harmonium.models.quality import measure as compare
from harmonium.models.radiometry import Pixels
from harmonium.pipeline.grid import TileGrid

_FILL = 0.0
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


class _Bfloat16(nn.Module):
    """A linear layer that multiplies in bfloat16, between float32 before and after."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.Linear`."""
        product: Tensor = self.layer(x.to(torch.bfloat16))
        return product.float()


def _in_bfloat16(codec: Codec) -> Codec:
    """A copy of the codec whose linear layers compute in bfloat16."""
    transform = copy.deepcopy(codec.transform)
    assert isinstance(transform, CellTransform)
    for layers in (transform.net.encoder, transform.net.decoder):
        for index, layer in enumerate(layers):
            assert isinstance(layer, nn.Linear)
            layers[index] = _Bfloat16(layer)
    return replace(codec, transform=transform)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(chunks: Sequence[Pixels], codecs: dict[str, Codec], repeats: int) -> dict[str, dict[str, list[float]]]:
    """MB/s of pixels, once per repeat; in each, every chunk passes through all codecs in turn."""
    speeds: dict[str, dict[str, list[float]]] = {name: {"compress": [], "decompress": []} for name in codecs}
    megabytes = sum(chunk.nbytes for chunk in chunks) / 1e6
    for repeat in range(repeats + 1):
        seconds = {name: [0.0, 0.0] for name in codecs}
        for chunk in chunks:
            for name, codec in codecs.items():
                begun = time.perf_counter()
                payload = codec.compress(chunk, _FILL).payload
                encoded = time.perf_counter()
                codec.decompress(payload)
                seconds[name][0] += encoded - begun
                seconds[name][1] += time.perf_counter() - encoded
        if repeat:  # the first is for warming up
            for name, spent in seconds.items():
                for direction, each in zip(("compress", "decompress"), spent, strict=True):
                    speeds[name][direction].append(megabytes / each)
    return speeds


def _quality(chunks: Sequence[Pixels], codec: Codec) -> Quality:
    total, *others = [codec.compress(chunk, _FILL).quality for chunk in chunks]
    for quality in others:
        total = total.merge(quality)
    return total


@torch.inference_mode()
def _steps(codec: Codec, pixels: Pixels) -> dict[str, float]:
    """Seconds of the steps that `Codec.compress` takes for a chunk without masked pixels, one after the other."""
    transform, (bands, height, width) = codec.transform, pixels.shape
    assert isinstance(transform, CellTransform)
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = step()
        seconds[name] = time.perf_counter() - begun
        return result

    values = timed("normalise", lambda: codec.radiometry.normalise(pixels))
    cells = timed("to cells", lambda: to_cells(values))
    states = timed("network up", lambda: transform.net.encode(cells).T.contiguous().numpy())
    data = timed("entropy encode", lambda: codec.prior.encode(states))
    codes = timed("entropy decode", lambda: codec.prior.decode(data, states.shape[1]))
    decoded = timed("network down", lambda: transform.net.decode(torch.from_numpy(codes).T))
    planes = timed("from cells", lambda: from_cells(decoded, bands, height, width).contiguous())
    native = timed("restore", lambda: codec.radiometry.restore(planes))
    valid = np.ones(pixels.shape, np.bool_)
    timed("measure", lambda: compare(pixels, native, valid, len(data)))
    begun = time.perf_counter()
    codec.compress(pixels, _FILL)
    whole = time.perf_counter() - begun
    seconds["rest: mask, checks, packing"] = whole - sum(seconds.values())
    return seconds


def _step_table(chunks: Sequence[Pixels], codecs: dict[str, Codec], repeats: int) -> Table:
    """Medians over all chunks and repeats, in milliseconds."""
    names = tuple(codecs)
    runs = {name: [_steps(codec, chunk) for _ in range(repeats) for chunk in chunks] for name, codec in codecs.items()}
    rows = [
        (step, *(f"{1e3 * np.median([run[step] for run in runs[name]]):.2f}" for name in names))
        for step in runs[names[0]][0]
    ]
    totals = (f"{1e3 * np.median([sum(run.values()) for run in runs[name]]):.2f}" for name in names)
    title = f"One chunk's compress on one thread, ms, {chunks[0].nbytes / 1e6:.2f} MB of pixels"
    return Table(title=title, columns=("step", *names), rows=(*rows, ("compress", *totals)))


def _flags() -> str:
    cpu_info = Path("/proc/cpuinfo")
    known = cpu_info.read_text().split() if cpu_info.is_file() else []
    return ", ".join(f"{flag} {'yes' if flag in known else 'no'}" for flag in _FLAGS)


def measure(options: argparse.Namespace) -> Report:
    """Fit, then time both kinds of layers side by side."""
    scene = common.demo_scene(options.size)
    group = scene.groups[0]
    model = common.fit_or_load(options.model, scene, FitOptions(effort=options.effort))
    codec = model.groups[GROUP].codec
    assert isinstance(codec, Codec)
    codecs = {"float32": codec, "bfloat16": _in_bfloat16(codec)}
    grid = TileGrid(height=group.shape[1], width=group.shape[2], chunk=options.chunk)
    whole = [tile for tile in grid.chunks() if tile.width == tile.height == options.chunk]
    chunks = [group.read(tile) for tile in whole[: options.chunks]]
    rows, measured = [], {}
    for threads in options.threads:
        with _threads(threads):
            speeds = _timed(chunks, codecs, options.repeats)
        measured[f"{threads} threads"] = speeds
        for name, by_direction in speeds.items():
            rows.append((str(threads), name, *(spread(values, 1) for values in by_direction.values())))
    costs = []
    with _threads(1):
        for name, each in codecs.items():
            quality = _quality(chunks, each)
            decibel = float(psnr(quality.squared_error.sum() / quality.count.sum(), codec.radiometry.peak))
            costs.append((name, f"{quality.bits_per_pixel:.4f}", f"{decibel:.3f}", f"{quality.max_error.max():g}"))
        steps = _step_table(chunks, codecs, options.repeats)
    tables = [
        Table(title="MB/s of pixels", columns=("threads", "linear layers", "compress", "decompress"), rows=tuple(rows)),
        Table(title="Cost", columns=("layers", "bits per pixel and band", "dB", "max error DN"), rows=tuple(costs)),
        steps,
    ]
    notes = (
        f"{len(chunks)} chunks of {options.chunk} × {options.chunk} pixels, {options.repeats} repeats after one to "
        "warm up; median (min–max). Compress includes decoding again and measuring.",
        f"The processor has: {_flags()}.",
        "The model was fitted in float32, on the same scene: speed is measured here, not quality on unseen pixels.",
    )
    return Report(name="codec_dtype", tables=tables, notes=notes, measured=measured)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, publish."""
    parser = common.parser(__doc__)
    parser.add_argument("--model", type=Path, help="model file with 10 m bands of Sentinel-2 [a real-rbm fitted here]")
    parser.add_argument("--size", type=int, help="only the upper left SIZE × SIZE pixels of the demo scene")
    parser.add_argument("--chunk", type=int, default=512, help="side of a chunk in pixels")
    parser.add_argument("--chunks", type=int, default=9, help="how many chunks")
    parser.add_argument("--repeats", type=int, default=7, help="how often each is timed")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="torch's threads")
    common.run(measure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
