"""Which angles a chunk's rotations have: as fine as it pays; and how its low band is coded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harmonium.models import detail_coding, plane_rotation, subbands
from harmonium.models.detail_coding import Rounding

from .tiny_networks import model, tables

pytestmark = pytest.mark.usefixtures("one_thread")


def details_of(amplitude: float, noise: float, side: int) -> list[torch.Tensor]:
    """Two bands that share what they show, but for noise; in units of a 64th of a step."""
    draw = np.random.default_rng(0)
    shared = draw.normal(size=(side, side)) * amplitude
    bands = np.stack([0.8 * shared, 0.6 * shared]) + noise * draw.normal(size=(2, side, side))
    _, details = subbands.analyse(torch.from_numpy(np.rint(bands * 64)))
    return details


def angles_of(amplitude: float, noise: float, side: int) -> list[NDArray[np.int16]]:
    return detail_coding._worthwhile_angles(details_of(amplitude, noise, side), Rounding(exact=False))


def test_large_chunks_at_fine_steps_have_fine_angles() -> None:
    fine = angles_of(300.0, 0.5, 256)[0]
    assert np.array_equal(fine, subbands.spectral_angles(details_of(300.0, 0.5, 256))[0])
    assert (fine % plane_rotation.COARSE).any()


def test_at_coarse_steps_angles_of_one_byte_do() -> None:
    for angles in angles_of(1.0, 0.05, 64)[:2]:
        assert angles.any()
        assert not (angles % plane_rotation.COARSE).any()


def test_few_details_are_rotated_as_those_before() -> None:
    """Levels of few details take the angles that are told already, where these are much as their own."""
    first, second, third = angles_of(30.0, 1.0, 64)
    assert first.any()
    assert np.array_equal(second, first)
    assert np.array_equal(third, second)


def test_where_all_is_rounded_to_zero_no_angles_are_told() -> None:
    for angles in angles_of(0.01, 0.001, 64):
        assert not angles.any()


def test_exact_details_are_counted_in_their_own_units() -> None:
    """Whole DN: the noise of a DN in both bands leaves nothing for fine angles to gain."""
    details = [values / 64 for values in details_of(20.0, 0.0, 128)]
    angles = detail_coding._worthwhile_angles(details, Rounding(exact=True))
    assert angles[0].any()


@pytest.mark.parametrize("slope", [0, 40])
def test_low_values_are_coded_themselves_or_by_differences(slope: int) -> None:
    """Noise around 0 by values; a slope by differences; and both come back."""
    draw = np.random.default_rng(0)
    low = draw.integers(-9, 9, (8, 8)) + slope * np.arange(64).reshape(8, 8)
    offers = detail_coding._low_offers(tables(), low)
    bits, scale, choice, numbers = min(offers, key=lambda offer: offer[0])
    assert bits == tables().bits(choice, numbers) == min(offer[0] for offer in offers)
    assert (scale >= detail_coding._PLAIN) == (slope == 0)
    coded = numbers.reshape(low.shape)
    np.testing.assert_array_equal(coded if slope == 0 else detail_coding._undo_differences(coded), low)


@pytest.mark.parametrize("slope", [0.0, 20.0])
def test_chunks_of_either_kind_of_low_band_come_back(slope: float) -> None:
    noise = np.random.default_rng(0).normal(size=(1, 256, 256)) * 100
    values = torch.from_numpy(np.rint(noise + slope * np.add.outer(np.arange(256), np.arange(256))))
    rounding = Rounding(exact=True)
    coded = detail_coding.encode(model(), values, rounding)
    assert (coded.low_scales[0] >= detail_coding._PLAIN) == (slope == 0)
    restored, _ = detail_coding.decode(model(), coded.words, coded.low_scales, coded.angles, (1, 256, 256), rounding)
    assert torch.equal(restored, values)
