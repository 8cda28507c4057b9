from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from harmonium.errors import ModelError
from harmonium.models import model_file
from harmonium.models.model_file import GroupModel

from .tiny_models import by_hand, fitted_codec, smooth_pixels

Header = dict[str, Any]

GOLDEN_SHA256 = "0304d43e7963c8257ba8cb2e7a8699c53d8fc9339f587f99363ccd859bb9021f"
"""Of the model made by hand: a change is a new version of the format."""


def hand_made(resolution: float | None = 10.0, bands: int = 2) -> GroupModel:
    return GroupModel(
        preset="real-rbm",
        bands=tuple(f"B{band + 2:02}" for band in range(bands)),
        resolution=resolution,
        codec=by_hand(bands),
        training={"seed": 7, "held_out": {"psnr_db": 31.25}},
    )


def golden() -> bytes:
    return model_file.to_bytes({"r10m": hand_made()})


def test_golden_bytes() -> None:
    assert hashlib.sha256(golden()).hexdigest() == GOLDEN_SHA256
    assert model_file.from_bytes(golden()).sha256 == GOLDEN_SHA256


@pytest.mark.parametrize(("preset", "dtype"), [("real-rbm", "uint16"), ("binary-rbm", "uint8")])
def test_models_come_back(preset: str, dtype: str) -> None:
    original = GroupModel(
        preset=preset,
        bands=("a", "b"),
        resolution=None,
        codec=fitted_codec(preset, dtype, 2),
        training={"x": [1, None]},
    )
    groups = {"r10m": original, "r20m": hand_made(20.0)}
    made = model_file.make(groups)
    assert list(made.groups) == ["r10m", "r20m"]
    assert model_file.to_bytes(made.groups) == made.data
    found = made.groups["r10m"]
    assert (found.preset, found.bands, found.resolution) == (preset, ("a", "b"), None)
    assert found.training == {"x": [1, None]}
    assert found.codec.radiometry == original.codec.radiometry
    pixels = smooth_pixels((2, 20, 20), dtype)
    assert found.codec.compress(pixels, 0).payload == original.codec.compress(pixels, 0).payload
    assert made.groups["r20m"].resolution == 20.0


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", "a b", "ä", "r10m\n", "x" * 101])
def test_group_names_that_could_be_paths(name: str) -> None:
    with pytest.raises(ValueError, match=r"Group name .*expected at most 100 letters"):
        model_file.to_bytes({name: hand_made()})
    with pytest.raises(ModelError, match="Group name"):
        model_file.from_bytes(changed(lambda header, _: header["groups"].update({name: header["groups"].pop("r10m")})))


def changed(change: Callable[[Header, dict[str, Tensor]], object], data: bytes | None = None) -> bytes:
    """A model file after a change of its header and tensors."""
    data = golden() if data is None else data
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["harmonium"])
    tensors = load(data)
    change(header, tensors)
    return save(tensors, metadata={"harmonium": json.dumps(header)})


def entry(path: str, value: object) -> Callable[[Header, dict[str, Tensor]], object]:
    """A change of one entry of the group's header, `path` split at dots."""

    def change(header: Header, _: dict[str, Tensor]) -> None:
        *outer, last = path.split(".")
        target = header["groups"]["r10m"]
        for key in outer:
            target = target[key]
        target[last] = value

    return change


