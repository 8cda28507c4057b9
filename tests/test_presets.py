from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harmonium.models import model_file, presets
from harmonium.models.chunk_codec import ChunkCodec
from harmonium.models.presets import FitOptions, Fitted

from .tiny_models import blocks, fit, group, silent, smooth_pixels, transform_of

ALL = (
    "autoencoder",
    "binary-dbm",
    "binary-rbm",
    "limited-state-autoencoder",
    "real-dbm",
    "real-rbm",
    "tensor-dbm",
    "transform",
)
BOTH = [("real-rbm", "uint16"), ("binary-rbm", "uint8")]


def bytes_of(preset: str, fitted: Fitted) -> bytes:
    return model_file.to_bytes({"r10m": group(preset, fitted)})


def psnr(codec: ChunkCodec, bands: int, dtype: str) -> float:
    pixels = smooth_pixels((bands, 64, 64), dtype, seed=9)
    quality = codec.compress(pixels, np.nan).quality
    return float(quality.psnr(float(np.ptp(pixels))).min())


def test_presets_are_found_by_name() -> None:
    assert presets.names() == ALL
    assert presets.get("real-rbm").patch == 8
    with pytest.raises(ValueError, match=f"Unknown preset 'jpeg'; known are {', '.join(ALL)}"):
        presets.get("jpeg")


