"""Pictures that show what compression did to a scene."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Pixels = NDArray[Any]
"""(band, y, x), native DN."""


def reconstruction(
    path: Path,
    original: Pixels,
    decoded: Pixels,
    *,
    bands: tuple[str, ...],
    rgb: tuple[int, int, int],
    psnr_db: tuple[float, ...],
    bits_per_pixel: float,
    peer: str,
    title: str,
) -> None:
    """Original, reconstruction and error map side by side, with the numbers of every band below.

    Parameters
    ----------
    path
        PNG to write.
    original, decoded
        The window to show, of the same shape.
    bands, psnr_db
        Names of the bands and the PSNR of each, in dB.
    rgb
        Indices of the bands that are shown as red, green and blue.
    bits_per_pixel
        Bits per pixel and band.
    peer
        One line about another codec at the same bits.
    title
        What is shown.
    """
    figure = Figure(figsize=(13.5, 5.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    low, high = np.percentile(original[list(rgb)], (1, 99))
    for axes, pixels, name in (
        (left, original, "original"),
        (middle, decoded, f"{bits_per_pixel:.3f} bits per pixel and band"),
    ):
        stretched = (pixels[list(rgb)].astype(np.float64) - low) / max(high - low, 1e-9)
        axes.imshow(np.moveaxis(stretched.clip(0, 1), 0, -1), interpolation="nearest")
        axes.set_title(name)
    error = np.abs(original.astype(np.float64) - decoded).max(axis=0)
    shown = right.imshow(error, cmap="magma", vmin=0, vmax=float(np.percentile(error, 99.5)) or 1.0)
    right.set_title("largest absolute error of all bands")
    figure.colorbar(shown, ax=right, label="DN", shrink=0.8)
    for axes in (left, middle, right):
        axes.set_xticks([])
        axes.set_yticks([])
    numbers = "   ".join(f"{band} {psnr:.2f} dB" for band, psnr in zip(bands, psnr_db, strict=True))
    figure.suptitle(title)
    figure.supxlabel(f"{numbers}\n{peer}", fontsize=10)
    figure.savefig(path, dpi=110)
