"""The way to one database: connections within a deadline, and none for a while when nobody answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from dougong.breaker import Breaker, BreakerPolicy
from dougong.errors import Error, Unavailable
from dougong.store._link import Engine, Link
from dougong.telemetry import get_logger

__all__ = ["Dialer"]

_log = get_logger("dougong.store")

POLICY = BreakerPolicy(failures=5, open_s=0.2, open_s_max=5.0)
"""Short at first: a server that restarts is back in a second or two, and asking costs little."""


class Dialer:
    """Opens the connections of one database, for its writer and its pool alike.

    Only whether a connection comes about is counted: what happens on one that is open says more about the statement
    than about the server, and connections that work go on being used while the breaker is open.
    """

    def __init__(self, engine: Engine, *, name: str, now: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self._name = name
        self._now = now
        self._breaker = Breaker(POLICY)
        self._last = ""

    async def connect(self, *, reads_only: bool = False) -> Link:
        """A new connection; `Unavailable` says why there is none (`connect_failed`, `breaker_open`, ...)."""
        breaker = self._breaker
        ticket = breaker.admit(self._now())
        if ticket is None:
            wait_s = breaker.wait_s(self._now())
            raise Unavailable(
                f"database {self.engine.options.where} did not answer time and again and is left alone for another"
                f" {wait_s:.1f} s; the last time: {self._last}",
                code="breaker_open",
                retry_after_s=round(wait_s, 3),
                store=self._name,
            )
        try:
            link = await self._open(reads_only=reads_only)
        except Error as fault:
            if fault.code != "connect_failed":  # it answered, if only that it does not want us
                breaker.succeeded()
                raise
            self._last = fault.message
            if breaker.failed(ticket, self._now()):
                _log.warning("a database does not answer and is left alone for a while", store=self._name)
            raise
        if breaker.succeeded():
            _log.info("a database answers again", store=self._name)
        return link

    async def _open(self, *, reads_only: bool) -> Link:
        engine, task = self.engine, asyncio.current_task()
        assert task is not None  # we are a coroutine
        cancelled = task.cancelling()
        try:
            async with asyncio.timeout(engine.options.connect_timeout_s):
                link = await engine.connect(reads_only=reads_only)
                if task.cancelling() > cancelled:
                    # A driver's `wait_for` has kept it to itself, as it does before Python 3.12 when what it waits for
                    # is there at the same moment. Nobody would ask a second time, so we would go on for ever.
                    link.abort()
                    raise asyncio.CancelledError
                return link
        except Exception as error:
            fault = engine.judge(error).fault
            if isinstance(error, TimeoutError):
                fault = Unavailable(
                    f"database {engine.options.where}: no connection within {engine.options.connect_timeout_s:g} s;"
                    " check that the server runs and the way to it is open",
                    code="connect_failed",
                    retry_after_s=1.0,
                )
            elif fault.code == "connection_lost":
                fault = Unavailable(fault.message, code="connect_failed", retry_after_s=1.0)
            raise fault from error
