"""One unary call: there, served, and back, with what was drawn for it on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from dougong.errors import DeadlineExceeded, Internal, Invalid
from dougong.rpc import Lost, Metadata
from dougong.simulation.answers import arrived, check_size, connect_failed, connection_lost

if TYPE_CHECKING:
    from dougong.simulation.network import Link, ListenerHere, Network, NetworkProcess

__all__ = ["ANSWER_LOST", "LATE", "LOST", "TWICE", "CallHere"]

LOST, ANSWER_LOST, TWICE, LATE = "request lost", "answer lost", "request twice", "request late"
_SILENCE_S = 30.0
"""A caller without a deadline hears of a loss after this long at the latest."""
_TWICE_S_MAX = 60.0
_LATE_S = 3.0
_LATE_S_MAX = 30.0
_RESET_S_MAX = 2.0


class CallHere:
    """One unary call on its way there and back."""

    __slots__ = (
        "_address",
        "_back_s",
        "_cancel",
        "_fault",
        "_how",
        "_link",
        "_metadata",
        "_network",
        "_path",
        "_process",
        "_request",
        "_serving",
        "_take_copy_back",
        "_timeout_s",
        "_timer",
        "answer",
    )

    def __init__(
        self,
        network: Network,
        process: NetworkProcess,
        link: Link,
        address: str,
        path: str,
        request: bytes,
        metadata: Metadata,
        timeout_s: float | None,
    ) -> None:
        self._network = network
        self._process = process
        self._link = link
        self._address = address
        self._path = path
        self._request = request
        self._metadata = metadata
        self._timeout_s = timeout_s
        self._serving: tuple[ListenerHere, asyncio.Task[Any]] | None = None
        self._take_copy_back: Callable[[], None] | None = None
        loop = network.loop
        self.answer: asyncio.Future[bytes] = loop.create_future()
        there_s, self._back_s, self._cancel, fault, how = link.call(path)
        self._fault, self._how = fault, how if fault else self._cancel
        later = loop.later  # messages under way are nobody's: they outlive their sender
        self._timer = later(timeout_s if timeout_s is not None else _SILENCE_S, self._time_is_up)
        if fault == LOST:
            self._lose(there_s)
        elif fault == LATE:
            self._lose(there_s)
            later(_LATE_S + how * (_LATE_S_MAX - _LATE_S), self._copy)
        else:
            later(there_s, self._arrive)

    def fail(self, error: Exception) -> None:
        """Its caller hears of it now."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def leave(self) -> None:
        """The caller waits no longer."""
        self._timer.cancel()
        serving = self._serving
        if serving is not None and self._cancel < 0.5:  # else the other end never hears of it
            self._network.loop.later(self._cancel * 0.1, serving[1].cancel)

    def _time_is_up(self) -> None:
        if self._timeout_s is None:
            self.fail(connection_lost(self._address, "nothing was heard"))
        else:
            self.fail(
                DeadlineExceeded(f"{self._path} at {self._address} did not answer within {self._timeout_s:.3f} s")
            )

    def _lose(self, there_s: float) -> None:
        """A third of the losses is noticed at once, a third later, and of a third nobody is told."""
        if self._how < 0.67:
            wait_s = 0.0 if self._how < 0.33 else (self._how - 0.33) * 3 * _RESET_S_MAX
            self._network.loop.later(
                there_s + wait_s, self.fail, connection_lost(self._address, "the connection was reset")
            )

    def _arrive(self) -> None:
        network = self._network
        listener = network.listener(self._address)
        if not network.hears(self._process.name, self._address.rpartition(":")[0]):
            self._lose(self._back_s)
            return
        if listener is None:
            network.loop.later(self._back_s, self.fail, connect_failed(self._address))
            return
        route = listener.endpoint.routes.get(self._path)
        if route is None or route.unary is None:
            self.fail(Internal(f"{self._address} has no method {self._path}", code="unimplemented"))
            return
        try:
            check_size(self._request, listener.endpoint)
        except Invalid as error:
            self.fail(error)
            return
        network.note(listener.host, f"< {self._process.name} {self._path}")
        if self._fault == TWICE:
            self._take_copy_back = network.loop.later(self._how**3 * _TWICE_S_MAX, self._copy).cancel
        work = route.unary(self._request, self._metadata, self._timeout_s)
        task = listener.serve(_coroutine(work), self._broken)
        self._serving = listener, task
        task.add_done_callback(self._served)

    def _copy(self) -> None:
        """The request again, whoever listens there by now; nobody waits for the answer."""
        network = self._network
        listener = network.listener(self._address)
        if listener is None or not listener.may_repeat(self._path):
            return
        route = listener.endpoint.routes.get(self._path)
        if route is None or route.unary is None or not network.hears(self._process.name, listener.host):
            return
        network.note(listener.host, f"< {self._process.name} {self._path} (a copy)")
        task = listener.serve(_coroutine(route.unary(self._request, self._metadata, self._timeout_s)), _nothing)
        task.add_done_callback(listener.served)
        task.add_done_callback(_seen)

    def _served(self, task: asyncio.Task[bytes]) -> None:
        assert self._serving is not None
        listener, _ = self._serving
        self._serving = None
        listener.served(task)
        failure: Exception | None = None
        answer = b""
        if task.cancelled():
            failure = connection_lost(self._address, "it went away")
        elif (error := task.exception()) is not None:
            failure = arrived(error)
            if self._take_copy_back is not None and isinstance(failure, Lost) and not failure.started:
                self._take_copy_back()  # who is told that nothing was begun can rely on it
        else:
            answer = task.result()
            try:
                check_size(answer, listener.endpoint)
            except Invalid as invalid:
                failure = invalid
        if self._fault == ANSWER_LOST or not self._network.hears(self._process.name, listener.host):
            self._lose(self._back_s)
        else:
            self._network.loop.later(self._back_s, self._answered, answer, failure)

    def _answered(self, answer: bytes, failure: Exception | None) -> None:
        if self.answer.done():
            return
        if failure is not None:
            self.answer.set_exception(failure)
        else:
            self.answer.set_result(answer)

    def _broken(self) -> None:
        """The process that served it has died."""
        self._serving = None
        self._lose(self._back_s)


def _coroutine(work: Any) -> Coroutine[Any, Any, Any]:
    if asyncio.iscoroutine(work):
        return work

    async def wait() -> Any:
        return await work

    return wait()


def _nothing() -> None:
    pass


def _seen(task: asyncio.Task[Any]) -> None:
    """Nobody waits for it: its error has been looked at."""
    if not task.cancelled():
        task.exception()
