"""Networks in whole numbers: near the trained ones, and the same however they are computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harmonium.models import context_network, context_training, integer_network
from harmonium.models.context_network import FEATURES, OUTPUTS, SIXTEENTHS, STEP_ORDER, LevelNetwork, companded
from harmonium.models.context_training import negative_log_likelihood
from harmonium.models.integer_network import LARGEST_INPUT, LIMIT, OUTPUT_UNIT, IntegerLayer, IntegerLevel

from .tiny_networks import WholeNumbers, random_networks, source, trained_networks, whole_level

pytestmark = pytest.mark.usefixtures("one_thread")


def any_input(planes: int, rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features and companded details, as large as they can be."""
    numbers = WholeNumbers(seed)
    seen = numbers.tensor((planes, FEATURES, rows, columns), -LARGEST_INPUT, LARGEST_INPUT)
    return seen.float(), numbers.tensor((planes, 3, rows, columns), -LARGEST_INPUT, LARGEST_INPUT).float()


def outputs_of(network: IntegerLevel, seen: Tensor, details: Tensor) -> list[Tensor]:
    trunk = network.trunk(seen)
    return [
        *(network.head(number, trunk, details) for number in range(len(STEP_ORDER))),
        network.restored(seen, details),
    ]


# --- an oracle in Python's whole numbers -----------------------------------------------------------------------------


def bfloat16(value: float) -> float:
    """To 8 significant bits, halves to even, in exact arithmetic."""
    if value == 0:
        return 0.0
    unit = 2.0 ** (math.frexp(value)[1] - 8)
    return round(value / unit) * unit


def layer_by_hand(sums: Any, layer: IntegerLayer, low: int, high: int) -> Any:
    """What a layer makes of exact sums (out, ...), one value after the other."""
    found = np.empty(sums.shape)
    for place in np.ndindex(*sums.shape):
        product = bfloat16(bfloat16(float(sums[place])) * float(layer.factor[place[0]]))
        found[place] = min(max(round(product), low), high)
    return found


def convolution_by_hand(values: Any, weight: Any, places: list[tuple[int, int]], offset: tuple[int, int]) -> Any:
    """Sums (out, places) of products of whole numbers, where beyond the edge there is 0."""
    channels, height, width = values.shape
    found = np.zeros((len(weight), len(places)), np.int64)
    for number, (row, column) in enumerate(places):
        for down in range(weight.shape[2]):
            for across in range(weight.shape[3]):
                y, x = row + down - offset[0], column + across - offset[1]
                if 0 <= y < height and 0 <= x < width:
                    found[:, number] += weight[:, :channels, down, across] @ values[:, y, x]
    return found


def whole(tensor: Tensor) -> Any:
    return tensor.double().numpy().astype(np.int64)


def test_outputs_are_those_of_whole_numbers_added_up_one_by_one() -> None:
    network = whole_level(5)
    rows, columns = 4, 5
    seen, details = any_input(1, rows, columns, seed=7)
    every = [(row, column) for row in range(rows) for column in range(columns)]
    values = whole(seen[0])
    for layer in network.trunk_layers:
        sums = convolution_by_hand(values, whole(layer.weight), every, (1, 1)) + whole(layer.bias)[:, None]
        values = layer_by_hand(sums, layer, 0, LIMIT).astype(np.int64).reshape(-1, rows, columns)
    known = whole(details[0])
    *heads, restored = outputs_of(network, seen, details)
    for number, found in enumerate(heads):
        band, parity = divmod(number, 2)
        places = [place for place in every if place[1 if band == 1 else 0] % 2 == parity]
        visible = known[:band].copy()
        if parity:  # the even lines of the band itself
            half = known[band].copy()
            (half.T if band == 1 else half)[1::2] = 0
            visible = np.concatenate([visible, half[None]])
        inputs = np.stack([values[:, row, column] for row, column in places], 1)
        joined = network.joined[number]
        rounded = np.vectorize(bfloat16)
        sums = rounded((whole(joined.weight)[:, :, 0, 0] @ inputs + whole(joined.bias)[:, None]).astype(float))
        if len(visible):
            sums = sums + rounded(convolution_by_hand(visible, whole(network.known[number]), places, (2, 2)) * 1.0)
        inputs = layer_by_hand(sums, joined, 0, LIMIT).astype(np.int64)
        for layer, low, high in ((network.hidden[number], 0, LIMIT), (network.outputs[number], -(1 << 15), 1 << 15)):
            sums = whole(layer.weight)[:, :, 0, 0] @ inputs + whole(layer.bias)[:, None]
            inputs = layer_by_hand(sums, layer, low, high).astype(np.int64)
        np.testing.assert_array_equal(found[0].numpy().reshape(OUTPUTS, -1), inputs)
    inputs = np.concatenate([whole(seen[0]), known])
    for layer, low, high, side in zip(network.restoring, (0, 0, -32), (LIMIT, LIMIT, 32), (1, 1, 0), strict=True):
        sums = convolution_by_hand(inputs, whole(layer.weight), every, (side, side)) + whole(layer.bias)[:, None]
        inputs = layer_by_hand(sums, layer, low, high).astype(np.int64).reshape(-1, rows, columns)
    np.testing.assert_array_equal(restored[0].numpy(), inputs)
    assert np.unique(inputs).size > 10


