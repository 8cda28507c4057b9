from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import harmonium
from harmonium.errors import ArchiveError, HarmoniumError, SceneError, SceneNotFound

from .archives import hand_made, pixels
from .conftest import MakeScene


def imported_for_type_checkers() -> set[str]:
    tree = ast.parse(Path(harmonium.__file__).read_text(encoding="utf-8"))
    guard = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in guard.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_public_names_are_complete_sorted_and_there() -> None:
    assert harmonium.__all__ == sorted(harmonium.__all__)
    assert set(harmonium.__all__) == imported_for_type_checkers() | {"__version__"}
    assert set(harmonium.__all__) <= set(dir(harmonium))
    for name in harmonium.__all__:
        assert getattr(harmonium, name).__doc__


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'decode'"):
        harmonium.decode  # noqa: B018


def modules_after(code: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        check=True,
        text=True,
    )
    return set(json.loads(run.stdout))


def test_importing_harmonium_imports_little() -> None:
    heavy = {"torch", "xarray", "zarr", "dask", "distributed", "typer", "matplotlib", "rasterio"}
    assert not modules_after("import harmonium") & heavy
    assert not modules_after("import harmonium; harmonium.HarmoniumCodec") & {
        "typer",
        "matplotlib",
        "distributed",
        "rasterio",
    }
    assert not modules_after("import harmonium.workflows.cli") & heavy - {"typer"}


@pytest.mark.usefixtures("fresh_models")
def test_python_users_do_what_the_command_line_does(tmp_path: Path, make_scene: MakeScene) -> None:
    scenes = [make_scene(pixels((2, 96, 96), seed=seed), f"s{seed}") for seed in range(2)]
    model = harmonium.fit(scenes[:1], seed=3, effort=0.002, cluster="none")
    assert harmonium.fit(scenes[:1], seed=3, effort=0.002, cluster="none").sha256 == model.sha256
    part = harmonium.fit(
        scenes[:1], effort=0.002, bbox=(500_000, 4_999_600, 500_400, 5_000_000), crs="EPSG:32633", cluster="none"
    )
    assert part.groups["r10m"].training["pixels"]["count"] == 40 * 40
    (tmp_path / "m.harmonium").write_bytes(model.data)
    assert harmonium.load_model(tmp_path / "m.harmonium").sha256 == model.sha256

    archive = harmonium.compress(scenes, tmp_path / "a.zarr", model, cluster="none")
    assert list(harmonium.open_archive(tmp_path / "a.zarr")) == list(archive) == ["s0", "s1"]
    assert harmonium.verify(archive, originals=scenes, cluster="none") == []
    shown = archive["s0"]["r10m"].open().values
    assert np.abs(shown.astype(float) - pixels((2, 96, 96))).mean() < 500
    (hit, _) = harmonium.query(archive, bbox=(500_000, 4_999_000, 500_100, 5_000_000), crs="EPSG:32633")
    tile = harmonium.decompress(hit.scene, tmp_path / "out.tif", window=hit.window)
    assert (tile.width, tile.height) == (10, 96)
    with pytest.raises(SceneNotFound):
        harmonium.verify(archive, scenes=["s2"], cluster="none")


@pytest.mark.usefixtures("fresh_models")
def test_scenes_that_fail_are_named_and_the_others_are_complete(tmp_path: Path, make_scene: MakeScene) -> None:
    scenes = [make_scene(pixels((2, 96, 96), seed=seed), f"s{seed}") for seed in range(2)]
    broken = Path(scenes[0].source[0])
    broken.write_bytes(broken.read_bytes()[:3000])
    with pytest.raises(ArchiveError, match=r"1 of 2 scenes failed: s0: "):
        harmonium.compress(scenes, tmp_path / "a.zarr", hand_made(2), cluster="none")
    assert harmonium.open_archive(tmp_path / "a.zarr")["s1"].state == "complete"
    with pytest.raises(SceneError, match="B01, B02, found B01"):
        harmonium.compress([make_scene(pixels((1, 96, 96)))], tmp_path / "b.zarr", hand_made(2), cluster="none")
    assert not (tmp_path / "b.zarr").exists()
    assert issubclass(ArchiveError, HarmoniumError)
