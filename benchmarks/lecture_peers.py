"""What the lecture's codecs are measured beside: JPEG and JPEG 2000.

Both keep to a rate in bits per pixel and band; whole files count, headers too. The Gaussian bound stands in
`benchmarks.orientation`, vector quantisers in `benchmarks.lecture_quantisers`.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harmonium.errors import UsageError
from harmonium.pipeline import jpeg2000 as jpeg2000_files

Coded = tuple[NDArray[Any], int]
"""Decoded pixels (band, y, x) in the type of the original, and how many bytes they took."""

_QUALITIES = range(1, 101)
_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
"""Of the mean rate: what a band's error is measured at before the rate is shared out."""
_STEPS = 64
"""In which the mean rate is shared out."""


def jpeg(pixels: NDArray[np.uint8], bits: float) -> Coded:
    """Code one band of 8 bits as the JPEG of least squared error that takes at most so many bits per pixel.

    Every quality from 1 to 100 is tried, sequential and progressive, each with Huffman tables of its own.

    Raises
    ------
    UsageError
        If there is more than one band, or another type; if the smallest file takes more.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or len(pixels) != 1:
        raise UsageError(
            f"JPEG takes pixels (1, y, x) of uint8, found {pixels.shape} of {pixels.dtype}; give it one band of 8 bits"
        )
    budget = bits * pixels.size / 8
    files = [_smallest_jpeg(pixels[0], quality) for quality in _QUALITIES]
    fitting = [file for file in files if len(file) <= budget]
    if not fitting:
        raise UsageError(
            f"JPEG takes at least {min(map(len, files))} bytes for pixels of shape {pixels.shape}, asked for were "
            f"{budget:.0f}; give it more bits"
        )
    tried = [(np.asarray(Image.open(io.BytesIO(file)))[np.newaxis], len(file)) for file in fitting]
    return min(tried, key=lambda coded: squared_error(pixels, coded[0]))


def _smallest_jpeg(band: NDArray[np.uint8], quality: int) -> bytes:
    """The smaller of two files (y, x) that decode to the same pixels."""
    files = []
    for progressive in (False, True):
        file = io.BytesIO()
        Image.fromarray(band).save(file, "JPEG", quality=quality, optimize=True, progressive=progressive)
        files.append(file.getvalue())
    return min(files, key=len)


def jpeg2000(pixels: NDArray[Any], bits: float) -> Coded:
    """Code all bands together, in at most so many bits per pixel and band (`harmonium.pipeline.jpeg2000.at_bits`)."""
    return jpeg2000_files.at_bits(pixels, bits)


def jpeg2000_per_band(pixels: NDArray[Any], bits: float) -> Coded:
    """Code each band as a file of its own, in at most so many bits per pixel and band on the average.

    The bands' errors are measured at some rates; what lies between is taken as a line. A small step of rate then goes
    to the band whose error it lowers most, again and again, which is best for curves that are convex.

    Raises
    ------
    UsageError
        If the files' headers alone take more.
    """
    rates = _least_error_rates([_curve(band[np.newaxis], bits, len(pixels)) for band in pixels], bits)
    coded = [jpeg2000_files.at_bits(band[np.newaxis], rate) for band, rate in zip(pixels, rates, strict=True)]
    return np.concatenate([decoded for decoded, _ in coded]), sum(nbytes for _, nbytes in coded)


def _curve(band: NDArray[Any], bits: float, bands: int) -> tuple[list[float], list[float]]:
    """Rates in bits per pixel, rising, and the squared error of pixels (1, y, x) at each."""
    rates, errors = [], []
    for share in (*(share for share in _SHARES if share < bands), float(bands)):
        try:
            decoded, _ = jpeg2000_files.at_bits(band, share * bits)
        except UsageError:
            if share >= 1:  # less is only an offer to the other bands
                raise
            continue
        rates.append(share * bits)
        errors.append(squared_error(band, decoded))
    return rates, errors


def _least_error_rates(curves: list[tuple[list[float], list[float]]], bits: float) -> NDArray[np.float64]:
    """Rates of mean `bits` under which the sum of the curves' errors is least, in steps; each curve is a band's."""
    step = bits / _STEPS
    rates = np.array([measured[0] for measured, _ in curves])
    while rates.sum() + step <= len(curves) * bits * (1 + 1e-9):
        gains = [
            np.interp(rate, *curve) - np.interp(rate + step, *curve) for rate, curve in zip(rates, curves, strict=True)
        ]
        rates[int(np.argmax(gains))] += step
    return rates


def squared_error(original: NDArray[Any], decoded: NDArray[Any]) -> float:
    """Mean squared error, of pixels or of cells."""
    return float(np.square(decoded.astype(np.float64) - original).mean())
