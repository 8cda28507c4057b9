"""Pixels ⇄ codes: the contract between a codec and whatever network it uses."""

from typing import Any, Protocol

from torch import Tensor


class BlockTransform(Protocol):
    """A map from the pixels of a chunk to integer codes on its grid of cells, and back.

    Implementations hold their numbers in tensors on one device and neither read nor write anything else. The same
    pixels always give the same codes, on one machine and with one number of threads.
    """

    @property
    def bands(self) -> int:
        """Number of bands of the chunks that it takes."""

    @property
    def states(self) -> tuple[int, ...]:
        """Number of states of every code unit; a code is one of 0 ... states - 1."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (bands, height, width) float32 to codes (units, cell_rows, cell_columns) int32."""

    def decode(self, codes: Tensor, height: int, width: int) -> Tensor:
        """Codes (units, cell_rows, cell_columns) int32 to normalised pixels (bands, height, width) float32."""

    def to_tensors(self) -> dict[str, Tensor]:
        """Every number that the transform needs, by name, for a model file."""

    def to_spec(self) -> dict[str, Any]:
        """Everything but the numbers that `Preset.load` needs, as JSON values."""
