"""The command measures what is missing, keeps it, and says what it left out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed; pip install '.[peers]'")

from benchmarks import archive_scenes, plane_codecs, rate_distortion
from benchmarks.archive_peers import LossyPeer, Point
from benchmarks.archive_scenes import Scene, masked
from benchmarks.bounded_peers import BOUNDS
from benchmarks.common import Skipped
from benchmarks.rate_tables import ANCHOR, LOSSY, bounded_table, delta_table

PEERS = ("jpeg-2000-per-band", "klt-jpeg-2000", "klt-hevc-intra", "lerc")


def made_up(name: str, size: int | None = None) -> Scene:
    """Two bands that rise and fall together."""
    waves = np.sin(np.arange(size or 64) / 5) * np.cos(np.arange(72)[:, None] / 9)
    noise = np.random.default_rng(len(name)).normal(size=(2, *waves.shape)) / 20
    pixels = 3000 + 900 * (waves + noise) * np.array([1, 0.8])[:, None, None]
    return masked(name, np.rint(pixels).astype(np.uint16), None)


def unavailable() -> plane_codecs.PlaneCodec:
    raise Skipped("no encoder for this test")


def test_a_second_run_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(archive_scenes, "load", made_up)
    out, work = tmp_path / "out", tmp_path / "work"
    monkeypatch.setitem(
        LOSSY,
        "KLT + HEVC intra",
        LossyPeer(name="KLT + HEVC intra", codec=unavailable, components=True),
    )
    arguments = ["--out", str(out), "--work", str(work), "--size", "64", "--scenes", "spyndex-10m", "naip-5m"]
    arguments += ["--peers", *PEERS]
    rate_distortion.main(arguments)
    first = capsys.readouterr().out
    assert "KLT + HEVC intra was left out: no encoder for this test." in first
    assert "| scene | KLT + JPEG 2000 |\n| --- | --- |\n| spyndex-10m | " in first
    assert "| naip-5m | LERC | " in first
    names = {f"rate_distortion.{kind}" for kind in ("md", "json", "csv", "png")}
    assert {file.name for file in out.iterdir()} == names | {
        "rate_distortion_spyndex-10m.png",
        "rate_distortion_naip-5m.png",
    }
    with (out / "rate_distortion.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["codec"] for row in rows} == {ANCHOR, "KLT + JPEG 2000", "LERC"}
    assert all(float(row["max_error_dn"]) <= float(row["bound_dn"]) for row in rows if row["bound_dn"])
    assert len(list(work.iterdir())) == 2 * 3

    def refuse(*_: object) -> list[Point]:
        raise AssertionError("measured again")

    monkeypatch.setattr(rate_distortion, "curve", refuse)
    monkeypatch.setattr(rate_distortion, "bounded_curve", refuse)
    rate_distortion.main([*arguments[:-4], *(peer for peer in PEERS if "hevc" not in peer)])
    document = json.loads((out / "rate_distortion.json").read_text())
    assert document["tables"][0]["rows"] == [list(line) for line in lines(first, "KLT + JPEG 2000")]


def lines(text: str, head: str) -> list[tuple[str, ...]]:
    """Cells of the first table that has this column."""
    table = text.split(f"| {head} |", 1)[1].split("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]


def points(factor: float) -> list[Point]:
    """A curve of 6 dB a bit, `factor` times as many bytes."""
    return [
        Point(nbytes=round(1000 * factor * bits), bits=factor * bits, psnr=30 + 6 * bits, max_error=1.0)
        for bits in (1.0, 2.0, 3.0, 4.0)
    ]


def test_the_mean_is_that_of_the_scenes() -> None:
    curves = {
        "one": {ANCHOR: points(1), "KLT + AVIF": points(0.8)},
        "two": {ANCHOR: points(1), "KLT + AVIF": points(1.4)},
        "three": {ANCHOR: points(1), "KLT + AVIF": points(1)[:1]},
    }
    table = delta_table(curves)
    assert table.columns == ("scene", "KLT + AVIF")
    assert table.rows == (
        ("one", "-20.0 % (38.0 to 54.0 dB)"),
        ("two", "+40.0 % (38.0 to 54.0 dB)"),
        ("three", "no common range"),
        ("mean of scenes", "+10.0 % of 2"),
    )


def test_bounded_codecs_have_a_row_for_each_scene() -> None:
    found = [Point(nbytes=1, bits=1 / (1 + bound), psnr=60.0, max_error=0.0) for bound in BOUNDS]
    table = bounded_table({"one": {ANCHOR: points(1), "LERC": found}})
    assert table.columns[:4] == ("scene", "codec", "exact", "1 DN")
    assert table.rows == (("one", "LERC", "1.000", "0.500", "0.333", "0.200", "0.111", "0.059", "0.030"),)


def test_it_explains_itself_and_refuses_other_peers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        rate_distortion.main(["--help"])
    with pytest.raises(SystemExit, match="2"):
        rate_distortion.main(["--peers", "gif"])
    assert "invalid choice: 'gif'" in capsys.readouterr().err
