r"""Binary data with few ones: products with a matrix that touch the ones alone.

    v  0 1 0 0 1 0          v @ W    sums the rows of W at the ones of each row of v          (1, 4), (0) ...
       1 0 0 0 0 0          vᵀ @ h   sums the rows of h at the ones of each column of v       (1), (0) ...
       ...

Both are bags of embeddings, of which torch has fast kernels. The lists of ones are found once for each batch, and serve
all epochs; data that are drawn anew in each pay for them every time. `benchmarks.rbm_speed` measures what is gained.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from harmonium.models.energy_model import Statistics
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparseBits:
    """States (batch, size) of zeros and ones, as the places of their ones; int32."""

    columns: Tensor
    """Of the ones, row by row, (ones,)."""

    row_ends: Tensor
    """Where each row begins in `columns`, and the end of the last, (batch + 1,)."""

    rows: Tensor
    """Of the ones, column by column, (ones,)."""

    column_ends: Tensor
    """Where each column begins in `rows`, and the end of the last, (size + 1,)."""

    @classmethod
    def of(cls, v: Tensor) -> Self:
        """The ones of states v (batch, size) of any dtype.

        Raises
        ------
        ValueError
            If v has another number of axes, or holds anything but 0 and 1.
        """
        if v.ndim != 2 or not bool(((v == 0) | (v == 1)).all()):
            raise ValueError(f"Sparse bits take states (batch, size) of 0 and 1, found shape {tuple(v.shape)}")
        columns, row_ends = _ones(v)
        rows, column_ends = _ones(v.T)
        return cls(columns=columns, row_ends=row_ends, rows=rows, column_ends=column_ends)

    def __len__(self) -> int:
        return len(self.row_ends) - 1

    def product(self, weight: Tensor) -> Tensor:
        """The product v @ weight, for a weight (size, any)."""
        self._check(weight, len(self.column_ends) - 1)
        return _bags(self.columns, self.row_ends, weight)

    def transposed_product(self, h: Tensor) -> Tensor:
        """The product vᵀ @ h, for h (batch, any)."""
        self._check(h, len(self))
        return _bags(self.rows, self.column_ends, h)

    def counts(self) -> Tensor:
        """Ones of each column, (size,) int32."""
        return self.column_ends.diff()

    def _check(self, factor: Tensor, rows: int) -> None:
        # The kernels read where the indices point: a factor that is too short has to be refused before.
        if factor.ndim != 2 or len(factor) != rows:
            raise ValueError(f"Expected a factor of shape ({rows}, any), found {tuple(factor.shape)}")


def statistics(rbm: RBM, bits: SparseBits) -> Statistics:
    """As `RBM.statistics` of the same states.

    Raises
    ------
    ValueError
        If not both layers are of Bernoulli units.
    """
    if not all(isinstance(units, Bernoulli) for units in (rbm.visible, rbm.hidden)):
        raise ValueError(f"Sparse bits need layers of Bernoulli units, found {rbm.visible} and {rbm.hidden}")
    with torch.no_grad():
        h = rbm.hidden.mean(bits.product(rbm.weight), rbm.hidden_parameters)
        sums = {
            "weight": bits.transposed_product(h),
            "visible_parameters.bias": bits.counts().to(h.dtype),
            "hidden_parameters.bias": h.sum(0),
        }
    return Statistics(count=len(bits), sums=sums)


def _ones(v: Tensor) -> tuple[Tensor, Tensor]:
    places = v.nonzero()[:, 1].to(torch.int32)
    ends = F.pad((v != 0).sum(1).cumsum(0), (1, 0)).to(torch.int32)
    return places, ends


def _bags(places: Tensor, ends: Tensor, rows: Tensor) -> Tensor:
    return F.embedding_bag(places, rows, ends, mode="sum", include_last_offset=True)
