"""Archive codecs at their best on scenes of several bands: rate and distortion, Bjøntegaard's delta, bounded errors.

What was measured of a scene by a peer is kept in `--work`: run the same command again to go on where it stopped, or run
it for several scenes side by side and once more for all. Writes rate_distortion.md, .json and .csv, and a figure of
each scene, to `--out`.
"""

import argparse
import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks import archive_scenes, common
from benchmarks.archive_peers import Point, curve, lossy_peers
from benchmarks.archive_scenes import Scene
from benchmarks.bd_rate import DeltaRate, bd_rate
from benchmarks.bounded_peers import BOUNDS, bounded_curve, bounded_peers
from benchmarks.common import Report, Skipped, Table
from harmonium.errors import UsageError

LOW, HIGH = 38.0, 56.0
"""In dB: what the delta is taken over, where both curves cover it."""

LOSSY = {peer.name: peer for peer in lossy_peers()}
BOUNDED = {peer.name: peer for peer in bounded_peers()}
ANCHOR = next(iter(LOSSY))
"""The peer that deltas refer to."""

_SLOW = "effort 9"
"""In the names of peers that are measured only when they are asked for."""

Curves = Mapping[str, Mapping[str, list[Point]]]
"""By scene and peer."""


# --- measuring -----------------------------------------------------------------------------------------------------


def measured(scene: Scene, peer: str, kept: Path) -> list[Point]:
    """What a peer makes of a scene, from that file if it is there, which else is written.

    Raises
    ------
    Skipped
        If the codec is not here.
    """
    if kept.is_file():
        return [Point(**found) for found in json.loads(kept.read_text())]
    points = curve(scene, LOSSY[peer]) if peer in LOSSY else bounded_curve(scene, BOUNDED[peer])
    new = kept.with_suffix(".new")
    new.write_text(json.dumps([asdict(found) for found in points], indent=1) + "\n")
    new.replace(kept)  # a file that is there is whole
    return points


def slug(name: str) -> str:
    """A name for options and files."""
    return name.replace(" + ", "-").replace(" ", "-").replace("(", "").replace(")", "").lower()


# --- tables --------------------------------------------------------------------------------------------------------


def deltas(curves: Curves) -> dict[str, dict[str, DeltaRate]]:
    """By peer and scene, beside the anchor; scenes whose curves have no common range are left out."""
    found: dict[str, dict[str, DeltaRate]] = {}
    for scene, by_peer in curves.items():
        for peer in by_peer:
            if peer == ANCHOR or peer not in LOSSY or ANCHOR not in by_peer:
                continue
            try:
                delta = bd_rate(_rates(by_peer[ANCHOR]), _rates(by_peer[peer]), LOW, HIGH)
            except UsageError:
                continue
            found.setdefault(peer, {})[scene] = delta
    return found


