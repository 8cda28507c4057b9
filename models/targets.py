"""What a chunk is promised: a step, a PSNR, a ratio, a largest error, or every bit.

A codec that takes targets says so (`ChunkCodec.targets`). In JSON a target is an object of one key:

    {"step": 12.5}   {"psnr": [45, 48]}   {"ratio": 20}   {"max_error": 1}   {"lossless": true}

A list has one value for each band.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PerBand = float | tuple[float, ...]
"""One value for all bands, or one for each."""

_EACH = ", or a list of such numbers, one for each band"


@dataclass(frozen=True, slots=True)
class Step:
    """A quantiser step; what rate and error that gives is not promised."""

    step: PerBand
    """In DN, above 0; for all bands, or for each."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", _values("A step", self.step, f"above 0{_EACH}", lambda value: value > 0))

    def check(self, bands: int) -> None:
        """Raise ValueError if there is a value for each band, of another number of bands."""
        _check_bands("step", self.step, bands)


@dataclass(frozen=True, slots=True)
class Psnr:
    """A least PSNR against the radiometry's peak."""

    decibels: PerBand
    """In dB, above 0. One value is for the error of all bands together, a tuple for that of each band."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "decibels", _values("A PSNR", self.decibels, f"above 0 dB{_EACH}", lambda value: value > 0)
        )

    def check(self, bands: int) -> None:
        """Raise ValueError if there is a value for each band, of another number of bands."""
        _check_bands("PSNR", self.decibels, bands)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Bytes of the native pixels for each byte of payload."""

    ratio: float
    """Above 1."""

    def __post_init__(self) -> None:
        alone = () if isinstance(self.ratio, tuple | list) else self.ratio
        object.__setattr__(self, "ratio", _values("A ratio", alone, "one number above 1", lambda value: value > 1))

    def check(self, bands: int) -> None:
        """Nothing: a ratio is of all bands together."""


@dataclass(frozen=True, slots=True)
class MaxError:
    """A largest absolute error that no pixel exceeds."""

    dn: PerBand
    """In DN, 0 or more; for all bands, or for each."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "dn", _values("A largest error", self.dn, f"0 or more{_EACH}", lambda value: value >= 0)
        )

    def check(self, bands: int) -> None:
        """Raise ValueError if there is a value for each band, of another number of bands."""
        _check_bands("largest error", self.dn, bands)


@dataclass(frozen=True, slots=True)
class Lossless:
    """Every pixel comes back exactly."""

    def check(self, bands: int) -> None:
        """Nothing: it holds for all bands."""


Target = Step | Psnr | Ratio | MaxError | Lossless
"""What a chunk may be promised."""

_KEYS: dict[str, Callable[[Any], Target]] = {"step": Step, "psnr": Psnr, "ratio": Ratio, "max_error": MaxError}
"""Keys of the JSON whose values are numbers."""


def to_json(target: Target) -> dict[str, Any]:
    """The target as a JSON object of one key; equal targets give equal objects."""
    match target:
        case Lossless():
            return {"lossless": True}
        case Step(value):
            key = "step"
        case Psnr(value):
            key = "psnr"
        case Ratio(value):
            key = "ratio"
        case MaxError(value):
            key = "max_error"
    return {key: list(value) if isinstance(value, tuple) else value}


def from_json(data: object) -> Target:
    """The target of a JSON object.

    Raises
    ------
    ValueError
        If it is not what `to_json` gives.
    """
    if isinstance(data, dict) and len(data) == 1:
        ((key, value),) = data.items()
        if key == "lossless" and value is True:
            return Lossless()
        if key in _KEYS:
            return _KEYS[key](tuple(value) if isinstance(value, list) else value)
    raise ValueError(
        f"A target is {{KEY: value}} with one of {', '.join(_KEYS)} or {{'lossless': true}}, found {data!r}"
    )


def text(target: Target) -> str:
    """The target in words, for people."""
    match target:
        case Lossless():
            return "lossless"
        case Step(value):
            return f"step {_text(value)}"
        case Psnr(value):
            return f"PSNR {_text(value)} dB"
        case Ratio(value):
            return f"ratio {_text(value)}"
        case MaxError(value):
            return f"largest error {_text(value)}"


def _values(what: str, given: object, expected: str, fits: Callable[[float], bool]) -> Any:
    """Numbers as float, or ValueError."""
    values = given if isinstance(given, tuple | list) else (given,)
    try:
        numbers = tuple(float(value) for value in values if not isinstance(value, bool | str | bytes))
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if not numbers or len(numbers) != len(values) or not all(math.isfinite(n) and fits(n) for n in numbers):
        raise ValueError(f"{what} is {expected}; found {given!r}")
    return numbers if isinstance(given, tuple | list) else numbers[0]


def _check_bands(what: str, values: PerBand, bands: int) -> None:
    if isinstance(values, tuple) and len(values) != bands:
        raise ValueError(
            f"A {what} for each band needs {bands} values, found {len(values)}: {values}; give as many as there are "
            "bands, or one for all"
        )


def _text(values: PerBand) -> str:
    return ", ".join(f"{value:g}" for value in (values if isinstance(values, tuple) else (values,)))
