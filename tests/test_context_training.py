"""Training by likelihood: the likelihood itself, its steps, and that nothing is seen before it is known."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from harmonium.models import context_training
from harmonium.models.context_network import FEATURES, STEP_ORDER, LevelNetwork
from harmonium.models.context_training import Schedule, Source, negative_log_likelihood
from harmonium.models.integer_network import IntegerLevel

from .tiny_networks import random_networks, source, trained_networks, whole_level

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


# --- the likelihood --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 9999))
def test_probabilities_of_all_numbers_sum_to_one(seed: int) -> None:
    """By logsumexp over all numbers that have any: scales are cut at what 16 bits can give, most are far below."""
    draw = np.random.default_rng(seed)
    outputs = np.stack([draw.uniform(-8, 8, 6), draw.uniform(-6, 5, 6), draw.uniform(-9, 9, 6)])
    numbers = torch.arange(-9000, 9001, dtype=torch.float64)
    for column in outputs.T:
        each = torch.from_numpy(column).reshape(3, 1, 1).expand(3, 1, len(numbers))
        found = negative_log_likelihood(each, numbers.reshape(1, -1))
        # What is less probable than 1e-9 is cut to that: 18 001 numbers add 2e-5 at the most.
        assert float(torch.logsumexp(-found, (0, 1))) == pytest.approx(0, abs=4e-5)


@given(seed=st.integers(0, 9999))
def test_the_likelihood_is_that_of_the_mixture_of_logistic_distributions(seed: int) -> None:
    """Against differences of the distribution function, in numpy, written from its formula."""
    draw = np.random.default_rng(seed)
    outputs = torch.from_numpy(draw.uniform(-2, 2, (3, 4, 5)) * np.array([2, 1, 2]).reshape(3, 1, 1))
    numbers = torch.from_numpy(draw.integers(-3, 4, (4, 5)).astype(np.float64))
    centre, scale, shape = outputs.numpy()
    sigma = np.exp(scale - 0.5)
    weight = np.clip(1 / (1 + np.exp(1.5 - shape)), 0.03, 0.5)

    def below(edge: Any, width: Any) -> Any:
        return 1 / (1 + np.exp(-(edge - centre * sigma) / width))

    mass: Any = 0
    for part, width in ((1 - weight, sigma), (weight, 2.5 * sigma)):
        mass = mass + part * (below(numbers.numpy() + 0.5, width) - below(numbers.numpy() - 0.5, width))
    found = negative_log_likelihood(outputs, numbers).numpy()
    np.testing.assert_allclose(found, -np.log(np.maximum(mass, 1e-9)), rtol=1e-5, atol=1e-9)


def test_likelihoods_far_from_the_centre_are_symmetric_and_finite() -> None:
    outputs = torch.tensor([0.0, -2.0, 0.0]).reshape(3, 1, 1).expand(3, 1, 7)
    numbers = torch.tensor([[-1e9, -500, -8, 0, 8, 500, 1e9]])
    found = negative_log_likelihood(outputs, numbers)
    assert torch.equal(found, found.flip(1))
    assert found.isfinite().all()
    assert float(found.max()) == pytest.approx(-np.log(1e-9))


# --- training --------------------------------------------------------------------------------------------------------


def test_training_lowers_the_bits() -> None:
    """Of crops that were not drawn in training: what is drawn there differs too much in rate to be compared."""
    draw = random.Random("held out")
    both = trained_networks()
    crops = [
        context_training._examples(*context_training._draw_crop([source()], draw), draw, both[0], CPU) for _ in range(4)
    ]
    with torch.no_grad():
        (loss, before), (lower, after) = (context_training._loss(networks, crops, CPU) for networks in both)
    assert after < before
    assert lower < loss - 0.4  # a third fewer bits of each crop, in the geometric mean


def test_what_is_minimised_is_a_sum_of_logarithms_of_bits_and_errors() -> None:
    networks = random_networks(5)
    crops = [examples_of(number, networks) for number in (1, 2)]
    with torch.no_grad():
        loss, bits = context_training._loss(networks, crops, CPU)
        alone = [context_training._loss(networks, [crop], CPU) for crop in crops]
    assert float(loss) == pytest.approx(np.mean([float(each) for each, _ in alone]), rel=1e-3)
    assert bits == pytest.approx(np.mean([each for _, each in alone]), rel=1e-3)
    # By hand, of one crop.
    nats, before, after, count = 0.0, 0.0, 0.0, 0
    for level, example in enumerate(crops[0]):
        network = networks[min(level, 2)]
        assert isinstance(network, LevelNetwork)
        with torch.no_grad():
            trunk = network.trunk(example.features)
            for number, step in enumerate(STEP_ORDER):
                outputs = network.head(number, trunk, example.details)
                nats += float(negative_log_likelihood(outputs, step.take(example.numbers[:, step.band])).sum())
            beside = network.restored(example.features, example.details)
        wrong = example.values - example.numbers
        before += float(wrong.square().sum())
        after += float((wrong - beside).square().sum())
        count += example.numbers.numel()
    floor = 0.005
    expected = math.log(nats / count + floor) + math.log((after + floor * count) / (before + floor * count))
    assert float(alone[0][0]) == pytest.approx(expected, abs=0.02)  # bfloat16


def examples_of(seed: int, networks: nn.ModuleList) -> list[context_training._Example]:
    """Of a crop, with losses: steps of 50 DN and more."""
    draw = random.Random(seed)
    crop, peak = context_training._draw_crop([source()], draw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_training, "FINE_STEPS", 0.0)
        return context_training._examples(crop, peak, draw, networks, CPU)


def test_numbers_are_those_that_cost_least() -> None:
    """Of an encoder's two offers; under what the networks say, squared errors and bits are not more than of others."""
    networks = random_networks(6)
    network = networks[0]
    assert isinstance(network, LevelNetwork)
    values = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    zeros = torch.zeros(2, 16, 16, dtype=torch.int32)
    example = context_training._example(zeros, values.round(), values, torch.arange(2))
    found = context_training._cheaper(network, values, example, 0.3, CPU)
    towards_zero = (values.round().abs() - 1).clamp(min=0) * values.sign()
    assert ((found == values.round()) | (found == towards_zero)).all()
    assert (found != values.round()).any()

    def cost(numbers: Tensor) -> float:
        with torch.no_grad():
            trunk = network.trunk(example.features)
            nats = 0.0
            for number, step in enumerate(STEP_ORDER):
                wanted = step.take(numbers[:, step.band]).float()
                nats += float(negative_log_likelihood(network.head(number, trunk, example.details), wanted).sum())
        return float((values - numbers).square().sum()) + 0.3 * nats / math.log(2)

    assert cost(found) < min(cost(values.round()), cost(towards_zero))


