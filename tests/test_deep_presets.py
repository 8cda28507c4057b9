"""The presets with deep networks, made small; `test_presets` has what goes for all presets."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch

from harmonium.models import model_file, presets
from harmonium.models.deep_start import Start
from harmonium.models.deep_training import Stages
from harmonium.models.presets import FitOptions, Fitted, Preset
from harmonium.models.presets.autoencoder import Autoencoder
from harmonium.models.presets.binary_dbm import BinaryDbm
from harmonium.models.presets.limited_state_autoencoder import LimitedStateAutoencoder
from harmonium.models.presets.real_dbm import RealDbm
from harmonium.models.presets.tensor_dbm import TensorDbm

from .tiny_models import blocks, group, prior_of, silent, smooth_pixels, transform_of

SHORT = Stages(greedy=60, joint=20, fine_tuning=150, search=1, learning_rate=3e-3, fine_tuning_rate=3e-3)
SMALL: dict[str, Preset] = {
    "binary-dbm": BinaryDbm(hidden=(24, 16), stages=SHORT),
    "binary-dbm gray": BinaryDbm(hidden=(24, 16), stages=SHORT, gray=True),
    "real-dbm": RealDbm(hidden=(24, 16), stages=SHORT),
    "tensor-dbm": TensorDbm(hidden=(24, 16), stages=SHORT, rank=24),
    "autoencoder": Autoencoder(hidden=(24, 16), rounds=(40, 60), learning_rate=1e-3),
    "limited-state-autoencoder": LimitedStateAutoencoder(hidden=(24, 16), fine_tuning_steps=100, learning_rate=1e-3),
}
FIXED_LENGTH = ["binary-dbm", "binary-dbm gray", "real-dbm", "tensor-dbm", "limited-state-autoencoder"]


def small_fit(preset: Preset, bands: int = 1, dtype: str = "uint8", **options: float) -> Fitted:
    torch.set_num_threads(1)
    return preset.fit(blocks(300, bands, dtype), FitOptions(**options), silent)  # type: ignore[arg-type]


@cache
def learned(name: str) -> Fitted:
    """One band of 8 bits at one bit per pixel."""
    return small_fit(SMALL[name], bits=1.0)


def psnr(fitted: Fitted) -> float:
    found: float = fitted.record["held_out"]["psnr_db"]
    return found


@pytest.mark.parametrize("name", SMALL)
def test_codes_come_back_from_a_model_file(name: str) -> None:
    fitted = learned(name)
    made = model_file.make({"r10m": group(SMALL[name].name, fitted)})
    codec = model_file.from_bytes(made.data).groups["r10m"].codec
    pixels = smooth_pixels((1, 21, 40), "uint8", seed=4)
    encoded = codec.compress(pixels, np.nan)
    np.testing.assert_array_equal(codec.decompress(encoded.payload), encoded.decoded)
    codes = transform_of(fitted).encode(fitted.radiometry.normalise(pixels))
    np.testing.assert_array_equal(codec.codes(encoded.payload), codes.numpy())
    assert np.ptp(codes.numpy(), axis=(1, 2)).any()


@pytest.mark.parametrize("name", FIXED_LENGTH)
@pytest.mark.parametrize(("bits", "bands", "dtype"), [(0.25, 1, "int16"), (0.5, 3, "float32")])
def test_a_cell_has_exactly_the_bits_that_were_asked_for(name: str, bits: float, bands: int, dtype: str) -> None:
    fitted = small_fit(SMALL[name], bands, dtype, effort=0.01, bits=bits)
    expected = round(64 * bits) * bands
    codes = np.zeros((len(prior_of(fitted).states), 24), np.int32)
    assert sum(np.log2(states) for states in prior_of(fitted).states) == expected
    assert 8 * len(prior_of(fitted).encode(codes)) == expected * 24
    assert fitted.record["held_out"]["bits_per_pixel"] == pytest.approx(bits, rel=0.02)


@pytest.mark.parametrize("name", [name for name in SMALL if "dbm" in name])
def test_fine_tuning_beats_what_was_only_greedily_trained(name: str) -> None:
    whole = SMALL[name]
    assert isinstance(whole, BinaryDbm | RealDbm)
    only_greedy = replace(whole, stages=replace(SHORT, joint=0, fine_tuning=0))
    tuned, start = learned(name), small_fit(only_greedy, bits=1.0)
    stages = ["greedy-1", "greedy-2", "greedy-3"]
    assert [stage["stage"] for stage in start.record["stages"]] == stages
    assert [stage["stage"] for stage in tuned.record["stages"]] == [*stages, "joint", "fine-tuning"]
    assert psnr(tuned) > psnr(start) + 0.5


@pytest.mark.parametrize("stages", [SHORT, replace(SHORT, greedy=0, joint=0)], ids=["pre-trained", "random"])
def test_a_tensor_machine_stores_a_plain_network_of_its_rank(stages: Stages) -> None:
    fitted = small_fit(TensorDbm(hidden=(24, 16), stages=stages, rank=5), bands=2, dtype="uint16", effort=0.2)
    tensors = fitted.transform.to_tensors()
    for name, shape in (("encoder.0.weight", (24, 128)), ("decoder.2.weight", (128, 24))):
        singular = np.linalg.svd(tensors[name].numpy(), compute_uv=False)
        assert tensors[name].shape == shape
        assert singular[4] > 1e-3 * singular[0]
        assert singular[5] < 1e-5 * singular[0]


@pytest.mark.parametrize(("bands", "rank"), [(1, 48), (2, 64), (13, 416)])
def test_rank_of_a_tensor_machine_by_default(bands: int, rank: int) -> None:
    fitted = small_fit(TensorDbm(hidden=(500,), stages=Stages(greedy=0, joint=0, fine_tuning=0)), bands=bands)
    assert np.linalg.matrix_rank(fitted.transform.to_tensors()["encoder.0.weight"].numpy(), rtol=1e-5) == rank


def test_a_tensor_machine_of_no_rank() -> None:
    with pytest.raises(ValueError, match="tensor-dbm needs rank >= 1 or None, got 0"):
        TensorDbm(rank=0)


def test_limited_states_start_as_good_as_a_transform_code_and_training_gains() -> None:
    whole = SMALL["limited-state-autoencoder"]
    assert isinstance(whole, LimitedStateAutoencoder)
    start = small_fit(replace(whole, fine_tuning_steps=0), bits=1.0)
    tuned = learned("limited-state-autoencoder")
    assert start.record["stages"] == []
    assert len(set(prior_of(start).states)) > 1  # units have the states that they are worth
    # The best that 64 bits can do for a block of normal variables: reverse water-filling on the components' variances.
    cells = blocks(300, 1, "uint8").reshape(300, 64).astype(float)
    variances = np.clip(np.linalg.eigvalsh(np.cov(cells.T)), 1e-9, None)
    levels = np.geomspace(1e-6, variances.max(), 4000)
    rates = np.array([np.maximum(0.5 * np.log2(variances / level), 0).sum() for level in levels])
    error = np.minimum(variances, levels[np.argmin(np.abs(rates - 64))]).mean()
    bound = 10 * np.log10(255**2 / error)
    assert bound - 6 < psnr(start) < psnr(tuned) < bound + 1


@pytest.mark.parametrize("start", get_args(Start))
def test_every_start_of_an_autoencoder_meets_the_rate(start: Start) -> None:
    whole = SMALL["autoencoder"]
    assert isinstance(whole, Autoencoder)
    fitted = small_fit(replace(whole, start=start, greedy_steps=20, rounds=(20,)), bands=2, dtype="uint16", bits=0.5)
    assert fitted.record["held_out"]["bits_per_pixel"] == pytest.approx(0.5, rel=0.35)
    names = [stage["stage"] for stage in fitted.record["stages"]]
    assert names == [*(["greedy-1", "greedy-2", "greedy-3"] if start == "machines" else []), "fine-tuning-1"]


@pytest.mark.parametrize("start", ["machines", "random"])
def test_limited_states_from_other_starts(start: Start) -> None:
    whole = SMALL["limited-state-autoencoder"]
    assert isinstance(whole, LimitedStateAutoencoder)
    fitted = small_fit(replace(whole, start=start, greedy_steps=20), bits=1.0)
    assert sum(np.log2(states) for states in prior_of(fitted).states) == 64
    stages = [stage["stage"] for stage in fitted.record["stages"]]
    assert stages == [*(["greedy-1", "greedy-2", "greedy-3"] if start == "machines" else []), "fine-tuning"]


@pytest.mark.parametrize("name", sorted({preset.name for preset in SMALL.values()}))
def test_registered_presets_at_full_width(name: str) -> None:
    """One step of every stage, with the widths that users get; 2^11 codes are searched sooner than 2^16."""
    preset = presets.get(name)
    assert type(preset) is type(SMALL[name])
    fitted = small_fit(preset, bits=11 / 64, effort=0.0001)
    loaded = preset.load(fitted.transform.to_spec(), fitted.transform.to_tensors())
    assert transform_of(replace(fitted, transform=loaded)).states == transform_of(fitted).states


@pytest.mark.parametrize(("low", "span"), [(0, 4000), (9000, 100), (7, 0)])
def test_other_types_have_a_binary_form(low: int, span: int) -> None:
    """Sixteen-bit pixels like those that were learned come within half a level of what they are."""
    samples = np.linspace(low, low + span, 256 * 64).reshape(256, 1, 8, 8).astype(np.uint16)
    untrained = BinaryDbm(hidden=(2,), stages=Stages(greedy=0, joint=0, fine_tuning=0))
    radiometry = untrained.fit(samples, FitOptions(), silent).radiometry
    levels = radiometry.normalise(samples[:, 0]).round()
    assert 0 <= float(levels.min()) <= float(levels.max()) <= 255
    error = np.abs(radiometry.restore(levels).astype(float) - samples[:, 0]).max()
    assert error <= 1.2 * span / 255 / 2 + 0.5


def test_more_bits_than_a_pixel_has() -> None:
    with pytest.raises(ValueError, match="binary-dbm codes up to 8 bits per pixel, got bits=9"):
        small_fit(SMALL["binary-dbm"], bits=9.0)
