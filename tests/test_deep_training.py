from __future__ import annotations

from collections.abc import Iterator
from typing import cast, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from harmonium.models import fine_tuning
from harmonium.models.balance import balance
from harmonium.models.dbm import DBM
from harmonium.models.deep_training import (
    Stages,
    StageSchedule,
    binary_stack,
    pretrain,
    train_deep,
    train_jointly,
)
from harmonium.models.presets import FitOptions
from harmonium.models.rbm import RBM
from harmonium.models.tensor_rbm import CP, Stackable, TensorRBM
from harmonium.models.training import StageLog, symmetric_batches
from harmonium.models.units import Bernoulli, Gaussian, Units
from harmonium.models.unrolled import UnrolledStack
from harmonium.models.unrolled_dbm import expand_factors, keep_factors, unroll_dbm

from .tiny_models import silent

GREEDY = StageSchedule(steps=60, batch=64, learning_rate=1e-2)
JOINT = StageSchedule(steps=400, batch=64, learning_rate=3e-3)


def patterns(batch: int, seed: int = 0) -> Iterator[Tensor]:
    """Four binary patterns of 12 bits, one bit in twenty flipped."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.bernoulli(torch.full((4, 12), 0.5), generator=torch.Generator().manual_seed(5))
    while True:
        chosen = prototypes[torch.randint(4, (batch,), generator=generator)]
        flipped = torch.rand(chosen.shape, generator=generator) < 0.05
        yield torch.where(flipped, 1 - chosen, chosen)


def trained(log: StageLog) -> tuple[list[Stackable], DBM]:
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
    stack, dbm = trained(log)
    assert [(stage["stage"], stage["steps"]) for stage in log.stages] == [
        ("greedy-1", 60),
        ("greedy-2", 60),
        ("greedy-3", 60),
        ("joint", 400),
    ]
    assert log.stages[0]["last"] < log.stages[0]["first"]
    greedy = unroll_dbm(DBM.compose(stack))
    flat = float((next(patterns(1000, seed=9)) - next(patterns(1000)).mean(0)).square().sum(1).mean())
    assert error(unroll_dbm(dbm)) < 0.9 * error(greedy) < 0.9 * flat


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


def tensor_stack(x: Tensor, rank: int) -> list[Stackable]:
    """On patterns of 12 values as tensors (3, 4), real-valued."""

    def lowest(visible: Units, hidden: Units) -> TensorRBM:
        return TensorRBM((3, 4), visible, hidden, CP(rank=rank))

    visible = Gaussian(size=12, variance=0.2)
    return binary_stack(visible, (10, 8, 3), x, torch.Generator().manual_seed(1), lowest)


@torch.no_grad()
def test_layers_in_factors_are_balanced_like_others_but_for_what_their_factors_cannot_make() -> None:
    x = next(patterns(500))
    stack = tensor_stack(x, rank=5)
    assert isinstance(stack[0], TensorRBM)
    dbm = DBM.compose(stack)
    dense, net = unroll_dbm(dbm), unroll_dbm(dbm)
    keep_factors(net, dbm)
    balance(dense, x)
    balance(net, x)
    torch.testing.assert_close(net.code_input(x), dense.code_input(x), rtol=1e-3, atol=1e-3)
    code = dense.encode(x)
    h = code.float()
    for layer in dense.decoder[:-1]:
        h = torch.sigmoid(layer(h))
    last, unrestricted = (cast("torch.nn.Linear", one.decoder[-1]) for one in (net, dense))
    factors = {name.rpartition(".")[2]: p for name, p in last.named_parameters()}
    visible = torch.einsum("ir,jr->ijr", factors["mode_0"], factors["mode_1"]).flatten(0, 1).double().numpy()
    # Least squares in two steps: without the restriction, then onto what the visible factors span.
    onto = visible @ np.linalg.pinv(visible)
    np.testing.assert_allclose(last.weight, onto @ unrestricted.weight.double().numpy(), atol=1e-3)
    assert np.abs(onto - np.eye(12)).max() > 0.1
    np.testing.assert_allclose(net.decode(code).mean(0), x.mean(0), atol=1e-3)
    decoded = net.decode(code)
    expand_factors(net)
    assert torch.equal(net.decode(code), decoded)


@pytest.mark.parametrize(("greedy", "joint"), [(60, 40), (0, 0)])
def test_a_machine_on_tensors_passes_all_stages_and_its_network_is_of_the_rank_that_was_asked_for(
    greedy: int, joint: int
) -> None:
    stack = tensor_stack(next(patterns(500)), rank=2)
    log = StageLog(silent)
    stages = Stages(greedy=greedy, joint=joint, fine_tuning=200, learning_rate=1e-2, fine_tuning_rate=1e-2)
    generator = torch.Generator().manual_seed(0)
    net = train_deep(stack, patterns, stages, FitOptions(), generator, log, torch.clone)
    before = ["greedy-1", "greedy-2", "greedy-3", "joint"] if greedy else []
    assert [stage["stage"] for stage in log.stages] == [*before, "fine-tuning", "search"]
    for layer in (net.encoder[0], net.decoder[-1]):
        assert type(layer) is torch.nn.Linear
        # A sum of two outer products, also after fine-tuning.
        assert int(torch.linalg.matrix_rank(layer.weight.detach(), rtol=1e-4)) == 2
    x = next(patterns(1000, seed=9))
    assert error(net) < 0.9 * float((x - x.mean(0)).square().sum(1).mean())


@pytest.mark.parametrize("visible", [Bernoulli(size=4), Gaussian(size=4)])
def test_visible_biases_start_at_the_data(visible: Bernoulli | Gaussian) -> None:
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    lowest = binary_stack(visible, (3,), x, torch.Generator().manual_seed(0))[0]
    assert isinstance(lowest, RBM)
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
