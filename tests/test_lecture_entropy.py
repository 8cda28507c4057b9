"""Sizes of entropy-coded codes against the entropy of chains whose law is known, and against a decoder."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

import constriction

from benchmarks.lecture_entropy import CONTEXTS, contexts, neighbour_bits, neighbour_tables, static_bits


def sticky(rows: int, columns: int, states: int, stay: float, seed: int) -> NDArray[np.int32]:
    """Each code is the one to its left with the probability `stay`, else any: (1, rows, columns)."""
    generator = np.random.default_rng(seed)
    grid = generator.integers(states, size=(1, rows, columns)).astype(np.int32)
    for column in range(1, columns):
        kept = generator.random(rows) < stay
        grid[0, kept, column] = grid[0, kept, column - 1]
    return grid


@pytest.mark.parametrize("states", [2, 5])
def test_neighbours_tell_what_they_know(states: int) -> None:
    learn, codes = sticky(300, 200, states, 0.9, seed=0), sticky(200, 200, states, 0.9, seed=1)
    fixed = codes.size * np.log2(states)
    assert static_bits([learn], codes, [states]) == pytest.approx(fixed, rel=0.01)
    same = 0.9 + 0.1 / states
    entropy = -same * np.log2(same) - (1 - same) * np.log2((1 - same) / (states - 1))
    found = neighbour_bits([learn], codes, [states])
    if states == 2:
        assert found == pytest.approx(codes.size * entropy, rel=0.05)
    else:  # means of four neighbours say less than the left one
        assert codes.size * entropy < found < 0.99 * fixed


@pytest.mark.parametrize("states", [2, 4, 37])
def test_a_decoder_has_the_contexts_that_it_needs(states: int) -> None:
    """Decoded in the order of rows, with contexts from what was decoded before only."""
    learn, codes = sticky(40, 30, states, 0.8, seed=2)[0], sticky(9, 11, states, 0.8, seed=3)[0]
    tables = neighbour_tables([learn], states)
    assert tables.shape == (CONTEXTS, states)
    np.testing.assert_allclose(tables.sum(1), 1)
    coder = constriction.stream.stack.AnsCoder()
    family = constriction.stream.model.Categorical(perfect=False)
    coder.encode_reverse(codes.reshape(-1), family, tables[contexts(codes, states).reshape(-1)])
    assert coder.num_bits() == neighbour_bits([learn[None]], codes[None], [states])
    decoded = np.zeros_like(codes)
    for y, x in np.ndindex(*codes.shape):
        table = tables[contexts(decoded, states)[y, x]]
        decoded[y, x] = coder.decode(constriction.stream.model.Categorical(table, perfect=False))
    np.testing.assert_array_equal(decoded, codes)


def test_a_context_of_few_codes_is_near_that_of_all() -> None:
    grid = np.zeros((20, 20), np.int32)
    grid[10, 10] = 1
    tables = neighbour_tables([grid], 2)
    assert (tables[:, 0] > 0.9).all()
    unseen = np.setdiff1d(np.arange(CONTEXTS), np.unique(contexts(grid, 2)))
    assert len(unseen)
    assert len(np.unique(tables[unseen], axis=0)) == 1


def test_units_of_one_state_cost_nothing() -> None:
    constant = np.zeros((2, 8, 8), np.int32)
    assert neighbour_bits([constant], constant, [1, 1]) == 0
