"""Whole numbers in as few bytes as they need, and bytes read one field after the other without reading beyond them.

A number from 0 on is written seven bits to a byte, the least significant first; all bytes but the last have their
highest bit set (LEB128). Numbers of either sign are folded: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError

_MOST_BYTES = 9
"""Of a number: 63 bits."""


def packed(numbers: Sequence[int]) -> bytes:
    """Numbers from 0 to 2^63 - 1."""
    found = bytearray()
    for number in numbers:
        rest = int(number)
        while rest > 0x7F:
            found.append(rest & 0x7F | 0x80)
            rest >>= 7
        found.append(rest)
    return bytes(found)


def folded(numbers: Sequence[int]) -> list[int]:
    """Numbers of either sign to numbers from 0 on."""
    return [2 * number if number >= 0 else -2 * number - 1 for number in map(int, numbers)]


def unfolded(numbers: Sequence[int]) -> list[int]:
    """Inverse of `folded`."""
    return [number // 2 if number % 2 == 0 else -(number + 1) // 2 for number in numbers]


@dataclass(slots=True)
class Fields:
    """Fields of a section, taken from its start on; whatever is not there is refused.

    Raises
    ------
    PayloadError
        By every method, if the bytes end before the field does, or it is not as `packed` writes it.
    """

    data: bytes
    """The section."""

    what: str
    """What it is called in errors."""

    place: int = 0
    """Where the next field begins."""

    def take(self, length: int) -> bytes:
        """The next bytes, so many."""
        end = self.place + length
        if end > len(self.data):
            raise PayloadError(
                f"The {self.what} has {len(self.data)} bytes, but its fields need {end} at least; the chunk is "
                "truncated or damaged"
            )
        found = self.data[self.place : end]
        self.place = end
        return found

    def byte(self) -> int:
        """A byte as a number."""
        return self.take(1)[0]

    def array(self, form: str, count: int) -> NDArray[Any]:
        """Numbers of a numpy type, (count,)."""
        return np.frombuffer(self.take(np.dtype(form).itemsize * count), form)

    def varint(self) -> int:
        """A number of `packed`."""
        found = 0
        for place in range(_MOST_BYTES):
            each = self.byte()
            found |= (each & 0x7F) << 7 * place
            if each < 0x80:
                if place and not each:
                    break
                return found
        raise PayloadError(f"The {self.what} holds a number of too many bytes; the chunk is damaged")

    def varints(self, count: int) -> list[int]:
        """So many numbers."""
        return [self.varint() for _ in range(count)]

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self.data) - self.place)
