"""Scenes in archives that were asked for a target: what is promised, what is kept of it, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from harmonium.errors import ArchiveError, SceneError, UsageError
from harmonium.models import model_file
from harmonium.models.model_file import ModelFile
from harmonium.models.targets import Lossless, MaxError, Psnr, Ratio, Step, Target
from harmonium.pipeline import packaged_models, scene_layout
from harmonium.pipeline.archive import open_archive
from harmonium.pipeline.cluster import InProcess, OnDask
from harmonium.pipeline.compress import SceneDone, SceneFailed, StepFound
from harmonium.pipeline.verify import verify

from .archives import (
    any_rate,
    compress,
    decoded_in_one_piece,
    hand_made,
    local_cluster,
    pixels,
    shard_files,
    shards_made,
    tree,
)
from .conftest import MakeScene

pytestmark = pytest.mark.usefixtures("fresh_models", "small_chunks")


def kept_json(url: Path) -> dict[str, Any]:
    """Configuration of the image's codec as it is stored."""
    document = json.loads((url / "scenes" / "here" / "r10m" / "image" / "zarr.json").read_text())
    configuration = document["codecs"][0]["configuration"]["codecs"][0]["configuration"]
    assert isinstance(configuration, dict)
    return configuration


# --- promises ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "nodata", "bound"),
    [
        ("uint16", 0, 3.0),
        ("uint8", None, (2.0, 0.0)),
        ("int16", -9999, (0.0, 5.0)),
        ("float32", float("nan"), 0.01),
        ("float32", -9999.5, (0.001, 0.1)),
    ],
)
def test_no_pixel_of_a_scene_is_further_off_than_promised(
    tmp_path: Path, make_scene: MakeScene, dtype: str, nodata: float | None, bound: float | tuple[float, float]
) -> None:
    array = pixels((2, 70, 60), dtype)
    if nodata is not None:
        array[:, :30, :50] = nodata
    scene = make_scene(array, nodata=nodata)
    archive, _ = compress(tmp_path / "a.zarr", [scene], any_rate(2, dtype), target=MaxError(bound))
    read = np.asarray(archive["here"]["r10m"].image[:])
    holes = np.isnan(array) if nodata != nodata else array == (0 if nodata is None else nodata)
    np.testing.assert_array_equal(np.isnan(read) if nodata != nodata else read == (nodata or 0), holes)
    error = np.where(holes, 0, np.abs(read.astype(np.float64) - array.astype(np.float64)))
    bounds = np.broadcast_to(np.asarray(bound), 2)
    assert (error.max((1, 2)) <= bounds).all()
    assert (archive["here"]["r10m"].quality().max_error <= bounds).all()
    assert sum(path.stat().st_size for path in shard_files(tmp_path / "a.zarr")) < array.nbytes
    assert [each.problems for each in verify(archive, (), {"here": scene}, InProcess()) if each.problems] == []


@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", 0), ("int16", None), ("uint8", 255), ("float32", -1.0)])
def test_lossless_is_exact(tmp_path: Path, make_scene: MakeScene, dtype: str, nodata: float | None) -> None:
    array = pixels((2, 70, 64), dtype, hole=None)
    if nodata is not None:
        array[:, :30, :50] = nodata
    if dtype == "float32":
        array[:, 60:, 60:] = np.nan
        array[0, 59, 59], array[1, 58, 58] = np.inf, -np.inf
    archive, _ = compress(
        tmp_path / "a.zarr", [make_scene(array, nodata=nodata)], any_rate(2, dtype), target=Lossless()
    )
    np.testing.assert_array_equal(np.asarray(archive["here"]["r10m"].image[:]), array)
    assert archive["here"]["r10m"].quality().max_error.tolist() == [0, 0]


@pytest.mark.parametrize("target", [Step((40.0, 80.0)), MaxError(3)])
def test_chunks_are_what_the_codec_makes_of_each(tmp_path: Path, make_scene: MakeScene, target: Target) -> None:
    array = pixels((2, 40, 70), hole=0)
    archive, _ = compress(tmp_path / "a.zarr", [make_scene(array, nodata=0)], any_rate(2), target=target)
    expected = decoded_in_one_piece(any_rate(2), array, 64, 0, target)
    np.testing.assert_array_equal(np.asarray(archive["here"]["r10m"].image[:]), expected)


def test_verify_names_chunks_that_break_the_promise(tmp_path: Path, make_scene: MakeScene) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((2, 60, 60)))
    archive, _ = compress(url, [scene], any_rate(2), target=MaxError(3))
    path = url / "scenes" / "here" / "r10m" / "image" / "zarr.json"
    path.write_text(path.read_text().replace('"max_error": 3.0', '"max_error": 1.0'))
    (outcome,) = verify(archive, (), {}, InProcess())
    (problem,) = outcome.problems
    assert "chunk (y 0, x 0): the largest errors are [3.0, 3.0], promised was largest error 1" in problem


