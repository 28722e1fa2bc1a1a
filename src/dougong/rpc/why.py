"""What became of one call on its way: for logs, spans, and whoever wonders why it took so long."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from dougong.errors import Error
from dougong.telemetry import Span

__all__ = ["CallRecord", "asked", "why"]

_RETRIES_MAX = 16


class CallRecord:
    """Filled in while the call is made; of several in one block, the last one that ended. Seconds."""

    __slots__ = (
        "attempts",
        "batch_size",
        "connection_age_s",
        "endpoint",
        "instances",
        "method",
        "queue_s",
        "retried",
        "reused",
        "revision",
    )

    def __init__(self) -> None:
        self.method = ""
        self.endpoint = ""
        """Address of the instance that was asked last."""
        self.attempts = 0
        """Times it was sent, or would have been had there been a connection."""
        self.queue_s = 0.0
        """Waited for a batch to ride in."""
        self.batch_size = 0
        """Items that travelled together; 0 for a plain call."""
        self.reused = False
        """Nothing had to be opened for it."""
        self.connection_age_s = 0.0
        self.retried: list[tuple[str, str]] = []
        """(address, error code) of the attempts before the last, the first 16."""
        self.instances = 0
        """Listed when it was made."""
        self.revision = 0
        """Of the table of instances, where the resolver has one."""

    def begin(self, method: str) -> None:
        self.__init__()  # type: ignore[misc]
        self.method = method

    def failed(self, endpoint: str, error: Error) -> None:
        if len(self.retried) < _RETRIES_MAX:
            self.retried.append((endpoint, error.code))

    def take(self, other: CallRecord) -> None:
        """All but what is the caller's own: how long it waited."""
        for name in self.__slots__:
            if name != "queue_s":
                setattr(self, name, getattr(other, name))

    def attributes(self) -> dict[str, str | int | float | bool]:
        """For a span."""
        return {
            "rpc.method": self.method,
            "rpc.endpoint": self.endpoint,
            "rpc.attempts": self.attempts,
            "rpc.queue_ms": round(self.queue_s * 1000, 3),
            "rpc.batch_size": self.batch_size,
            "rpc.reused": self.reused,
            "rpc.connection_age_s": round(self.connection_age_s, 3),
            "rpc.retried": " ".join(f"{endpoint}:{code}" for endpoint, code in self.retried),
            "rpc.instances": self.instances,
            "rpc.revision": self.revision,
        }


_asked: ContextVar[CallRecord | None] = ContextVar("dougong_why", default=None)
asked = _asked.get
"""The record to fill in, or None: nobody wants to know."""


def nobody_asks() -> None:
    """For the rest of the current context."""
    _asked.set(None)


@contextmanager
def why(onto: Span | None = None) -> Generator[CallRecord]:
    """Learn what became of the call made in the block: `with why() as record: await orders.get(...)`.

    With `onto`, it is written to that span at the end. Tasks started in the block fill in the same record.
    """
    record = CallRecord()
    token = _asked.set(record)
    try:
        yield record
    finally:
        _asked.reset(token)
        if onto is not None and record.method:
            for key, value in record.attributes().items():
                onto.set(key, value)
