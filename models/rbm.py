r"""The restricted Boltzmann machine.

        hidden   h  o   o   o        E(v, h) = e_v(v) + e_h(h) - s(v)ᵀ W s(h)
                    |\ /|\ /|        F(v)    = e_v(v) - sum_j log Z_j(Wᵀ s(v))
        visible  v  o   o   o        p(v)    is proportional to exp(-F(v))

No unit is connected to a unit of its own layer, so each layer is conditionally independent given the other (Smolensky
1986; Hinton 2002). What a unit is, is said by `harmonium.models.units`; how the two layers are connected, by the
subclass of `RestrictedMachine`: by a matrix (`RBM`), by filters (`harmonium.models.convolutional_rbm`), or by a weight
tensor in factors (`harmonium.models.tensor_rbm`).

At an inverse temperature β the biases and the weights count β times (see `harmonium.models.energy_model`).
"""

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from harmonium.models.energy_model import Statistics
from harmonium.models.units import Parameters, Units


class RestrictedMachine(nn.Module, ABC):
    """Two layers of units of any kind, connected to each other and not within.

    Parameters
    ----------
    visible, hidden
        What the two layers consist of.

    Notes
    -----
    All methods take and give tensors with the batch first, on the parameters' device and in their dtype; randomness
    comes from the generator handed in. `beta` is an inverse temperature for each sample, (batch,); None means 1.

    A subclass says how the layers are connected (`_up`, `_down`, `_weight_statistics`), and may arrange states in
    another way than its units do, which want theirs (batch, ..., size).
    """

    def __init__(self, visible: Units, hidden: Units) -> None:
        super().__init__()
        self.visible = visible
        self.hidden = hidden
        self.visible_parameters = layer_parameters(visible)
        self.hidden_parameters = layer_parameters(hidden)

    @abstractmethod
    def _up(self, s: Tensor) -> Tensor:
        """Wᵀ s(v), the input of the hidden units."""

    @abstractmethod
    def _down(self, s: Tensor) -> Tensor:
        """W s(h), the input of the visible units."""

    @abstractmethod
    def _weight_statistics(self, v: Tensor, h: Tensor) -> dict[str, Tensor]:
        """Sums over the batch of ∂(vᵀ W h)/∂θ for the parameters θ of W; v and h are sufficient statistics."""

    def _visible_in(self, v: Tensor) -> Tensor:
        """Visible states as their units want them, after a check of shape and dtype."""
        return _checked(v, "visible", self.visible, self.visible_parameters)

    def _visible_out(self, v: Tensor) -> Tensor:
        return v

    def _hidden_in(self, h: Tensor) -> Tensor:
        return _checked(h, "hidden", self.hidden, self.hidden_parameters)

    def _hidden_out(self, h: Tensor) -> Tensor:
        return h

    def _total(self, energy: Tensor) -> Tensor:
        """Energies (batch,) from the units' own, which have one for each place where the units are repeated."""
        return energy

    def _to_hidden(self, v: Tensor) -> Tensor:
        return self._up(self.visible.coupled(v, self.visible_parameters))

    def _to_visible(self, h: Tensor) -> Tensor:
        return self._down(self.hidden.coupled(h, self.hidden_parameters))

    def inputs_up(self, v: Tensor) -> Tensor:
        """Wᵀ s(v), what the hidden units get from visible states, (batch, ..., hidden)."""
        return self._to_hidden(self._visible_in(v))

    def inputs_down(self, h: Tensor) -> Tensor:
        """W s(h), what the visible units get from hidden states, (batch, ..., visible)."""
        return self._to_visible(self._hidden_in(h))

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """E(v, h), (batch,); v (batch, visible), h (batch, hidden)."""
        v, h = self._visible_in(v), self._hidden_in(h)
        interaction = (self._to_hidden(v) * self.hidden.coupled(h, self.hidden_parameters)).sum(-1)
        return self._total(self.visible.self_energy(v, self.visible_parameters)) + self._total(
            self.hidden.self_energy(h, self.hidden_parameters) - interaction
        )

    def free_energy(self, v: Tensor, beta: Tensor | None = None) -> Tensor:
        """F(v) = -log sum_h exp(-E(v, h)), (batch,)."""
        v = self._visible_in(v)
        a = _tempered(self._to_hidden(v), self.hidden_parameters, beta)
        summed_out = self.hidden.log_partition(a, self.hidden_parameters).sum(-1)
        own = self._total(self.visible.self_energy(v, self.visible_parameters))
        if beta is not None:
            # β times the bias instead of once; the units know of the whole one only.
            bias = self.visible.coupled(v, self.visible_parameters) @ self.visible_parameters["bias"]
            own = own + (1 - beta) * self._total(bias)
        return own - self._total(summed_out)

    def state_energy(self, state: Tensor, beta: Tensor | None = None) -> Tensor:
        """Energy of a chain's state (see `ChainModel`), which is a visible one: its free energy, (batch,)."""
        return self.free_energy(state, beta)

    def mean_hidden(self, v: Tensor, beta: Tensor | None = None) -> Tensor:
        """E[h | v], (batch, hidden)."""
        a = _tempered(self.inputs_up(v), self.hidden_parameters, beta)
        return self._hidden_out(self.hidden.mean(a, self.hidden_parameters))

    def mode_hidden(self, v: Tensor) -> Tensor:
        """The most probable h given v, (batch, hidden)."""
        return self._hidden_out(self.hidden.mode(self.inputs_up(v), self.hidden_parameters))

    def sample_hidden(self, v: Tensor, generator: torch.Generator, beta: Tensor | None = None) -> Tensor:
        """A draw from p(h | v), (batch, hidden)."""
        a = _tempered(self.inputs_up(v), self.hidden_parameters, beta)
        return self._hidden_out(self.hidden.sample(a, self.hidden_parameters, generator))

    def mean_visible(self, h: Tensor, beta: Tensor | None = None) -> Tensor:
        """E[v | h], (batch, visible)."""
        a = _tempered(self.inputs_down(h), self.visible_parameters, beta)
        return self._visible_out(self.visible.mean(a, self.visible_parameters))

    def sample_visible(self, h: Tensor, generator: torch.Generator, beta: Tensor | None = None) -> Tensor:
        """A draw from p(v | h), (batch, visible)."""
        a = _tempered(self.inputs_down(h), self.visible_parameters, beta)
        return self._visible_out(self.visible.sample(a, self.visible_parameters, generator))

    def gibbs_step(self, state: Tensor, generator: torch.Generator, beta: Tensor | None = None) -> Tensor:
        """One step v → h → v' from the visible state v, both drawn from their conditionals, (batch, visible)."""
        return self.sample_visible(self.sample_hidden(state, generator, beta), generator, beta)

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers that a visible and a hidden state, or one place of it, consists of."""
        return self.visible.width, self.hidden.width

    @property
    def hidden_bias(self) -> Tensor:
        """The parameter of the hidden layer that is called so, (hidden,)."""
        bias: Tensor = self.hidden_parameters["bias"]
        return bias

    def activities(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """s(v) and s(E[h | v]) of visible states, (batch, visible) and (batch, hidden): means over places."""
        v = self._visible_in(state)
        coupled_v = self.visible.coupled(v, self.visible_parameters)
        h = self.hidden.mean(self._up(coupled_v), self.hidden_parameters)
        return _over_places(coupled_v), _over_places(self.hidden.coupled(h, self.hidden_parameters))

    def coupled_visible(self, state: Tensor) -> Tensor:
        """s(v) of visible states, (batch, visible): means over places."""
        return _over_places(self.visible.coupled(self._visible_in(state), self.visible_parameters))

    def bias_shifts(self, visible: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """What offsets (visible,), (hidden,) take from the biases, by their names (`harmonium.models.centring`)."""
        return {
            "visible_parameters.bias": self._down(hidden.unsqueeze(0)).squeeze(0),
            "hidden_parameters.bias": self._up(visible.unsqueeze(0)).squeeze(0),
        }

    @torch.no_grad()
    def statistics(
        self, state: Tensor, *, up: float = 1.0, down: float = 1.0, inputs: Tensor | None = None
    ) -> Statistics:
        """Sums of -∂F/∂θ over visible states (batch, visible): of -∂E/∂θ in expectation over p(h | v).

        Parameters
        ----------
        state
            Visible states.
        up, down
            Factors on what the hidden and the visible units get from each other (`harmonium.models.dbm_training`).
        inputs
            What the hidden units get from these states, `up` times `inputs_up`, where it is known already.
        """
        v = self._visible_in(state)
        coupled_v = self.visible.coupled(v, self.visible_parameters)
        to_hidden = _times(up, self._up(coupled_v)) if inputs is None else inputs
        h = self.hidden.mean(to_hidden, self.hidden_parameters)
        coupled_h = self.hidden.coupled(h, self.hidden_parameters)
        # Only variances need what the visible layer gets, and a product can be spared.
        biases_alone = self.visible.learned == {"bias"}
        to_visible = torch.zeros_like(coupled_v) if biases_alone else _times(down, self._down(coupled_h))
        sums = self._weight_statistics(coupled_v, coupled_h)
        own_v = self.visible.statistics(_rows(v), _rows(to_visible), self.visible_parameters)
        own_h = self.hidden.conditional_statistics(_rows(h), _rows(to_hidden), self.hidden_parameters)
        sums |= {f"visible_parameters.{name}": value for name, value in own_v.items()}
        sums |= {f"hidden_parameters.{name}": value for name, value in own_h.items()}
        return Statistics(count=len(state), sums=sums)


class RBM(RestrictedMachine):
    """A restricted Boltzmann machine whose layers are connected by a matrix.

    Parameters
    ----------
    visible, hidden
        What the two layers consist of.

    Notes
    -----
    `weight` is (visible.width, hidden.width), zero until `initialise` or a caller fills it.
    """

    def __init__(self, visible: Units, hidden: Units) -> None:
        super().__init__(visible, hidden)
        self.weight = nn.Parameter(torch.zeros(visible.width, hidden.width))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, scale: float = 0.01) -> Self:
        """Draw the weights from N(0, scale²), as Hinton's practical guide (2010, section 8) advises."""
        self.weight.normal_(0.0, scale, generator=generator)
        return self

    def dense_weight(self) -> Tensor:
        """The weight, (visible.width, hidden.width), as of every machine between two vectors."""
        return self.weight

    def _up(self, s: Tensor) -> Tensor:
        return s @ self.weight

    def _down(self, s: Tensor) -> Tensor:
        return s @ self.weight.T

    def _weight_statistics(self, v: Tensor, h: Tensor) -> dict[str, Tensor]:
        return {"weight": v.T @ h}


