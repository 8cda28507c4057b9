"""The parts of the lecture's comparison: pictures, distortion, fits that are kept, tables."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

from dataclasses import replace
from pathlib import Path

from benchmarks import lecture_fits, lecture_scenes
from benchmarks.common import Skipped
from benchmarks.lecture_fits import MACHINES, PRESETS, RATIOS, WHOLE, Job, preset_of
from benchmarks.lecture_measure import Distortion, codes_of, distortion, measure
from benchmarks.lecture_scenes import Picture, cells_at_random, to_8_bits, whole_cells
from harmonium.models import presets
from harmonium.models.deep_training import Stages

from .archives import pixels
from .tiny_models import by_hand


def test_cells_are_windows_of_the_picture() -> None:
    picture = np.arange(2 * 20 * 24).reshape(2, 20, 24)
    cells = cells_at_random(picture, 500, np.random.default_rng(0))
    assert cells.shape == (500, 2, 8, 8)
    corner = cells[:, 0, 0, 0]
    rows, columns = corner // 24, corner % 24
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 12, 0, 16)  # every offset, the last included
    for cell, row, column in zip(cells[:20], rows, columns, strict=False):
        np.testing.assert_array_equal(cell, picture[:, row : row + 8, column : column + 8])


def test_bands_are_stretched_over_eight_bits() -> None:
    band = np.linspace(1000, 9000, 10_000).reshape(100, 100).astype(np.uint16)
    stretched = to_8_bits(band)
    assert stretched.dtype == np.uint8
    assert (stretched.min(), stretched.max()) == (0, 255)
    assert np.corrcoef(band.ravel(), stretched.ravel())[0, 1] > 0.999
    assert to_8_bits(stretched) is stretched


def test_only_whole_cells_are_measured() -> None:
    np.testing.assert_array_equal(whole_cells(np.ones((3, 17, 15))), np.ones((3, 16, 8)))


def test_distortion_by_its_formulas() -> None:
    original = np.random.default_rng(0).integers(100, 4000, (4, 8, 8)).astype(np.uint16)
    decoded = (original + np.random.default_rng(1).integers(-50, 50, original.shape)).astype(np.uint16)
    found = distortion(Picture(name="", pixels=original, peak=10_000.0), decoded)
    angles, ndvi = [], []
    for y, x in np.ndindex(8, 8):
        a, b = original[:, y, x].astype(float), decoded[:, y, x].astype(float)
        angles.append(np.degrees(np.arccos(a @ b / np.sqrt((a @ a) * (b @ b)))))
        ndvi.append((b[3] - b[2]) / (b[3] + b[2]) - (a[3] - a[2]) / (a[3] + a[2]))
    mse = np.mean((original.astype(float) - decoded) ** 2)
    assert found.psnr == pytest.approx(10 * np.log10(1e8 / mse))
    assert found.spectral_angle == pytest.approx(np.mean(angles))
    assert found.ndvi_error == pytest.approx(np.sqrt(np.mean(np.square(ndvi))))
    black = distortion(Picture(name="", pixels=np.zeros_like(original), peak=10_000.0), np.zeros_like(original))
    assert (black.spectral_angle, black.ndvi_error) == (0, 0)
    assert distortion(Picture(name="", pixels=original[:1], peak=10_000.0), decoded[:1]).ndvi_error is None


def test_a_codec_is_measured_by_what_it_stores() -> None:
    codec, array = by_hand(2), pixels((2, 32, 48), "uint16")
    learn = [codes_of(codec, pixels((2, 64, 64), "uint16"))]
    found = measure(codec, Picture(name="", pixels=array, peak=10_000.0), learn)
    payload = codec.compress(array, -1.0).payload
    np.testing.assert_array_equal(found.decoded, codec.decompress(payload))
    np.testing.assert_array_equal(found.codes, codec.codes(payload))
    assert found.code_bits * array.size / 8 + found.container_bytes == len(payload)
    assert found.static_bits > 0
    assert found.neighbour_bits > 0


def test_jobs_are_every_preset_at_every_rate_and_its_parts() -> None:
    jobs = lecture_fits.jobs()
    assert len({job.name for job in jobs}) == len(set(jobs)) == len(jobs)
    for name in PRESETS:
        own = [job for job in jobs if job.preset == name]
        assert {job.bits for job in own if job.variant == WHOLE and not job.sentinel} == set(RATIOS.values())
        assert sum(job.sentinel for job in own) == 1
        assert {"random start"} < {job.variant for job in own}
    for job in jobs:
        preset = preset_of(job)
        assert (preset == presets.get(job.preset)) == (job.variant == WHOLE)
        if job.preset in MACHINES and "random" in job.variant:
            stages = getattr(preset, "stages", None)
            assert isinstance(stages, Stages)
            assert (stages.greedy, stages.joint) == (0, 0) < (stages.fine_tuning, 1)


def test_a_fit_is_kept_with_its_learning_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(count: int, seed: int = 0) -> np.ndarray:
        return cells_at_random(pixels((1, 64, 64), "uint8"), 400, np.random.default_rng(seed))

    monkeypatch.setattr(lecture_scenes, "training_cells", few)
    job = Job(preset="limited-state-autoencoder", bits=0.25)
    lecture_fits._fit(job, tmp_path, 0.002)
    # Nothing is missing: it is read, and not made again.
    monkeypatch.delattr(lecture_scenes, "training_cells")
    fit = lecture_fits.fit_all([job], tmp_path, 0.002, 1)[job]
    assert fit.record["curve"]
    assert {stage for stage, *_ in fit.record["curve"]} == {stage["stage"] for stage in fit.record["stages"]}
    assert fit.record["seconds"] > 0
    assert sum(np.log2(states) for states in fit.codec.transform.states) == 16
    with pytest.raises(FileNotFoundError):
        lecture_fits.load(job, tmp_path, 0.003)  # another effort is another fit


def test_what_is_measured_was_not_trained_on() -> None:
    trained = {file for files, _ in lecture_scenes._SHARES for file in files}
    try:
        found = [*lecture_scenes.pictures(), *lecture_scenes.sentinel_pictures()]
    except Skipped as reason:
        pytest.skip(str(reason))
    for picture in found:
        assert not any(picture.name in file for file in trained if picture.name != "aerial")
        assert picture.pixels.shape[1] % 8 == picture.pixels.shape[2] % 8 == 0
    shares = [share for _, share in lecture_scenes.training_pictures()]
    assert sum(shares) == pytest.approx(1)


def test_goals_are_those_of_the_presets_that_were_asked_for() -> None:
    lecture = pytest.importorskip("benchmarks.lecture")
    row = lecture.Row(
        picture="aero",
        codec="binary-dbm",
        variant=WHOLE,
        bits=0.25,
        used=0.25,
        static=0.25,
        neighbour=0.25,
        container=56,
        distortion=Distortion(psnr=26.0),
    )
    found = lecture.goal_table([row, replace(row, codec="autoencoder", distortion=Distortion(psnr=40.0))]).rows
    assert [(line[0], line[2], line[4]) for line in found] == [
        ("best, ratio 32, aero", "26.00", "pass"),
        ("binary-dbm, ratio 32, aero", "26.00", "pass"),
    ]
    assert lecture.goal_table([replace(row, distortion=Distortion(psnr=23.9))]).rows[-1][-1] == "FAIL"
    assert lecture.goal_table([]).rows == ()
