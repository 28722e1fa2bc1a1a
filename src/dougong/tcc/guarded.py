"""A participant behind a breaker: one that does not answer is left alone for a while, and costs nobody a wait.

Trying and telling share the breaker, since both ask the same process. A call that got an answer, also a No or a
complaint, is a success: the participant is there. One that it could not serve (unavailable, overloaded) is none, and
neither is one that was given a fair time (`fair_s`) and not answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dougong.clock import Clock
from dougong.errors import DeadlineExceeded, Overloaded, Unavailable
from dougong.mesh import Breaker, BreakerPolicy, BreakerState
from dougong.tcc.transaction import NotAsked
from dougong.tcc.wire import BranchReply, Forget, Forgotten, ParticipantClient, Settle, TryBatch
from dougong.telemetry import counter, gauge, get_logger

__all__ = ["GuardedClient"]

Request = TypeVar("Request")
Reply = TypeVar("Reply")
_log = get_logger("dougong.tcc")
_open = gauge("dougong_tcc_breaker_open", "1 while a participant is left alone.", labels=("participant",))
_refused = counter(
    "dougong_tcc_breaker_refused_total",
    "Calls not made, since the participant was left alone.",
    labels=("participant",),
)


class GuardedClient:
    """`ParticipantClient` around another. Refuses with `Unavailable` (`breaker_open`) while the breaker is open."""

    def __init__(
        self, name: str, client: ParticipantClient, policy: BreakerPolicy, clock: Clock, *, fair_s: float
    ) -> None:
        self._name = name
        self._client = client
        self._clock = clock
        self._fair_s = fair_s
        self._breaker = Breaker(policy)

    def wait_s(self) -> float:
        """How long until a call would be let through; 0 when one is now."""
        return self._breaker.wait_s(self._clock.monotonic())

    async def try_(self, request: TryBatch, /) -> BranchReply:
        return await self._call(self._client.try_, request)

    async def confirm(self, request: Settle, /) -> BranchReply:
        return await self._call(self._client.confirm, request)

    async def cancel(self, request: Settle, /) -> BranchReply:
        return await self._call(self._client.cancel, request)

    async def forget(self, request: Forget, /) -> Forgotten:
        return await self._call(self._client.forget, request)

    async def _call(self, call: Callable[[Request], Awaitable[Reply]], request: Request) -> Reply:
        ticket = self._breaker.admit(self._clock.monotonic())
        if ticket is None:
            _refused.inc(1, self._name)
            raise NotAsked(
                f"{self._name} did not answer lately; it is asked again in {self.wait_s():.1f} s",
                code="breaker_open",
                retry_after_s=self.wait_s(),
            )
        began = self._clock.monotonic()
        try:
            reply = await call(request)
        except (Unavailable, Overloaded, DeadlineExceeded, TimeoutError, asyncio.CancelledError) as error:
            # Cancelled: whoever called stopped waiting, because time was over. If it was short, that says nothing.
            hurried = not isinstance(error, Unavailable | Overloaded)
            if hurried and self._clock.monotonic() - began < self._fair_s:
                raise
            if self._breaker.failed(ticket, self._clock.monotonic()):
                _open.set(1, self._name)
                _log.warning("participant_left_alone", participant=self._name, wait_s=self.wait_s(), error=str(error))
            raise
        except Exception:
            self._answered()
            raise
        self._answered()
        return reply

    def _answered(self) -> None:
        if self._breaker.state is BreakerState.CLOSED:
            self._breaker.succeeded()
        elif self._breaker.succeeded():
            _open.set(0, self._name)
            _log.info("participant_answers_again", participant=self._name)
