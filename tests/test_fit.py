from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.windows import from_bounds

import harmonium.models.presets
from harmonium import api
from harmonium.errors import SceneError, UsageError
from harmonium.models import model_file, presets
from harmonium.models.model_file import ModelFile
from harmonium.models.targets import Psnr
from harmonium.pipeline import fit as pipeline_fit
from harmonium.pipeline.cluster import Executor, InProcess, OnDask
from harmonium.pipeline.fit import SampleTask, clip, fit, fit_options, sample_tile
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import Scene, open_scene

from .archives import compress, local_cluster, pixels
from .conftest import UTM_10M, MakeScene, WriteGeotiff

pytestmark = pytest.mark.usefixtures("fresh_models")

QUICK = fit_options(effort=0.002)
TINY_TRANSFORM = fit_options(effort=0.001, settings=["trunk=4", "head=4", "start=None"])


@pytest.fixture(autouse=True)
def _small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_fit, "SAMPLE_PIXELS", 2000 * 64)


def quick_fit(scenes: list[Scene], executor: Executor | None = None, seed: int = 0) -> ModelFile:
    return fit(scenes, "real-rbm", fit_options(effort=0.002, seed=seed), executor or InProcess())


# --- the same bytes ------------------------------------------------------------------------------------------------


def test_the_same_scenes_and_seed_give_the_same_model_wherever_it_is_fitted(make_scene: MakeScene) -> None:
    scenes = [make_scene(pixels((2, 96, 80), seed=seed, hole=0), f"s{seed}", nodata=0) for seed in range(3)]
    first = quick_fit(scenes)
    assert quick_fit(scenes[::-1]).data == first.data
    assert quick_fit(scenes, seed=1).sha256 != first.sha256
    assert quick_fit(scenes[:2]).sha256 != first.sha256
    with local_cluster(1) as client:
        assert quick_fit(scenes, OnDask(client, "one worker")).data == first.data
        client.cluster.scale(2)
        client.wait_for_workers(2)
        assert quick_fit(scenes, OnDask(client, "two workers")).data == first.data
    assert model_file.from_bytes(first.data).groups["r10m"].bands == ("B01", "B02")


def test_progress_is_told_from_wherever_it_is_trained(make_scene: MakeScene) -> None:
    told: list[tuple[str, int, int]] = []

    def listen(stage: str, step: int, steps: int, value: float) -> None:
        assert np.isfinite(value)
        told.append((stage, step, steps))

    fit([make_scene(pixels((1, 64, 64)))], "real-rbm", QUICK, InProcess(), listen)
    assert {stage for stage, _, _ in told} >= {"r10m: cd-1", "r10m: cd-2"}
    assert all(stage.startswith("r10m: ") for stage, _, _ in told)
    assert all(1 <= step <= steps for _, step, steps in told)


def test_each_resolution_is_trained_by_itself(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    write_geotiff(tmp_path / "two" / "fine.tif", pixels((2, 64, 64)), descriptions=("B02", "B03"))
    coarse = rasterio.Affine(20, 0, UTM_10M.c, 0, -20, UTM_10M.f)
    write_geotiff(tmp_path / "two" / "coarse.tif", pixels((1, 48, 48)), descriptions=("B11",), transform=coarse)
    model = quick_fit([open_scene(tmp_path / "two")])
    assert {name: (group.bands, group.resolution) for name, group in model.groups.items()} == {
        "r10m": (("B02", "B03"), 10.0),
        "r20m": (("B11",), 20.0),
    }


# --- sampling ------------------------------------------------------------------------------------------------------


def sample(group: ResolutionGroup, blocks: int, seed: int = 0, patch: int = 8) -> NDArray[Any]:
    tile = Tile(col_off=0, row_off=0, width=group.shape[2], height=group.shape[1])
    task = SampleTask(scene_id="s", group=group, tile=tile, blocks=blocks, patch=patch, seed=seed)
    return sample_tile(task).blocks


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.002, 0.02, 0.2]), st.integers(1, 400))
def test_sampled_blocks_are_those_without_a_masked_pixel(
    make_scene: MakeScene, seed: int, share: float, count: int
) -> None:
    rng = np.random.default_rng(seed)
    # Every pixel has a value of its own, so that a block tells where it was.
    array = np.arange(1, 1 + 20 * 30, dtype=np.uint16).reshape(1, 20, 30)
    array[rng.random(array.shape) < share] = 0
    found = sample(make_scene(array, nodata=0).groups[0], count, seed)
    whole = {
        array[0, row : row + 8, col : col + 8].tobytes()
        for row in range(13)
        for col in range(23)
        if array[0, row : row + 8, col : col + 8].all()
    }
    drawn = [block[0].tobytes() for block in found]
    assert len(drawn) == min(count, len(whole))
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= whole


