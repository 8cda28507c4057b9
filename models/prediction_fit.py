"""How the pixels of a chunk are best predicted from each other: what an encoder stores before it codes them.

Nothing here has to be repeated by a decoder, so that it may be computed in any way.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonium.models.pixel_coding import (
    ACTIVITY_BITS,
    FACTOR_BITS,
    SIXTEENTHS,
    block_starts,
    contexts,
    whole_factors,
)
from harmonium.models.predicted_section import (
    GRADIENTS,
    OWN,
    SCALE_SHIFTS,
    SHIFT_BELOW,
    BandModel,
    error_places,
    value_places,
)
from harmonium.models.scale_tables import LARGEST_INDEX, SHAPES
from harmonium.models.symbol_coding import Tables, choose_from
from harmonium.models.value_weights import most_values
from harmonium.models.wavefront import Place

Whole = NDArray[np.int64]
Real = NDArray[np.float64]

_MOST_PIXELS = 1 << 16
"""Of a band, that factors are fitted to."""

_MOST_IN_CONTEXT = 1500
"""Pixels of a context that its table is chosen by."""

_ENOUGH = 20
"""Pixels of a context that has a table of its own: others take that of their neighbour."""

_TIMES = 3
"""Least squares that follow each other, with weights that make them least magnitudes."""

_RIDGE = 1e-3
_HALF_WIDTH = 3.0
"""In mean errors."""

_BITS_OF_A_VALUE, _BITS_OF_A_PIXEL = 12.0, 0.3
"""About what learning of each value costs, and what counts that mean nothing cost each pixel."""

_LARGEST_REPEAT = 255
_INT16 = np.iinfo(np.int16)


def fit(
    tables: Tables, levels: Whole, coded: NDArray[np.bool_], lowest: Sequence[int], steps: Sequence[int]
) -> list[BandModel]:
    """Models of all bands.

    Parameters
    ----------
    levels
        (bands, height, width), from 0 on; plausible ones where none are coded.
    coded
        Of the same shape: where pixels carry data.
    lowest, steps
        Value of level 0 and distance of levels of each band, in DN.
    """
    errors: list[Real] = []
    return [
        _fit_band(tables, levels[: band + 1], coded[band], errors, lowest[band], steps[band])
        for band in range(len(levels))
    ]


def _fit_band(
    tables: Tables, levels: Whole, coded: NDArray[np.bool_], errors: list[Real], lowest: int, step: int
) -> BandModel:
    """Model of the last of these bands; `errors` are those of the bands before, and get its own."""
    own = levels[-1]
    height, width = own.shape
    largest = int(own[coded].max()) if coded.any() else 0
    if not largest:
        errors.append(np.zeros(own.shape))
        return BandModel(
            lowest=lowest,
            largest=0,
            step=step,
            repeat=(1, 1, 0, 0),
            half_width=0,
            factors=np.zeros(0, np.int16),
            activity=np.zeros(0, np.int16),
            first=0,
            tables=bytes(1),
        )
    down, missing_down = _repeats(own, 0) if coded.all() else (1, 0)
    right, missing_right = _repeats(own, 1) if coded.all() else (1, 0)
    rows, columns = block_starts(down, missing_down, height), block_starts(right, missing_right, width)
    wanted = coded & (rows == np.arange(height))[:, None] & (columns == np.arange(width))
    band = len(levels) - 1
    places = value_places(band + 1)
    # Differences to what is on the left, in the pixel's band and in those before.
    references = [places.index((place[0], 0, -1)) for place in places]
    kept = [number for number, reference in enumerate(references) if number != reference]
    picked = _picked(wanted)
    around = _around(levels.astype(np.float64), places, picked)
    differences = around[kept] - around[[references[number] for number in kept]]
    factors = _whole(_least_magnitudes(differences, own[picked] - around[0]), FACTOR_BITS)

    centre = _predicted(levels, whole_factors(factors, band + 1)[: len(places)], places)
    centre = np.clip((centre + (1 << (FACTOR_BITS - 5))) >> (FACTOR_BITS - 4), 0, SIXTEENTHS * largest)
    error = np.abs(SIXTEENTHS * own - centre)
    errors.append(error.astype(np.float64))
    gradients = np.abs(_around(levels[-1:].astype(np.float64), OWN[: 1 + GRADIENTS]))
    seen = np.concatenate(
        [
            np.full((1, *own.shape), float(SIXTEENTHS)),
            np.abs(gradients[1:] - gradients[:1]) * SIXTEENTHS,
            _around(np.stack(errors), error_places(band + 1)),
        ]
    )
    mean = float(error[wanted].mean()) + 1
    activity = _whole(_relative_least_squares(seen[:, *picked], error[picked], mean), ACTIVITY_BITS)
    context = contexts((seen.astype(np.int64) * activity.astype(np.int64)[:, None, None]).sum(0) >> ACTIVITY_BITS)
    first, packed = _tables_of(tables, context[wanted], centre[wanted], own[wanted])
    half_width = max(1, round(_HALF_WIDTH * mean / SIXTEENTHS))
    worth = max(largest, half_width) < most_values(width) and _spared(own[wanted], half_width) > 0
    return BandModel(
        lowest=lowest,
        largest=largest,
        step=step,
        repeat=(down, right, missing_down, missing_right),
        half_width=half_width if worth else 0,
        factors=factors,
        activity=activity,
        first=first,
        tables=packed,
    )


def _picked(wanted: NDArray[np.bool_]) -> tuple[Whole, Whole]:
    """Rows and columns of pixels to fit to."""
    places = np.flatnonzero(wanted)
    every = -(-len(places) // _MOST_PIXELS)
    if every > 1:  # not those of a column
        places = np.random.default_rng(0).choice(places, _MOST_PIXELS, replace=False)
    rows, columns = np.divmod(places, wanted.shape[1])
    return rows, columns


def _around(planes: NDArray[Any], places: Sequence[Place], picked: tuple[Whole, Whole] | None = None) -> NDArray[Any]:
    """What stands beside pixels of the last plane, (places, ...), all or those picked; beyond edges, their pixels."""
    height, width = planes.shape[1:]
    rows, columns = (np.arange(height)[:, None], np.arange(width)) if picked is None else picked
    return np.stack(
        [
            planes[-1 - before][np.clip(rows + down, 0, height - 1), np.clip(columns + right, 0, width - 1)]
            for before, down, right in places
        ]
    )


def _predicted(levels: Whole, factors: Whole, places: Sequence[Place]) -> Whole:
    found = np.zeros(levels.shape[1:], np.int64)
    for place, factor in zip(places, factors.tolist(), strict=True):
        if factor:
            found += factor * _around(levels, [place])[0]
    return found


def _least_magnitudes(seen: Real, wanted: Real) -> Real:
    """Factors (places,) of what is seen (places, n) for what is wanted (n,)."""
    weights = np.ones(len(wanted))
    found = np.zeros(len(seen))
    for _ in range(_TIMES):
        weighted = seen * weights
        ridge = (_RIDGE * np.trace(weighted @ seen.T) / len(seen) * 1e-3 + 1e-9) * np.eye(len(seen))
        found = np.linalg.solve(weighted @ seen.T + ridge, weighted @ wanted)
        wrong = np.abs(wanted - found @ seen)
        weights = 1 / (wrong + 0.5 * wrong.mean() + 1e-6)
    return found


def _relative_least_squares(seen: Real, wanted: NDArray[np.generic], mean: float) -> Real:
    weights = 1 / (seen[1 + GRADIENTS :][:6].mean(0) + 0.2 * mean) ** 2
    weighted = seen * weights
    ridge = (1e-6 * np.trace(weighted @ seen.T) / len(seen) + 1e-9) * np.eye(len(seen))
    return np.asarray(np.linalg.solve(weighted @ seen.T + ridge, weighted @ wanted))


def _whole(factors: Real, bits: int) -> NDArray[np.int16]:
    whole = np.clip(np.rint(np.nan_to_num(factors) * 2**bits), _INT16.min, _INT16.max)
    return np.asarray(whole, np.int16)


def _tables_of(tables: Tables, context: Whole, centre: Whole, levels: Whole) -> tuple[int, bytes]:
    """First context that occurs often, and the best table of each up to the last: shift of its scale, and shape."""
    counts = np.bincount(context)
    often = np.flatnonzero(counts >= min(_ENOUGH, int(counts.max())))
    first, last = int(often[0]), int(often[-1])
    order = np.argsort(context, kind="stable")
    ends = np.searchsorted(context[order], np.arange(first, last + 2))
    found = []
    best = (-2, 1)
    for number in range(first, last + 1):
        places = order[ends[number - first] : ends[number - first + 1]]
        places = places[:: max(len(places) // _MOST_IN_CONTEXT, 1)]
        if len(places) >= min(_ENOUGH, len(context)):
            best = _best_table(tables, number, centre[places], levels[places], best)
        found.append((best[0] + SHIFT_BELOW) * len(SHAPES) + best[1])
    return first, bytes(found)


def _best_table(tables: Tables, context: int, centre: Whole, levels: Whole, guess: tuple[int, int]) -> tuple[int, int]:
    def bits(offer: tuple[int, int]) -> float:
        scale = min(max(context + offer[0], 0), LARGEST_INDEX)
        choice = choose_from(scale=np.full(len(levels), scale, np.int64), shape=offer[1], sixteenths=centre)
        return tables.bits(choice, levels)

    shifts = range(-SHIFT_BELOW, SCALE_SHIFTS - SHIFT_BELOW)
    near = [shift for shift in shifts if abs(shift - guess[0]) <= 3]
    shift = min(near, key=lambda shift: bits((shift, guess[1])))
    if shift in (near[0], near[-1]):
        shift = min(shifts, key=lambda shift: bits((shift, guess[1])))
    shape = min(range(len(SHAPES)), key=lambda shape: bits((shift, shape)))
    offers = [(other, shape) for other in shifts if abs(other - shift) <= 1]
    return min(offers, key=bits)


def _spared(values: Whole, half_width: int) -> float:
    """About how many bits weights of these values (n,) would spare."""
    counts = np.bincount(values).astype(np.float64)
    sums = np.concatenate([[0.0], counts.cumsum()])
    places = np.arange(len(counts))
    high, low = np.minimum(places + half_width + 1, len(counts)), np.maximum(places - half_width, 0)
    near = (sums[high] - sums[low]) / (2 * half_width + 1)
    occurring = counts > 0
    gained = counts[occurring] @ np.log2(counts[occurring] / near[occurring])
    return float(gained - _BITS_OF_A_VALUE * np.count_nonzero(occurring) - _BITS_OF_A_PIXEL * len(values))


def _repeats(levels: Whole, axis: int) -> tuple[int, int]:
    """Length of blocks of equal rows (axis 0) or columns, and how many are missing of the first; 1 and 0 of none."""
    changes = np.flatnonzero((np.diff(levels, axis=axis) != 0).any(axis=1 - axis)) + 1
    if not len(changes):
        return 1, 0
    length = int(np.gcd.reduce(changes - changes[0])) if len(changes) > 1 else 0
    if not 1 < length <= _LARGEST_REPEAT or len(changes) < 2:
        return 1, 0
    return length, int(-changes[0] % length)
