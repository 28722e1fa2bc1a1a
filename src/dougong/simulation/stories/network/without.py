"""The network rooms with one safeguard missing each: what the story must notice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import cast

import msgspec

from dougong.mesh import NO_LIMIT, Cluster, Host
from dougong.mesh.outlier import OutlierDetection
from dougong.mesh.retry_budget import RetryBudget
from dougong.registry import (
    Change,
    Compacted,
    Instance,
    InstanceState,
    Listing,
    Registration,
    Registry,
    Resolver,
)
from dougong.registry._fencing import Fences
from dougong.registry.routing import News, RoutingTable
from dougong.rpc import Lost

__all__ = [
    "SAFEGUARDS",
    "lost_without",
    "registration_without",
    "registry_without",
    "weaken_cluster",
    "weaken_resolver",
]

SAFEGUARDS = {
    "damping": "when many vanish at once they are kept until something proves that they are gone",
    "last": "the last one is kept, too",
    "probing": "who vanished without a goodbye is asked at once",
    "doubt": "a call that found nobody is a reason to ask",
    "epoch": "of two with the same name the older is over",
    "goodbye": "who says that it leaves gets no more calls",
    "drain": "who leaves finishes what it took, and lets the rest be repeated elsewhere",
    "resume": "whoever has missed a part of the past lists again",
    "revision": "a revision is taken as a whole",
    "again": "who lost its lease writes itself down again",
    "ejection-limit": "only so many are ejected",
    "ejection": "who is ejected gets no calls",
    "retry-budget": "only so many calls are made again at once",
    "begun": "what may have been begun is not repeated unless it may be",
}


def registration_without(without: str) -> type[Registration]:
    """How an instance keeps itself registered."""
    return _NotAgain if without == "again" else Registration


def registry_without(without: str, registry: Registry) -> Registry:
    """What a client is told by the registry."""
    kind = {"revision": _InPieces, "resume": _NeverCompacted}.get(without)
    return registry if kind is None else cast(Registry, kind(registry))


def lost_without(without: str, lost: Lost) -> Lost:
    """What a client makes of a call that was lost."""
    return Lost(lost.error, started=False) if without == "begun" else lost


def weaken_resolver(without: str, resolver: Resolver) -> None:
    """What a client knows of the instances."""
    table = resolver._table
    if without in _TABLES:
        table.__class__ = _TABLES[without]
    elif without == "epoch":
        table.fences.__class__ = _NoFences
    elif without == "doubt":
        resolver._failed = _ignored


def weaken_cluster(without: str, cluster: Cluster) -> None:
    """What a client's policy holds it back from."""
    if without == "ejection-limit" and cluster._detection is not None:
        cluster._detection.__class__ = _Unlimited
    elif without == "retry-budget":
        cluster.limits.retries.__class__ = _Unbounded
    elif without == "ejection":
        cluster.__class__ = _NeverAway
        if cluster._detection is not None:
            cluster._detection._changed = cluster._hosts_changed


def _ignored(address: str) -> None:
    """Calls that found nobody are no reason to ask."""


class _NotAgain(Registration):
    async def _put_all(self, lease: int) -> None:
        if self._grants <= 1 or not lease:
            await super()._put_all(lease)


class _Passing:
    """A registry that is another one in all but what a subclass changes."""

    def __init__(self, inner: Registry) -> None:
        self._inner = inner

    async def list(self, prefix: str) -> Listing:
        return await self._inner.list(prefix)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


class _InPieces(_Passing):
    """One change at a time, as if each had a revision of its own."""

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Sequence[Change]]:
        async for changes in self._inner.watch(prefix, from_revision):
            for change in changes:
                yield (change,)


class _NeverCompacted(_Passing):
    """Goes on from what is left of the past."""

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Sequence[Change]]:
        try:
            async for changes in self._inner.watch(prefix, from_revision):
                yield changes
        except Compacted as compacted:
            async for changes in self._inner.watch(prefix, compacted.compacted + 1):
                yield changes


class _NoDamping(RoutingTable):
    def _vanish(self, gone: Sequence[str], now: float) -> None:
        for address in gone:
            super()._vanish([address], now)


class _NoLast(RoutingTable):
    def settle(self, now: float) -> float | None:
        for address, entry in list(self._suspects.items()):
            if entry.suspect_until is not None and entry.suspect_until <= now:
                self._drop(address)
        return super().settle(now)


class _NoProbing(RoutingTable):
    def take_news(self) -> News:
        news = super().take_news()
        news.suspected.clear()
        return news


class _NoGoodbye(RoutingTable):
    def _put(self, instance: Instance, revision: int) -> None:
        super()._put(msgspec.structs.replace(instance, state=InstanceState.SERVING), revision)


_TABLES = {"damping": _NoDamping, "last": _NoLast, "probing": _NoProbing, "goodbye": _NoGoodbye}


class _NoFences(Fences):
    __slots__ = ()

    def fenced(self, instance: Instance) -> bool:
        return False


class _Unlimited(OutlierDetection):
    def _may_eject(self) -> bool:
        return True


class _Unbounded(RetryBudget):
    __slots__ = ()

    def allowed(self, active: int) -> int:
        return NO_LIMIT


class _NeverAway(Cluster):
    __slots__ = ()

    def wake(self, host: Host) -> None:
        host.resting = host.away = False

    def _hosts_changed(self) -> None:
        super()._hosts_changed()
        for host in self.hosts:
            host.away = host.resting
        self._unusual = False
