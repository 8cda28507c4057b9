"""Whole numbers in few bytes, and fields that are not there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonium.errors import PayloadError
from harmonium.models import varints
from harmonium.models.varints import Fields


@given(numbers=st.lists(st.integers(0, (1 << 63) - 1)))
def test_numbers_come_back_in_as_few_bytes_as_can_be(numbers: list[int]) -> None:
    data = varints.packed(numbers)
    fields = Fields(data + b"rest", "section")
    assert fields.varints(len(numbers)) == numbers
    assert fields.rest() == b"rest"
    assert len(data) == sum(max(1, -(-number.bit_length() // 7)) for number in numbers)


def test_examples_of_leb128() -> None:
    """That of the DWARF standard, version 4, figure 22."""
    expected = b"\x02\x7f\x80\x01\x81\x01\x82\x01\xb9\x64"
    assert varints.packed([2, 127, 128, 129, 130, 12857]) == expected


@given(numbers=st.lists(st.integers(-(1 << 62), 1 << 62)))
def test_folded_numbers_come_back(numbers: list[int]) -> None:
    assert varints.unfolded(varints.folded(numbers)) == numbers
    assert varints.folded([0, -1, 1, -2, 2]) == [0, 1, 2, 3, 4]


@given(data=st.binary(max_size=30))
def test_any_bytes_are_numbers_in_one_way_or_refused(data: bytes) -> None:
    fields = Fields(data, "section")
    found = []
    try:
        while fields.place < len(data):
            found.append(fields.varint())
    except PayloadError as error:
        assert "damaged" in str(error)  # noqa: PT017 - most bytes are numbers
    else:
        assert varints.packed(found) == data


@pytest.mark.parametrize("data", [b"\x80\x00", b"\xff\x80\x00", 9 * b"\x80" + b"\x01", 9 * b"\xff"])
def test_numbers_of_too_many_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(PayloadError, match="The section holds a number of too many bytes; the chunk is damaged"):
        Fields(data, "section").varint()


def test_fields_beyond_the_end_are_refused() -> None:
    fields = Fields(b"\1\2\3\4\5", "section")
    assert fields.byte() == 1
    np.testing.assert_array_equal(fields.array("<u2", 1), [0x0302])
    with pytest.raises(PayloadError, match="The section has 5 bytes, but its fields need 7 at least"):
        fields.array("<u4", 1)
    assert fields.take(2) == b"\4\5"
    with pytest.raises(PayloadError, match="need 6 at least"):
        fields.byte()
