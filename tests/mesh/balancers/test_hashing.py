"""What a call is hashed by."""

from __future__ import annotations

from dougong.mesh.balancers import call_key, hash64
from dougong.mesh.policy import HashOn, HashSource

HEADER = HashOn(source=HashSource.HEADER, name="X-Customer")
COOKIE = HashOn(source=HashSource.COOKIE, name="session")
QUERY = HashOn(source=HashSource.QUERY_PARAMETER, name="customer")
SOURCE = HashOn(source=HashSource.SOURCE_IP)


def test_the_hash_is_xxh64() -> None:
    """The published vectors: of nothing, and of `abc`, seed 0."""
    assert hash64("") == 0xEF46DB3751D8E999
    assert hash64("abc") == 0x44BC2CF5AD770999


def test_each_source() -> None:
    key = hash64("c-7")
    assert call_key(HEADER, [("x-customer", "c-7")]) == key
    assert call_key(COOKIE, [("cookie", "a=b; session=c-7; d=e")]) == key
    assert call_key(COOKIE, [("cookie", "a=b"), ("cookie", 'session="c-7"')]) == key
    assert call_key(QUERY, path="/orders?page=2&customer=c-7") == key
    assert call_key(SOURCE, source_ip="c-7") == key


def test_a_call_without_it_has_no_key() -> None:
    assert call_key(HEADER, [("x-other", "c-7")]) is None
    assert call_key(COOKIE, [("cookie", "sessions=c-7")]) is None
    assert call_key(QUERY, path="/orders?page=2") is None
    assert call_key(SOURCE) is None


def test_the_order_of_values_does_not_matter() -> None:
    one = [("x-customer", "a"), ("x-customer", "b")]
    assert call_key(HEADER, one) == call_key(HEADER, one[::-1])
    assert call_key(HEADER, one) not in (hash64("a"), hash64("b"), hash64("ab"))


def test_a_missing_cookie_is_made_up_from_the_caller() -> None:
    sticky = HashOn(source=HashSource.COOKIE, name="session", ttl_s=60.0)
    assert call_key(sticky, source_ip="10.0.0.1") == call_key(sticky, source_ip="10.0.0.1")
    assert call_key(sticky, source_ip="10.0.0.1") != call_key(sticky, source_ip="10.0.0.2")