def test_restoration_is_learned() -> None:
    """A tenth of the squared errors goes in some steps, of values that always lie a quarter of a step above."""
    network = random_networks(7)[0]
    assert isinstance(network, LevelNetwork)
    draw = torch.Generator().manual_seed(0)
    numbers = torch.randint(-2, 3, (1, 3, 16, 16), generator=draw).double()
    zeros = torch.zeros(1, 16, 16, dtype=torch.int32)
    example = context_training._example(zeros, numbers, numbers + 0.25, torch.arange(1))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    errors = []
    for _ in range(30):
        both = context_training._squared_errors(
            network, example.features, example.details, example.numbers, example.values
        )
        optimiser.zero_grad()
        both[:, 1].sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        errors.append(float(both[0, 1].detach()))
    assert float(both[0, 0].detach()) == pytest.approx(0.0625 * numbers.numel())
    assert errors[-1] < 0.9 * min(errors[0], float(both[0, 0].detach()))


def test_nothing_is_restored_where_nothing_is_lost() -> None:
    network = random_networks(7)[0]
    numbers = torch.ones(2, 3, 8, 8).double()
    values = numbers.clone()
    values[1] += 0.25
    example = context_training._example(torch.zeros(2, 8, 8, dtype=torch.int32), numbers, values, torch.arange(2))
    both = context_training._squared_errors(network, example.features, example.details, example.numbers, example.values)
    assert both[0].tolist() == [0, 0]
    assert (both[1] > 0).all()


def states_of(networks: nn.ModuleList) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in networks.state_dict().items()}


def test_a_training_that_was_cut_goes_on_to_the_same_weights() -> None:
    schedule = Schedule(steps=4, batch=1, warm_up=2)
    uncut = random_networks(1)
    losses = list(context_training.train(uncut, [source()], schedule, seed=3))

    kept: dict[int, tuple[dict[str, Any], dict[str, Tensor]]] = {}
    first = random_networks(1)

    def keep(step: int, state: dict[str, Any]) -> None:
        kept[step] = copy.deepcopy(state), states_of(first)

    training = context_training.train(first, [source()], schedule, seed=3, keep=keep)
    before = [next(training) for _ in range(2)]
    assert list(kept) == [1, 2]

    resumed = random_networks(9)  # whatever they were
    state, weights = kept[2]
    resumed.load_state_dict(weights)
    after = list(context_training.train(resumed, [source()], schedule, seed=3, first_step=2, optimiser_state=state))
    assert before + after == losses
    expected = states_of(uncut)
    for name, found in states_of(resumed).items():
        assert torch.equal(found, expected[name]), name
    assert not torch.equal(expected["0.outputs.0.bias"], weights["0.outputs.0.bias"])


