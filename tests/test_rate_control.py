"""One step for a group: that it gives what was asked, wherever it is found, and what is looked at to find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium import open_scene
from harmonium.errors import SceneError
from harmonium.models.targets import Psnr, Ratio, Step
from harmonium.pipeline import rate_control, scene_layout
from harmonium.pipeline.archive import Archive, create_archive
from harmonium.pipeline.cluster import InProcess, OnDask
from harmonium.pipeline.grid import TileGrid
from harmonium.pipeline.rate_control import (
    Sample,
    StepFailed,
    StepFound,
    StepRequest,
    choose_sample,
    find_steps,
    spread,
)
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import Scene

from .archives import any_rate, compress, local_cluster, pixels
from .conftest import MakeScene
from .tiny_models import smooth_pixels

pytestmark = pytest.mark.usefixtures("fresh_models")

PEAK = 10_000.0


def noisy(shape: tuple[int, int, int], seed: int = 0) -> NDArray[Any]:
    """Smooth pixels, noisier from left to right."""
    rng = np.random.default_rng(seed)
    deviation = np.linspace(5, 200, shape[2])
    return (smooth_pixels(shape, "uint16", seed) + deviation * rng.normal(size=shape)).clip(1, 65_535).astype(np.uint16)


def request(archive: Archive, scene: Scene, asked: Psnr | Ratio) -> StepRequest:
    model = any_rate(scene.groups[0].shape[0])
    archive.add_model(model)
    (group,) = scene.groups
    return StepRequest(
        url=archive.url,
        model=model.sha256,
        peak=PEAK,
        scene_id=scene.id,
        group=group,
        grid=scene_layout.grid_of(group),
        asked=asked,
    )


def sample_of(scene: Scene) -> Sample:
    (group,) = scene.groups
    return choose_sample(group, scene_layout.grid_of(group), InProcess())


def achieved(archive: Archive, scene_id: str = "here") -> tuple[float, float]:
    """PSNR of all bands together, from the stored pixels' own sums, and bytes of pixels for each byte stored."""
    group = archive[scene_id]["r10m"]
    quality = group.quality()
    mse = float(quality.squared_error.sum() / quality.count.sum())
    return 10 * np.log10(group.peak**2 / mse), group.image.nbytes / quality.nbytes


# --- what was asked is met -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [Psnr(42), Psnr(55), Ratio(5)])
def test_a_small_scene_is_measured_whole(
    tmp_path: Path, make_scene: MakeScene, small_chunks: None, asked: Psnr | Ratio
) -> None:
    array = noisy((2, 70, 60))
    array[:, :50, :20] = 0
    archive, events = compress(tmp_path / "a.zarr", [make_scene(array, nodata=0)], any_rate(2), target=asked)
    found = next(event for event in events if isinstance(event, StepFound))
    group = archive["here"]["r10m"]
    assert (group.target, group.asked) == (found.step, asked)
    psnr, ratio = achieved(archive)
    if isinstance(asked, Psnr):
        assert psnr == pytest.approx(asked.decibels, abs=0.1)
    else:
        assert ratio == pytest.approx(asked.ratio, rel=0.02)


@pytest.mark.parametrize("asked", [Psnr(42), Ratio(3)])
def test_a_large_scene_is_sampled(
    tmp_path: Path, make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch, asked: Psnr | Ratio
) -> None:
    for name, value in (("WINDOW", 64), ("LEAST", 8), ("MOST", 12)):
        monkeypatch.setattr(rate_control, name, value)
    scene = make_scene(noisy((1, 400, 320)).mT)  # noisier from top to bottom
    assert len(sample_of(scene).windows) == 8 < 35
    archive, _ = compress(tmp_path / "a.zarr", [scene], any_rate(1), target=asked)
    psnr, ratio = achieved(archive)
    if isinstance(asked, Psnr):
        assert psnr == pytest.approx(asked.decibels, abs=0.1)
    else:
        assert ratio == pytest.approx(asked.ratio, rel=0.03)  # a window of 64 pixels is coded unlike a chunk


def test_a_psnr_for_each_band(tmp_path: Path, make_scene: MakeScene, small_chunks: None) -> None:
    asked = Psnr((42, 50))
    archive, _ = compress(tmp_path / "a.zarr", [make_scene(noisy((2, 60, 70)))], any_rate(2), target=asked)
    group = archive["here"]["r10m"]
    np.testing.assert_allclose(group.quality().psnr(group.peak), [42, 50], atol=0.1)
    assert isinstance(group.target, Step)
    assert isinstance(group.target.step, tuple)


@pytest.mark.parametrize("asked", [Psnr(48), Ratio(4)])
def test_a_real_scene(tmp_path: Path, shared_data: Path, asked: Psnr | Ratio) -> None:
    path = shared_data / "sentinel-2-l1c" / "virginia" / "virginia_60m.tif"
    scene = open_scene(path, scene_id="here")
    model = _model_for(scene.groups[0])
    archive, _ = compress(tmp_path / "a.zarr", [scene], model, target=asked)
    group = next(iter(archive["here"].values()))
    quality = group.quality()
    if isinstance(asked, Psnr):
        assert quality.psnr_together(group.peak) == pytest.approx(asked.decibels, abs=0.1)
    else:
        assert group.image.nbytes / quality.nbytes == pytest.approx(asked.ratio, rel=0.02)


