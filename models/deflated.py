"""The code section of a chunk of mode DEFLATED: pixels of any type without loss, without a model."""

import math
import zlib

import numpy as np

from harmonium.models.payload import Payload, inflate
from harmonium.models.radiometry import Pixels

_LEVEL = 6
_SAMPLED_ROWS = 16


def encode(pixels: Pixels) -> bytes:
    """The section of pixels (bands, height, width), those without data included."""
    return zlib.compress(_shuffled(pixels), _LEVEL)


def estimated_bytes(pixels: Pixels) -> int:
    """About how many bytes `encode` gives, from every sixteenth row."""
    rows = np.ascontiguousarray(pixels[:, ::_SAMPLED_ROWS])
    return len(zlib.compress(_shuffled(rows), 1)) * pixels.size // rows.size


def decode(payload: Payload) -> Pixels:
    """Pixels (bands, height, width) of a payload, those without data included.

    Raises
    ------
    PayloadError
        If the section is damaged.
    """
    dtype = np.dtype(payload.dtype)
    expected = math.prod(payload.shape) * dtype.itemsize
    raw = inflate(
        payload.codes, "pixels", f"The code section should hold {expected} bytes of pixels", expected, expected
    )
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1).T
    differences = np.ascontiguousarray(planes).view(f"<u{dtype.itemsize}").reshape(payload.shape)
    return np.add.accumulate(differences, axis=2, dtype=differences.dtype).view(dtype)


def _shuffled(pixels: Pixels) -> bytes:
    """Differences along rows, bytes of equal weight together: what deflate likes; floats as whole numbers."""
    whole = pixels.view(f"u{pixels.dtype.itemsize}")
    differences = np.diff(whole, axis=2, prepend=whole.dtype.type(0))
    return np.ascontiguousarray(differences).view(np.uint8).reshape(-1, whole.itemsize).T.tobytes()
