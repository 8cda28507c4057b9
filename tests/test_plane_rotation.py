"""Rotations of bands by whole angles: back without loss, and towards planes that do not correlate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium.models import plane_rotation
from harmonium.models.plane_rotation import STEPS

Array = NDArray[np.float64]


def matrix_of(angles: NDArray[np.int16], planes: int) -> Array:
    """Bands of planes: plane rotations multiplied out, in floating point."""
    found = np.eye(planes)
    number = 0
    for column in range(planes):
        for row in range(planes - 1, column, -1):
            turn = np.eye(planes)
            angle = np.pi * float(angles[number]) / STEPS
            turn[row - 1, row - 1] = turn[row, row] = np.cos(angle)
            turn[row - 1, row], turn[row, row - 1] = np.sin(angle), -np.sin(angle)
            found = turn @ found
            number += 1
    return found


def random_covariance(bands: int, seed: int) -> Array:
    draw = np.random.default_rng(seed)
    mixing = draw.normal(size=(bands, bands))
    return np.asarray(mixing * 4.0 ** np.arange(bands) @ mixing.T)


@given(
    bands=st.integers(1, 20),
    seed=st.integers(0, 9999),
    kind=st.sampled_from(("any", "ends", "wide", "small")),
    largest=st.sampled_from((1, 4000, 1 << 36)),
)
@example(bands=2, seed=0, kind="ends", largest=1 << 36)
def test_bands_come_back_from_planes_of_any_angles(bands: int, seed: int, kind: str, largest: int) -> None:
    draw = np.random.default_rng(seed)
    count = plane_rotation.count(bands)
    assert count == bands * (bands - 1) // 2
    choices = {
        "any": draw.integers(-STEPS, STEPS, count, endpoint=True),
        "ends": draw.choice([-STEPS, -STEPS // 2 - 1, -STEPS // 2, 0, STEPS // 2, STEPS // 2 + 1, STEPS], count),
        "wide": draw.choice([-1, 1], count) * draw.integers(STEPS // 2, STEPS, count, endpoint=True),
        "small": draw.integers(-3, 3, count, endpoint=True),
    }
    angles = choices[kind].astype(np.int16)
    given_bands = torch.from_numpy(draw.integers(-largest, largest, (bands, 5, 4), endpoint=True).astype(np.float64))
    before = given_bands.clone()
    planes = plane_rotation.to_planes(given_bands, angles)
    assert torch.equal(planes, planes.round())
    assert torch.equal(plane_rotation.to_bands(planes, angles), before)
    assert torch.equal(given_bands, before)
    # The other way round, too: every planes are those of some bands.
    assert torch.equal(plane_rotation.to_planes(plane_rotation.to_bands(before, angles), angles), before)


@given(bands=st.integers(1, 8), seed=st.integers(0, 9999))
def test_planes_are_those_of_the_matrix_of_rotations_within_rounding(bands: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    angles = draw.integers(-STEPS, STEPS, plane_rotation.count(bands), endpoint=True).astype(np.int16)
    values = draw.integers(-2000, 2000, (bands, 50)).astype(np.float64)
    found = plane_rotation.to_bands(torch.from_numpy(values), angles).numpy()
    # A rotation rounds three times by half a unit; its factors are within 2^-15 of 2000 and some.
    np.testing.assert_allclose(found, matrix_of(angles, bands) @ values, atol=2.5 * bands)


@given(bands=st.integers(1, 20), seed=st.integers(0, 9999))
def test_energy_is_kept(bands: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    angles = draw.integers(-STEPS, STEPS, plane_rotation.count(bands), endpoint=True).astype(np.int16)
    values = torch.from_numpy(draw.normal(0, 1e5, (bands, 60)).round())
    planes = plane_rotation.to_planes(values, angles)
    assert float(planes.square().sum() / values.square().sum()) == pytest.approx(1, abs=2e-3)


@given(bands=st.integers(1, 12), seed=st.integers(0, 9999))
def test_principal_planes_have_the_variances_of_numpys_eigenvalues(bands: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    values = np.linalg.cholesky(random_covariance(bands, seed) + 1e-3 * np.eye(bands)) @ draw.normal(size=(bands, 400))
    values = np.rint(values * 1e5 / np.abs(values).max())
    covariance = values @ values.T / values.shape[1]
    angles = plane_rotation.principal_angles(covariance)
    assert angles.dtype == np.int16
    assert angles.shape == (plane_rotation.count(bands),)
    planes = plane_rotation.to_planes(torch.from_numpy(values), angles).numpy()
    found = planes @ planes.T / values.shape[1]
    wanted = np.linalg.eigvalsh(covariance)[::-1]
    # Angles are rounded to pi / 2^15, factors to 2^-15, planes to whole numbers: all next to the largest variance.
    np.testing.assert_allclose(np.diag(found), wanted, atol=4 * bands + 2e-4 * bands * wanted[0])
    deviation = np.sqrt(np.outer(wanted, wanted)).clip(min=1)
    beside = np.abs(found - np.diag(np.diag(found)))
    assert (beside <= 2e-4 * bands * wanted[0] + 4 * bands * np.sqrt(wanted[0])).all()
    well = np.minimum.outer(wanted, wanted) > 1e-2 * wanted[0]
    assert (beside[well] <= 0.05 * deviation[well]).all()


def test_the_matrix_of_principal_angles_has_numpys_eigenvectors() -> None:
    covariance = random_covariance(5, 3)
    _, vectors = np.linalg.eigh(covariance)
    found = matrix_of(plane_rotation.principal_angles(covariance), 5)
    likeness = np.abs(found.T @ vectors[:, ::-1])
    np.testing.assert_allclose(likeness, np.eye(5), atol=2e-3)


@given(bands=st.integers(1, 9), seed=st.integers(0, 9999))
def test_coarse_angles_are_multiples_that_fit_a_byte(bands: int, seed: int) -> None:
    """Where angles are as coarse, planes correlate a little: their variances are within what half a step turns."""
    draw = np.random.default_rng(seed)
    mixed = draw.normal(size=(bands, bands)) * draw.uniform(0.1, 30, bands)
    covariance = mixed @ mixed.T
    angles = plane_rotation.principal_angles(covariance, plane_rotation.COARSE)
    assert not (angles % plane_rotation.COARSE).any()
    assert np.array_equal((angles // plane_rotation.COARSE).astype("i1").astype(np.int16) * 128, angles)
    turn = plane_rotation.matrix(bands, angles)
    np.testing.assert_allclose(turn @ turn.T, np.eye(bands), atol=2e-3)
    found = np.diag(turn @ covariance @ turn.T)
    expected = np.linalg.eigvalsh(covariance)[::-1]
    assert np.abs(found - expected).max() <= (bands * np.pi / 256 + 2e-3) * expected[0]


def test_half_a_turn_has_one_angle() -> None:
    vectors = np.diag([-1.0, -1.0])
    covariance = vectors @ np.diag([4.0, 1.0]) @ vectors.T
    for multiple in (1, plane_rotation.COARSE):
        angles = plane_rotation.principal_angles(covariance, multiple)
        assert -plane_rotation.STEPS <= angles[0] < plane_rotation.STEPS


def test_bands_of_one_value_and_of_nothing_have_a_rotation() -> None:
    for covariance in (np.zeros((3, 3)), np.ones((3, 3)), np.eye(3)):
        angles = plane_rotation.principal_angles(covariance)
        matrix = matrix_of(angles, 3)
        found = matrix.T @ covariance @ matrix
        np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-3)


def test_factors_of_shears_are_no_close_calls() -> None:
    """None is so near the middle of two whole numbers that another libm might round it the other way."""
    steps = np.arange(-STEPS // 2, STEPS // 2 + 1)
    angles = steps * np.pi / STEPS
    for values in (np.tan(angles / 2) * 2**14, np.sin(angles) * 2**14):
        middle = np.abs(values - np.floor(values) - 0.5)
        assert middle.min() > 1e-8
