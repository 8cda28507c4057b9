"""Distances between the codes of cells, and the nearest cells to a code: what can be asked without decoding pixels.

Codes are arrays (units, rows, columns) of integers, as `ArchivedGroup.codes` and `Codec.codes` give them, and may be
compared wherever the same model made them, in one scene or in several. Cells that carry no data have zeros for a code;
`nearest` leaves them out when it is told where they are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Distance = Callable[[ArrayLike, ArrayLike], NDArray[np.int64]]
"""(codes (units, rows, columns), query (units,)) to distances (rows, columns)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nearest:
    """Cells in the order of their distance."""

    rows: NDArray[np.int64]
    """Row of each cell in the grid, (count,)."""

    columns: NDArray[np.int64]
    """Column of each cell in the grid, (count,)."""

    distances: NDArray[np.int64]
    """Distance of each cell's code from the query, (count,), not falling."""


def hamming(codes: ArrayLike, query: ArrayLike) -> NDArray[np.int64]:
    """In how many units the code of each cell differs from a query.

    How far the states of a unit are apart does not count: that is what `states_apart` is for. For units of two states,
    the two are the same.

    Parameters
    ----------
    codes
        Integers (units, rows, columns); what is lazy is computed.
    query
        A code (units,), such as `codes[:, row, column]`.

    Returns
    -------
    NDArray[np.int64]
        (rows, columns), 0 ... units.

    Raises
    ------
    ValueError
        If the shapes do not fit, or codes are not integers.
    """
    grid, code = _checked(codes, query)
    differing: NDArray[np.int64] = np.count_nonzero(grid != code[:, None, None], axis=0).astype(np.int64)
    return differing


def states_apart(codes: ArrayLike, query: ArrayLike) -> NDArray[np.int64]:
    """By how many states the code of each cell differs from a query, summed over the units (L1 distance).

    Parameters, result and errors are those of `hamming`, but that distances may be larger than the number of units. A
    step counts the same in every unit, whatever it means in pixels.
    """
    grid, code = _checked(codes, query)
    distance: NDArray[np.int64] = np.abs(grid.astype(np.int64) - code[:, None, None].astype(np.int64)).sum(axis=0)
    return distance


def nearest(
    codes: ArrayLike,
    query: ArrayLike,
    count: int,
    *,
    distance: Distance = hamming,
    among: NDArray[np.bool_] | None = None,
    generator: np.random.Generator | None = None,
) -> Nearest:
    """The `count` cells whose codes are nearest to a query, the nearest first; fewer where there are no more.

    Parameters
    ----------
    codes, query
        As `hamming` takes them. A query from the same scene finds itself first, unless `among` leaves it out.
    count
        How many, 1 at least.
    distance
        `hamming` or `states_apart`.
    among
        Cells (rows, columns) to look at; None looks at all.
    generator
        Which of several cells at the same distance come first is drawn from it; None takes them row by row. Short codes
        have many such cells.

    Raises
    ------
    ValueError
        If shapes do not fit, codes are not integers, or `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"Expected to look for one cell at least, got count={count}")
    distances = distance(codes, query)
    if among is not None and among.shape != distances.shape:
        raise ValueError(f"Expected cells to look at as an array {distances.shape}, as the codes', got {among.shape}")
    cells = np.arange(distances.size) if among is None else np.flatnonzero(among)
    if generator is not None:
        cells = generator.permutation(cells)
    found = cells[np.argsort(distances.reshape(-1)[cells], kind="stable")[:count]]
    rows, columns = np.divmod(found, distances.shape[1])
    return Nearest(rows=rows, columns=columns, distances=distances[rows, columns])


def _checked(codes: ArrayLike, query: ArrayLike) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    grid, code = np.asarray(codes), np.asarray(query)
    if grid.ndim != 3 or code.shape != grid.shape[:1]:
        raise ValueError(
            f"Expected codes (units, rows, columns) and a query of as many units, got shapes {grid.shape} and "
            f"{code.shape}; a cell's code is codes[:, row, column]"
        )
    if grid.dtype.kind not in "iu" or code.dtype.kind not in "iu":
        raise ValueError(f"Expected codes of integers, got {grid.dtype} and {code.dtype}; give codes, not pixels")
    return grid, code