# --- what is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "document"),
    [
        (Step(50), {"step": 50.0}),
        (MaxError((1, 2)), {"max_error": [1.0, 2.0]}),
        (Lossless(), {"lossless": True}),
    ],
)
def test_the_target_is_kept_by_codec_and_group(
    tmp_path: Path, make_scene: MakeScene, target: Target, document: dict[str, Any]
) -> None:
    url = tmp_path / "a.zarr"
    compress(url, [make_scene(pixels((2, 60, 60)))], any_rate(2), target=target)
    assert kept_json(url) == {"model": any_rate(2).sha256, "group": "r10m", "source": str(url), "target": document}
    group = open_archive(url)["here"]["r10m"]
    assert group.group.attrs["harmonium"] == {"asked": document}
    assert (group.target, group.asked) == (target, target)


def test_a_psnr_is_kept_as_the_step_that_gives_it(tmp_path: Path, make_scene: MakeScene) -> None:
    url = tmp_path / "a.zarr"
    _, events = compress(url, [make_scene(pixels((1, 60, 60)))], any_rate(1), target=Psnr(50))
    (found,) = [event for event in events if isinstance(event, StepFound)]
    assert kept_json(url)["target"] == {"step": found.step.step}
    group = open_archive(url)["here"]["r10m"]
    assert group.group.attrs["harmonium"] == {"asked": {"psnr": 50.0}}
    assert (group.target, group.asked) == (found.step, Psnr(50))


def test_a_model_of_one_rate_keeps_none(tmp_path: Path, make_scene: MakeScene) -> None:
    url = tmp_path / "a.zarr"
    archive, _ = compress(url, [make_scene(pixels((2, 60, 60)))], hand_made(2))
    assert "target" not in kept_json(url)
    assert "harmonium" not in archive["here"]["r10m"].group.attrs
    assert (archive["here"]["r10m"].target, archive["here"]["r10m"].asked) == (None, None)


def test_codes_are_read_without_pixels(tmp_path: Path, make_scene: MakeScene) -> None:
    array = pixels((2, 100, 64))
    archive, _ = compress(tmp_path / "a.zarr", [make_scene(array)], any_rate(2), target=Step(100))
    codes = archive["here"]["r10m"].codes
    assert codes.shape == (128, 13, 8)
    assert codes.dtype == np.int32
    codec = any_rate(2).groups["r10m"].codec
    payload = codec.compress(np.ascontiguousarray(array[:, :64]), 0, Step(100)).payload
    np.testing.assert_array_equal(codes[:, :8].values, codec.codes(payload))


# --- resuming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [Psnr(50), Ratio(4), MaxError(3)])
def test_a_scene_goes_on_with_the_step_that_it_was_begun_with(
    tmp_path: Path, make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((1, 130, 60)))
    compress(url, [scene], any_rate(1), target=target)
    assert len(shard_files(url)) == 2
    expected = tree(url)
    scene_layout.set_state(zarr.open_group(url, path="scenes/here", mode="r+"), "writing")
    shard_files(url)[1].unlink()
    monkeypatch.setattr("harmonium.pipeline.rate_control.find_step", None)
    archive, events = compress(url, [scene], any_rate(1), target=target)
    assert (shards_made(events), events[-1]) == (1, SceneDone(scene_id="here", resumed=False))
    assert archive["here"].state == "complete"
    assert tree(url) == expected
    _, events = compress(url, [scene], any_rate(1), target=target)
    assert events == [SceneDone(scene_id="here", resumed=True)]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def test_a_run_that_ends_while_it_seeks_a_step_begins_no_scene(
    tmp_path: Path, make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((1, 60, 60)))
    compress(url, [scene], any_rate(1), target=Psnr(50))
    expected = tree(url)
    url.rename(tmp_path / "whole.zarr")
    with monkeypatch.context() as patch:
        patch.setattr("harmonium.pipeline.rate_control.measure_window", _killed)
        with pytest.raises(Killed):
            compress(url, [scene], any_rate(1), target=Psnr(50))
    assert "here" not in open_archive(url)
    compress(url, [scene], any_rate(1), target=Psnr(50))
    assert tree(url) == expected


def _killed(_: object) -> None:
    raise Killed


def test_what_was_being_prepared_is_made_anew_even_for_another_target(tmp_path: Path, make_scene: MakeScene) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((1, 60, 60)))
    compress(url, [scene], any_rate(1), target=MaxError(3))
    scene_layout.set_state(zarr.open_group(url, path="scenes/here", mode="r+"), "preparing")
    archive, events = compress(url, [scene], any_rate(1), target=Psnr(50))
    assert events[-1] == SceneDone(scene_id="here", resumed=False)
    assert archive["here"]["r10m"].asked == Psnr(50)


