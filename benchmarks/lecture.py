"""The lecture's five codecs, trained and measured on the same pictures, beside JPEG, JPEG 2000 and vector quantisers.

Trained on NAIP, the larger aerial picture, Landsat 8 and Sentinel-2 of Virginia; measured on pictures from elsewhere.
Fits are kept in `--work`: run the same command again to go on where it stopped. Writes lecture.md, .json and .csv, and
figures, to `--out`.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common, lecture_figures, lecture_fits, lecture_peers, lecture_scenes, lecture_throughput
from benchmarks.common import Report, Table, verdict
from benchmarks.lecture_fits import MACHINES, PRESETS, RATIOS, SENTINEL_BITS, WHOLE, Fit, Job
from benchmarks.lecture_measure import Distortion, Measured, codes_of, distortion, measure
from benchmarks.lecture_quantisers import best_quantiser, load_faiss
from benchmarks.lecture_scenes import Picture
from benchmarks.orientation import gaussian_bound
from harmonium.models.quality import psnr

_GOALS = {32: {"aero": 25.0, "aerial": 21.5}, 16: {"aero": 27.0, "aerial": 23.5}, 2: {"aero": 38.0}}
"""By ratio and picture, what the best codec of fixed length has to reach, in dB."""

_BINARY_GOAL = 24.0
"""What `binary-dbm` has to reach on aero at ratio 32, in dB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A codec on a picture, with what tables and figures say of it."""

    picture: str
    codec: str
    variant: str
    bits: float
    """Asked for, per pixel and band."""

    used: float | None
    """Bits per pixel and band: of the code section, or of a peer's whole file; None of a bound."""

    static: float | None
    neighbour: float | None
    """Of the same codes, entropy-coded."""

    container: int | None
    """Bytes of the payload besides the codes."""

    distortion: Distortion


# --- measuring -----------------------------------------------------------------------------------------------------


def measured_fit(job: Job, folder: Path, effort: float) -> list[tuple[Row, Measured]]:
    """A fit on each of its pictures."""
    codec = lecture_fits.load(job, folder, effort).codec
    windows = lecture_scenes.sentinel_windows() if job.sentinel else lecture_scenes.training_windows()
    learn = [codes_of(codec, window) for window in windows]
    found = []
    for picture in lecture_scenes.sentinel_pictures() if job.sentinel else lecture_scenes.pictures():
        result = measure(codec, picture, learn)
        row = Row(
            picture=picture.name,
            codec=job.preset,
            variant=job.variant,
            bits=job.bits,
            used=result.code_bits,
            static=result.static_bits,
            neighbour=result.neighbour_bits,
            container=result.container_bytes,
            distortion=result.distortion,
        )
        found.append((row, result))
    return found


def measured_peers(folder: Path) -> Iterator[Row]:
    """The peers on the pictures of 8 bits, at all ratios."""
    pictures = lecture_scenes.pictures()
    for bits in RATIOS.values():
        quantiser = best_quantiser(round(64 * bits), folder)
        for picture in pictures:
            row = partial(_peer_row, picture, bits)
            decoded, code_bits = quantiser.code(picture.pixels)
            yield row(f"vector quantiser ({quantiser.name})", decoded, code_bits)
            for name, peer in (("JPEG", lecture_peers.jpeg), ("JPEG 2000", lecture_peers.jpeg2000)):
                decoded, nbytes = peer(picture.pixels, bits)
                yield row(name, decoded, 8 * nbytes)
            error = gaussian_bound(picture.pixels, bits=bits)
            yield Row(
                picture=picture.name,
                codec="Gaussian bound",
                variant="",
                bits=bits,
                used=None,
                static=None,
                neighbour=None,
                container=None,
                distortion=Distortion(psnr=float(psnr(np.array(error), picture.peak))),
            )


def measured_sentinel_peers(rates: Sequence[float]) -> Iterator[Row]:
    """JPEG 2000 on the pictures of Sentinel-2, each band a file of its own, at rates in bits per pixel and band."""
    for picture in lecture_scenes.sentinel_pictures():
        for bits in rates:
            decoded, nbytes = lecture_peers.jpeg2000_per_band(picture.pixels, bits)
            yield _peer_row(picture, bits, "JPEG 2000 per band", decoded, 8 * nbytes)


def _peer_row(picture: Picture, bits: float, name: str, decoded: Any, used: int) -> Row:
    return Row(
        picture=picture.name,
        codec=name,
        variant="",
        bits=bits,
        used=used / picture.pixels.size,
        static=None,
        neighbour=None,
        container=None,
        distortion=distortion(picture, decoded),
    )


# --- tables --------------------------------------------------------------------------------------------------------


