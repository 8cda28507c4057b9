"""The search for codes against brute force in numpy, and the training of a decoder with codes found so."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from harmonium.models import nearest_codes
from harmonium.models.nearest_codes import Codebook, SearchSchedule, can_search, train_decoder
from harmonium.models.training import Batches
from harmonium.models.unrolled import StackShape, UnrolledStack

pytestmark = pytest.mark.usefixtures("one_thread")


def network(units: int, visible: int = 5, seed: int = 0) -> UnrolledStack:
    """A random network with a hidden layer, whose code units take the states 0 and 1."""
    net = UnrolledStack(StackShape(sizes=(visible, 6, units), hidden="sigmoid", code="sigmoid", visible="identity"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0.0, 1.0, generator=generator)
    return net


def cells(count: int, visible: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(count, visible, generator=torch.Generator().manual_seed(seed))


def halved(x: Tensor) -> Tensor:
    """Points that are not the visible values: the last two together, in another scale."""
    return torch.cat([x[:, :-2], 3 * x[:, -2:].sum(1, keepdim=True)], 1)


def numpy_points(net: UnrolledStack) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All codes of a network of one hidden layer, and the `halved` of what they decode to, in float64."""
    units = len(net.states)
    codes = np.array(list(np.ndindex(*(2,) * units)))
    (w1, b1), (w2, b2) = [[p.detach().double().numpy() for p in layer.parameters()] for layer in net.decoder]
    hidden = 1 / (1 + np.exp(-(codes @ w1.T + b1)))
    visible = hidden @ w2.T + b2
    return codes, np.column_stack([visible[:, :-2], 3 * visible[:, -2:].sum(1)])


def distances(net: UnrolledStack, x: Tensor) -> NDArray[np.float64]:
    """Squared ones of cells (rows) and all codes (columns)."""
    difference = halved(x).double().numpy()[:, None] - numpy_points(net)[1]
    found: NDArray[np.float64] = np.square(difference).sum(2)
    return found


