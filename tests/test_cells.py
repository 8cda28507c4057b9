from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from harmonium.models.cells import cell_grid, from_bit_probabilities, from_cells, to_bits, to_cells

shapes = st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40))


@given(shape=shapes)
def test_cells_and_back_is_the_identity(shape: tuple[int, int, int]) -> None:
    pixels = torch.arange(float(np.prod(shape))).reshape(shape)
    cells = to_cells(pixels)
    rows, columns = cell_grid(*shape[1:])
    assert cells.shape == (rows * columns, shape[0] * 64)
    assert torch.equal(from_cells(cells, *shape), pixels)


@given(shape=shapes)
def test_cells_are_the_blocks_of_the_picture_extended_by_its_edge(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows, columns = cell_grid(*shape[1:])
    padded = np.pad(pixels, ((0, 0), (0, rows * 8 - shape[1]), (0, columns * 8 - shape[2])), mode="edge")
    cells = to_cells(torch.from_numpy(pixels)).numpy()
    for row in range(rows):
        for column in range(columns):
            block = padded[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            np.testing.assert_array_equal(cells[row * columns + column], block.ravel())


@given(values=hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 64))))
def test_bits_are_numpys_and_their_expectation_is_the_value(values: NDArray[np.uint8]) -> None:
    bits = to_bits(torch.from_numpy(values.astype(np.float32)))
    np.testing.assert_array_equal(bits.numpy(), np.unpackbits(values, axis=1))
    np.testing.assert_array_equal(from_bit_probabilities(bits).numpy(), values)


def test_expectation_of_uncertain_bits() -> None:
    probabilities = torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25]])
    assert from_bit_probabilities(probabilities).tolist() == [[64.25]]
