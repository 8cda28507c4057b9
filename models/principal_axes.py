"""Principal axes of cells: coordinates in which machines and networks learn well, and the way back into their weights.

    z = diag(1/s) Uᵀ (x - m)        U: eigenvectors of the cells' covariance, s = max(λ, floor)^(w / 2)

Pixels of a cell are nearly equal to one another: the eigenvalues λ of their covariance span some five decades, and
steps of one size for all weights learn nothing but the mean of a cell. With w = 1 all coordinates have unit variance.
A stack that was trained on z has x for its visible units again once the map stands in its first and last weights.
"""

from collections.abc import Iterator
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
    """An affine map of visible values to coordinates along principal axes, the largest variance first."""

    mean: Tensor
    """m, (visible,)."""

    directions: Tensor
    """U, (visible, visible), orthonormal columns."""

    variances: Tensor
    """λ, (visible,), not increasing, none below 10^-6 of the first."""

    scale: Tensor
    """s, (visible,): how much of a visible value is one unit of a coordinate."""

    @classmethod
    @torch.no_grad()
    def of(cls, x: Tensor, whitening: float) -> Self:
        """Those of cells x (cells, visible), with the exponent w of `whitening`: 0 leaves variances, 1 makes them 1."""
        variances, directions = torch.linalg.eigh(torch.cov(x.T.double()))
        variances, directions = variances.flip(0), directions.flip(1)
        # Cells that are all alike have no axes: any orthonormal ones will do.
        least = max(_FLOOR * float(variances[0]), torch.finfo(torch.float32).tiny)
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

    def squared_error(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Summed squared error of a cell's visible values, averaged over the batch, by their coordinates."""
        return ((reconstruction - target) * self.scale).square().sum(1).mean()

    @torch.no_grad()
    def fold(self, net: UnrolledStack) -> None:
        """Let a stack that takes and gives coordinates take and give visible values instead."""
        up, down = cast("nn.Linear", net.encoder[0]), cast("nn.Linear", net.decoder[-1])
        up.weight.copy_(up.weight @ (self.directions / self.scale).T)
        up.bias.sub_(up.weight @ self.mean)
        back = self.directions * self.scale
        down.weight.copy_(back @ down.weight)
        down.bias.copy_(back @ down.bias + self.mean)
