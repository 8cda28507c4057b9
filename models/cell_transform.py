"""The block transform that an unrolled stack is, applied to every cell of a chunk by itself."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from harmonium.models.cells import CELL, cell_grid, from_bit_probabilities, from_cells, to_bits, to_cells
from harmonium.models.nearest_codes import Codebook, check_search
from harmonium.models.payload import MAX_BANDS
from harmonium.models.unrolled import StackShape, UnrolledStack, from_tensors, to_tensors

VisibleUnits = Literal["values", "bits", "gray"]
"""What the visible units of a cell are: its pixels of all bands, or the 8 bits of each pixel of one band, plain or in
the Gray code."""

Encoder = Literal["network", "nearest"]
"""What finds the code of a cell: the network's encoder, or a search for the code that decodes nearest to the cell."""

_MAX_CODE_UNITS = 1 << 16
"""A foreign file may ask for many bands of many units with few bytes."""


class CellTransform:
    """Cells of 8×8 pixels through an unrolled stack.

    With `values`, a cell holds all bands, and its code has as many units as the stack's code layer. With `bits` and
    `gray`, every band of a cell is coded by itself, and the code units of the bands follow one another. Normalised
    pixels are then 0 ... 255; what lies outside is clipped.

    With the encoder `nearest` a cell gets the code that decodes nearest to it, found by looking at all codes
    (`harmonium.models.nearest_codes`): only networks of few binary code units can have it. Near is what has a small
    squared error in normalised pixels, neither rounded nor clipped.
    """

    def __init__(self, net: UnrolledStack, bands: int, units: VisibleUnits, encoder: Encoder = "network") -> None:
        if encoder not in get_args(Encoder):
            raise ValueError(f"Expected an encoder of {', '.join(get_args(Encoder))}, got {encoder!r}")
        if encoder == "nearest":
            check_search(net)
        if units not in get_args(VisibleUnits) or not 1 <= bands <= MAX_BANDS:
            raise ValueError(
                f"Expected units of {', '.join(get_args(VisibleUnits))} and 1 to {MAX_BANDS} bands, got {units!r} and "
                f"{bands}"
            )
        expected = CELL * CELL * (bands if units == "values" else 8)
        if net.shape.sizes[0] != expected:
            raise ValueError(
                f"A stack for {bands} bands of {units!r} needs {expected} visible units, found {net.shape.sizes[0]}"
            )
        code_units = len(net.states) * (1 if units == "values" else bands)
        if code_units > _MAX_CODE_UNITS:
            raise ValueError(f"Expected at most {_MAX_CODE_UNITS} code units, got {code_units}")
        self.net = net.eval().requires_grad_(requires_grad=False)
        self.bands = bands
        self._units = units
        self._encoder = encoder
        self._gray = units == "gray"
        unit_states = tuple(int(states) for states in net.states)
        self.states = unit_states if units == "values" else unit_states * bands

    @property
    def _device(self) -> torch.device:
        return self.net.spacing.device

    def encode(self, pixels: Tensor) -> Tensor:
        """See `BlockTransform.encode`."""
        grid = cell_grid(*pixels.shape[1:])
        pixels = pixels.to(self._device)
        if self._units == "values":
            codes = self._codes_of(to_cells(pixels)).T
        else:
            cells = torch.cat([to_cells(band.unsqueeze(0)) for band in pixels])
            codes = self._codes_of(cells).reshape(self.bands, -1, len(self.net.states)).transpose(1, 2)
        return codes.reshape(-1, *grid).contiguous().cpu()

    def _codes_of(self, cells: Tensor) -> Tensor:
        """Codes (cells, units) of the network's cells (cells, values)."""
        if self._encoder == "nearest":
            return self._codebook.nearest(cells)
        return self.net.encode(cells if self._units == "values" else to_bits(cells, gray=self._gray))

    def _values(self, visible: Tensor) -> Tensor:
        """What the decoder gives, as pixel values."""
        return visible if self._units == "values" else from_bit_probabilities(visible, gray=self._gray)

    @cached_property
    def _codebook(self) -> Codebook:
        # Made when first asked for: decoding does without.
        return Codebook(self.net, self._values)

    def __getstate__(self) -> dict[str, object]:
        # The codebook is many times as large as the network that it is made of.
        return {name: value for name, value in self.__dict__.items() if name != "_codebook"}

    def decode(self, codes: Tensor, height: int, width: int) -> Tensor:
        """See `BlockTransform.decode`."""
        codes = codes.to(self._device)
        if self._units == "values":
            cells = self.net.decode(codes.reshape(len(codes), -1).T)
            return from_cells(cells, self.bands, height, width).cpu().contiguous()
        by_band = codes.reshape(self.bands, len(self.net.states), -1).transpose(1, 2)
        values = [self._values(self.net.decode(band)) for band in by_band]
        return torch.cat([from_cells(band, 1, height, width) for band in values]).cpu().contiguous()

    def to_tensors(self) -> dict[str, Tensor]:
        """See `BlockTransform.to_tensors`."""
        return to_tensors(self.net)

    def to_spec(self) -> dict[str, Any]:
        """See `BlockTransform.to_spec`."""
        spec = {"bands": self.bands, "units": self._units, "stack": asdict(self.net.shape)}
        return spec if self._encoder == "network" else {**spec, "encoder": self._encoder}


def load(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> CellTransform:
    """Inverse of `CellTransform.to_spec` and `to_tensors`; `ValueError`, `KeyError` or `TypeError` if they are bad."""
    shape = StackShape(
        sizes=tuple(int(size) for size in spec["stack"]["sizes"]),
        hidden=spec["stack"]["hidden"],
        code=spec["stack"]["code"],
        visible=spec["stack"]["visible"],
    )
    net = from_tensors(shape, tensors)
    return CellTransform(net, int(spec["bands"]), spec["units"], spec.get("encoder", "network"))
