"""Sheets of picture tiles, at whole points for each pixel, and small PNGs."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from harmonium.models.cells import CELL

DPI = 100
"""Points to an inch, in all figures."""

_FRAME = "#e08214"


class Sheet:
    """Tiles of one size in rows and columns, at whole points, with a title above each and names at the left."""

    _TITLE, _GAP, _HEADING = 26, 10, 28
    """Points above a tile, between tiles, and above all."""

    def __init__(
        self, *, rows: int, columns: int, shape: tuple[int, int], zoom: int, grey: NDArray[Any], frame: bool = False
    ) -> None:
        """Tiles of `shape` pixels; `grey` is what the grey scale is stretched to; `frame` marks the middle cell."""
        self._shape, self._zoom, self._frame = shape, zoom, frame
        self._low, self._high = np.percentile(grey, (0.5, 99.5))
        self._height, self._width = (zoom * side for side in shape)
        self._left = self._GAP + 18
        wide = self._left + columns * (self._width + self._GAP)
        self._high_points = self._HEADING + rows * (self._height + self._TITLE) + self._GAP
        self._wide_points = wide
        self.figure = Figure(figsize=(wide / DPI, self._high_points / DPI), dpi=DPI)

    def heading(self, text: str) -> None:
        """A line above all tiles."""
        self._text(self._left, self._HEADING / 2 + 2, text, ha="left", va="center", fontsize=11)

    def row_label(self, row: int, text: str) -> None:
        """The name of a row, from below upwards."""
        self._text(self._left / 2, self._top(row) + self._height / 2, text, ha="center", va="center", rotation=90)

    def tile(self, row: int, column: int, image: NDArray[Any], title: str) -> None:
        """An image (y, x) in its place; one that is smaller than the sheet's tiles is not stretched."""
        left, top = self._left + column * (self._width + self._GAP), self._top(row)
        height, width = (self._zoom * side for side in image.shape)
        total = self._high_points
        ax = self.figure.add_axes(
            (left / self._wide_points, 1 - (top + height) / total, width / self._wide_points, height / total)
        )
        ax.imshow(image, cmap="gray", vmin=self._low, vmax=self._high, interpolation="nearest", aspect="auto")
        ax.set_axis_off()
        if self._frame:
            corner = (CELL - 0.5, CELL - 0.5)
            ax.add_patch(Rectangle(corner, CELL, CELL, fill=False, edgecolor=_FRAME, linewidth=1.2))
        self._text(left + self._width / 2, top - 5, title, ha="center", va="bottom", fontsize=9)

    def _top(self, row: int) -> int:
        return self._HEADING + row * (self._height + self._TITLE) + self._TITLE

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text(x / self._wide_points, 1 - y / self._high_points, text, **style)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG with a palette."""
    FigureCanvasAgg(figure)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
