"""Discovery: keeps one routing table per service up to date, however many clients ask for it."""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Callable, Coroutine

from dougong.clock import Clock, SystemClock
from dougong.errors import Error, Unavailable
from dougong.registry import _metrics as metrics
from dougong.registry._keeping import SnapshotKeeper
from dougong.registry._protocol import Compacted, Registry
from dougong.registry.health import Health, HealthBook, HealthRules
from dougong.registry.keys import legible
from dougong.registry.probing import PROBE_S, Probe, Prober
from dougong.registry.resolver import Resolver
from dougong.registry.routing import RoutingTable
from dougong.registry.snapshot import Snapshots
from dougong.telemetry import before_render, get_logger

REFRESH_S = 30.0
"""A watch is replaced by a fresh listing this often: a registry that hangs without a word is found out by then."""
BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 5.0
LIST_S_MAX = 5.0
FIRST_LIST_S_MAX = 1.0
"""Who has a snapshot to start from waits no longer for a registry that hangs."""
SERVICES_MAX = 1_000
SUSPECT_ANSWERING_S = 300.0
"""How long a mass of vanished instances is kept that answer their probes: one that lives registers again in seconds."""
SUSPECT_AGAIN_S = 2.0
"""Between probes of those."""
FLUSH_S_MAX = 1.0


