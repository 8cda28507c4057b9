"""What the lecture's codecs learn from, and the pictures from elsewhere that they are measured on.

Pictures of 8 bits are coded band by band. What has 16 bits goes into their training, too, band by band, its 0.1 to 99.9
percentiles stretched over 8 bits. Sentinel-2 is learned and measured with its four bands of 10 m together.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from benchmarks.common import Skipped, shared_file
from harmonium.models.cells import CELL

_AERIAL = ("aerial-rgb/2019_yell_2_528000_4978000_image_crop2.tif",)
_NAIP = tuple(f"naip/n_dakota/n_dakota_{date}_5m.tif" for date in ("20090818", "20140720", "20180716"))
_LANDSAT = tuple(f"landsat-8/virginia_cloudy/virginia_cloudy_{side}m.tif" for side in (15, 30))
_SENTINEL = ("sentinel-2-l1c/virginia/virginia_10m.tif",)
_SHARES = ((_AERIAL, 0.45), (_NAIP, 0.3), (_LANDSAT, 0.1), (_SENTINEL, 0.15))
"""Files, and how much of the cells for 8 bits comes from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Something to measure on."""

    name: str
    """What tables call it."""

    pixels: NDArray[Any]
    """(band, y, x), native type, whole cells."""

    peak: float
    """Range that PSNR refers to, in DN."""


def pictures() -> list[Picture]:
    """One band of 8 bits each: neither was trained on, nor lies beside what was.

    Raises
    ------
    Skipped
        If one is not here.
    """
    try:
        import pywt
    except ImportError as error:
        raise Skipped("the picture `aero` comes with PyWavelets; pip install '.[peers]'") from error
    green = read("aerial-rgb/2019_yell_2_541000_4977000_image_crop.tif")[1:2]
    return [
        Picture(name="aero", pixels=whole_cells(pywt.data.aero()[None]), peak=255.0),
        Picture(name="aerial", pixels=whole_cells(green), peak=255.0),
    ]


def sentinel_pictures() -> list[Picture]:
    """Four bands of 10 m each, places that were not trained on."""
    files = {"t33uub": "sentinel-2-l1c/t33uub/t33uub_10m.tif", "spyndex": "sentinel-2-l2a/spyndex/spyndex_10m.tif"}
    return [Picture(name=name, pixels=whole_cells(read(file)), peak=10_000.0) for name, file in files.items()]


def training_pictures() -> list[tuple[NDArray[np.uint8], float]]:
    """Single bands (y, x) of 8 bits, and the share of the training's cells that comes from each."""
    found = []
    for files, share in _SHARES:
        bands = [to_8_bits(band) for file in files for band in read(file)]
        area = sum(band.size for band in bands)
        found += [(band, share * band.size / area) for band in bands]
    return found


def training_cells(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """`count` cells (cells, 1, 8, 8) from anywhere in the pictures of 8 bits, in random order."""
    generator = np.random.default_rng(seed)
    cells = [cells_at_random(band[None], round(count * share), generator) for band, share in training_pictures()]
    mixed: NDArray[np.uint8] = generator.permutation(np.concatenate(cells))
    return mixed


def sentinel_cells(count: int, seed: int = 0) -> NDArray[np.uint16]:
    """`count` cells (cells, 4, 8, 8) from anywhere in the Sentinel-2 scene that is trained on, in random order."""
    return cells_at_random(read(_SENTINEL[0]), count, np.random.default_rng(seed))


def training_windows(side: int = 384) -> list[NDArray[np.uint8]]:
    """The middle `side` × `side` pixels (1, side, side) of one band of each file that is trained on as 8 bits."""
    files = [file for files, _ in _SHARES for file in files]
    return [_middle(to_8_bits(read(file)[-1])[None], side) for file in files]


def sentinel_windows(side: int = 1024) -> list[NDArray[np.uint16]]:
    """The middle `side` × `side` pixels (4, side, side) of the Sentinel-2 scene that is trained on."""
    return [_middle(read(_SENTINEL[0]), side)]


def _middle(pixels: NDArray[Any], side: int) -> NDArray[Any]:
    height, width = (min(side, length) for length in pixels.shape[1:])
    top, left = ((length - cut) // 2 for length, cut in zip(pixels.shape[1:], (height, width), strict=True))
    return whole_cells(pixels[:, top : top + height, left : left + width])


def cells_at_random(pixels: NDArray[Any], count: int, generator: np.random.Generator) -> NDArray[Any]:
    """Cells (count, bands, 8, 8) of pixels (bands, y, x), at any offset, with replacement."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (CELL, CELL), axis=(1, 2))
    rows, columns = (generator.integers(size, size=count) for size in windows.shape[1:3])
    return np.ascontiguousarray(windows[:, rows, columns].swapaxes(0, 1))


def whole_cells(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels (bands, y, x) without the rows and columns of cells that are not whole."""
    height, width = (side - side % CELL for side in pixels.shape[1:])
    return np.ascontiguousarray(pixels[:, :height, :width])


def to_8_bits(band: NDArray[Any]) -> NDArray[np.uint8]:
    """A band as it is, or its 0.1 to 99.9 percentiles stretched over 0 ... 255."""
    if band.dtype == np.uint8:
        return band.astype(np.uint8, copy=False)
    low, high = np.percentile(band, (0.1, 99.9))
    stretched: NDArray[np.uint8] = np.clip((band - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
    return stretched


def read(path: str) -> NDArray[Any]:
    """All pixels (band, y, x) of a file of the development data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(shared_file(path)) as source:
            pixels: NDArray[Any] = source.read()
    return pixels
