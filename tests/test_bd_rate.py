"""Bjøntegaard's delta rate against closed forms and a published implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")
pytest.importorskip("scipy", reason="SciPy is not installed; pip install '.[peers]'")

from benchmarks.bd_rate import bd_rate
from harmonium.errors import UsageError

ANCHOR = [(9487.76, 40.037), (4593.60, 38.615), (2486.44, 36.845), (1358.24, 34.851)]
TEST = [(9787.80, 40.121), (4469.00, 38.651), (2451.52, 36.970), (1356.24, 34.987)]


def test_published_data() -> None:
    # The example of the package bjontegaard 1.3.0 (method "pchip"), which agrees with the spreadsheet of JCTVC-L1100.
    delta = bd_rate(ANCHOR, TEST)
    assert delta.percent == pytest.approx(-4.417485350589045, rel=1e-9)
    assert (delta.low, delta.high) == (34.987, 40.037)


@given(factor=st.floats(0.1, 10), low=st.floats(30, 37), high=st.floats(38, 45))
def test_constant_ratio_of_rates_is_the_delta(factor: float, low: float, high: float) -> None:
    delta = bd_rate(ANCHOR, [(factor * rate, psnr) for rate, psnr in ANCHOR], low, high)
    assert delta.percent == pytest.approx(100 * (factor - 1), rel=1e-9, abs=1e-9)
    assert (delta.low, delta.high) == (max(low, 34.851), min(high, 40.037))


def test_a_curve_beside_itself_is_nothing() -> None:
    assert bd_rate(ANCHOR, ANCHOR[::-1]).percent == pytest.approx(0, abs=1e-12)


def test_straight_lines_differ_by_their_middles() -> None:
    # log2 rate = (psnr - 30) / 6 and (psnr - 30) / 5: between 36 and 48 dB their mean difference is (12 / 5 - 12 / 6).
    decibels = np.linspace(32, 52, 7)
    anchor = [(2.0 ** ((psnr - 30) / 6), psnr) for psnr in decibels]
    test = [(2.0 ** ((psnr - 30) / 5), psnr) for psnr in decibels[::2]]
    assert bd_rate(anchor, test, 36, 48).percent == pytest.approx(100 * (2**0.4 - 1), rel=1e-9)
    assert bd_rate(test, anchor, 36, 48).percent == pytest.approx(100 * (2**-0.4 - 1), rel=1e-9)


def test_points_that_another_beats_do_not_count() -> None:
    beaten = [*TEST, (5000.0, 38.6), (10_000.0, 40.121)]
    assert bd_rate(ANCHOR, beaten) == bd_rate(ANCHOR, TEST)


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ([(1.0, 50.0), (2.0, 60.0)], "common range"),
        ([(1.0, 35.0)], "two points"),
        ([(1.0, 35.0), (1.0, 39.0)], "two points"),
        ([(0.0, 35.0), (1.0, 39.0)], "above 0"),
        ([(1.0, 35.0), (2.0, float("inf"))], "finite"),
    ],
)
def test_curves_that_say_nothing_are_refused(curve: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bd_rate(ANCHOR, curve)
