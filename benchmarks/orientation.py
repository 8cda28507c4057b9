"""Two numbers to judge a codec's rate and distortion by, in plain numpy: they share no code with what is judged."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CELL = 8

Cells = NDArray[np.float64]
"""(cells, bands * 64): the whole 8×8 cells of a picture, row by row."""


def to_cells(pixels: NDArray[Any]) -> Cells:
    """Cells of pixels (band, y, x); rows and columns that fill no whole cell are left out."""
    bands = len(pixels)
    rows, columns = (length // _CELL for length in pixels.shape[1:])
    cut = pixels[:, : rows * _CELL, : columns * _CELL].astype(np.float64)
    blocks = cut.reshape(bands, rows, _CELL, columns, _CELL).transpose(1, 3, 0, 2, 4)
    return np.ascontiguousarray(blocks).reshape(rows * columns, bands * _CELL * _CELL)


def principal_components(
    learn: NDArray[Any], pixels: NDArray[Any], *, components: int, states: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Code the cells of `pixels` by the first principal components of `learn`, each quantised uniformly to `states`.

    Returns
    -------
    tuple
        What is decoded, and the original, both (bands, pixels of whole cells, 1) in the type of the pixels.
    """
    training = to_cells(learn)
    mean = training.mean(axis=0)
    _, directions = np.linalg.eigh(np.cov(training.T))
    basis = directions[:, ::-1][:, :components]
    scores = (training - mean) @ basis
    low, high = scores.min(axis=0), scores.max(axis=0)
    step = (high - low) / states
    original = to_cells(pixels)
    state = np.clip(np.floor(((original - mean) @ basis - low) / step), 0, states - 1)
    decoded = (low + (state + 0.5) * step) @ basis.T + mean
    limits = np.iinfo(pixels.dtype)
    bands = len(pixels)
    native = np.clip(np.rint(decoded), limits.min, limits.max)
    return _by_band(native, bands).astype(pixels.dtype), _by_band(original, bands).astype(pixels.dtype)


def gaussian_bound(pixels: NDArray[Any], *, bits: float) -> float:
    """Least mean squared error at `bits` per value of independent Gaussian cells with the covariance of these.

    Reverse water-filling (Cover and Thomas 2006, section 10.3.3): a component of variance v gets log2(v / θ) / 2 bits
    and the error θ, or no bits and the error v where v < θ; θ follows from the rate by bisection.
    """
    cells = to_cells(pixels)
    variances = np.linalg.eigvalsh(np.cov(cells.T)).clip(min=1e-12)
    low, high = float(variances.min()) * 1e-6, float(variances.max())
    for _ in range(200):
        level = (low * high) ** 0.5
        spent = 0.5 * np.log2(np.maximum(variances / level, 1)).sum()
        low, high = (level, high) if spent > bits * len(variances) else (low, level)
    return float(np.minimum(variances, high).mean())


def _by_band(cells: Cells, bands: int) -> Cells:
    """Cells to (bands, pixels, 1)."""
    return cells.reshape(len(cells), bands, -1).transpose(1, 0, 2).reshape(bands, -1, 1)
