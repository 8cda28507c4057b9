"""Every benchmark runs at its smallest size and writes what it found; the orientation numbers against closed forms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

from benchmarks.common import ROOT, Report, Table, publish
from benchmarks.measured import overall
from benchmarks.orientation import gaussian_bound, principal_components, to_cells
from harmonium.models import model_file
from harmonium.models.model_file import GroupModel
from harmonium.models.quality import measure

from .tiny_models import by_hand

NAMES = ("codec_dtype", "large_scene", "quality", "restart")


def run(name: str, out: Path, *options: str) -> str:
    """Markdown of a benchmark, run as people run it."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("skipped:"):
        pytest.skip(done.stdout.strip())
    assert json.loads((out / f"{name}.json").read_text())["measured"]
    assert (out / f"{name}.md").read_text() == done.stdout
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_explains_itself(name: str) -> None:
    module = pytest.importorskip(f"benchmarks.{name}")
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model file for the demo scene's 10 m bands that needs no training."""
    bands = ("B02", "B03", "B04", "B08")
    group = GroupModel(preset="real-rbm", bands=bands, resolution=10.0, codec=by_hand(4), training={})
    path = tmp_path / "by-hand.harmonium"
    path.write_bytes(model_file.to_bytes({"r10m": group}))
    return str(path)


def test_codec_dtype_compares_both_kinds_of_layers(tmp_path: Path, model: str) -> None:
    small = ("--size", "256", "--chunk", "64", "--chunks", "1", "--repeats", "1", "--model", model)
    assert "| 2 | bfloat16 |" in run("codec_dtype", tmp_path, *small)


@pytest.mark.slow
def test_quality_measures_the_unseen_half(tmp_path: Path) -> None:
    small = ("--parts", "rate", "--size", "1024", "--bits", "0.5", "--effort", "0.001")
    text = run("quality", tmp_path, *small)
    assert "unseen 512 × 1024 pixels" in text
    assert "| JPEG 2000 |" in text


@pytest.mark.slow
def test_quality_keeps_scenes_apart_and_stages_too(tmp_path: Path) -> None:
    text = run("quality", tmp_path, "--parts", "stages", "apart", "--size", "256", "--effort", "0.001")
    assert "contrastive divergence only" in text


@pytest.mark.slow
def test_large_scene_measures_memory_and_speed(tmp_path: Path, model: str) -> None:
    text = run("large_scene", tmp_path, "--size", "2304", "--side-chunks", "1", "--model", model)
    assert "| tasks per shard | 4 / 4 = 1 |" in text


@pytest.mark.slow
def test_restart_gives_the_same_bytes(tmp_path: Path, model: str) -> None:
    text = run("restart", tmp_path, "--size", "4300", "--runs", "1", "--model", model)
    assert "| yes | pass |" in text


def test_reports_are_markdown_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title="Numbers", columns=("what", "value"), rows=(("one", "1"),))
    publish(Report(name="made_up", tables=[table], notes=["A note."], measured={"one": 1}), tmp_path)
    text = capsys.readouterr().out
    assert "### Numbers\n\n| what | value |\n| --- | --- |\n| one | 1 |\n\n- A note.\n" in text
    document = json.loads((tmp_path / "made_up.json").read_text())
    assert document["measured"] == {"one": 1}
    assert {"date", "command", "commit", "machine", "versions"} <= document.keys()


def test_gaussian_bound_of_white_noise_is_its_variance_divided_by_four_for_each_bit() -> None:
    pixels = np.random.default_rng(0).normal(size=(1, 1024, 1024)) * 7
    variances = to_cells(pixels).var(axis=0, ddof=1)
    for bits in (1.0, 2.0):
        assert gaussian_bound(pixels, bits=bits) == pytest.approx(variances.mean() / 4**bits, rel=0.01)


def test_gaussian_bound_leaves_components_below_the_water_alone() -> None:
    # One component of variance v and 63 of none: all 8 bits of a cell go to the one.
    values = np.random.default_rng(1).normal(size=(64, 64)) * 1e6
    pixels = np.kron(values, np.ones((8, 8)))[np.newaxis]
    expected = 64 * values.var(ddof=1) / 4**8 / 64
    assert gaussian_bound(pixels, bits=8 / 64) == pytest.approx(expected, rel=1e-6)


def test_as_many_components_as_pixels_with_fine_states_give_the_pixels_back() -> None:
    pixels = np.random.default_rng(2).integers(0, 1000, (2, 96, 96), dtype=np.uint16)
    decoded, original = principal_components(pixels, pixels, components=128, states=1 << 20)
    assert np.array_equal(decoded, original)
    assert np.array_equal(original[0, :64, 0].reshape(8, 8), pixels[0, :8, :8])


def test_overall_psnr_is_of_the_mean_error_of_all_bands() -> None:
    original = np.zeros((2, 8, 8), np.uint8)
    decoded = np.stack([np.full((8, 8), 3, np.uint8), np.full((8, 8), 4, np.uint8)])
    quality = measure(original, decoded, np.ones(original.shape, np.bool_), 1)
    assert overall(quality, 255.0) == pytest.approx(10 * np.log10(255**2 / 12.5))
