"""Durations as Istio reads them: Go's, not those of protobuf's JSON.

Istio decodes its YAML with the older jsonpb, which hands a duration to Go's `time.ParseDuration`: `100ms`, `1m30s` and
`1.5h` are fine, while protobuf's own JSON form knows seconds only. Istio then wants whole milliseconds.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["duration_ns"]

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_TEXT_MAX = 64
_MAX_NS = 2**63 - 1


def duration_ns(text: str) -> int | None:
    """Nanoseconds, or None for what Go would not read (or holds no int64)."""
    bare = text[1:] if text[:1] in {"+", "-"} else text
    if bare == "0":
        return 0
    if not bare or len(bare) > _TEXT_MAX:
        return None
    total, at = 0, 0
    while at < len(bare):
        part = _PART.match(bare, at)
        if part is None:
            return None
        amount = part[1].rstrip(".")
        total += int(Fraction(amount if not amount.startswith(".") else "0" + amount) * _UNITS_NS[part[2]])
        at = part.end()
    if total > _MAX_NS:
        return None
    return -total if text.startswith("-") else total