def test_crops_are_those_of_the_source_turned() -> None:
    """Blocks, and scenes: every crop is found in its source, in one of eight positions."""
    pixels = np.arange(2 * 130 * 131, dtype=np.uint16).reshape(2, 130, 131)
    given = [Source(pixels=pixels, peak=7.0), Source(pixels=pixels[None, :, 1:129, 2:130], peak=9.0, weight=0.5)]
    draw = random.Random(0)
    peaks = []
    for _ in range(40):
        crop, peak = context_training._draw_crop(given, draw)
        peaks.append(peak)
        assert crop.shape == (2, 128, 128)
        values = crop.numpy()
        turned = [values, values.transpose(0, 2, 1)]
        turned = [each[:, ::down, ::across] for each in turned for down in (1, -1) for across in (1, -1)]
        found = 0
        for each in turned:
            row, column = divmod(int(each[0, 0, 0]), 131)
            found += np.array_equal(pixels[:, row : row + 128, column : column + 128], each)
        assert found == 1
    assert 15 < peaks.count(7.0) < 38


@pytest.mark.parametrize("side", [64, 72, 120])
def test_scenes_smaller_than_a_crop_can_be_learned_from(side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 999, (1, side, side + 3)).astype(np.uint16)
    losses = context_training.train(
        random_networks(0), [Source(pixels=pixels, peak=1e4)], Schedule(steps=1, batch=1), seed=0
    )
    assert np.isfinite(list(losses)).all()


@pytest.mark.parametrize("bands", [1, 3, 9])
def test_examples_show_what_a_decoder_will_know(bands: int) -> None:
    draw = random.Random(1)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 2000, (bands, 128, 128)).astype(np.float64))
    levels = context_training._examples(pixels, 10_000.0, draw, random_networks(0), CPU)
    planes = min(bands, 6)
    for number, level in enumerate(levels):
        side = 64 >> number
        assert level.features.shape == (planes, FEATURES, side, side)
        assert level.details.shape == level.numbers.shape == (planes, 3, side, side)
        assert torch.equal(level.numbers, level.numbers.round())
        # Details of the plane before are among the features of each.
        if planes > 1:
            assert torch.equal(level.features[1:, 17:20], level.details[:-1])


# --- nothing is seen before it is known ------------------------------------------------------------------------------


def changed_after(details: Tensor, number: int, draw: torch.Generator) -> Tensor:
    """Other details wherever a decoder does not know them at a step: in this step and in those after it."""
    found = details.clone()
    for later in STEP_ORDER[number:]:
        lines = later.take(found[:, later.band])
        lines.copy_(torch.randint(-133, 134, lines.shape, generator=draw).float())
    return found


def float_network() -> LevelNetwork:
    network = random_networks(4)[0]
    assert isinstance(network, LevelNetwork)
    return network


@pytest.mark.parametrize("network", [float_network(), whole_level(8)], ids=["floats", "whole"])
@pytest.mark.parametrize("number", range(len(STEP_ORDER)))
@torch.no_grad()
def test_a_head_sees_nothing_of_its_own_step_and_of_later_ones(
    network: LevelNetwork | IntegerLevel, number: int
) -> None:
    draw = torch.Generator().manual_seed(number)
    seen = torch.randint(-133, 134, (2, FEATURES, 10, 12), generator=draw).float()
    details = torch.randint(-133, 134, (2, 3, 10, 12), generator=draw).float()
    trunk = network.trunk(seen)
    before = network.head(number, trunk, details)
    assert torch.equal(network.head(number, trunk, changed_after(details, number, draw)), before)
    # And it does see all steps before it.
    for known in range(number):
        other = details.clone()
        lines = STEP_ORDER[known].take(other[:, STEP_ORDER[known].band])
        lines.copy_(torch.randint(-133, 134, lines.shape, generator=draw).float())
        assert not torch.equal(network.head(number, trunk, other), before)


@pytest.mark.parametrize("network", [float_network(), whole_level(8)], ids=["floats", "whole"])
@pytest.mark.parametrize("number", range(1, len(STEP_ORDER)))
@torch.no_grad()
def test_what_is_known_is_seen_around_the_place_itself(network: LevelNetwork | IntegerLevel, number: int) -> None:
    """A detail of an earlier step moves outputs within two rows and columns of its place, on the lines of the step."""
    step = STEP_ORDER[number]
    height, width = 12, 13
    trunk = network.trunk(torch.randint(-133, 134, (1, FEATURES, height, width)).float())
    details = torch.zeros(1, 3, height, width)
    base = network.head(number, trunk, details)
    for row, column in ((0, 0), (5, 6), (6, 7), (11, 12)):
        other = details.clone()
        other[0, :, row, column] = 133
        moved = (network.head(number, trunk, other) != base).any(1)[0]
        rows, columns = np.nonzero(moved.numpy())
        rows, columns = (2 * rows + step.parity, columns) if step.along_rows else (rows, 2 * columns + step.parity)
        assert (abs(rows - row) <= 2).all()
        assert (abs(columns - column) <= 2).all()


def test_steps_part_the_details() -> None:
    counted = torch.zeros(3, 7, 9)
    for step in STEP_ORDER:
        step.take(counted[step.band]).add_(1)
    assert torch.equal(counted, torch.ones(3, 7, 9))
