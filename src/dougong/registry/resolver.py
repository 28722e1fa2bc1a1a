"""What a client sees of discovery: one service's instances, as known here and now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from dougong.clock import Clock
from dougong.errors import Unavailable
from dougong.registry import _metrics as metrics
from dougong.registry._protocol import Instance, InstanceState
from dougong.registry.explaining import Explanation, InvalidEntry, Source, Standing
from dougong.registry.health import Health
from dougong.registry.routing import Entry, RoutingTable

SUBSETS_MAX = 100


class Resolver:
    """One service's instances. Got from `Discovery.resolve`; shared by all who ask."""

    def __init__(
        self,
        table: RoutingTable,
        clock: Clock,
        *,
        health: Callable[[str], Health] = lambda _: Health.ALIVE,
        failed: Callable[[str], None] | None = None,
    ) -> None:
        self._table = table
        self._clock = clock
        self._health = health
        self._failed = failed
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._seen = table.version
        self._subsets: dict[frozenset[tuple[str, str]], tuple[Instance, ...]] = {}
        self._subsets_of = table.version
        self._saved_at_us: int | None = None

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
    def source(self) -> Source:
        """Whether the table is the registry's word or a snapshot's."""
        return self._table.source

    @property
    def age_s(self) -> float | None:
        """Seconds since the registry last confirmed the table, here or in the snapshot; None when it never did."""
        age_s = self._table.age_s(self._clock.monotonic())
        if age_s is None and self._saved_at_us is not None:
            return max(0.0, (self._clock.now_us() - self._saved_at_us) / 1e6)
        return age_s

    def instances(self) -> tuple[Instance, ...]:
        """Who serves now, in a stable order. No I/O, and the same tuple until something changes."""
        return self._table.serving

    def subset(self, labels: Mapping[str, str]) -> tuple[Instance, ...]:
        """Those of them that bear all `labels`: `version`, `zone`, `app`, or what their metadata says.

        The same tuple until something changes; empty when nobody bears them.
        """
        if self._subsets_of != self._table.version or len(self._subsets) >= SUBSETS_MAX:
            self._subsets.clear()
            self._subsets_of = self._table.version
        key = frozenset(labels.items())
        chosen = self._subsets.get(key)
        if chosen is None:
            bearing = (i for i in self._table.serving if all(_label(i, name) == value for name, value in key))
            chosen = self._subsets[key] = tuple(bearing)
        return chosen

    def known(self) -> tuple[Instance, ...]:
        """Everybody registered, in any state: for people to look at."""
        return self._table.instances

    def why(self) -> Explanation:
        """Who would be called, who not, and why."""
        return self.explain("")

    def explain(self, address: str) -> Explanation:
        """Why a call went to `address`, from which table, and what was held against the others."""
        table = self._table
        standings = [self._standing(entry) for entry in table.entries]
        return Explanation(
            service=table.service,
            revision=table.revision,
            age_s=self.age_s,
            source=table.source,
            stale=table.stale,
            chosen=next((s for s in standings if s.address == address), None),
            called=tuple(s for s in standings if s.called),
            excluded=tuple(s for s in standings if not s.called),
            invalid=tuple(InvalidEntry(key, reason) for key, reason in sorted(table.invalid.items())),
        )

    async def changed(self, since: int | None = None) -> int:
        """Wait until `version` differs from `since` (default: from now on); the new version."""
        seen = self._table.version if since is None else since
        while self._table.version == seen:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)
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
        """Tell that a call to `address` found nobody there.

        It is probed, and gets no calls from then on until it answers. Where nobody probes, an instance that the
        registry has lost as well is dropped at once.
        """
        if self._failed is not None:
            self._failed(address)
        else:
            self._table.probe_failed(address)
            self.publish()

    def publish(self) -> None:
        """Wake who waits for news. For discovery, which brings them."""
        if self._table.version != self._seen:
            self._seen = self._table.version
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()
        self.measure()

    def restored(self, saved_at_us: int) -> None:
        """The table was filled from a snapshot. For discovery."""
        self._saved_at_us = saved_at_us
        self.publish()

    def measure(self) -> None:
        """Write down for the metrics how the table is."""
        table, service = self._table, self._table.service
        metrics.instances.set(table.size, service, "known")
        metrics.instances.set(len(table.serving), service, "called")
        metrics.instances.set(table.suspected, service, "suspect")
        metrics.instances.set(table.dead, service, "dead")
        metrics.revision.set(table.revision, service)
        metrics.stale.set(table.stale, service)
        age_s = self.age_s or 0.0
        metrics.table_age.set(age_s, service)
        metrics.snapshot_age.set(age_s if table.source is Source.SNAPSHOT else 0.0, service)

    def _standing(self, entry: Entry) -> Standing:
        instance = entry.instance
        hope = entry.dead and not entry.called and instance in self._table.serving
        return Standing(
            address=instance.address,
            id=instance.id,
            state=instance.state.value,
            version=instance.version,
            zone=instance.zone,
            weight=instance.weight,
            epoch=instance.epoch,
            revision=entry.revision,
            health=(Health.DEAD if entry.dead else self._health(instance.address)).value,
            called=entry.called or hope,
            reason="answers no probe, nor does anybody else: called in hope" if hope else self._reason(entry),
        )

    def _reason(self, entry: Entry) -> str:
        instance = entry.instance
        if instance.state is InstanceState.STARTING:
            return "is starting"
        if instance.state is InstanceState.TERMINATING:
            return "is leaving"
        if instance.weight == 0:
            return "its weight is 0"
        if self._table.fences.fenced(instance):
            newer = self._table.fences.epoch(instance.id)
            return f"its epoch {instance.epoch} is over: {instance.id} is at {newer}"
        if entry.dead:
            return "answers no probe"
        if entry.suspect_until is not None:
            return "serves; the registry lost it without a goodbye, and nothing proves that it is gone"
        return "serves"


def _label(instance: Instance, name: str) -> str | None:
    match name:
        case "version":
            return instance.version
        case "zone":
            return instance.zone
        case "app":
            return instance.app
        case _:
            return instance.metadata.get(name)
