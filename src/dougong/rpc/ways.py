"""Where the calls of one client go: straight to the instances of its service, or as a VirtualService has it.

Each destination (a subset, another app that serves the same contract) has a cluster and connections of its own. What a
rule matches as headers is the colour of the call (`current_baggage()`) and the method's path.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from random import Random

from dougong.errors import FAMILIES, DeadlineExceeded, Error, Internal, NotFound, Unavailable
from dougong.mesh import (
    DEFAULT_RETRIES,
    Call,
    Cluster,
    Decision,
    Destination,
    Mesh,
    RequestHeaders,
    RetryPolicy,
    Routes,
    accepted_baggage,
    decide,
    mirrors_of,
)
from dougong.registry import Instance
from dougong.rpc._transport import Metadata
from dougong.rpc.pool import Pool, Resolver

__all__ = ["Way", "Ways"]

_NOTHING: Mapping[str, str] = {}
MakePool = Callable[[Resolver, Cluster], Pool]


class Way:
    """One way a call may go."""

    __slots__ = ("decision", "headers", "mirrored", "pool", "random", "retries", "timeout_s")

    def __init__(
        self, pool: Pool, decision: Decision | None, random: Random, headers: RequestHeaders | None = None
    ) -> None:
        self.pool = pool
        self.headers = headers
        self.timeout_s = decision.timeout_s if decision is not None else 0.0
        """Of the whole call; 0: none of its own."""
        self.retries: RetryPolicy | None = None
        """None: whatever is safe."""
        self.mirrored = decision is not None and bool(decision.mirrors)
        self.decision = decision
        self.random = random
        if decision is not None and decision.retries is not DEFAULT_RETRIES:
            self.retries = decision.retries if decision.retries is not None else RetryPolicy(attempts=0)

    @property
    def plain(self) -> bool:
        """Nothing but the call itself is to happen."""
        return self.decision is None or (self.decision.fault is None and not self.timeout_s and not self.mirrored)

    def dress(self, metadata: Metadata) -> Metadata:
        """What travels beside a call, as the route wants it."""
        if self.headers is None:
            return metadata
        own = {"authorization": metadata.authorization, "baggage": metadata.baggage}
        headers = self.headers.apply({name: value for name, value in own.items() if value})
        authorization, carried = headers.pop("authorization", ""), headers.pop("baggage", "")
        more = tuple(sorted(headers.items()))
        return Metadata(authorization, metadata.traceparent, metadata.origin, accepted_baggage(carried), more)

    def end(self, now: float, end: float) -> float:
        """When the call's time is up."""
        return min(end, now + self.timeout_s) if self.timeout_s else end

    @property
    def per_try_timeout_s(self) -> float:
        """0: none of its own."""
        return self.retries.per_try_timeout_s if self.retries is not None else 0.0

    def try_end(self, end: float) -> float:
        """When one try's time is up."""
        if self.retries is None or not self.retries.per_try_timeout_s:
            return end
        return min(end, asyncio.get_running_loop().time() + self.retries.per_try_timeout_s)

    async def inject(self, path: str, end: float) -> None:
        """The fault that the route wants for this call, if any: wait, then raise."""
        injected = decide(self.decision.fault if self.decision is not None else None, self.random)
        if injected.delay_s:
            left_s = end - asyncio.get_running_loop().time()
            await asyncio.sleep(min(injected.delay_s, max(0.0, left_s)))
            if injected.delay_s >= left_s:
                raise DeadlineExceeded(f"{path}: its time was up while a fault delayed it", code="fault_delay")
        if injected.abort is not None:
            raise _aborted(path, injected.abort.http_status, injected.abort.grpc_status)


