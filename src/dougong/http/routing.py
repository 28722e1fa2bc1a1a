"""From verb and path to a route: one dict lookup per path segment, whatever the number of routes.

`GET /v1/orders/{order_id}` and `POST /v1/orders/{order_id}:cancel` live in a tree of segments. A literal segment wins
over a parameter with a suffix (`{id}:cancel`), that over a plain parameter; the loser is tried when the winner leads
nowhere. Paths match exactly: no trailing slash, no empty parameter. The tree knows nothing of HTTP beyond that.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from dougong.errors import Invalid

__all__ = ["Match", "PathTree", "segments_of"]

T = TypeVar("T")

_PARAMETER = re.compile(r"\{([a-z_][a-z0-9_]*)\}(:[A-Za-z0-9_\-.]+)?")
_LITERAL = re.compile(r"[A-Za-z0-9_\-.:]+")
SEGMENTS_MAX = 32


class _Node(Generic[T]):
    __slots__ = ("literal", "plain", "suffixed", "template", "verbs")

    def __init__(self) -> None:
        self.literal: dict[str, _Node[T]] = {}
        self.suffixed: dict[str, _Node[T]] = {}
        self.plain: _Node[T] | None = None
        self.verbs: dict[str, T] = {}
        self.template = ""


class Match(Generic[T]):
    """What a path leads to: routes by verb, the template for metrics, and the parameters' values in order."""

    __slots__ = ("template", "values", "verbs")

    def __init__(self, verbs: dict[str, T], template: str, values: tuple[str, ...]) -> None:
        self.verbs = verbs
        self.template = template
        self.values = values


class PathTree(Generic[T]):
    """Routes by path and verb."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._whole: dict[bytes, Match[T]] = {}
        """Paths without parameters, found in one step."""

    def add(self, verb: str, template: str, route: T) -> T | None:
        """Put a route in; the one already there for this verb and shape of path, if any (then nothing changes).

        Raises TypeError for a template that cannot be matched segment by segment.
        """
        node = self._root
        has_parameter = False
        for segment in segments_of(template):
            parameter = _PARAMETER.fullmatch(segment)
            if parameter is None:
                node = node.literal.setdefault(segment, _Node())
                continue
            has_parameter = True
            suffix = parameter[2]
            if suffix:
                node = node.suffixed.setdefault(suffix[1:], _Node())
            else:
                node.plain = node.plain or _Node()
                node = node.plain
        if verb in node.verbs:
            return node.verbs[verb]
        node.template = node.template or template
        node.verbs[verb] = route
        if not has_parameter:
            self._whole[template.encode("ascii")] = Match(node.verbs, node.template, ())
        return None

    def find(self, raw_path: bytes) -> Match[T] | None:
        """The match for a path as it stood in the request line, still percent-encoded and without the query.

        Parameters are decoded after the path was split, so `%2F` stays within its parameter. Raises `Invalid` (code
        `malformed_path`) when a parameter is not UTF-8.
        """
        whole = self._whole.get(raw_path)
        if whole is not None:
            return whole
        parts = raw_path.split(b"/", SEGMENTS_MAX + 1)
        if parts[0] or not 1 < len(parts) <= SEGMENTS_MAX + 1:
            return None
        try:
            segments = [(unquote_to_bytes(p) if b"%" in p else p).decode("utf-8") for p in parts[1:]]
        except UnicodeDecodeError as error:
            raise Invalid("the path is not UTF-8", code="malformed_path", source="path") from error
        values: list[str] = []
        node = _walk(self._root, segments, 0, values)
        if node is None:
            return None
        return Match(node.verbs, node.template, tuple(values))


def segments_of(template: str) -> list[str]:
    """The segments of a template, each checked."""
    segments = template.split("/")[1:] if template != "/" else []
    for segment in segments:
        if not (_PARAMETER.fullmatch(segment) or _LITERAL.fullmatch(segment)):
            raise TypeError(
                f"path {template!r}: segment {segment!r} must be a literal, {{name}} or {{name}}:verb, so that a path "
                f"is matched segment by segment"
            )
    if len(segments) > SEGMENTS_MAX:
        raise TypeError(f"path {template!r} has more than {SEGMENTS_MAX} segments")
    return segments


def _walk(node: _Node[T], segments: list[str], index: int, values: list[str]) -> _Node[T] | None:
    """Depth first. Each level has at most three ways on, and templates are few, so backing up stays cheap."""
    if index == len(segments):
        return node if node.verbs else None
    segment = segments[index]
    child = node.literal.get(segment)
    if child is not None and (found := _walk(child, segments, index + 1, values)) is not None:
        return found
    depth = len(values)
    if node.suffixed and ":" in segment:
        value, _, suffix = segment.rpartition(":")
        child = node.suffixed.get(suffix)
        if child is not None and value:
            values.append(value)
            if (found := _walk(child, segments, index + 1, values)) is not None:
                return found
            del values[depth:]
    if node.plain is not None and segment:
        values.append(segment)
        if (found := _walk(node.plain, segments, index + 1, values)) is not None:
            return found
        del values[depth:]
    return None
