"""What a fitted codec gives on a picture: bits, distortion, and the sizes of its codes under entropy coding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lecture_entropy import Grid, neighbour_bits, static_bits
from benchmarks.lecture_scenes import Picture
from harmonium.models.codec import Codec
from harmonium.models.payload import unpack
from harmonium.models.quality import psnr

_NO_FILL = -1e9
"""A fill value that no pixel has: all carry data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distortion:
    """How far decoded pixels are from the original."""

    psnr: float
    """Over all bands, in dB."""

    spectral_angle: float | None = None
    """Mean over pixels, in degrees; of four bands only, as what follows."""

    ndvi_error: float | None = None
    """Root mean square of the difference of normalised difference vegetation indices, without unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A codec on a picture."""

    decoded: NDArray[Any]
    """(band, y, x)."""

    codes: Grid
    """(units, rows, columns)."""

    code_bits: float
    """Bits of the code section, per pixel and band."""

    container_bytes: int
    """What the payload has besides."""

    static_bits: float
    """Bits per pixel and band of the same codes with one table for each unit."""

    neighbour_bits: float
    """The same with tables for each context of neighbouring codes."""

    distortion: Distortion
    """Of the decoded pixels."""


def measure(codec: Codec, picture: Picture, learn: Sequence[Grid]) -> Measured:
    """Code a picture as one chunk; `learn` holds codes of training pictures, for the tables of entropy coding."""
    encoded = codec.compress(picture.pixels, _NO_FILL)
    codes, size, states = codec.codes(encoded.payload), picture.pixels.size, codec.transform.states
    section = unpack(encoded.payload).codes
    return Measured(
        decoded=encoded.decoded,
        codes=codes,
        code_bits=8 * len(section) / size,
        container_bytes=len(encoded.payload) - len(section),
        static_bits=static_bits(learn, codes, states) / size,
        neighbour_bits=neighbour_bits(learn, codes, states) / size,
        distortion=distortion(picture, encoded.decoded),
    )


def codes_of(codec: Codec, pixels: NDArray[Any]) -> Grid:
    """Codes (units, rows, columns) of pixels (band, y, x)."""
    return codec.codes(codec.compress(pixels, _NO_FILL).payload)


def distortion(picture: Picture, decoded: NDArray[Any]) -> Distortion:
    """Of decoded pixels (band, y, x); four bands are blue, green, red and near infrared."""
    original, found = picture.pixels.astype(np.float64), decoded.astype(np.float64)
    decibels = float(psnr(np.square(found - original).mean(), picture.peak))
    if len(original) != 4:
        return Distortion(psnr=decibels)
    return Distortion(
        psnr=decibels,
        spectral_angle=float(np.degrees(_angles(original, found)).mean()),
        ndvi_error=float(np.sqrt(np.square(_ndvi(found) - _ndvi(original)).mean())),
    )


def _angles(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles in radians between the pixels' spectra, (y, x); 0 where one is black."""
    norms = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    cosines = np.divide((a * b).sum(0), norms, out=np.ones_like(norms), where=norms > 0)
    angles: NDArray[np.float64] = np.arccos(cosines.clip(-1, 1))
    return angles


def _ndvi(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    red, infrared = pixels[2], pixels[3]
    total = red + infrared
    index: NDArray[np.float64] = np.divide(infrared - red, total, out=np.zeros_like(total), where=total > 0)
    return index
