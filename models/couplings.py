r"""Which spins of an Ising model are coupled, how strongly, and which may be drawn at once.

0 ─ 1 ─ 0 ─ 1        Sites that are not coupled can be drawn at once, given the others. A *colour* is such a
│   │   │   │        set of sites. Two, those of a checkerboard, suffice for a lattice, unless an axis of odd
1 ─ 0 ─ 1 ─ 0        length is periodic; then three do.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


def check_finite(name: str, value: Tensor) -> None:
    """Raise unless the values are of a floating dtype and finite."""
    if not value.is_floating_point():
        raise TypeError(f"{name} must be of a floating dtype, got {value.dtype}; convert it with .to(torch.float64)")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} must be finite, got {int((~torch.isfinite(value)).sum())} values that are not")


class Couplings(ABC):
    """Which sites are coupled, and how strongly."""

    __slots__ = ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one configuration of spins."""

    @property
    @abstractmethod
    def strength(self) -> Tensor:
        """All J_ij, in the layout of the kind; its dtype and device are the model's."""

    @abstractmethod
    def neighbour_sum(self, spins: Tensor) -> Tensor:
        """Sum_i J_ij σ_i at every site j, (replicas, *shape)."""

    @abstractmethod
    def colours(self) -> Tensor:
        """Masks (colours, *shape) that partition the sites; no two sites of a mask are coupled."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatticeCouplings(Couplings):
    """Couplings between nearest neighbours on a d-dimensional lattice."""

    bonds: Tensor
    """(d, *shape): `bonds[a][j]` couples site j to the next along axis a; behind the end of an open axis it is zero."""

    periodic: tuple[bool, ...]
    """For each axis, whether its last site is coupled to its first. Two periodic sites are coupled twice."""

    def __post_init__(self) -> None:
        check_finite("Couplings", self.bonds)
        if self.bonds.ndim != len(self.bonds) + 1 or len(self.periodic) != len(self.bonds):
            raise ValueError(
                f"A lattice of d axes needs bonds (d, *shape) and d values of periodic, "
                f"got bonds {tuple(self.bonds.shape)} and periodic={self.periodic}"
            )
        for axis, (length, periodic) in enumerate(zip(self.shape, self.periodic, strict=True)):
            if length < 1 + periodic:
                kind = "periodic" if periodic else "open"
                raise ValueError(
                    f"Axis {axis} is {kind} and needs {1 + periodic} or more sites, got shape {self.shape}"
                )
            if not periodic and bool(self.bonds[axis].select(axis, -1).any()):
                raise ValueError(f"Axis {axis} is open: its last bonds lead nowhere and must be 0, or make it periodic")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.bonds.shape[1:])

    @property
    def strength(self) -> Tensor:
        return self.bonds

    def neighbour_sum(self, spins: Tensor) -> Tensor:
        total = torch.zeros_like(spins)
        for axis, bonds in enumerate(self.bonds):
            total += bonds * spins.roll(-1, axis + 1)
            total += (bonds * spins).roll(1, axis + 1)
        return total

    def colours(self) -> Tensor:
        # A path or an even cycle is coloured 0, 1, 0, 1 ...; an odd cycle, too, but its last site is 2. Neighbours
        # differ in one coordinate only, so the sum of their coordinates' colours modulo k differs as well.
        odd = [periodic and length % 2 == 1 for length, periodic in zip(self.shape, self.periodic, strict=True)]
        colour = torch.zeros(self.shape, dtype=torch.long, device=self.bonds.device)
        for axis, length in enumerate(self.shape):
            along = torch.arange(length, device=self.bonds.device) % 2
            if odd[axis]:
                along[-1] = 2
            colour += along.reshape([-1 if other == axis else 1 for other in range(len(self.shape))])
        count = 3 if any(odd) else 2
        numbers = torch.arange(count, device=self.bonds.device).reshape(-1, *(1 for _ in self.shape))
        return colour % count == numbers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairCouplings(Couplings):
    """Couplings between any sites."""

    matrix: Tensor
    """J, (sites, sites), symmetric with a zero diagonal."""

    def __post_init__(self) -> None:
        check_finite("Couplings", self.matrix)
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1] or not len(self.matrix):
            raise ValueError(f"Couplings of pairs need a matrix (sites, sites), got {tuple(self.matrix.shape)}")
        if not torch.equal(self.matrix, self.matrix.T) or bool(self.matrix.diagonal().any()):
            raise ValueError(
                "Couplings of pairs must be symmetric with a zero diagonal, "
                f"got |J - Jᵀ| up to {float((self.matrix - self.matrix.T).abs().max()):g} "
                f"and |J_ii| up to {float(self.matrix.diagonal().abs().max()):g}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.matrix),)

    @property
    def strength(self) -> Tensor:
        return self.matrix

    def neighbour_sum(self, spins: Tensor) -> Tensor:
        return spins @ self.matrix

    def colours(self) -> Tensor:
        """Independent sets, filled up in rounds by the sites that come first among their neighbours (Luby 1986)."""
        coupled = self.matrix != 0
        # The order is arbitrary but must not follow the couplings, or a chain would be coloured one site at a time.
        order = torch.randperm(len(self.matrix), generator=torch.Generator().manual_seed(0)).to(self.matrix.device)
        left = torch.ones_like(order, dtype=torch.bool)
        colours = []
        while bool(left.any()):
            colour, candidates = torch.zeros_like(left), left
            while bool(candidates.any()):
                first_rival = torch.where(coupled & candidates, order, len(order)).amin(1)
                colour = colour | (candidates & (order < first_rival))
                candidates = candidates & ~colour & ~(coupled & colour).any(1)
            colours.append(colour)
            left = left & ~colour
        return torch.stack(colours)
