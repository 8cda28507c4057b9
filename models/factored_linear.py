"""Linear layers whose weight stays in factors while they are trained (`harmonium.models.tensor_rbm`).

    weight of a layer from visible to hidden units  =  H Vᵀ         H: hidden factor, (hidden, rank)
    of one back from hidden to visible units        =  V Hᵀ         V: what the other factors make, (visible, rank)

The layer is an `nn.Linear` with a parametrisation (`torch.nn.utils.parametrize`): its weight reads as a matrix, its
parameters are the factors. A weight that it is given (`set_weight`) is taken by the hidden factor alone, which becomes
the one whose weight is nearest; a weight that the visible factors can make at all is taken as it is.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from harmonium.models.tensor_rbm import FactoredWeight

_RANK_TOLERANCE = 1e-6
"""Directions of V below this share of its largest count as none: no hidden factor shall grow without bound."""


class VisibleFactors(nn.Module):
    """The visible factors of a layer's weight, as a map from the hidden factor to the weight.

    Parameters
    ----------
    weight
        Whose visible factors are copied, and become parameters of their own.
    upwards
        Whether the layer leads from visible to hidden units; else back.
    """

    def __init__(self, weight: FactoredWeight, *, upwards: bool) -> None:
        super().__init__()
        self.factors = nn.ParameterDict({name: x.detach().clone() for name, x in weight.items() if name != "hidden"})
        self.modes, self.form, self.rank = weight.modes, weight.form, weight["hidden"].shape[1]
        self.upwards = upwards

    def matrix(self) -> Tensor:
        """V, (visible, rank)."""
        like = next(iter(self.factors.values()))
        identity = torch.eye(self.rank, dtype=like.dtype, device=like.device)
        return self.form.down(identity, self.modes, {**self.factors, "hidden": identity}).T

    def forward(self, hidden: Tensor) -> Tensor:
        """The weight with the hidden factor (hidden, rank): (hidden, visible) upwards, else (visible, hidden)."""
        weight: Tensor = hidden @ self.matrix().T
        # As memory holds a stored weight: products with it then round in the same way.
        return weight if self.upwards else weight.T.contiguous()

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """The hidden factor, (hidden, rank), that gives the weight with the least squared difference from `weight`."""
        to_visible = weight.T if self.upwards else weight
        inverse = torch.linalg.pinv(self.matrix().double(), rtol=_RANK_TOLERANCE)
        hidden: Tensor = (inverse @ to_visible.double()).T
        return hidden.to(weight.dtype).contiguous()


def factorise(layer: nn.Linear, weight: FactoredWeight, *, upwards: bool) -> None:
    """Let a layer from visible to hidden units, or back, learn factors that start at the visible ones of `weight`.

    Raises
    ------
    ValueError
        If the layer is of another size.
    """
    expected = weight.shape if upwards else weight.shape[::-1]
    found = (layer.in_features, layer.out_features)
    if found != expected:
        raise ValueError(f"Expected a layer from {expected[0]} to {expected[1]} units, found {found[0]} to {found[1]}")
    parametrize.register_parametrization(layer, "weight", VisibleFactors(weight, upwards=upwards))


def expand(layer: nn.Linear) -> None:
    """Inverse of `factorise`: an ordinary layer again, with the weight that the factors make; no change to others."""
    if parametrize.is_parametrized(layer, "weight"):
        parametrize.remove_parametrizations(layer, "weight")


@torch.no_grad()
def set_weight(layer: nn.Linear, weight: Tensor) -> None:
    """Give a layer this weight, or, where it has factors, the nearest that its visible factors can make."""
    if parametrize.is_parametrized(layer, "weight"):
        layer.weight = weight
    else:
        layer.weight.copy_(weight)
