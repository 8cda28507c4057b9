"""Tables of frequencies against the integral of the density that they are of."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from harmonium.models import scale_tables
from harmonium.models.code_prior import TABLE_BITS
from harmonium.models.scale_tables import FRACTIONS, REACH, SCALES, SHAPES, SYMBOLS, TABLES, table_number

from .tiny_networks import tables

Array = NDArray[np.float64]

CHOSEN = [(0, 0, 4), (0, 3, 0), (9, 1, 8), (14, 2, 3), (18, 0, 4), (23, 2, 6), (28, 3, 0), (28, 0, 8)]
"""Scale, shape and fraction."""


def density(values: Array, scale: float, weight: float) -> Array:
    """A mixture of two logistic densities around 0."""

    def logistic(width: float) -> Array:
        return np.asarray(1 / (4 * width * np.cosh(np.clip(values / (2 * width), -300, 300)) ** 2))

    return (1 - weight) * logistic(scale) + weight * logistic(2.5 * scale)


def parameters(scale: int, shape: int, fraction: int) -> tuple[float, float, float]:
    return 0.04 * 2 ** (scale / 4), SHAPES[shape], (fraction - 4) / 8


def test_frequencies_sum_to_the_coders_total_and_leave_no_symbol_out() -> None:
    frequencies = tables().frequencies
    assert frequencies.shape == (TABLES, SYMBOLS) == (SCALES * len(SHAPES) * FRACTIONS, 2 * REACH + 3)
    assert frequencies.min() >= 1
    assert (frequencies.sum(axis=1) == 1 << TABLE_BITS).all()


@pytest.mark.parametrize(("scale", "shape", "fraction"), CHOSEN)
def test_a_table_is_the_integral_of_its_density(scale: int, shape: int, fraction: int) -> None:
    sigma, weight, centre = parameters(scale, shape, fraction)
    number = int(table_number(*(np.array(value) for value in (scale, shape, fraction))))
    found = tables().frequencies[number] / (1 << TABLE_BITS)
    # Gauss-Legendre on eighths of a step of every symbol but the two escapes, which share the rest.
    nodes, weights = np.polynomial.legendre.leggauss(40)
    edges = np.arange(-REACH - 0.5, REACH + 0.5 + 1e-9, 1 / 8)
    middle = (edges[:-1] + edges[1:]) / 2
    each = density(middle[:, None] + nodes / 16 - centre, sigma, weight) @ weights / 16
    inside = each.reshape(-1, 8).sum(axis=1)
    # Each is rounded down and has one to start with; the most probable takes what is left.
    np.testing.assert_allclose(found[1:-1], inside, atol=(SYMBOLS + 2) / (1 << TABLE_BITS))
    assert np.delete(np.abs(found[1:-1] - inside), inside.argmax()).max() <= (2 + 67 * inside.max()) / (1 << TABLE_BITS)
    assert found[0] + found[-1] == pytest.approx(1 - inside.sum(), abs=(SYMBOLS + 2) / (1 << TABLE_BITS))


def test_tables_of_mirrored_centres_are_mirrored() -> None:
    frequencies = tables().frequencies.reshape(SCALES, len(SHAPES), FRACTIONS, SYMBOLS)
    # The most probable symbol takes what rounding left, 67 at most; of two that are equally probable, the first.
    mirrored = frequencies[:, :, ::-1, ::-1]
    assert np.abs(frequencies - mirrored).max() <= SYMBOLS
    two = np.sort(frequencies, axis=-1)[..., -2:]
    clear = two[..., 1] - two[..., 0] > 2 * SYMBOLS
    assert clear.mean() > 0.7
    np.testing.assert_array_equal(frequencies[clear], mirrored[clear])


def test_scales_in_1024ths_are_those_of_the_formula() -> None:
    indices = np.arange(scale_tables.LARGEST_INDEX + 1)
    expected = 1024 * 0.04 * 2 ** (indices / 4)
    np.testing.assert_allclose(scale_tables.FIXED_SCALES, expected, rtol=2e-3, atol=1)
