from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from harmonium.errors import ArchiveError, SceneNotFound, UsageError
from harmonium.pipeline import model_sources, scene_layout

from .archives import compress, hand_made, pixels
from .conftest import MakeScene

pytestmark = pytest.mark.usefixtures("fresh_models")


@pytest.fixture
def folder(tmp_path: Path, make_scene: MakeScene) -> Path:
    scene = make_scene(pixels((2, 80, 100), hole=0), nodata=0, scales=(0.1, 0.1), offsets=(-1.0, -1.0))
    compress(tmp_path / "a.zarr", [scene], hand_made(2))
    return tmp_path / "a.zarr" / "scenes" / "here" / "r10m"


def test_it_opens_what_zarr_opens(folder: Path) -> None:
    for decode in (True, False):
        opened = xr.open_dataset(folder, engine="harmonium", mask_and_scale=decode, chunks={})
        assert opened["image"].chunks is not None
        xr.testing.assert_identical(opened.load(), xr.open_zarr(folder, mask_and_scale=decode).load())
    assert opened["image"].rio.crs.to_epsg() == 32633
    assert "band" not in xr.open_dataset(f"{folder}/", engine="harmonium", drop_variables="band")


def test_an_archive_that_was_moved_opens_in_a_fresh_process(folder: Path, tmp_path: Path) -> None:
    expected = xr.open_zarr(folder, mask_and_scale=False)["image"].values
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    path = tmp_path / "b.zarr" / "scenes" / "here" / "r10m"
    code = (
        "import sys, numpy as np, xarray as xr\n"
        "np.save(sys.argv[2], xr.open_dataset(sys.argv[1], engine='harmonium', mask_and_scale=False)['image'].values)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "empty")}
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "out.npy")], check=True, env=environment)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_a_dataset_that_was_pickled_finds_its_model(folder: Path) -> None:
    data = pickle.dumps(xr.open_dataset(folder, engine="harmonium", chunks={})["image"])
    model_sources.forget()
    assert pickle.loads(data).shape == (2, 80, 100)
    assert np.isfinite(pickle.loads(data).values).any()


def test_a_path_without_an_engine_is_never_taken(folder: Path) -> None:
    assert "harmonium" in xr.backends.list_engines()
    assert not xr.backends.list_engines()["harmonium"].guess_can_open(folder)


@pytest.mark.parametrize("path", ["", "scenes", "scenes/here", "scenes/here/r10m/image"])
def test_another_path_is_refused(folder: Path, tmp_path: Path, path: str) -> None:
    with pytest.raises(UsageError, match="ARCHIVE/scenes/SCENE/GROUP"):
        xr.open_dataset(tmp_path / "a.zarr" / path, engine="harmonium")


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="No archive"):
        xr.open_dataset(tmp_path / "b.zarr/scenes/here/r10m", engine="harmonium")
    with pytest.raises(SceneNotFound, match="'there'"):
        xr.open_dataset(tmp_path / "a.zarr/scenes/there/r10m", engine="harmonium")
    with pytest.raises(SceneNotFound, match=r"r10m.*'r20m'"):
        xr.open_dataset(folder.with_name("r20m"), engine="harmonium")


def test_an_unfinished_scene_is_refused(tmp_path: Path, make_scene: MakeScene) -> None:
    archive, _ = compress(tmp_path / "a.zarr", [], hand_made(2))
    scene_layout.prepare(archive.url, make_scene(pixels((2, 80, 100))), hand_made(2))
    with pytest.raises(ArchiveError, match="here is writing"):
        xr.open_dataset(tmp_path / "a.zarr/scenes/here/r10m", engine="harmonium")