class Discovery:
    """Finds services in a registry: one watch per service and process.

    When the registry cannot be reached the tables stay as they are, marked stale, and it is tried again with jittered
    back-off for ever. With a `probe`, whoever fails a call or vanishes without a goodbye is probed before it is
    believed to be gone, and called again once it answers. With `snapshots`, a process starts from the last good table
    while the registry is down.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        clock: Clock | None = None,
        random: random_module.Random | None = None,
        refresh_s: float = REFRESH_S,
        probe: Probe | None = None,
        probe_s: float = PROBE_S,
        health: HealthRules | None = None,
        snapshots: Snapshots | None = None,
    ) -> None:
        self._registry = registry
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._random = random if random is not None else random_module.Random()
        self._refresh_s = refresh_s
        self._resolvers: dict[str, Resolver] = {}
        self._tables: dict[str, RoutingTable] = {}
        self._first: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._stop_measuring: Callable[[], None] | None = None
        self._keeper = SnapshotKeeper(snapshots, self._clock) if snapshots is not None else None
        self._prober: Prober | None = None
        if probe is not None:
            book = HealthBook(health, self._random)
            self._prober = Prober(probe, book, self._clock, known=self._knows, changed=self._probed, deadline_s=probe_s)

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
            if not self._resolvers:
                self._start()
            table = RoutingTable(service, suspect_s=None if self._prober is None else SUSPECT_ANSWERING_S)
            if self._prober is None:
                resolver = Resolver(table, self._clock)
            else:
                resolver = Resolver(table, self._clock, health=self._prober.health, failed=self._prober.doubt)
            self._tables[service], self._resolvers[service] = table, resolver
            first = self._first[service] = asyncio.Event()
            self._spawn(self._follow(table, resolver, first), f"watch {service}")
        return resolver

    def resolvers(self) -> tuple[Resolver, ...]:
        """All resolved so far, sorted by service."""
        return tuple(self._resolvers[service] for service in sorted(self._resolvers))

    async def ask_all(self, resolver: Resolver) -> None:
        """Probe everybody that serves, whether doubted or not; returns when all have been heard or given up."""
        if self._prober is not None:
            await self._prober.ask([instance.address for instance in resolver.instances()])

    async def close(self) -> None:
        """Stop watching. Resolvers keep what they last knew."""
        self._closed = True
        if self._stop_measuring is not None:
            self._stop_measuring()
            self._stop_measuring = None
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._keeper is not None and tasks:
            await self._keeper.finish(FLUSH_S_MAX)
        for first in self._first.values():
            first.set()

    # ---------------------------------------------------------------------------------------- following the registry

    def _start(self) -> None:
        self._stop_measuring = before_render(self._measure)
        if self._prober is not None:
            self._spawn(self._prober.run(), "probe instances")
        if self._keeper is not None:
            self._spawn(self._keeper.run(), "keep snapshots")

    def _measure(self) -> None:
        for resolver in self._resolvers.values():
            resolver.measure()

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(work, name=name))

    async def _follow(self, table: RoutingTable, resolver: Resolver, first: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_S_MIN
        while True:
            began = loop.time()
            hurried = self._keeper is not None and not first.is_set()
            try:
                async with asyncio.timeout(FIRST_LIST_S_MAX if hurried else LIST_S_MAX):
                    listing = await self._registry.list(table.prefix)
                table.apply_listing(listing, self._clock.monotonic())
                self._publish(table, resolver)
                first.set()
                await self._watch(table, resolver)
                continue
            except Compacted:
                # we lagged, or the registry was replaced; the short sleep is for a registry that says so for ever
                metrics.compactions.inc(1, table.service)
            except Exception as error:  # noqa: BLE001 (a fault in one round is no reason to know nothing from then on)
                if not isinstance(error, (Error, TimeoutError)):
                    get_logger(__name__).error("watch_fault", service=table.service, exc_info=error)
                table.unreachable()
                if not first.is_set():
                    await self._restore(table, resolver)
                self._publish(table, resolver)
                first.set()
            metrics.restarts.inc(1, table.service)
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
                    self._publish(table, resolver)
                    if settle_at is not None:
                        scope.reschedule(min(refresh_at, loop.time() + settle_at - now))
                    table.apply_changes(await anext(changes), self._clock.monotonic())
                    self._publish(table, resolver)
        except TimeoutError:
            if not scope.expired():
                raise
        except StopAsyncIteration:
            raise Unavailable(f"the registry ended the watch on {table.prefix}", code="watch_ended") from None

    async def _restore(self, table: RoutingTable, resolver: Resolver) -> None:
        """The registry is down before it ever spoke: start from what an earlier life knew, and ask who still lives."""
        snapshot = await self._keeper.load(table.service) if self._keeper is not None else None
        if snapshot is None:
            return
        table.restore(snapshot.instances, snapshot.revision)
        resolver.restored(snapshot.saved_at_us)
        get_logger(__name__).warning(
            "started_from_snapshot",
            service=table.service,
            instances=table.size,
            revision=table.revision,
            age_s=round(resolver.age_s or 0.0, 1),
        )
        if self._prober is not None:
            for instance in table.serving:
                self._prober.doubt(instance.address)

    def _publish(self, table: RoutingTable, resolver: Resolver) -> None:
        news = table.take_news()
        for entry in news.invalid:
            metrics.invalid.inc(1, table.service)
            get_logger(__name__).warning("entry_ignored", key=legible(entry.key), reason=entry.reason)
        if self._prober is not None:
            for address in news.arrived:
                if self._prober.forget(address):
                    self._set_dead(address, dead=False)
            for address in news.met:
                if self._prober.health(address) is Health.DEAD:  # found out through another service of the process
                    table.set_dead(address, dead=True)
            for address in news.suspected:
                self._prober.doubt(address)
        if self._keeper is not None:
            self._keeper.note(table)
        resolver.publish()

    # ---------------------------------------------------------------------------------------------------------- probing

    def _knows(self, address: str) -> bool:
        return any(address in table for table in self._tables.values())

    def _probed(self, address: str, alive: bool) -> None:
        metrics.probes.inc(1, "alive" if alive else "dead")
        assert self._prober is not None, "it is the one who tells"
        health = self._prober.health(address)
        if health is not Health.DOUBTED:
            self._set_dead(address, dead=health is Health.DEAD)
        if alive and any(address in table.suspects for table in self._tables.values()):
            self._prober.doubt(address, after_s=SUSPECT_AGAIN_S)

    def _set_dead(self, address: str, *, dead: bool) -> None:
        for service, table in self._tables.items():
            if address in table:
                table.set_dead(address, dead)
                self._publish(table, self._resolvers[service])
