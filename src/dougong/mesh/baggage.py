"""W3C Baggage: small named values that travel with a call through every hop, in one header.

What comes in is from outside: members that are not well formed are dropped, one by one, and no more is read or written
than the recommendation lets everybody pass on. https://www.w3.org/TR/baggage/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

import msgspec

from dougong.errors import Invalid

__all__ = [
    "BAGGAGE_MAX",
    "HEADER",
    "MEMBERS_MAX",
    "Member",
    "accepted_baggage",
    "extend_baggage",
    "merge_baggage",
    "parse_baggage",
    "write_baggage",
]

HEADER = "baggage"
BAGGAGE_MAX = 8192
"""Bytes; what the standard demands of everybody who carries it."""
MEMBERS_MAX = 180

_KEY = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+\Z")
_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\Z")
_ESCAPED = re.compile(r"(?:[^%]|%[0-9a-fA-F]{2})*\Z")
_UNQUOTED = re.compile(r"[!#-$&-+\--:<-\[\]-~]*\Z")
_PLAIN = frozenset(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '",;\\%')


class Member(msgspec.Struct, frozen=True):
    value: str
    """Decoded."""
    properties: tuple[str, ...] = ()
    """As they came, passed on untouched."""


def parse_baggage(text: str) -> dict[str, Member]:
    """The members by key; of several with one key the last counts."""
    found: dict[str, Member] = {}
    if len(text) > BAGGAGE_MAX:  # whole members only: what the bound cuts is dropped
        text = text[: text.rfind(",", 0, BAGGAGE_MAX + 1)] if "," in text[: BAGGAGE_MAX + 1] else ""
    for part in text.split(",")[:MEMBERS_MAX]:
        body, *properties = (piece.strip(" \t") for piece in part.split(";"))
        key, equals, value = body.partition("=")
        key, value = key.rstrip(" \t"), value.lstrip(" \t")
        if not equals or not _KEY.match(key) or not _VALUE.match(value) or not _ESCAPED.match(value):
            continue
        if all(_is_property(each) for each in properties):
            found.pop(key, None)
            found[key] = Member(unquote(value, errors="replace"), tuple(properties))
    return found


def write_baggage(members: Mapping[str, Member]) -> str:
    """The header's value. What is over the bounds, from the last on, or has no proper key, is left out."""
    parts: list[str] = []
    room = BAGGAGE_MAX + 1
    for key, member in members.items():
        if len(parts) == MEMBERS_MAX:
            break
        if not _KEY.match(key):
            continue
        part = ";".join((f"{key}={_quoted(member.value)}", *member.properties))
        if len(part) + 1 <= room and all(_is_property(each) for each in member.properties):
            parts.append(part)
            room -= len(part) + 1
    return ",".join(parts)


def accepted_baggage(text: str) -> str:
    """`text` if it may be carried on as it is; empty if not: somebody else's baggage is no reason to refuse a call."""
    return text if len(text) <= BAGGAGE_MAX and text.isascii() and text.isprintable() else ""


def extend_baggage(text: str, entries: Mapping[str, str]) -> str:
    """Baggage with more in it, at the end; of two entries with one key the last stays.

    Raises `Invalid` (`bad_baggage`) for a key that is none, and where not all of it may be carried.
    """
    members = parse_baggage(text)
    for key, value in entries.items():
        if not _KEY.match(key):
            raise Invalid(f"{key!r} is no key for baggage", code="bad_baggage")
        members.pop(key, None)
        members[key] = Member(value)
    written = write_baggage(members)
    if parse_baggage(written).keys() != members.keys():
        raise Invalid(
            f"baggage for {len(members)} keys: at most {BAGGAGE_MAX} bytes and {MEMBERS_MAX} keys are carried",
            code="bad_baggage",
        )
    return written


def merge_baggage(inherited: Mapping[str, Member], own: Mapping[str, Member]) -> dict[str, Member]:
    """Ours go before what was inherited under the same key, and first, so that the bounds never cut them."""
    return {**own, **{key: member for key, member in inherited.items() if key not in own}}


def _is_property(text: str) -> bool:
    key, equals, value = text.partition("=")
    key, value = key.rstrip(" \t"), value.lstrip(" \t")
    return bool(_KEY.match(key)) and (not equals or bool(_VALUE.match(value)))


def _quoted(value: str) -> str:
    if _UNQUOTED.match(value):
        return value
    encoded = value.encode("utf-8", "replace")
    return "".join(chr(code) if chr(code) in _PLAIN else f"%{code:02X}" for code in encoded)
