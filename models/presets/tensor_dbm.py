"""`tensor-dbm`: 8×8 pixels of all bands as a tensor, a deep Boltzmann machine, K-bit codes of fixed length.

    code    Bernoulli  K = 64 × bands × bits per pixel    packed: exactly K bits a cell
    hidden  Bernoulli  250
    hidden  Bernoulli  500
    hidden  Bernoulli  1000
    hidden  Bernoulli  512
    visible Gaussian   bands × 8 × 8, along separable axes; weights in factors, of bands, rows, columns, hidden units

`real-dbm` (`harmonium.models.presets.real_dbm`) takes a cell for a vector, whose principal axes mix bands, rows and
columns. Here a cell stays a tensor: its axes are separable, one set for each of the three, and the weights of the
lowest layer are a sum of R outer products over them (`harmonium.models.tensor_rbm`), in the machine and, up and down in
factors of their own, in the network while it is fine-tuned. Then weights are expanded and the axes put into them: the
stored network is a plain stack.

The factors of B bands are R (B + 8 + 8 + 512) numbers in place of 64 B · 512, and the layer sees R directions of the
64 B that a cell has. For one band R is 48: 25 392 numbers for 32 768; for more it is half the directions, for 13 bands
225 056 numbers for 425 984.
"""

from dataclasses import dataclass

from torch import Tensor

from harmonium.models.cells import CELL
from harmonium.models.presets.real_dbm import WHITENING, RealDbm
from harmonium.models.principal_axes import PrincipalAxes
from harmonium.models.tensor_rbm import CP, TensorRBM
from harmonium.models.units import Units

_LEAST_RANK = 48
"""The rank for one band."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDbm(RealDbm):
    """See the module."""

    rank: int | None = None
    """Outer products that the weights are a sum of; None takes half the number of visible values, but at least 48."""

    name = "tensor-dbm"

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"tensor-dbm needs rank >= 1 or None, got {self.rank}")

    def _axes(self, x: Tensor) -> PrincipalAxes:
        return PrincipalAxes.separable(x, _modes(x.shape[1]), WHITENING)

    def _lowest(self, visible: Units, hidden: Units) -> TensorRBM:
        rank = self.rank or max(_LEAST_RANK, visible.size // 2)
        return TensorRBM(_modes(visible.size), visible, hidden, CP(rank=rank))


PRESET = TensorDbm()


def _modes(visible: int) -> tuple[int, int, int]:
    """Bands, rows and columns of a cell, in the order of `harmonium.models.cells.to_cells`."""
    return visible // (CELL * CELL), CELL, CELL
