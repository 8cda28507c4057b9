"""Options, profiles and fixtures that all tests share."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, settings
from rasterio.errors import NotGeoreferencedWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from harmonium.pipeline.scene import Scene

settings.register_profile("dev", max_examples=30, deadline=None)
settings.register_profile(
    "ci", max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

UTM_10M = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)


class WriteGeotiff(Protocol):
    def __call__(self, path: Path, array: NDArray[Any], **profile: Any) -> Path: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes: run with --slow"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real scenes for development, laid out as `sensor-level/scene/*.tif`."""
    given = os.environ.get("HARMONIUM_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no development data: set HARMONIUM_DATA to their folder")
    return folder


@pytest.fixture
def write_geotiff() -> WriteGeotiff:
    """Write an array (band, y, x) or (y, x); in UTM zone 33N at 10 m unless the profile says otherwise.

    `descriptions`, `tags`, `scales` and `offsets` are set on the file; the rest goes to rasterio,
    without what is None.
    """
    return _write_geotiff


def _write_geotiff(path: Path, array: NDArray[Any], **profile: Any) -> Path:
    array = np.atleast_3d(array.T).T  # (y, x) becomes (1, y, x)
    extras = {name: profile.pop(name) for name in ("descriptions", "scales", "offsets") if name in profile}
    tags = profile.pop("tags", {})
    count, height, width = array.shape
    defaults = {"driver": "GTiff", "crs": "EPSG:32633", "transform": UTM_10M}
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {name: value for name, value in {**defaults, **profile}.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile, count=count, height=height, width=width, dtype=array.dtype) as target:
            target.write(array)
            target.update_tags(**tags)
            for name, value in extras.items():
                setattr(target, name, value)
    return path


@pytest.fixture(scope="session", autouse=True)
def _no_foreign_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor write the models of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("HARMONIUM_MODELS", raising=False)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread of torch for the tests of a module."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that knows no model, with an empty cache."""
    from harmonium.pipeline import model_sources

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model_sources.forget()
    yield
    model_sources.forget()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives made in this process have chunks of 64 pixels, 2 x 2 of them in a shard."""
    from harmonium.pipeline import scene_layout
    from harmonium.pipeline.grid import TileGrid
    from harmonium.pipeline.resolution_group import ResolutionGroup

    def grid_of(group: ResolutionGroup) -> TileGrid:
        return TileGrid.for_shape(*group.shape[1:], chunk=64, shard=2)

    monkeypatch.setattr(scene_layout, "grid_of", grid_of)


class MakeScene(Protocol):
    def __call__(self, array: NDArray[Any], scene_id: str = "here", **profile: Any) -> Scene: ...


@pytest.fixture
def make_scene(tmp_path: Path) -> MakeScene:
    """A scene of an array (band, y, x), its bands called B01, B02, ..., at 10 m unless the profile says otherwise."""
    from harmonium.pipeline.scene import GeoreferenceWarning, open_scene

    def make(array: NDArray[Any], scene_id: str = "here", **profile: Any) -> Scene:
        names = tuple(f"B{band + 1:02}" for band in range(len(array)))
        path = tmp_path / "originals" / f"{scene_id}.tif"
        _write_geotiff(path, array, **{"descriptions": names, **profile})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GeoreferenceWarning)
            return open_scene(path, scene_id=scene_id)

    return make
