"""The matrix of settings: digests that see a difference, processes that compute as they are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

from benchmarks import exactness, exactness_results, transform_cases
from benchmarks.exactness import Setting, compare, results, save_cases
from benchmarks.exactness_results import load_cases, network_digests

from .tiny_transform import model


def test_cases_survive_their_file(tmp_path: Path) -> None:
    cases = transform_cases.made_up(72)
    save_cases(tmp_path / "cases.npz", cases)
    for found, case in zip(load_cases(tmp_path / "cases.npz"), cases, strict=True):
        assert found.name == case.name
        assert np.array_equal(found.pixels, case.pixels)
        assert found.pixels.dtype == case.pixels.dtype
        assert found.fill == case.fill or np.isnan([found.fill, case.fill]).all()


def test_a_difference_is_named() -> None:
    first = {"pixels": {"a": "1", "b": "2"}}
    assert compare(first, {"pixels": {"a": "1", "b": "2"}}, "pixels") == "same 2"
    assert compare(first, {"pixels": {"a": "1", "b": "3"}}, "pixels") == "DIFFERENT: b"
    assert compare(first, {}, "pixels") == ""


def test_networks_give_the_same_with_and_without_onednn() -> None:
    first = network_digests(model(), torch.device("cpu"))
    torch.backends.mkldnn.set_flags(_enabled=False)  # type: ignore[no-untyped-call]
    try:
        assert network_digests(model(), torch.device("cpu")) == first
    finally:
        torch.backends.mkldnn.set_flags(_enabled=True)  # type: ignore[no-untyped-call]
    assert first["networks"] == first["networks, one plane at a time"]


@pytest.mark.slow
def test_the_command_ends_with_1_where_anything_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [Setting(name="one"), Setting(name="other", environment={"ATEN_CPU_CAPABILITY": "default"}, threads=2)]
    monkeypatch.setattr(exactness, "settings", lambda: chosen)
    cases = transform_cases.made_up(72)[:3]
    monkeypatch.setattr(transform_cases, "made_up", lambda _: cases)
    (tmp_path / "model").write_bytes(model())
    command = ["--model", str(tmp_path / "model"), "--no-scenes", "--out", str(tmp_path)]
    exactness.main(command)
    assert "| other | DEFAULT | same" in capsys.readouterr().out
    assert json.loads((tmp_path / "exactness.json").read_text())["measured"]["differ"] == []

    def wrong(setting: Setting, folder: Path, path: Path) -> dict[str, object]:
        found = results(setting, folder, path)
        return found | ({"networks": dict.fromkeys(found["networks"], "0")} if setting.threads > 1 else {})

    monkeypatch.setattr(exactness, "results", wrong)
    with pytest.raises(SystemExit, match="1"):
        exactness.main(command)
    assert "DIFFERENT: network 0; network 1" in capsys.readouterr().out


def test_there_are_settings_of_all_kinds() -> None:
    found = exactness.settings()
    assert found[0] == Setting(name="one thread")
    assert {setting.threads for setting in found} == {1, 2}
    assert any(setting.at_once > 1 for setting in found)
    assert not all(setting.onednn for setting in found)
    assert len({setting.name for setting in found}) == len(found)


def test_they_explain_themselves() -> None:
    for module in (exactness, exactness_results):
        with pytest.raises(SystemExit, match="0"):
            module.main(["--help"])
