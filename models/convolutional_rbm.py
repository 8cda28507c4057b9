r"""The convolutional restricted Boltzmann machine: filters that are shared over all places of an image.

    hidden   h   filters × rows' × columns'      h_k at a place sees `kernel` pixels; places are `stride` apart, so
                  o   o   o   o                  that neighbours share `kernel - stride` of them
                 /|\ /|\ /|\ /|\   W
    visible  v  o o o o o o o o o o              E(v, h) = Σ e_v(v) + Σ e_h(h) - Σ_k h_k · (W_k ⋆ s(v))
                 channels × rows × columns

(Lee, Grosse, Ranganath and Ng 2009; Norouzi, Ranjbar and Mori 2009.) ⋆ is correlation without
padding. One bias, and one variance, for each channel and each filter. It is the RBM whose weight matrix is the unrolled
(Toeplitz) one; pixels near the border are seen from fewer places. Images may be of any size on which the places end at
the border.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from torch.nn.grad import conv2d_weight

from harmonium.models.rbm import RestrictedMachine, check_dtype
from harmonium.models.units import Units


class ConvolutionalRBM(RestrictedMachine):
    """A restricted Boltzmann machine between images (batch, channels, rows, columns) and maps of filters.

    Parameters
    ----------
    visible
        What a pixel consists of: as many units as there are channels.
    hidden
        What a place consists of: as many units as there are filters.
    kernel
        Rows and columns that a filter sees.
    stride
        Rows and columns between neighbouring places, at most `kernel`.

    Notes
    -----
    `weight` is (filters, channels, rows, columns), zero until `initialise` or a caller fills it.
    """

    def __init__(
        self, visible: Units, hidden: Units, *, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__(visible, hidden)
        if not all(1 <= step <= side for step, side in zip(stride, kernel, strict=True)):
            raise ValueError(f"Expected strides from 1 to the kernel's {kernel}, so that all is seen, got {stride}")
        self.kernel, self.stride = kernel, stride
        self.weight = nn.Parameter(torch.zeros(hidden.width, visible.width, *kernel))

    @property
    def overlap(self) -> tuple[int, int]:
        """Rows and columns that neighbouring places share."""
        return self.kernel[0] - self.stride[0], self.kernel[1] - self.stride[1]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, scale: float = 0.01) -> Self:
        """Draw the weights from N(0, scale²)."""
        self.weight.normal_(0.0, scale, generator=generator)
        return self

    def hidden_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of places on an image of that size.

        Raises
        ------
        ValueError
            If the last place does not end at the border.
        """
        (down, rest_down), (across, rest_across) = (
            divmod(side - kernel, stride)
            for side, kernel, stride in zip((rows, columns), self.kernel, self.stride, strict=True)
        )
        if down < 0 or across < 0 or rest_down or rest_across:
            raise ValueError(
                f"Expected images of {self.kernel} pixels and a multiple of {self.stride} more, "
                f"found {(rows, columns)}; crop or pad them"
            )
        return down + 1, across + 1

    def _up(self, s: Tensor) -> Tensor:
        return F.conv2d(s.movedim(-1, 1), self.weight, stride=self.stride).movedim(1, -1)

    def _down(self, s: Tensor) -> Tensor:
        return F.conv_transpose2d(s.movedim(-1, 1), self.weight, stride=self.stride).movedim(1, -1)

    def _weight_statistics(self, v: Tensor, h: Tensor) -> dict[str, Tensor]:
        shape = tuple(self.weight.shape)
        v, h = v.movedim(-1, 1), h.movedim(-1, 1)
        return {"weight": conv2d_weight(v, shape, h, stride=self.stride)}  # type: ignore[no-untyped-call]

    def _visible_in(self, v: Tensor) -> Tensor:
        v = self._image(v, "visible", self.visible)
        self.hidden_shape(v.shape[1], v.shape[2])
        return v

    def _hidden_in(self, h: Tensor) -> Tensor:
        return self._image(h, "hidden", self.hidden)

    def _image(self, x: Tensor, layer: str, units: Units) -> Tensor:
        """States (batch, width, rows, columns) as (batch, rows, columns, width)."""
        if x.ndim != 4 or x.shape[1] != units.width:
            raise ValueError(
                f"Expected {layer} states (batch, {units.width}, rows, columns) for {units}, found {tuple(x.shape)}"
            )
        return check_dtype(x, layer, self.weight.dtype).movedim(1, -1)

    def _visible_out(self, v: Tensor) -> Tensor:
        return v.movedim(-1, 1)

    def _hidden_out(self, h: Tensor) -> Tensor:
        return h.movedim(-1, 1)

    def _total(self, energy: Tensor) -> Tensor:
        return energy.sum((-2, -1))

    def bias_shifts(self, visible: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """See `RestrictedMachine.bias_shifts`.

        Raises
        ------
        ValueError
            If the hidden offsets are not zero, and filters see more than a pixel: what such offsets take differs from
            pixel to pixel, and no bias of a channel can make up for it.
        """
        shifts = {"hidden_parameters.bias": self._up(visible.expand(1, *self.kernel, -1)).flatten()}
        if self.kernel == (1, 1):
            shifts["visible_parameters.bias"] = self._down(hidden.expand(1, 1, 1, -1)).flatten()
        elif bool(hidden.any()):
            raise ValueError(
                f"Expected no hidden offsets for filters of {self.kernel} pixels, which share one visible bias for all "
                "pixels of a channel; centre at `offsets.visible_only()`"
            )
        return shifts
