"""The figures of the lecture's comparison: what codecs make of pictures, how they learned, and which cells look alike.

Each function draws one figure and writes it as a PNG with a palette. Tiles are drawn at a whole number of points for
each pixel, so that nothing is smoothed; within a figure all have the same grey scale.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from benchmarks.lecture_curves import Curve, distinct, fine_tuning_curve, stage_curves
from benchmarks.lecture_entropy import Grid
from benchmarks.lecture_fits import MACHINES, PRESETS, WHOLE, Fit
from benchmarks.lecture_measure import Measured
from benchmarks.lecture_scenes import Picture
from benchmarks.lecture_tiles import Sheet, save
from harmonium.models.cells import CELL
from harmonium.models.code_distance import nearest, states_apart

BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#2468b4", "#e08214", "#2a8f5d", "#8456a8", "#c0392b", "#8a8a8a"

WINDOWS = {"aero": (288, 152), "aerial": (416, 256)}
"""Row and column where the crop of a picture begins: lines, texture and plain fields together."""

SIDE = 160
"""Side of a crop in pixels."""

QUERIES = {
    "field": (30, 50),
    "edge of a strip": (9, 20),
    "trees": (22, 24),
    "dark wood": (24, 2),
    "road": (55, 14),
    "buildings": (45, 29),
}
"""Cells (row, column) of the picture `aero`."""

NOTES = """\
Thin: single batches of 256 cells. Thick: running means. Variants whose curves coincide are drawn once. Dotted: where a
stage ends. Machines of 16 bits then train their decoders with codes that are searched; the autoencoder sets its step
and the price of a bit anew. That price is in the autoencoder's loss, and so in its dB."""

COLOURS = {
    WHOLE: BLUE,
    "without search": "#74a9dc",
    "without joint, without search": GREEN,
    "random start": ORANGE,
    "random start, without search": ORANGE,
    "pre-trained machines": PURPLE,
    "dithered code, without search": RED,
    "noisy code, without search": "#7a5c3a",
    "Gray code, without search": "#3aa6b9",
}
"""Of variants, the same in all panels."""

_STYLE: dict[Any, Any] = {"font.size": 9, "axes.titlesize": 9.5, "legend.frameon": False}
_APART = 4
"""Rows or columns between a query and the cells that may be found: their surroundings do not overlap."""