def test_same_bytes_in_process_and_on_dask(tmp_path: Path, make_scene: MakeScene) -> None:
    scenes = [make_scene(pixels((1, 70, 60), seed=1, hole=0), "one", nodata=0), make_scene(pixels((1, 60, 60)), "two")]
    url = tmp_path / "a.zarr"
    compress(url, scenes, any_rate(1), InProcess(), Psnr(50))
    expected = tree(url)
    url.rename(tmp_path / "1.zarr")
    with local_cluster(2) as client:
        compress(url, scenes, any_rate(1), OnDask(client, "two workers"), Psnr(50))
    assert tree(url) == expected


def test_a_scene_whose_step_is_not_found_is_not_begun_and_the_others_are_complete(
    tmp_path: Path, make_scene: MakeScene
) -> None:
    hard, easy = (
        np.random.default_rng(0).integers(0, 65_536, (1, 64, 64), np.uint16),
        np.full((1, 64, 64), 7, np.uint16),
    )
    scenes = [make_scene(hard, "hard"), make_scene(easy, "easy")]
    archive, events = compress(tmp_path / "a.zarr", scenes, any_rate(1), target=Ratio(60))
    failed = [event for event in events if isinstance(event, SceneFailed)]
    assert [event.scene_id for event in failed] == ["hard"]
    assert "no step gives ratio 60" in str(failed[0].error)
    assert list(archive) == ["easy"]


# --- refusals ------------------------------------------------------------------------------------------------------


def two_groups() -> ModelFile:
    return model_file.make({**any_rate(2).groups, **hand_made(2, group="r20m").groups})


@pytest.mark.parametrize(
    ("model", "target", "message"),
    [
        (any_rate(2), None, "Scene here, group r10m: the model needs a target: one of Step, Psnr, .*--psnr 45"),
        (hand_made(2), Psnr(45), "the model was fitted for one rate and takes no target, found Psnr.*leave it out"),
        (any_rate(2), Psnr((1, 2, 3)), r"for each band needs 2 values, found 3: \(1.0, 2.0, 3.0\); give as many"),
        (any_rate(2), MaxError((1, 2, 3)), "for each band needs 2 values, found 3"),
    ],
)
def test_targets_that_do_not_fit_leave_nothing_behind(
    tmp_path: Path, make_scene: MakeScene, model: ModelFile, target: Target | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        compress(tmp_path / "a.zarr", [make_scene(pixels((2, 40, 40)))], model, target=target)
    assert not (tmp_path / "a.zarr").exists()


def test_another_target_for_a_scene_that_is_there(tmp_path: Path, make_scene: MakeScene) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((1, 60, 60)))
    compress(url, [scene], any_rate(1), target=Psnr(50))
    before = tree(url)
    for other in (Psnr(51), Lossless(), open_archive(url)["here"]["r10m"].target):
        with pytest.raises(
            ArchiveError,
            match=r"group r10m is in the archive with the target PSNR 50 dB, not the target .*--id, or delete",
        ):
            compress(url, [scene], any_rate(1), target=other)
    assert tree(url) == before


def test_an_asked_target_that_is_none_is_named(tmp_path: Path, make_scene: MakeScene) -> None:
    url, scene = tmp_path / "a.zarr", make_scene(pixels((1, 60, 60)))
    compress(url, [scene], any_rate(1), target=Psnr(50))
    path = url / "scenes" / "here" / "r10m" / "zarr.json"
    path.write_text(path.read_text().replace('"psnr": 50.0', '"psnr": -50.0'))
    with pytest.raises(ArchiveError, match=r"scenes/here/r10m: A PSNR is above 0 dB.*found -50.0; delete scenes/here"):
        compress(url, [scene], any_rate(1), target=Psnr(50))


# --- packaged models -----------------------------------------------------------------------------------------------

packaged = pytest.mark.skipif(not packaged_models.names(), reason="no networks are packaged")


@packaged
def test_a_packaged_model_is_the_same_whatever_scenes_it_is_made_for(make_scene: MakeScene) -> None:
    one, two = make_scene(pixels((2, 60, 60)), "one"), make_scene(pixels((2, 90, 30), seed=1), "two")
    made = packaged_models.for_scenes([one, two])
    assert packaged_models.for_scenes([two]).data == made.data
    assert packaged_models.for_scenes([one], peak=4096.0).groups["r10m"].codec.radiometry.peak == 4096


@packaged
def test_scenes_of_different_bands_are_to_be_compressed_apart(make_scene: MakeScene) -> None:
    scenes = [make_scene(pixels((2, 60, 60)), "one"), make_scene(pixels((3, 60, 60)), "two")]
    with pytest.raises(SceneError, match="Scene two, group r10m: B01, B02, B03 as uint16; scene one has B01, B02 as"):
        packaged_models.for_scenes(scenes)
    with pytest.raises(SceneError, match="by commands of their own"):
        packaged_models.for_scenes([scenes[0], make_scene(pixels((2, 60, 60), "uint8"), "three")])


@packaged
def test_a_peak_belongs_to_packaged_models(make_scene: MakeScene) -> None:
    with pytest.raises(UsageError, match="this model has its own"):
        packaged_models.find(any_rate(2), [make_scene(pixels((2, 60, 60)))], None, 255.0)
