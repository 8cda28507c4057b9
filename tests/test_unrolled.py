from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, LimitedState, RectifiedGaussian, Units
from harmonium.models.unrolled import (
    StackShape,
    UnrolledStack,
    centre_hidden,
    from_tensors,
    to_tensors,
    uncentre_hidden,
    unroll,
)


def machine(visible: Units, hidden: Units, seed: int, scale: float = 0.5) -> RBM:
    rbm = RBM(visible, hidden)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.normal_(0.0, scale, generator=generator)
    return rbm


def real_stack() -> list[RBM]:
    middle = RectifiedGaussian(size=7)
    return [
        machine(Gaussian(size=5), middle, 0),
        machine(middle, LimitedState(size=3, states=9, spacing=0.5), 1),
    ]


def small_net() -> UnrolledStack:
    return unroll(real_stack())


@torch.no_grad()
def test_real_stack_encodes_the_modes_and_decodes_them() -> None:
    stack = real_stack()
    net = unroll(stack)
    v = torch.randn(50, 5, generator=torch.Generator().manual_seed(2))
    mode = stack[1].mode_hidden(stack[0].mode_hidden(v))
    k = net.encode(v)
    torch.testing.assert_close((k - 4) * 0.5, mode)
    # Down: the mode of the rectified layer given the code, then the mean of the Gaussian one.
    middle = torch.relu(stack[1].weight @ mode.unsqueeze(-1) + stack[1].visible_parameters["bias"].unsqueeze(-1))
    torch.testing.assert_close(net.decode(k), stack[0].mean_visible(middle.squeeze(-1)))


@torch.no_grad()
def test_binary_stack_passes_means_on_and_rounds_the_code() -> None:
    stack = [
        machine(Bernoulli(size=6), Bernoulli(size=5), 0, 1.0),
        machine(Bernoulli(size=5), Bernoulli(size=4), 1, 1.0),
    ]
    net = unroll(stack)
    v = torch.bernoulli(torch.full((40, 6), 0.5), generator=torch.Generator().manual_seed(2))
    mode = stack[1].mode_hidden(stack[0].mean_hidden(v))
    assert torch.equal(net.encode(v).float(), mode)
    torch.testing.assert_close(net.decode(net.encode(v)), stack[0].mean_visible(stack[1].mean_visible(mode)))


@torch.no_grad()
def test_gaussian_layers_between_keep_their_variances() -> None:
    middle = Gaussian(size=4)
    stack = [machine(Bernoulli(size=5), middle, 0), machine(middle, LimitedState(size=2, states=5), 1)]
    net = unroll(stack)
    v = torch.bernoulli(torch.full((20, 5), 0.5), generator=torch.Generator().manual_seed(2))
    mode = stack[1].mode_hidden(stack[0].mean_hidden(v))
    torch.testing.assert_close(net.encode(v) - 2.0, mode)
    torch.testing.assert_close(net.decode(net.encode(v)), stack[0].mean_visible(stack[1].mean_visible(mode)))


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        (
            [RBM(Bernoulli(size=2), Bernoulli(size=3)), RBM(Bernoulli(size=4), Bernoulli(size=2))],
            "3 hidden units cannot stand below 4 visible units",
        ),
        (
            [RBM(Gaussian(size=2), RectifiedGaussian(size=3)), RBM(Bernoulli(size=3), Bernoulli(size=2))],
            "must be of one kind, got Bernoulli, RectifiedGaussian",
        ),
        ([RBM(Bernoulli(size=2), RectifiedGaussian(size=3))], "needs Bernoulli or LimitedState units, got Rectified"),
        ([RBM(Bernoulli(size=2), LimitedState(size=3, states=4))], "odd number of states.*got 4"),
        ([RBM(Bernoulli(size=2), LimitedState(size=3, states=65537))], "at most 65536, got 65537"),
    ],
)
def test_stacks_that_cannot_be_unrolled(stack: list[RBM], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unroll(stack)


def test_gradient_passes_straight_through_the_quantiser() -> None:
    net = small_net()
    v = 0.1 * torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    a, reconstruction = net(v)
    torch.testing.assert_close(reconstruction, net.decode(net.encode(v)))
    values = (net.quantise(a.detach()) + net.low).float().requires_grad_()
    (expected,) = torch.autograd.grad(net.decode_values(values).square().sum(), values)
    (found,) = torch.autograd.grad(reconstruction.square().sum(), a)
    torch.testing.assert_close(found, expected)


def test_no_gradient_pushes_an_input_farther_out_than_the_outermost_bins() -> None:
    net = UnrolledStack(StackShape(sizes=(1, 1), hidden="identity", code="identity", visible="identity"))
    net.encoder[0].load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    net.states.fill_(4)  # 0 ... 3
    v = torch.tensor([[-0.6], [-0.4], [1.2], [3.4], [3.6]])
    a, reconstruction = net(v)
    (found,) = torch.autograd.grad(reconstruction.sum(), a)
    expected = torch.tensor([[0.0], [1.0], [1.0], [1.0], [0.0]]) * cast("nn.Linear", net.decoder[0]).weight
    assert torch.equal(found, expected)


def test_units_that_are_centred_for_training_are_not_read() -> None:
    net = unroll([machine(Bernoulli(size=6), Bernoulli(size=5), 0), machine(Bernoulli(size=5), Bernoulli(size=4), 1)])
    centre_hidden(net)
    with pytest.raises(ValueError, match="Unknown activation 'centred sigmoid'; networks are stored with"):
        from_tensors(net.shape, to_tensors(net))


@torch.no_grad()
def test_dither_rounds_in_proportion_to_nearness() -> None:
    net = UnrolledStack(StackShape(sizes=(1, 1), hidden="identity", code="identity", visible="identity"))
    for half in (net.encoder, net.decoder):
        half[0].load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    dither = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0)) - 0.5
    for p in (0.0, 0.2, 0.9, 1.0):
        _, drawn = net(torch.full((20_000, 1), p), dither)
        assert set(drawn.unique_consecutive().tolist()) <= {0.0, 1.0}
        assert float(drawn.mean()) == pytest.approx(p, abs=0.01)


