"""A context network in whole numbers: every machine, device, batch and number of threads gives the same tables.

Weights and activations are whole numbers of 8 bits, and no sum of their products, in any order, reaches 2^24: units
that add up in float32 (those for bfloat16, tf32 and float32) hold every partial sum exactly, and so would those for
int8. The sum, its bias included, is rounded once to bfloat16; then all that follows are single operations in bfloat16,
each of which IEEE 754 rounds in one way only. Where a processor has no products of bfloat16, they are made in
float32, with the same result.

Trained networks are rounded after their training; activations get a factor from examples (Jacob et al. 2018).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from harmonium.models.context_network import (
    FEATURES,
    MOST_RESTORED,
    OUTPUTS,
    SIXTEENTHS,
    STEP_ORDER,
    LevelNetwork,
    bias_of,
    convolution,
    known_details,
)
from harmonium.models.scale_tables import RESTORED
from harmonium.models.wavelet import DETAILS

LIMIT = 255
"""Largest activation."""

LARGEST_INPUT = 133
"""Largest magnitude of features and of companded details: 16 log(1 + 65535 / 16), rounded."""

_LARGEST_WEIGHT = 255
_EXACT = float(1 << 24) - 1
_RANGE = 0.9995
"""Share of activations of a layer that its range holds; the others are cut."""


def _native() -> bool:
    """Whether products of bfloat16 are made without first making float32 of them."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerLayer:
    """out = clamp(round(bfloat16(weight · in + bias) × factor)), whole numbers in bfloat16."""

    weight: Tensor
    """(out, in, rows, columns), whole numbers of at most 255 in magnitude."""

    bias: Tensor
    """(out,), whole numbers that bfloat16 has."""

    factor: Tensor
    """(out,), in bfloat16."""

    def __post_init__(self) -> None:
        for name, values in (("weights", self.weight), ("biases", self.bias), ("factors", self.factor)):
            if values.dtype != torch.bfloat16 or not values.isfinite().all():
                raise ValueError(f"Expected finite {name} of bfloat16, found {values.dtype}; the model is damaged")
        if not torch.equal(self.weight, self.weight.round()) or not torch.equal(self.bias, self.bias.round()):
            raise ValueError("Expected whole numbers as weights and biases, found fractions; the model is damaged")
        if self.weight.abs().max() > _LARGEST_WEIGHT:
            raise ValueError(
                f"Expected weights of at most {_LARGEST_WEIGHT}, found {self.weight.abs().max()}; the model is damaged"
            )

    def sums(self, values: Tensor, padding: int = 0) -> Tensor:
        """The products' sums and the bias, rounded to bfloat16."""
        return convolved(values, self.weight, self.bias, padding=padding)

    def finish(self, sums: Tensor, low: float, high: float) -> Tensor:
        """What a layer gives for its sums, which are overwritten."""
        return sums.mul_(self.factor.reshape(1, -1, 1, 1)).round_().clamp_(low, high)


