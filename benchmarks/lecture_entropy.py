"""What codes of fixed length would need if they were entropy-coded: by static tables, and by tables for each context.

The context of a code is what its unit says in the cells to the left, above, above left and above right, which a decoder
has read before. Units of two states have a table for each of the 16 combinations; of more states, for each of 16 bins
of the mean of the neighbours. Cells beyond the picture count as state 0. All tables are learned on codes of training
pictures; sizes are those of the bytes that asymmetric numeral systems make of the codes, tables not included.
"""

from collections.abc import Sequence

import constriction
import numpy as np
from numpy.typing import NDArray

from harmonium.models.code_prior import StaticTables

Grid = NDArray[np.int32]
"""Codes (units, rows, columns) of a picture."""

CONTEXTS = 16


def static_bits(learn: Sequence[Grid], codes: Grid, states: Sequence[int]) -> int:
    """Bits of codes with one table for each unit."""
    tables = StaticTables.learn(_flat(learn), states)
    return 8 * len(tables.encode(codes.reshape(len(codes), -1)))


def neighbour_bits(learn: Sequence[Grid], codes: Grid, states: Sequence[int]) -> int:
    """Bits of codes with tables for each unit and context, in one stream."""
    coder = constriction.stream.stack.AnsCoder()
    family = constriction.stream.model.Categorical(perfect=False)
    for unit, count in enumerate(states):
        if count > 1:
            tables = neighbour_tables([grid[unit] for grid in learn], count)
            symbols = np.ascontiguousarray(codes[unit].reshape(-1))
            coder.encode_reverse(symbols, family, tables[contexts(codes[unit], count).reshape(-1)])
    return int(coder.num_bits())


def neighbour_tables(learn: Sequence[NDArray[np.int32]], states: int) -> NDArray[np.float64]:
    """Probabilities (contexts, states) of one unit; a context that was not seen has those of all codes together."""
    here = np.concatenate([grid.reshape(-1) for grid in learn])
    context = np.concatenate([contexts(grid, states).reshape(-1) for grid in learn])
    everywhere = _probabilities(here, states)
    seen = [here[context == number] for number in range(CONTEXTS)]
    # Few codes say little: as many more are taken to be like those of all contexts.
    pseudo = 32.0
    counted = [
        (len(some) * _probabilities(some, states) + pseudo * everywhere) / (len(some) + pseudo)
        if len(some)
        else everywhere
        for some in seen
    ]
    return np.ascontiguousarray(counted)


def contexts(grid: NDArray[np.int32], states: int) -> NDArray[np.int64]:
    """The context, 0 ... 15, of each code of a unit's grid (rows, columns)."""
    padded = np.pad(grid.astype(np.int64), ((1, 0), (1, 1)))
    left, above = padded[1:, :-2], padded[:-1, 1:-1]
    above_left, above_right = padded[:-1, :-2], padded[:-1, 2:]
    if states == 2:
        return ((left * 2 + above) * 2 + above_left) * 2 + above_right
    total = left + above + above_left + above_right
    return total * CONTEXTS // (4 * (states - 1) + 1)


def _probabilities(codes: NDArray[np.int32], states: int) -> NDArray[np.float64]:
    frequencies = StaticTables.learn(codes[None], [states]).to_arrays()["frequencies"]
    probabilities: NDArray[np.float64] = frequencies / frequencies.sum()
    return probabilities


def _flat(grids: Sequence[Grid]) -> NDArray[np.int32]:
    return np.concatenate([grid.reshape(len(grid), -1) for grid in grids], axis=1)
