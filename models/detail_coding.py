"""A chunk's planes of details ⇄ bytes: level by level, from the coarsest, each predicted from what is known by then.

    low band, plane by plane ──▶ level 5 ──▶ low band ──▶ level 4 ──▶ ... ──▶ level 0 ──▶ bands
                                   │ plane by plane, step by step:
                                   └ features, trunk, head ── tables ── numbers

Encoder and decoder do the same in the same whole numbers. An encoder knows all numbers of a level, and so runs its
network over all planes at once; a decoder, plane by plane.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonium.errors import PayloadError
from harmonium.models import plane_rotation, subbands, transform_section
from harmonium.models.context_network import PLANES_BEFORE, SIXTEENTHS, STEP_ORDER, companded, features
from harmonium.models.integer_network import IntegerLevel
from harmonium.models.scale_tables import LARGEST_INDEX, PER_OCTAVE, RESTORED, SYMBOLS, TABLES
from harmonium.models.subbands import CLASSES, LEVELS, level_class
from harmonium.models.symbol_coding import Choice, Numbers, Reader, Tables, Writer, choose, choose_from
from harmonium.models.wavelet import DETAILS

DEAD_ZONE = 0.34
"""What an encoder adds to magnitudes in steps before it rounds them down, before it weighs them."""

PRICE = 0.12
"""What an encoder pays for a bit, in squared steps: at high rates, where D = 1/12 and D falls by a factor of 4 for each
bit, one would pay 2 log(2) D = 0.116."""

_PLANES_AT_ONCE = 4
"""Of an encoder, which bounds its memory."""

_LIMIT = float(1 << 40)
"""Magnitude of restored values in units: all sums stay below 2^53."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetailModel:
    """All that coding needs beside a chunk."""

    networks: tuple[IntegerLevel, ...]
    """One of each class of levels."""

    tables: Tables
    """Frequencies."""

    def __post_init__(self) -> None:
        if len(self.networks) != CLASSES or self.tables.frequencies.shape != (TABLES, SYMBOLS):
            raise ValueError(
                f"Expected {CLASSES} networks and tables ({TABLES}, {SYMBOLS}), found {len(self.networks)} and "
                f"{self.tables.frequencies.shape}; the model is damaged"
            )

    def to_tensors(self) -> dict[str, Tensor]:
        """Every number, by name, for a model file."""
        found = {"frequencies": torch.from_numpy(self.tables.frequencies.astype(np.int32))}
        for number, network in enumerate(self.networks):
            found |= {f"level{number}.{name}": value for name, value in network.to_tensors().items()}
        return found

    def to_spec(self) -> dict[str, Any]:
        """Everything but the numbers."""
        return {"wavelet": "cdf-9-7", "levels": LEVELS}

    @classmethod
    def load(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Inverse of `to_spec` and `to_tensors`.

        Raises
        ------
        ValueError, KeyError
            If they contradict themselves, or a sum would not be exact.
        """
        if dict(spec) != {"wavelet": "cdf-9-7", "levels": LEVELS}:
            raise ValueError(f"Expected the wavelet cdf-9-7 on {LEVELS} levels, found {dict(spec)}")
        left = dict(tensors)
        frequencies = left.pop("frequencies")
        if frequencies.dtype != torch.int32:
            raise ValueError(f"Expected tables of int32, found {frequencies.dtype}")
        networks = []
        for number in range(CLASSES):
            prefix = f"level{number}."
            own = {name.removeprefix(prefix): left.pop(name) for name in list(left) if name.startswith(prefix)}
            networks.append(IntegerLevel.from_tensors(own))
        if left:
            raise ValueError(f"Expected no other tensors, found {', '.join(sorted(left))}")
        return cls(
            networks=tuple(networks),
            tables=Tables(frequencies.numpy().astype(np.int64)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How details become whole numbers."""

    exact: bool
    """Every unit is coded, and nothing is lost; else 64 units are a step."""

    dead_zone: float = 0.5
    """What an encoder adds to magnitudes in steps before it rounds them down."""

    price: float = 0.0
    """What an encoder pays for a bit, in squared steps; 0 spares it a pass of the networks."""

    @property
    def units(self) -> int:
        """Units of a step of the networks."""
        return 1 if self.exact else RESTORED

    def numbers(self, details: Tensor, gain: Tensor) -> Tensor:
        """Details in units to whole numbers."""
        if self.exact:
            return details
        steps = details * (gain / RESTORED)
        return (steps.abs() + self.dead_zone).floor_().mul_(steps.sign())

    def restored(self, numbers: Tensor, offsets: Tensor, gain: Tensor | float) -> Tensor:
        """Whole numbers, and offsets in 64ths, to details in units."""
        if self.exact:
            return numbers
        return numbers.mul(RESTORED).add_(offsets).div_(gain).add_(0.5).floor_().clamp_(-_LIMIT, _LIMIT)

    def sixteenths(self, numbers: Tensor, gain: Tensor) -> Tensor:
        """Whole numbers to what networks see, int32."""
        found = numbers * (gain * SIXTEENTHS) if self.exact else numbers * SIXTEENTHS
        return found.floor().clamp_(-(1 << 30), 1 << 30).to(torch.int32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coded:
    """A chunk's details as bytes, and what a decoder makes of them."""

    angles: list[NDArray[np.int16]]
    """Of the rotation of each class of levels."""

    low_scales: bytes
    """One byte for each plane: its scale, and whether its values are coded or their differences."""

    words: bytes
    """Coded numbers."""

    restored: Tensor
    """(bands, height, width) in units, float64."""

    estimated_bits: float
    """What the tables say that the words should take."""


def encode(model: DetailModel, values: Tensor, rounding: Rounding) -> Coded:
    """Code whole numbers (bands, height, width), float64, in units."""
    shapes = subbands.low_shapes(*values.shape[1:])
    low, details = subbands.analyse(values)
    angles = _worthwhile_angles(details, rounding)
    writer = Writer(model.tables)
    gain = subbands.low_gain(LEVELS - 1)
    planes = plane_rotation.to_planes(low, angles[-1])
    numbers = planes if rounding.exact else planes.mul(gain / RESTORED).add_(0.5).floor_()
    bits = 0.0
    scales = []
    for plane in numbers.to(torch.int64).numpy():
        taken, scale, choice, flat = min(_low_offers(model.tables, plane), key=lambda offer: offer[0])
        writer.write(choice, flat)
        bits += taken
        scales.append(scale)
    low = plane_rotation.to_bands(rounding.restored(numbers, torch.zeros(()), gain), angles[-1])
    for level in range(LEVELS - 1, -1, -1):
        kind, column = level_class(level), subbands.gain_column(level)
        rotated = plane_rotation.to_planes(details[level], angles[kind])
        numbers = rounding.numbers(rotated, column)
        seen = rounding.sixteenths(numbers, column)
        low_seen = _low_sixteenths(low, angles[kind], level, rounding)
        if rounding.price:
            numbers = _cheaper(model, rotated * (column / RESTORED), numbers, seen, low_seen, level, rounding)
            seen = rounding.sixteenths(numbers, column)
        offsets = torch.zeros_like(numbers)
        for batch in _batches(len(numbers)):
            known = _features(seen, low_seen, batch)
            choices = _all_choices(model.networks[kind], known, seen[batch], level, rounding)
            offsets[batch] = _offsets(model.networks[kind], known, seen[batch], rounding)
            for place, plane in enumerate(range(len(numbers))[batch]):
                for step, choice in zip(STEP_ORDER, (one[place] for one in choices), strict=True):
                    flat = step.take(numbers[plane, step.band]).to(torch.int64).reshape(-1).numpy()
                    choice = writer.write_adjusted(choice, flat)
                    bits += model.tables.bits(choice, flat)
        restored = plane_rotation.to_bands(rounding.restored(numbers, offsets, column), angles[kind])
        low = subbands.synthesise_level(low, restored, shapes[level])
    return Coded(angles=angles, low_scales=bytes(scales), words=writer.to_bytes(), restored=low, estimated_bits=bits)


def decode(
    model: DetailModel,
    words: bytes,
    low_scales: bytes,
    angles: Sequence[NDArray[np.int16]],
    shape: tuple[int, int, int],
    rounding: Rounding,
) -> tuple[Tensor, list[Tensor]]:
    """What `encode` restored, and the numbers of the low band and of the levels, the finest first.

    Raises
    ------
    PayloadError
        If the bytes are not what an encoder leaves.
    """
    bands, height, width = shape
    if max(low_scales, default=0) >= 2 * _PLAIN:
        raise PayloadError(f"A scale has a number below {2 * _PLAIN}, found {max(low_scales)}; the chunk is damaged")
    shapes = subbands.low_shapes(height, width)
    last = subbands.details_shape(height, width, LEVELS - 1)
    reader = Reader(model.tables, words)
    planes = []
    for scale in low_scales:
        coded = reader.read(_low_choice(scale % _PLAIN, last[0] * last[1])).reshape(last)
        values = coded if scale >= _PLAIN else _undo_differences(coded)
        planes.append(torch.from_numpy(values).double().clamp_(-_LIMIT, _LIMIT))
    numbers = torch.stack(planes)
    found = [numbers]
    low = plane_rotation.to_bands(
        rounding.restored(numbers, torch.zeros(()), subbands.low_gain(LEVELS - 1)), angles[-1]
    )
    for level in range(LEVELS - 1, -1, -1):
        kind, column = level_class(level), subbands.gain_column(level)
        rows, columns = subbands.details_shape(height, width, level)
        numbers = torch.zeros(bands, DETAILS, rows, columns, dtype=torch.float64)
        seen = torch.zeros(numbers.shape, dtype=torch.int32)
        low_seen = _low_sixteenths(low, angles[kind], level, rounding)
        offsets = torch.zeros_like(numbers)
        network = model.networks[kind]
        for plane in range(bands):
            own = slice(plane, plane + 1)
            known = _features(seen, low_seen, own)
            trunk = network.trunk(known)
            details = torch.zeros(1, DETAILS, rows, columns)
            for number, step in enumerate(STEP_ORDER):
                outputs = network.head(number, trunk, details)[0]
                choice = choose(outputs.numpy(), *_units(level, step.band, rounding))
                decoded, _ = reader.read_adjusted(choice)
                place = step.take(numbers[plane, step.band])
                place.copy_(torch.from_numpy(decoded).double().reshape(place.shape))
                step.take(seen[plane, step.band]).copy_(rounding.sixteenths(place, column[step.band]))
                step.take(details[0, step.band]).copy_(companded(step.take(seen[plane, step.band])))
            offsets[own] = _offsets(network, known, seen[own], rounding)
        found.insert(0, numbers)
        restored = plane_rotation.to_bands(rounding.restored(numbers, offsets, column), angles[kind])
        low = subbands.synthesise_level(low, restored, shapes[level])
    reader.finish()
    return low, found


def _worthwhile_angles(details: Sequence[Tensor], rounding: Rounding) -> list[NDArray[np.int16]]:
    """Angles of each class of levels: as fine as it pays.

    Details of variance v in steps are taken to cost log2(1 + 12 v) / 2 bits each: nothing where all are rounded to 0, 1
    bit more for each octave where steps are fine.
    """
    offers = [subbands.spectral_angles(details), subbands.spectral_angles(details, plane_rotation.COARSE)]
    offers.append([np.zeros_like(angles) for angles in offers[0]])
    moments = [_moments(details, kind, rounding) for kind in range(CLASSES)]
    found: list[NDArray[np.int16]] = []
    for kind, expected in enumerate(moments):
        before = found[-1] if found else None
        own = [offer[kind] for offer in offers] + found[-1:]
        bits = [_detail_bits(expected, angles) + transform_section.angle_bits(angles, before) for angles in own]
        found.append(own[int(np.argmin(bits))])
    return found


def _moments(details: Sequence[Tensor], kind: int, rounding: Rounding) -> list[tuple[int, NDArray[np.float64]]]:
    """Of each level and band of details of a class, their number and second moments (bands, bands) in steps."""
    found = []
    for level, values in enumerate(details):
        for band, gain in enumerate(subbands.gains(level)) if level_class(level) == kind else ():
            flat = values[:, band].flatten(1).numpy() * (1.0 if rounding.exact else gain / RESTORED)
            found.append((flat.shape[1], flat @ flat.T / flat.shape[1]))
    return found


def _detail_bits(moments: list[tuple[int, NDArray[np.float64]]], angles: NDArray[np.int16]) -> float:
    """What details of these moments are taken to cost, rotated by such angles."""
    turn = plane_rotation.matrix(len(moments[0][1]), angles)
    variances = [(count, np.einsum("ij,jk,ik->i", turn, each, turn).clip(min=0)) for count, each in moments]
    return sum(count / 2 * float(np.log2(1 + 12 * each).sum()) for count, each in variances)


def _low_sixteenths(low: Tensor, angles: NDArray[np.int16], level: int, rounding: Rounding) -> Tensor:
    """Low band of a level as networks see it: planes (planes, rows, columns), int32."""
    planes = plane_rotation.to_planes(low, angles)
    planes = planes.mul_(subbands.low_gain(level) * SIXTEENTHS / rounding.units).floor_()
    return planes.clamp_(-(1 << 30), 1 << 30).to(torch.int32)


def _features(seen: Tensor, low: Tensor, batch: slice) -> Tensor:
    planes = range(len(seen))[batch]
    before = seen.new_zeros(len(planes), PLANES_BEFORE * DETAILS, *seen.shape[2:])
    for row, plane in enumerate(planes):
        for distance in range(1, min(plane, PLANES_BEFORE) + 1):
            before[row, (distance - 1) * DETAILS : distance * DETAILS] = seen[plane - distance]
    return features(low[batch], before, torch.tensor(list(planes)))


def _all_choices(
    network: IntegerLevel, known: Tensor, seen: Tensor, level: int, rounding: Rounding
) -> list[list[Choice]]:
    """Tables of each step and plane, from features and details that are all known."""
    trunk = network.trunk(known)
    details = companded(seen)
    return [
        [choose(one.numpy(), *_units(level, step.band, rounding)) for one in network.head(number, trunk, details)]
        for number, step in enumerate(STEP_ORDER)
    ]


def _cheaper(
    model: DetailModel, steps: Tensor, numbers: Tensor, seen: Tensor, low: Tensor, level: int, rounding: Rounding
) -> Tensor:
    """Numbers for details in steps that take less of squared error and price of bits together.

    Each is weighed against the next one towards 0, under the tables that the numbers at hand give: that these change
    with the numbers is neglected.
    """
    found = numbers.clone()
    network = model.networks[level_class(level)]
    for batch in _batches(len(numbers)):
        choices = _all_choices(network, _features(seen, low, batch), seen[batch], level, rounding)
        for place, plane in enumerate(range(len(numbers))[batch]):
            for step, choice in zip(STEP_ORDER, (one[place] for one in choices), strict=True):
                wanted = step.take(steps[plane, step.band])
                values = wanted.reshape(-1).numpy()
                signs = np.sign(values).astype(np.int64)
                nearest = np.floor(np.abs(values) + 0.5).astype(np.int64)
                offers = [nearest * signs, np.maximum(nearest - 1, 0) * signs]
                costs = [
                    (values - offer) ** 2 + rounding.price * model.tables.each_bits(choice, offer) for offer in offers
                ]
                best = np.where(costs[1] < costs[0], offers[1], offers[0])
                step.take(found[plane, step.band]).copy_(torch.from_numpy(best).double().reshape(wanted.shape))
    return found


def _units(level: int, band: int, rounding: Rounding) -> tuple[int, float]:
    """How much larger than a network's step the unit of coded numbers is: in quarters of octaves, and as a factor."""
    gain = subbands.gains(level)[band] if rounding.exact else 1.0
    return round(PER_OCTAVE * math.log2(gain)), gain


def _offsets(network: IntegerLevel, known: Tensor, seen: Tensor, rounding: Rounding) -> Tensor:
    """Where numbers (planes, 3, rows, columns) are restored beside themselves, in 64ths of a step, float64."""
    if rounding.exact:
        return torch.zeros(())
    return network.restored(known, companded(seen)).double()


def _batches(planes: int) -> list[slice]:
    """Planes that go through a network together."""
    return [slice(first, first + _PLANES_AT_ONCE) for first in range(0, planes, _PLANES_AT_ONCE)]


# --- the low band ---------------------------------------------------------------------------------------------------


_PLAIN = LARGEST_INDEX + 1
"""Added to the scale's index of a plane whose values are coded, not their differences: neighbours are often unlike."""


def _low_offers(tables: Tables, plane: Numbers) -> list[tuple[float, int, Choice, Numbers]]:
    """Bits, scale, tables and numbers (n,) of the ways to code a plane (rows, columns)."""
    offers = []
    for kind, values in ((0, _differences(plane)), (_PLAIN, plane)):
        flat = values.reshape(-1)
        scale = _best_scale(tables, flat)
        choice = _low_choice(scale, flat.size)
        offers.append((tables.bits(choice, flat), kind + scale, choice, flat))
    return offers


def _differences(plane: Numbers) -> Numbers:
    """Each value less its left neighbour; the first of a row, less the one above."""
    found = plane.copy()
    found[:, 1:] -= plane[:, :-1]
    found[1:, 0] -= plane[:-1, 0]
    return found


def _undo_differences(differences: Numbers) -> Numbers:
    first = differences[:, :1].cumsum(axis=0)
    return np.asarray(first + np.concatenate([np.zeros_like(first), differences[:, 1:]], axis=1).cumsum(axis=1))


def _low_choice(scale: int, count: int) -> Choice:
    """Tables around 0 of one scale."""
    return choose_from(scale=np.full(count, scale, np.int64), shape=2, sixteenths=0)


def _best_scale(tables: Tables, differences: Numbers) -> int:
    """The scale under which these take the fewest bits."""
    scales = range(0, LARGEST_INDEX + 1, 2)
    return min(scales, key=lambda scale: tables.bits(_low_choice(scale, differences.size), differences))
