r"""Machines whose layers stand in a chain, each connected with its neighbours only: RBM, DBM, and their annealed kin.

    x2   o  o  o         E(x) = sum_i e_i(x_i)  -  β sum_i s(x_i)ᵀ W_i s(x_i+1)
          \ | /  W1
    x1   o  o  o  o      Given the odd layers x1, x3 ... all units of the even layers are independent, and the other way
          \ | /  W0      round: the chain is an RBM with the even layers on one side and the odd ones on the other
    x0   o  o  o         (Salakhutdinov and Hinton 2009), so that either side can be summed out.

One *half* of a state is the tuple of the layers of one parity, 0 for x0, x2 ... and 1 for x1, x3 ... The factor β on
all weights is what annealing turns up (`harmonium.models.partition_function`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from harmonium.models.tensor_rbm import Stackable
from harmonium.models.units import Bernoulli, Parameters, Units

States = tuple[Tensor, ...]
"""The states of several layers, each (batch, size)."""


def log_conditional(units: Units, x: Tensor, a: Tensor, parameters: Parameters) -> Tensor:
    """Log p(x | a) of a whole layer at state `x` with input `a`, (batch,)."""
    own = (units.coupled(x, parameters) * a).sum(-1) - units.self_energy(x, parameters)
    return own - units.log_partition(a, parameters).sum(-1)


def named(parameters: nn.ParameterDict) -> dict[str, Tensor]:
    """The parameters of a layer as a plain dict."""
    return {str(name): value for name, value in parameters.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerChain:
    """Units, parameters and weights of all layers, as a value that shares the tensors of the model it was made from.

    Weights may be of another dtype than the states: that dtype is then the one in which matrix products are taken.
    """

    units: tuple[Units, ...]
    """What each layer consists of, the visible one first."""

    parameters: tuple[dict[str, Tensor], ...]
    """Each layer's parameters by name."""

    weights: tuple[Tensor, ...]
    """W_i, (size of layer i, size of layer i + 1)."""

    strength: float = field(default=1.0)
    """The factor β on all weights."""

    def __post_init__(self) -> None:
        sizes = [(below.size, above.size) for below, above in zip(self.units[:-1], self.units[1:], strict=True)]
        found = [tuple(weight.shape) for weight in self.weights]
        if len(self.units) < 2 or found != sizes or len(self.parameters) != len(self.units):
            raise ValueError(
                f"A chain of {len(self.units)} layers needs weights {sizes} and as many sets of parameters, got "
                f"weights {found} and {len(self.parameters)} sets; give at least two layers"
            )

    @classmethod
    def of_rbm(cls, rbm: Stackable) -> Self:
        """The chain of two layers that an RBM is, visible tensors as rows (batch, size)."""
        return cls(
            units=(rbm.visible, rbm.hidden),
            parameters=(named(rbm.visible_parameters), named(rbm.hidden_parameters)),
            weights=(rbm.dense_weight(),),
        )

    def with_products_in(self, dtype: torch.dtype) -> Self:
        """The same machine with its matrix products taken in `dtype`; sums within a product stay in float32."""
        return replace(self, weights=tuple(weight.to(dtype) for weight in self.weights))

    def half_size(self, parity: int) -> int:
        """Number of units in the layers of one parity."""
        return sum(units.size for units in self.units[parity::2])

    def coupled(self, layer: int, x: Tensor) -> Tensor:
        """Sufficient statistic s(x) of a layer."""
        return self.units[layer].coupled(x, self.parameters[layer])

    def inputs(self, parity: int, other: Sequence[Tensor]) -> list[Tensor]:
        """What each layer of one parity gets from its neighbours' states `other`, without the factor β."""
        coupled = [self.coupled(2 * place + 1 - parity, x) for place, x in enumerate(other)]
        inputs = []
        for layer in range(parity, len(self.units), 2):
            a = None
            for neighbour in (layer - 1, layer + 1):
                if not 0 <= neighbour < len(self.units):
                    continue
                weight = self.weights[layer - 1] if neighbour < layer else self.weights[layer].T
                s = coupled[neighbour // 2]
                product = (s.to(weight.dtype) @ weight).to(s.dtype)
                a = product if a is None else a + product
            assert a is not None, "every layer of a chain has a neighbour"
            inputs.append(a)
        return inputs

    def draw(self, parity: int, inputs: Sequence[Tensor], generator: torch.Generator) -> States:
        """The layers of one parity drawn, given what `inputs` returned for them."""
        return tuple(
            units.sample(self._scaled(a), parameters, generator)
            for units, parameters, a in zip(*self._half(parity), inputs, strict=True)
        )

    def sample_half(self, parity: int, other: Sequence[Tensor], generator: torch.Generator) -> States:
        """The layers of one parity, drawn given those of the other."""
        return self.draw(parity, self.inputs(parity, other), generator)

    def mean_half(self, parity: int, other: Sequence[Tensor]) -> States:
        """The expected states of the layers of one parity, given those of the other."""
        return tuple(
            units.mean(self._scaled(a), parameters)
            for units, parameters, a in zip(*self._half(parity), self.inputs(parity, other), strict=True)
        )

    def gibbs_step(self, states: Sequence[Tensor], generator: torch.Generator) -> States:
        """One block-Gibbs step: the odd layers given the even ones, then the even ones given the new odd ones."""
        odd = self.sample_half(1, states[0::2], generator)
        even = self.sample_half(0, odd, generator)
        return interleaved(even, odd)

    def independent(self, count: int, generator: torch.Generator) -> States:
        """`count` states with every layer drawn without input, as for β = 0, each (count, size)."""
        zeros = [self.weights[0].new_zeros((count, units.size), dtype=self.dtype) for units in self.units]
        layers = zip(self.units, self.parameters, zeros, strict=True)
        return tuple(units.sample(a, parameters, generator) for units, parameters, a in layers)

    @property
    def dtype(self) -> torch.dtype:
        """Of states and biases."""
        return self.parameters[0]["bias"].dtype

    def energy(self, states: Sequence[Tensor]) -> Tensor:
        """E(x) of states of all layers, (batch,)."""
        total = torch.zeros_like(states[0][:, 0])
        for units, parameters, x in zip(self.units, self.parameters, states, strict=True):
            total = total + units.self_energy(x, parameters)
        for layer, a in zip(range(1, len(self.units), 2), self.inputs(1, states[0::2]), strict=True):
            total = total - self.strength * (a * self.coupled(layer, states[layer])).sum(-1)
        return total

    def log_unnormalised(self, parity: int, x: Sequence[Tensor], inputs: Sequence[Tensor] | None = None) -> Tensor:
        """Log of the sum of exp(-E) over the other half, at state `x` of the layers of one parity, (batch,).

        `inputs`, what `x` gives to the other half, may be handed in where it is known already. The sums over units are
        taken in float64, as differences of the result along a path are far smaller than itself.
        """
        given = self.inputs(1 - parity, x) if inputs is None else inputs
        total = torch.zeros(len(x[0]), dtype=torch.float64, device=x[0].device)
        for units, parameters, state in zip(*self._half(parity), x, strict=True):
            total = total - units.self_energy(state, parameters)
        for units, parameters, a in zip(*self._half(1 - parity), given, strict=True):
            total = total + units.log_partition(self._scaled(a), parameters).sum(-1, dtype=torch.float64)
        return total

    def enumerable(self, parity: int) -> bool:
        """Whether the layers of one parity have finitely many states, two for each unit."""
        return all(isinstance(units, Bernoulli) for units in self.units[parity::2])

    def _half(self, parity: int) -> tuple[Sequence[Units], Sequence[dict[str, Tensor]]]:
        return self.units[parity::2], self.parameters[parity::2]

    def _scaled(self, a: Tensor) -> Tensor:
        return a if self.strength == 1 else a * self.strength


def interleaved(even: Sequence[Tensor], odd: Sequence[Tensor]) -> States:
    """All layers in order from the two halves."""
    return tuple((even, odd)[layer % 2][layer // 2] for layer in range(len(even) + len(odd)))
