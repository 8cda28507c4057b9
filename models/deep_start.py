"""Where a deep autoencoder starts from: principal components, pre-trained machines, or random weights.

`principal`: the first 2 U units of every hidden layer hold U principal components in pairs of opposite sign, z = [z]+ -
[-z]+, and pass them on unchanged; the others have random weights from below and none upwards, on the way to the code as
on the way back. The network is then the Karhunen-Loève transform, whatever its depth, with features beside it for
training to use: growing a network without a change of its function (Chen, Goodfellow and Shlens 2016, "Net2Net").

`machines`: layers of binary units, pre-trained by CD-1 from below (Hinton and Salakhutdinov 2006), unrolled.

`random`: rectified units, weights of the variance that passes signals on (He, Zhang, Ren and Sun 2015).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, LimitedState
from harmonium.models.unrolled import StackShape, UnrolledStack, unroll

Start = Literal["principal", "machines", "random"]
"""See the module."""

Pretraining = Callable[[Sequence[RBM]], None]
"""Trains a stack of machines, the lowest first, in place."""

_WIDE = 257
"""States of a code unit while machines are trained: as good as real, a deviation apart."""


def start_network(
    start: Start,
    z: Tensor,
    hidden: Sequence[int],
    units: int,
    generator: torch.Generator,
    pretraining: Pretraining,
) -> UnrolledStack:
    """A network for coordinates like z (cells, visible), with a linear code of `units`.

    Parameters
    ----------
    generator
        Source of the first weights, a CPU one.
    pretraining
        What trains machines; other starts have no use for it.
    """
    if start == "machines":
        return machine_network(z, hidden, units, generator, pretraining)
    network = {"principal": principal_network, "random": random_network}
    if start not in network:
        raise ValueError(f"A network starts from {', '.join(get_args(Start))}, got {start!r}")
    return network[start](z.shape[1], hidden, units, generator).to(z.device)


def principal_network(visible: int, hidden: Sequence[int], units: int, generator: torch.Generator) -> UnrolledStack:
    """A network whose code is the first `units` of its visible coordinates, and whose output is these again.

    Hidden layers of fewer than 2 `units` are widened to that.
    """
    net = random_network(visible, [max(size, 2 * units) for size in hidden], units, generator)
    pair = torch.cat([torch.eye(units), -torch.eye(units)])
    for half in (net.encoder, net.decoder):
        layers = cast("list[nn.Linear]", list(half))
        first, *between, last = [layer.weight for layer in layers]
        with torch.no_grad():
            first[: 2 * units] = 0
            first[: 2 * units, :units] = pair
            for weight in between:
                weight[: 2 * units] = 0
                weight[: 2 * units, : 2 * units] = torch.eye(2 * units)
            last.zero_()
            last[:units, : 2 * units] = pair.T
    return net


@torch.no_grad()
def random_network(visible: int, hidden: Sequence[int], units: int, generator: torch.Generator) -> UnrolledStack:
    """A network of rectified hidden units and a linear code, with random weights and no biases."""
    sizes = (visible, *hidden, units)
    net = UnrolledStack(StackShape(sizes=sizes, hidden="relu", code="identity", visible="identity"))
    for half in (net.encoder, net.decoder):
        layers = cast("list[nn.Linear]", list(half))
        for layer in layers:
            gain = 1.0 if layer is layers[-1] else 2.0
            layer.weight.normal_(0.0, (gain / layer.in_features) ** 0.5, generator=generator)
            layer.bias.zero_()
    return net


def machine_network(
    x: Tensor, hidden: Sequence[int], units: int, generator: torch.Generator, pretraining: Pretraining
) -> UnrolledStack:
    """Pre-train binary layers and a linear code, and unroll them; visible biases start at the mean of x (n, size)."""
    sizes = (x.shape[1], *hidden)
    stack = [
        RBM(
            Gaussian(size=below, variance=1.0) if level == 0 else Bernoulli(size=below),
            Bernoulli(size=above),
        )
        for level, (below, above) in enumerate(pairwise(sizes))
    ]
    stack.append(RBM(Bernoulli(size=sizes[-1]), LimitedState(size=units, states=_WIDE, spacing=1.0)))
    for machine in stack:
        machine.initialise(generator).to(x.device)
    with torch.no_grad():
        stack[0].visible_parameters["bias"].copy_(x.mean(0))
    pretraining(stack)
    return unroll(stack).to(x.device)
