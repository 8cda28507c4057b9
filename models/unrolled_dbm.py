"""A deep Boltzmann machine, unrolled into an encoder and a decoder (`harmonium.models.unrolled`).

    up      h1 = σ(2 W_0ᵀ s(v) + b_1)   ...   h_L = σ(W_L-1ᵀ h_L-1 + b_L)          the start of mean field, exactly
    down    h_L-1 = σ(2 W_L-1 h_L + b_L-1)   ...   v = W_0 h1 + b_0, or σ of it

A layer between two others hears from both; while one of them is unknown, the other counts double (Salakhutdinov and
Hinton 2009). Downwards this is the same pass, begun at the code.

A machine on tensors has W_0 in factors (`harmonium.models.tensor_rbm`). The network has the dense weight, and can be
made to keep it in factors while it is fine-tuned, up and down in factors of their own.
"""

from typing import cast

import torch
from torch import nn

from harmonium.models.dbm import DBM
from harmonium.models.factored_linear import expand, factorise
from harmonium.models.tensor_rbm import FactoredWeight
from harmonium.models.unrolled import ACTIVATION_OF, StackShape, UnrolledStack, precision


@torch.no_grad()
def unroll_dbm(dbm: DBM) -> UnrolledStack:
    """Make encoder and decoder from a deep Boltzmann machine whose top layer is the code, one bit a unit."""
    chain = dbm.chain()
    depth = len(chain.weights)
    shape = StackShape(
        sizes=tuple(units.size for units in chain.units),
        hidden="sigmoid",
        code="sigmoid",
        visible=ACTIVATION_OF[type(chain.units[0])],
    )
    net = UnrolledStack(shape)
    encoder, decoder = (cast("list[nn.Linear]", list(half)) for half in (net.encoder, net.decoder))
    for layer, (up, down) in enumerate(zip(encoder, reversed(decoder), strict=True)):
        weight, below = chain.weights[layer], chain.parameters[layer]
        doubled_up, doubled_down = (2.0 if inside else 1.0 for inside in (layer < depth - 1, layer > 0))
        up.weight.copy_(doubled_up * weight.T * precision(below))
        up.bias.copy_(chain.parameters[layer + 1]["bias"])
        down.weight.copy_(doubled_down * weight)
        down.bias.copy_(below["bias"])
    return net.to(chain.weights[0].device)


def keep_factors(net: UnrolledStack, dbm: DBM) -> None:
    """Let the outer layers of a network that `unroll_dbm` made learn factors where the machine's W_0 has them.

    The function stays the same: doubling and precision go into the hidden factors.

    Raises
    ------
    ValueError
        If visible units have variances of their own, which would have to go into the visible factors.
    """
    first = dbm.weights[0]
    if not isinstance(first, FactoredWeight):
        return
    own = precision(dbm.chain().parameters[0]).detach()
    if own.min() != own.max():
        raise ValueError(
            f"Expected visible units of one variance, found precisions of {float(own.min()):.4g} to "
            f"{float(own.max()):.4g}; fix the variance of a tensor machine that is to be fine-tuned"
        )
    up, down = _outer(net)
    factorise(up, first, upwards=True)
    factorise(down, first, upwards=False)


def expand_factors(net: UnrolledStack) -> None:
    """Inverse of `keep_factors`: ordinary layers again, the function stays the same."""
    for layer in _outer(net):
        expand(layer)


def _outer(net: UnrolledStack) -> tuple[nn.Linear, nn.Linear]:
    """The encoder's first layer and the decoder's last."""
    return cast("nn.Linear", net.encoder[0]), cast("nn.Linear", net.decoder[-1])