# --- the same, however it is computed --------------------------------------------------------------------------------

SIZES = [(3, 8, 8), (1, 1, 1), (2, 1, 5), (2, 7, 1), (5, 17, 33)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_of_bfloat16_and_of_float32_give_the_same(
    size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = whole_level(1)
    given = any_input(*size)
    found = []
    for native in (True, False):
        monkeypatch.setattr(integer_network, "_native", lambda native=native: native)
        found.append(outputs_of(network, *given))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert any(one.numel() and one.max() - one.min() > 2 for one in found[0]) or size[1:] == (1, 1)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_planes_together_give_what_each_gives(size: tuple[int, int, int]) -> None:
    network = whole_level(2)
    seen, details = any_input(*size)
    together = outputs_of(network, seen, details)
    for plane in range(size[0]):
        alone = outputs_of(network, seen[plane : plane + 1], details[plane : plane + 1])
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one[plane : plane + 1], other)


def test_one_and_two_threads_give_the_same() -> None:
    network = whole_level(3)
    given = any_input(4, 48, 40)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append(outputs_of(network, *given))
        finally:
            torch.set_num_threads(1)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_largest_activations_and_weights_stay_exact() -> None:
    """Sums next to 2^24, which float32 still holds: in whole numbers of 64 bits they are the same."""
    inputs = 257  # 255 · 255 · 257 is the last below 2^24
    layer = IntegerLayer(
        weight=torch.full((2, inputs, 1, 1), 255.0).bfloat16(),
        bias=torch.zeros(2).bfloat16(),
        factor=torch.ones(2).bfloat16(),
    )
    values = torch.full((1, inputs, 3, 3), 255.0).bfloat16()
    values[:, 1:, 1, 1] = 254
    expected = (values.long().sum(1) * 255).double()
    for native in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(integer_network, "_native", lambda native=native: native)
            found = layer.sums(values)[:, 0].double()
        assert torch.equal(found, torch.tensor([[[bfloat16(float(v)) for v in row] for row in expected[0]]]).double())


# --- near the trained network ----------------------------------------------------------------------------------------


def loss(head: Callable[[int], Tensor], numbers: Tensor) -> float:
    total = 0.0
    for number, step in enumerate(STEP_ORDER):
        total += float(negative_log_likelihood(head(number), step.take(numbers[:, step.band])).sum())
    return total / numbers.numel()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_rounded_network_predicts_as_well_as_the_trained_one(level: int) -> None:
    networks = trained_networks()[1]
    with torch.no_grad():
        before, after = losses(networks, level)
    assert after == pytest.approx(before, rel=0.02)


def losses(networks: nn.ModuleList, level: int) -> tuple[float, float]:
    """Of a network and of what it is rounded to, over other crops than those that it is rounded with."""
    network = networks[level]
    assert isinstance(network, LevelNetwork)
    examples = [crop[level] for crop in context_training.calibration(networks, [source()], 8, seed=3)]
    rounded = integer_network.rounded(network, examples)
    before = after = 0.0
    for seen, details in [crop[level] for crop in context_training.calibration(networks, [source()], 6, seed=4)]:
        # Numbers that companded details stand for: they are whole steps.
        values = (details.abs() / SIXTEENTHS).expm1().mul(details.sign()).round()
        assert torch.equal(companded((values * SIXTEENTHS).to(torch.int32)), details)
        trunk, whole_trunk = network.trunk(seen), rounded.trunk(seen)
        before += loss(lambda number, t=trunk, d=details: network.head(number, t, d), values)  # type: ignore[misc]
        after += loss(
            lambda number, t=whole_trunk, d=details: rounded.head(number, t, d) / OUTPUT_UNIT,  # type: ignore[misc]
            values,
        )
    return before, after


@torch.no_grad()
def test_rounding_uses_the_bits_that_there_are() -> None:
    networks = random_networks(2)
    examples = [crop[1] for crop in context_training.calibration(networks, [source()], 4, seed=3)]
    network = networks[1]
    assert isinstance(network, LevelNetwork)
    rounded = integer_network.rounded(network, examples)
    for layer in (*rounded.trunk_layers, *rounded.joined, *rounded.hidden, *rounded.outputs, *rounded.restoring):
        assert layer.weight.abs().max() > 60
    # Activations fill their range: the largest are near its end.
    trunk = torch.cat([rounded.trunk(seen).flatten() for seen, _ in examples])
    assert trunk.max() == LIMIT
    assert (trunk == LIMIT).float().mean() < 0.01
    assert not rounded.known[0].any()


# --- what is refused -------------------------------------------------------------------------------------------------


def layer_of(weight: Tensor, bias: float = 0.0, factor: float = 1.0) -> IntegerLayer:
    count = len(weight)
    return IntegerLayer(
        weight=weight.bfloat16(),
        bias=torch.full((count,), bias).bfloat16(),
        factor=torch.full((count,), factor).bfloat16(),
    )


@pytest.mark.parametrize(
    ("weight", "bias", "factor", "message"),
    [
        (256.0, 0.0, 1.0, "weights of at most 255"),
        (0.5, 0.0, 1.0, "whole numbers as weights"),
        (1.0, 0.5, 1.0, "whole numbers as weights"),
        (math.nan, 0.0, 1.0, "finite weights"),
        (1.0, math.inf, 1.0, "finite biases"),
        (1.0, 0.0, math.inf, "finite factors"),
    ],
)
def test_layers_that_are_not_exact(weight: float, bias: float, factor: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_of(torch.full((2, 3, 1, 1), weight), bias, factor)


def test_layers_in_another_type() -> None:
    good = layer_of(torch.ones(2, 3, 1, 1))
    with pytest.raises(ValueError, match=r"bfloat16, found torch\.float32"):
        replace(good, weight=good.weight.float())


def test_networks_whose_sums_might_reach_2_to_the_24_are_refused() -> None:
    network = whole_level(1)
    # 9 · 24 · 133 · 255 lies below 2^24, 576 and more inputs of a wide layer do not.
    wide = layer_of(torch.full((2, 64, 3, 3), 255.0))
    with pytest.raises(ValueError, match="sums below 2\\^24, found up to 37454400"):
        replace(network, trunk_layers=(network.trunk_layers[0], wide))
    bias = replace(network.hidden[0], bias=torch.full((len(network.hidden[0].bias),), 2.0**24).bfloat16())
    with pytest.raises(ValueError, match="sums below 2\\^24, found up to 16"):
        replace(network, hidden=(bias, *network.hidden[1:]))
    # What details add counts together with the trunk's part.
    known = list(network.known)
    known[5] = torch.full_like(known[5], 255)
    joined = list(network.joined)
    assert 255 * 3 * 25 * LARGEST_INPUT < 1 << 24
    replace(network, known=tuple(known))
    joined[5] = replace(joined[5], bias=torch.full_like(joined[5].bias, 2.0**24 - 255 * 3 * 25 * LARGEST_INPUT))
    replace(network, joined=tuple(joined))
    with pytest.raises(ValueError, match="sums below 2\\^24"):
        replace(network, joined=tuple(joined), known=tuple(known))


def test_networks_come_back_from_tensors() -> None:
    network = whole_level(4)
    tensors = network.to_tensors()
    assert {value.dtype for value in tensors.values()} == {torch.int16, torch.int32, torch.bfloat16}
    found = IntegerLevel.from_tensors(tensors)
    given = any_input(2, 9, 8)
    for one, other in zip(outputs_of(found, *given), outputs_of(network, *given), strict=True):
        assert torch.equal(one, other)
    again = found.to_tensors()
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.pop("known.3.weight"), KeyError, "known.3.weight"),
        (lambda t: t.update(more=torch.zeros(1)), ValueError, "no other tensors of a network, found more"),
        (lambda t: t.update({"hidden.0.weight": t["hidden.0.weight"][:2]}), ValueError, "expected torch.int16"),
        (lambda t: t.update({"joined.1.bias": t["joined.1.bias"].float()}), ValueError, "expected torch.int32"),
        (lambda t: t.update({"joined.1.weight": t["joined.1.weight"] + 400}), ValueError, "weights of at most 255"),
        (lambda t: t.update({"hidden.2.factor": t["hidden.2.factor"] * math.nan}), ValueError, "finite factors"),
        (lambda t: t.update({"outputs.2.bias": t["outputs.2.bias"] + (1 << 24)}), ValueError, "sums below 2\\^24"),
        (lambda t: t.update({"trunk_layers.0.bias": torch.zeros(9).int()}), ValueError, "trunk_layers.0.weight"),
    ],
)
def test_tensors_that_are_no_network(change: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    tensors = whole_level(4).to_tensors()
    change(tensors)
    with pytest.raises(error, match=message):
        IntegerLevel.from_tensors(tensors)


# --- what networks see -----------------------------------------------------------------------------------------------


def test_companded_values_are_the_formula_and_no_close_calls() -> None:
    values = torch.arange(-(1 << 17), (1 << 17) + 1, 7, dtype=torch.int32)
    expected = np.sign(values.numpy()) * np.log1p(np.minimum(np.abs(values.numpy()), 65535) / 16) * 16
    found = companded(values).numpy()
    assert np.abs(found - expected).max() <= 0.5 + 1e-9
    assert np.abs(found).max() == LARGEST_INPUT
    np.testing.assert_array_equal(found, -companded(-values).numpy())
    # None is so near the middle of two whole numbers that another logarithm might round it the other way.
    middle = np.log1p(np.arange(1 << 16) / 16) * 16
    assert np.abs(middle - np.floor(middle) - 0.5).min() > 1e-9


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (9, 8)])
def test_features_are_those_of_their_definition(shape: tuple[int, int]) -> None:
    """Written out for every place, in Python's whole numbers; the edge repeats."""
    draw = np.random.default_rng(3)
    low = draw.integers(-3000, 3000, (2, *shape)) * draw.integers(0, 2, (2, 1, 1), endpoint=True)
    before = draw.integers(-1 << 18, 1 << 18, (2, 6, *shape))
    found = context_network.features(
        torch.from_numpy(low).int(), torch.from_numpy(before).int(), torch.tensor([1, 7])
    ).numpy()
    assert found.shape == (2, FEATURES, *shape)
    assert np.abs(found).max() <= LARGEST_INPUT

    def at(plane: int, row: int, column: int) -> int:
        return int(low[plane, min(max(row, 0), shape[0] - 1), min(max(column, 0), shape[1] - 1)])

    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    activity = np.zeros((2, *shape), np.int64)
    differences = np.zeros((2, 8, *shape), np.int64)
    for plane, row, column in np.ndindex(2, *shape):
        each = [at(plane, row + y, column + x) - at(plane, row, column) for y, x in around]
        differences[plane, :, row, column] = np.clip(each, -65535, 65535)
        activity[plane, row, column] = min(sum(map(abs, each)), 65535)
    for plane, row, column in np.ndindex(2, *shape):
        rows = [min(max(row + y, 0), shape[0] - 1) for y in range(-2, 3)]
        columns = [min(max(column + x, 0), shape[1] - 1) for x in range(-2, 3)]
        scale = sum(int(activity[plane, y, x]) for y in rows for x in columns) // 8 + 200
        here = differences[plane, :, row, column]
        np.testing.assert_array_equal(found[plane, :8, row, column], companded(torch.from_numpy(here).int()).numpy())
        linear = [min(max(int(d) * 800 // scale, -127), 127) for d in here]
        np.testing.assert_array_equal(found[plane, 8:16, row, column], linear)
        curvature = torch.tensor([int(here.sum()) // 8], dtype=torch.int32)
        assert found[plane, 16, row, column] == companded(curvature).item()
        expected = companded(torch.from_numpy(before[plane, :, row, column]).int()).numpy()
        np.testing.assert_array_equal(found[plane, 17:23, row, column], expected)
        assert found[plane, 23, row, column] == (8, 16)[plane]
