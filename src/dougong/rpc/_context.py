"""Who is calling and how long they will wait, carried along the task tree.

Context variables, so that a handler three awaits deep can ask without every function in between passing it on, and so
that a client call made inside a handler inherits what is left of the handler's own deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

__all__ = ["Caller", "call_scope", "current_caller", "deadline", "remaining_s"]


class Caller(msgspec.Struct, frozen=True):
    """On whose behalf a call is made, once their token was believed."""

    subject: str
    """Stable id of the user, or the name of the app for a caller of the system."""
    roles: tuple[str, ...] = ()
    system: bool = False
    """One of our own processes: may call internal methods and act for anybody."""


_caller: ContextVar[Caller | None] = ContextVar("dougong_caller", default=None)
_deadline: ContextVar[float | None] = ContextVar("dougong_deadline", default=None)


def current_caller() -> Caller | None:
    """Who called the method that runs now; None for nobody (a public method, or no call at all)."""
    return _caller.get()


def deadline() -> float | None:
    """When the current call's time is up, on the running loop's clock (`loop.time()`); None without a deadline."""
    return _deadline.get()


def remaining_s() -> float | None:
    """Seconds left for the current call, never negative; None without a deadline."""
    end = _deadline.get()
    return None if end is None else max(0.0, end - _now())


@contextmanager
def call_scope(*, caller: Caller | None = None, timeout_s: float | None = None) -> Generator[None]:
    """Run the body as a call by `caller` that may take `timeout_s`.

    A deadline that is already set is only ever shortened: what a caller upstream will not wait for is not worth doing.
    """
    caller_token = _caller.set(caller)
    outer = _deadline.get()
    end = None if timeout_s is None else _now() + timeout_s
    if end is None or (outer is not None and outer < end):
        end = outer
    deadline_token = _deadline.set(end)
    try:
        yield
    finally:
        _deadline.reset(deadline_token)
        _caller.reset(caller_token)


def enter_call(caller: Caller | None, end: float | None) -> None:
    """Set both for the rest of the current task; for tasks that serve exactly one call."""
    _caller.set(caller)
    _deadline.set(end)


def _now() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:  # outside a loop: asyncio and uvloop both count on CLOCK_MONOTONIC
        return time.monotonic()
