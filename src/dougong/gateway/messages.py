"""What clients and gateway say to each other: JSON, one object a message.

{"kind": "call", "id": 1, "method": "shop.v1.Orders/Get", "data": {...}, "timeout_s": 2}
    {"kind": "answer", "id": 1, "data": {...}}      or      {"kind": "refused", "id": 1, "family": ..., "code": ...,
                                                        "message": ...}
{"kind": "subscribe", "id": 2, "topic": "user:7", "offset": ["1f.0", 41]}
    {"kind": "subscribed", "id": 2, "topic": "user:7", "offset": ["1f.0", 43], "complete": true}
    {"kind": "message", "topic": "user:7", "offset": ["1f.0", 42], "data": ...}     what was missed, then what comes
    {"kind": "lost", "topic": "user:7"}                                             subscribe again by your offset
{"kind": "unsubscribe", "id": 3, "topic": "user:7"}
    {"kind": "answer", "id": 3}
"""

from __future__ import annotations

import msgspec

from dougong.errors import Error, Invalid
from dougong.gateway.history import Offset

__all__ = [
    "Call",
    "Subscribe",
    "Unsubscribe",
    "answer",
    "id_of",
    "lost",
    "message",
    "read",
    "refused",
    "subscribed",
]

TOPIC_CHARS_MAX = 200
_TIMEOUT_S_MAX = 60.0


class Call(msgspec.Struct, frozen=True, tag_field="kind", tag="call", forbid_unknown_fields=True):
    id: int
    method: str
    data: msgspec.Raw = msgspec.Raw(b"{}")
    timeout_s: float = 10.0
    traceparent: str = ""


class Subscribe(msgspec.Struct, frozen=True, tag_field="kind", tag="subscribe", forbid_unknown_fields=True):
    id: int
    topic: str
    offset: Offset | None = None
    """The last one that the client has; None when it has nothing and wants nothing of before."""


class Unsubscribe(msgspec.Struct, frozen=True, tag_field="kind", tag="unsubscribe", forbid_unknown_fields=True):
    id: int
    topic: str


_decoder: msgspec.json.Decoder[Call | Subscribe | Unsubscribe] = msgspec.json.Decoder(Call | Subscribe | Unsubscribe)
_encode = msgspec.json.Encoder().encode


class _Numbered(msgspec.Struct, frozen=True):
    id: int | None = None


_numbered: msgspec.json.Decoder[_Numbered] = msgspec.json.Decoder(_Numbered)


def id_of(data: bytes) -> int | None:
    """The number of a message that `read` refused, so that who waits for its answer is told."""
    try:
        return _numbered.decode(data).id
    except (msgspec.DecodeError, RecursionError):
        return None


def read(data: bytes) -> Call | Subscribe | Unsubscribe:
    """A client's message. Raises `Invalid` (`bad_message`), which names the place."""
    try:
        asked = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise Invalid(f"this is no message of the gateway's protocol: {error}", code="bad_message") from None
    except RecursionError:
        raise Invalid("this message is nested too deeply", code="bad_message") from None
    if isinstance(asked, Call):
        if not 0 < asked.timeout_s <= _TIMEOUT_S_MAX:
            raise Invalid(f"timeout_s must be over 0 and at most {_TIMEOUT_S_MAX:g}", code="bad_message")
    elif not 0 < len(asked.topic) <= TOPIC_CHARS_MAX:
        raise Invalid(f"a topic has 1 to {TOPIC_CHARS_MAX} characters", code="bad_message")
    return asked


def answer(id_: int, data: bytes | None = None) -> bytes:
    """`data` is JSON."""
    if data is None:
        return _encode({"kind": "answer", "id": id_})
    return b'{"kind":"answer","id":%d,"data":%b}' % (id_, data)


def refused(id_: int | None, error: Error) -> bytes:
    """An error of ours, as every transport tells it; `id_` None is for what has no number."""
    told: dict[str, object] = {
        "kind": "refused",
        "id": id_,
        "family": error.family,
        "code": error.code,
        "message": error.message,
    }
    if error.fields:
        told["fields"] = error.fields
    if error.retry_after_s is not None:
        told["retry_after_s"] = error.retry_after_s
    return _encode(told)


def subscribed(id_: int, topic: str, offset: Offset, *, complete: bool) -> bytes:
    """`complete` False: some of what was missed is lost; load the state by other means."""
    return _encode({"kind": "subscribed", "id": id_, "topic": topic, "offset": offset, "complete": complete})


def message(topic: str, offset: Offset | None, data: bytes) -> bytes:
    """`data` is JSON; without history there is no offset."""
    told: dict[str, object] = {"kind": "message", "topic": topic, "data": msgspec.Raw(data)}
    if offset is not None:
        told["offset"] = offset
    return _encode(told)


def lost(topic: str) -> bytes:
    """Some of the topic's messages were forgotten because the client was too slow: it may ask for them."""
    return _encode({"kind": "lost", "topic": topic})