def reconstructions(
    path: Path,
    picture: Picture,
    measured: Mapping[str, Mapping[int, Measured]],
    window: tuple[int, int] | None = None,
) -> None:
    """Crops of 160 × 160 pixels as each preset decodes them, the original beside.

    Parameters
    ----------
    path
        PNG to write.
    picture
        One band.
    measured
        By preset, then by ratio; the same ratios for all presets.
    window
        Row and column where the crop begins; None takes `WINDOWS`, or the middle.

    Raises
    ------
    ValueError
        If the picture has several bands, or presets have other ratios than the first.
    """
    ratios = list(next(iter(measured.values()), {}))
    if len(picture.pixels) != 1 or not ratios or any(list(found) != ratios for found in measured.values()):
        raise ValueError(
            f"Expected one band and the same ratios for all presets, found {len(picture.pixels)} bands and "
            f"{ {name: list(found) for name, found in measured.items()} }; measure all presets at all ratios"
        )
    height, width = picture.pixels.shape[1:]
    top, left = window or WINDOWS.get(picture.name, (max(0, height - SIDE) // 2, max(0, width - SIDE) // 2))
    crop = (slice(top, top + SIDE), slice(left, left + SIDE))
    original = picture.pixels[0][crop]
    sheet = Sheet(rows=len(measured), columns=1 + len(ratios), shape=original.shape, zoom=2, grey=original)
    sheet.heading(f"{picture.name}: rows and columns {top} and {left} onwards; dB are those of the whole picture")
    for row, (preset, by_ratio) in enumerate(measured.items()):
        sheet.row_label(row, preset)
        sheet.tile(row, 0, original, "original, 8 bits per pixel")
        for column, (ratio, one) in enumerate(by_ratio.items(), start=1):
            title = f"ratio {ratio}: {one.distortion.psnr:.2f} dB, {one.code_bits:.3g} bits per pixel"
            sheet.tile(row, column, one.decoded[0][crop], title)
    save(sheet.figure, path)


def learning_curves(path: Path, fits: Sequence[Fit]) -> None:
    """Fine-tuning, and the search that follows it, of the variants of each preset, in dB.

    Parameters
    ----------
    path
        PNG to write.
    fits
        Of one rate; those that were not fine-tuned are left out, and those whose curve another one begins with.

    Raises
    ------
    ValueError
        If none was fine-tuned, or one is of several bands with different scales.
    """
    shown = {
        preset: distinct([fine_tuning_curve(fit) for fit in fits if fit.job.preset == preset]) for preset in PRESETS
    }
    if not any(shown.values()):
        raise ValueError("Expected fits that were fine-tuned, found none; give others than those of greedy training")
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 6.1), layout="constrained")
        grid = figure.subplots(2, 3)
        panels = dict(zip(shown, grid.flat, strict=False))
        for preset, curves in shown.items():
            ax = panels[preset]
            for curve in curves:
                _draw(ax, curve, COLOURS.get(curve.label, GREY))
            ax.set(xlabel="updates", ylabel="dB on training batches", title=preset)
        # What is not distortion alone has an axis of its own.
        alike = [ax for preset, ax in panels.items() if preset != "autoencoder" and shown[preset]]
        limits = [ax.get_ylim() for ax in alike]
        for ax in alike:
            ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        panels["autoencoder"].set_ylabel("dB of error and bits together")
        _legend(grid.flat[-1], list(dict.fromkeys(curve.label for curves in shown.values() for curve in curves)))
        figure.supxlabel(NOTES, fontsize=8)
        save(figure, path)


def machine_stages(path: Path, fits: Sequence[Fit]) -> None:
    """Greedy and joint training of each deep Boltzmann machine, whole ones only, each stage in a panel of its own.

    Raises
    ------
    ValueError
        If there is no whole fit of a machine among `fits`.
    """
    stages = {
        fit.job.preset: stage_curves(fit) for fit in fits if fit.job.preset in MACHINES and fit.job.variant == WHOLE
    }
    if not any(stages.values()):
        raise ValueError("Expected whole fits of deep Boltzmann machines, found none; give some")
    with mpl.rc_context({**_STYLE, "font.size": 8}):
        most = max(len(curves) for curves in stages.values())
        figure = Figure(figsize=(1.65 * most, 1.75 * len(stages) + 0.5), layout="constrained")
        for row, (preset, curves) in zip(
            figure.subplots(len(stages), most, squeeze=False), stages.items(), strict=True
        ):
            # Joint training stands in the last column, whatever the depth.
            greedy, joint = [c for c in curves if c.label != "joint"], [c for c in curves if c.label == "joint"]
            for ax in row[len(greedy) : most - len(joint)]:
                ax.set_axis_off()
            for ax, curve in [
                *zip(row, greedy, strict=False),
                *zip(row[most - len(joint) :], joint, strict=True),
            ]:
                _draw(ax, curve, BLUE)
                ax.set(title=curve.label, xlabel="updates", ylim=(0, 1.1 * float(curve.values.max())))
            row[0].set_ylabel(f"{preset}\nmean squared error")
        save(figure, path)


