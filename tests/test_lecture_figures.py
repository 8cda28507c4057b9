"""The lecture's figures are as large as their parts, show them, and do not show what they must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

import matplotlib as mpl

from benchmarks import lecture_figures
from benchmarks.lecture_curves import distinct, fine_tuning_curve, running_mean, stage_curves
from benchmarks.lecture_fits import MACHINES, PRESETS, WHOLE, Fit, Job
from benchmarks.lecture_measure import Distortion, Measured
from benchmarks.lecture_scenes import Picture

from . import tiny_models

Record = list[list[Any]]


def picture(height: int, width: int) -> Picture:
    pixels = tiny_models.smooth_pixels((1, height, width), "uint8")
    return Picture(name="made up", pixels=pixels, peak=255.0)


def measured(shown: Picture, psnr: float) -> Measured:
    decoded = np.repeat(np.repeat(shown.pixels[:, ::8, ::8], 8, 1), 8, 2)
    codes = np.zeros((4, *decoded[0, ::8, ::8].shape), np.int32)
    return Measured(
        decoded=decoded,
        codes=codes,
        code_bits=0.25,
        container_bytes=100,
        static_bits=0.2,
        neighbour_bits=0.15,
        distortion=Distortion(psnr=psnr),
    )


def fit(preset: str, variant: str, curve: Record) -> Fit:
    job = Job(preset=preset, bits=0.25, variant=variant)
    return Fit(job=job, codec=tiny_models.by_hand(1, "uint8"), record={"curve": curve})


def losses(stage: str, steps: int, first: float, last: float) -> Record:
    at = np.arange(20, steps + 1, 20)
    return [[stage, int(step), steps, float(first + (last - first) * step / steps)] for step in at]


def machine(preset: str, variant: str = WHOLE, last: float = 1.0) -> Fit:
    greedy = [losses(f"greedy-{number}", 100, 0.4, 0.2) for number in (1, 2)]
    tuned = [losses("joint", 60, 0.05, 0.02), losses("fine-tuning", 200, 9.0, last), losses("search", 100, last, 0.9)]
    return fit(preset, variant, [entry for stage in (*greedy, *tuned) for entry in stage])


def drawn(path: Path) -> NDArray[np.uint8]:
    """RGB (y, x, 3); small, with a palette."""
    assert path.stat().st_size < 600_000
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image.convert("RGB"))


def test_reconstructions_show_crops_as_they_are(tmp_path: Path) -> None:
    shown = picture(176, 200)
    by_ratio = {2: measured(shown, 40.0), 32: measured(shown, 25.0)}
    lecture_figures.reconstructions(tmp_path / "r.png", shown, {"binary-dbm": by_ratio, "real-dbm": by_ratio}, (8, 16))
    image = drawn(tmp_path / "r.png")
    side = 2 * lecture_figures.SIDE
    assert image.shape[0] > 2 * side
    assert image.shape[1] > 3 * side
    assert image.shape[1] < 4 * side
    # Somewhere there is the original's crop, each pixel as 2 × 2 points, and below it once more.
    crop = shown.pixels[0, 8:168, 16:176].astype(float)
    low, high = np.percentile(crop, (0.5, 99.5))
    expected = np.kron(((crop - low) / (high - low)).clip(0, 1) * 255, np.ones((2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(image[..., 0], (side, side))
    found = [
        (y, x)
        for y, x in np.ndindex(windows.shape[0], 60)
        if np.abs(windows[y, x, :8, :8] - expected[:8, :8]).max() < 8
        and np.abs(windows[y, x] - expected).max() < 8  # 128 colours
    ]
    assert len(found) == 2
    assert found[0][1] == found[1][1]


def test_reconstructions_need_the_same_ratios(tmp_path: Path) -> None:
    shown = picture(160, 160)
    with pytest.raises(ValueError, match=r"'binary-dbm': \[2\], 'real-dbm': \[32\]"):
        lecture_figures.reconstructions(
            tmp_path / "r.png", shown, {"binary-dbm": {2: measured(shown, 40)}, "real-dbm": {32: measured(shown, 25)}}
        )


def test_curves_of_all_presets(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    fits = [machine(name) for name in MACHINES]
    fits += [machine(name, "random start", 3.0) for name in MACHINES]
    fits += [fit(name, WHOLE, losses("fine-tuning-1", 100, 3, 2)) for name in PRESETS[3:]]
    fits += [fit("binary-dbm", "greedy only", losses("greedy-1", 100, 0.4, 0.2))]
    lecture_figures.learning_curves(tmp_path / "curves.png", fits)
    lecture_figures.machine_stages(tmp_path / "stages.png", fits)
    assert dict(mpl.rcParams) == before
    image = drawn(tmp_path / "curves.png")
    assert image.shape == (610, 960, 3)
    for colour in ((0x24, 0x68, 0xB4), (0xE0, 0x82, 0x14)):
        inked = np.abs(image.astype(int) - colour).max(2) < 24
        assert inked[:300].sum() > 200  # in the row of the machines
    stages = drawn(tmp_path / "stages.png")
    assert stages.shape[1] == 3 * 165
    assert (np.abs(stages.astype(int) - (0x24, 0x68, 0xB4)).max(2) < 24).sum() > 200
    with pytest.raises(ValueError, match="Expected fits that were fine-tuned"):
        lecture_figures.learning_curves(tmp_path / "none.png", fits[-1:])
    with pytest.raises(ValueError, match="Expected whole fits of deep Boltzmann machines"):
        lecture_figures.machine_stages(tmp_path / "none.png", fits[-2:])


def test_losses_are_psnr_of_pixels() -> None:
    """A cell whose 64 pixels are all wrong by 3 DN; the codec's scale is 16 DN, its peak 4096."""
    expected = 10 * np.log10(4096**2 / 9)
    for name, loss in {"binary-dbm": 64 * (3 / (255 * 16)) ** 2, "real-dbm": 64 * (3 / 16) ** 2}.items():
        curve = fine_tuning_curve(fit(name, WHOLE, losses("fine-tuning", 200, loss, loss)))
        assert curve is not None
        np.testing.assert_allclose(curve.values, expected)
        np.testing.assert_allclose(curve.smooth, expected)


