"""How much a server has taken on, and whether it still takes more. Pure bookkeeping."""

from __future__ import annotations

from collections.abc import Callable

from dougong.errors import Overloaded, Unavailable
from dougong.rpc._transport import Lost

__all__ = ["Load"]


class Load:
    """Counts items in flight (a unary call is one, a batch of 100 is 100) against one limit for the whole server."""

    def __init__(self, max_in_flight: int) -> None:
        self.max_in_flight = max_in_flight
        self.in_flight = 0
        self.draining = False
        self._on_drain: set[Callable[[], object]] = set()
        self._on_idle: list[Callable[[], object]] = []

    def admit(self, count: int) -> None:
        """Take on `count` items, or raise with nothing taken on.

        A server that has nothing in flight takes a batch of any size: it could never be served else.
        """
        if self.draining:
            raise turned_away_draining()
        if self.in_flight and self.in_flight + count > self.max_in_flight:
            raise Overloaded(
                f"{self.in_flight} requests are in flight here already (limit {self.max_in_flight}): back off",
                code="server_busy",
                retry_after_s=0.1,
            )
        self.in_flight += count

    def release(self, count: int) -> None:
        self.in_flight -= count
        assert self.in_flight >= 0, "released more than was admitted"
        if not self.in_flight:
            waiting, self._on_idle = self._on_idle, []
            for notify in waiting:
                notify()

    def drain(self) -> None:
        """Take nothing new from now on."""
        self.draining = True
        for notify in list(self._on_drain):
            notify()

    def when_draining(self, notify: Callable[[], object]) -> Callable[[], None]:
        """Have `notify` called when draining starts (at once if it has); returns how to take that back."""
        self._on_drain.add(notify)
        if self.draining:
            notify()
        return lambda: self._on_drain.discard(notify)

    def when_idle(self, notify: Callable[[], object]) -> None:
        """Have `notify` called once nothing is in flight, at once if so now."""
        if self.in_flight:
            self._on_idle.append(notify)
        else:
            notify()


def turned_away_draining(last_batch: int = 0) -> Lost:
    """What a server says that is about to stop: nothing after `last_batch` was begun."""
    return Lost(
        Unavailable("this instance is stopping: ask another", code="draining", last_batch=last_batch), started=False
    )
