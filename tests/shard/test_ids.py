"""What the bits of an id mean, and that nothing else passes for one."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Invalid
from dougong.shard import IdParts, explain_id, ids, is_aligned, pack_id, parse_id, shard_of, unpack_id

PARTS = st.builds(IdParts, st.integers(0, ids.TIME_MS_END - 1), st.integers(0, 255), st.integers(0, 16_383))


@given(PARTS)
def test_parts_come_back_and_text_does(parts: IdParts) -> None:
    number = pack_id(parts)
    assert 0 <= number < 2**63
    assert unpack_id(number) == parts
    assert shard_of(number) == parts.shard
    assert parse_id(str(number)) == number
    assert is_aligned(number) == (parts.sequence % 128 == parts.shard)


@given(PARTS, PARTS)
def test_ids_of_a_shard_are_in_the_order_of_time(one: IdParts, other: IdParts) -> None:
    if one.time_ms < other.time_ms:
        assert pack_id(one) < pack_id(other)


@pytest.mark.parametrize(
    "parts",
    [IdParts(-1, 0, 0), IdParts(ids.TIME_MS_END, 0, 0), IdParts(0, 256, 0), IdParts(0, -1, 0), IdParts(0, 0, 16_384)],
)
def test_what_has_no_room(parts: IdParts) -> None:
    with pytest.raises(Invalid, match="no id holds"):
        pack_id(parts)


@pytest.mark.parametrize("number", [-1, 2**63])
def test_numbers_that_are_no_ids(number: int) -> None:
    with pytest.raises(Invalid) as caught:
        unpack_id(number)
    assert caught.value.code == "bad_id"


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "+1", "-1", "01", "1.0", "1e3", "0x1", "1_0", "١", "9223372036854775808", "9" * 5000],
)
def test_texts_that_are_no_ids(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_id(text)
    assert caught.value.code == "bad_id"
    assert len(caught.value.message) < 200


@given(st.text())
def test_any_text_is_an_id_or_refused(text: str) -> None:
    try:
        number = parse_id(text)
    except Invalid:
        return
    assert str(number) == text


def test_the_years_that_fit() -> None:
    assert explain_id(0).startswith("0: made 2025-01-01T00:00:00.000Z for shard 0, sequence 0; aligned")
    assert "made 2094-09-07T15:47:35.551Z for shard 255, sequence 16383; not aligned" in explain_id(2**63 - 1)
    assert unpack_id(0).at_us == 1_735_689_600_000_000


def test_the_published_rule_reads_the_sequence() -> None:
    """One id per millisecond, and every user would live in bucket 0: the flaw that alignment is for."""
    lonely = [pack_id(IdParts(ms, 17, 0)) for ms in range(1000)]
    assert {number % 128 for number in lonely} == {0}
    assert {shard_of(number) for number in lonely} == {17}


def test_the_example_is_true() -> None:
    assert doctest.testmod(ids).failed == 0
