"""What one chunk, or many together, cost in bytes and in error."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from harmonium.models.radiometry import Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Measured after decoding again, over the pixels that carry data; masked ones are exact and do not count."""

    nbytes: int
    """Length of the payload in bytes, its header included."""

    count: NDArray[np.int64]
    """Pixels that carry data, (bands,)."""

    squared_error: NDArray[np.float64]
    """Sum over these pixels of the squared error in DN², (bands,)."""

    max_error: NDArray[np.float64]
    """Largest absolute error in DN, (bands,); 0 where no pixel carries data."""

    @property
    def mse(self) -> NDArray[np.float64]:
        """Mean squared error in DN², (bands,); NaN for a band without data."""
        with np.errstate(invalid="ignore"):
            return self.squared_error / self.count

    def psnr(self, peak: float) -> NDArray[np.float64]:
        """10 log10(peak² / MSE) in dB, (bands,); infinite where every pixel is exact."""
        return psnr(self.mse, peak)

    def psnr_together(self, peak: float) -> float:
        """PSNR in dB of all bands together; NaN where no pixel carries data."""
        count = int(self.count.sum())
        return float(psnr(np.array(self.squared_error.sum() / count), peak)) if count else float("nan")

    @property
    def bits_per_pixel(self) -> float:
        """Bits per pixel and band that carries data; NaN where none does."""
        total = int(self.count.sum())
        return 8 * self.nbytes / total if total else float("nan")

    def merge(self, other: Self) -> Self:
        """Quality of two chunks, or of two sets of chunks, together."""
        return type(self)(
            nbytes=self.nbytes + other.nbytes,
            count=self.count + other.count,
            squared_error=self.squared_error + other.squared_error,
            max_error=np.maximum(self.max_error, other.max_error),
        )


def unmeasured(bands: int) -> Quality:
    """Of a chunk that nothing was measured of yet."""
    return Quality(nbytes=0, count=np.zeros(bands, np.int64), squared_error=np.zeros(bands), max_error=np.zeros(bands))


def measure(original: Pixels, decoded: Pixels, valid: NDArray[np.bool_], nbytes: int) -> Quality:
    """Compare two chunks (bands, height, width) where `valid`, of the same shape, is True.

    For integer pixels the sums are exact, whatever their order.
    """
    count = np.zeros(len(original), np.int64)
    squared_error, max_error = np.zeros(len(original)), np.zeros(len(original))
    # Band by band, so that the errors stay in the processor's cache.
    for band, (true, shown, mask) in enumerate(zip(original, decoded, valid, strict=True)):
        with np.errstate(invalid="ignore"):  # masked infinities
            error = np.subtract(true, shown, dtype=np.float64, casting="unsafe").reshape(-1)
        count[band] = np.count_nonzero(mask)
        if count[band] < error.size:
            error[~mask.reshape(-1)] = 0
        # Squares of 16-bit differences fit 32 bits: up to 2^21 of them sum to less than 2^53, exactly.
        # Not np.dot, whose threads would contend with the workers'.
        squared_error[band] = np.einsum("i,i->", error, error)
        max_error[band] = max(error.max(), -error.min())
    return Quality(nbytes=nbytes, count=count, squared_error=squared_error, max_error=max_error)


def psnr(mse: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB of mean squared errors in DN²; infinite where the error is zero."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(peak**2 / np.asarray(mse, dtype=np.float64))
