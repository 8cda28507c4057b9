"""Integer codes ⇄ bytes, without loss.

`PackedBits` gives every code ceil(log2 states) bits: the length of a chunk's codes is known before it is coded.
`StaticTables` gives each code unit a table of integer frequencies, learned once, and codes with asymmetric numeral
systems (Duda 2013), as implemented by constriction (Bamler 2022), whose output is stable across versions and machines.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, Self, cast

import constriction
import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError

Codes = NDArray[np.int32]
"""(units, cells), unit u in 0 ... states[u] - 1."""

TABLE_BITS = 20
"""Frequencies of a table sum to 2^20: exact in float64, and below constriction's own precision of 24 bits."""

_TAIL_SHARE = 1 / 128
"""Share of a table's mass that goes to states by their distance instead of by their count."""


class CodePrior(Protocol):
    """What codes are expected to be, and how they become bytes."""

    kind: str
    """Name of the kind in model files."""

    @property
    def states(self) -> tuple[int, ...]:
        """Number of states of every code unit."""

    def encode(self, codes: Codes) -> bytes:
        """Codes (units, cells) to bytes."""

    def decode(self, data: bytes, cells: int) -> Codes:
        """Bytes to codes (units, cells); `PayloadError` if they cannot be the bytes of that many cells."""

    def to_arrays(self) -> dict[str, NDArray[np.int64]]:
        """Every number that the prior needs, by name, for a model file."""


