"""The lecture's peers keep to their rates, and spend them well."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

from benchmarks import lecture_peers
from benchmarks.lecture_peers import jpeg, jpeg2000_per_band, squared_error
from harmonium.errors import UsageError
from harmonium.pipeline import jpeg2000 as jpeg2000_files

from .archives import pixels


def test_jpeg_keeps_its_rate_and_gains_from_more() -> None:
    array = pixels((1, 128, 96), "uint8")
    errors = []
    for bits in (0.5, 1.0, 2.0, 4.0):
        decoded, nbytes = jpeg(array, bits)
        assert (decoded.shape, decoded.dtype) == (array.shape, array.dtype)
        assert nbytes <= bits * array.size / 8
        errors.append(squared_error(array, decoded))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_jpeg_refuses_what_it_cannot_code() -> None:
    with pytest.raises(UsageError, match=r"found \(2, 16, 16\) of uint8"):
        jpeg(np.zeros((2, 16, 16), np.uint8), 1.0)
    with pytest.raises(UsageError, match="JPEG takes at least"):
        jpeg(pixels((1, 16, 16), "uint8"), 0.1)


def test_bands_of_unlike_variance_share_the_rate_better_than_equally() -> None:
    noise = np.random.default_rng(0).normal(size=(2, 128, 128)).cumsum(axis=1).cumsum(axis=2)
    array = (10_000 + noise * np.array([[[1.0]], [[50.0]]]) * 3).clip(0, 65535).astype(np.uint16)
    decoded, nbytes = jpeg2000_per_band(array, 1.0)
    equal = [jpeg2000_files.at_bits(band[np.newaxis], 1.0)[0] for band in array]
    assert nbytes <= array.size / 8
    assert squared_error(array, decoded) < squared_error(array, np.concatenate(equal))


def test_rates_are_those_of_an_exhaustive_search() -> None:
    rates = [0.25, 0.5, 1.0, 2.0, 3.0]
    curves = [(rates, [variance * 4.0**-rate for rate in rates]) for variance in (1.0, 30.0, 4.0)]
    found = lecture_peers._least_error_rates(curves, 1.0)
    total = sum(np.interp(rate, *curve) for rate, curve in zip(found, curves, strict=True))
    grid = np.arange(0.25, 2.5 + 1e-9, 1 / 16)
    best = min(
        sum(np.interp(rate, *curve) for rate, curve in zip(chosen, curves, strict=True))
        for chosen in itertools.product(grid, repeat=3)
        if sum(chosen) <= 3
    )
    assert found.sum() <= 3 + 1e-9
    assert total <= best + 1e-9
