"""Speed beside OpenJPEG: equal PSNR, processes that share the chunks, memory of windows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed; pip install '.[peers]'")

from benchmarks import archive_scenes, throughput, throughput_memory
from benchmarks.archive_scenes import masked
from benchmarks.throughput import equal_knobs, knob_for
from benchmarks.throughput_crew import OURS, PEER, crew, openjpeg
from benchmarks.throughput_memory import mirrored
from benchmarks.transform_cases import smooth
from harmonium.pipeline.grid import Tile

from .tiny_transform import model


def test_a_knob_is_found_by_its_psnr() -> None:
    knob, psnr = knob_for(lambda place: 10 * place, 33.3, 0.0, 8.0)
    assert psnr == pytest.approx(33.3, abs=0.05)
    assert knob == psnr / 10


def test_openjpeg_gives_back_pixels_of_the_same_type() -> None:
    for dtype in ("uint8", "int16", "uint16"):
        pixels = smooth((3, 64, 70), dtype, 0)
        coder = openjpeg()
        stored = coder.encode(pixels, 100.0)
        decoded = coder.decode(stored)
        assert decoded.dtype == pixels.dtype
        assert np.abs(decoded.astype(int) - pixels).max() <= 3
        assert coder.nbytes(stored) == sum(map(len, stored))


def test_chunks_are_mirrored_at_the_edges() -> None:
    pixels = np.arange(12).reshape(1, 3, 4)
    around = np.pad(pixels, ((0, 0), (0, 3), (0, 4)), mode="symmetric")
    found = mirrored(pixels, Tile(col_off=2, row_off=1, width=6, height=5))
    assert np.array_equal(found, around[:, 1:6, 2:8])


@pytest.mark.slow
def test_both_codecs_come_to_the_same_psnr() -> None:
    scene = masked("smooth", smooth((2, 600, 530), "uint16", 1), None)
    with crew(scene, model(), processes=2, most=None) as working:
        knobs = equal_knobs(working, scene, 45.0)
        assert knobs[OURS][1] == pytest.approx(45, abs=0.2)
        assert knobs[PEER][1] == pytest.approx(knobs[OURS][1], abs=0.2)
        assert working.megabytes == scene.pixels.nbytes / 1e6


@pytest.mark.slow
def test_the_command_compares_speeds_and_measures_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(archive_scenes, "load", lambda name, _: masked(name, smooth((2, 80, 90), "uint16", 1), None))
    (tmp_path / "model").write_bytes(model())
    command = ["--model", str(tmp_path / "model"), "--out", str(tmp_path), "--scenes", "naip-5m"]
    throughput.main([*command, "--repeats", "2", "--processes", "1", "--window", "100"])
    text = capsys.readouterr().out
    assert "| naip-5m | OpenJPEG | 0.0 |" in text
    found = json.loads((tmp_path / "throughput.json").read_text())["measured"]
    assert len(found["scenes"]["naip-5m"]["ratio"]["encode"]) == 2
    assert found["memory"]["decode"]["most"] >= found["memory"]["decode"]["before"] > 1 << 20


def test_it_explains_itself() -> None:
    with pytest.raises(SystemExit, match="0"):
        throughput.main(["--help"])
    assert throughput_memory.high_water() > 1 << 20
