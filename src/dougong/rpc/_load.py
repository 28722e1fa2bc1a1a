"""How much a server has taken on, and whether it still takes more. Pure bookkeeping."""

from __future__ import annotations

from collections.abc import Callable

from dougong.errors import Overloaded, Unavailable
from dougong.rpc._transport import Lost

__all__ = ["Load"]


DRAINING = "draining"


class Load:
    """Counts items in flight (a unary call is one, a batch of 100 is 100) against one limit for the whole server."""

    def __init__(self, max_in_flight: int) -> None:
        self.max_in_flight = max_in_flight
        self.in_flight = 0
        self.draining = False
        self.turned_away = 0
        """Requests since draining started."""
        self._streams: dict[Callable[[], object], None] = {}
        self._waiting: list[tuple[Callable[[], bool], Callable[[], object]]] = []

    def admit(self, count: int) -> None:
        """Take on `count` items, or raise with nothing taken on.

        A server that has nothing in flight takes a batch of any size: it could never be served else.
        """
        if self.draining:
            self.turned_away += count
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
        self._look()

    def drain(self) -> None:
        """Take nothing new from now on."""
        self.draining = True
        for turn_away in list(self._streams):
            turn_away()

    def stream_opened(self, turn_away: Callable[[], object]) -> Callable[[], None]:
        """Count a stream; `turn_away` is called when draining starts, or at once. Returns how to count it out."""
        self._streams[turn_away] = None
        if self.draining:
            turn_away()

        def closed() -> None:
            self._streams.pop(turn_away, None)
            self._look()

        return closed

    def idle(self) -> bool:
        """Nothing is in flight."""
        return not self.in_flight

    def quiet(self) -> bool:
        """Nothing is in flight and no stream is open."""
        return not self.in_flight and not self._streams

    def when(self, condition: Callable[[], bool], notify: Callable[[], object]) -> None:
        """Have `notify` called once `condition` (`idle` or `quiet`) holds, at once if so now."""
        if condition():
            notify()
        else:
            self._waiting.append((condition, notify))

    def _look(self) -> None:
        if self._waiting:
            now = [(condition, notify) for condition, notify in self._waiting if condition()]
            for waiting in now:
                self._waiting.remove(waiting)
                waiting[1]()


def turned_away_draining() -> Lost:
    """What a server says that is about to stop: nothing was begun."""
    return Lost(Unavailable("this instance is stopping: ask another", code=DRAINING), started=False)
