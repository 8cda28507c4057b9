r"""The tensor-variate restricted Boltzmann machine: rows × columns × bands stay a tensor, its weights are factors.

    hidden   h        o  o  o  o           W[i, j, b, k]  =  Σ_f   A_if B_jf C_bf H_kf                    (CP)
                      \   |   /                           =  Σ_pqrs  G_pqrs A_ip B_jq C_br H_ks           (Tucker)
               rows A ─ B columns ─ C bands
    visible  v        ▦  ▦  ▦              E(v, h) = e_v(v) + e_h(h) - Σ W[i, j, b, k] s(v)[i, j, b] s(h)[k]

(Nguyen, Tran, Phung and Venkatesh 2015, "Tensor-variate restricted Boltzmann machines"; the two forms of a tensor after
Kolda and Bader 2009, sections 3 and 4.) Instead of rows · columns · bands · hidden weights there are rank · (rows +
columns + bands + hidden), or those of a core besides. The machine never makes the dense weight: CP multiplies with the
(visible, rank) product of the mode factors, Tucker contracts one mode after another. What needs it all the same, such
as a deep machine (`harmonium.models.dbm`), carries the dense weight's gradient g back to the factors by Jᵀ g, and their
steps on to the dense weight by J, where J is the derivative of the weight by its factors.
"""

import math
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from harmonium.models.rbm import RBM, RestrictedMachine, check_dtype
from harmonium.models.units import Parameters, Units

Factors = Parameters
"""`mode_0`, `mode_1` ... (size, rank) and `hidden` (hidden, rank); in Tucker's form `core` with one axis for each."""


class WeightForm(Protocol):
    """How a weight tensor (modes ..., hidden) is kept in factors."""

    def shapes(self, modes: tuple[int, ...], hidden: int) -> dict[str, tuple[int, ...]]:
        """Shape of each factor."""

    def deviations(self, modes: tuple[int, ...], scale: float) -> dict[str, float]:
        """Standard deviation of each factor's entries with which those of the weight have `scale`."""

    def up(self, x: Tensor, modes: tuple[int, ...], factors: Factors) -> Tensor:
        """Contract x (..., product of modes) with the visible modes: (..., hidden)."""

    def down(self, y: Tensor, modes: tuple[int, ...], factors: Factors) -> Tensor:
        """Contract y (..., hidden) with the hidden mode: (..., product of modes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CP:
    """A sum of `rank` outer products (Hitchcock 1927)."""

    rank: int
    """Number of outer products."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"A CP form needs rank >= 1, got {self.rank}")

    def shapes(self, modes: tuple[int, ...], hidden: int) -> dict[str, tuple[int, ...]]:
        """See `WeightForm`."""
        return {**{f"mode_{n}": (size, self.rank) for n, size in enumerate(modes)}, "hidden": (hidden, self.rank)}

    def deviations(self, modes: tuple[int, ...], scale: float) -> dict[str, float]:
        """See `WeightForm`."""
        names = self.shapes(modes, 1)
        each: float = (scale / math.sqrt(self.rank)) ** (1 / len(names))
        return dict.fromkeys(names, each)

    def up(self, x: Tensor, modes: tuple[int, ...], factors: Factors) -> Tensor:
        """See `WeightForm`."""
        return x @ self._visible_product(modes, factors) @ factors["hidden"].T

    def down(self, y: Tensor, modes: tuple[int, ...], factors: Factors) -> Tensor:
        """See `WeightForm`."""
        return (y @ factors["hidden"]) @ self._visible_product(modes, factors).T

    def _visible_product(self, modes: tuple[int, ...], factors: Factors) -> Tensor:
        """The Khatri-Rao product of the mode factors, (product of modes, rank)."""
        product = factors["mode_0"]
        for n in range(1, len(modes)):
            product = (product.unsqueeze(1) * factors[f"mode_{n}"]).flatten(0, 1)
        return product


@dataclass(frozen=True, slots=True, kw_only=True)
class Tucker:
    """A small core tensor, multiplied by a matrix along each mode (Tucker 1966)."""

    ranks: tuple[int, ...]
    """Sizes of the core: one for each visible mode, and the last for the hidden units."""

    def __post_init__(self) -> None:
        if len(self.ranks) < 2 or min(self.ranks) < 1:
            raise ValueError(f"A Tucker form needs a rank >= 1 for each visible mode and the hidden, got {self.ranks}")

    def shapes(self, modes: tuple[int, ...], hidden: int) -> dict[str, tuple[int, ...]]:
        """See `WeightForm`."""
        if len(self.ranks) != len(modes) + 1:
            raise ValueError(
                f"Expected {len(modes) + 1} ranks for {len(modes)} visible modes and the hidden, got {self.ranks}"
            )
        matrices = {f"mode_{n}": (size, rank) for n, (size, rank) in enumerate(zip(modes, self.ranks, strict=False))}
        return {**matrices, "hidden": (hidden, self.ranks[-1]), "core": self.ranks}

    def deviations(self, modes: tuple[int, ...], scale: float) -> dict[str, float]:
        """See `WeightForm`."""
        matrices = {f"mode_{n}": self.ranks[n] ** -0.5 for n in range(len(modes))}
        return {**matrices, "hidden": self.ranks[-1] ** -0.5, "core": scale}

    def up(self, x: Tensor, modes: tuple[int, ...], factors: Factors) -> Tensor:
        """See `WeightForm`."""
        t = x.reshape(-1, *modes)
        for n in range(len(modes)):
            # The contracted axis goes to the end, so that the next one comes first.
            t = torch.tensordot(t, factors[f"mode_{n}"], dims=([1], [0]))
        y = t.flatten(1) @ factors["core"].flatten(0, -2) @ factors["hidden"].T
        return y.reshape(*x.shape[:-1], -1)

    def down(self, y: Tensor, modes: tuple[int, ...], factors: Factors) -> Tensor:
        """See `WeightForm`."""
        t = (y.reshape(-1, y.shape[-1]) @ factors["hidden"]) @ factors["core"].flatten(0, -2).T
        t = t.reshape(-1, *self.ranks[:-1])
        for n in range(len(modes)):
            t = torch.tensordot(t, factors[f"mode_{n}"], dims=([1], [1]))
        return t.reshape(*y.shape[:-1], -1)


