"""The connections to one instance: what `StreamPool` decides, carried out."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from random import Random
from typing import Protocol, TypeVar, runtime_checkable

from dougong.contract import BatchCodec
from dougong.errors import DeadlineExceeded, Error, Overloaded, Unavailable
from dougong.mesh import ConnectionLimits, Limits
from dougong.rpc._batch_client import BatchStream
from dougong.rpc._load import DRAINING
from dougong.rpc._pool_parts import Check, Held, Link, LinkState, Open, Refuse, Step, Used, Wait
from dougong.rpc._transport import Connection, Lost, Metadata, Stream, connect_failed
from dougong.rpc._turns import Turns
from dougong.rpc.pool_settings import PoolSettings, PoolStats
from dougong.rpc.stream_pool import StreamPool
from dougong.rpc.why import CallRecord

__all__ = ["NOT_SERVING", "NO_ROOM", "Checked", "Connections", "Opened"]

NO_ROOM = frozenset(["connections_full", "max_pending", "max_requests"])
"""Codes of our own refusals, before anything is sent."""
NOT_SERVING = "not_serving"
_CLOSE_S = 1.0
_ACCEPTED_S = 0.5
_FAILURES = {DRAINING: "sent_away", NOT_SERVING: "unhealthy"}
_TICK_S_MIN = 0.01

Found = TypeVar("Found")


def _nothing() -> None:
    pass


@runtime_checkable
class Checked(Protocol):
    """A connection that can be established and asked for its health; one that cannot is taken to be well always."""

    on_leaving: Callable[[], object] | None
    """Called when the connection, once established, is not to be used for anything new."""

    async def check(self, timeout_s: float) -> None:
        """Connect if need be, and ask whether the instance serves. Raises `Lost` (not started)."""


@runtime_checkable
class Acknowledged(Protocol):
    """A stream whose server says that it has taken it; of others it is taken for granted."""

    async def accepted(self, timeout_s: float) -> None:
        """Wait for that, or for `timeout_s`. Raises `Lost`."""


class Opened:
    """A stream leased for one batch."""

    __slots__ = ("age_s", "held", "reused", "stream")

    def __init__(self, held: Held, stream: BatchStream, age_s: float, *, reused: bool) -> None:
        self.held = held
        self.stream = stream
        self.age_s = age_s
        self.reused = reused


class Connections:
    """Those of one client to one instance."""

    def __init__(
        self,
        address: str,
        connect: Callable[[str], Connection],
        settings: PoolSettings,
        random: Random,
        limits: Limits | None = None,
        broken: Callable[[], object] = _nothing,
    ) -> None:
        """`limits` are those of the cluster, all its instances together; `broken` is told when a stream broke, whether
        a batch was under way on it or not: it often knows of a crash before any call does."""
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._connect = connect
        self._settings = settings
        self._broken = broken
        self._limits = limits if limits is not None else Limits(ConnectionLimits())
        self._pool = StreamPool(settings, self._loop.time(), random, self._limits)
        self._open: dict[Link, Connection] = {}
        self._streams: dict[Held, BatchStream] = {}
        self._checks = True
        """Whether these connections can be checked: if not, losses say nothing about them."""
        self._checking: asyncio.Task[None] | None = None
        self._turns = Turns(self._loop)
        self._leaving: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def stats(self) -> PoolStats:
        return self._pool.stats

    async def unary(
        self, path: str, request: bytes, metadata: Metadata, end: float, note: CallRecord | None = None
    ) -> bytes:
        """One call. Raises what `Connection.unary` does, and `Overloaded` when there was no room in time."""
        loop, pool = self._loop, self._pool
        found = pool.lease_link(loop.time())
        link = found if isinstance(found, Link) else await self._obtain_link(found, end)
        if note is not None:
            note.reused, note.connection_age_s = found is link, loop.time() - link.opened_at
        used = Used.LEFT
        try:
            response = await self._open[link].unary(path, request, metadata, max(0.001, end - loop.time()))
            used = Used.ANSWERED
            return response
        except Error as error:
            used = Used.TIMED_OUT if isinstance(error, DeadlineExceeded) else Used.ANSWERED
            raise
        except Lost as lost:
            used = self._of(lost)
            raise
        finally:
            self._give_back(link, used)

    async def stream(
        self, path: str, metadata: Metadata, timeout_s: float | None, end: float
    ) -> tuple[Stream, Callable[[], None]]:
        """A stream of the caller's own, and how to give its place back."""
        pool = self._pool
        found = pool.lease_link(self._loop.time())
        link = found if isinstance(found, Link) else await self._obtain_link(found, end)
        try:
            stream = await self._open[link].stream(path, metadata, timeout_s)
        except BaseException as error:
            self._give_back(link, self._of(error) if isinstance(error, Lost) else Used.LEFT)
            raise
        return stream, functools.partial(self._give_back, link, Used.LEFT)

    async def lease(self, path: str, metadata: Metadata, frames: BatchCodec, end: float) -> Opened:
        """A stream for one batch; give it back with `release`. Raises as `unary`."""
        key = path, metadata.authorization, metadata.headers
        leased = self._pool.lease_stream(key, self._loop.time())
        if isinstance(leased, Held):
            return self._opened(leased, reused=True)
        found: Held | Open
        if isinstance(leased, Open):
            found = leased
        else:
            again = functools.partial(self._pool.lease_stream, key, waiting=True)
            found = await self._obtain(leased, again, end, batch=True)
        if isinstance(found, Open):
            return await self._open_stream(found.held, path, metadata, frames)
        return self._opened(found, reused=True)

    def _opened(self, held: Held, *, reused: bool) -> Opened:
        return Opened(held, self._streams[held], self._loop.time() - held.link.opened_at, reused=reused)

    def release(self, opened: Opened, used: Used) -> None:
        if not self._checks:
            used = Used.LEFT
        held = opened.held
        self._pool.release_stream(held, self._loop.time(), used)
        if held.ended and not held.frames:
            self._drop(held)
        self._changed()

    def used(self, failure: Error | Lost | None) -> Used:
        """What the end of a batch says about the connection."""
        return self._of(failure) if isinstance(failure, Lost) else Used.ANSWERED

    async def close(self) -> None:
        """Break off what is under way."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        self._turns.wake_all()
        for stream in list(self._streams.values()):
            await stream.close()
        for connection in list(self._open.values()):
            await connection.close()
        self._pool.abandon()
        self._open.clear()
        while self._leaving:
            await asyncio.wait(self._leaving)

    def _of(self, lost: Lost) -> Used:
        if not self._checks:
            return Used.LEFT
        return Used.SENT_AWAY if lost.error.code == DRAINING else Used.LOST

    def _give_back(self, link: Link, used: Used) -> None:
        if not self._checks:
            used = Used.LEFT
        self._pool.release_link(link, self._loop.time(), used)
        if self._turns.calls and link.state is not LinkState.DRAINING:  # which has no room, whatever ends on it
            self._turns.wake_call()
        self._changed()

    async def _obtain_link(self, step: Step, end: float) -> Link:
        return await self._obtain(step, functools.partial(self._pool.lease_link, waiting=True), end)

    async def _obtain(
        self, step: Step, again: Callable[[float], Found | Step], end: float, *, batch: bool = False
    ) -> Found:
        """Whatever it takes until `again` finds something; so long the call is pending."""
        try:
            return await self._obtained(step, again, end, batch)
        finally:
            self._limits.waited()

    async def _obtained(self, step: Step, again: Callable[[float], Found | Step], end: float, batch: bool) -> Found:
        loop = self._loop
        give_up_at = min(end, loop.time() + self._settings.wait_s)
        while True:
            if self._closed:
                raise connect_failed(self._address, "the client is closed")
            if isinstance(step, Check):
                self._establish(step.link)
                await self._established(end)
            elif isinstance(step, Refuse):
                raise self._refused()
            elif step.why == "connecting":
                await self._established(end)
            else:
                try:
                    await self._turns.wait(step.until, give_up_at, batch=batch)
                except TimeoutError:
                    raise self._no_room(step) from None
            found = again(loop.time())
            if not isinstance(found, Check | Wait | Refuse):
                return found
            step = found

    def _establish(self, link: Link) -> None:
        connection = self._open.get(link)
        if connection is None:
            connection = self._open[link] = self._connect(self._address)
            self._checks = isinstance(connection, Checked)
        if not isinstance(connection, Checked):
            self._pool.checked(link, self._loop.time())
            self._schedule()
            return
        connection.on_leaving = functools.partial(self._left_by_server, link)
        self._checking = self._loop.create_task(self._check(link, connection))
        self._checking.add_done_callback(_seen)

    def _left_by_server(self, link: Link) -> None:
        self._pool.leaving(link, self._loop.time())
        self._changed()

    async def _check(self, link: Link, connection: Checked) -> None:
        failure = "broken"
        try:
            await connection.check(self._settings.check_s)
            failure = ""
        except Lost as lost:
            failure = _FAILURES.get(lost.error.code, "broken")
            if failure == "broken":
                self._limits.counters.upstream_cx_connect_fail += 1
            raise
        finally:
            self._checking = None
            self._pool.checked(link, self._loop.time(), failure)
            self._changed()
            self._schedule()
            self._turns.wake_all()

    async def _established(self, end: float) -> None:
        """Wait for the check under way; its failure is that of everybody who waits for it."""
        checking = self._checking
        if checking is None:
            return
        try:
            async with asyncio.timeout_at(end):
                await asyncio.shield(checking)
        except Lost:
            self._limits.counters.upstream_rq_pending_failure_eject += 1
            raise
        except TimeoutError:
            raise connect_failed(self._address, "not connected in time") from None
        except asyncio.CancelledError:
            if not checking.cancelled() or _cancelled_ourselves():
                raise
            raise connect_failed(self._address, "the client is closed") from None

    async def _open_stream(self, held: Held, path: str, metadata: Metadata, frames: BatchCodec) -> Opened:
        opened: Stream | None = None
        try:
            # No deadline: the stream outlives the batch it is opened for.
            opened = await self._open[held.link].stream(path, metadata, None)
            if isinstance(opened, Acknowledged):
                await opened.accepted(_ACCEPTED_S)
        except BaseException as error:
            if opened is not None:
                opened.cancel()  # the server may have taken it all the same
            used = self._of(error) if isinstance(error, Lost) else Used.LEFT
            self._pool.stream_ended(held, self._loop.time(), used)
            raise
        else:
            self._pool.opened(held, self._loop.time())
            gone = functools.partial(self._gone, held)
            self._streams[held] = BatchStream(opened, frames, self._address, gone, self._stream_broke)
            return self._opened(held, reused=False)
        finally:
            self._changed()

    def _gone(self, held: Held, failure: Error | Lost) -> None:
        """A stream takes nothing more."""
        self._pool.stream_ended(held, self._loop.time(), self.used(failure))
        if not held.frames:
            self._drop(held)
        self._changed()

    def _stream_broke(self) -> None:
        if not self._closed:
            self._broken()

    def _drop(self, held: Held) -> None:
        stream = self._streams.pop(held, None)
        if stream is not None:
            self._leave(stream.retire(_CLOSE_S))

    def _changed(self) -> None:
        if self._pool.closing:
            self._close_what_is_due()
            self._turns.wake_call()
        if self._turns.batches:
            self._turns.wake_batches()

    def _close_what_is_due(self) -> None:
        closing = self._pool.closing
        while closing:
            due = closing.popleft()
            if isinstance(due, Held):
                self._drop(due)
            elif (connection := self._open.pop(due, None)) is not None:
                self._leave(_close_after(connection, self._leaving.copy()))

    def _leave(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _schedule(self) -> None:
        """One timer looks after ages and idleness; what calls do in between only makes it look once too often."""
        if self._timer is None and not self._closed:
            self._tick()

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        at = self._pool.tick(now)
        self._changed()
        if at is not None and not self._closed:
            self._timer = self._loop.call_at(max(at, now + _TICK_S_MIN), self._tick)

    def _refused(self) -> Lost:
        return Lost(
            Unavailable(
                f"connections to {self._address} fail too often to make another now: see its log, or the network",
                code="breaker_open",
                address=self._address,
            ),
            started=False,
        )

    def _no_room(self, step: Wait) -> Lost | Overloaded:
        if step.why == "breaker_open":
            return self._refused()
        return Overloaded(
            f"no room on the connections to {self._address} ({step.why}) within {self._settings.wait_s} s:"
            " back off, or raise PoolSettings.connections",
            code="connections_full",
            retry_after_s=0.1,
        )


async def _close_after(connection: Connection, streams: set[asyncio.Task[None]]) -> None:
    """Streams first, in good order, so that the server sees them end and not break."""
    if streams:
        await asyncio.wait(streams, timeout=_CLOSE_S)
    await connection.close()


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # waiters have it already; when they all gave up, nobody needs it


def _cancelled_ourselves() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
