"""YAML text to nodes that know their line, within bounds, read as Kubernetes reads it.

Kubernetes turns YAML 1.1 into JSON (sigs.k8s.io/yaml on go-yaml 2), so `on` and `yes` are booleans, `010` is eight and
`1_000` a thousand, but `1:30` and `2001-01-01` are text. PyYAML supplies the events, and nothing of its constructors or
resolvers is used: no tag makes an object, no alias multiplies one, and every scalar is resolved here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

import msgspec
import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from dougong.mesh.istio._problems import Place, Stop

__all__ = ["BYTES_MAX", "DEPTH_MAX", "Kind", "Node", "documents"]

BYTES_MAX = 256 * 1024
"""Of one file. The reader is pure Python, so its time is bounded by this."""
DEPTH_MAX = 32
"""Of nesting; Istio's own schema needs 13."""

_TRUE = frozenset(["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"])
_FALSE = frozenset(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"])
_NULL = frozenset(["", "~", "null", "Null", "NULL"])
_NOT_FINITE = frozenset([".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN"])
_WHOLE = re.compile(r"[-+]?(?:0[bB][01]+|0[oO]?[0-7]+|0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_BASES = {"0b": 2, "0o": 8, "0x": 16}
_DIGITS_MAX = 40
"""More digits than any number in these files has; longer ones are text, and cost no big-number arithmetic."""


class Kind(StrEnum):
    """What JSON would call it."""

    TABLE = "a table"
    LIST = "a list"
    TEXT = "text"
    WHOLE = "a whole number"
    NUMBER = "a number"
    FLAG = "true or false"
    NULL = "nothing"


class Node(msgspec.Struct, frozen=True):
    kind: Kind
    place: Place
    value: str | int | float | bool | None = None
    """Of a scalar."""
    written: str = ""
    """Of a scalar, as it stands in the file."""
    items: tuple[Node, ...] = ()
    entries: tuple[tuple[str, Place, Node], ...] = ()
    """Key, where it stands, value."""


def documents(data: bytes, file: str) -> tuple[Node, ...]:
    """The documents of one file; empty ones are left out. Raises `Stop` for the first fault."""
    start = Place(file, 1, 1)
    if len(data) > BYTES_MAX:
        raise Stop(
            start, "too_large", f"{len(data)} bytes, and at most {BYTES_MAX} are read: split it into several files"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Stop(Place(file, line, 1), "bad_yaml", "not UTF-8: save the file as UTF-8") from None
    try:
        return tuple(_documents(yaml.parse(text, Loader=yaml.SafeLoader), file))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark is not None else start
        told = "; ".join(str(part) for part in (error.context, error.problem) if part)
        if error.context == "while scanning an alias":
            told += "; a text that begins with * needs quotes"
        raise Stop(place, "bad_yaml", f"not YAML: {told}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: escapes and versions out of range
        raise Stop(
            start, "bad_yaml", f"not YAML: {str(error).splitlines()[0] if str(error) else 'unreadable'}"
        ) from None


def _documents(events: Iterator[Event], file: str) -> Iterator[Node]:
    for event in events:
        if isinstance(event, DocumentStartEvent):
            node = _node(next(events), events, file, 1)
            if node.kind is not Kind.NULL:
                yield node


def _node(event: Event, events: Iterator[Event], file: str, depth: int) -> Node:
    assert event.start_mark is not None
    place = Place(file, event.start_mark.line + 1, event.start_mark.column + 1)
    if isinstance(event, AliasEvent):
        remedy = "write the value out, or put a text that begins with * in quotes"
        raise Stop(place, "alias", f"the alias *{event.anchor} is not followed: {remedy}")
    if isinstance(event, ScalarEvent):
        return _scalar(event, place)
    if depth > DEPTH_MAX:
        raise Stop(place, "too_deep", f"nested more than {DEPTH_MAX} deep: nothing in these files is")
    if isinstance(event, SequenceStartEvent):
        _refuse_tag(event.tag, "tag:yaml.org,2002:seq", place)
        items: list[Node] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            items.append(_node(event, events, file, depth + 1))
        return Node(Kind.LIST, place, items=tuple(items))
    assert isinstance(event, MappingStartEvent)
    _refuse_tag(event.tag, "tag:yaml.org,2002:map", place)
    entries: dict[str, tuple[str, Place, Node]] = {}
    while not isinstance(event := next(events), MappingEndEvent):
        key = _node(event, events, file, depth + 1)
        name = _key(key)
        if name in entries:
            raise Stop(
                key.place, "duplicate_key", f"{name!r} is set twice, first in line {entries[name][1].line}: keep one"
            )
        entries[name] = (name, key.place, _node(next(events), events, file, depth + 1))
    return Node(Kind.TABLE, place, entries=tuple(entries.values()))


def _key(key: Node) -> str:
    if key.kind is Kind.TEXT and isinstance(key.value, str):
        if key.value == "<<":
            raise Stop(key.place, "alias", "the merge key << is not followed: write the fields out")
        return key.value
    if key.kind in {Kind.TABLE, Kind.LIST}:
        raise Stop(key.place, "bad_key", f"a key is text, not {key.kind}")
    raise Stop(key.place, "bad_key", f"the key {key.written} is {key.kind} to YAML: put it in quotes")


def _scalar(event: ScalarEvent, place: Place) -> Node:
    text: str = event.value
    tag: str | None = event.tag
    if tag in {"!", "tag:yaml.org,2002:str"} or (tag is None and not event.implicit[0]):
        return Node(Kind.TEXT, place, text, text)
    if tag is not None:
        raise Stop(place, "tag", f"the tag {tag} is not read: write the plain value")
    if text in _NULL:
        return Node(Kind.NULL, place, None, text)
    if text in _TRUE or text in _FALSE:
        return Node(Kind.FLAG, place, text in _TRUE, text)
    digits = text.replace("_", "")
    if len(digits) <= _DIGITS_MAX:
        if _WHOLE.match(digits):
            return Node(Kind.WHOLE, place, _whole(digits), text)
        if _FLOAT.match(digits):
            return _number(float(digits), place, text)
    if text.lstrip("+-") in _NOT_FINITE:
        return Node(Kind.NUMBER, place, float(text.replace(".", "")), text)
    return Node(Kind.TEXT, place, text, text)


def _number(value: float, place: Place, text: str) -> Node:
    """As JSON writes it: 1e3 is 1000, which a whole-number field takes."""
    if abs(value) < 1e15 and value == int(value):
        return Node(Kind.WHOLE, place, int(value), text)
    return Node(Kind.NUMBER, place, value, text)


def _whole(digits: str) -> int:
    """With the bases of Go's ParseInt(…, 0): a leading 0 is octal."""
    bare = digits.lstrip("+-").lower()
    base = _BASES.get(bare[:2])
    if base is not None:
        value = int(bare[2:], base)
    else:
        value = int(bare, 8 if bare.startswith("0") else 10)
    return -value if digits.startswith("-") else value


def _refuse_tag(tag: str | None, usual: str, place: Place) -> None:
    if tag is not None and tag not in {"!", usual}:
        raise Stop(place, "tag", f"the tag {tag} is not read: write the plain value")
