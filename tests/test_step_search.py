from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonium.models.quality import Quality
from harmonium.models.targets import Psnr, Ratio, Step
from harmonium.pipeline.step_search import Measure, falls_short, first_guess, search

PEAK = 10_000.0


def uniform(deviation: float, *, floor: float = 100.0, tried: list[Step] | None = None) -> Measure:
    """A Gaussian source of 16 bits under an ideal quantiser: its error and its bits are known.

    The error of a step s is s² / 12, and no more than the variance; a value takes 0.5 log2(1 + 12 variance / s²) bits.
    """

    def measure(step: Step) -> tuple[Quality, float]:
        if tried is not None:
            tried.append(step)
        steps = np.atleast_1d(np.asarray(step.step))
        error = 1 / (12 / steps**2 + 1 / deviation**2)
        bits = 0.5 * np.log2(1 + 12 * deviation**2 / steps**2).mean()
        count = 10**6
        quality = Quality(
            nbytes=int(bits * count / 8 + floor),
            count=np.full(len(steps), count),
            squared_error=error * count,
            max_error=steps,
        )
        return quality, 2 * count / (bits * count / 8 + floor)

    return measure


@given(st.floats(25, 80), st.floats(50, 5000))
def test_a_psnr_is_met_in_few_trials(decibels: float, deviation: float) -> None:
    tried: list[Step] = []
    found = search(Psnr(decibels), PEAK, uniform(deviation, tried=tried))
    reachable = 20 * math.log10(PEAK / deviation)
    quality, _ = uniform(deviation)(found.step)
    if decibels > reachable + 1:
        assert abs(quality.psnr_together(PEAK) - decibels) < 0.05
        assert len(tried) <= 9
    assert not falls_short(Psnr(decibels), found)


@given(st.floats(1.2, 100), st.floats(50, 5000))
def test_a_ratio_is_met(asked: float, deviation: float) -> None:
    found = search(Ratio(asked), PEAK, uniform(deviation))
    _, ratio = uniform(deviation)(found.step)
    assert ratio == pytest.approx(asked, rel=0.01)


def test_a_psnr_for_each_band_has_a_step_for_each_band() -> None:
    found = search(Psnr((40, 50, 60)), PEAK, uniform(1000.0))
    assert isinstance(found.step.step, tuple)
    quality, _ = uniform(1000.0)(found.step)
    np.testing.assert_allclose(quality.psnr(PEAK), [40, 50, 60], atol=0.05)


def test_a_search_that_goes_on_needs_one_trial() -> None:
    near, tried = uniform(1000.0), list[Step]()
    start = search(Psnr(45), PEAK, near, slope_too=True)
    found = search(Psnr(45.1), PEAK, uniform(1000.0, tried=tried), start)
    assert len(tried) == 1
    assert near(found.step)[0].psnr_together(PEAK) == pytest.approx(45.1, abs=0.03)


@pytest.mark.parametrize(
    ("asked", "measure", "short"),
    [
        (Ratio(1000), uniform(1000.0, floor=5000.0), True),  # the masks alone take a 400th
        (Psnr(20), uniform(100.0), False),  # the error cannot be as large as allowed
        (Psnr(300), uniform(100.0), True),
    ],
)
def test_what_cannot_be_met_is_told(asked: Psnr | Ratio, measure: Measure, short: bool) -> None:
    found = search(asked, PEAK, measure, limits=(1e-3, 1e6))
    assert falls_short(asked, found) == short


def exact(_: Step) -> tuple[Quality, float]:
    return Quality(nbytes=100, count=np.array([9]), squared_error=np.zeros(1), max_error=np.zeros(1)), 2.0


def empty(_: Step) -> tuple[Quality, float]:
    return Quality(nbytes=100, count=np.array([0]), squared_error=np.zeros(1), max_error=np.zeros(1)), 500.0


@pytest.mark.parametrize("measure", [exact, empty])
def test_scenes_of_one_value_and_without_data_are_no_error(measure: Callable[[Step], tuple[Quality, float]]) -> None:
    found = search(Psnr(45), PEAK, measure)
    assert not falls_short(Psnr(45), found)


def test_the_first_guess_is_the_step_of_a_uniform_error() -> None:
    step = first_guess(Psnr(40), PEAK).step
    assert isinstance(step, float)
    assert 10 * math.log10(PEAK**2 / (step**2 / 12)) == pytest.approx(40)
