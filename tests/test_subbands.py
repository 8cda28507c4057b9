"""Levels of the wavelet of chunks of any size: shapes, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from harmonium.models import plane_rotation, subbands
from harmonium.models.subbands import CLASSES, LEVELS


def chunk(bands: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(-5000, 5000, (bands, height, width))
    return torch.from_numpy(values.astype(np.float64))


@given(height=st.integers(1, 80), width=st.integers(1, 80), bands=st.integers(1, 3))
@example(height=1, width=1, bands=1)
@example(height=80, width=1, bands=2)
@example(height=65, width=64, bands=1)
def test_synthesis_level_by_level_is_the_way_back(height: int, width: int, bands: int) -> None:
    values = chunk(bands, height, width)
    low, details = subbands.analyse(values)
    shapes = subbands.low_shapes(height, width)
    assert len(details) == len(shapes) == LEVELS
    for level in range(LEVELS - 1, -1, -1):
        rows, columns = subbands.details_shape(height, width, level)
        assert details[level].shape == (bands, 3, rows, columns)
        if level == LEVELS - 1:
            assert low.shape == (bands, rows, columns)
        low = subbands.synthesise_level(low, details[level], shapes[level])
        assert low.shape == (bands, *shapes[level])
    assert torch.equal(low, values)


@given(height=st.integers(1, 600), width=st.integers(1, 600))
def test_three_levels_make_a_value_of_a_cell_and_six_of_a_square_of_cells(height: int, width: int) -> None:
    shapes = subbands.low_shapes(height, width)
    assert shapes[0] == (height, width)
    assert shapes[3] == (-(-height // 8), -(-width // 8))
    assert subbands.details_shape(height, width, 2) == shapes[3]
    assert subbands.details_shape(height, width, 5) == (-(-height // 64), -(-width // 64))


@pytest.mark.parametrize("size", [(8, 8), (9, 24), (1, 15), (16, 17)])
def test_cells_are_filled_with_the_last_row_and_column(size: tuple[int, int]) -> None:
    values = chunk(2, *size)
    found = subbands.padded(values).numpy()
    rows, columns = (-(-length // 8) * 8 for length in size)
    expected = np.pad(values.numpy(), ((0, 0), (0, rows - size[0]), (0, columns - size[1])), mode="edge")
    np.testing.assert_array_equal(found, expected)


def test_gains_are_powers_of_the_low_gain_by_hand() -> None:
    per_level = 2 / 1.230174104914001**2
    assert subbands.gains(0) == pytest.approx((1, 1, 1 / per_level))
    assert subbands.gains(2) == pytest.approx((per_level**2, per_level**2, per_level))
    assert subbands.low_gain(0) == pytest.approx(per_level)
    assert subbands.low_gain(LEVELS - 1) == pytest.approx(per_level**6)
    assert subbands.gain_column(1).shape == (3, 1, 1)
    assert subbands.gain_column(1).flatten().tolist() == list(subbands.gains(1))


def test_levels_share_classes_from_the_third_on() -> None:
    assert [subbands.level_class(level) for level in range(LEVELS)] == [0, 1, 2, 2, 2, 2]


def test_each_class_has_the_rotation_that_takes_its_correlation_away() -> None:
    """Bands whose fine and coarse details are mixed in other ways."""
    draw = np.random.default_rng(0)
    fine = draw.normal(0, 400, (2, 96, 96))
    coarse = draw.normal(0, 4000, (2, 12, 12)).repeat(8, 1).repeat(8, 2)
    mixed = np.stack([fine[0] + coarse[0], 0.9 * fine[0] + 0.2 * fine[1] - 0.8 * coarse[0] + 0.3 * coarse[1]])
    _, details = subbands.analyse(torch.from_numpy(mixed.round()))
    angles = subbands.spectral_angles(details)
    assert [len(one) for one in angles] == [1] * CLASSES
    for level in (0, 1):
        planes = plane_rotation.to_planes(details[level], angles[subbands.level_class(level)])
        flat = planes.mul(subbands.gain_column(level)).flatten(1).numpy()
        covariance = flat @ flat.T / flat.shape[1]
        assert abs(covariance[0, 1]) < 0.01 * np.sqrt(covariance[0, 0] * covariance[1, 1])
        assert covariance[0, 0] > covariance[1, 1]