def convolved(
    values: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0, stride: tuple[int, int] = (1, 1)
) -> Tensor:
    """Sums of products of whole numbers in bfloat16, exact but for one rounding to bfloat16."""
    if values.device.type == "cpu" and _native():
        return F.conv2d(values, weight, bias, padding=padding, stride=stride)
    # No algorithm that works in fractions (Winograd, FFT), which cuDNN might choose; oneDNN is asked for none.
    with torch.backends.cudnn.flags(enabled=False):
        wide = None if bias is None else bias.float()
        return F.conv2d(values.float(), weight.float(), wide, padding=padding, stride=stride).bfloat16()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerLevel:
    """`LevelNetwork` in whole numbers."""

    trunk_layers: tuple[IntegerLayer, ...]
    """3 × 3 layers, the first takes the features."""

    joined: tuple[IntegerLayer, ...]
    """1 × 1 layers of the steps that take the trunk."""

    known: tuple[Tensor, ...]
    """Weights (head, known, 5, 5) of the steps that take details; in units of the same step's `joined`."""

    hidden: tuple[IntegerLayer, ...]
    """1 × 1 layers."""

    outputs: tuple[IntegerLayer, ...]
    """1 × 1 layers with three outputs."""

    restoring: tuple[IntegerLayer, ...]
    """Two layers of 3 × 3 and one of 1 × 1; the first takes features and details."""

    def __post_init__(self) -> None:
        for layers in (self.trunk_layers, self.restoring):
            previous = LARGEST_INPUT
            for layer in layers:
                _check_exact(layer, previous)
                previous = LIMIT
        for layer, known in zip(self.joined, self.known, strict=True):
            _check_exact(layer, LIMIT, known.float().abs().sum((1, 2, 3)) * LARGEST_INPUT)
        for layer in (*self.hidden, *self.outputs):
            _check_exact(layer, LIMIT)

    def trunk(self, seen: Tensor) -> Tensor:
        """Features (planes, `FEATURES`, rows, columns) to activations (planes, trunk, rows, columns), bfloat16."""
        seen = seen.to(torch.bfloat16, memory_format=torch.channels_last)
        for layer in self.trunk_layers:
            seen = layer.finish(layer.sums(seen, padding=1), 0, LIMIT)
        return seen

    def head(self, number: int, trunk: Tensor, details: Tensor) -> Tensor:
        """Outputs (planes, 3, ...) of a step: centre, scale and shape in 32nds."""
        step = STEP_ORDER[number]
        lines = step.take(trunk)
        if not lines.numel():  # a plane of one line has no odd ones
            return lines[:, :OUTPUTS].float()
        sums = self.joined[number].sums(lines)
        if step.known:
            seen = known_details(details.bfloat16(), step).contiguous(memory_format=torch.channels_last)
            sums += convolved(seen, self.known[number], stride=step.stride)
        found = self.joined[number].finish(sums, 0, LIMIT)
        found = self.hidden[number].finish(self.hidden[number].sums(found), 0, LIMIT)
        return self.outputs[number].finish(self.outputs[number].sums(found), -_OUTPUT, _OUTPUT).float()

    def restored(self, seen: Tensor, details: Tensor) -> Tensor:
        """`LevelNetwork.restored` in 64ths of a step: (planes, 3, rows, columns) float32."""
        found = torch.cat([seen, details], 1).to(torch.bfloat16, memory_format=torch.channels_last)
        for number, layer in enumerate(self.restoring):
            low, high, padding = (0, LIMIT, 1) if number < len(self.restoring) - 1 else (*_MOST_RESTORED, 0)
            found = layer.finish(layer.sums(found, padding=padding), low, high)
        return found.float()

    def to_tensors(self) -> dict[str, Tensor]:
        """Weights as int16, biases as int32, factors as bfloat16, by name."""
        found: dict[str, Tensor] = {}
        for name in _PARTS:
            for number, layer in enumerate(getattr(self, name)):
                found[f"{name}.{number}.weight"] = layer.weight.to(torch.int16)
                found[f"{name}.{number}.bias"] = layer.bias.to(torch.int32)
                found[f"{name}.{number}.factor"] = layer.factor
        for number, weight in enumerate(self.known):
            found[f"known.{number}.weight"] = weight.to(torch.int16)
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Inverse of `to_tensors`.

        Raises
        ------
        ValueError, KeyError
            If they are not such a network, or one whose sums would not be exact.
        """
        heads = len(STEP_ORDER)
        trunk, head = len(tensors["trunk_layers.0.bias"]), len(tensors["joined.0.bias"])
        sizes = {
            "trunk_layers": [(trunk, FEATURES, 3, 3), (trunk, trunk, 3, 3)],
            "joined": [(head, trunk, 1, 1)] * heads,
            "hidden": [(head, head, 1, 1)] * heads,
            "outputs": [(OUTPUTS, head, 1, 1)] * heads,
            "restoring": [(trunk, FEATURES + DETAILS, 3, 3), (trunk, trunk, 3, 3), (DETAILS, trunk, 1, 1)],
        }
        left = set(tensors)

        def tensor(name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            found = tensors[name]
            left.discard(name)
            if tuple(found.shape) != tuple(shape) or found.dtype != dtype:
                raise ValueError(f"{name}: expected {dtype} {tuple(shape)}, found {found.dtype} {tuple(found.shape)}")
            return found.bfloat16()

        parts = {
            name: tuple(
                IntegerLayer(
                    weight=tensor(f"{name}.{number}.weight", shape, torch.int16),
                    bias=tensor(f"{name}.{number}.bias", shape[:1], torch.int32),
                    factor=tensor(f"{name}.{number}.factor", shape[:1], torch.bfloat16),
                )
                for number, shape in enumerate(shapes)
            )
            for name, shapes in sizes.items()
        }
        known = tuple(
            tensor(f"known.{number}.weight", (head, max(step.known, 1), 5, 5), torch.int16)
            for number, step in enumerate(STEP_ORDER)
        )
        if left:
            raise ValueError(f"Expected no other tensors of a network, found {', '.join(sorted(left))}")
        return cls(known=known, **parts)


_PARTS = ("trunk_layers", "joined", "hidden", "outputs", "restoring")
_OUTPUT = 1 << 15
_MOST_RESTORED = (-MOST_RESTORED * RESTORED, MOST_RESTORED * RESTORED)

OUTPUT_UNIT = 32.0
"""Outputs are whole numbers of 32nds of those of the trained network."""


def _check_exact(layer: IntegerLayer, largest: int, more: Tensor | float = 0.0) -> None:
    sums = layer.weight.float().abs().sum((1, 2, 3)) * largest + layer.bias.float().abs() + more
    if sums.max() > _EXACT:
        raise ValueError(f"Expected sums below 2^24, found up to {sums.max():.0f}; the model is damaged")


# --- rounding a trained network -------------------------------------------------------------------------------------


@torch.no_grad()
def rounded(network: LevelNetwork, examples: Sequence[tuple[Tensor, Tensor]]) -> IntegerLevel:
    """A trained network in whole numbers.

    Parameters
    ----------
    examples
        Features (planes, `FEATURES`, rows, columns) and companded details (planes, 3, rows, columns), in whole
        sixteenths, from which the ranges of activations are taken.
    """
    network = network.float().eval()
    ranges = _ranges(network, examples)
    trunk, unit = _rounded_layers(network.trunk_layers, [ranges[f"trunk.{number}"] / LIMIT for number in range(2)])
    units = [ranges[f"restoring.{number}"] / LIMIT for number in range(2)]
    restoring, _ = _rounded_layers(network.restoring, [*units, 1 / RESTORED])
    joined, known, hidden, outputs = [], [], [], []
    for number, step in enumerate(STEP_ORDER):
        after, last = (ranges.get(f"{name}.{number}", 1.0) / LIMIT for name in ("joined", "hidden"))
        details = convolution(network.known, number).weight * (1 if step.known else 0)
        layer = convolution(network.joined, number)
        whole, beside = _rounded_layer(layer.weight, bias_of(layer), unit, LIMIT, after, details)
        joined.append(whole)
        known.append(beside)
        layer = convolution(network.hidden, number)
        hidden.append(_rounded_layer(layer.weight, bias_of(layer), after, LIMIT, last)[0])
        layer = convolution(network.outputs, number)
        outputs.append(_rounded_layer(layer.weight, bias_of(layer), last, LIMIT, 1 / OUTPUT_UNIT)[0])
    return IntegerLevel(
        trunk_layers=tuple(trunk),
        joined=tuple(joined),
        known=tuple(known),
        hidden=tuple(hidden),
        outputs=tuple(outputs),
        restoring=restoring,
    )


def _rounded_layers(layers: nn.ModuleList, after: Sequence[float]) -> tuple[tuple[IntegerLayer, ...], float]:
    """Layers one after the other, the first of which takes inputs; and the last one's unit."""
    found: list[IntegerLayer] = []
    unit, inputs = 1 / SIXTEENTHS, LARGEST_INPUT
    for number, own in enumerate(after):
        layer = convolution(layers, number)
        found.append(_rounded_layer(layer.weight, bias_of(layer), unit, inputs, own)[0])
        unit, inputs = own, LIMIT
    return tuple(found), unit


