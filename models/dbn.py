r"""The deep belief network (Hinton, Osindero and Teh 2006).

    h2   o  o  o         p(v, h1, h2) = p(v | h1) p(h1, h2)
         |  |  |   W_1   the two top layers are an RBM, undirected,
    h1   o  o  o  o      p(h1, h2) proportional to exp(-E_1(h1, h2));
         ↓  ↓  ↓   W_0   everything below is generated downwards, p(v | h1) as in the RBM that was trained on v.
    v    o  o  o

Upwards, Q(h1 | v) Q(h2 | h1) ... is the product of the RBMs' own conditionals. It makes

    log p(v) >= <log p(v | h1) + ... - log Q(h1 | v) - ... - F_top> - log Z_top      (Salakhutdinov and Murray 2008)

with the mean over Q and F_top the free energy of the top RBM. Where that RBM is the one below, turned over, Q is the
true posterior and the bound is the log-likelihood: from there, greedy training raises the bound layer by layer.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from harmonium.models.layer_chain import LayerChain, States, log_conditional
from harmonium.models.rbm import RBM


class DBN(nn.Module):
    """A stack of RBMs of any kinds of unit, the lowest first; what one has above is what the next has below.

    The machines are shared, not copied: they are trained one after the other by any rule for RBMs, on what `lifted`
    makes of the data.
    """

    def __init__(self, rbms: Sequence[RBM]) -> None:
        super().__init__()
        if not rbms:
            raise ValueError("A DBN needs at least one RBM, got none")
        for below, above in pairwise(rbms):
            if below.hidden != above.visible:
                raise ValueError(
                    f"{below.hidden} cannot stand below {above.visible}; stack machines that share a layer"
                )
        self.rbms = nn.ModuleList(rbms)

    @property
    def machines(self) -> tuple[RBM, ...]:
        """The RBMs, the lowest first."""
        return tuple(cast("RBM", rbm) for rbm in self.rbms)

    def up(self, v: Tensor) -> States:
        """Means of all hidden layers, each computed from the mean of the layer below, as a feature extractor does."""
        layers = [v]
        for rbm in self.machines:
            layers.append(rbm.mean_hidden(layers[-1]))
        return tuple(layers[1:])

    def sample_up(self, v: Tensor, generator: torch.Generator, count: int | None = None) -> States:
        """The visible layer and the hidden ones of the lowest `count` machines, all by default, each drawn from Q."""
        layers = [v]
        for rbm in self.machines[:count]:
            layers.append(rbm.sample_hidden(layers[-1], generator))
        return tuple(layers)

    def sample_down(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Visible states drawn from below the top machine, whose visible layer has the state x."""
        for rbm in reversed(self.machines[:-1]):
            x = rbm.sample_visible(x, generator)
        return x

    def sample(self, top: Tensor, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Visible states after `steps` Gibbs steps of the top machine from its visible states `top`, and these states.

        The second result is where the chain can go on.
        """
        rbm = self.machines[-1]
        for _ in range(steps):
            top = rbm.gibbs_step(top, generator)
        return self.sample_down(top, generator), top

    @torch.no_grad()
    def lower_bound(self, v: Tensor, log_z: float, generator: torch.Generator) -> Tensor:
        """An unbiased estimate of the bound on log p(v) for each row, (batch,) float64, by the top machine's log Z."""
        layers = self.sample_up(v, generator, len(self.rbms) - 1)
        total = LayerChain.of_rbm(self.machines[-1]).log_unnormalised(0, layers[-1:]) - log_z
        for rbm, (below, above) in zip(self.machines[:-1], pairwise(layers), strict=True):
            chain = LayerChain.of_rbm(rbm)
            (down,), (up,) = chain.inputs(0, (above,)), chain.inputs(1, (below,))
            total = total + log_conditional(rbm.visible, below, down, chain.parameters[0])
            total = total - log_conditional(rbm.hidden, above, up, chain.parameters[1])
        return total


def lifted(dbn: DBN, index: int, batches: Iterable[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
    """The batches as machine `index` of the stack is trained on them: drawn upwards through the machines below it."""
    with torch.no_grad():
        for batch in batches:
            yield dbn.sample_up(batch, generator, index)[-1]


@torch.no_grad()
def turned_over(rbm: RBM) -> RBM:
    """The RBM upside down: as the top of a DBN it changes nothing, so that training it can only raise the bound."""
    twin = RBM(rbm.hidden, rbm.visible).to(rbm.weight)
    twin.weight.copy_(rbm.weight.T)
    for mine, its in (
        (twin.visible_parameters, rbm.hidden_parameters),
        (twin.hidden_parameters, rbm.visible_parameters),
    ):
        for name, value in its.items():
            mine[name].copy_(value)
    return twin