def test_a_pixel_that_is_masked_in_one_band_counts_as_masked(make_scene: MakeScene) -> None:
    array = pixels((2, 16, 16))
    array[1, 8, 8] = 0
    assert len(sample(make_scene(array, nodata=0).groups[0], 1000)) == 9 * 9 - 8 * 8


def test_samples_stay_within_their_number_and_tiles_within_theirs(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_fit, "MAX_TILES", 4)
    scenes = [make_scene(pixels((1, 64, 64), seed=seed), f"s{seed}") for seed in range(6)]
    jobs = []

    class Recorder(InProcess):
        def fan_in(self, each: Any, *, gpu: bool = False) -> Any:
            jobs.extend(each)
            return super().fan_in(jobs, gpu=gpu)

    model = fit(scenes, "real-rbm", QUICK, Recorder())
    (job,) = jobs
    assert len(job.arguments) == 4
    assert [task.blocks for (task,) in job.arguments] == [500] * 4
    assert model.groups["r10m"].training["blocks"] == 2000
    assert model.groups["r10m"].training["pixels"]["count"] == 4 * 64 * 64


# --- what cannot be learned from -----------------------------------------------------------------------------------


def test_scenes_that_disagree_are_named(make_scene: MakeScene) -> None:
    first = make_scene(pixels((2, 64, 64)), "first")
    with pytest.raises(SceneError, match=r"r10m of first has B01, B02 as uint16, of more B01, B02, B03 as uint16"):
        quick_fit([make_scene(pixels((3, 64, 64)), "more"), first])
    with pytest.raises(SceneError, match=r"of other B01, B02 as uint8; fit such scenes apart"):
        quick_fit([first, make_scene(pixels((2, 64, 64), "uint8"), "other")])


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((1, 5, 300), "expected a scene of at least 8 × 8 pixels, found 5 × 300 at the most; give larger scenes"),
        ((1, 8, 8), "needs at least 256 blocks without masked pixels, found 1; give more or larger scenes"),
    ],
)
def test_too_few_blocks(make_scene: MakeScene, shape: tuple[int, int, int], told: str) -> None:
    with pytest.raises(SceneError, match=rf"Group r10m: .*{told}"):
        quick_fit([make_scene(pixels(shape))])


def test_a_scene_that_is_too_small_does_not_stop_one_that_is_not(make_scene: MakeScene) -> None:
    alone = quick_fit([make_scene(pixels((1, 64, 64)), "large")])
    both = quick_fit([make_scene(pixels((1, 5, 5)), "small"), make_scene(pixels((1, 64, 64)), "large")])
    counts = [model.groups["r10m"].training["pixels"]["count"] for model in (alone, both)]
    assert counts == [64 * 64, 64 * 64 + 5 * 5]


def test_a_scene_without_data(make_scene: MakeScene) -> None:
    with pytest.raises(SceneError, match=r"Group r10m: no block"):
        quick_fit([make_scene(np.zeros((1, 64, 64), np.uint16), nodata=0)])