def _rates(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [(found.bits, found.psnr) for found in points if math.isfinite(found.psnr)]


def delta_table(curves: Curves) -> Table:
    """Every scene, and the mean."""
    by_peer = deltas(curves)
    rows = [(scene, *(_delta(found.get(scene)) for found in by_peer.values())) for scene in curves]
    means = []
    for found in by_peer.values():
        percents = [delta.percent for delta in found.values()]
        means.append(f"{sum(percents) / len(percents):+.1f} % of {len(percents)}")
    rows.append(("mean of scenes", *means))
    title = f"Bits beside {ANCHOR}, {LOW:g} to {HIGH:g} dB or what both curves cover of it"
    return Table(title=title, columns=("scene", *by_peer), rows=tuple(rows))


def _delta(delta: DeltaRate | None) -> str:
    if delta is None:
        return "no common range"
    whole = (delta.low, delta.high) == (LOW, HIGH)
    return f"{delta.percent:+.1f} %" + ("" if whole else f" ({delta.low:.1f} to {delta.high:.1f} dB)")


def bounded_table(curves: Curves) -> Table:
    """Bits at each bound."""
    rows = [
        (scene, peer, *(f"{found.bits:.3f}" for found in points))
        for scene, by_peer in curves.items()
        for peer, points in by_peer.items()
        if peer in BOUNDED
    ]
    columns = ("scene", "codec", *(f"{bound} DN" if bound else "exact" for bound in BOUNDS))
    return Table(title="Bits per pixel and band at a largest error, verified", columns=columns, rows=tuple(rows))


# --- files ---------------------------------------------------------------------------------------------------------


def write_csv(path: Path, curves: Curves) -> None:
    """All points; the bound is empty of lossy codecs."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("scene", "codec", "bound_dn", "bytes", "bits", "psnr_db", "max_error_dn"))
        for scene, by_peer in curves.items():
            for peer, points in by_peer.items():
                bounds: Sequence[int | str] = BOUNDS if peer in BOUNDED else [""] * len(points)
                for bound, found in zip(bounds, points, strict=True):
                    values = (found.nbytes, found.bits, found.psnr, found.max_error)
                    writer.writerow((scene, peer, bound, *values))


def draw(path: Path, scene: str, by_peer: Mapping[str, Sequence[Point]]) -> None:
    """PSNR over bits; codecs with a bound dashed, without their exact point."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 5.2), layout="constrained")
        axes = figure.subplots()
        for peer, points in by_peer.items():
            rates = _rates(points)
            if not rates:
                continue
            bits, decibels = zip(*rates, strict=True)
            axes.plot(bits, decibels, "o-" if peer in LOSSY else ".--", label=peer, markersize=4, linewidth=1.2)
        axes.axhspan(LOW, HIGH, color="0.95", zorder=0)
        axes.set(xscale="log", xlabel="bits per pixel and band", ylabel="PSNR, dB", title=scene)
        axes.grid(alpha=0.3, which="both", linewidth=0.5)
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(path, dpi=120)


# --- command -------------------------------------------------------------------------------------------------------

_NOTES = (
    "PSNR of all bands together; peak 10 000 DN of 16-bit scenes, 255 of 8-bit ones. Pixels that were not observed "
    "have the mean of their band for all codecs; neither their errors count nor a mask.",
    "All bytes count but the shape and the type: headers, the range of each plane, mean and matrix of the transform.",
    "KLT: principal components of the bands, of each scene its own, as float32. Each plane is mapped to the codec's "
    "whole range of integers (16 bits; 12 of HEVC and AVIF) and coded at settings about 2 dB apart; the points are the "
    "best choices of settings for planes at one price of a byte.",
    "JPEG 2000: OpenJPEG, one codestream a plane. HEVC: x265 medium, tuned for PSNR, one intra picture a plane; its QP "
    "ends at 0, which wide ranges reach below 56 dB. AVIF: libaom, speed 6, tuned as libavif does. JPEG XL: libjxl, "
    "whose lossy mode aims at what an eye sees; effort 7 where nothing is said.",
    "Codecs without loss keep a bound on pixels rounded to steps of 2 d + 1 before; SZ3 and LERC of floats on pixels "
    "rounded to integers after. Of JPEG XL without loss the smaller of efforts 7 and 9.",
)


def compare(options: argparse.Namespace) -> Report:
    """Measure what is missing, draw, tell."""
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    names = {slug(name): name for name in (*LOSSY, *BOUNDED)}
    curves: dict[str, dict[str, list[Point]]] = {}
    left_out: dict[str, None] = {}
    for name in options.scenes:
        scene = archive_scenes.load(name, options.size)
        for peer in options.peers:
            kept = options.work / f"{name}_{options.size or 'whole'}_{peer}.json"
            try:
                points = measured(scene, names[peer], kept)
            except Skipped as reason:
                left_out[f"{names[peer]} was left out: {reason}."] = None
                continue
            curves.setdefault(name, {})[names[peer]] = points
            print(f"{name}: {names[peer]}", flush=True)
        if name in curves:
            draw(options.out / f"rate_distortion_{name}.png", name, curves[name])
    if not curves:
        raise Skipped(" ".join(left_out) or "neither scenes nor peers were asked for")
    write_csv(options.out / "rate_distortion.csv", curves)
    cut = () if options.size is None else (f"Only the middle {options.size} × {options.size} pixels of each scene.",)
    return Report(
        name="rate_distortion",
        tables=[delta_table(curves), bounded_table(curves)],
        notes=[*_NOTES, *cut, *left_out],
        measured={
            "delta_rate": {
                peer: {scene: asdict(delta) for scene, delta in found.items()} for peer, found in deltas(curves).items()
            },
            "points": {
                scene: {peer: [asdict(found) for found in points] for peer, points in by_peer.items()}
                for scene, by_peer in curves.items()
            },
        },
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, publish."""
    names = [slug(name) for name in (*LOSSY, *BOUNDED)]
    usual = [slug(name) for name in (*LOSSY, *BOUNDED) if _SLOW not in name]
    parser = common.parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("rate-distortion"), help="folder of what was measured, kept")
    parser.add_argument("--scenes", nargs="+", choices=archive_scenes.FILES, default=list(archive_scenes.FILES))
    parser.add_argument("--peers", nargs="+", choices=names, default=usual, help="which codecs")
    parser.add_argument("--size", type=int, help="pixels of a side, from the middle; whole scenes without it")
    common.run(compare, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