class Ways:
    """All ways of one client."""

    def __init__(
        self,
        service: str,
        resolver: Resolver,
        make_pool: MakePool,
        mesh: Mesh,
        baggage: Callable[[], str],
    ) -> None:
        self._service = service
        self._resolver = resolver
        self._make_pool = make_pool
        self._mesh = mesh
        self._baggage = baggage
        self._host = mesh.host_of(service)
        self._routes: Routes | None = mesh.routes(self._host)
        self._pools: dict[Destination, Pool] = {}
        self._ways: dict[int, Way] = {}
        """By the decision's identity: routes make each one once."""
        self._own = Destination(self._host)
        self._bare: dict[tuple[Destination, RequestHeaders | None], Way] = {}
        """Without a rule's doing, except to headers."""
        self._closed = False

    def close(self) -> None:
        """Make no pool any more; those there are the caller's to close."""
        self._closed = True

    @property
    def pools(self) -> tuple[Pool, ...]:
        return tuple(self._pools.values())

    def of(self, path: str) -> Way:
        """For one call. Raises what the route answers where it answers by itself, `NotFound` (`no_route`) without."""
        routes = self._routes
        if routes is None:
            return self._to(self._own)
        carried = self._baggage()
        headers = self._mesh.headers(carried) if carried else _NOTHING
        decision = routes.route(Call(path, headers, authority=self._host), self._mesh.random)
        if decision is None:
            raise NotFound(
                f"no rule of the VirtualService for {self._host} matches this call of {path}", code="no_route"
            )
        way = self._ways.get(id(decision))
        return way if way is not None else self._made(path, decision)

    def mirrors(self, way: Way) -> tuple[Way, ...]:
        """Who gets a copy of this call."""
        if way.decision is None:
            return ()
        found: list[Way] = []
        for destination in mirrors_of(way.decision, self._mesh.random):
            with contextlib.suppress(Unavailable):  # no such subset: the call itself is none the worse, as in Envoy
                found.append(self._to(destination, way.headers))
        return tuple(found)

    def _made(self, path: str, decision: Decision) -> Way:
        if decision.destination is None:
            assert decision.answer is not None
            raise _aborted(path, decision.answer.http_status, 0)
        headers = RequestHeaders(decision.request, self._mesh.colouring) if decision.request else None
        way = self._ways[id(decision)] = Way(self._pool(decision.destination), decision, self._mesh.random, headers)
        return way

    def _to(self, destination: Destination, headers: RequestHeaders | None = None) -> Way:
        way = self._bare.get((destination, headers))
        if way is None:
            way = self._bare[destination, headers] = Way(self._pool(destination), None, self._mesh.random, headers)
        return way

    def _pool(self, destination: Destination) -> Pool:
        pool = self._pools.get(destination)
        if pool is None:
            if self._closed:
                raise Unavailable(f"the client of {self._service} is closed", code="closed")
            mesh = self._mesh
            labels = mesh.subset_labels(destination.host, destination.subset)
            other = destination.host if destination.host != self._host else ""
            resolver = _Some(self._resolver, labels, other.partition(".")[0]) if labels or other else self._resolver
            now = asyncio.get_running_loop().time()
            cluster = mesh.cluster(destination.host, now, subset=destination.subset, port=destination.port)
            pool = self._pools[destination] = self._make_pool(resolver, cluster)
        return pool


class _Some:
    """Those instances that have the labels of a subset, or belong to another app."""

    def __init__(self, resolver: Resolver, labels: Mapping[str, str], app: str) -> None:
        self._resolver = resolver
        self._labels = labels
        self._app = app
        self._seen: tuple[Instance, ...] | None = None
        self._chosen: tuple[Instance, ...] = ()

    def instances(self) -> tuple[Instance, ...]:
        instances = self._resolver.instances()
        if instances is not self._seen:
            chosen = tuple(instance for instance in instances if self._has(instance))
            if chosen != self._chosen:
                self._chosen = chosen
            self._seen = instances
        return self._chosen

    def probe_failed(self, address: str) -> None:
        self._resolver.probe_failed(address)

    def _has(self, instance: Instance) -> bool:
        if self._app and instance.app != self._app:
            return False
        known = {**instance.metadata, "version": instance.version, "app": instance.app, "zone": instance.zone}
        return all(known.get(name) == value for name, value in self._labels.items())


def _aborted(path: str, http_status: int, grpc_status: int) -> Error:
    status = f"gRPC {grpc_status}" if grpc_status else f"HTTP {http_status}"
    kinds = (kind for kind in FAMILIES.values() if (kind.grpc_status == grpc_status or kind.http_status == http_status))
    return next(kinds, Internal)(
        f"{path}: its route answers {status} and calls nobody (fault or direct response of a VirtualService)",
        code="answered_by_route",
    )
