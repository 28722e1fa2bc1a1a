"""The client: an object of the service's own class whose methods are remote.

`orders = client(Orders, resolver)`; `await orders.place(order)`. What the class declares decides how a call travels:
plain methods as unary calls or streams, batched ones over one long-lived stream of batches per instance, on which
concurrent calls ride together.
"""

from __future__ import annotations

import random as stdlib_random
from collections.abc import Sequence
from typing import TypeVar, cast

from dougong.contract import BoundBatched, Method, Service, describe
from dougong.errors import Invalid
from dougong.mesh import Cluster, Mesh, Policy, make_balancer
from dougong.rpc._baggage import current_baggage
from dougong.rpc._batches import Batches
from dougong.rpc._remote import Remote
from dougong.rpc._transport import Transport
from dougong.rpc.credentials import Credentials, TokenProvider
from dougong.rpc.grpc_aio import GrpcTransport
from dougong.rpc.pool import FixedAddresses, Pool, Resolver
from dougong.rpc.pool_settings import PoolSettings, PoolStats
from dougong.rpc.ways import Way, Ways

__all__ = ["client", "close_client", "pool_stats"]

S = TypeVar("S", bound=Service)


def client(
    service_type: type[S],
    instances: Resolver | str | Sequence[str],
    *,
    token: str | TokenProvider = "",
    transport: Transport | None = None,
    max_in_flight: int = 10_000,
    max_pending: int = 100_000,
    frames_per_stream: int = 4,
    patience_s: float = 2.0,
    pool: PoolSettings | None = None,
    mesh: Mesh | None = None,
    max_message_bytes: int = 16 * 1024 * 1024,
    random: stdlib_random.Random | None = None,
) -> S:
    """A client of `service_type`, to be closed with `close_client`.

    - `instances`: a resolver, or one address, or several.
    - `token`: sent with each call as `Authorization: Bearer`, or a function (plain or async) that gives one, which is
      asked again shortly before the last one expires; `with credentials(...)` sends another. A caller's own token is
      never passed on, but the address and the session that the call came from are (`current_origin()`), which servers
      believe of the system only.
    - `max_in_flight`: unary calls and streams at once, `max_pending`: items waiting for a batch; over either,
      `Overloaded`.
    - `frames_per_stream`: batches under way to one instance at once.
    - `patience_s`: how long a call waits (within its deadline) while no instance is there.
    - `pool`: the bounds of the connections kept to each instance.
    - `mesh`: policy of DestinationRule and VirtualService files; limits of connections that it sets go before `pool`'s.

    Every call ends by its deadline: what is left of the calling method's own, at most the method's `timeout_s`. What
    surely was not begun is tried again on any instance, what may have been begun only if the method is idempotent. A
    batched call never raises an `Error` from `many`: each item has its own outcome.
    """
    contract = describe(service_type)
    if isinstance(instances, str):
        instances = (instances,)
    resolver = FixedAddresses(contract.name, instances) if isinstance(instances, Sequence) else instances
    if transport is None:
        transport = GrpcTransport(max_message_bytes=max_message_bytes)
    credentials = Credentials(token)
    settings = pool if pool is not None else PoolSettings()

    def make_pool(some: Resolver, cluster: Cluster) -> Pool:
        return Pool(
            contract.name,
            some,
            transport,
            cluster,
            patience_s=patience_s,
            settings=settings.within(cluster.policy.limits),
            repeatable=random is not None,
        )

    def make_batches(method: Method, way: Way) -> Batches:
        return Batches(
            method,
            way,
            credentials,
            frames_per_stream=frames_per_stream,
            max_pending=max_pending,
            max_message_bytes=max_message_bytes,
        )

    ways: Ways | Way
    if mesh is not None:
        ways = Ways(contract.name, resolver, make_pool, mesh, current_baggage)
    else:
        drawn, policy = random if random is not None else stdlib_random.Random(), Policy()
        cluster = Cluster(contract.name, policy, 0.0, balancer=make_balancer(policy.balancing, drawn))
        ways = Way(make_pool(resolver, cluster), None, drawn)
    remote = Remote(ways, credentials, max_in_flight, make_batches)
    kind = type(
        f"{service_type.__name__}Client",
        (service_type,),
        {"__doc__": service_type.__doc__, "start": _nothing, "stop": _nothing},
        name=contract.name,
    )
    made = cast("S", object.__new__(kind))  # a service may have a constructor of its own, and __new__ too
    for method in contract.methods:
        call: object = BoundBatched(remote.many(method)) if method.max_batch else remote.method(method)
        made.__dict__[method.attribute] = call
    made.__dict__["_dougong_remote"] = remote
    return made


async def close_client(made: Service) -> None:
    """Close the connections of a client; calls in flight end as `Unavailable`. Closing twice is fine."""
    await _remote_of(made).close()


def pool_stats(made: Service) -> dict[str, PoolStats]:
    """What became of a client's connections and streams so far, by the instance's address."""
    stats: dict[str, PoolStats] = {}
    for pool in _remote_of(made).pools:
        stats.update(pool.stats())
    return stats


def _remote_of(made: Service) -> Remote:
    remote = made.__dict__.get("_dougong_remote")
    if not isinstance(remote, Remote):
        raise Invalid(f"{type(made).__name__} was not made by dougong.rpc.client", code="not_a_client")
    return remote


async def _nothing(self: object) -> None:
    """A client neither starts nor stops the service."""
