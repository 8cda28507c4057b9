r"""Centring: gradients that do not depend on how far the units' activities are from zero.

    E(v, h) = e_v(v) + e_h(h) - (s(v) - μ)ᵀ W (s(h) - λ)        offsets μ, λ: mean activities of the units

(Montavon and Müller 2012; Melchior, Fischer and Wiskott 2016.) The centred machine is the usual one with other
biases, b = b' - W λ and c = c' - Wᵀ μ. A step along the gradient in W, b', c' is therefore a step of the usual machine
along the *centred gradient*, in which g are the usual gradients:

    g'_W = g_W - g_b λᵀ - μ g_cᵀ            g'_b = g_b - g'_W λ            g'_c = g_c - g'_Wᵀ μ

It is the same for data and their complement, and with means over data and model as offsets it is the enhanced gradient
(Cho, Raiko and Ilin 2011). As a linear map of the gradient, it goes with every sampler and every kind of unit.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from harmonium.models.rbm import RBM


@dataclass(frozen=True, slots=True, kw_only=True)
class Activities:
    """Sums over `count` states of the sufficient statistics of both layers."""

    count: int
    """Number of states that were summed."""

    visible: Tensor
    """Sum of s(v), (visible,)."""

    hidden: Tensor
    """Sum of s(E[h | v]), (hidden,)."""

    @classmethod
    @torch.no_grad()
    def of(cls, rbm: RBM, v: Tensor) -> Self:
        """Activities at visible states (batch, visible), of data or of particles."""
        visible = rbm.visible.coupled(v, rbm.visible_parameters)
        hidden = rbm.hidden.coupled(rbm.mean_hidden(v), rbm.hidden_parameters)
        return cls(count=len(v), visible=visible.sum(0), hidden=hidden.sum(0))

    def merge(self, other: Self) -> Self:
        """Activities of both batches together."""
        visible, hidden = self.visible + other.visible, self.hidden + other.hidden
        return type(self)(count=self.count + other.count, visible=visible, hidden=hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offsets:
    """What is subtracted from the activities of both layers."""

    visible: Tensor
    """μ, (visible,)."""

    hidden: Tensor
    """λ, (hidden,)."""

    @classmethod
    def start(cls, activities: Activities) -> Self:
        """Mean activities, such as those of all data."""
        return cls(visible=activities.visible / activities.count, hidden=activities.hidden / activities.count)

    def slide(self, activities: Activities, factor: float) -> Self:
        """Offsets moved by the share `factor` towards the mean activities of a batch.

        Raises
        ------
        ValueError
            If factor is outside 0 to 1.
        """
        if not 0 <= factor <= 1:
            raise ValueError(f"A sliding factor needs to be from 0 to 1, got {factor}")
        mean = type(self).start(activities)
        return type(self)(
            visible=torch.lerp(self.visible, mean.visible, factor),
            hidden=torch.lerp(self.hidden, mean.hidden, factor),
        )


@torch.no_grad()
def centre_gradient(rbm: RBM, offsets: Offsets) -> None:
    """Replace the stored gradients of weights and biases by the centred ones.

    Raises
    ------
    ValueError
        If the offsets are of other sizes than the layers, or no gradient has been stored.
    """
    found, expected = (tuple(offsets.visible.shape), tuple(offsets.hidden.shape)), tuple(rbm.weight.shape)
    if found != ((expected[0],), (expected[1],)):
        raise ValueError(f"Expected offsets of {expected[0]} visible and {expected[1]} hidden units, found {found}")
    weight, b, c = rbm.weight.grad, rbm.visible_parameters["bias"].grad, rbm.hidden_parameters["bias"].grad
    if weight is None or b is None or c is None:
        raise ValueError("Expected a gradient of the weights and both biases, found none; call set_gradient before")
    centred = weight - torch.outer(b, offsets.hidden) - torch.outer(offsets.visible, c)
    rbm.weight.grad = centred
    rbm.visible_parameters["bias"].grad = b - centred @ offsets.hidden
    rbm.hidden_parameters["bias"].grad = c - centred.T @ offsets.visible
