"""Where a page ended, in the client's hands: opaque, signed, and bound to the question it belongs to.

It holds the ordering values of the last row and the version of the map it was made under: a router with an older map
reads the map first. Rows keep their values when their bucket moves, so a cursor outlives moves.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from dougong.errors import Invalid
from dougong.shard.query import Query
from dougong.store import Value

__all__ = ["Cursor", "read_cursor", "write_cursor"]

_MAC_BYTES = 16
_LENGTH_MAX = 4096


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """What a cursor says."""

    version: int
    question: bytes
    after: tuple[Any, ...]


def write_cursor(key: bytes, version: int, query: Query, after: Sequence[Value]) -> str:
    body = msgspec.msgpack.encode((version, _question(query), after))
    return base64.urlsafe_b64encode(_mac(key, body) + body).decode().rstrip("=")


def read_cursor(key: bytes, query: Query, text: str) -> Cursor:
    """`Invalid` (code `bad_cursor`) for anything that was not written with this key, for this question."""
    try:
        raw = base64.b64decode(text[:_LENGTH_MAX] + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    body = raw[_MAC_BYTES:]
    if len(text) > _LENGTH_MAX or not hmac.compare_digest(raw[:_MAC_BYTES], _mac(key, body)):
        raise Invalid("the cursor is not one of ours; start from the first page", code="bad_cursor")
    cursor = msgspec.msgpack.decode(body, type=Cursor)
    if cursor.question != _question(query):
        raise Invalid("the cursor belongs to another query; start from the first page", code="bad_cursor")
    return cursor


def _mac(key: bytes, body: bytes) -> bytes:
    return blake2b(body, key=key, digest_size=_MAC_BYTES).digest()


def _question(query: Query) -> bytes:
    """What must stay the same from page to page: all but how much of it is wanted."""
    asked: Any = (query.table, query.where, query.order)
    return blake2b(msgspec.msgpack.encode(asked), digest_size=8).digest()
