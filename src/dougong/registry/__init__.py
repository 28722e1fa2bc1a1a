"""Who is where: processes say what they serve and find each other.

The one idea is etcd's: **a small revisioned map with leases and watches.** An instance writes itself down under
`/services/SERVICE/ADDRESS` on a lease that it renews. When it dies, the lease ends and the entry goes. Clients watch
the prefix `/services/SERVICE/` from a revision, so that nothing is missed, and keep a routing table that never empties
itself on the registry's word alone.

    registry = await open_registry("local:///run/shop/registry.db")      # all processes of this machine, no server

    registration = Registration(registry, [Instance(service="shop.v1.Orders", address="127.0.0.1:7001")])
    await registration.start()                                           # ... and renewed until stop()

    discovery = Discovery(registry)
    orders = await discovery.resolve("shop.v1.Orders")
    await orders.wait_ready(timeout_s=5)
    orders.instances()                                                   # who serves now: a tuple, no I/O

`MemoryRegistry` serves one process, `LocalRegistry` one machine; both pass the same conformance suite.

What it does not do: it is no place for data (values are at most 64 KiB, history is bounded), it takes no locks for you
(a lease may end while its owner is stopped: fence what you protect), and it does not notice a dead instance before the
lease ends. Whoever calls an instance finds that out first and avoids it by itself.
"""

from dougong.registry._protocol import (
    Change,
    ChangeKind,
    Compacted,
    Instance,
    InstanceState,
    KeyValue,
    Lease,
    Listing,
    Registry,
)
from dougong.registry.discovery import Discovery, Resolver
from dougong.registry.keys import instance_key, service_prefix
from dougong.registry.local import LocalRegistry
from dougong.registry.memory import MemoryRegistry
from dougong.registry.opening import open_registry
from dougong.registry.registration import Registration
from dougong.registry.routing import RoutingTable

__all__ = [
    "Change",
    "ChangeKind",
    "Compacted",
    "Discovery",
    "Instance",
    "InstanceState",
    "KeyValue",
    "Lease",
    "Listing",
    "LocalRegistry",
    "MemoryRegistry",
    "Registration",
    "Registry",
    "Resolver",
    "RoutingTable",
    "instance_key",
    "open_registry",
    "service_prefix",
]
