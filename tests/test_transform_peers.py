"""Our codec among the archive's peers: points of what was decoded, curves that cover a range, bounds that hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed; pip install '.[peers]'")

from benchmarks import archive_scenes, rate_distortion, transform_models
from benchmarks.archive_peers import Point
from benchmarks.archive_scenes import Scene, masked
from benchmarks.bounded_peers import BOUNDS
from benchmarks.common import Skipped
from benchmarks.rate_tables import ANCHORS, OURS, OURS_BOUNDED, RIVALS, delta_table, shares_table
from benchmarks.transform_cases import smooth
from benchmarks.transform_peers import coded, transform_bounded, transform_curve
from harmonium.models.chunk_codec import Encoded
from harmonium.models.targets import Lossless, MaxError, Psnr, Step, Target

from .tiny_transform import model


def scene(height: int = 140, width: int = 150) -> Scene:
    return masked("smooth", smooth((2, height, width), "uint16", 3), None)


def codec() -> Any:
    return transform_models.codec(model(), "uint16", 2)


# --- points --------------------------------------------------------------------------------------------------------


def test_a_point_is_of_the_payloads_bytes_and_pixels() -> None:
    given = scene()
    encoded = codec().compress(given.pixels, float("nan"), Step(50))
    found = coded(given, codec(), Step(50))
    assert found.nbytes == len(encoded.payload)
    assert found.bits == 8 * len(encoded.payload) / given.pixels.size
    error = given.pixels.astype(np.float64) - codec().decompress(encoded.payload)
    assert found.max_error == np.abs(error).max()
    assert found.psnr == pytest.approx(10 * np.log10(1e8 / np.square(error).mean()))


def test_a_scene_of_several_chunks_is_put_together_again() -> None:
    given = scene(600, 530)
    found = coded(given, codec(), Lossless())
    assert found.max_error == 0
    assert found.psnr == np.inf


@dataclass(frozen=True)
class Rounding:
    """Rounds to multiples of a step; what that takes is made up."""

    asked: list[Target]

    def compress(self, pixels: Any, _fill: float, target: Target | None = None) -> Encoded:
        assert isinstance(target, Step)
        self.asked.append(target)
        assert isinstance(target.step, float)
        rounded = np.rint(np.rint(pixels / target.step) * target.step).astype(pixels.dtype)
        return Encoded(payload=rounded.tobytes(), quality=None, decoded=rounded)  # type: ignore[arg-type]

    def decompress(self, data: bytes, shape: tuple[int, int, int]) -> Any:
        return np.frombuffer(data, np.uint16).reshape(shape)


def test_a_curve_goes_beyond_both_ends_in_few_points() -> None:
    rounding = Rounding([])
    found = transform_curve(scene(), rounding, 38.0, 56.0)  # type: ignore[arg-type]
    decibels = [point.psnr for point in found]
    assert decibels == sorted(decibels)
    assert decibels[0] <= 38 < decibels[1]
    assert decibels[-2] < 56 <= decibels[-1]
    assert len(rounding.asked) == len(found) <= 12
    assert np.diff(decibels).max() < 4


def test_a_curve_ends_where_all_is_exact() -> None:
    flat = masked("flat", np.full((2, 70, 70), 9, np.uint16), None)
    found = transform_curve(flat, codec(), 38.0, 56.0)
    assert {point.psnr for point in found} == {np.inf}
    assert len(found) <= 11


def test_bounds_hold_and_are_verified() -> None:
    found = transform_bounded(scene(), codec(), (0, 3))
    assert found[0].max_error == 0
    assert found[1].max_error <= 3

    class Loose:
        def compress(self, pixels: Any, fill: float, target: Target) -> Encoded:
            return codec().compress(pixels, fill, Step(90) if isinstance(target, MaxError) else target)  # type: ignore[no-any-return]

        decompress = staticmethod(codec().decompress)

    with pytest.raises(RuntimeError, match="was to keep 3 DN on smooth, found"):
        transform_bounded(scene(), Loose(), (0, 3))  # type: ignore[arg-type]


# --- tables --------------------------------------------------------------------------------------------------------


def points(factor: float) -> list[Point]:
    return [
        Point(nbytes=round(1000 * factor * bits), bits=factor * bits, psnr=30 + 6 * bits, max_error=1.0)
        for bits in (1.0, 2.0, 3.0, 4.0)
    ]


def test_every_anchor_has_a_table() -> None:
    curves = {"one": {ANCHORS[0]: points(1), ANCHORS[1]: points(0.8), ANCHORS[2]: points(0.5), OURS: points(0.4)}}
    means = [dict(zip(table.columns, table.rows[-1], strict=True))[OURS] for table in tables(curves)]
    assert means == ["-60.0 % of 1", "-50.0 % of 1", "-20.0 % of 1"]


def tables(curves: Any) -> list[Any]:
    return [delta_table(curves, anchor) for anchor in ANCHORS]


def test_a_bound_is_compared_with_the_smallest_rival() -> None:
    def at_bounds(nbytes: int) -> list[Point]:
        return [Point(nbytes=nbytes, bits=1.0, psnr=60.0, max_error=0.0) for _ in BOUNDS]

    rivals = {name: at_bounds(1000 + 100 * place) for place, name in enumerate(RIVALS)}
    curves = {
        "one": {**rivals, OURS_BOUNDED: at_bounds(900)},
        "two": {**rivals, OURS_BOUNDED: at_bounds(1100)},
        "no rivals": {OURS_BOUNDED: at_bounds(1)},
    }
    table = shares_table(curves)
    assert table.columns[:3] == ("scene", "exact", "1 DN")
    assert [row[:2] for row in table.rows] == [("one", "-10.0 %"), ("two", "+10.0 %"), ("mean of 2", "+0.0 %")]


# --- command -------------------------------------------------------------------------------------------------------


def test_the_command_measures_with_the_model_of_the_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(archive_scenes, "load", lambda name, _: masked(name, scene(72, 80).pixels, None))
    (tmp_path / "fold_B.harmonium").write_bytes(model())
    command = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--size", "72"]
    command += ["--scenes", "spyndex-10m", "naip-5m", "--peers", "jpeg-2000-per-band", "harmonium-transform"]
    command += ["lerc", "sz3", "jpeg-xl-lossless", "harmonium-within-a-bound", "--models", str(tmp_path)]
    rate_distortion.main(command)
    text = capsys.readouterr().out
    assert f"{OURS} was left out: no {tmp_path}/fold_D.harmonium" in text
    assert f"| spyndex-10m | {OURS_BOUNDED} | " in text
    assert f"| scene | {OURS} |" in text
    document = json.loads((tmp_path / "out" / "rate_distortion.json").read_text())["measured"]
    assert document["share_of_best_at_bounds"].keys() == {"spyndex-10m"}
    kept = [file.name for file in (tmp_path / "work").iterdir() if "harmonium" in file.name]
    assert len(kept) == 2

    monkeypatch.setattr(transform_models, "codec", None)  # nothing is measured again
    rate_distortion.main(command)
    assert f"| spyndex-10m | {OURS_BOUNDED} | " in capsys.readouterr().out


def test_without_models_our_codec_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(Skipped, match="--models names no folder"):
        rate_distortion.own_model("spyndex-10m", OURS, None)
    with pytest.raises(Skipped, match=r"no .*fold_A\.harmonium"):
        rate_distortion.own_model("virginia-10m", OURS, tmp_path)
    assert rate_distortion.own_model("virginia-10m", "LERC", None) is None


def test_psnr_targets_are_no_steps() -> None:
    found = coded(scene(), codec(), Psnr(45))
    assert 45 <= found.psnr < 45.1
