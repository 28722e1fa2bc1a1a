"""A caller's own stream at an instance: one call as policy counts it, whose first message or end is the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dougong.errors import DeadlineExceeded, Error
from dougong.rpc._transport import Lost
from dougong.rpc.pool import Peer, Pool

__all__ = ["TIMER_S", "Place"]

TIMER_S = 0.005
"""So early may a time-out come; a `DeadlineExceeded` with more time left is the method's own answer."""


class Place:
    """To be left when the stream is over."""

    __slots__ = ("_began", "_judged", "_leave", "_peer", "_pool", "_took_s")

    def __init__(self, pool: Pool, peer: Peer, leave: Callable[[], None], began: float) -> None:
        self._pool = pool
        self._peer = peer
        self._leave = leave
        self._began = began
        self._judged = False
        self._took_s = 0.0

    def answered(self) -> None:
        if not self._judged:
            self._judged = True
            self._took_s = _now() - self._began
            self._pool.answered(self._peer, self._began)

    def lost(self, lost: Lost) -> None:
        self._pool.failed(self._peer, lost, self._since(), 0.0)

    def failed(self, error: Error, end: float | None) -> None:
        if not isinstance(error, DeadlineExceeded) or end is None or _now() < end - TIMER_S:
            self._pool.answered(self._peer, self._since(), error)
        elif not self._judged:  # a stream that lives until its caller's time is up hangs only if it said nothing
            self._pool.timed_out(self._peer, self._began)

    def _since(self) -> float:
        """How long a stream lives says nothing about how fast its instance is: only the first message's wait does."""
        return _now() - self._took_s if self._judged else self._began

    def leave(self) -> None:
        self._leave()
        self._pool.release(self._peer)


def _now() -> float:
    return asyncio.get_running_loop().time()