def test_stages_follow_one_another() -> None:
    whole = machine("real-dbm")
    curve = fine_tuning_curve(whole)
    assert curve is not None
    assert curve.at.tolist() == list(range(20, 301, 20))
    assert curve.ends == (200,)
    assert (np.diff(curve.values) > 0).all()
    assert [(stage.label, stage.at[-1]) for stage in stage_curves(whole)] == [
        ("greedy-1", 100),
        ("greedy-2", 100),
        ("joint", 60),
    ]
    assert fine_tuning_curve(fit("real-dbm", "greedy only", losses("greedy-1", 100, 0.4, 0.2))) is None


def test_what_coincides_is_drawn_once() -> None:
    whole = fine_tuning_curve(machine("real-dbm"))
    other = fine_tuning_curve(machine("real-dbm", "random start", 3.0))
    shorter = fine_tuning_curve(fit("real-dbm", "without search", losses("fine-tuning", 200, 9.0, 1.0)))
    again = fine_tuning_curve(machine("real-dbm", "again"))
    for order in ([whole, other, shorter, again, None], [shorter, None, whole, again, other]):
        assert {curve.label for curve in distinct(order)} == {WHOLE, "random start"}


def test_running_means_are_those_of_loops() -> None:
    values = np.random.default_rng(0).normal(size=40)
    expected = [values[max(0, n - 2) : n + 3].mean() for n in range(40)]
    np.testing.assert_allclose(running_mean(values), expected)


def test_neighbours_are_shown_framed(tmp_path: Path) -> None:
    shown = picture(96, 128)
    codes = (shown.pixels[:, ::8, ::8] > np.median(shown.pixels)).astype(np.int32)
    queries = {"one": (1, 1), "two": (5, 9), "three": (10, 14)}
    lecture_figures.neighbours(tmp_path / "n.png", shown, codes, queries, codec="made up", count=4)
    image = drawn(tmp_path / "n.png")
    assert 3 * 96 < image.shape[0] < 4 * 96 + 80
    assert 5 * 96 < image.shape[1] < 6 * 96
    frames = (np.abs(image.astype(int) - (0xE0, 0x82, 0x14)).max(2) < 24).sum()
    assert frames > 3 * 5 * 4 * 32 * 0.9  # a point wide, 4 × 32 around each cell
    lecture_figures.neighbours(tmp_path / "again.png", shown, codes, queries, codec="made up", count=4)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "n.png").read_bytes()
    lecture_figures.neighbours(tmp_path / "other.png", shown, codes, queries, codec="made up", count=4, seed=1)
    assert (tmp_path / "other.png").read_bytes() != (tmp_path / "n.png").read_bytes()
    with pytest.raises(ValueError, match=r"not at the edge, found {'four': \(11, 3\)}"):
        lecture_figures.neighbours(tmp_path / "n.png", shown, codes, {"four": (11, 3)}, codec="made up")
    with pytest.raises(ValueError, match="give the codes of this picture"):
        lecture_figures.neighbours(tmp_path / "n.png", shown, codes[:, 1:], queries, codec="made up")
