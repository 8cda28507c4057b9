"""Archive codecs at their best on scenes of several bands: rate and distortion, Bjøntegaard's delta, bounded errors.

What was measured of a scene by a peer is kept in `--work`: run the same command again to go on where it stopped, or run
it for several scenes side by side and once more for all. Writes rate_distortion.md, .json and .csv, and a figure of
each scene, to `--out`.
"""

import argparse
import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks import archive_scenes, common, transform_models
from benchmarks.archive_peers import Point, curve
from benchmarks.archive_scenes import Scene
from benchmarks.bd_rate import DeltaRate
from benchmarks.bounded_peers import BOUNDS, bounded_curve
from benchmarks.common import Report, Skipped
from benchmarks.rate_tables import (
    ANCHORS,
    BOUNDED,
    HIGH,
    LOSSY,
    LOW,
    OURS,
    OURS_BOUNDED,
    Curves,
    bounded_table,
    delta_table,
    deltas,
    is_lossy,
    rates,
    shares,
    shares_table,
)
from benchmarks.transform_peers import transform_bounded, transform_curve

PEERS = (*LOSSY, OURS, *BOUNDED, OURS_BOUNDED)
"""Names of all codecs."""

_COLUMNS = 5
_STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}

_SLOW = "effort 9"
"""In the names of peers that are measured only when they are asked for."""


# --- measuring -----------------------------------------------------------------------------------------------------


def measured(scene: Scene, peer: str, kept: Path, model: bytes | None) -> list[Point]:
    """What a peer makes of a scene, from that file if it is there, which else is written; `model` is of our own codec.

    Raises
    ------
    Skipped
        If the codec is not here.
    """
    if kept.is_file():
        return [Point(**found) for found in json.loads(kept.read_text())]
    if model is not None:
        codec = transform_models.codec(model, scene.pixels.dtype.name, len(scene.pixels), scene.peak)
        points = transform_curve(scene, codec, LOW, HIGH) if peer == OURS else transform_bounded(scene, codec)
    else:
        points = curve(scene, LOSSY[peer]) if peer in LOSSY else bounded_curve(scene, BOUNDED[peer])
    new = kept.with_suffix(".new")
    new.write_text(json.dumps([asdict(found) for found in points], indent=1) + "\n")
    new.replace(kept)  # a file that is there is whole
    return points


def own_model(scene: str, peer: str, folder: Path | None) -> bytes | None:
    """The model of our codec that has not seen the scene; None of all other codecs.

    Raises
    ------
    Skipped
        If it is not here.
    """
    if peer not in (OURS, OURS_BOUNDED):
        return None
    if folder is None:
        raise Skipped("--models names no folder of models")
    return transform_models.of_fold(folder, scene)


def slug(name: str) -> str:
    """A name for options and files."""
    return name.replace(" + ", "-").replace(" ", "-").replace("(", "").replace(")", "").lower()


# --- files ---------------------------------------------------------------------------------------------------------


def write_csv(path: Path, curves: Curves) -> None:
    """All points; the bound is empty of lossy codecs."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("scene", "codec", "bound_dn", "bytes", "bits", "psnr_db", "max_error_dn"))
        for scene, by_peer in curves.items():
            for peer, points in by_peer.items():
                bounds: Sequence[int | str] = [""] * len(points) if is_lossy(peer) else BOUNDS
                for bound, found in zip(bounds, points, strict=True):
                    values = (found.nbytes, found.bits, found.psnr, found.max_error)
                    writer.writerow((scene, peer, bound, *values))


def draw(path: Path, scene: str, by_peer: Mapping[str, Sequence[Point]]) -> None:
    """PSNR over bits; codecs with a bound dashed, without their exact point."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 5.2), layout="constrained")
        axes = figure.subplots()
        _draw_scene(axes, scene, by_peer)
        axes.set(xlabel="bits per pixel and band", ylabel="PSNR, dB")
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(path, dpi=120)


