"""Overviews: a small pyramid of means of the observed pixels, in the scene's own dtype. Pure numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harmonium.errors import SceneError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST_FACTOR = 32
SMALLEST_SIDE = 64


def levels(
    height: int, width: int, factor: int = FIRST_FACTOR, smallest: int = SMALLEST_SIDE
) -> list[tuple[int, tuple[int, int]]]:
    """Return the levels of a scene's pyramid, the finest first: each halves the one before.

    Parameters
    ----------
    height, width
        Size of the scene, in pixels.
    factor
        Scene pixels along the side of a pixel of the first level.
    smallest
        The last level is the first whose longer side has at most so many pixels.

    Returns
    -------
    list
        (factor, (height, width)) of at least one level, in scene pixels and in pixels of the level, rounded up.

    Raises
    ------
    SceneError
        A number is below 1.
    """
    if min(height, width, factor, smallest) < 1:
        raise SceneError(
            f"expected a scene, a factor and a smallest side of at least 1 pixel; found height={height}, "
            f"width={width}, factor={factor}, smallest={smallest}; correct them"
        )
    found = [(factor, _shape(height, width, factor))]
    while max(found[-1][1]) > smallest:
        factor *= 2
        found.append((factor, _shape(height, width, factor)))
    return found


def reduce_by(
    pixels: NDArray[Any], factor: int, valid: NDArray[np.bool_], *, nodata: float | None = None
) -> NDArray[Any]:
    """Replace each square of pixels by the mean of those that were observed.

    Pieces that start on whole squares give the same values as the whole, so that each shard can be reduced alone. To
    make the next level of a pyramid, reduce the one before by 2, with its own mask: every observed pixel of it then
    counts alike, however few pixels of the scene it stands for, and integers are rounded once per level.

    Parameters
    ----------
    pixels
        Shape (band, y, x), integers of up to 32 bits or floats, in DN.
    factor
        Side of a square in pixels; the last squares of odd sizes are cut off by the edge.
    valid
        Shape (band, y, x) or what broadcasts to it: True where a pixel was observed, as `stats.valid_mask` tells.
    nodata
        Written where a square has no observed pixel; None writes NaN in floats and 0 in integers.

    Returns
    -------
    ndarray
        Shape (band, ceil(y / factor), ceil(x / factor)), of the same dtype; integers are rounded, halves to even. A
        mean that happens to be `nodata` is moved to the next value, so that what was observed stays so.

    Raises
    ------
    SceneError
        The factor is below 1, or the shapes do not fit.
    """
    if factor < 1 or pixels.ndim != 3 or 0 in pixels.shape:
        raise SceneError(
            f"expected pixels (band, y, x) and a factor of at least 1; found shape {pixels.shape} and factor {factor}; "
            "correct them"
        )
    try:
        valid = np.broadcast_to(valid, pixels.shape)
    except ValueError as error:
        raise SceneError(
            f"expected a mask of shape {pixels.shape}; found {valid.shape}; make it with valid_mask(pixels, nodata)"
        ) from error
    reduced = np.empty((pixels.shape[0], *_shape(pixels.shape[1], pixels.shape[2], factor)), dtype=pixels.dtype)
    for band, plane in enumerate(pixels):  # one by one: the sums need eight bytes per pixel
        reduced[band] = _means(plane, factor, valid[band], nodata)
    return reduced


def _means(plane: NDArray[Any], factor: int, valid: NDArray[np.bool_], nodata: float | None) -> NDArray[Any]:
    is_float = plane.dtype.kind == "f"
    count = _sums(valid, factor, np.int64)
    observed = plane if valid.all() else np.where(valid, plane, plane.dtype.type(0))
    total = _sums(observed, factor, np.float64 if is_float else np.int64)
    mean = total / np.maximum(count, 1)
    means: NDArray[Any] = (mean if is_float else np.rint(mean)).astype(plane.dtype)
    if nodata is not None:
        _step_aside(means, nodata)
    means[count == 0] = (np.nan if is_float else 0) if nodata is None else nodata
    return means


def _sums(plane: NDArray[Any], factor: int, dtype: type[np.int64 | np.float64]) -> NDArray[Any]:
    """Return the sum of each square; rows first, which keeps the order of additions the same in every piece."""
    height, width = _shape(plane.shape[0], plane.shape[1], factor)
    missing = (height * factor - plane.shape[0], width * factor - plane.shape[1])
    if any(missing):
        plane = np.pad(plane, [(0, missing[0]), (0, missing[1])])
    # Columns of 16-bit pixels add up in half the width, which takes half the time.
    narrow = plane.dtype.itemsize <= 2 and plane.dtype.kind in "iub" and factor < 1 << 15
    rows = plane.reshape(height, factor, -1).sum(axis=1, dtype=np.int32 if narrow else dtype)
    sums: NDArray[Any] = rows.reshape(height, width, factor).sum(axis=2, dtype=dtype)
    return sums


def _step_aside(means: NDArray[Any], nodata: float) -> None:
    """Move means that are the nodata value to a neighbour of it that the dtype has."""
    if means.dtype.kind == "f":
        value = means.dtype.type(nodata)
        means[means == value] = np.nextafter(value, means.dtype.type(0 if value > 0 else 1))
        return
    taken = means == nodata
    if taken.any():
        means[taken] = int(nodata) + (1 if nodata < np.iinfo(means.dtype).max else -1)


def _shape(height: int, width: int, factor: int) -> tuple[int, int]:
    return -(-height // factor), -(-width // factor)