@torch.no_grad()
def test_centred_units_compute_the_same() -> None:
    stack = [machine(Bernoulli(size=6), Bernoulli(size=5), 0), machine(Bernoulli(size=5), Bernoulli(size=4), 1)]
    net, same = unroll(stack), unroll(stack)
    centre_hidden(net)
    v = torch.rand(20, 6, generator=torch.Generator().manual_seed(2))
    assert not torch.allclose(net.encoder[1](v[:, :5]), same.encoder[1](v[:, :5]))
    torch.testing.assert_close(net.code_input(v), same.code_input(v))
    torch.testing.assert_close(net.decode(net.encode(v)), same.decode(same.encode(v)))
    uncentre_hidden(net)
    assert net.shape == same.shape
    torch.testing.assert_close(net.state_dict(), same.state_dict())
    with pytest.raises(ValueError, match="Expected hidden units of 'centred sigmoid', found 'sigmoid'"):
        uncentre_hidden(net)


@given(value=st.floats(width=32), states=st.integers(1, 300), low=st.integers(-1000, 1000))
def test_every_input_has_a_state(value: float, states: int, low: int) -> None:
    net = UnrolledStack(StackShape(sizes=(1, 1), hidden="identity", code="identity", visible="identity"))
    net.states.fill_(states)
    net.low.fill_(low)
    k = int(net.quantise(torch.tensor([[value]])))
    assert 0 <= k < states
    if abs(value) < 1e6:
        assert k == min(max(round(value) - low, 0), states - 1)


def test_tensors_make_the_same_network_without_touching_anything_else() -> None:
    net = small_net()
    tensors = to_tensors(net)
    torch.manual_seed(0)
    untouched = torch.get_rng_state()
    copy = from_tensors(net.shape, tensors)
    assert torch.equal(torch.get_rng_state(), untouched)
    v = torch.randn(10, 5, generator=torch.Generator().manual_seed(4))
    assert torch.equal(copy.encode(v), net.encode(v))
    torch.testing.assert_close(copy.decode(net.encode(v)), net.decode(net.encode(v)), rtol=0, atol=0)
    tensors["low"].add_(1)
    assert not torch.equal(copy.low, tensors["low"])


def set_first(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("encoder.0.weight", lambda t: t.T, "expected (7, 5) torch.float32, found (5, 7) torch.float32"),
        ("encoder.0.weight", lambda t: t.double(), "found (7, 5) torch.float64"),
        ("encoder.0.weight", set_first(float("nan")), "expected finite numbers"),
        ("decoder.1.bias", set_first(float("inf")), "expected finite numbers"),
        ("states", set_first(0), "expected 1 to 65536 states for every unit, found 0 to 9"),
        ("states", set_first(1 << 20), "found 9 to 1048576"),
        ("low", set_first(2**31 - 1), "Tensor 'low': expected states between"),
        ("low", set_first(-(2**31)), "Tensor 'low': expected states between"),
        ("spacing", set_first(0.0), "expected numbers above 0, found 0.0"),
        ("spacing", set_first(-1.0), "expected numbers above 0, found -1.0"),
    ],
)
def test_tensors_that_do_not_fit(name: str, change: Callable[[Tensor], Tensor], message: str) -> None:
    net = small_net()
    tensors = to_tensors(net)
    tensors[name] = change(tensors[name].detach())
    with pytest.raises(ValueError, match=re.escape(message)):
        from_tensors(net.shape, tensors)


def test_missing_and_unknown_tensors() -> None:
    net = small_net()
    tensors = to_tensors(net)
    with pytest.raises(ValueError, match="Unknown tensors more"):
        from_tensors(net.shape, {**tensors, "more": torch.zeros(1)})
    del tensors["low"]
    with pytest.raises(ValueError, match=r"'low': expected .* found nothing"):
        from_tensors(net.shape, tensors)


def test_claimed_sizes_take_no_memory() -> None:
    shape = StackShape(sizes=(65536,) * 16, hidden="relu", code="identity", visible="identity")  # 480 GiB
    buffers = {"spacing": torch.ones(65536)} | {
        name: torch.ones(65536, dtype=torch.int32) for name in ("low", "states")
    }
    with pytest.raises(ValueError, match=r"'encoder.0.weight': expected \(65536, 65536\)"):
        from_tensors(shape, {**to_tensors(small_net()), **buffers})


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, 1 << 17), (1,) * 17])
def test_shapes_that_cannot_be(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="2 to 16 layers of 1 to 65536 units"):
        StackShape(sizes=sizes, hidden="relu", code="identity", visible="identity")
