r"""The restricted Boltzmann machine.

        hidden   h  o   o   o        E(v, h) = e_v(v) + e_h(h) - s(v)ᵀ W s(h)
                    |\ /|\ /|        F(v)    = e_v(v) - sum_j log Z_j(Wᵀ s(v))
        visible  v  o   o   o        p(v)    is proportional to exp(-F(v))

No unit is connected to a unit of its own layer, so each layer is conditionally independent given the other (Smolensky
1986; Hinton 2002). What a unit is, is said by `harmonium.models.units`.
"""

from typing import Self

import torch
from torch import Tensor, nn

from harmonium.models.units import Units


class RBM(nn.Module):
    """A restricted Boltzmann machine between two layers of units of any kind.

    Parameters
    ----------
    visible, hidden
        What the two layers consist of.

    Notes
    -----
    `weight` is (visible, hidden), zero until `initialise` or a caller fills it. All methods take and give tensors with
    the batch first, on the parameters' device and in their dtype; randomness comes from the generator handed in.
    """

    def __init__(self, visible: Units, hidden: Units) -> None:
        super().__init__()
        self.visible = visible
        self.hidden = hidden
        self.weight = nn.Parameter(torch.zeros(visible.size, hidden.size))
        self.visible_parameters = nn.ParameterDict(visible.initial_parameters())
        self.hidden_parameters = nn.ParameterDict(hidden.initial_parameters())

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, scale: float = 0.01) -> Self:
        """Draw the weights from N(0, scale²), as Hinton's practical guide (2010, section 8) advises."""
        self.weight.normal_(0.0, scale, generator=generator)
        return self

    def _to_hidden(self, v: Tensor) -> Tensor:
        return self.visible.coupled(v, self.visible_parameters) @ self.weight

    def _to_visible(self, h: Tensor) -> Tensor:
        return self.hidden.coupled(h, self.hidden_parameters) @ self.weight.T

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """E(v, h), (batch,); v (batch, visible), h (batch, hidden)."""
        interaction = (self._to_hidden(v) * self.hidden.coupled(h, self.hidden_parameters)).sum(-1)
        return (
            self.visible.self_energy(v, self.visible_parameters)
            + self.hidden.self_energy(h, self.hidden_parameters)
            - interaction
        )

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = -log sum_h exp(-E(v, h)), (batch,)."""
        summed_out = self.hidden.log_partition(self._to_hidden(v), self.hidden_parameters).sum(-1)
        return self.visible.self_energy(v, self.visible_parameters) - summed_out

    def mean_hidden(self, v: Tensor) -> Tensor:
        """E[h | v], (batch, hidden)."""
        return self.hidden.mean(self._to_hidden(v), self.hidden_parameters)

    def mode_hidden(self, v: Tensor) -> Tensor:
        """The most probable h given v, (batch, hidden)."""
        return self.hidden.mode(self._to_hidden(v), self.hidden_parameters)

    def sample_hidden(self, v: Tensor, generator: torch.Generator) -> Tensor:
        """A draw from p(h | v), (batch, hidden)."""
        return self.hidden.sample(self._to_hidden(v), self.hidden_parameters, generator)

    def mean_visible(self, h: Tensor) -> Tensor:
        """E[v | h], (batch, visible)."""
        return self.visible.mean(self._to_visible(h), self.visible_parameters)

    def sample_visible(self, h: Tensor, generator: torch.Generator) -> Tensor:
        """A draw from p(v | h), (batch, visible)."""
        return self.visible.sample(self._to_visible(h), self.visible_parameters, generator)

    def gibbs_step(self, v: Tensor, generator: torch.Generator) -> Tensor:
        """One step v → h → v', both drawn from their conditionals, (batch, visible)."""
        return self.sample_visible(self.sample_hidden(v, generator), generator)
