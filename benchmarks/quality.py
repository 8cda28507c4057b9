"""Rate and distortion on pixels that no training saw, JPEG 2000 and two orientation numbers beside them.

rate    the demo scene: fitted on its western half, measured on the chunks wholly east of it, as `harmonium demo`
apart   fitted on one scene, measured on another of the same sensor and another place
stages  what each stage of a training brings: the same fit with stages left out
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from benchmarks.common import GROUP, Report, Skipped, Table, verdict
from benchmarks.measured import Measured, archived, overall, peer
from benchmarks.orientation import gaussian_bound, principal_components
from harmonium.models import contrastive_divergence, fine_tuning
from harmonium.models.code_prior import PackedBits, StaticTables
from harmonium.models.codec import Codec
from harmonium.models.model_file import ModelFile
from harmonium.models.presets import FitOptions
from harmonium.models.quality import Quality, psnr
from harmonium.models.quality import measure as compare
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.scene_layout import grid_of

_LIMIT_FIT, _LIMIT_PSNR, _LIMIT_BITS = 120.0, 43.0, 1.0


# --- rate ----------------------------------------------------------------------------------------------------------


def rate(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """The demo scene at several rates."""
    scene = common.demo_scene(options.size)
    group = scene.groups[0]
    _, height, width = group.shape
    trained = -(-width // 2)
    west = common.crop(scene, Tile(col_off=0, row_off=0, width=trained, height=height))
    side = grid_of(group).chunk
    first = -(-trained // side)
    if first * side >= width:
        raise Skipped(f"no whole chunk lies east of column {trained}; take --size of at least {2 * side}")
    unseen = group.read(Tile(col_off=first * side, row_off=0, width=width - first * side, height=height))
    rows, priors, fits, raw = [], [], [], {}
    for bits in options.bits:
        begun = time.perf_counter()
        model = common.fit_or_load(None, west, FitOptions(bits=bits, effort=options.effort))
        seconds = time.perf_counter() - begun
        ours = archived(scene, model, first)
        theirs = peer(unseen, group, ours.quality.bits_per_pixel)
        rows += [_row(f"real-rbm, --bits {bits:g}", ours.quality, ours.peak), _row("JPEG 2000", theirs, ours.peak)]
        priors.append(_prior_row(bits, model, ours))
        fits.append(_fit_row(bits, seconds, ours))
        raw[f"{bits:g}"] = {"seconds": seconds, "bits": ours.quality.bits_per_pixel, "psnr": ours.psnr}
        raw[f"{bits:g}"]["jpeg2000"] = overall(theirs, ours.peak)
    rows += _orientation(common.read_all(west.groups[0]), unseen, ours.peak)
    per_band = [f"{band} dB" for band in group.bands]
    named = ("codec", "bits per pixel and band", "all bands dB", *per_band, "max error DN")
    title = f"Demo scene, unseen {unseen.shape[2]} × {unseen.shape[1]} pixels, peak {ours.peak:g}"
    same_codes = "The same codes under other priors, bits per pixel and band"
    prior_columns = ("fit", "stored", "static tables", "fixed length", "fixed length, states that occur")
    goal = f"≥ {_LIMIT_PSNR:.0f} dB at ≤ {_LIMIT_BITS:g} bit"
    fit_columns = ("fit", "s", f"≤ {_LIMIT_FIT:.0f} s", "all bands dB", goal)
    tables = [
        Table(title=title, columns=named, rows=tuple(rows)),
        Table(title=same_codes, columns=prior_columns, rows=tuple(priors)),
        Table(title="Limits", columns=fit_columns, rows=tuple(fits)),
    ]
    return tables, raw


def _row(name: str, quality: Quality, peak: float) -> tuple[str, ...]:
    bands = [f"{value:.2f}" for value in quality.psnr(peak)]
    largest = f"{quality.max_error.max():g}"
    return name, f"{quality.bits_per_pixel:.4f}", f"{overall(quality, peak):.2f}", *bands, largest


def _prior_row(bits: float, model: ModelFile, ours: Measured) -> tuple[str, ...]:
    """Sizes of the same codes; payload headers and masks belong to what is stored only."""
    codec = model.groups[GROUP].codec
    pixels = int(ours.quality.count.sum())
    assert isinstance(codec, Codec)
    prior = codec.prior
    assert isinstance(prior, StaticTables)
    occurring = PackedBits((ours.codes.max(axis=1) - ours.codes.min(axis=1) + 1).tolist())
    cells = ours.codes.shape[1]
    sizes = [prior.bits(ours.codes), PackedBits(prior.states).bits_per_cell * cells, occurring.bits_per_cell * cells]
    return f"--bits {bits:g}", f"{ours.quality.bits_per_pixel:.4f}", *(f"{size / pixels:.4f}" for size in sizes)


def _fit_row(bits: float, seconds: float, ours: Measured) -> tuple[str, ...]:
    holds = ours.psnr >= _LIMIT_PSNR and ours.quality.bits_per_pixel <= _LIMIT_BITS
    return f"--bits {bits:g}", f"{seconds:.1f}", verdict(seconds <= _LIMIT_FIT), f"{ours.psnr:.2f}", verdict(holds)


def _orientation(learn: NDArray[Any], unseen: NDArray[Any], peak: float) -> list[tuple[str, ...]]:
    """64 principal components of 16 states, and bounds for Gaussian sources, all at 1 bit."""
    decoded, cut = principal_components(learn, unseen, components=64, states=16)
    quality = compare(cut, decoded, np.ones(cut.shape, np.bool_), cut.size // 8)
    components = _row("64 principal components × 16 states", quality, peak)
    bounds = []
    for half, pixels in (("unseen", unseen), ("trained", learn)):
        bound = float(psnr(np.array(gaussian_bound(pixels, bits=1.0)), peak))
        empty = ("" for _ in unseen)
        bounds.append((f"Gaussian bound, covariance of the {half} half", f"{1:.4f}", f"{bound:.2f}", *empty, ""))
    return [components, *bounds]


# --- apart ---------------------------------------------------------------------------------------------------------

_PAIRS = (
    ("sentinel-2-l1c/virginia/virginia_10m.tif", "sentinel-2-l1c/t33uub/t33uub_10m.tif", ("real-rbm",)),
    (
        "aerial-rgb/2019_yell_2_528000_4978000_image_crop2.tif",
        "aerial-rgb/2019_yell_2_541000_4977000_image_crop.tif",
        ("real-rbm", "binary-rbm"),
    ),
)
"""Scenes of one sensor and different places: fitted on, measured on, presets."""


def apart(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Whole scenes apart."""
    rows: list[tuple[str, ...]] = []
    raw = {}
    for learn, test, presets in _PAIRS:
        fitted_on = common.shared_scene(learn, "learn", options.size)
        scene = common.shared_scene(test, "test", options.size)
        group = scene.groups[0]
        pixels = common.read_all(group)
        for preset in presets:
            model = common.fit_or_load(None, fitted_on, FitOptions(effort=options.effort), preset)
            ours = archived(scene, model)
            theirs = peer(pixels, group, ours.quality.bits_per_pixel)
            cells = [_short(learn), _short(test), preset, f"{ours.quality.bits_per_pixel:.4f}", f"{ours.psnr:.2f}"]
            cells += [f"{ours.quality.max_error.max():g}", f"{overall(theirs, ours.peak):.2f}"]
            cells += [f"{theirs.max_error.max():g}", f"{ours.peak:g}"]
            rows.append(tuple(cells))
            raw[f"{preset}: {_short(learn)} to {_short(test)}"] = [ours.quality.bits_per_pixel, ours.psnr]
    ours_columns = ("fitted on", "measured on", "codec", "bits per pixel and band", "dB", "max error DN")
    columns = (*ours_columns, "JPEG 2000 dB", "JPEG 2000 max error DN", "peak")
    return [Table(title="Another scene of the same sensor", columns=columns, rows=tuple(rows))], raw


