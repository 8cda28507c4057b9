"""Ranks of values that leave gaps: tables come back, chunks are exact, and shorter where ranks are taken."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonium.errors import PayloadError
from harmonium.models import value_ranks
from harmonium.models.radiometry import Radiometry
from harmonium.models.targets import Lossless, MaxError
from harmonium.models.transform_codec import TransformCodec

from .tiny_networks import model


def codec(bands: int) -> TransformCodec:
    zeros, ones = (0.0,) * bands, (1.0,) * bands
    return TransformCodec(radiometry=Radiometry(dtype="int16", offset=zeros, scale=ones, peak=1e4), model=model())


@given(st.lists(st.none() | st.sets(st.integers(-(2**15), 2**16), min_size=1, max_size=40), min_size=1, max_size=4))
def test_tables_come_back(sets: list[set[int] | None]) -> None:
    tables = [None if found is None else np.array(sorted(found), np.int64) for found in sets]
    data = value_ranks.pack(tables)
    if all(table is None for table in tables):
        assert data == b""
        return
    found, length = value_ranks.unpack(data + b"behind", len(tables))
    assert length == len(data)
    for table, other in zip(tables, found, strict=True):
        assert (table is None) == (other is None)
        if table is not None and other is not None:
            np.testing.assert_array_equal(table, other)


@given(st.binary(max_size=80))
def test_damaged_tables_are_refused(data: bytes) -> None:
    try:
        value_ranks.unpack(data, 3)
    except PayloadError:
        return
    assert False, "random bytes were a table"  # noqa: B011, PT015


def test_ranks_are_for_values_with_gaps() -> None:
    draw = np.random.default_rng(0)
    dense, scaled = draw.integers(0, 200, 20_000), draw.integers(0, 200, 20_000) * 37 - 900
    assert value_ranks.worth_ranking(dense) is None
    found = value_ranks.worth_ranking(scaled)
    assert found is not None
    np.testing.assert_array_equal(found, np.unique(scaled))
    assert value_ranks.worth_ranking(scaled[:40]) is None  # the table would be longer than what it spares


@pytest.mark.parametrize("target", [Lossless(), MaxError(1)])
def test_chunks_of_scaled_values_are_exact_and_shorter(target: Lossless | MaxError) -> None:
    draw = np.random.default_rng(1)
    smooth = np.add.outer(np.arange(96), np.arange(80)) + draw.normal(0, 6, (2, 96, 80))
    pixels = (np.rint(smooth).astype(np.int64) * np.array([37, 1])[:, None, None]).astype(np.int16)
    pixels[:, 10:20, 30:50] = -9999
    encoded = codec(2).compress(pixels, -9999, target)
    decoded = codec(2).decompress(encoded.payload, pixels.shape)
    bound = 0 if target == Lossless() else 1
    assert np.abs(decoded.astype(int) - pixels).max() <= bound
    plain = codec(2).compress((pixels // np.array([37, 1])[:, None, None].astype(np.int16)), math.nan, Lossless())
    assert len(encoded.payload) < 1.2 * len(plain.payload)