@pytest.mark.parametrize(("preset", "dtype"), BOTH)
def test_the_seed_decides_every_byte(preset: str, dtype: str) -> None:
    samples = blocks(260, 2, dtype)
    first, again, other = (bytes_of(preset, fit(preset, samples, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("preset", "dtype"), BOTH)
def test_a_fit_leaves_its_record(preset: str, dtype: str) -> None:
    reports: list[tuple[str, int, int, float]] = []
    fitted = presets.get(preset).fit(
        blocks(256, 1, dtype), FitOptions(seed=3, effort=0.003), lambda *report: reports.append(report)
    )
    record = json.loads(json.dumps(dict(fitted.record), allow_nan=False))
    assert record["seed"] == 3
    assert record["blocks"] == 256
    assert [stage["stage"] for stage in record["stages"]] == [
        "cd-1",
        "cd-2",
        *{"real-rbm": ["fine-tuning-1", "fine-tuning-2", "fine-tuning-3"], "binary-rbm": ["fine-tuning"]}[preset],
    ]
    assert set(record["held_out"]) == {"bits_per_pixel", "psnr_db"}
    assert {name: done for name, done, total, _ in reports if done == total} == {
        stage["stage"]: stage["steps"] for stage in record["stages"]
    }


@pytest.mark.parametrize(
    ("preset", "bands", "dtype"),
    [("real-rbm", 1, "uint16"), ("real-rbm", 13, "int16"), ("real-rbm", 3, "float32"), ("binary-rbm", 4, "uint8")],
)
def test_bands_and_types(preset: str, bands: int, dtype: str) -> None:
    fitted = fit(preset, blocks(256, bands, dtype))
    codec = group(preset, fitted).codec
    assert codec.radiometry.bands == bands
    assert codec.radiometry.dtype == dtype

    # A flat picture at the mean is some 15 dB.
    assert psnr(codec, bands, dtype) > (17 if preset == "real-rbm" else 10)


def test_the_rate_is_what_was_asked_for() -> None:
    samples = blocks(1024, 2, "uint16")
    for bits in (0.5, 2.0):
        record = fit("real-rbm", samples, bits=bits).record
        assert record["held_out"]["bits_per_pixel"] == pytest.approx(bits, rel=0.25)
    assert transform_of(fit("binary-rbm", blocks(256, 1, "uint8"), bits=0.5)).states == (2,) * 32


@pytest.mark.parametrize(("preset", "dtype"), [*BOTH, ("real-rbm", "float32")])
def test_scenes_without_texture(preset: str, dtype: str) -> None:
    samples = np.full((300, 2, 8, 8), 7, dtype)
    codec = model_file.make({"r10m": group(preset, fit(preset, samples))}).groups["r10m"].codec
    assert not codec.compress(samples[0], 0).quality.squared_error.any()
    assert np.isfinite(codec.compress(smooth_pixels((2, 20, 20), dtype), 0).decoded).all()


@pytest.mark.parametrize("bands", [1, 2])
def test_fine_tuning_starts_from_the_transform_and_not_from_its_ruins(bands: int) -> None:
    """With one band no component is discarded, and the machines' noise is a thousandth of a deviation."""
    stages = fit("real-rbm", blocks(512, bands, "uint16")).record["stages"]
    first_round = next(stage for stage in stages if stage["stage"] == "fine-tuning-1")
    assert first_round["last"] < 1.2 * first_round["first"]


def test_floats_take_their_peak_from_the_data() -> None:
    samples = blocks(300, 1, "float32")
    learned = samples[np.arange(300) % 10 != 9]
    assert fit("real-rbm", samples).radiometry.peak == pytest.approx(float(np.ptp(learned)), rel=1e-6)
    assert fit("real-rbm", samples, peak=2.0).radiometry.peak == 2.0


@pytest.mark.parametrize(
    ("preset", "shape", "dtype", "message"),
    [
        ("binary-rbm", (256, 1, 8, 8), "uint16", "binary-rbm codes 8-bit pixels, got uint16; use real-rbm"),
        ("binary-rbm", (255, 1, 8, 8), "uint8", "at least 256 blocks .* found 255; give more"),
        ("real-rbm", (255, 1, 8, 8), "uint8", "at least 256 blocks .* found 255; give more"),
        ("real-rbm", (256, 1, 16, 16), "uint8", r"blocks \(n, bands, 8, 8\).*got shape \(256, 1, 16, 16\)"),
        ("real-rbm", (256, 8, 8), "uint8", r"got shape \(256, 8, 8\)"),
        ("real-rbm", (256, 1, 8, 8), "float64", "of uint8, int16, uint16, float32, got .* of float64"),
    ],
)
def test_blocks_that_do_not_fit(preset: str, shape: tuple[int, ...], dtype: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(preset, np.zeros(shape, dtype))


def test_blocks_with_masked_pixels() -> None:
    samples = blocks(256, 1, "float32")
    samples[3, 0, 2, 2] = np.nan
    with pytest.raises(ValueError, match="found NaN or infinity; leave out blocks with masked pixels"):
        fit("real-rbm", samples)


def test_more_bits_than_a_pixel_has() -> None:
    with pytest.raises(ValueError, match="up to 8 bits per pixel, got bits=9"):
        fit("binary-rbm", blocks(256, 1, "uint8"), bits=9.0)


@pytest.mark.parametrize(
    "change",
    [{"effort": 0.0}, {"effort": float("inf")}, {"bits": -1.0}, {"bits": float("nan")}, {"peak": 0.0}, {"seed": -1}],
)
def test_options_that_cannot_be(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Expected effort, bits and peak above 0 and a seed"):
        FitOptions(**change)  # type: ignore[arg-type]


THIRD_PRESET = '''
"""A preset of somebody else: codes of the binary preset, under its own name."""

from harmonium.models.presets.binary_rbm import BinaryRbm


class Third(BinaryRbm):
    name = "third"


PRESET = Third()
'''


def test_a_file_is_all_that_a_preset_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "third_of_a_test.py").write_text(THIRD_PRESET)
    monkeypatch.setattr(presets, "__path__", [*presets.__path__, str(tmp_path)])
    assert presets.names() == tuple(sorted([*ALL, "third"]))
    made = model_file.make({"r10m": group("third", fit("third", blocks(256, 1, "uint8")))})
    assert model_file.from_bytes(made.data).groups["r10m"].preset == "third"
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match=f"preset 'third', this harmonium has {', '.join(ALL)}; upgrade it, or install"
    ):
        model_file.from_bytes(made.data)


def test_two_presets_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "twin_of_a_test.py").write_text(THIRD_PRESET.replace('"third"', '"real-rbm"'))
    monkeypatch.setattr(presets, "__path__", [*presets.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match=r"Two presets are called 'real-rbm'.*twin_of_a_test: rename it"):
        presets.names()


def test_reports_can_be_ignored() -> None:
    assert silent("cd-1", 1, 2, 0.5) is None  # type: ignore[func-returns-value]
