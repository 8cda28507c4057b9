r"""Centring: gradients that do not depend on how far the units' activities are from zero.

    E(v, h) = e_v(v) + e_h(h) - (s(v) - μ)ᵀ W (s(h) - λ)        offsets μ, λ: mean activities of the units

(Montavon and Müller 2012; Melchior, Fischer and Wiskott 2016.) The centred machine is the usual one with other
biases, b = b' - t(θ), where θ is what the weights are made of. A step along the gradient in θ and b' is therefore a
step of the usual machine along the *centred gradient*, in which g are the usual gradients and J = ∂t/∂θ:

    g'_θ = g_θ - Jᵀ g_b            g'_b = g_b - J g'_θ

| machine                | θ       | t of the visible biases | t of the hidden biases |
|------------------------|---------|-------------------------|------------------------|
| RBM                    | W       | W λ                     | Wᵀ μ                   |
| tensor RBM             | factors | W λ                     | Wᵀ μ                   |
| Boltzmann machine      | W, R, S | W λ + R μ               | Wᵀ μ + S λ             |
| convolutional RBM, λ=0 | W       |                         | W_k summed with μ      |

A convolutional machine has one visible bias for all pixels of a channel, while W λ differs from pixel to pixel: it can
be centred at visible offsets alone (as Tang and Sutskever 2011 do), unless its filters see a single pixel.

Of an RBM it is the same for data and their complement, and with means over data and model as offsets it is the
enhanced gradient (Cho, Raiko and Ilin 2011). As a linear map of the gradient, it goes with every sampler and every kind
of unit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self, cast

import torch
from torch import Tensor, nn


class Centrable(Protocol):
    """A machine whose biases can make up for offsets of its layers."""

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers that the statistics of the visible and of the hidden layer consist of."""

    def activities(self, state: Tensor, /) -> tuple[Tensor, Tensor]:
        """Sufficient statistics of both layers at states (batch, ...), (batch, visible) and (batch, hidden)."""

    def bias_shifts(self, visible: Tensor, hidden: Tensor, /) -> dict[str, Tensor]:
        """What these offsets take from each bias, t(θ) above, by the bias's name; differentiable in θ."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """See `torch.nn.Module`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activities:
    """Sums over `count` states of the sufficient statistics of both layers."""

    count: int
    """Number of states that were summed."""

    visible: Tensor
    """Sum of s(v), (visible,); of tensors, flattened."""

    hidden: Tensor
    """Sum of s(E[h | v]), (hidden,)."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: Centrable, state: Tensor) -> Self:
        """Activities at states (batch, ...), of data or of particles: visible ones of a restricted machine.

        Those of a Boltzmann machine are joined ones, where hidden units may be given by their means. Units that are
        repeated over places count by their mean over these.
        """
        visible, hidden = model.activities(state)
        return cls(count=len(state), visible=visible.sum(0), hidden=hidden.sum(0))

    def merge(self, other: Self) -> Self:
        """Activities of both batches together."""
        visible, hidden = self.visible + other.visible, self.hidden + other.hidden
        return type(self)(count=self.count + other.count, visible=visible, hidden=hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offsets:
    """What is subtracted from the activities of both layers."""

    visible: Tensor
    """μ, (visible,); of tensors, flattened."""

    hidden: Tensor
    """λ, (hidden,)."""

    @classmethod
    def start(cls, activities: Activities) -> Self:
        """Mean activities, such as those of all data."""
        return cls(visible=activities.visible / activities.count, hidden=activities.hidden / activities.count)

    def visible_only(self) -> Self:
        """With λ = 0."""
        return replace(self, hidden=torch.zeros_like(self.hidden))

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
def centre_gradient(model: Centrable, offsets: Offsets) -> None:
    """Replace the stored gradients of weights and biases by the centred ones.

    Raises
    ------
    ValueError
        If the offsets are of other sizes than the layers, no gradient has been stored, or the machine cannot be centred
        there.
    """
    found = (tuple(offsets.visible.shape), tuple(offsets.hidden.shape))
    if found != ((model.widths[0],), (model.widths[1],)):
        raise ValueError(
            f"Expected offsets of {model.widths[0]} visible and {model.widths[1]} hidden units, found {found}"
        )
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if any(parameter.grad is None for parameter in learned.values()):
        raise ValueError("Expected a gradient of the weights and both biases, found none; call set_gradient before")
    gradients = {name: cast("Tensor", parameter.grad) for name, parameter in learned.items()}
    with torch.enable_grad():
        shifts = model.bias_shifts(offsets.visible, offsets.hidden)
        # The product Jᵀ u is linear in u, so that its own derivative along g' is J g'.
        u = [gradients[name].detach().requires_grad_() for name in shifts]
        pulled = torch.autograd.grad(
            list(shifts.values()), list(learned.values()), u, create_graph=True, allow_unused=True
        )
    theta = {name: value for name, value in zip(learned, pulled, strict=True) if value is not None}
    for name, value in theta.items():
        learned[name].grad = gradients[name] - value.detach()
    steps = [learned[name].grad for name in theta]
    moved = torch.autograd.grad(list(theta.values()), u, steps)
    for name, value in zip(shifts, moved, strict=True):
        learned[name].grad = gradients[name] - value
