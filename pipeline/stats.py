"""Statistics of the bands by partial sums that merge: the same for a scene in one piece and in thousands of tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from harmonium.errors import SceneError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def valid_mask(pixels: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Return where pixels were observed.

    Parameters
    ----------
    pixels
        Integers or floats of any shape, usually (band, y, x).
    nodata
        The value that stands for "not observed", NaN included, or None.

    Returns
    -------
    ndarray
        Of the same shape: False where the value is `nodata` or not finite. (numpy's masked arrays mean the inverse.)
    """
    if not np.issubdtype(pixels.dtype, np.floating):
        # A value that the dtype cannot hold is not found by comparison, which is right.
        return np.ones(pixels.shape, dtype=bool) if nodata is None else np.asarray(pixels != nodata, dtype=bool)
    valid = np.isfinite(pixels)
    if nodata is not None and not math.isnan(nodata):
        # A nodata such as -3.4e38 or 0.1 is stored in the pixels' own precision: compare in it.
        valid &= pixels != pixels.dtype.type(nodata)
    return np.asarray(valid, dtype=bool)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BandStats:
    """Count, mean, covariance and range of the bands over the pixels that are valid in every band."""

    count: int
    """Number of pixels (not of values) that entered."""
    mean: NDArray[np.float64]
    """Mean per band, shape (bands,), in DN; 0 where the count is 0."""
    covariance: NDArray[np.float64]
    """Covariance, shape (bands, bands), in DN²; divided by the count (population, numpy's `ddof=0`)."""
    minimum: NDArray[np.float64]
    """Smallest value per band, shape (bands,), in DN; +inf where the count is 0."""
    maximum: NDArray[np.float64]
    """Largest value per band, shape (bands,), in DN; -inf where the count is 0."""

    def __post_init__(self) -> None:
        bands = self.mean.shape[0] if self.mean.ndim == 1 else 0
        shapes = (self.mean.shape, self.covariance.shape, self.minimum.shape, self.maximum.shape)
        if self.count < 0 or bands < 1 or shapes != ((bands,), (bands, bands), (bands,), (bands,)):
            raise SceneError(
                "expected a count of at least 0 and shapes (bands,), (bands, bands), (bands,), (bands,); "
                f"found count {self.count} and {shapes}; make statistics with BandStats.from_pixels"
            )

    @classmethod
    def empty(cls, bands: int) -> Self:
        """Return the statistics of no pixel, the neutral element of `merge`."""
        return cls(
            count=0,
            mean=np.zeros(bands),
            covariance=np.zeros((bands, bands)),
            minimum=np.full(bands, np.inf),
            maximum=np.full(bands, -np.inf),
        )

    @classmethod
    def from_pixels(cls, pixels: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Self:
        """Return the statistics of one tile.

        Parameters
        ----------
        pixels
            Shape (band, y, x), any of the dtypes of a scene.
        valid
            True where a pixel was observed, shape (band, y, x) or (y, x), see `valid_mask`; None means everywhere.
            Values that are not finite are left out in any case.

        Raises
        ------
        SceneError
            The arrays do not have these shapes.
        """
        if pixels.ndim != 3 or (valid is not None and valid.shape not in (pixels.shape, pixels.shape[1:])):
            raise SceneError(
                "expected pixels (band, y, x) and a mask of the same shape or (y, x); found "
                f"{pixels.shape} and {None if valid is None else valid.shape}; reshape them"
            )
        use = np.isfinite(pixels).all(axis=0)
        if valid is not None:
            use &= valid.all(axis=0) if valid.ndim == 3 else valid
        values = pixels[:, use].astype(np.float64)  # (band, pixel)
        count = values.shape[1]
        if count == 0:
            return cls.empty(pixels.shape[0])
        mean = values.mean(axis=1)
        centred = values - mean[:, None]
        return cls(
            count=count,
            mean=mean,
            covariance=centred @ centred.T / count,
            minimum=values.min(axis=1),
            maximum=values.max(axis=1),
        )

    @property
    def bands(self) -> int:
        """Number of bands."""
        return int(self.mean.shape[0])

    def merge(self, other: BandStats) -> BandStats:
        """Return the statistics of the pixels of both; associative and commutative up to rounding.

        The pairwise update of Chan, Golub and LeVeque (1983), which loses no digits where the means are large beside
        the deviations, as sums of squares would.

        Raises
        ------
        SceneError
            The numbers of bands differ.
        """
        if self.bands != other.bands:
            raise SceneError(f"expected statistics of {self.bands} bands; found {other.bands}; merge like with like")
        count = self.count + other.count
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        share = other.count / count
        delta = other.mean - self.mean
        return BandStats(
            count=count,
            mean=self.mean + delta * share,
            covariance=(1 - share) * self.covariance
            + share * other.covariance
            + share * (1 - share) * np.outer(delta, delta),
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
        )