def neighbours(
    path: Path,
    picture: Picture,
    codes: Grid,
    queries: Mapping[str, tuple[int, int]] = QUERIES,
    *,
    codec: str,
    count: int = 8,
    seed: int = 0,
) -> None:
    """Cells of a picture and those whose codes are nearest, with 8 pixels around each.

    The distance is the number of bits that differ, or of states where units have more than two. Cells at the same
    distance are drawn by `seed`. Nearest to a query are cells at least 4 rows or columns away, none of them at the
    picture's edge.

    Parameters
    ----------
    path
        PNG to write.
    picture
        One band, whole cells.
    codes
        (units, rows, columns), of the whole picture.
    queries
        Names of cells, and their row and column in the grid of cells, not at its edge.
    codec
        What the heading calls the codec.
    count
        How many cells are shown for each query.
    seed
        Of the draws among equals.

    Raises
    ------
    ValueError
        If the picture has several bands, codes are not its own, or a query lies at the edge or outside.
    """
    rows, columns = (side // CELL for side in picture.pixels.shape[1:])
    if len(picture.pixels) != 1 or codes.shape[1:] != (rows, columns):
        raise ValueError(
            f"Expected one band and codes of {rows} rows and {columns} columns, found {len(picture.pixels)} bands and "
            f"codes {codes.shape}; give the codes of this picture"
        )
    within = _within(rows, columns)
    bad = {name: at for name, at in queries.items() if min(at) < 1 or at[0] > rows - 2 or at[1] > columns - 2}
    if bad:
        raise ValueError(f"Expected cells inside {rows} rows and {columns} columns, not at the edge, found {bad}")
    side = 3 * CELL
    sheet = Sheet(rows=len(queries), columns=1 + count, shape=(side, side), zoom=4, grey=picture.pixels[0], frame=True)
    unit = "bits" if int(codes.max()) < 2 else "states"
    sheet.heading(f"{picture.name}: cells, and those whose codes of {codec} differ in the fewest {unit}")
    generator = np.random.default_rng(seed)
    for number, (name, (row, column)) in enumerate(queries.items()):
        query, among = codes[:, row, column], within & _far(rows, columns, row, column)
        found = nearest(codes, query, count, distance=states_apart, among=among, generator=generator)
        sheet.row_label(number, name)
        sheet.tile(number, 0, _around(picture, row, column), "query")
        cells = zip(found.rows.tolist(), found.columns.tolist(), found.distances.tolist(), strict=True)
        for place, (y, x, distance) in enumerate(cells, start=1):
            sheet.tile(number, place, _around(picture, y, x), f"{distance} {unit if distance != 1 else unit[:-1]}")
    save(sheet.figure, path)


def _within(rows: int, columns: int) -> NDArray[np.bool_]:
    """Cells (rows, columns) that are not at the edge."""
    within = np.zeros((rows, columns), np.bool_)
    within[1:-1, 1:-1] = True
    return within


def _far(rows: int, columns: int, row: int, column: int) -> NDArray[np.bool_]:
    """Cells (rows, columns) whose surroundings do not overlap those of one."""
    y, x = np.ogrid[:rows, :columns]
    far: NDArray[np.bool_] = np.maximum(abs(y - row), abs(x - column)) >= _APART
    return far


def _around(picture: Picture, row: int, column: int) -> NDArray[Any]:
    """A cell and the eight beside it, (24, 24)."""
    rows, columns = (slice(CELL * (at - 1), CELL * (at + 2)) for at in (row, column))
    return picture.pixels[0, rows, columns]


def _legend(ax: Axes, variants: Sequence[str]) -> None:
    """The variants' colours, in a panel of their own."""
    ax.set_axis_off()
    lines = [Line2D([], [], color=COLOURS.get(variant, GREY), linewidth=1.6) for variant in variants]
    # The panel keeps its width, whatever is written.
    ax.legend(lines, variants, loc="center left", borderaxespad=0).set_in_layout(False)


def _draw(ax: Axes, curve: Curve, colour: str, label: str | None = None) -> None:
    """Recorded values thin and pale, their running mean above; dotted lines where a stage ends."""
    ax.plot(curve.at, curve.values, color=colour, linewidth=0.6, alpha=0.3)
    ax.plot(curve.at, curve.smooth, color=colour, linewidth=1.6, label=label)
    for end in curve.ends:
        ax.axvline(end, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
