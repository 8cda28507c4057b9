"""Speed of the `transform` codec beside OpenJPEG at equal PSNR, all cores at work in both, and its memory.

    python -m benchmarks.throughput --model rate-distortion/models/fold_A.harmonium

Every process has its share of a scene's chunks and runs both codecs on them, in turn within each repeat; ratios are
those of the same repeat, so that what else the machine does slows both.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import archive_scenes, common, throughput_memory
from benchmarks.archive_scenes import Scene
from benchmarks.common import Report, Table, spread
from benchmarks.throughput_crew import DIRECTIONS, OURS, PEER, Crew, crew
from benchmarks.transform_peers import CHUNK

_CLOSE = 0.05
"""Difference of PSNR that is left between the two, in dB, or as small as their knobs allow."""

_TRIALS = 12


# --- equal PSNR ----------------------------------------------------------------------------------------------------


def knob_for(psnr_at: Callable[[float], float], wanted: float, low: float, high: float) -> tuple[float, float]:
    """Knob between two whose PSNR comes closest to what is wanted, by halving, and the PSNR; it rises with the knob."""
    best = (low, float("inf"))
    for _ in range(_TRIALS):
        middle = (low + high) / 2
        found = psnr_at(middle)
        if abs(found - wanted) < abs(best[1] - wanted):
            best = (middle, found)
        if abs(found - wanted) <= _CLOSE:
            break
        low, high = (middle, high) if found < wanted else (low, middle)
    return best


def equal_knobs(working: Crew, scene: Scene, decibels: float) -> dict[str, tuple[float, float]]:
    """Knob and PSNR of both codecs: ours about as wanted, the other's as ours."""

    def psnr_at(name: str, knob: float) -> float:
        working.encode(name, knob)
        return working.decode(name)[1]

    guess = np.log2(scene.peak) - decibels / 6.02 + np.log2(np.sqrt(12.0))
    place, reached = knob_for(lambda negative: psnr_at(OURS, 2.0**-negative), decibels, -guess - 3, -guess + 2)
    # OpenJPEG's PSNR refers to the type's whole range.
    shift = 20 * np.log10(np.iinfo(scene.pixels.dtype).max / scene.peak)
    level = knob_for(lambda knob: psnr_at(PEER, knob), reached, reached + shift - 3, reached + shift + 3)
    return {OURS: (float(2.0**-place), reached), PEER: level}


# --- timing --------------------------------------------------------------------------------------------------------


def timed(working: Crew, knobs: dict[str, tuple[float, float]], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each repeat, by codec and direction; the first one warms up and is left out."""
    seconds: dict[str, dict[str, list[float]]] = {name: {way: [] for way in DIRECTIONS} for name in knobs}
    for repeat in range(repeats + 1):
        # Each goes first in turn.
        for name in sorted(knobs, reverse=repeat % 2 == 1):
            encoding, _ = working.encode(name, knobs[name][0])
            decoding, _ = working.decode(name)
            if repeat:
                seconds[name]["encode"].append(encoding)
                seconds[name]["decode"].append(decoding)
    return seconds


def measure_scene(scene: Scene, model: bytes, options: argparse.Namespace) -> dict[str, Any]:
    """Numbers of one scene."""
    with crew(scene, model, options.processes, options.chunks) as working:
        knobs = equal_knobs(working, scene, options.decibels)
        sizes = {name: working.encode(name, knob)[1] for name, (knob, _) in knobs.items()}
        seconds = timed(working, knobs, options.repeats)
        megabytes = working.megabytes
    return {
        "megabytes": megabytes,
        "psnr_db": {name: psnr for name, (_, psnr) in knobs.items()},
        "knob": {name: knob for name, (knob, _) in knobs.items()},
        "bytes": sizes,
        "mb_per_s": {
            name: {way: [megabytes / each for each in values] for way, values in by_way.items()}
            for name, by_way in seconds.items()
        },
        "ratio": {
            way: [theirs / ours for ours, theirs in zip(seconds[OURS][way], seconds[PEER][way], strict=True)]
            for way in DIRECTIONS
        },
    }


# --- tables --------------------------------------------------------------------------------------------------------


def speed_table(found: dict[str, dict[str, Any]]) -> Table:
    """A row for each scene and codec."""
    rows = [
        (
            scene,
            name,
            f"{numbers['megabytes']:.1f}",
            f"{numbers['psnr_db'][name]:.2f}",
            f"{1e6 * numbers['megabytes'] / numbers['bytes'][name]:.1f}",
            *(spread(numbers["mb_per_s"][name][way]) for way in DIRECTIONS),
        )
        for scene, numbers in found.items()
        for name in (OURS, PEER)
    ]
    columns = ("scene", "codec", "MB", "PSNR, dB", "ratio", *(f"{way}, MB/s" for way in DIRECTIONS))
    return Table(title="Speed, MB of native pixels a second, median (min–max)", columns=columns, rows=tuple(rows))


def ratio_table(found: dict[str, dict[str, Any]]) -> Table:
    """Paired ratios."""
    rows = [(scene, *(spread(numbers["ratio"][way], 3) for way in DIRECTIONS)) for scene, numbers in found.items()]
    title = f"{OURS}'s speed as a share of {PEER}'s in the same repeat, median (min–max)"
    return Table(title=title, columns=("scene", *DIRECTIONS), rows=tuple(rows))


def measure(options: argparse.Namespace) -> Report:
    """All scenes, then memory."""
    model, found = options.model.read_bytes(), {}
    for name in options.scenes:
        found[name] = measure_scene(archive_scenes.load(name, options.size), model, options)
        print(f"{name}: done", flush=True)
    tables = [speed_table(found), ratio_table(found)]
    measured: dict[str, Any] = {"scenes": found}
    if options.window:
        scene = archive_scenes.load(options.scenes[0], options.size)
        step = found[options.scenes[0]]["knob"][OURS]
        peaks = throughput_memory.measure(scene, model, options.window, step)
        tables.append(throughput_memory.table(peaks, scene, options.window))
        measured["memory"] = peaks
    notes = (
        f"{options.processes} processes, each with one thread and its share of the chunks of {CHUNK} × {CHUNK} pixels; "
        f"{options.repeats} repeats after one to warm up, both codecs in each. Reading and writing files is not timed.",
        f"{OURS} decodes and measures every chunk as it encodes it, so that encode contains decode; {PEER} does not. "
        f"{PEER}: one codestream for each band of a chunk, irreversible, one quality layer.",
    )
    return Report(name="throughput", tables=tables, notes=notes, measured=measured)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, publish."""
    parser = common.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    scenes = ["virginia-10m", "virginia-20m", "landsat8-15m", "naip-5m"]
    add = parser.add_argument
    add("--model", type=Path, required=True, help="of `benchmarks.train_transform`")
    add("--scenes", nargs="+", choices=archive_scenes.FILES, default=scenes, help=f"[{' '.join(scenes)}]")
    add("--size", type=int, help="pixels of a side, from the middle; whole scenes without it")
    add("--chunks", type=int, help="of each scene, at most [all]")
    add("--decibels", type=float, default=45.0, help="PSNR to compare at [45]")
    add("--repeats", type=int, default=5, help="of every measurement [5]")
    add("--processes", type=int, default=os.cpu_count() or 1, help="that code at once [one a core]")
    add("--window", type=int, default=4096, help="side of the window whose memory is measured; 0 for none [4096]")
    common.run(measure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
