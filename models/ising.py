r"""The Ising model: spins σ_j = ±1 on a lattice, or wherever pairs of them are coupled.

        σ ─J─ σ ─J─ σ        H(σ) = -sum_<ij> J_ij σ_i σ_j - μ sum_j h_j σ_j    (Ising 1925; each bond summed once)
        │     │     │        p(σ) = exp(-β H(σ)) / Z,   β = 1 / k T             (Boltzmann's distribution)
        J     J     J
        │     │     │        f_j = sum_i J_ij σ_i + μ h_j                       (local field)
        σ ─J─ σ ─J─ σ        H(σ with spin j turned) - H(σ) = 2 σ_j f_j

One sweep visits every colour of the couplings (`harmonium.models.couplings`), and in it all sites of all replicas at
once, by tensor operations alone. Both kinds of sweep leave p(σ) as it is:

    heat bath    p(σ_j = +1 | the others) = 1 / (1 + exp(-2 β f_j))             (Glauber 1963)
    Metropolis   σ_j turns with probability min(1, exp(-2 β σ_j f_j))           (Metropolis et al. 1953)

A Metropolis sweep turns every spin whose local field is zero. Where all are, as at β = 0, it is no longer random and
repeats itself after two sweeps; the heat bath has no such case.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from harmonium.models.couplings import Couplings, LatticeCouplings, PairCouplings, check_finite

# 2^24 energies in float64 are 128 MiB, and seconds of work.
_MOST_ENUMERATED = 24
_STATES_AT_ONCE = 2**16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ising:
    """An Ising model. Spins are (replicas, *shape) of ±1 in the model's dtype, on its device.

    `Ising.on_lattice` and `Ising.on_pairs` make one from plain numbers.
    """

    couplings: Couplings
    """J."""

    field: Tensor
    """h, (*shape)."""

    moment: float = 1.0
    """Magnetic moment μ, which multiplies the field."""

    beta: Tensor
    """Inverse temperature β ≥ 0, () or (replicas,): one for all, or one for each replica."""

    def __post_init__(self) -> None:
        check_finite("The field", self.field)
        check_finite("The inverse temperature", self.beta)
        if self.field.shape != self.shape:
            raise ValueError(f"The field must have the shape {self.shape} of the sites, got {tuple(self.field.shape)}")
        if not math.isfinite(self.moment):
            raise ValueError(f"The moment must be finite, got {self.moment}")
        if self.beta.ndim > 1 or not self.beta.numel() or bool((self.beta < 0).any()):
            raise ValueError(
                "The inverse temperature must be () or (replicas,), with replicas > 0, and not negative, "
                f"got {self.beta.tolist()}"
            )

    @classmethod
    def on_lattice(
        cls,
        shape: Sequence[int],
        *,
        coupling: float | Tensor = 1.0,
        field: float | Tensor = 0.0,
        moment: float = 1.0,
        beta: float | Tensor = 1.0,
        periodic: bool | Sequence[bool] = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """A model on a lattice of any number of axes.

        Parameters
        ----------
        shape
            Number of sites along each of the d axes.
        coupling
            J: one number, (d,) for each axis, or (d, *shape) for each bond. Positive is ferromagnetic. Bonds that leave
            an open axis are dropped.
        field
            h: one number, or (*shape).
        moment
            μ.
        beta
            β: one number, or (replicas,).
        periodic
            Whether the axes close to rings: all, or one by one.
        dtype, device
            Of the parameters, and of the spins.
        """
        axes = len(shape)
        if not axes or min(shape) < 1:
            raise ValueError(f"A lattice needs 1 axis or more with 1 site or more each, got shape {tuple(shape)}")
        closed = (periodic,) * axes if isinstance(periodic, bool) else tuple(periodic)
        if len(closed) != axes:
            raise ValueError(f"periodic must be one value or one for each of the {axes} axes, got {closed}")
        given = torch.as_tensor(coupling, dtype=dtype, device=device)
        if tuple(given.shape) not in {(), (axes,), (axes, *shape)}:
            raise ValueError(
                f"The coupling must be a number, ({axes},) or {(axes, *shape)}, got a tensor of {tuple(given.shape)}"
            )
        per_axis = given.reshape(-1, *(1 for _ in shape)) if given.ndim < 2 else given
        bonds = per_axis.expand(axes, *shape).clone()
        for axis in range(axes):
            if not closed[axis]:
                bonds[axis].select(axis, -1).zero_()
        return cls._of(LatticeCouplings(bonds=bonds, periodic=closed), field, moment, beta)

    @classmethod
    def on_pairs(
        cls, matrix: Tensor, *, field: float | Tensor = 0.0, moment: float = 1.0, beta: float | Tensor = 1.0
    ) -> Self:
        """A model with any couplings J (sites, sites), symmetric with a zero diagonal; its dtype is the model's."""
        return cls._of(PairCouplings(matrix=matrix), field, moment, beta)

    @classmethod
    def _of(cls, couplings: Couplings, field: float | Tensor, moment: float, beta: float | Tensor) -> Self:
        like = couplings.strength
        h = torch.as_tensor(field, dtype=like.dtype, device=like.device)
        if tuple(h.shape) not in {(), couplings.shape}:
            raise ValueError(f"The field must be a number or {couplings.shape}, got a tensor of {tuple(h.shape)}")
        inverse = torch.as_tensor(beta, dtype=like.dtype, device=like.device)
        return cls(couplings=couplings, field=h.expand(couplings.shape), moment=moment, beta=inverse)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one configuration."""
        return self.couplings.shape

    @property
    def sites(self) -> int:
        """Number of spins."""
        return math.prod(self.shape)

    def at(self, beta: float | Tensor) -> Self:
        """The same model at another inverse temperature."""
        return replace(self, beta=torch.as_tensor(beta, dtype=self.field.dtype, device=self.field.device))

    def random_spins(self, replicas: int, generator: torch.Generator) -> Tensor:
        """Spins as at β = 0 without a field: each ±1 with the same probability, (replicas, *shape)."""
        size = (replicas, *self.shape)
        bits = torch.randint(0, 2, size, generator=generator, dtype=self.field.dtype, device=self.field.device)
        return 2 * bits - 1

    def check_spins(self, spins: Tensor) -> None:
        """Raise unless the spins are (replicas, *shape) of ±1, in the dtype and on the device of the model."""
        if spins.dtype != self.field.dtype or spins.device != self.field.device:
            raise TypeError(
                f"Spins must be {self.field.dtype} on {self.field.device} like the model, got {spins.dtype} on "
                f"{spins.device}; convert them with .to()"
            )
        if tuple(spins.shape[1:]) != self.shape or spins.ndim != len(self.shape) + 1:
            raise ValueError(f"Spins must be (replicas, {str(self.shape)[1:-1]}), got {tuple(spins.shape)}")
        if not bool((spins.abs() == 1).all()):
            raise ValueError("Spins must be -1 or +1; make them of bits by 2 * bits - 1")

    def _check_replicas(self, spins: Tensor) -> None:
        if self.beta.ndim and len(self.beta) != len(spins):
            raise ValueError(
                f"The model has {len(self.beta)} inverse temperatures, for as many replicas, got {len(spins)} replicas"
            )

    def _beta_per_site(self, spins: Tensor) -> Tensor:
        self._check_replicas(spins)
        return self.beta.reshape(-1, *(1 for _ in self.shape)) if self.beta.ndim else self.beta

    def local_field(self, spins: Tensor) -> Tensor:
        """f_j = sum_i J_ij σ_i + μ h_j, (replicas, *shape)."""
        return self.couplings.neighbour_sum(spins) + self.moment * self.field

    def energy(self, spins: Tensor) -> Tensor:
        """H(σ), (replicas,)."""
        self.check_spins(spins)
        return self._energy(spins)

    def _energy(self, spins: Tensor) -> Tensor:
        # Every bond adds to the neighbour sums of both of its ends.
        per_site = spins * (0.5 * self.couplings.neighbour_sum(spins) + self.moment * self.field)
        return -per_site.flatten(1).sum(1)

    def log_weight(self, spins: Tensor) -> Tensor:
        """-β H(σ), the logarithm of the probability up to -log Z, (replicas,)."""
        self._check_replicas(spins)
        return -self.beta * self.energy(spins)

    def magnetisation(self, spins: Tensor) -> Tensor:
        """Mean spin, (replicas,)."""
        self.check_spins(spins)
        return spins.flatten(1).mean(1)


def all_spins(model: Ising, first: int = 0, count: int | None = None) -> Tensor:
    """All 2^sites configurations in the order of `state_number`, or `count` from `first` on; (count, *shape)."""
    stop = 2**model.sites if count is None else first + count
    number = torch.arange(first, stop, device=model.field.device).unsqueeze(-1)
    bits = (number >> torch.arange(model.sites, device=model.field.device)) & 1
    return (2 * bits - 1).to(model.field.dtype).reshape(-1, *model.shape)


def state_number(spins: Tensor) -> Tensor:
    """Number of each configuration: site j, counted in row-major order, is bit j, set where σ_j = +1; (replicas,)."""
    bits = (spins.flatten(1) > 0).long()
    return (bits << torch.arange(bits.shape[1], device=bits.device)).sum(1)


def exact_energies(model: Ising) -> Tensor:
    """H of all configurations in the order of `state_number`, (2^sites,).

    Raises
    ------
    ValueError
        For more than 24 sites.
    """
    if model.sites > _MOST_ENUMERATED:
        raise ValueError(f"Enumeration goes up to {_MOST_ENUMERATED} sites, got {model.sites}; draw samples instead")
    states = 2**model.sites
    blocks = range(0, states, _STATES_AT_ONCE)
    return torch.cat([model._energy(all_spins(model, k, min(_STATES_AT_ONCE, states - k))) for k in blocks])


def exact_log_partition(model: Ising) -> Tensor:
    """Log Z by enumeration, of the shape of β: () or (replicas,)."""
    return torch.logsumexp(-model.beta.unsqueeze(-1) * exact_energies(model), -1)


def exact_distribution(model: Ising) -> Tensor:
    """p(σ) by enumeration in the order of `state_number`, (2^sites,), or (replicas, 2^sites) for as many β."""
    return torch.softmax(-model.beta.unsqueeze(-1) * exact_energies(model), -1)


def heat_bath(model: Ising, spins: Tensor, generator: torch.Generator, sweeps: int = 1) -> Tensor:
    """Spins after some sweeps that draw each spin anew, given its neighbours; (replicas, *shape)."""
    model.check_spins(spins)
    beta, colours = model._beta_per_site(spins), model.couplings.colours()
    for _ in range(sweeps):
        # One number for each site and sweep: a site belongs to one colour.
        uniform = _uniform(spins, generator)
        for colour in colours:
            up = uniform < torch.sigmoid(2 * beta * model.local_field(spins))
            spins = torch.where(colour, 2 * up.to(spins.dtype) - 1, spins)
    return spins


def metropolis(model: Ising, spins: Tensor, generator: torch.Generator, sweeps: int = 1) -> Tensor:
    """Spins after some sweeps that propose to turn each spin, given its neighbours; (replicas, *shape)."""
    model.check_spins(spins)
    beta, colours = model._beta_per_site(spins), model.couplings.colours()
    for _ in range(sweeps):
        uniform = _uniform(spins, generator)
        for colour in colours:
            accepted = uniform < torch.exp(-2 * beta * spins * model.local_field(spins))
            spins = torch.where(colour & accepted, -spins, spins)
    return spins


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers from [0, 1), in float32 or better: half precision would round rare flips away."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.rand(like.shape, generator=generator, dtype=dtype, device=like.device)