def _model_for(group: ResolutionGroup) -> Any:
    from dataclasses import replace

    from harmonium.models import model_file

    (made,) = any_rate(len(group.bands), group.dtype.name).groups.values()
    return model_file.make({group.name: replace(made, bands=group.bands)})


# --- where it is found ---------------------------------------------------------------------------------------------


def test_same_step_in_process_and_on_dask(
    tmp_path: Path, make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_control, "_is_small", lambda request: request.scene_id == "small")
    # Workers do not know of these: the small scene, whose windows they choose, is a single one either way.
    for name, value in (("WINDOW", 64), ("LEAST", 4), ("MOST", 4)):
        monkeypatch.setattr(rate_control, name, value)
    archive = create_archive(tmp_path / "a.zarr")
    scenes = [make_scene(noisy((1, 60, 50), seed=1), "small"), make_scene(noisy((1, 180, 190), seed=2), "large")]
    assert len(sample_of(scenes[1]).windows) == 4
    requests = [request(archive, scene, Psnr(45)) for scene in scenes]
    here = list(find_steps(requests, InProcess()))
    assert [type(each) for each in here] == [StepFound, StepFound]
    with local_cluster(2) as client:
        assert list(find_steps(requests, OnDask(client, "two workers"))) == here


def test_a_scene_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path, make_scene: MakeScene) -> None:
    archive = create_archive(tmp_path / "a.zarr")
    scenes = [make_scene(pixels((1, 64, 64), seed=seed), name) for seed, name in enumerate(("poison", "sound"))]
    requests = [request(archive, scene, Psnr(45)) for scene in scenes]
    file = Path(scenes[0].source[0])
    file.write_bytes(file.read_bytes()[:2000])
    failed, found = find_steps(requests, InProcess())
    assert isinstance(failed, StepFailed)
    assert isinstance(failed.error, SceneError)
    assert isinstance(found, StepFound)
    assert (failed.scene_id, found.scene_id) == ("poison", "sound")


def test_what_no_step_gives_is_refused(tmp_path: Path, make_scene: MakeScene) -> None:
    archive = create_archive(tmp_path / "a.zarr")
    scene = make_scene(pixels((1, 64, 64)))
    (failed,) = find_steps([request(archive, scene, Ratio(1e5))], InProcess())
    assert isinstance(failed, StepFailed)
    assert "Scene here, group r10m: no step gives ratio 100000; the nearest, step" in str(failed.error)


@pytest.mark.parametrize("value", [0, 7])
def test_scenes_of_one_value_and_without_data(tmp_path: Path, make_scene: MakeScene, value: int) -> None:
    scene = make_scene(np.full((1, 100, 100), value, np.uint16), nodata=0)
    archive, _ = compress(tmp_path / "a.zarr", [scene], any_rate(1), target=Psnr(45))
    assert archive["here"].state == "complete"
    np.testing.assert_array_equal(np.asarray(archive["here"]["r10m"].image[:]), value)


# --- what is looked at ---------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_any_number_of_windows_lies_evenly(rows: int, columns: int, data: st.DataObject) -> None:
    grid = TileGrid(height=rows * 16 - 3, width=columns * 16 - 5, chunk=16)
    order = spread(grid)
    assert sorted(order, key=lambda tile: (tile.row_off, tile.col_off)) == list(grid.chunks())
    count = data.draw(st.integers(1, len(order)))
    chosen = np.zeros((rows, columns))
    for tile in order[:count]:
        chosen[tile.row_off // 16, tile.col_off // 16] = 1
    share = count / len(order)
    for part in (chosen[: rows // 2], chosen[rows // 2 :], chosen[:, : columns // 2], chosen[:, columns // 2 :]):
        if part.size:
            assert abs(part.sum() - share * part.size) <= 1 + max(part.shape) / 4


def test_mostly_empty_scenes_are_looked_at_more(make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WINDOW", 32), ("LEAST", 8), ("MOST", 8)):
        monkeypatch.setattr(rate_control, name, value)
    array = pixels((1, 320, 320))
    full = sample_of(make_scene(array, "full", nodata=0))
    array[:, :, 80:] = 0
    sparse = sample_of(make_scene(array, "sparse", nodata=0))
    assert len(full.windows) == 8
    assert 16 <= len(sparse.windows) <= 32
    assert all(tile.col_off < 80 for tile in sparse.first)
    assert sparse.side == 0


def test_a_small_group_is_looked_at_in_its_own_chunks(make_scene: MakeScene, small_chunks: None) -> None:
    sample = sample_of(make_scene(pixels((1, 150, 70))))
    assert (len(sample.windows), sample.side, sample.first) == (6, 64, [])
