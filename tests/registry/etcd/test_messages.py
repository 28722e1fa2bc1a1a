"""The messages against etcd's numbering, byte by byte where it matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.registry import ChangeKind
from dougong.registry.etcd import messages
from dougong.registry.etcd.failures import Failed


def test_requests_on_the_wire() -> None:
    assert messages.range_request(b"k", b"l", limit=2, revision=3) == b"\x0a\x01k\x12\x01l\x18\x02\x20\x03"
    assert messages.watch_request(b"k", b"l", 5) == b"\x0a\x0c\x0a\x01k\x12\x01l\x18\x05\x20\x01\x40\x01"
    assert messages.progress_request() == b"\x1a\x00"
    assert messages.grant_request(7, 2) == b"\x08\x02\x10\x07"
    assert messages.login_request("u", "p") == b"\x0a\x01u\x12\x01p"


def test_a_guarded_write() -> None:
    """compare { result: LESS target: MOD key mod_revision: 1 } success { put } failure { range }"""
    compare = b"\x0a\x09\x08\x02\x10\x02\x1a\x01k\x30\x01"
    put = b"\x12\x0a\x12\x08\x0a\x01k\x12\x01v\x18\x09"
    look = b"\x1a\x05\x0a\x03\x0a\x01k"
    assert messages.write_request(b"k", b"v", 9, changed_before=1) == compare + put + look
    delete = b"\x12\x05\x1a\x03\x0a\x01k"
    assert messages.delete_request(b"k", changed_before=1) == compare + delete + look


def test_a_watch_response() -> None:
    header = b"\x0a\x04\x08\x09\x18\x07"
    deleted = b"\x5a\x08\x08\x01\x12\x04\x0a\x00\x18\x07"
    reply = messages.read_watch(header + b"\x10\x02" + deleted)
    assert (reply.cluster, reply.revision, reply.watch_id) == (9, 7, 2)
    assert reply.events == (messages.Event(ChangeKind.DELETE, b"", 7, b""),)


def test_a_lease_that_is_over_has_no_time_left() -> None:
    assert messages.read_granted(b"\x18" + b"\xff" * 9 + b"\x01" + b"\x20\x05").ttl_s == 0.0  # TTL -1, granted 5
    assert messages.read_granted(b"\x18\x03\x20\x05").ttl_s == 5.0


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (b"/a/", (b"/a/", b"/a0")),
        (b"", (b"\0", b"\0")),
        (b"a\xff", (b"a\xff", b"b")),
        (b"a\xff\xff", (b"a\xff\xff", b"b")),
        (b"\xff\xff", (b"\xff\xff", b"\0")),
    ],
)
def test_the_end_of_a_prefix(prefix: bytes, expected: tuple[bytes, bytes]) -> None:
    assert messages.range_end(prefix) == expected


@given(st.binary(max_size=4), st.binary(max_size=6))
def test_the_end_parts_what_starts_with_the_prefix_from_what_does_not(prefix: bytes, key: bytes) -> None:
    start, end = messages.range_end(prefix)
    inside = start <= key and (end == b"\0" or key < end)
    assert inside == (key.startswith(prefix) and key >= start)


@pytest.mark.fuzz
@given(st.binary(max_size=80))
def test_bytes_from_anywhere_are_read_or_refused(data: bytes) -> None:
    for read in (messages.read_watch, messages.read_range, messages.read_lease, messages.read_write):
        try:
            read(data)
        except Failed:
            continue