class PackedBits:
    """Codes of fixed length: ceil(log2 states) bits for each unit of each cell, units outermost."""

    kind = "packed"

    def __init__(self, states: Sequence[int]) -> None:
        self.states = tuple(int(s) for s in states)
        self._bits = np.array([max(s - 1, 0).bit_length() for s in self.states], dtype=np.int64)

    @property
    def bits_per_cell(self) -> int:
        """Length of one cell's code in bits."""
        return int(self._bits.sum())

    def encode(self, codes: Codes) -> bytes:
        """Codes (units, cells), each below its unit's number of states, to ceil(bits_per_cell * cells / 8) bytes."""
        # One row per bit plane: unit 0's most significant first.
        planes = [
            ((row >> shift) & 1).astype(np.uint8)
            for row, bits in zip(codes, self._bits, strict=True)
            for shift in range(int(bits) - 1, -1, -1)
        ]
        return np.packbits(np.concatenate(planes)).tobytes() if planes else b""

    def decode(self, data: bytes, cells: int) -> Codes:
        """Bytes to codes (units, cells)."""
        expected = -(-self.bits_per_cell * cells // 8)
        if len(data) != expected:
            raise PayloadError(
                f"Packed codes of {cells} cells take {expected} bytes, found {len(data)}; the chunk is damaged, or was "
                "written with another model"
            )
        planes = np.unpackbits(np.frombuffer(data, np.uint8), count=self.bits_per_cell * cells).reshape(-1, cells)
        codes = np.zeros((len(self.states), cells), dtype=np.int32)
        first = 0
        for unit, bits in enumerate(self._bits):
            for plane in planes[first : first + int(bits)]:
                codes[unit] = (codes[unit] << 1) | plane
            first += int(bits)
        beyond = codes.max(axis=1, initial=0) >= np.array(self.states)
        if beyond.any():
            unit = int(np.argmax(beyond))
            raise PayloadError(
                f"Code unit {unit} has {self.states[unit]} states, found state {codes[unit].max()}; the chunk is "
                "damaged, or was written with another model"
            )
        return codes

    def to_arrays(self) -> dict[str, NDArray[np.int64]]:
        """Number of states of each unit."""
        return {"states": np.array(self.states, dtype=np.int64)}


class StaticTables:
    """One table of integer frequencies for each unit, the same for every cell of every chunk."""

    kind = "tables"

    def __init__(self, frequencies: Sequence[NDArray[np.int64]]) -> None:
        """Take for each unit the frequencies of its states: each at least 1, together 2^20.

        Raises
        ------
        ValueError
            If they are not.
        """
        self._frequencies = [np.ascontiguousarray(f, dtype=np.int64) for f in frequencies]
        for unit, f in enumerate(self._frequencies):
            if f.ndim != 1 or f.size < 1 or int(f.min()) < 1 or int(f.sum()) != 1 << TABLE_BITS:
                smallest = f.min() if f.size else "none"
                raise ValueError(
                    f"Table of code unit {unit}: expected frequencies of at least 1 that sum to {1 << TABLE_BITS}, "
                    f"found shape {f.shape} that sums to {f.sum()}, the smallest {smallest}"
                )
        self.states = tuple(len(f) for f in self._frequencies)

    @classmethod
    def learn(cls, codes: Codes, states: Sequence[int]) -> Self:
        """Tables for codes like these (units, cells).

        A state's mass is its share of the codes, mixed with a two-sided geometric tail around the median, so that
        states which no cell took stay possible and cost more the farther away they lie.
        """
        return cls([_learn_table(row, count) for row, count in zip(codes, states, strict=True)])

    @cached_property
    def _models(self) -> list[object]:
        # A unit of one state carries no information, and constriction asks for two.
        total = float(1 << TABLE_BITS)
        return [
            constriction.stream.model.Categorical(f / total, perfect=False) if len(f) > 1 else None
            for f in self._frequencies
        ]

    def __getstate__(self) -> dict[str, object]:
        # constriction's models do not pickle; they are made again from the frequencies.
        return {name: value for name, value in self.__dict__.items() if name != "_models"}

    def encode(self, codes: Codes) -> bytes:
        """Codes (units, cells) to bytes."""
        coder = constriction.stream.stack.AnsCoder()
        for row, model in zip(codes[::-1], reversed(self._models), strict=True):
            if model is not None:
                coder.encode_reverse(np.ascontiguousarray(row), model)
        words: NDArray[np.uint32] = coder.get_compressed()
        return words.astype("<u4").tobytes()

    def decode(self, data: bytes, cells: int) -> Codes:
        """Bytes to codes (units, cells)."""
        if len(data) % 4:
            raise PayloadError(
                f"Entropy-coded codes come in words of 4 bytes, found {len(data)} bytes; the chunk is damaged"
            )
        try:
            coder = constriction.stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
        except ValueError as error:
            raise PayloadError(
                f"The {len(data)} bytes of the code section are not what an encoder leaves; the chunk is damaged"
            ) from error
        codes = np.zeros((len(self.states), cells), dtype=np.int32)
        for row, model in zip(codes, self._models, strict=True):
            if model is not None:
                row[:] = coder.decode(model, cells)
        if not coder.is_empty():
            raise PayloadError(
                f"The code section holds more than the codes of {cells} cells; the chunk is damaged, or was "
                "written with another model"
            )
        return codes

    def bits(self, codes: Codes) -> float:
        """Bits that these codes (units, cells) carry under the tables, before any rounding to bytes."""
        total = 0.0
        for row, f in zip(codes, self._frequencies, strict=True):
            total += float((TABLE_BITS - np.log2(f[row])).sum())
        return total

    def to_arrays(self) -> dict[str, NDArray[np.int64]]:
        """Number of states of each unit, and all frequencies, unit after unit."""
        return {"states": np.array(self.states, dtype=np.int64), "frequencies": np.concatenate(self._frequencies)}


def _learn_table(row: NDArray[np.int32], states: int) -> NDArray[np.int64]:
    centre = float(np.median(row))
    # Twice the mean distance: the tail is for what is farther out than the codes at hand.
    decay = 2.0 * float(np.abs(row - centre).mean()) + 0.5
    tail = np.exp(-np.abs(np.arange(states) - centre) / decay)
    mass = (1 - _TAIL_SHARE) * np.bincount(row, minlength=states) / len(row) + _TAIL_SHARE * tail / tail.sum()
    spare = (1 << TABLE_BITS) - states
    frequencies = 1 + np.floor(mass * spare).astype(np.int64)
    frequencies[np.argmax(frequencies)] += (1 << TABLE_BITS) - int(frequencies.sum())
    return cast("NDArray[np.int64]", frequencies)


def from_arrays(kind: str, arrays: dict[str, NDArray[np.int64]]) -> CodePrior:
    """Inverse of `CodePrior.to_arrays`.

    Raises
    ------
    ValueError
        If the kind is unknown, or the arrays are not that kind's.
    """
    names = {"packed": {"states"}, "tables": {"states", "frequencies"}}
    if kind not in names:
        raise ValueError(f"Unknown code prior {kind!r}; known are {', '.join(names)}")
    if set(arrays) != names[kind]:
        raise ValueError(f"Code prior {kind!r}: expected arrays {sorted(names[kind])}, found {sorted(arrays)}")
    states = arrays["states"]
    if states.ndim != 1 or len(states) < 1 or int(states.min()) < 1 or int(states.max()) > 1 << 16:
        found = f"{states.min()} to {states.max()}" if states.size else "none"
        raise ValueError(f"Code prior: expected 1 to 65536 states for every unit, found {found}, shape {states.shape}")
    if kind == "packed":
        return PackedBits(states.tolist())
    frequencies = arrays["frequencies"]
    if frequencies.shape != (int(states.sum()),):
        raise ValueError(f"Code prior: expected {states.sum()} frequencies, found shape {frequencies.shape}")
    return StaticTables(np.split(frequencies, np.cumsum(states)[:-1]))
