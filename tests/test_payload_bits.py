"""Presets of fixed length spend exactly their K bits on a cell: counted in the bytes that an archive would store."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from harmonium.models import presets
from harmonium.models.codec import Codec
from harmonium.models.payload import Mode, unpack
from harmonium.models.presets import FitOptions

from .tiny_models import blocks, group, of_cells, silent, smooth_pixels

pytestmark = pytest.mark.usefixtures("one_thread")

FIXED_LENGTH = ("binary-dbm", "binary-rbm", "limited-state-autoencoder", "real-dbm", "tensor-dbm")

_HEADER, _BAND = 36, 20
"""Bytes of a payload's header, and of its table for each band, by docs/format.md."""


@cache
def fitted(preset: str, bands: int, bits: float) -> Codec:
    """One step of every stage: rates are those of the network's shape, however little it has learned."""
    samples = blocks(256, bands, "uint8")
    return of_cells(group(preset, presets.get(preset).fit(samples, FitOptions(bits=bits, effort=1e-4), silent)).codec)


def payload_of(codec: Codec, pixels: NDArray[np.uint8]) -> bytes:
    return codec.compress(pixels, np.nan).payload


@pytest.mark.parametrize("preset", FIXED_LENGTH)
@pytest.mark.parametrize(
    ("bands", "bits", "height", "width"), [(1, 11 / 64, 64, 96), (2, 0.5, 61, 90), (1, 3 / 64, 8, 24)]
)
def test_the_code_section_has_k_bits_a_cell(preset: str, bands: int, bits: float, height: int, width: int) -> None:
    data = payload_of(fitted(preset, bands, bits), smooth_pixels((bands, height, width), "uint8"))
    parts = unpack(data)
    assert parts.mode == Mode.LEARNED
    cells = -(-height // 8) * -(-width // 8)
    code_bits = round(64 * bits) * bands * cells
    # A chunk's bits are filled up to whole bytes once, not cell by cell.
    assert len(parts.codes) == -(-code_bits // 8)
    assert len(data) == _HEADER + _BAND * bands + len(parts.codes)


@pytest.mark.parametrize("preset", FIXED_LENGTH)
def test_what_a_chunk_shows_does_not_change_its_length(preset: str) -> None:
    codec = fitted(preset, 1, 11 / 64)
    calm, wild = smooth_pixels((1, 64, 64), "uint8"), np.random.default_rng(0).integers(0, 256, (1, 64, 64), np.uint8)
    one, other = payload_of(codec, calm), payload_of(codec, wild)
    assert len(one) == len(other)
    assert one != other
