"""Discovery: keeps one routing table per service up to date, however many clients ask for it."""

from __future__ import annotations

import asyncio
import random as random_module

from dougong.clock import Clock, SystemClock
from dougong.errors import Error, Unavailable
from dougong.registry._protocol import Compacted, Instance, Registry
from dougong.registry.routing import RoutingTable

REFRESH_S = 30.0
"""A watch is replaced by a fresh listing this often: a registry that hangs without a word is found out by then."""
BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 5.0
LIST_S_MAX = 5.0
SERVICES_MAX = 1_000


class Resolver:
    """One service's instances, as known here and now. Got from `Discovery.resolve`; shared by all who ask."""

    def __init__(self, table: RoutingTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._waiters: set[asyncio.Future[None]] = set()
        self._seen = table.version

    @property
    def service(self) -> str:
        return self._table.service

    @property
    def version(self) -> int:
        """Rises when `instances()` changes: cheap to compare on every call."""
        return self._table.version

    @property
    def revision(self) -> int:
        """The registry's revision that the table stands at."""
        return self._table.revision

    @property
    def stale(self) -> bool:
        """Whether the registry is silent, or says things that are not believed."""
        return self._table.stale

    @property
    def age_s(self) -> float | None:
        """Seconds since the registry last confirmed the table; None when it never did."""
        return self._table.age_s(self._clock.monotonic())

    def instances(self) -> tuple[Instance, ...]:
        """Who serves now, in a stable order. No copy, no I/O."""
        return self._table.serving

    def known(self) -> tuple[Instance, ...]:
        """Everybody registered, in any state: for people to look at."""
        return self._table.instances

    async def changed(self, since: int | None = None) -> int:
        """Wait until `version` differs from `since` (default: from now on); the new version."""
        seen = self._table.version if since is None else since
        while self._table.version == seen:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self._table.version

    async def wait_ready(self, timeout_s: float) -> tuple[Instance, ...]:
        """Wait until somebody serves; raises `Unavailable` (`no_instances`) when nobody does in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._table.serving:
                    await self.changed()
        except TimeoutError:
            raise Unavailable(
                f"no instance of {self.service} is serving after {timeout_s} s"
                + (" and the registry cannot be reached" if self._table.stale else "")
                + "; is its app running?",
                code="no_instances",
                service=self.service,
            ) from None
        return self._table.serving

    def probe_failed(self, address: str) -> None:
        """Tell that `address` cannot be reached; an instance the registry has lost as well is dropped at once."""
        self._table.probe_failed(address)
        self._publish()

    def _publish(self) -> None:
        if self._table.version != self._seen:
            self._seen = self._table.version
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()


class Discovery:
    """Finds services in a registry: one watch per service and process.

    When the registry cannot be reached the tables stay as they are, marked stale, and it is tried again with jittered
    back-off for ever.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        clock: Clock | None = None,
        random: random_module.Random | None = None,
        refresh_s: float = REFRESH_S,
    ) -> None:
        self._registry = registry
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._random = random if random is not None else random_module.Random()
        self._refresh_s = refresh_s
        self._resolvers: dict[str, Resolver] = {}
        self._first: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def resolve(self, service: str) -> Resolver:
        """The service's resolver, after the first attempt to list it; nobody need be serving yet (see `wait_ready`)."""
        resolver = self.resolver(service)
        await self._first[service].wait()
        return resolver

    def resolver(self, service: str) -> Resolver:
        """The service's resolver at once, perhaps still empty. Needs a running loop, on which it is kept up to date."""
        if self._closed:
            raise Unavailable("discovery is closed", code="closed")
        resolver = self._resolvers.get(service)
        if resolver is None:
            if len(self._resolvers) >= SERVICES_MAX:
                raise Unavailable(f"{SERVICES_MAX} services are watched already", code="too_many_services")
            table = RoutingTable(service)
            resolver = self._resolvers[service] = Resolver(table, self._clock)
            first = self._first[service] = asyncio.Event()
            follow = self._follow(table, resolver, first)
            self._tasks.add(asyncio.get_running_loop().create_task(follow, name=f"watch {service}"))
        return resolver

    def resolvers(self) -> tuple[Resolver, ...]:
        """All resolved so far, sorted by service."""
        return tuple(self._resolvers[service] for service in sorted(self._resolvers))

    async def close(self) -> None:
        """Stop watching. Resolvers keep what they last knew."""
        self._closed = True
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for first in self._first.values():
            first.set()

    async def _follow(self, table: RoutingTable, resolver: Resolver, first: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_S_MIN
        while True:
            began = loop.time()
            try:
                async with asyncio.timeout(LIST_S_MAX):
                    listing = await self._registry.list(table.prefix)
                table.apply_listing(listing, self._clock.monotonic())
                resolver._publish()
                first.set()
                await self._watch(table, resolver)
                continue
            except Compacted:
                pass  # we lagged, or the registry was replaced; the short sleep is for a registry that says so for ever
            except (Error, TimeoutError):
                table.unreachable()
                resolver._publish()
                first.set()
            if loop.time() - began > BACKOFF_S_MAX:
                backoff_s = BACKOFF_S_MIN
            await asyncio.sleep(backoff_s * self._random.uniform(0.5, 1.0))
            backoff_s = min(BACKOFF_S_MAX, backoff_s * 2)

    async def _watch(self, table: RoutingTable, resolver: Resolver) -> None:
        """Follow changes until it is time for a fresh listing: after `refresh_s`, or sooner to settle suspects."""
        loop = asyncio.get_running_loop()
        refresh_at = loop.time() + self._refresh_s * self._random.uniform(0.8, 1.2)
        scope = asyncio.timeout_at(refresh_at)
        try:
            async with scope:
                changes = self._registry.watch(table.prefix, table.revision + 1)
                while True:
                    now = self._clock.monotonic()
                    settle_at = table.settle(now)
                    resolver._publish()
                    if settle_at is not None:
                        scope.reschedule(min(refresh_at, loop.time() + settle_at - now))
                    table.apply_changes(await anext(changes), self._clock.monotonic())
                    resolver._publish()
        except TimeoutError:
            if not scope.expired():
                raise
        except StopAsyncIteration:
            raise Unavailable(f"the registry ended the watch on {table.prefix}", code="watch_ended") from None
