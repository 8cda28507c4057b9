"""Principal axes of cells: coordinates in which machines and networks learn well, and the way back into their weights.

    z = diag(1/s) Uᵀ (x - m)        U: eigenvectors of the cells' covariance, s = max(λ, floor)^(w / 2)

Pixels of a cell are nearly equal to one another: the eigenvalues λ of their covariance span some five decades, and
steps of one size for all weights learn nothing but the mean of a cell. With w = 1 all coordinates have unit variance.
A stack that was trained on z has x for its visible units again once the map stands in its first and last weights.

Those axes mix all of a cell's values. Where a cell is to stay a tensor of bands × rows × columns, there are separable
axes, U = U_bands ⊗ U_rows ⊗ U_columns, each factor the eigenvectors of the covariance along its own mode: z is a tensor
then, too, and its coordinates are uncorrelated as far as the covariance is such a product itself.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from harmonium.models.training import Batches, symmetric_batches
from harmonium.models.unrolled import UnrolledStack

_FLOOR = 1e-6
"""Least eigenvalue, as a share of the largest: bands may be copies of one another."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrincipalAxes:
    """An affine map of visible values to coordinates along principal axes."""

    mean: Tensor
    """m, (visible,)."""

    directions: Tensor
    """U, (visible, visible), orthonormal columns."""

    variances: Tensor
    """λ, (visible,), of the cells along each direction, none below 10^-6 of the largest."""

    scale: Tensor
    """s, (visible,): how much of a visible value is one unit of a coordinate."""

    @classmethod
    @torch.no_grad()
    def of(cls, x: Tensor, whitening: float) -> Self:
        """Those of cells x (cells, visible), the largest variance first.

        With the exponent w of `whitening`, 0 leaves variances, 1 makes them 1.
        """
        variances, directions = torch.linalg.eigh(torch.cov(x.T.double()))
        return cls._along(x, directions.flip(1), variances.flip(0), whitening)

    @classmethod
    @torch.no_grad()
    def separable(cls, x: Tensor, modes: Sequence[int], whitening: float) -> Self:
        """Those of cells x (cells, product of modes), one set for each mode, the largest variance of a mode first.

        Raises
        ------
        ValueError
            If cells are of another size.
        """
        if x.shape[1:] != (math.prod(modes),):
            raise ValueError(
                f"Expected cells (cells, {math.prod(modes)}) for modes {tuple(modes)}, found {tuple(x.shape)}"
            )
        covariance = torch.cov(x.T.double()).reshape(*modes, *modes)
        directions = torch.ones(1, 1, dtype=covariance.dtype, device=x.device)
        for mode in range(len(modes)):
            own = torch.linalg.eigh(_partial_trace(covariance, mode)).eigenvectors.flip(1)
            directions = torch.kron(directions, own)
        covariance = covariance.reshape(directions.shape)
        return cls._along(x, directions, (directions * (covariance @ directions)).sum(0), whitening)

    @classmethod
    def _along(cls, x: Tensor, directions: Tensor, variances: Tensor, whitening: float) -> Self:
        """Axes of x (cells, visible) along directions (visible, visible), orthonormal, of variances (visible,)."""
        # Cells that are all alike have no axes: any orthonormal ones will do.
        least = max(_FLOOR * float(variances.max()), torch.finfo(torch.float32).tiny)
        variances = variances.clamp(min=least)
        return cls(
            mean=x.mean(0),
            directions=directions.float(),
            variances=variances.float(),
            scale=variances.pow(whitening / 2).float(),
        )

    def project(self, x: Tensor) -> Tensor:
        """Visible values (cells, visible) to coordinates (cells, visible)."""
        return (x - self.mean) @ (self.directions / self.scale)

    def batches(self, x: Tensor, generator: torch.Generator) -> Batches:
        """Source of batches of x (cells, k * 64), turned and mirrored, as coordinates; the generator is a CPU one."""

        def source(batch: int) -> Iterator[Tensor]:
            return (self.project(cells) for cells in symmetric_batches(x, batch, generator))

        return source

    def scaled(self, z: Tensor) -> Tensor:
        """Coordinates (cells, visible) in units of visible values: their distances are those of visible values."""
        return z * self.scale

    def squared_error(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Summed squared error of a cell's visible values, averaged over the batch, by their coordinates."""
        return (self.scaled(reconstruction) - self.scaled(target)).square().sum(1).mean()

    @torch.no_grad()
    def fold(self, net: UnrolledStack) -> None:
        """Let a stack that takes and gives coordinates take and give visible values instead."""
        up, down = cast("nn.Linear", net.encoder[0]), cast("nn.Linear", net.decoder[-1])
        up.weight.copy_(up.weight @ (self.directions / self.scale).T)
        up.bias.sub_(up.weight @ self.mean)
        back = self.directions * self.scale
        down.weight.copy_(back @ down.weight)
        down.bias.copy_(back @ down.bias + self.mean)


def _partial_trace(covariance: Tensor, mode: int) -> Tensor:
    """The covariance (*modes, *modes) within one mode, summed over all others, (mode, mode)."""
    count = covariance.ndim // 2
    rows = list(range(count))
    columns = [count if n == mode else n for n in rows]
    return torch.einsum(covariance, rows + columns, [mode, count])