def _short(path: str) -> str:
    return Path(path).stem


# --- stages --------------------------------------------------------------------------------------------------------


def _no_training(*_: Any, **__: Any) -> Any:
    return iter(())


_STAGES = (
    ("no training", True, True),
    ("contrastive divergence only", False, True),
    ("fine-tuning only", True, False),
    ("both", False, False),
)
"""Name; whether contrastive divergence, and whether fine-tuning, is left out."""


def stages(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """The same fit with stages left out, by handing the preset trainings that take no step."""
    demo = common.demo_scene(options.size)
    _, height, width = demo.groups[0].shape
    # Halves as scenes of their own; the seam is at the middle, to whole cells.
    middle = -(-width // 16) * 8
    cases: list[tuple[str, Callable[[], tuple[Scene, Scene]]]] = [
        (
            "real-rbm",
            lambda: (
                common.crop(demo, Tile(col_off=0, row_off=0, width=middle, height=height)),
                common.crop(demo, Tile(col_off=middle, row_off=0, width=width - middle, height=height)),
            ),
        ),
        ("binary-rbm", lambda: _aerial(options.size)),
    ]
    rows, raw, skipped = [], {}, []
    for preset, scenes in cases:
        try:
            learn, test = scenes()
        except Skipped as reason:
            skipped.append((preset, f"skipped: {reason}", "", "", ""))
            continue
        for name, without_cd, without_tuning in _STAGES:
            ours = archived(test, _fit_without(learn, preset, options.effort, without_cd, without_tuning))
            rows.append((preset, name, f"{ours.quality.bits_per_pixel:.4f}", f"{ours.psnr:.2f}", f"{ours.peak:g}"))
            raw[f"{preset}: {name}"] = [ours.quality.bits_per_pixel, ours.psnr]
    columns = ("preset", "stages", "bits per pixel and band", "dB", "peak")
    return [Table(title="What each stage brings, on unseen pixels", columns=columns, rows=(*rows, *skipped))], raw


def _aerial(size: int | None) -> tuple[Scene, Scene]:
    learn, test, _ = _PAIRS[1]
    return common.shared_scene(learn, "learn", size), common.shared_scene(test, "test", size)


def _fit_without(scene: Scene, preset: str, effort: float, without_cd: bool, without_tuning: bool) -> ModelFile:
    with ExitStack() as replaced:
        if without_cd:
            replaced.enter_context(patch.object(contrastive_divergence, "train", _no_training))
        if without_tuning:
            replaced.enter_context(patch.object(fine_tuning, "fine_tune", _no_training))
        return common.fit_or_load(None, scene, FitOptions(effort=effort), preset)


# --- command -------------------------------------------------------------------------------------------------------

_NOTES = (
    "Bits are those of the payloads in an archive, headers and masks included; errors are measured by decoding them.",
    "JPEG 2000: OpenJPEG through GDAL, one tile, irreversible wavelet, all bands in one file, at most the same bits.",
    "Principal components: learned on the trained half, each quantised uniformly over its range there, 4 bits each. "
    "Gaussian bound: reverse water-filling of a half's own covariance of 8 × 8 pixels of all bands, known to both "
    "sides; what uses more than this covariance may pass it.",
    "Fixed length: ceil(log2 states) bits a unit, of all states that the model has, or of the range that occurs.",
    "Left out: Landsat 8 has no second scene of the same bands; NAIP and Bouconne are one place at several dates.",
)


def measure(options: argparse.Namespace) -> Report:
    """The parts that were asked for; one whose scenes are absent says so."""
    tables: list[Table] = []
    measured: dict[str, Any] = {}
    skipped = []
    for part in options.parts:
        try:
            more, measured[part] = _PARTS[part](options)
        except Skipped as reason:
            skipped.append(f"{part} skipped: {reason}")
            continue
        tables += more
    return Report(name="quality", tables=tables, notes=[*skipped, *_NOTES], measured=measured)


_PARTS: dict[str, Callable[[argparse.Namespace], tuple[list[Table], dict[str, Any]]]] = {
    "rate": rate,
    "apart": apart,
    "stages": stages,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, publish."""
    parser = common.parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=tuple(_PARTS), default=list(_PARTS), help="what to measure")
    parser.add_argument("--bits", nargs="+", type=float, default=[0.25, 0.5, 1.0], help="rates of the part `rate`")
    parser.add_argument("--size", type=int, help="only the upper left SIZE × SIZE pixels of every scene")
    common.run(measure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
