"""The W3C `traceparent` header: how a trace crosses from one process to the next.

Source: https://www.w3.org/TR/trace-context/ — `00-<32 hex trace id>-<16 hex parent id>-<2 hex flags>`, lower case only,
neither id all zeros. A higher version may carry more after the flags; version `ff` is forbidden.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Parsed", "format_traceparent", "parse_traceparent"]

_SAMPLED = 0x01
_LENGTH_MAX = 256  # longer than any known version; keeps what strangers send from being scanned at length
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)


class Parsed(NamedTuple):
    trace: int
    span: int
    sampled: bool


def parse_traceparent(text: str) -> Parsed | None:
    """The ids in `text`, or None when it is not a valid header. Whatever is wrong, the answer is a new trace."""
    if len(text) > _LENGTH_MAX or (match := _FORM.fullmatch(text)) is None:
        return None
    version, trace, span, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    parsed = Parsed(int(trace, 16), int(span, 16), bool(int(flags, 16) & _SAMPLED))
    return parsed if parsed.trace and parsed.span else None


def format_traceparent(trace: int, span: int, sampled: bool) -> str:
    return f"00-{trace:032x}-{span:016x}-{'01' if sampled else '00'}"
