"""Training of the packaged networks: what it sees, that it goes on where it was cut, and what it writes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

from benchmarks import archive_scenes, train_transform, transform_models, transform_scenes
from benchmarks.common import Skipped
from benchmarks.train_transform import Settings, load_checkpoint, training
from benchmarks.transform_scenes import EXTRA, FILES, FOLDS, fold_of, training_scenes
from harmonium.errors import UsageError
from harmonium.models.context_training import Source, new_networks

from .tiny_transform import random_networks, source

CPU = torch.device("cpu")


# --- scenes --------------------------------------------------------------------------------------------------------


def test_every_measured_scene_is_left_out_by_one_fold() -> None:
    for scene in archive_scenes.FILES:
        assert [fold for fold, names in FOLDS.items() if scene in names] == [fold_of(scene)]


def test_a_fold_leaves_out_all_scenes_of_its_places() -> None:
    def place(name: str) -> str:
        return FILES[name].split("/")[1].split("_")[0]

    for fold, names in FOLDS.items():
        places = {place(name) for name in names if name != "landsat8-30m" and name != "landsat8-15m"}
        assert {name for name in training_scenes(fold) if place(name) in places} <= {"landsat8-30m", "landsat8-15m"}
        assert set(training_scenes(fold)) == set(FILES) - set(names)
    assert training_scenes() == (*archive_scenes.FILES, *EXTRA)


def test_large_scenes_are_drawn_more_often_up_to_a_size() -> None:
    try:
        found = [transform_scenes.source(name) for name in ("bouconne-10m", "virginia-10m")]
    except Skipped as reason:
        pytest.skip(str(reason))
    assert [one.weight for one in found] == [(246 * 227) ** 0.5, 1.5e6**0.5]


# --- training ------------------------------------------------------------------------------------------------------


def settings(steps: int = 4, seed: int = 0) -> Settings:
    return Settings(steps=steps, seed=seed, trunk=4, head=4, scenes=("made up",), left_out="A", rate=3e-3, start=None)


def test_a_training_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole, cut, resumed = (new_networks(0, 4, 4) for _ in range(3))
    bits = list(training(whole, [source()], settings(), tmp_path / "whole", every=10, device=CPU))[-1]
    list(islice(training(cut, [source()], settings(), tmp_path / "cut", every=2, device=CPU), 3))
    kept = load_checkpoint(tmp_path / "cut", settings())
    assert kept is not None
    assert kept.step == 2
    assert kept.bits == bits[:2]
    again = list(training(resumed, [source()], settings(), tmp_path / "cut", every=2, device=CPU))
    assert len(again) == 2
    assert again[-1] == bits
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert {file.name for file in tmp_path.iterdir()} == {"whole", "cut"}


def test_another_training_does_not_go_on(tmp_path: Path) -> None:
    list(training(new_networks(0, 4, 4), [source()], settings(steps=1), tmp_path / "kept", every=1, device=CPU))
    with pytest.raises(UsageError, match="other settings"):
        load_checkpoint(tmp_path / "kept", settings(steps=1, seed=1))


# --- command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(_: str) -> Source:
        return source()

    monkeypatch.setattr(transform_scenes, "source", made)


def arguments(out: Path, *more: str) -> list[str]:
    return ["--out", str(out), "--leave-out", "D", "--trunk", "4", "--head", "4", *more]


@pytest.mark.usefixtures("made_up")
def test_the_command_trains_and_writes_the_same_model_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "models" / "fold_D.harmonium"
    train_transform.main(arguments(out, "--steps", "2"))
    assert "step 2: " in capsys.readouterr().out
    data = out.read_bytes()
    codec = transform_models.codec(data, "int16", 5)
    assert codec.radiometry.bands == 5
    out.unlink()
    train_transform.main(arguments(out, "--steps", "2"))
    assert "step" not in capsys.readouterr().out
    assert out.read_bytes() == data


@pytest.mark.usefixtures("made_up")
def test_networks_that_are_there_are_written_untrained(tmp_path: Path) -> None:
    networks = random_networks(3)
    torch.save(networks.state_dict(), tmp_path / "state.pt")
    out = tmp_path / "fold_D.harmonium"
    train_transform.main(arguments(out, "--from", str(tmp_path / "state.pt")))
    expected = transform_models.finish(networks, [source()] * len(training_scenes("D")), 0, {})
    found, wanted = (transform_models.model_of(data).to_tensors() for data in (out.read_bytes(), expected))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_without_the_scenes_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARMONIUM_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="nothing was trained: the development data have no"):
        train_transform.main(arguments(tmp_path / "out"))
