from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from harmonium.models.presets import FitOptions
from harmonium.models.presets.autoencoder import Autoencoder
from harmonium.models.uniform_codes import best_quantiser, limit_range, open_range, share_bits, step_for_rate
from harmonium.models.unrolled import StackShape, UnrolledStack

from .tiny_models import blocks, silent


@pytest.mark.parametrize(
    ("bits", "step", "error"),
    [(0, 1.0, 1.0), (1, 1.596, 0.3634), (2, 0.9957, 0.1188), (3, 0.5860, 0.03744), (4, 0.3352, 0.01154)],
)
def test_best_quantisers_of_a_normal_source_are_those_of_max(bits: int, step: float, error: float) -> None:
    """Max 1960, table II; steps are looked for in a grid of 15 %, about whose middle the error is flat."""
    values = np.random.default_rng(0).normal(3.0, 1.0, 200_000)
    found = best_quantiser(values, bits)
    assert found.step == pytest.approx(step, rel=0.1)
    assert found.error == pytest.approx(error, rel=0.03)


def test_bits_are_shared_out_as_well_as_any_other_way() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2000, 3)) * [5.0, 2.0, 0.3]
    chosen = share_bits(values, 5)
    assert sum(quantiser.bits for quantiser in chosen) == 5
    least = min(
        sum(best_quantiser(values[:, unit], bits).error for unit, bits in enumerate(split))
        for split in itertools.product(range(6), repeat=3)
        if sum(split) == 5
    )
    assert sum(quantiser.error for quantiser in chosen) == pytest.approx(least)


def test_more_bits_than_units_can_take() -> None:
    with pytest.raises(ValueError, match="2 code units take up to 10 bits each, got 21 bits; ask for fewer"):
        share_bits(np.zeros((10, 2)), 21)


@pytest.mark.parametrize("bits", [2.0, 9.0])
def test_the_step_gives_the_rate(bits: float) -> None:
    values = torch.from_numpy(np.random.default_rng(2).normal(size=(20_000, 3)) * [4.0, 1.0, 0.1])
    levels = np.rint(values.numpy() / step_for_rate(values, bits))
    found = 0.0
    for column in levels.T:
        share = np.unique(column, return_counts=True)[1] / len(column)
        found -= float((share * np.log2(share)).sum())
    assert found == pytest.approx(bits, abs=0.02)


@pytest.mark.parametrize("bits", [24.0, 30.0])
def test_the_step_gives_rates_that_counted_states_cannot_show(bits: float) -> None:
    """Against the density's closed form, of units of which one never varies; 500 cells show 9 bits a unit."""
    deviations = np.array([4.0, 1.0, 0.1, 0.0])
    values = np.random.default_rng(2).normal(size=(500, 4)) * deviations
    step = step_for_rate(torch.from_numpy(values), bits)
    entropy = 0.5 * np.log2(2 * math.pi * math.e * deviations[:3] ** 2) - np.log2(step)
    assert entropy.sum() == pytest.approx(bits, abs=0.5)


def test_units_that_never_vary_carry_nothing_at_any_step() -> None:
    assert 0 < step_for_rate(torch.ones(500, 3), 40.0) < 1e-5


def test_rates_for_which_there_are_not_enough_states() -> None:
    values = torch.from_numpy(np.random.default_rng(2).normal(size=(2000, 3)) * [100.0, 1.0, 0.1])
    assert 2000 < float(np.ptp(values.numpy()[:, 0])) / step_for_rate(values, 20.0) < 16_384
    with pytest.raises(ValueError, match=r"42 bits for the 3 code units .* states, expected at most 16384; ask for"):
        step_for_rate(values, 42.0)


def test_an_autoencoder_of_too_high_a_rate_is_refused_instead_of_clipped() -> None:
    small = Autoencoder(hidden=(24, 16), rounds=(1,))
    with pytest.raises(ValueError, match="ask for fewer bits"):
        small.fit(blocks(300, 1, "uint16"), FitOptions(bits=14.0), silent)
    rich = small.fit(blocks(300, 1, "uint16"), FitOptions(bits=6.0), silent)
    assert rich.record["held_out"]["bits_per_pixel"] > 4


@torch.no_grad()
def test_ranges_hold_what_was_seen_four_times_over() -> None:
    net = UnrolledStack(StackShape(sizes=(2, 2), hidden="identity", code="identity", visible="identity"))
    net.encoder[0].load_state_dict({"weight": torch.eye(2), "bias": torch.tensor([100.0, 0.0])})
    x = torch.tensor([[-10.0, 0.0], [9.0, 0.0]])
    open_range(net)
    codes = net.encode(x) + net.low
    assert codes.tolist() == [[90, 0], [109, 0]]
    limit_range(net, x)
    assert net.states.tolist() == [80, 8]
    assert torch.equal(net.encode(x) + net.low, codes)
    assert net.low[0] <= 100 - 35
    assert net.low[0] + net.states[0] > 100 + 35
