"""Who is calling and how long they will wait, carried along the task tree.

Context variables, so that a handler three awaits deep can ask without every function in between passing it on, and so
that a client call made inside a handler inherits what is left of the handler's own deadline.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from types import TracebackType

import msgspec

from dougong.rpc._baggage import enter_baggage

__all__ = ["Caller", "Origin", "call_scope", "current_caller", "current_origin", "deadline", "remaining_s"]


class Caller(msgspec.Struct, frozen=True):
    """On whose behalf a call is made, once their token was believed."""

    subject: str
    """Stable id of the user, or the name of the app for a caller of the system."""
    roles: tuple[str, ...] = ()
    system: bool = False
    """One of our own processes: may call internal methods and act for anybody."""
    session: str = ""
    """Which login the token comes from; empty when it names none."""


class Origin(msgspec.Struct, frozen=True):
    """Where a call entered the system, as the process at its door saw it; calls made while serving it say it on.

    Believed from the system's own processes only. Batched methods mix calls of many origins, so they have none.
    """

    address: str = ""
    """The client's IP address; empty for a call that did not come in by HTTP."""
    session: str = ""
    """Which login the client's token came from; empty when it named none."""


_NOWHERE = Origin()
_caller: ContextVar[Caller | None] = ContextVar("dougong_caller", default=None)
_deadline: ContextVar[float | None] = ContextVar("dougong_deadline", default=None)
_origin: ContextVar[Origin] = ContextVar("dougong_origin", default=_NOWHERE)


def current_caller() -> Caller | None:
    """Who called the method that runs now; None for nobody (a public method, or no call at all)."""
    return _caller.get()


def current_origin() -> Origin:
    """Where the call that runs now entered the system; empty fields for what nobody knows."""
    return _origin.get()


def deadline() -> float | None:
    """When the current call's time is up, on the running loop's clock (`loop.time()`); None without a deadline."""
    return _deadline.get()


def remaining_s() -> float | None:
    """Seconds left for the current call, never negative; None without a deadline."""
    end = _deadline.get()
    return None if end is None else max(0.0, end - _now())


class _Scope:
    """Context manager behind `call_scope`: a class, since a generator costs three times as much, on every call."""

    __slots__ = ("_caller", "_origin", "_timeout_s", "_tokens")

    def __init__(self, caller: Caller | None, timeout_s: float | None, origin: Origin) -> None:
        self._caller = caller
        self._timeout_s = timeout_s
        self._origin = origin
        self._tokens: tuple[Token[Caller | None], Token[float | None], Token[Origin]] | None = None

    def __enter__(self) -> None:
        outer = _deadline.get()
        end = None if self._timeout_s is None else _now() + self._timeout_s
        if end is None or (outer is not None and outer < end):
            end = outer
        self._tokens = (_caller.set(self._caller), _deadline.set(end), _origin.set(self._origin))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tokens, self._tokens = self._tokens, None
        assert tokens is not None, "entered once and left once"
        _origin.reset(tokens[2])
        _deadline.reset(tokens[1])
        _caller.reset(tokens[0])


def call_scope(
    *, caller: Caller | None = None, timeout_s: float | None = None, origin: Origin = _NOWHERE
) -> AbstractContextManager[None]:
    """Run the body as a call by `caller`, from `origin`, that may take `timeout_s`.

    A deadline that is already set is only ever shortened: what a caller upstream will not wait for is not worth doing.
    """
    return _Scope(caller, timeout_s, origin)


def enter_call(caller: Caller | None, end: float | None, origin: Origin = _NOWHERE, baggage: str = "") -> None:
    """Set all four for the rest of the current task; for tasks that serve exactly one call."""
    _caller.set(caller)
    _deadline.set(end)
    _origin.set(origin)
    enter_baggage(baggage)


def _now() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:  # outside a loop: asyncio and uvloop both count on CLOCK_MONOTONIC
        return time.monotonic()