def rate_tables(rows: Sequence[Row]) -> list[Table]:
    """For each ratio all codecs on both pictures."""
    columns = ["codec", "bits per pixel"]
    for name in ("aero", "aerial"):
        columns += [f"{name} dB", f"{name} static tables", f"{name} neighbours"]
    tables = []
    for ratio, bits in sorted(RATIOS.items(), reverse=True):
        at_rate = [row for row in rows if row.bits == bits and row.variant in (WHOLE, "")]
        lines = []
        for codec in dict.fromkeys(row.codec for row in at_rate):
            cells = {row.picture: row for row in at_rate if row.codec == codec}
            used = {_bits(row.used) for row in cells.values()}
            line = [codec, " / ".join(sorted(used))]
            for name in ("aero", "aerial"):
                row = cells[name]
                line += [f"{row.distortion.psnr:.2f}", _bits(row.static), _bits(row.neighbour)]
            lines.append(tuple(line))
        title = f"Ratio {ratio}: {bits:g} bits per pixel"
        tables.append(Table(title=title, columns=tuple(columns), rows=tuple(lines)))
    return tables


def stage_table(rows: Sequence[Row], fits: dict[Job, Fit]) -> Table:
    """What each stage brings, at the lowest rate."""
    bits = min(RATIOS.values())
    lines = []
    for job, fit in fits.items():
        if job.sentinel or job.bits != bits:
            continue
        found = {
            row.picture: row for row in rows if (row.codec, row.variant, row.bits) == (job.preset, job.variant, bits)
        }
        decibels = [f"{found[name].distortion.psnr:.2f}" for name in ("aero", "aerial")]
        rate = _bits(found["aero"].used)
        lines.append((job.preset, job.variant, rate, *decibels, f"{fit.record['seconds']:.0f}"))
    lines.sort(key=lambda line: (PRESETS.index(line[0]), line[1] != WHOLE))
    columns = ("preset", "stages", "aero bits per pixel", "aero dB", "aerial dB", "s of one core")
    return Table(title=f"What stages bring, at {bits:g} bits per pixel", columns=columns, rows=tuple(lines))


def sentinel_table(rows: Sequence[Row]) -> Table:
    """Sentinel-2 at 10 m, four bands."""
    lines = []
    for row in rows:
        assert row.distortion.spectral_angle is not None
        assert row.distortion.ndvi_error is not None
        quality = (f"{row.distortion.spectral_angle:.2f}", f"{row.distortion.ndvi_error:.4f}")
        bits = (_bits(row.used), _bits(row.static), _bits(row.neighbour))
        lines.append((row.picture, row.codec, *bits, f"{row.distortion.psnr:.2f}", *quality))
    bits_columns = ("bits per pixel and band", "static tables", "neighbours")
    columns = ("picture", "codec", *bits_columns, "dB (10 000 DN)", "spectral angle °", "NDVI error")
    return Table(title="Sentinel-2, 4 bands of 10 m", columns=columns, rows=tuple(lines))


def goal_table(rows: Sequence[Row]) -> Table:
    """What had to be reached, by codes of fixed length."""
    lines = []
    fixed = [row for row in rows if row.codec in PRESETS and row.codec != "autoencoder" and row.variant == WHOLE]
    for ratio, goals in _GOALS.items():
        for name, goal in goals.items():
            at_rate = [row for row in fixed if (row.bits, row.picture) == (RATIOS[ratio], name)]
            if at_rate:  # `--presets` may have left all of them out
                best = max(at_rate, key=lambda row: row.distortion.psnr)
                lines.append(_goal_line(f"best, ratio {ratio}, {name}", best, goal))
    own = [row for row in fixed if (row.codec, row.bits, row.picture) == ("binary-dbm", RATIOS[32], "aero")]
    lines += [_goal_line("binary-dbm, ratio 32, aero", row, _BINARY_GOAL) for row in own]
    return Table(title="Goals", columns=("what", "codec", "dB", "asked", ""), rows=tuple(lines))


def _goal_line(what: str, row: Row, goal: float) -> tuple[str, ...]:
    found = row.distortion.psnr
    return what, row.codec, f"{found:.2f}", f"≥ {goal:g}", verdict(found >= goal)


def container_table(rows: Sequence[Row]) -> Table:
    """How long payloads are beside their codes."""
    sizes: dict[tuple[str, int], None] = {}
    for row in rows:
        if row.container is not None:
            kind = "4 bands of 16 bits" if row.distortion.ndvi_error is not None else "1 band of 8 bits"
            sizes[kind, row.container] = None
    lines = tuple((kind, str(size)) for kind, size in sizes)
    return Table(title="Bytes of a chunk's payload besides its codes", columns=("pixels", "bytes"), rows=lines)


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".rstrip("0").rstrip(".")


# --- command -------------------------------------------------------------------------------------------------------