def draw_all(path: Path, curves: Curves) -> None:
    """Lossy codecs on all scenes, small."""
    lossy = {scene: {peer: found for peer, found in by.items() if is_lossy(peer)} for scene, by in curves.items()}
    rows = -(-len(lossy) // _COLUMNS)
    with mpl.rc_context(_STYLE | {"font.size": 7}):
        figure = Figure(figsize=(11, 2.4 * rows), layout="constrained")
        grid = figure.subplots(rows, _COLUMNS, squeeze=False)
        for axes in grid.flat[len(lossy) :]:
            axes.set_axis_off()
        for axes, (scene, by_peer) in zip(grid.flat, lossy.items(), strict=False):
            _draw_scene(axes, scene, by_peer)
            axes.set_ylim(LOW - 2, HIGH + 4)
            axes.xaxis.set_minor_formatter(NullFormatter())
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        figure.supxlabel("bits per pixel and band")
        figure.supylabel("PSNR, dB")
        figure.savefig(path, dpi=90)


def _draw_scene(axes: Axes, scene: str, by_peer: Mapping[str, Sequence[Point]]) -> None:
    for peer, points in by_peer.items():
        drawn = rates(points)
        if not drawn:
            continue
        bits, decibels = zip(*drawn, strict=True)
        axes.plot(bits, decibels, "o-" if is_lossy(peer) else ".--", label=peer, markersize=3, linewidth=1.1)
    axes.axhspan(LOW, HIGH, color="0.95", zorder=0)
    axes.set(xscale="log", title=scene)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)


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

_OWN_NOTES = (
    "harmonium: the model of the fold in which the scene, its neighbours and its other dates were left out; one step "
    "for the whole scene; chunks of 512 pixels, all bytes of their payloads, decoded from these.",
)


def compare(options: argparse.Namespace) -> Report:
    """Measure what is missing, draw, tell."""
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    names = {slug(name): name for name in PEERS}
    curves: dict[str, dict[str, list[Point]]] = {}
    left_out: dict[str, None] = {}
    for name in options.scenes:
        scene = archive_scenes.load(name, options.size)
        for peer in options.peers:
            try:
                model = own_model(name, names[peer], options.models)
                # What another model gave is measured anew.
                identity = "" if model is None else f"_{hashlib.sha256(model).hexdigest()[:12]}"
                kept = options.work / f"{name}_{options.size or 'whole'}_{peer}{identity}.json"
                points = measured(scene, names[peer], kept, model)
            except Skipped as reason:
                left_out[f"{names[peer]} was left out: {reason}."] = None
                continue
            curves.setdefault(name, {})[names[peer]] = points
            print(f"{name}: {names[peer]}", flush=True)
        if name in curves:
            draw(options.out / f"rate_distortion_{name}.png", name, curves[name])
    if not curves:
        raise Skipped(" ".join(left_out) or "neither scenes nor peers were asked for")
    if any(is_lossy(peer) for by_peer in curves.values() for peer in by_peer):
        draw_all(options.out / "rate_distortion.png", curves)
    write_csv(options.out / "rate_distortion.csv", curves)
    cut = () if options.size is None else (f"Only the middle {options.size} × {options.size} pixels of each scene.",)
    return _report(curves, [*_NOTES, *(_OWN_NOTES if options.models else ()), *cut, *left_out])


def _report(curves: Curves, notes: Sequence[str]) -> Report:
    by_anchor = {anchor: deltas(curves, anchor) for anchor in ANCHORS}
    tables = [delta_table(curves, anchor) for anchor, found in by_anchor.items() if found]
    if any(not is_lossy(peer) for by_peer in curves.values() for peer in by_peer):
        tables.append(bounded_table(curves))
    if shares(curves):
        tables.append(shares_table(curves))
    return Report(
        name="rate_distortion",
        tables=tables,
        notes=notes,
        measured={
            "delta_rate": {anchor: _plain(found) for anchor, found in by_anchor.items()},
            "share_of_best_at_bounds": shares(curves),
            "points": {
                scene: {peer: [asdict(found) for found in points] for peer, points in by_peer.items()}
                for scene, by_peer in curves.items()
            },
        },
    )


def _plain(found: Mapping[str, Mapping[str, DeltaRate]]) -> dict[str, dict[str, Any]]:
    return {peer: {scene: asdict(delta) for scene, delta in by_scene.items()} for peer, by_scene in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, publish."""
    names = [slug(name) for name in PEERS]
    usual = [slug(name) for name in PEERS if _SLOW not in name]
    parser = common.parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("rate-distortion"), help="folder of what was measured, kept")
    parser.add_argument("--models", type=Path, help="folder of fold_A.harmonium, …, to measure our codec with")
    parser.add_argument("--scenes", nargs="+", choices=archive_scenes.FILES, default=list(archive_scenes.FILES))
    parser.add_argument("--peers", nargs="+", choices=names, default=usual, help="which codecs")
    parser.add_argument("--size", type=int, help="pixels of a side, from the middle; whole scenes without it")
    common.run(compare, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
