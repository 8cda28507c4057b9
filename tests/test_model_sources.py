from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import zarr

from harmonium.errors import ModelError, ModelNotFound
from harmonium.models import model_file
from harmonium.pipeline import model_sources
from harmonium.pipeline.archive import create_archive, open_archive

from .archives import hand_made

pytestmark = pytest.mark.usefixtures("fresh_models")

MODEL = hand_made(2)


def archive_with_model(path: Path) -> str:
    archive = create_archive(path)
    archive.add_model(MODEL)
    model_sources.forget()
    return archive.url


def folder_with_model(path: Path, name: str = "any.harmonium") -> Path:
    path.mkdir(parents=True)
    (path / name).write_bytes(MODEL.data)
    return path


def in_cache() -> Path:
    folder = model_sources.cache_folder()
    return folder_with_model(folder, f"{MODEL.sha256}.harmonium")


def in_environment(monkeypatch: pytest.MonkeyPatch, *entries: object) -> None:
    monkeypatch.setenv("HARMONIUM_MODELS", os.pathsep.join(map(str, entries)))


def found_in() -> str | None:
    return model_sources.known_source(MODEL.sha256)


def test_order_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place is found when those before it are gone, and none before its turn."""
    hint = archive_with_model(tmp_path / "hint.zarr")
    registered = archive_with_model(tmp_path / "registered.zarr")
    later = archive_with_model(tmp_path / "later.zarr")
    environment = folder_with_model(tmp_path / "environment")
    cache = in_cache()
    in_environment(monkeypatch, environment)
    read = Mock(wraps=model_sources.read)
    monkeypatch.setattr(model_sources, "read", read)
    places = [later, registered, str(environment), str(cache), hint]
    for gone in range(len(places) + 1):
        model_sources.forget()
        model_sources.register_source(MODEL.sha256, registered)
        model_sources.register_source(MODEL.sha256, later)
        read.reset_mock()
        if gone < len(places):
            assert model_sources.load(MODEL.sha256, hint).sha256 == MODEL.sha256
            assert [call.args[0] for call in read.call_args_list] == places[: gone + 1]
            assert found_in() == places[gone]
            Path(places[gone]).rename(tmp_path / f"away{gone}")
            if gone == 4:  # what the hint gave was kept
                assert (cache / f"{MODEL.sha256}.harmonium").read_bytes() == MODEL.data
                (cache / f"{MODEL.sha256}.harmonium").unlink()
        else:
            with pytest.raises(ModelNotFound) as caught:
                model_sources.load(MODEL.sha256, hint)
            assert all(place in str(caught.value) for place in [*places, MODEL.sha256, "HARMONIUM_MODELS"])


def test_a_registered_model_needs_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    model_sources.register(MODEL)
    monkeypatch.setattr(model_sources, "read", None)
    assert model_sources.load(MODEL.sha256) is MODEL
    assert model_sources.loaded(MODEL.sha256) is MODEL
    assert found_in() is None


@pytest.mark.parametrize("kind", ["file", "folder", "archive"])
def test_environment_takes_files_folders_and_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = folder_with_model(tmp_path / "f")
    entry = {"file": folder / "any.harmonium", "folder": folder, "archive": archive_with_model(tmp_path / "a.zarr")}[
        kind
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "broken.harmonium").write_bytes(b"no model")
    in_environment(monkeypatch, tmp_path / "nowhere", "", tmp_path / "other", entry)
    assert model_sources.load(MODEL.sha256).sha256 == MODEL.sha256
    assert found_in() == str(entry)


def test_names_count_for_nothing_digests_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / f"{MODEL.sha256}.harmonium").write_bytes(hand_made(1).data)
    in_environment(monkeypatch, folder, folder / f"{MODEL.sha256}.harmonium")
    with pytest.raises(ModelNotFound):
        model_sources.load(MODEL.sha256)
    (folder / "other.harmonium").write_bytes(MODEL.data)
    assert model_sources.load(MODEL.sha256).sha256 == MODEL.sha256


def damage(url: str, how: str) -> None:
    file = Path(url) / "models" / MODEL.sha256 / "c" / "0"
    data = bytearray(file.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    elif how == "truncated":
        file.write_bytes(data[:-1])
    elif how == "missing":
        file.unlink()
    else:
        zarr.create_array(url, name=f"models/{MODEL.sha256}", data=np.frombuffer(MODEL.data, np.uint8), overwrite=True)


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing", "compressed"])
def test_a_damaged_model_in_an_archive_is_named_passed_over_and_mended(tmp_path: Path, how: str) -> None:
    url = archive_with_model(tmp_path / "a.zarr")
    damage(url, how)
    open_archive(url)
    with pytest.raises(ModelNotFound, match=rf"a\.zarr \(its models/{MODEL.sha256} is damaged"):
        model_sources.load(MODEL.sha256)
    in_cache()
    assert model_sources.load(MODEL.sha256).sha256 == MODEL.sha256
    create_archive(url).add_model(MODEL)
    assert model_sources.read(url, MODEL.sha256) == MODEL.data


def test_a_model_claimed_to_be_enormous_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = archive_with_model(tmp_path / "a.zarr")
    monkeypatch.setattr(model_sources, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match="is damaged"):
        model_sources.read(url, MODEL.sha256)
    folder = folder_with_model(tmp_path / "f")
    assert model_sources.read(str(folder), MODEL.sha256) is None
    with pytest.raises(ModelError, match="a model file at most 100"):
        model_sources.load_file(folder / "any.harmonium")


def test_load_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_with_model(tmp_path / "f")
    monkeypatch.chdir(folder)
    assert model_sources.load_file("any.harmonium").sha256 == MODEL.sha256
    assert found_in() == str(folder / "any.harmonium")
    with pytest.raises(ModelNotFound, match=r"No model file at nope; `harmonium fit SCENE\.\.\. -o nope` makes one"):
        model_sources.load_file("nope")
    (folder / "bad.harmonium").write_bytes(b"x" * 50)
    with pytest.raises(ModelError, match=r"bad\.harmonium: This is not a harmonium model file"):
        model_sources.load_file("bad.harmonium")


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    hint = archive_with_model(tmp_path / "hint.zarr")
    model_sources.cache_folder().parent.parent.mkdir(parents=True)
    model_sources.cache_folder().parent.write_text("a file where a folder should be")
    assert model_sources.load(MODEL.sha256, hint).sha256 == MODEL.sha256


def test_many_threads_search_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_sources.register_source(MODEL.sha256, str(folder_with_model(tmp_path / "f")))
    parse = Mock(wraps=model_file.from_bytes)
    monkeypatch.setattr(model_file, "from_bytes", parse)
    together = threading.Barrier(8)

    def load(_: int) -> Any:
        together.wait()
        return model_sources.load(MODEL.sha256)

    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(load, range(8)))
    assert parse.call_count == 1
    assert all(model is models[0] for model in models)


def test_a_later_version_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = MODEL.data.replace(b'\\"format\\": 1', b'\\"format\\": 7')
    assert newer != MODEL.data
    import hashlib

    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "m.harmonium").write_bytes(newer)
    in_environment(monkeypatch, folder)
    with pytest.raises(ModelError, match="format 7; this harmonium reads format 1: upgrade"):
        model_sources.load(hashlib.sha256(newer).hexdigest())