_NOTES = (
    "Codes of fixed length, one cell of 8 × 8 pixels by itself; `autoencoder` alone is entropy-coded (static tables).",
    "Bits are those of the code section; of JPEG and JPEG 2000 those of the whole file, at most what is asked for.",
    "static tables, neighbours: bits per pixel (and band) that the same codes need with asymmetric numeral systems, "
    "one table for each code unit, or one for each unit and context of four neighbouring cells; learned on windows of "
    "the training pictures, and not counted.",
    "Vector quantiser: the best at that rate of those that k-means trains (benchmarks.lecture_quantisers), chosen on "
    "cells of the training pictures.",
    "Gaussian bound: reverse water-filling of the picture's own covariance of 8 × 8 pixels, known to both sides.",
    "Both pictures seem to have been JPEG files before they were published: at one quality JPEG gives them back nearly "
    "as they are, and more bits gain nothing.",
    "A preset's own random start goes through the same fine-tuning; `greedy only` and `greedy and joint` are unrolled "
    "machines as they are.",
)


def compare(options: argparse.Namespace) -> Report:
    """Fit, measure, draw."""
    # What is not here is said at once, before hours of training.
    for needed in (lecture_scenes.pictures, lecture_scenes.sentinel_pictures, lecture_scenes.training_windows):
        needed()
    load_faiss()
    options.out.mkdir(parents=True, exist_ok=True)
    todo = [job for job in lecture_fits.jobs() if job.preset in options.presets]
    fits = lecture_fits.fit_all(todo, options.work, options.effort, options.processes)
    read = partial(measured_fit, folder=options.work, effort=options.effort)
    context = get_context("spawn")
    with ProcessPoolExecutor(
        options.processes, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        results = dict(zip(todo, pool.map(read, todo), strict=True))
    ours = [row for job in todo if not job.sentinel for row, _ in results[job]]
    theirs = list(measured_peers(options.work))
    sentinel = [row for job in todo if job.sentinel for row, _ in results[job]]
    sentinel.sort(key=lambda row: row.picture)
    sentinel += measured_sentinel_peers([SENTINEL_BITS])
    _draw(options.out, fits, results)
    speed_options = lecture_throughput.parser().parse_args([])
    throughput, speeds = lecture_throughput.tables(speed_options)
    rows = [*ours, *theirs, *sentinel]
    _write_csv(options.out / "lecture.csv", rows)
    tables = [
        *rate_tables([*ours, *theirs]),
        goal_table(ours),
        stage_table(ours, fits),
        sentinel_table(sentinel),
        container_table(rows),
        *throughput,
    ]
    stages = {
        job.name: [fit.record["stages"], fit.record["held_out"], fit.record["seconds"]] for job, fit in fits.items()
    }
    notes = (*_NOTES, *lecture_throughput.verdicts(speeds), *lecture_throughput.NOTES)
    return Report(name="lecture", tables=tables, notes=notes, measured={"fits": stages, "throughput": speeds})


def _draw(folder: Path, fits: dict[Job, Fit], results: dict[Job, list[tuple[Row, Measured]]]) -> None:
    names = dict.fromkeys(job.preset for job in fits if not job.sentinel)
    for index, picture in enumerate(lecture_scenes.pictures()):
        decoded = {
            name: {ratio: results[Job(preset=name, bits=bits)][index][1] for ratio, bits in sorted(RATIOS.items())}
            for name in names
        }
        lecture_figures.reconstructions(folder / f"lecture_{picture.name}.png", picture, decoded)
    # The longest codes tell the most cells apart.
    longest = Job(preset="binary-dbm", bits=max(RATIOS.values()))
    if longest in results:
        codes = results[longest][0][1].codes
        path, codec = folder / "lecture_neighbours.png", f"{longest.preset}, {len(codes)} bits"
        lecture_figures.neighbours(path, lecture_scenes.pictures()[0], codes, codec=codec)
    at_lowest = [fit for job, fit in fits.items() if not job.sentinel and job.bits == min(RATIOS.values())]
    lecture_figures.learning_curves(folder / "lecture_learning.png", at_lowest)
    if any(fit.job.preset in MACHINES for fit in at_lowest):
        lecture_figures.machine_stages(folder / "lecture_stages.png", at_lowest)


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        head = (
            "picture",
            "codec",
            "variant",
            "bits_asked",
            "bits",
            "bits_static",
            "bits_neighbours",
            "container_bytes",
        )
        writer.writerow((*head, "psnr_db", "spectral_angle_deg", "ndvi_error"))
        for row in rows:
            given = (row.picture, row.codec, row.variant, row.bits, row.used, row.static, row.neighbour, row.container)
            found = row.distortion
            writer.writerow((*given, found.psnr, found.spectral_angle, found.ndvi_error))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, publish."""
    parser = common.parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("lecture-fits"), help="folder of the fits, kept")
    parser.add_argument("--processes", type=int, default=2, help="fits and measurements side by side, a thread each")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="which codecs")
    common.run(compare, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