@given(
    units=st.integers(1, 7), count=st.integers(0, 40), at_once=st.sampled_from((1, 64, 1000)), seed=st.integers(0, 99)
)
def test_the_search_is_brute_force(units: int, count: int, at_once: int, seed: int) -> None:
    """Whether cells fill one chunk, many, or not all of the last."""
    net, x = network(units, seed=seed), cells(count, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_codes, "_DISTANCES_AT_ONCE", at_once)
        patch.setattr(nearest_codes, "_DECODED_AT_ONCE", 5)
        found = Codebook(net, halved).nearest(halved(x))
    assert (found.shape, found.dtype) == ((count, units), torch.int32)
    every = distances(net, x)
    number = found.numpy() @ 2 ** np.arange(units)[::-1]
    # Two codes may be equally near as far as float32 goes.
    np.testing.assert_allclose(every[np.arange(count), number], every.min(1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_it_is_nowhere_farther_than_what_the_encoder_gives_and_mostly_nearer() -> None:
    net, x = network(6), cells(300)
    searched, guessed = Codebook(net, halved).nearest(halved(x)), net.encode(x)
    near, far = (((halved(net.decode(codes)) - halved(x)).square().sum(1)) for codes in (searched, guessed))
    assert bool((near <= far + 1e-4).all())
    assert float((near < 0.9 * far).float().mean()) > 0.5


@torch.no_grad()
def test_of_codes_that_are_equally_near_it_is_always_the_first() -> None:
    """Whatever the number of cells, and where among them a cell stands."""
    net = network(5)
    for layer in net.decoder:
        assert isinstance(layer, torch.nn.Linear)
        layer.weight.zero_()
    codebook = Codebook(net, torch.clone)
    for count in (1, 7, 1000):
        assert not codebook.nearest(cells(count)).any()


@torch.no_grad()
def test_sixteen_units() -> None:
    """Each decodes to one visible value: the nearest code rounds."""
    net = UnrolledStack(StackShape(sizes=(16, 16), hidden="identity", code="identity", visible="identity"))
    net.decoder[0].load_state_dict({"weight": torch.eye(16), "bias": torch.zeros(16)})
    x = torch.rand(70, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Codebook(net, torch.clone).nearest(x), x.round().int())


@pytest.mark.parametrize("units", [1, 16])
def test_what_can_be_searched(units: int) -> None:
    assert can_search(network(units))


def test_what_cannot_be_searched() -> None:
    three = network(4)
    three.states[2] = 3
    # On no device: what a foreign file merely asks for.
    with torch.device("meta"):
        wide = UnrolledStack(StackShape(sizes=(1025, 16), hidden="relu", code="identity", visible="identity"))
    wide.states = torch.full((16,), 2)
    cases = [
        (network(17), "found 17 units of 2 to 2 states"),
        (three, "found 4 units of 2 to 3 states"),
        (wide, "found 16 units of 2 to 2 states and 1025 visible values"),
    ]
    for net, found in cases:
        assert not can_search(net)
        with pytest.raises(ValueError, match=f"at most 16 units of 2 states.*{found}.*the network's own encoder"):
            Codebook(net, torch.clone)
        with pytest.raises(ValueError, match=found):
            next(train_decoder(net, endless(), SearchSchedule(rounds=1), torch.Generator(), torch.clone))


# --- training --------------------------------------------------------------------------------------------------------

SCHEDULE = SearchSchedule(rounds=4, steps=30, cells=300, batch=32, learning_rate=1e-2)


def endless(scale: float = 1.0) -> Batches:
    def source(batch: int) -> Iterator[Tensor]:
        seed = 0
        while True:
            seed += 1
            yield scale * cells(batch, seed=seed)

    return source


def test_training_lowers_the_error_and_leaves_the_encoder() -> None:
    net, x = network(4), cells(500, seed=77)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    start = distances(net, x).min(1).mean()
    losses = list(train_decoder(net, endless(), SCHEDULE, torch.Generator().manual_seed(0), halved))
    assert len(losses) == 120
    assert distances(net, x).min(1).mean() < 0.7 * start
    after = net.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in after if name.startswith("decoder")}


def test_losses_are_mean_squared_distances_to_the_nearest_points() -> None:
    """The first, of a batch so large that it is that of all cells of the round."""
    net = network(4)
    expected = distances(net, next(endless()(300))).min(1).mean()
    schedule = SearchSchedule(rounds=1, steps=1, cells=300, batch=50_000)
    [loss] = train_decoder(net, endless(), schedule, torch.Generator().manual_seed(0), halved)
    assert loss == pytest.approx(expected, rel=0.03)


def test_the_same_seed_gives_the_same_decoder() -> None:
    nets = [network(3), network(3), network(3)]
    for net, seed in zip(nets, (0, 0, 1), strict=True):
        list(train_decoder(net, endless(), SCHEDULE, torch.Generator().manual_seed(seed), halved))
    first, second, other = (net.decoder[0].weight for net in nets)
    assert torch.equal(first, second)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]


def test_no_round_changes_nothing() -> None:
    net = network(3)
    assert list(train_decoder(net, endless(), SearchSchedule(rounds=0), torch.Generator(), halved)) == []
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), network(3).parameters(), strict=True))


@pytest.mark.parametrize(("scale", "rate"), [(float("nan"), 1e-3), (float("inf"), 1e-3), (1.0, 1e30)])
def test_it_stops_before_it_leaves_the_finite_numbers(scale: float, rate: float) -> None:
    net = network(4)
    schedule = SearchSchedule(rounds=2, steps=20, cells=50, batch=8, learning_rate=rate)
    with pytest.raises(FloatingPointError, match=r"in round 1 of 2; .*lower the learning rate \(now"):
        list(train_decoder(net, endless(scale), schedule, torch.Generator().manual_seed(0), halved))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters())


@pytest.mark.parametrize(
    "change",
    [{"rounds": -1}, {"steps": 0}, {"cells": 0}, {"batch": 0}, *({"learning_rate": x} for x in (0.0, np.nan, np.inf))],
)
def test_schedules_that_cannot_be(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="A search needs rounds >= 0, steps, cells and batch >= 1 and a finite"):
        SearchSchedule(**{"rounds": 1, **change})  # type: ignore[arg-type]
