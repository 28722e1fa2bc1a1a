"""The embedded registry: all processes of one machine share one file, and no server runs.

Whoever comes by does the work: any process that touches or watches the file ends overdue leases. Watchers ask SQLite's
`data_version` every 20 ms, which costs microseconds when nothing was written; everything else runs in a thread of the
registry's own, so that a slow disk or another process's lock never holds up the loop.

Leases are measured on the monotonic clock, which all processes of a machine share and which setting the wall clock does
not touch. While the machine sleeps that clock stands still, so nobody expires for having slept. Leases of an earlier
boot are over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from dougong.clock import Clock, SystemClock
from dougong.errors import Error, Overloaded, Unavailable
from dougong.registry._protocol import Change, Compacted, Lease, Listing
from dougong.registry.keys import check_from_revision, check_key, check_ttl, check_value
from dougong.registry.keyspace import HISTORY_REVISIONS_MAX
from dougong.registry.sqlite import Peeker, RegistryFile, Span, boot_id

T = TypeVar("T")

POLL_S = 0.02
PATH_CHECK_POLLS = 50  # look once a second whether the path still leads to our file
CALLS_MAX = 1_000


class LocalRegistry:
    """`Registry` on a SQLite file. Opened by the first call, created if missing; not for network file systems.

    All methods raise `Unavailable` when the file cannot be used (codes `locked`, `disk_full`, `read_only`,
    `cannot_open`, `corrupt`, `closed`) and `Overloaded` when more than 1,000 calls wait. When the file is removed or
    replaced under way, leases are gone with it and watches say `Compacted`: both is survived by listing and
    granting again.
    """

    def __init__(
        self,
        path: str | Path,
        clock: Clock | None = None,
        *,
        history_revisions_max: int = HISTORY_REVISIONS_MAX,
        boot: str | None = None,
    ) -> None:
        """`boot` names this run of the machine; tests pass it to play a restart."""
        self._path = Path(path)
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._history_max = history_revisions_max
        self._boot = boot_id() if boot is None else boot
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._calls = 0
        self._file: RegistryFile | None = None  # touched by the thread only
        self._peeker: Peeker | None = None  # touched by the loop only
        self._identity = ""
        self._revision = 0
        self._next_deadline_us: int | None = None
        self._watches = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._poll: asyncio.TimerHandle | None = None
        self._polls = 0
        self._expiring: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def path(self) -> Path:
        return self._path

    async def grant(self, ttl_s: float) -> Lease:
        check_ttl(ttl_s)
        return await self._call(lambda file: file.grant(ttl_s))

    async def keep_alive(self, lease: int) -> float:
        return await self._call(lambda file: file.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._call(lambda file: file.revoke(lease))

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        check_key(key)
        check_value(key, value)
        return await self._call(lambda file: file.put(key, value, lease))

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        check_key(key)
        check_value(key, value)
        return await self._call(lambda file: file.create(key, value, lease))

    async def delete(self, key: str) -> bool:
        return await self._call(lambda file: file.delete(key))

    async def list(self, prefix: str) -> Listing:
        return await self._call(lambda file: file.list(prefix))

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Sequence[Change]]:
        check_from_revision(from_revision)
        following = from_revision
        identity = ""
        self._watches += 1
        try:
            while not self._closed:
                span, read_from = await self._call(partial(_read, prefix=prefix, from_revision=following))
                if identity not in {"", read_from}:
                    raise Compacted(following, following)  # another file: its revisions are not ours
                identity = read_from
                for group in span.groups:
                    yield group
                following = max(following, span.through + 1)
                await self._reaches(following, identity)
        finally:
            self._watches -= 1

    async def compact(self, revision: int) -> None:
        await self._call(lambda file: file.compact(revision))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._poll is not None:
            self._poll.cancel()
        self._wake()
        expiring = self._expiring
        if expiring is not None:
            expiring.cancel()
            await asyncio.gather(expiring, return_exceptions=True)
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close_file)
        finally:
            self._thread.shutdown(wait=False)
            if self._peeker is not None:
                self._peeker.close()
                self._peeker = None

    # ------------------------------------------------------------------------------------------------- in the thread

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _run(self, work: Callable[[RegistryFile], T]) -> tuple[T, str]:
        if self._file is not None and self._file.replaced():
            self._close_file()
        if self._file is None:
            self._file = RegistryFile(
                self._path, self._now_us, history_revisions_max=self._history_max, boot=self._boot
            )
        return work(self._file), self._file.identity

    def _now_us(self) -> int:
        return round(self._clock.monotonic() * 1e6)

    # -------------------------------------------------------------------------------------------------- on the loop

    async def _call(self, work: Callable[[RegistryFile], T]) -> T:
        if self._closed:
            raise self._is_closed()
        if self._calls >= CALLS_MAX:
            raise Overloaded(
                f"{self._calls} calls wait for registry file {self._path}", code="registry_busy", retry_after_s=0.1
            )
        self._calls += 1
        try:
            result, identity = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        finally:
            self._calls -= 1
        if identity != self._identity:
            self._switch(identity)
        if self._watches and not self._closed:
            self._look()
            self._schedule()
        return result

    def _is_closed(self) -> Unavailable:
        return Unavailable(f"the registry on {self._path} is closed", code="closed")

    def _switch(self, identity: str) -> None:
        """The thread has opened the file, or another one under the same path."""
        self._identity = identity
        if self._peeker is not None:
            self._peeker.close()
            self._peeker = None
        self._revision = 0
        self._wake()

    async def _reaches(self, revision: int, identity: str) -> None:
        """Return once the file may hold `revision`, or is another file, or the registry is closed."""
        while not self._closed and self._identity == identity and self._revision < revision:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            self._schedule()
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def _wake(self, error: Error | None = None) -> None:
        for waiter in self._waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
        self._waiters.clear()

    def _schedule(self) -> None:
        if self._poll is None and self._waiters and not self._closed:
            self._poll = asyncio.get_running_loop().call_later(POLL_S, self._on_poll)

    def _on_poll(self) -> None:
        self._poll = None
        self._look()
        self._polls += 1
        overdue = self._next_deadline_us is not None and self._next_deadline_us <= self._now_us()
        if self._expiring is None and (overdue or self._polls % PATH_CHECK_POLLS == 0):
            self._expiring = asyncio.get_running_loop().create_task(self._tend(overdue=overdue))
        self._schedule()

    def _look(self) -> None:
        try:
            if self._peeker is None:
                self._peeker = Peeker(self._path)
            glance = self._peeker.look()
        except Error as error:
            self._wake(error)
            return
        if glance is None:
            return
        self._next_deadline_us = glance.next_deadline_us
        if glance.revision > self._revision:
            self._revision = glance.revision
            self._wake()

    async def _tend(self, *, overdue: bool) -> None:
        """End overdue leases, and notice when the path leads to another file."""
        try:
            if overdue:
                # All watching processes notice at the same poll; let one of them be first.
                await asyncio.sleep(random.uniform(0, POLL_S))
                await self._call(RegistryFile.expire)
            else:
                await self._call(lambda _: None)
        except Error as error:
            if error.code not in {
                "locked",
                "registry_busy",
            }:  # then watchers miss nothing, and the next poll tries again
                self._wake(error)
        finally:
            self._expiring = None


def _read(file: RegistryFile, prefix: str, from_revision: int) -> tuple[Span, str]:
    return file.changes(prefix, from_revision), file.identity
