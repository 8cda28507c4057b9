"""What the options of `harmonium compress` ask for."""

from harmonium.errors import UsageError
from harmonium.models.targets import Lossless, MaxError, PerBand, Psnr, Ratio, Step, Target


def target_of(
    *,
    psnr: str | None = None,
    ratio: float | None = None,
    max_error: str | None = None,
    lossless: bool = False,
    step: str | None = None,
) -> Target | None:
    """The target that the options name; None if they name none.

    Raises
    ------
    UsageError
        If they name several, or a value is none or out of its range.
    """
    given = {
        "--psnr": psnr,
        "--ratio": ratio,
        "--max-error": max_error,
        "--lossless": lossless or None,
        "--step": step,
    }
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"One promise at a time: expected one of {', '.join(given)}; found {' and '.join(named)}")
    try:
        if psnr is not None:
            return Psnr(_numbers(psnr))
        if ratio is not None:
            return Ratio(ratio)
        if max_error is not None:
            return MaxError(_numbers(max_error))
        if step is not None:
            return Step(_numbers(step))
    except ValueError as error:
        raise UsageError(f"{named[0]}: {error}") from error
    return Lossless() if lossless else None


def _numbers(text: str) -> PerBand:
    """One number, or several between commas."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"expected a number, or numbers between commas; found {text!r}") from error
    return numbers if len(numbers) > 1 else numbers[0]
