"""A process's log lines, which a supervisor has written as JSON, as a person reads them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import msgspec

__all__ = ["LogLine", "printable", "read_log_line"]

# The supervisor knows which process it is; the module matters to who debugs it; a trace id is enough to find spans.
_LEFT_OUT = frozenset({"time", "level", "event", "app", "logger", "span_id", "exception"})
_decoder = msgspec.json.Decoder(dict[str, object])


class LogLine(msgspec.Struct, frozen=True):
    """One line of a log."""

    event: str
    time: str = ""
    """HH:MM:SS here; empty when the line was not written by a logger."""
    level: str = ""
    fields: Mapping[str, str] = {}
    details: tuple[str, ...] = ()
    """Lines of a traceback."""

    def __str__(self) -> str:
        fields = "".join(f" {name}={value}" for name, value in self.fields.items())
        details = "".join(f"\n    {line}" for line in self.details)
        return f"{self.level}: {self.event}{fields}{details}" if self.level else self.event


def read_log_line(text: str) -> LogLine:
    """Read what a process printed: a JSON log line, or anything else, which becomes the event as it is."""
    try:
        found = _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeError):
        return LogLine(printable(text))
    if "event" not in found or "level" not in found:
        return LogLine(printable(text))
    return LogLine(
        event=printable(str(found["event"])),
        time=_time(found.get("time")),
        level=printable(str(found["level"])),
        fields={printable(name): _value(value) for name, value in found.items() if name not in _LEFT_OUT},
        details=tuple(map(printable, str(found.get("exception") or "").splitlines())),
    )


def printable(text: str) -> str:
    """Without control characters: what a client sent us must not move the reader's cursor."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape", "replace").decode() for c in text)


def _value(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    plain = bool(text) and not set(text) & set(" \t\"'=")
    return printable(text if plain or not isinstance(value, str) else msgspec.json.encode(text).decode())


def _time(value: object) -> str:
    try:
        return dt.datetime.fromisoformat(str(value)).astimezone().strftime("%H:%M:%S")
    except (ValueError, OverflowError):
        return ""
