"""The likelihood benchmark at its smallest size, stopped and resumed."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

from benchmarks import mnist_likelihood
from benchmarks.mnist_runs import RECIPES, Effort, train_recipe


def pictures(count: int = 300) -> Tensor:
    return torch.rand(count, 784, generator=torch.Generator().manual_seed(0)) ** 4


def effort(epochs: int, deadline: float = math.inf) -> Effort:
    return Effort(epochs=epochs, batches=2, deadline=deadline, products=torch.float32)


@pytest.mark.parametrize("name", ["rbm-pcd", "dbm"])
def test_training_that_was_stopped_ends_with_the_same_machine(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_recipe(name, pictures(), tmp_path / "whole", effort(2))
    assert train_recipe(name, pictures(), tmp_path / "parts", effort(2, deadline=-math.inf)) is None
    # The clock strikes after each single epoch.
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) % 2)
    runs = 0
    parts = None
    while parts is None:
        parts = train_recipe(name, pictures(), tmp_path / "parts", effort(2, deadline=0.5))
        runs += 1
        assert runs < 20
    assert runs > 1
    assert whole is not None
    for one, other in zip(whole[0].parameters(), parts[0].parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="is of a training of 2 epochs, expected 3; remove it"):
        train_recipe(name, pictures(), tmp_path / "parts", effort(3))


def test_the_command_writes_its_table_and_a_figure_for_each_machine(tmp_path: Path, shared_data: Path) -> None:
    if not (shared_data / "mnist" / "mnist.npz").is_file():
        pytest.skip("no mnist/mnist.npz among the development data")
    small = "--epochs 1 --batches 2 --temperatures 20 --burn-in 5 --chains 5 --raise-images 3 --test-images 50"
    mnist_likelihood.main(["--models", "rbm-pcd", "dbm-centred", "--out", str(tmp_path), *small.split()])
    measured = json.loads((tmp_path / "mnist_likelihood.json").read_text())["measured"]
    assert set(measured) == {"rbm-pcd", "dbm-centred"}
    assert all(-800 < row["forward"] < 0 for row in measured.values())
    text = (tmp_path / "mnist_likelihood.md").read_text()
    assert RECIPES["rbm-pcd"].published in text
    assert len(list((tmp_path / "mnist_likelihood").glob("*.png"))) == 2
