"""Settings of presets, as users write them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from harmonium.models import model_file, presets
from harmonium.models.code_prior import StaticTables
from harmonium.models.deep_training import Stages
from harmonium.models.preset_settings import names, with_settings
from harmonium.models.presets import FitOptions
from harmonium.models.presets.autoencoder import Autoencoder
from harmonium.models.presets.binary_dbm import BinaryDbm
from harmonium.models.presets.limited_state_autoencoder import LimitedStateAutoencoder
from harmonium.models.presets.real_rbm import RealRbm
from harmonium.models.presets.tensor_dbm import TensorDbm

from .tiny_models import blocks, group, silent


def test_fields_and_fields_of_fields() -> None:
    changed = with_settings(
        BinaryDbm(),
        ["gray=true", "hidden=(40, 20)", "stages.joint=0", "stages.learning_rate=1e-2", "stages.code=noisy"],
    )
    assert changed == BinaryDbm(gray=True, hidden=(40, 20), stages=Stages(joint=0, learning_rate=1e-2, code="noisy"))
    assert with_settings(TensorDbm(), ["rank=7"]).rank == 7
    assert with_settings(TensorDbm(rank=7), ["rank=None"]).rank is None
    assert with_settings(Autoencoder(), ["start=machines", "start = random"]).start == "random"  # the last counts
    assert with_settings(Autoencoder(), ["rounds=()", "learning_rate=1"]) == Autoencoder(rounds=(), learning_rate=1)


def test_no_settings_leave_the_preset_itself() -> None:
    preset = presets.get("real-dbm")
    assert with_settings(preset, []) is preset


@pytest.mark.parametrize("name", presets.names())
def test_every_setting_can_be_given_as_it_is_printed(name: str) -> None:
    preset = presets.get(name)
    for setting in names(preset):
        value: object = preset
        for part in setting.split("."):
            value = getattr(value, part)
        assert with_settings(preset, [f"{setting}={value}"]) == preset


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("gray", "Expected a setting as NAME=VALUE, found 'gray'"),
        ("grey=true", "binary-dbm has no setting 'grey'; it has hidden, gray, stages.greedy, stages.joint, "),
        ("stages=3", "no setting 'stages'"),
        ("stages.gray=true", "no setting 'stages.gray'"),
        ("gray.x=true", "no setting 'gray.x'"),
        ("gray=1", "Setting gray: expected true or false, found '1'"),
        ("stages.greedy=true", "Setting stages.greedy: expected a whole number, found 'true'"),
        ("stages.greedy=1.5", "expected a whole number, found '1.5'"),
        ("stages.learning_rate=fast", "expected a number, found 'fast'"),
        ("stages.code=hard", "expected one of rounded, dithered, noisy, found 'hard'"),
        ("hidden=512", re.escape("expected values in parentheses such as (1, 2), each a whole number, found '512'")),
        ("hidden=(1, x)", "expected values in parentheses"),
        ("stages.greedy=-1", "Stages need steps >= 0"),
        ("name=mine", "no setting 'name'"),
    ],
)
def test_what_cannot_be_set(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_settings(BinaryDbm(), [setting])


def test_presets_that_have_none() -> None:
    assert names(RealRbm()) == ()
    with pytest.raises(ValueError, match="real-rbm has no setting 'hidden'; it has none"):
        with_settings(RealRbm(), ["hidden=(2,)"])


def test_limited_states_can_be_entropy_coded() -> None:
    samples = blocks(300, 1, "uint8")
    settings = ["hidden=(40,)", "fine_tuning_steps=0"]
    fixed, coded = (
        with_settings(LimitedStateAutoencoder(), [*settings, *more]).fit(samples, FitOptions(bits=0.5), silent)
        for more in ([], ["entropy_coded=true"])
    )
    assert isinstance(coded.prior, StaticTables)
    assert coded.record["held_out"]["psnr_db"] == fixed.record["held_out"]["psnr_db"]
    assert coded.record["held_out"]["bits_per_pixel"] < fixed.record["held_out"]["bits_per_pixel"] == 0.5
    read = model_file.make({"r10m": group("limited-state-autoencoder", coded)}).groups["r10m"].codec
    pixels = np.ascontiguousarray(samples[0])
    assert read.compress(pixels, -1).payload  # what was read codes, too
