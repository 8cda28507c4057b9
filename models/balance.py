"""Balance: scales and thresholds with which a network of logistic units can be trained by backpropagation.

A machine leaves units that are always on or off, and others that hardly move; through five layers no gradient gets past
them. What each unit looks for stays, only its scale and threshold change (LeCun, Bottou, Orr and Müller 1998, section
4). Code units are made uncorrelated besides: bits that say the same are lost, and no gradient tells them apart again.
"""

from typing import cast

import torch
from torch import Tensor, nn

from harmonium.models.factored_linear import set_weight
from harmonium.models.unrolled import UnrolledStack

_LEAST_VARIANCE = 1e-6
"""Variance of a combination of code units, as a share of the largest, below which it stays small."""


@torch.no_grad()
def balance(net: UnrolledStack, x: Tensor, deviation: float = 1.5) -> None:
    """Let every binary unit, up and down, get inputs of mean 0 and this deviation on x (cells, visible).

    Inputs of the code's units are uncorrelated, too, as far as there are as many units below. The decoder's last layer
    is then the linear one with the least squared error, among those that its visible factors can make if it has any.
    """
    h = x
    *between, last = [cast("nn.Linear", layer) for half in (net.encoder, net.decoder) for layer in half]
    for place, layer in enumerate(between, start=1):
        if place == len(net.encoder):
            _decorrelate(layer, h)
        inputs = layer(h)
        factor = deviation / inputs.std(0).clamp(min=1e-6)
        layer.bias.sub_(inputs.mean(0)).mul_(factor)
        set_weight(layer, layer.weight * factor.unsqueeze(1))
        h = torch.sigmoid(layer(h))
        if place == len(net.encoder):
            h = h.round()
    # Near 1/2 a logistic unit's mean is 1/2 + input / 4.
    target = 4 * (x - 0.5) if net.shape.visible == "sigmoid" else x
    mean, aim = h.mean(0), target.mean(0)
    centred = (h - mean).double()
    ridge = len(x) * 1e-3 * torch.eye(h.shape[1], dtype=centred.dtype, device=x.device)
    solved = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ (target - aim).double())
    set_weight(last, solved.T.to(x.dtype))
    last.bias.copy_(aim - last.weight @ mean)


def _decorrelate(layer: nn.Linear, h: Tensor) -> None:
    """Multiply a layer by C^-1/2, where C is the covariance of what it gives on h (cells, units).

    Of all maps that make the units uncorrelated with variance 1, this one changes them least (Kessy, Lewin and Strimmer
    2018): each stays the unit that it is most like.
    """
    covariance = torch.cov(layer(h).T.double()).reshape(layer.out_features, layer.out_features)
    variances, directions = torch.linalg.eigh(covariance)
    # What hardly varies is rounding, which would be made as loud as the rest.
    kept = variances.clamp(min=max(float(variances[-1]) * _LEAST_VARIANCE, 1e-12))
    whitening = (directions * kept.rsqrt() @ directions.T).to(h.dtype)
    layer.bias.copy_(whitening @ layer.bias)
    set_weight(layer, whitening @ layer.weight)
