"""Sessions that ended before their tokens expire.

A token speaks for itself until it expires, so somebody who logs out has to be remembered by whoever believes tokens,
for as long as the longest of them could live. How the news come here is the application's matter.
"""

from __future__ import annotations

import heapq

from dougong.clock import Clock, SystemClock
from dougong.errors import Invalid

__all__ = ["EndedSessions"]


class EndedSessions:
    """What a `JwtAuthenticator` asks on every call; kept in memory, dropped when no token of the session can live."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self._until_us: dict[str, int] = {}
        self.changes = 0
        """How often a session was ended: who holds connections looks for theirs when it has grown."""
        self._by_time: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._until_us)

    def __contains__(self, session: str) -> bool:
        return session in self._until_us

    def end(self, session: str, until_us: int) -> None:
        """Believe no token of `session` any more; `until_us` (Unix time) is when the last of them has expired.

        Said again with a later time, the later one counts.
        """
        if not session:
            raise Invalid("tokens without a session cannot be ended by it", code="session_missing")
        if until_us > self._until_us.get(session, 0):
            self.changes += 1
            self._until_us[session] = until_us
            heapq.heappush(self._by_time, (until_us, session))
        self._drop(self._clock.now_us())

    def _drop(self, now_us: int) -> None:
        while self._by_time and self._by_time[0][0] < now_us:
            until_us, session = heapq.heappop(self._by_time)
            if self._until_us.get(session) == until_us:
                del self._until_us[session]
