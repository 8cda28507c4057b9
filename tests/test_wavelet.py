"""The wavelet in whole numbers: back without loss, as near to the real 9/7 wavelet as rounding allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium.models import subbands, wavelet

Array = NDArray[np.float64]

# Daubechies and Sweldens 1998, section 7.7.
ALPHA, BETA, GAMMA, DELTA = -1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971

EXTREME = 1 << 40


def reference(signal: Array) -> tuple[Array, Array]:
    """Low and high of a row by lifting in floating point, without scaling, written out sample by sample."""
    count = len(signal)
    values = signal.copy()

    def mirrored(place: int) -> float:
        place = abs(place)
        return float(values[place if place < count else 2 * (count - 1) - place])

    for factor, first in ((ALPHA, 1), (BETA, 0), (GAMMA, 1), (DELTA, 0)):
        values = np.array(
            [
                value + factor * (mirrored(place - 1) + mirrored(place + 1)) if place % 2 == first else value
                for place, value in enumerate(values)
            ]
        )
    return values[0::2], values[1::2]


def reference_of_plane(plane: Array) -> list[Array]:
    """Low, and details across, down and both."""
    rows = [reference(row) for row in plane]
    low, high = (np.stack([row[part] for row in rows]) for part in range(2))
    found = []
    for part in (low, high):
        columns = [reference(column) for column in part.T]
        found += [np.stack([column[which] for column in columns]).T for which in range(2)]
    low_low, low_high, high_low, high_high = found
    return [low_low, high_low, low_high, high_high]


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    seed=st.integers(0, 999),
    largest=st.sampled_from((1, 300, 1 << 16, 1 << 30, EXTREME)),
    kind=st.sampled_from(("any", "ends", "checkerboard")),
)
@example(rows=1, columns=1, seed=0, largest=EXTREME, kind="ends")
def test_backward_undoes_forward_for_whole_numbers_up_to_2_to_the_40(
    rows: int, columns: int, seed: int, largest: int, kind: str
) -> None:
    draw = np.random.default_rng(seed)
    shape = (2, 2 * rows, 2 * columns)
    values = draw.integers(-largest, largest, shape, endpoint=True)
    if kind == "ends":
        values = np.where(values < 0, -largest, largest)
    elif kind == "checkerboard":
        values = np.where(np.indices(shape).sum(0) % 2, -largest, largest)
    given_values = torch.from_numpy(values.astype(np.float64))
    before = given_values.clone()
    low, details = wavelet.forward(given_values)
    assert low.shape == (2, rows, columns)
    assert details.shape == (2, 3, rows, columns)
    assert torch.equal(low, low.round())
    assert torch.equal(details, details.round())
    assert max(float(low.abs().max()), float(details.abs().max())) < 2**43  # far from 2^53, where sums are rounded
    assert torch.equal(wavelet.backward(low, details), before)
    assert torch.equal(given_values, before)


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), seed=st.integers(0, 999))
def test_it_is_the_9_7_wavelet_within_rounding(rows: int, columns: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-1000, 1000, (2 * rows, 2 * columns), endpoint=True)
    low, details = wavelet.forward(torch.from_numpy(values.astype(np.float64)))
    found = [low.numpy(), *details.numpy()]
    # Each lift rounds by half, and by its factor's rounding: 1000 2^-15 and less. What four lifts in two directions
    # make of that is below 5.
    for mine, other in zip(found, reference_of_plane(values.astype(np.float64)), strict=True):
        np.testing.assert_allclose(mine, other, atol=5)


def test_rounding_does_not_drift() -> None:
    """Errors against the real wavelet have no mean, so that many levels add no offset."""
    values = np.random.default_rng(0).integers(-1000, 1000, (32, 32))
    low, details = wavelet.forward(torch.from_numpy(values.astype(np.float64)))
    for mine, other in zip([low, *details], reference_of_plane(values.astype(np.float64)), strict=True):
        error = mine.numpy() - other
        assert abs(error.mean()) < 0.15
        assert error.std() < 1.5


def test_with_its_gains_the_transform_is_nearly_orthonormal() -> None:
    """The energy of noise is that of all details and the low band, level by level, within 5 %."""
    values = torch.from_numpy(np.random.default_rng(1).normal(0, 5000, (1, 256, 256)).round())
    low = values
    total = 0.0
    for level in range(4):
        low, details = wavelet.forward(low)
        normal = details * subbands.gain_column(level)
        # Each band of details has about its share of noise, a quarter of what came into the level.
        share = normal.square().sum((0, 2, 3)) * 4 ** (level + 1) / values.square().sum()
        np.testing.assert_allclose(share.numpy(), 1, atol=0.3)
        total += float(normal.square().sum())
        left = float((low * subbands.low_gain(level)).square().sum())
        assert (total + left) / float(values.square().sum()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("band", [0, 1, 2])
@pytest.mark.parametrize("level", [0, 2])
def test_a_detail_alone_becomes_a_wave_of_energy_one(level: int, band: int) -> None:
    side = 32
    details = torch.zeros(1, 3, side, side, dtype=torch.float64)
    details[0, band, side // 2, side // 2] = 1e6
    wave = wavelet.backward(torch.zeros(1, side, side, dtype=torch.float64), details)
    for finer in range(level - 1, -1, -1):
        assert finer < level
        wave = wavelet.backward(wave, wave.new_zeros(len(wave), 3, *wave.shape[1:]))
    gain = subbands.gains(level)[band]
    assert math.sqrt(float(wave.square().sum())) / 1e6 == pytest.approx(gain, rel=0.12)


@pytest.mark.parametrize("powers", [(0, 0), (1, 0), (0, 3), (2, 1), (3, 3)])
def test_polynomials_of_third_degree_have_no_details_inside(powers: tuple[int, int]) -> None:
    y, x = np.mgrid[0:48, 0:40].astype(np.float64)
    values = np.rint(1e4 * ((y - 20) / 20) ** powers[0] * ((x - 20) / 20) ** powers[1])
    _, details = wavelet.forward(torch.from_numpy(values)[None])
    # Rounding alone: of the values, by half, and of the lifts and their factors.
    assert float(details[..., 3:-3, 3:-3].abs().max()) <= 4


def test_details_notice_the_fourth_degree() -> None:
    x = np.arange(48, dtype=np.float64)
    values = np.rint(np.broadcast_to(1e6 * ((x - 24) / 24) ** 4, (8, 48)))
    _, details = wavelet.forward(torch.from_numpy(values.copy())[None])
    assert float(details[0, 0, :, 3:-3].abs().min()) > 20
