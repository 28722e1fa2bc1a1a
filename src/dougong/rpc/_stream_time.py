"""How long a stream may take by its route: from the end of the requests on, as Envoy counts it.

While requests may still come, no time runs: a conversation lasts as long as both sides want. Once the last one was
sent, `timeout` is for all that is still to come, `perTryTimeout` for the first response, unless there was one already.
A stream is never sent again once it is open: what the caller gave is gone with it, where Envoy would have kept it.
"""

from __future__ import annotations

import asyncio
from math import inf

from dougong.errors import DeadlineExceeded
from dougong.rpc._transport import Stream

__all__ = ["StreamTime"]


class StreamTime:
    """Of one stream. Seconds, 0 for no limit."""

    __slots__ = ("_answered", "_first_until", "_path", "_per_try_s", "_timeout_s", "_until", "_window", "over")

    def __init__(self, path: str, timeout_s: float, per_try_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._per_try_s = per_try_s
        self._until = self._first_until = inf
        self._answered = False
        self._window: asyncio.Timeout | None = None
        self.over = False
        """It took longer."""

    def sent(self) -> None:
        """The last request was."""
        now = asyncio.get_running_loop().time()
        self._until = now + self._timeout_s if self._timeout_s else inf
        self._first_until = now + self._per_try_s if self._per_try_s else inf
        if self._window is not None:  # somebody waits already
            self._window.reschedule(self._end())

    async def receive(self, stream: Stream) -> bytes | None:
        """As `Stream.receive`. Raises `DeadlineExceeded` (`route_timeout`, `try_timeout`) too, and then gives it up."""
        if not self._timeout_s and not self._per_try_s:
            return await stream.receive()
        try:
            async with asyncio.timeout_at(self._end()) as self._window:
                message = await stream.receive()
        except TimeoutError:
            stream.cancel()
            self.over = True
            late = self._answered or self._until <= self._first_until  # a loop may be early by less than a tick
            raise DeadlineExceeded(
                f"{self._path}: its route lets it take {self._timeout_s} s after its last request"
                if late
                else f"{self._path}: its route lets a try take {self._per_try_s} s to answer",
                code="route_timeout" if late else "try_timeout",
            ) from None
        finally:
            self._window = None
        self._answered = True
        return message

    def _end(self) -> float | None:
        end = self._until if self._answered else min(self._until, self._first_until)
        return None if end == inf else end
