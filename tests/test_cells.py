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


EIGHT = np.arange(256, dtype=np.uint8)


def test_gray_bits_are_a_bijection_whose_neighbours_differ_in_one_bit() -> None:
    bits = to_bits(torch.from_numpy(EIGHT.astype(np.float32)[:, None]), gray=True).numpy()
    assert len({row.tobytes() for row in bits}) == 256
    assert (np.abs(np.diff(bits, axis=0)).sum(axis=1) == 1).all()
    np.testing.assert_array_equal(np.packbits(bits.astype(np.uint8)), EIGHT ^ (EIGHT >> 1))
    np.testing.assert_array_equal(from_bit_probabilities(torch.from_numpy(bits), gray=True).numpy()[:, 0], EIGHT)


@given(value=st.floats(-1e6, 1e6, width=32), gray=st.booleans())
def test_values_are_rounded_and_clipped_to_eight_bits(value: float, gray: bool) -> None:
    bits = to_bits(torch.tensor([[value]]), gray=gray)
    assert float(from_bit_probabilities(bits, gray=gray)) == np.clip(np.rint(np.float32(value)), 0, 255)


@given(probabilities=hnp.arrays(np.float64, 8, elements=st.floats(0, 1)), gray=st.booleans())
def test_expectation_is_the_sum_over_all_values_of_independent_bits(
    probabilities: NDArray[np.float64], gray: bool
) -> None:
    bits = to_bits(torch.from_numpy(EIGHT.astype(np.float32)[:, None]), gray=gray).numpy().astype(bool)
    mass = np.where(bits, probabilities, 1 - probabilities).prod(axis=1)
    found = from_bit_probabilities(torch.from_numpy(probabilities[None]), gray=gray)
    np.testing.assert_allclose(float(found), float(mass @ EIGHT), rtol=1e-9, atol=1e-9)