def tensor(name: str, value: Tensor | None) -> Callable[[Header, dict[str, Tensor]], object]:
    def change(_: Header, tensors: dict[str, Tensor]) -> None:
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value

    return change


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, _: header.update(format=2), "format 2; this harmonium reads format 1: upgrade it"),
        (lambda header, _: header.pop("format"), "not a harmonium model file"),
        (lambda header, _: header.update(groups=[]), "'groups': expected dict, found list"),
        (lambda header, tensors: (header.update(groups={}), tensors.clear()), "no resolution group"),
        (lambda header, _: header["groups"].update(r10m=3), "contradicts itself"),
        (lambda header, _: header["groups"].update(r20m=header["groups"]["r10m"]), "found nothing"),
        (entry("preset", "jpeg"), "preset 'jpeg', this harmonium has .*binary-rbm.*real-rbm.*; upgrade"),
        (entry("preset", ["jpeg"]), "'preset': expected str, found list"),
        (entry("prior", "packed"), "Code prior 'packed': expected arrays"),
        (entry("prior", {}), "'prior': expected str, found dict"),
        (entry("bands", ["B02"]), "Expected 2 names of bands, found 1"),
        (entry("bands", "ab"), "'bands': expected list, found str"),
        (entry("bands", [1, 2]), "names of bands"),
        (entry("resolution", "10"), "'resolution': expected float or int or NoneType, found str"),
        (entry("resolution", 0), "resolution above 0, found 0"),
        (entry("resolution", NAN), "not a harmonium model file"),
        (entry("training", []), "'training': expected dict"),
        (entry("radiometry", 1), "'radiometry': expected dict"),
        (entry("radiometry.dtype", 7), "'dtype': expected str"),
        (entry("radiometry.dtype", "float64"), "must be one of uint8, int16, uint16, float32, got float64"),
        (entry("radiometry.offset", ["1", "2"]), "expected float or int, found str"),
        (entry("radiometry.offset", [1e300, 0]), "finite and scales positive in float32"),
        (entry("radiometry.scale", [True, 1]), "expected float or int, found bool"),
        (entry("radiometry.scale", [0, 1]), "scales positive"),
        (entry("radiometry.scale", [1e-45, 1]), "scales positive in float32"),
        (entry("radiometry.scale", [1]), "needs an offset and a scale, got 2 and 1"),
        (entry("radiometry.peak", 10**400), "contradicts itself"),
        (entry("radiometry.peak", 0), "range for PSNR must be positive"),
        (entry("transform", {}), "KeyError"),
        (entry("transform.bands", 3), "3 bands of 'values' needs 192 visible units, found 128"),
        (entry("transform.bands", 1 << 60), "1 to 4096 bands"),
        (entry("transform.units", "bits"), "needs 512 visible units"),
        (entry("transform.stack.sizes", [65536, 65536]), r"'spacing': expected \(65536,\)"),
        (entry("transform.stack.sizes", [1] * 100_000), "2 to 16 layers"),
        (entry("transform.stack.hidden", "exec"), "Unknown activation 'exec'"),
        (tensor("r10m/transform/low", None), "'low': expected .* found nothing"),
        (tensor("r10m/transform/encoder.0.bias", torch.full((8,), NAN)), "expected finite numbers"),
        (tensor("r10m/transform/spacing", -torch.ones(8)), "'spacing': expected numbers above 0"),
        (tensor("r10m/transform/states", torch.full((8,), 65, dtype=torch.int32)), "numbers of states differ"),
        (
            tensor("r10m/prior/states", torch.full((8,), 64.0)),
            "'prior/states': expected torch.int32, found torch.float32",
        ),
        (tensor("r10m/prior/frequencies", -torch.ones(512, dtype=torch.int32)), "frequencies of at least 1"),
        (tensor("r10m/more", torch.zeros(1)), "'r10m/more' belongs to none of the groups r10m"),
        (tensor("r10m", torch.zeros(1)), "belongs to none"),
        (tensor("other/transform/low", torch.zeros(1)), "belongs to none"),
    ],
)
def test_files_that_contradict_themselves(change: Callable[[Header, dict[str, Tensor]], object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model_file.from_bytes(changed(change))


def raw(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        b"PK\3\4" + bytes(100),
        raw(b"{}"),
        raw(b"[]"),
        raw(b'{"__metadata__": {"other": "1"}}'),
        raw(b'{"__metadata__": {"harmonium": "[1]"}}'),
        raw(b'{"__metadata__": {"harmonium": "{"}}'),
        raw(b"[" * 200_000),
        raw(b'{"__metadata__": {"harmonium": "' + b"[" * 200_000 + b'"}}'),
        raw(b"\xff\xfe"),
        raw(b"{}", length=1 << 62),
        raw(b" " * (5 << 20) + b"{}"),
    ],
    ids=range(13),
)
def test_files_that_are_no_models(data: bytes) -> None:
    with pytest.raises(ModelError, match="not a harmonium model file; `harmonium fit` makes one"):
        model_file.from_bytes(data)


def test_files_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match="at most 100 bytes, found"):
        model_file.from_bytes(golden())


@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 3))
def test_damaged_files_load_or_are_refused(position: int, value: int, cut: int) -> None:
    data = bytearray(golden())
    data[position % len(data)] = value
    try:
        found = model_file.from_bytes(bytes(data[: len(data) - cut]))
    except ModelError as error:
        assert len(str(error)) > 20  # noqa: PT017 - some changes are only of numbers
    else:
        codec = next(iter(found.groups.values())).codec
        assert np.isfinite(codec.compress(np.full((2, 8, 9), 7, codec.radiometry.dtype), 0).quality.squared_error).all()


def test_numbers_of_a_prior_beyond_32_bits() -> None:
    class Wide:
        kind = "wide"
        states = by_hand().prior.states

        def encode(self, codes: Any) -> bytes:
            raise NotImplementedError

        def decode(self, data: bytes, cells: int) -> Any:
            raise NotImplementedError

        def to_arrays(self) -> dict[str, Any]:
            return {"states": np.array([1 << 40])}

    group = replace(hand_made(), codec=replace(by_hand(), prior=Wide()))
    with pytest.raises(ValueError, match="must fit 32 bits, found 1099511627776"):
        model_file.to_bytes({"r10m": group})


def test_the_training_record_is_json_without_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        model_file.to_bytes({"r10m": replace(hand_made(), training={"psnr": NAN})})


def test_a_file_is_not_changed_by_use() -> None:
    made = model_file.make({"r10m": hand_made()})
    before = copy.deepcopy(made.data)
    made.groups["r10m"].codec.compress(smooth_pixels((2, 16, 16), "uint16"), 0)
    assert model_file.to_bytes(made.groups) == before