def test_no_scene_and_no_such_preset(make_scene: MakeScene) -> None:
    with pytest.raises(SceneError, match="at least one scene"):
        quick_fit([])
    with pytest.raises(UsageError, match=r"'jpeg'.*binary-rbm.*real-rbm"):
        fit([make_scene(pixels((1, 64, 64)))], "jpeg", QUICK, InProcess())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bits": 0.0}, "bits: expected a number above 0, found 0;"),
        ({"bits": -1.0}, "bits: expected a number above 0, found -1;"),
        ({"effort": float("inf")}, "effort: expected a number above 0, found inf;"),
        ({"peak": float("nan")}, "peak: expected a number above 0, found nan;"),
        ({"seed": -1}, r"seed: expected 0 to 2\^63 - 1, found -1;"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        fit_options(**options)


@pytest.mark.parametrize("preset", presets.names())
@pytest.mark.parametrize(("dtype", "depth"), [("uint8", 8), ("uint16", 16), ("int16", 16), ("float32", 32)])
def test_more_bits_than_a_pixel_has_are_refused_unread(
    make_scene: MakeScene, preset: str, dtype: str, depth: int
) -> None:
    scene = make_scene(pixels((1, 128, 128), dtype))  # the largest block of a preset
    Path(scene.source[0]).unlink()
    with pytest.raises(
        UsageError, match=rf"r10m: expected at most the {depth} bits .* {dtype} has, found bits {depth}.5"
    ):
        fit([scene], preset, fit_options(bits=depth + 0.5), InProcess())


def test_a_preset_for_another_type_names_the_remedy(make_scene: MakeScene) -> None:
    with pytest.raises(SceneError, match=r"r10m: binary-rbm codes 8-bit pixels, got uint16; use real-rbm"):
        fit([make_scene(pixels((1, 64, 64)))], "binary-rbm", QUICK, InProcess())


def test_a_fit_of_transform_gives_a_model_that_takes_targets(tmp_path: Path, make_scene: MakeScene) -> None:
    array = pixels((2, 200, 130), hole=0)
    scene = make_scene(array, nodata=0)
    model = fit([scene], "transform", TINY_TRANSFORM, InProcess())
    group = model.groups["r10m"]
    assert (group.preset, group.bands, group.codec.targets) == ("transform", ("B01", "B02"), True)
    assert group.training["settings"] == ["trunk=4", "head=4", "start=None"]
    assert group.training["start"] is None
    assert [stage["stage"] for stage in group.training["stages"]] == ["likelihood"]
    assert model_file.from_bytes(model.data).sha256 == model.sha256

    archive, _ = compress(tmp_path / "a.zarr", [scene], model, target=Psnr(45))
    read = np.asarray(archive["here"]["r10m"].image[:])
    np.testing.assert_array_equal(read == 0, array == 0)
    mse = np.square(read.astype(float) - array)[array > 0].mean()
    assert 10 * np.log10(group.codec.radiometry.peak**2 / mse) == pytest.approx(45, abs=0.1)


def test_transform_has_no_rate_to_ask_for(make_scene: MakeScene) -> None:
    with pytest.raises(SceneError, match="r10m: transform has no rate of its own, found bits 2; leave them out"):
        fit([make_scene(pixels((1, 140, 140)))], "transform", fit_options(bits=2.0), InProcess())


# --- a part of a scene ---------------------------------------------------------------------------------------------


def test_clipping_reads_nothing_and_equals_the_crop(make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    array = pixels((2, 90, 120))
    scene = make_scene(array)
    bbox = (UTM_10M.c + 105, UTM_10M.f - 700, UTM_10M.c + 800, UTM_10M.f - 33)
    with monkeypatch.context() as patch:
        patch.setattr(ResolutionGroup, "read", None)
        patch.setattr(rasterio.DatasetReader, "read", None, raising=False)
        group = clip(scene, bbox, "EPSG:32633").groups[0]
    with rasterio.open(scene.source[0]) as source:
        window = from_bounds(*bbox, source.transform).round_offsets().round_lengths(op="ceil")
        assert group.transform == source.window_transform(window)
    assert group.shape == (2, 67, 70)
    whole = Tile(col_off=0, row_off=0, width=70, height=67)
    np.testing.assert_array_equal(group.read(whole), array[:, 3:70, 10:80])


def test_clipping_what_lies_elsewhere_or_nowhere(make_scene: MakeScene) -> None:
    with pytest.raises(SceneError, match="here lies beside the bbox"):
        clip(make_scene(pixels((1, 64, 64))), (0, 0, 1, 1))
    with pytest.raises(SceneError, match="no georeference"):
        clip(make_scene(pixels((1, 64, 64)), crs=None, transform=None), (0, 0, 1, 1))


# --- a codec of one's own ------------------------------------------------------------------------------------------

OWN_PRESET = """
from harmonium.models.presets.real_rbm import RealRbm


class Own(RealRbm):
    name = "own"
    default_bits = 1.0


PRESET = Own()
"""


def test_a_preset_is_one_file(
    tmp_path: Path, make_scene: MakeScene, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "own_preset.py").write_text(OWN_PRESET)
    monkeypatch.setattr(harmonium.models.presets, "__path__", [*harmonium.models.presets.__path__, str(folder)])
    importlib.invalidate_caches()
    try:
        scene = make_scene(pixels((2, 100, 100)))
        model = api.fit([scene], preset="own", effort=0.002, cluster="none")
        assert model.groups["r10m"].preset == "own"
        assert model.groups["r10m"].training["held_out"]["bits_per_pixel"] == pytest.approx(1.0, rel=0.2)
        archive, _ = compress(tmp_path / "a.zarr", [scene], model)
        opened = xr.open_zarr(tmp_path / "a.zarr" / "scenes" / "here" / "r10m", mask_and_scale=False)
        difference = opened["image"].values.astype(float) - pixels((2, 100, 100))
        quality = archive["here"]["r10m"].quality()
        assert np.square(difference).sum() == pytest.approx(quality.squared_error.sum(), rel=1e-6)
    finally:
        sys.modules.pop("harmonium.models.presets.own_preset", None)
