from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from harmonium.models import fine_tuning
from harmonium.models.dbm import DBM
from harmonium.models.deep_training import StageSchedule, balance, binary_stack, pretrain, train_jointly
from harmonium.models.rbm import RBM
from harmonium.models.training import StageLog, symmetric_batches
from harmonium.models.units import Bernoulli, Gaussian
from harmonium.models.unrolled import UnrolledStack
from harmonium.models.unrolled_dbm import unroll_dbm

from .tiny_models import silent

GREEDY = StageSchedule(steps=60, batch=64, learning_rate=1e-2)
JOINT = StageSchedule(steps=40, batch=64, learning_rate=3e-3)


def patterns(batch: int, seed: int = 0) -> Iterator[Tensor]:
    """Four binary patterns of 12 bits, one bit in twenty flipped."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.bernoulli(torch.full((4, 12), 0.5), generator=torch.Generator().manual_seed(5))
    while True:
        chosen = prototypes[torch.randint(4, (batch,), generator=generator)]
        flipped = torch.rand(chosen.shape, generator=generator) < 0.05
        yield torch.where(flipped, 1 - chosen, chosen)


def trained(log: StageLog) -> tuple[list[RBM], DBM]:
    generator = torch.Generator().manual_seed(1)
    stack = binary_stack(Bernoulli(size=12), (10, 8, 3), next(patterns(500)), generator)
    pretrain(stack, patterns, GREEDY, generator, log)
    dbm = DBM.compose(stack)
    train_jointly(dbm, patterns, JOINT, generator, log)
    return stack, dbm


def error(net: UnrolledStack) -> float:
    x = next(patterns(1000, seed=9))
    with torch.no_grad():
        return float(fine_tuning.squared_error(net.decode(net.encode(x)), x))


def test_every_stage_is_recorded_and_lowers_what_it_lowers() -> None:
    log = StageLog(silent)
    stack, _ = trained(log)
    assert [(stage["stage"], stage["steps"]) for stage in log.stages] == [
        ("greedy-1", 60),
        ("greedy-2", 60),
        ("greedy-3", 60),
        ("joint", 40),
    ]
    assert log.stages[0]["last"] < log.stages[0]["first"]
    assert log.stages[3]["last"] < log.stages[3]["first"]  # chains come to the data's means
    greedy = unroll_dbm(DBM.compose(stack))
    flat = float((next(patterns(1000, seed=9)) - next(patterns(1000)).mean(0)).square().sum(1).mean())
    assert error(greedy) < flat


@pytest.mark.parametrize("code", get_args(fine_tuning.CodeUnits))
def test_fine_tuning_gains_on_what_was_greedily_trained(code: fine_tuning.CodeUnits) -> None:
    stack, dbm = trained(StageLog(silent))
    tuned = unroll_dbm(dbm)
    schedule = fine_tuning.Schedule(steps=400, batch=64, learning_rate=1e-2, code=code)
    list(fine_tuning.fine_tune(tuned, patterns(64), schedule, torch.Generator().manual_seed(0)))
    assert error(tuned) < 0.85 * error(unroll_dbm(DBM.compose(stack)))


@torch.no_grad()
def test_balanced_units_have_the_same_spread_and_say_the_same_of_a_cell() -> None:
    dbm = trained(StageLog(silent))[1]
    net, balanced = unroll_dbm(dbm), unroll_dbm(dbm)
    x = next(patterns(500))
    balance(balanced, x, deviation=1.5)
    before, h = x, x
    for number, (raw, layer) in enumerate(zip(net.encoder, balanced.encoder, strict=True)):
        inputs, raw_inputs = layer(h), raw(before)
        np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(inputs.std(0), 1.5, rtol=1e-3)
        if number == 0:  # the same linear feature of the data
            correlation = torch.corrcoef(torch.cat([inputs.T, raw_inputs.T]))[: inputs.shape[1], inputs.shape[1] :]
            np.testing.assert_allclose(correlation.diag(), 1, atol=1e-3)
        h, before = torch.sigmoid(inputs), torch.sigmoid(raw_inputs)
    assert torch.equal(balanced.encode(x).float(), h.round())
    y = next(patterns(1000, seed=9))
    flat = float((y - x.mean(0)).square().sum(1).mean())
    assert float(fine_tuning.squared_error(balanced.decode(balanced.encode(y)), y)) < 0.9 * flat


@pytest.mark.parametrize("visible", [Bernoulli(size=4), Gaussian(size=4)])
def test_visible_biases_start_at_the_data(visible: Bernoulli | Gaussian) -> None:
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    lowest = binary_stack(visible, (3,), x, torch.Generator().manual_seed(0))[0]
    with torch.no_grad():
        lowest.weight.zero_()
        mean = lowest.mean_visible(torch.zeros(1, 3))[0]
    expected = np.array([0.0, 1.0, 0.75, 0.25])
    np.testing.assert_allclose(mean, np.clip(expected, 0.01, 0.99) if visible == Bernoulli(size=4) else expected, 1e-5)


def test_batches_are_the_eight_symmetries_of_cells() -> None:
    cell = np.arange(128.0, dtype=np.float32).reshape(2, 8, 8)
    source = symmetric_batches(torch.from_numpy(cell.reshape(1, 128)), 3, torch.Generator().manual_seed(0))
    seen = {next(source).numpy().tobytes() for _ in range(200)}
    turns = [np.rot90(image, k, (1, 2)) for image in (cell, cell.transpose(0, 2, 1)) for k in range(4)]
    assert seen == {np.stack([turn.reshape(128)] * 3).tobytes() for turn in turns}


@pytest.mark.parametrize("change", [{"steps": -1}, {"batch": 0}, {"learning_rate": 0.0}])
def test_schedules_that_cannot_be(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="A stage needs"):
        StageSchedule(**{"steps": 1, **change})  # type: ignore[arg-type]
