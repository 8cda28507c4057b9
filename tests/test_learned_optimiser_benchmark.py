"""The comparison of optimisers: its machines, its choices, its tables, and the whole of it at its smallest size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

from benchmarks import learned_optimiser
from benchmarks.learned_optimiser import Outcome, Runs, likelihood_table, solve
from benchmarks.optimiser_problems import (
    PRACTICE,
    Contender,
    Digits,
    Problem,
    contenders,
    log_likelihood,
    practised,
    train,
)
from harmonium.models.learned_optimiser import LearnedOptimiser

from .enumeration import binary, joint_energies


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits() -> Digits:
    """Random blots, of digit d in row d of the image."""
    labels = torch.arange(400) % 10
    grey = torch.rand(400, 28, 28, generator=seeded())
    grey[torch.arange(400), 2 * labels] = 1
    return Digits(grey=grey.flatten(1), labels=labels)


def small(**changes: int | str) -> Problem:
    return Problem(**{"title": "small", "digits": (1, 2), "side": 2, "hidden": 3, "steps": 6, "marks": 3, **changes})  # type: ignore[arg-type]


def contender(title: str) -> Contender:
    return next(one for one in contenders(LearnedOptimiser(3).initialise(seeded())) if one.title == title)


def test_a_problem_has_its_digits_images_and_pixel_rates() -> None:
    one = Problem(title="rows", digits=(3, 5), side=28, hidden=2, images=60)
    rbm, v = digits().draw(one, seeded())
    assert v.shape == (60, 784)
    assert set(v.unique().tolist()) == {0.0, 1.0}  # type: ignore[no-untyped-call]
    rows = v.view(-1, 28, 28).all(2)
    assert bool((rows[:, 6] | rows[:, 10]).all())
    assert len(v.unique(dim=0)) == 60  # type: ignore[no-untyped-call]
    rates = torch.sigmoid(rbm.visible_parameters["bias"]).detach()
    torch.testing.assert_close(rates, (v.sum(0) + 1) / 62)


def test_likelihoods_are_those_of_enumeration() -> None:
    rbm, v = digits().draw(small(), seeded())
    with torch.no_grad():
        rbm.weight.normal_(0, 1, generator=seeded(1))
    exact = log_likelihood(rbm, v, small())
    pseudo = log_likelihood(rbm, v, small(pseudo=True))
    log_p = torch.logsumexp(-joint_energies(rbm.double(), binary(4), binary(3)), 1).detach().log_softmax(0)
    state = (v @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    assert exact == pytest.approx(float(log_p[state].mean()), abs=1e-5)
    conditionals = [log_p[state] - torch.logaddexp(log_p[state], log_p[state ^ bit]) for bit in (8, 4, 2, 1)]
    assert pseudo == pytest.approx(float(sum(conditionals, torch.zeros(()))[:50].mean()), abs=1e-5)


def test_curves_have_their_marks_and_seeds_decide_everything() -> None:
    adam = contender("Adam")
    one, other = (train(digits(), small(marks=marks), adam, 0.1, seed=4) for marks in (3, 1))
    assert len(one) == 4
    assert other == [one[0], one[-1]]
    assert train(digits(), small(), adam, 0.1, seed=5) != one


def test_a_falling_rate_begins_whole_and_ends_at_nothing() -> None:
    rates = []

    class Watched(torch.optim.SGD):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            rates.append(self.param_groups[0]["lr"])

    for falling in (False, True):
        watched = Contender(title="", make=lambda rbm, rate: Watched(rbm.parameters(), rate), rates=(), falling=falling)
        train(digits(), small(steps=4), watched, 2.0, seed=0)
    assert rates[:4] == [2.0] * 4
    assert rates[4:] == pytest.approx([2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5])


def test_hindsight_finds_the_best_rate_among_all() -> None:
    optimisers, problem = contenders(LearnedOptimiser(3).initialise(seeded())), small(steps=12)
    outcome = solve(digits(), problem, optimisers, [0.02, 0.005, 0.005, 1.0, 0.5], seeds=2)
    assert [(run.contender, run.rate) for run in outcome.runs] == [
        *(("SGD", 0.02), ("Adam", 0.005), ("Adam, falling", 0.005)),
        *(("learned", 1.0), ("learned, scaled", 0.5)),
    ]
    assert outcome.runs[1].curves[1] == train(digits(), problem, optimisers[1], 0.005, seed=1)
    ends = {(one.title, rate): train(digits(), problem, one, rate, 0)[-1] for one in optimisers for rate in one.rates}
    learned = {key: end for key, end in ends.items() if key[0] == "learned, scaled"}
    hand_made = {key: end for key, end in ends.items() if "learned" not in key[0]}
    for found, among in zip(outcome.hindsight, (hand_made.items(), learned.items()), strict=True):
        best, end = max(among, key=lambda item: item[1])
        assert (found.contender, found.rate) == best
        assert found.curves[0][-1] == end
        assert len(found.curves) == 2


def test_differences_are_paired_by_seed() -> None:
    runs = [
        Runs(contender="SGD", rate=1.0, curves=[[-9.0, -5.0], [-9.0, -7.0]]),
        Runs(contender="Adam", rate=0.1, curves=[[-9.0, -8.0], [-9.0, -8.0]]),
        Runs(contender="learned", rate=1.0, curves=[[-9.0, -4.0], [-9.0, -5.0]]),
        Runs(contender="learned, scaled", rate=0.2, curves=[[-9.0, -6.0], [-9.0, -7.0]]),
    ]
    hindsight = [
        Runs(contender="SGD", rate=2.0, curves=[[-9.0, -3.0], [-9.0, -3.0]]),
        Runs(contender="learned, scaled", rate=0.5, curves=[[-9.0, -3.0], [-9.0, -4.0]]),
    ]
    outcome = Outcome(title="made up", steps=7, runs=runs, hindsight=hindsight)
    table = likelihood_table([outcome], "t", lambda curve: curve[-1])
    # Practice: +1 and +2. Hindsight: 0 and -1. The standard error of both means is 1/2.
    (row,) = table.rows
    assert row == (
        *("made up, 7 steps", "2", "-9.00", "-6.00", "-8.00", "-4.50", "-6.50", "+1.50 ± 0.50"),
        *("-3.00 (SGD, 2)", "-3.50 (0.5)", "-0.50 ± 0.50"),
    )
    assert len(table.columns) == len(row)
    assert table.columns[3:7] == ("SGD (1)", "Adam (0.1)", "learned (1)", "learned, scaled (0.2)")
    assert runs[0].final() == -6.0
    assert Runs(contender="", rate=0, curves=[[-9.0, -2.0, -4.0]]).mean() == -3.0


def test_lessons_make_an_optimiser_that_trains_and_are_repeatable(capsys: pytest.CaptureFixture[str]) -> None:
    short = Problem(title="", digits=PRACTICE.digits, side=2, steps=8, images=30)
    one, other, third = (practised(digits(), 3, short, seed) for seed in (1, 1, 2))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one.output.weight, third.output.weight)
    assert "lesson 3 of 3: mean loss" in capsys.readouterr().out


def test_the_command_writes_its_tables_figure_and_optimiser(tmp_path: Path, shared_data: Path) -> None:
    if not (shared_data / "mnist" / "mnist.npz").is_file():
        pytest.skip("no mnist/mnist.npz among the development data")
    tiny = "--effort 0.02 --tasks 50 --seeds 1 --problems same hidden"
    learned_optimiser.main(["--out", str(tmp_path), *tiny.split()])
    measured = json.loads((tmp_path / "learned_optimiser.json").read_text())["measured"]
    assert [outcome["steps"] for outcome in measured["outcomes"]] == [2, 2]
    assert all(-20 < run["curves"][0][-1] < 0 for outcome in measured["outcomes"] for run in outcome["runs"])
    text = (tmp_path / "learned_optimiser.md").read_text()
    assert "| other digits, 2 steps | 1 |" in text
    assert "| 28 × 28 pixels, 500 hidden units |" in text
    assert (tmp_path / "learned_optimiser.png").read_bytes().startswith(b"\x89PNG")
    LearnedOptimiser(16).load_state_dict(torch.load(tmp_path / "learned_optimiser.pt", weights_only=True))
