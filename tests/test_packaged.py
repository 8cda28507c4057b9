"""Models that come with the package: they are there, say what they are made of, and code any pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from harmonium.models import context_training, packaged
from harmonium.models.context_network import LevelNetwork
from harmonium.models.integer_network import OUTPUT_UNIT
from harmonium.models.payload import Mode, unpack
from harmonium.models.subbands import CLASSES
from harmonium.models.targets import Lossless, MaxError, Step

from .strategies import SCENE_DTYPES
from .tiny_models import RANGES, smooth_pixels
from .tiny_networks import random_networks, source, whole_model

pytestmark = pytest.mark.usefixtures("one_thread")

needs_weights = pytest.mark.skipif(not packaged.names(), reason="no packaged model: models/weights/ has no file")


@needs_weights
def test_there_is_the_model_that_fits_start_from() -> None:
    assert "transform" in packaged.names()
    assert list(packaged.names()) == sorted(packaged.names())


def test_names_that_do_not_exist_are_told() -> None:
    for call in (packaged.record, packaged.networks, lambda name: packaged.codec(name, "uint8", 1)):
        with pytest.raises(ValueError, match=r"no packaged model '\.\./transform'; there are "):
            call("../transform")


@needs_weights
@pytest.mark.parametrize("name", packaged.names())
def test_a_record_names_the_data_and_their_licences(name: str) -> None:
    record = packaged.record(name)
    assert record["scenes"]
    text = " ".join(record["sources"])
    for word in ("Copernicus", "licence", "U.S. Geological Survey", "public domain", "CC0", "MIT"):
        assert word in text
    assert record["steps"] > 0
    assert "/" not in "".join(record["scenes"])


@needs_weights
@pytest.mark.parametrize("dtype", SCENE_DTYPES)
@pytest.mark.parametrize("bands", [1, 7])
def test_a_model_codes_any_type_and_any_bands(dtype: str, bands: int) -> None:
    codec = packaged.codec("transform", dtype, bands)
    pixels = smooth_pixels((bands, 40, 33), dtype)
    deviation = RANGES[dtype][1]
    encoded = codec.compress(pixels, math.nan, Step(deviation / 10))
    np.testing.assert_array_equal(codec.decompress(encoded.payload), encoded.decoded)
    assert unpack(encoded.payload).mode is Mode.TRANSFORM
    assert len(encoded.payload) < pixels.nbytes / 2
    assert encoded.quality.mse.max() < (deviation / 10) ** 2 / 4


@needs_weights
def test_what_is_promised_is_kept_by_the_packaged_model() -> None:
    codec = packaged.codec("transform", "uint16", 3)
    pixels = smooth_pixels((3, 64, 64), "uint16")
    assert codec.compress(pixels, 0, MaxError(4)).quality.max_error.max() <= 4
    encoded = codec.compress(pixels, 0, Lossless())
    np.testing.assert_array_equal(codec.decompress(encoded.payload), pixels)
    assert unpack(encoded.payload).mode in (Mode.TRANSFORM, Mode.PREDICTED)
    assert unpack(codec.compress(pixels, 0, Step(20.0)).payload).mode is Mode.TRANSFORM


@needs_weights
def test_a_peak_may_be_given() -> None:
    assert packaged.codec("transform", "uint16", 1, peak=4095.0).radiometry.peak == 4095
    assert packaged.codec("transform", "uint8", 1).radiometry.peak == 255


@needs_weights
def test_whole_numbers_are_those_of_the_trained_networks() -> None:
    """What codes predicts what the trained networks do, within a quarter of a nat for nearly all outputs."""
    networks = packaged.networks("transform")
    assert len(networks) == CLASSES
    model = packaged.codec("transform", "uint16", 2).model
    crop = context_training.calibration(networks, [source()], 1, seed=0)[0]
    for level, (network, whole) in enumerate(zip(networks, model.networks, strict=True)):
        assert isinstance(network, LevelNetwork)
        seen, details = crop[level]
        with torch.no_grad():
            found = whole.head(3, whole.trunk(seen), details) / OUTPUT_UNIT
            expected = network.head(3, network.trunk(seen), details)
        assert (found - expected)[:, 1].abs().quantile(0.95) < 0.25


def test_a_file_holds_what_was_put_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "_FOLDER", tmp_path)
    packaged._coding.cache_clear()
    networks, model = random_networks(0), whole_model()
    (tmp_path / "tiny.safetensors").write_bytes(packaged.to_bytes(networks, model, {"scenes": ["a"], "seed": 3}))
    try:
        assert packaged.names() == ("tiny",)
        assert packaged.record("tiny") == {"scenes": ["a"], "seed": 3, "spec": model.to_spec()}
        for name, value in packaged.networks("tiny").state_dict().items():
            assert torch.equal(value, networks.state_dict()[name].half().float())
        found = packaged.codec("tiny", "int16", 2).model
        tensors = model.to_tensors()
        assert found.to_tensors().keys() == tensors.keys()
        assert all(torch.equal(value, tensors[name]) for name, value in found.to_tensors().items())
    finally:
        packaged._coding.cache_clear()
