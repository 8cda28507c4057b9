r"""Softmax units: limited-state units whose states have no order, the Potts model's.

    e(x) = -b · x       s(x) = x       p(x_l = 1 | a) = exp(a_l + b_l) / sum_m exp(a_m + b_m)

    one unit of 4 states    o o ● o     four numbers of which one is 1

(Potts 1952; as visible units Salakhutdinov, Mnih and Hinton 2007.) Adding the same number to all biases of a
unit changes nothing: one of its states is redundant, and learning leaves that direction alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from harmonium.models.units import Parameters, Units, draw_index


@dataclass(frozen=True, slots=True, kw_only=True)
class Categorical(Units):
    """Softmax units: each takes one of `states` labels, kept as `states` numbers of which one is 1.

    States and inputs are (batch, size * states), the numbers of one unit side by side; `log_partition` is (batch,
    size). With two states it is a Bernoulli unit whose input is the difference of the two.
    """

    states: int
    """Number of labels L of each unit, at least 2."""

    def __post_init__(self) -> None:
        Units.__post_init__(self)
        if self.states < 2:
            raise ValueError(f"Categorical units need states >= 2, got states={self.states}")

    @property
    def width(self) -> int:
        return self.size * self.states

    def initial_parameters(self) -> dict[str, Tensor]:
        return {"bias": torch.zeros(self.width)}

    def one_hot(self, labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """States (batch, size * states) from labels (batch, size), whole numbers from 0 to states - 1.

        Raises
        ------
        ValueError
            If labels are of another shape, no integers, or out of range.
        """
        if labels.shape[-1:] != (self.size,) or labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"Expected integer labels (batch, {self.size}), got {tuple(labels.shape)} {labels.dtype}")
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.states:
            raise ValueError(
                f"Expected labels from 0 to {self.states - 1}, got {int(labels.min())} to {int(labels.max())}; "
                "give the units more states"
            )
        return self._one_hot(labels.long(), dtype)

    def labels(self, x: Tensor) -> Tensor:
        """Inverse of `one_hot`; of means, the most probable label."""
        return self._by_unit(x).argmax(dim=-1)

    def _one_hot(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        return F.one_hot(labels, self.states).flatten(-2).to(dtype)

    def _by_unit(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.size, self.states)

    def self_energy(self, x: Tensor, parameters: Parameters) -> Tensor:
        return -(x @ parameters["bias"])

    def log_partition(self, a: Tensor, parameters: Parameters) -> Tensor:
        return torch.logsumexp(self._by_unit(a + parameters["bias"]), dim=-1)

    def mean(self, a: Tensor, parameters: Parameters) -> Tensor:
        return torch.softmax(self._by_unit(a + parameters["bias"]), dim=-1).flatten(-2)

    def mode(self, a: Tensor, parameters: Parameters) -> Tensor:
        return self._one_hot(self.labels(a + parameters["bias"]), a.dtype)

    def sample(self, a: Tensor, parameters: Parameters, generator: torch.Generator) -> Tensor:
        return self._one_hot(draw_index(self._by_unit(a + parameters["bias"]), generator), a.dtype)