def layer_parameters(units: Units) -> nn.ParameterDict:
    """The parameters of a layer at their start, those that are not learned without a gradient."""
    parameters = nn.ParameterDict(units.initial_parameters())
    for name in parameters:
        parameters[name].requires_grad_(name in units.learned)
    return parameters


def _tempered(a: Tensor, parameters: Parameters, beta: Tensor | None) -> Tensor:
    """Inputs with which units, after they have added their bias b to it, are at β (a + b)."""
    if beta is None:
        return a
    beta = beta.reshape(beta.shape + (1,) * (a.ndim - beta.ndim))
    return beta * a - (1 - beta) * parameters["bias"]


def _times(factor: float, a: Tensor) -> Tensor:
    return a if factor == 1 else factor * a


def _rows(x: Tensor) -> Tensor:
    """States (batch, ..., size) as (rows, size), for units that are repeated over places."""
    return x if x.ndim == 2 else x.flatten(0, -2)


def _over_places(x: Tensor) -> Tensor:
    """The mean of states (batch, ..., size) over all axes between, (batch, size)."""
    return x if x.ndim == 2 else x.flatten(1, -2).mean(1)


def _checked(x: Tensor, layer: str, units: Units, parameters: Parameters) -> Tensor:
    """The states x of a layer, if they are (batch, width) in the parameters' dtype.

    Raises
    ------
    ValueError
        If not.
    """
    if x.ndim < 1 or x.shape[-1] != units.width:
        raise ValueError(
            f"Expected {layer} states (batch, {units.width}) for {units}, found shape {tuple(x.shape)}; "
            "put the batch first and the units last"
        )
    return check_dtype(x, layer, parameters["bias"].dtype)


def check_dtype(x: Tensor, layer: str, dtype: torch.dtype) -> Tensor:
    """The states x of a layer, if they are of that dtype.

    Raises
    ------
    ValueError
        If not.
    """
    # Under autocast the product of two layers has another type than both, on purpose.
    if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"Expected {layer} states of {dtype}, as the parameters are, found {x.dtype}; cast the states or the model"
        )
    return x