def _rounded_layer(
    weight: Tensor, bias: Tensor, unit: float, largest: int, after: float, details: Tensor | None = None
) -> tuple[IntegerLayer, Tensor]:
    """A layer whose inputs are whole multiples of `unit` and whose outputs are of `after`; and weights of details."""
    real = weight.double() * unit
    beside = torch.zeros(len(weight), 1, 5, 5).double() if details is None else details.double() / SIXTEENTHS
    most = torch.maximum(real.abs().amax((1, 2, 3)), beside.abs().amax((1, 2, 3))) / _LARGEST_WEIGHT
    sums = real.abs().sum((1, 2, 3)) * largest + beside.abs().sum((1, 2, 3)) * LARGEST_INPUT + bias.double().abs()
    # Rounding adds half a unit to every weight at the most.
    spare = _EXACT - real[0].numel() * largest / 2 - beside[0].numel() * LARGEST_INPUT / 2 - 1
    scale = torch.maximum(most, sums / spare).clamp(min=1e-12)
    column = scale.reshape(-1, 1, 1, 1)
    layer = IntegerLayer(
        weight=(real / column).round().bfloat16(),
        bias=(bias.double() / scale).round().bfloat16(),
        factor=(scale / after).bfloat16(),
    )
    return layer, (beside / column).round().bfloat16()


def _ranges(network: LevelNetwork, examples: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """What the activations of every layer seldom exceed over the examples."""
    found: dict[str, float] = {}

    def note(name: str, values: Tensor) -> Tensor:
        largest = values.amax(1).flatten().sort().values
        found[name] = max(found.get(name, 1e-3), float(largest[int(_RANGE * (len(largest) - 1))]))
        return values

    for seen, details in examples:
        trunk = seen / SIXTEENTHS
        for number, layer in enumerate(network.trunk_layers):
            trunk = note(f"trunk.{number}", F.relu(layer(trunk)))
        restoring = torch.cat([seen, details], 1) / SIXTEENTHS
        for number in range(len(network.restoring) - 1):
            restoring = note(f"restoring.{number}", F.relu(convolution(network.restoring, number)(restoring)))
        for number, step in enumerate(STEP_ORDER):
            if not step.take(trunk).numel():
                continue
            sums = network.joined[number](step.take(trunk))
            if step.known:
                known = known_details(details, step) / SIXTEENTHS
                sums = sums + F.conv2d(known, convolution(network.known, number).weight, stride=step.stride)
            note(f"hidden.{number}", F.relu(network.hidden[number](note(f"joined.{number}", F.relu(sums)))))
    return found