class FactoredWeight(nn.ParameterDict):
    """A weight (product of modes, hidden) in factors, which are its parameters.

    Parameters
    ----------
    modes
        Shape of a visible state, such as (rows, columns, bands).
    hidden
        Numbers that a hidden state consists of.
    form
        How the weight is kept: `CP` or `Tucker`.

    Notes
    -----
    Factors are zero, and with them all gradients, until `initialise` or a caller fills them.
    """

    def __init__(self, modes: tuple[int, ...], hidden: int, form: WeightForm) -> None:
        super().__init__({name: torch.zeros(shape) for name, shape in form.shapes(modes, hidden).items()})
        self.modes, self.form = modes, form

    @property
    def shape(self) -> tuple[int, int]:
        """Of the dense weight."""
        return math.prod(self.modes), len(self["hidden"])

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, scale: float = 0.01) -> Self:
        """Draw all factors from normal distributions with which the weight has the standard deviation `scale`."""
        for name, deviation in self.form.deviations(self.modes, scale).items():
            self[name].normal_(0.0, deviation, generator=generator)
        return self

    def rows(self, v: Tensor) -> Tensor:
        """Visible states (batch, *modes) as rows, (batch, product of modes)."""
        if v.ndim < len(self.modes) or v.shape[-len(self.modes) :] != self.modes:
            raise ValueError(f"Expected visible states (batch, *{self.modes}), found shape {tuple(v.shape)}")
        return v.flatten(-len(self.modes))

    def up(self, x: Tensor) -> Tensor:
        """The product of x (..., product of modes) and the weight, (..., hidden)."""
        return self.form.up(x, self.modes, self)

    def down(self, y: Tensor) -> Tensor:
        """The product of y (..., hidden) and the transposed weight, (..., product of modes)."""
        return self.form.down(y, self.modes, self)

    def dense(self) -> Tensor:
        """The weight itself, (product of modes, hidden): it takes the room that the factors spare."""
        return self._expand(self)

    def _expand(self, factors: Factors) -> Tensor:
        like = factors["hidden"]
        identity = torch.eye(len(like), dtype=like.dtype, device=like.device)
        return self.form.down(identity, self.modes, factors).T

    def pull_back(self, gradient: Tensor) -> dict[str, Tensor]:
        """The gradient in the factors, by that in the dense weight."""
        with torch.enable_grad():
            found = torch.autograd.grad(self.dense(), list(self.values()), gradient)
        return dict(zip(self, found, strict=True))

    @torch.no_grad()
    def push_forward(self, direction: dict[str, Tensor]) -> Tensor:
        """How the dense weight changes, to first order, when the factors go in that direction."""
        # The weight is linear in each factor: the product rule.
        changes = [self._expand({**self, name: change}) for name, change in direction.items()]
        return torch.stack(changes).sum(0)


class TensorRBM(RestrictedMachine):
    """A restricted Boltzmann machine between tensors (batch, *modes) and a vector of hidden units.

    Parameters
    ----------
    modes
        Shape of a visible state, such as (rows, columns, bands).
    visible
        What a visible state consists of: one unit for each entry.
    hidden
        What the hidden layer consists of.
    form
        How the weights are kept: `CP` or `Tucker`.

    Notes
    -----
    `factors` are zero, and with them all gradients, until `initialise` or a caller fills them.
    """

    def __init__(self, modes: tuple[int, ...], visible: Units, hidden: Units, form: WeightForm) -> None:
        super().__init__(visible, hidden)
        if math.prod(modes) != visible.width or not modes:
            raise ValueError(
                f"Expected one visible unit for each of the {math.prod(modes)} entries of {modes}, got {visible}"
            )
        self.modes, self.form = modes, form
        self.factors = FactoredWeight(modes, hidden.width, form)

    def initialise(self, generator: torch.Generator, scale: float = 0.01) -> Self:
        """Draw the factors (`FactoredWeight.initialise`)."""
        self.factors.initialise(generator, scale)
        return self

    def dense_weight(self) -> Tensor:
        """The weight (product of modes, hidden) of the RBM that this is."""
        return self.factors.dense()

    def _up(self, s: Tensor) -> Tensor:
        return self.factors.up(s)

    def _down(self, s: Tensor) -> Tensor:
        return self.factors.down(s)

    def _weight_statistics(self, v: Tensor, h: Tensor) -> dict[str, Tensor]:
        # The interaction is linear in each factor: reverse differentiation is the contraction with all others.
        with torch.enable_grad():
            interaction = (self._up(v) * h).sum()
            found = torch.autograd.grad(interaction, list(self.factors.values()))
        return {f"factors.{name}": gradient for name, gradient in zip(self.factors, found, strict=True)}

    def _visible_in(self, v: Tensor) -> Tensor:
        return check_dtype(self.factors.rows(v), "visible", self.factors["hidden"].dtype)

    def _visible_out(self, v: Tensor) -> Tensor:
        return v.reshape(*v.shape[:-1], *self.modes)


Stackable = RBM | TensorRBM
"""Machines whose hidden states are vectors, so that another machine can stand on them."""
