"""The grid of 8×8-pixel cells that a chunk is cut into, and the binary forms of 8-bit pixels.

A chunk (bands, height, width) whose sides are not multiples of 8 is extended by its own last row and column, so that
the cells at the edge hold no step that is not in the picture.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

CELL = 8
"""Side of a cell in pixels."""


def cell_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of cells that cover `height` × `width` pixels."""
    return -(-height // CELL), -(-width // CELL)


def to_cells(pixels: Tensor) -> Tensor:
    """Pixels (bands, height, width) to cells (cells, bands * 64), row-major over the grid; any float dtype."""
    bands, height, width = pixels.shape
    rows, columns = cell_grid(height, width)
    if (rows * CELL, columns * CELL) != (height, width):
        padding = (0, columns * CELL - width, 0, rows * CELL - height)
        pixels = F.pad(pixels.unsqueeze(0), padding, mode="replicate").squeeze(0)
    blocks = pixels.reshape(bands, rows, CELL, columns, CELL)
    return blocks.permute(1, 3, 0, 2, 4).reshape(rows * columns, bands * CELL * CELL)


def from_cells(cells: Tensor, bands: int, height: int, width: int) -> Tensor:
    """Inverse of `to_cells`: cells (cells, bands * 64) to pixels (bands, height, width)."""
    rows, columns = cell_grid(height, width)
    blocks = cells.reshape(rows, columns, bands, CELL, CELL).permute(2, 0, 3, 1, 4)
    return blocks.reshape(bands, rows * CELL, columns * CELL)[:, :height, :width]


def to_bits(values: Tensor, *, gray: bool = False) -> Tensor:
    """Values (cells, n), rounded to 0 ... 255, to their bits (cells, n * 8), most significant first, as 0.0 and 1.0.

    In the Gray code (Gray 1953) neighbouring values differ in one bit: bit k is the exclusive or of the plain bits k
    and k + 1.
    """
    whole = values.round().clamp(0, 255).to(torch.int32)
    if gray:
        whole = whole ^ (whole >> 1)
    shifts = torch.arange(7, -1, -1, device=values.device)
    bits = (whole.unsqueeze(-1) >> shifts) & 1
    return bits.reshape(len(values), -1).to(torch.float32)


def from_bit_probabilities(probabilities: Tensor, *, gray: bool = False) -> Tensor:
    """Expected value Σ 2^k p(bit k = 1): probabilities (cells, n * 8) to values (cells, n) in 0 ... 255.

    Bits of the Gray code are taken as independent; a plain bit is the exclusive or of those from the top down to it.
    """
    p = probabilities.reshape(len(probabilities), -1, 8)
    if gray:
        # E[(-1)^(x xor y)] = E[(-1)^x] E[(-1)^y].
        p = (1 - torch.cumprod(1 - 2 * p, dim=-1)) / 2
    weights = 2.0 ** torch.arange(7, -1, -1, device=probabilities.device, dtype=probabilities.dtype)
    return p @ weights
