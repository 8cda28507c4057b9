from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models.code_prior import CodePrior, Codes, PackedBits, StaticTables, from_arrays

state_counts = st.lists(st.one_of(st.integers(1, 5), st.integers(1, 400)), min_size=1, max_size=6)


def random_codes(states: Sequence[int], cells: int, seed: int, width: float = 1.0) -> Codes:
    """Codes (units, cells): uniform over the middle `width` of each unit's states."""
    rng = np.random.default_rng(seed)
    spans = [max(1, round(count * width)) for count in states]
    return np.array([(c - s) // 2 + rng.integers(0, s, cells) for c, s in zip(states, spans, strict=True)], np.int32)


def priors_for(states: Sequence[int], seed: int) -> list[CodePrior]:
    return [PackedBits(states), StaticTables.learn(random_codes(states, 50, seed + 1, width=0.3), states)]


@given(states=state_counts, cells=st.integers(1, 100), seed=st.integers(0, 2**31))
def test_codes_come_back(states: list[int], cells: int, seed: int) -> None:
    codes = random_codes(states, cells, seed)
    for prior in priors_for(states, seed):
        found = prior.decode(prior.encode(codes), cells)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, codes)


@given(states=state_counts, cells=st.integers(1, 100))
def test_packed_codes_have_their_length(states: list[int], cells: int) -> None:
    prior = PackedBits(states)
    bits = sum(int(np.ceil(np.log2(count))) for count in states)
    assert prior.bits_per_cell == bits
    assert len(prior.encode(random_codes(states, cells, 0))) == int(np.ceil(bits * cells / 8))


def test_packed_codes_are_bit_planes() -> None:
    codes = np.array([[0b10, 0b01, 0b11, 0b00], [1, 0, 0, 1]], np.int32)
    assert PackedBits([4, 2]).encode(codes) == bytes([0b10100110, 0b10010000])


@given(states=st.lists(st.integers(2, 2000), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_entropy_coded_size_is_that_of_the_tables(states: list[int], seed: int) -> None:
    codes = random_codes(states, 2000, seed, width=0.2)
    prior = StaticTables.learn(codes, states)
    nbytes = len(prior.encode(codes))
    assert abs(nbytes - prior.bits(codes) / 8) <= 0.01 * nbytes + 8


def test_tables_are_near_the_entropy_of_what_they_learned() -> None:
    rng = np.random.default_rng(0)
    codes = np.rint(rng.normal(100, 7, (1, 20_000))).clip(0, 255).astype(np.int32)
    entropy = np.log2(7 * np.sqrt(2 * np.pi * np.e))
    assert StaticTables.learn(codes, [256]).bits(codes) / 20_000 == pytest.approx(entropy, rel=0.01)


def test_every_state_stays_possible_and_costs_more_farther_out() -> None:
    prior = StaticTables.learn(np.full((1, 100), 20, np.int32), [1000])
    cost = [prior.bits(np.array([[state]], np.int32)) for state in (20, 22, 30, 999)]
    assert cost[0] < 0.1
    assert cost == sorted(cost)
    assert cost[-1] <= 20


@given(states=state_counts, cells=st.integers(1, 50), data=st.binary(max_size=200))
def test_any_bytes_are_codes_or_an_error(states: list[int], cells: int, data: bytes) -> None:
    for prior in priors_for(states, 0):
        try:
            codes = prior.decode(data, cells)
        except PayloadError as error:
            assert "chunk is damaged" in str(error)  # noqa: PT017 - most bytes are, few are not
        else:
            assert codes.shape == (len(states), cells)
            assert (codes >= 0).all()
            assert (codes < np.array(states)[:, None]).all()


@given(cells=st.integers(5, 100), cut=st.integers(1, 3), longer=st.booleans())
def test_a_wrong_length_is_noticed(cells: int, cut: int, longer: bool) -> None:
    codes = random_codes([37, 5], cells, 3)
    for prior in priors_for([37, 5], 3):
        data = prior.encode(codes)
        with pytest.raises(PayloadError):
            prior.decode(data + b"\1" * cut if longer else data[:-cut], cells)


def test_codes_beyond_the_states_are_noticed() -> None:
    data = PackedBits([8]).encode(np.array([[7, 1]], np.int32))
    with pytest.raises(PayloadError, match="unit 0 has 6 states, found state 7"):
        PackedBits([6]).decode(data, 2)


def test_more_cells_than_were_coded_are_noticed() -> None:
    prior = StaticTables.learn(random_codes([9], 100, 0), [9])
    with pytest.raises(PayloadError, match="more than the codes of 10 cells"):
        prior.decode(prior.encode(random_codes([9], 100, 0)), 10)


@given(states=state_counts, seed=st.integers(0, 100))
def test_arrays_and_pickles_make_the_same_prior(states: list[int], seed: int) -> None:
    codes = random_codes(states, 20, seed)
    for prior in priors_for(states, seed):
        data = prior.encode(codes)
        for copy in (from_arrays(prior.kind, prior.to_arrays()), pickle.loads(pickle.dumps(prior))):
            assert copy.states == tuple(states)
            assert copy.encode(codes) == data
            np.testing.assert_array_equal(copy.decode(data, 20), codes)


def i64(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("kind", "arrays", "message"),
    [
        ("magic", {}, "Unknown code prior 'magic'; known are packed, tables"),
        ("packed", {}, r"expected arrays \['states'\], found \[\]"),
        ("packed", {"states": i64()}, "1 to 65536 states"),
        ("packed", {"states": i64(2, 0)}, "found 0 to 2"),
        ("packed", {"states": i64(2, 1 << 40)}, "1 to 65536 states"),
        ("packed", {"states": i64(2).reshape(1, 1)}, "1 to 65536 states"),
        ("tables", {"states": i64(2), "frequencies": i64(1 << 20)}, "expected 2 frequencies"),
        ("tables", {"states": i64(2), "frequencies": i64(-5, (1 << 20) + 5)}, "the smallest -5"),
        ("tables", {"states": i64(2), "frequencies": i64(7, 8)}, "sums to 15, the smallest 7"),
    ],
)
def test_arrays_that_are_no_prior(kind: str, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_arrays(kind, arrays)
