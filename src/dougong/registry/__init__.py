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

`MemoryRegistry` serves one process, `LocalRegistry` one machine, `dougong.registry.etcd` (opened by an `etcd://` URL)
many machines; all pass the same conformance suite. `Lock` and `Election` stand on any of them.

What it does not do: it is no place for data (values are at most 64 KiB, history is bounded), a lock of it protects
nothing by itself (a lease may end while its owner is stopped: fence what you protect), and it asks nobody how they are
without a reason: whoever calls an instance in vain gives one, and a probe settles it long before the lease ends.
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
from dougong.registry.discovery import Discovery
from dougong.registry.draining import DrainRequest, ask_to_drain, drain_asked, find_instances
from dougong.registry.election import Election, Leader
from dougong.registry.explaining import Explanation, InvalidEntry, Source, Standing
from dougong.registry.health import Health, HealthBook, HealthRules
from dougong.registry.keys import instance_key, read_instance, service_prefix
from dougong.registry.local import LocalRegistry
from dougong.registry.lock import Fence, Held, Lock
from dougong.registry.memory import MemoryRegistry
from dougong.registry.opening import open_registry
from dougong.registry.probing import PROBE_S, Probe, Prober
from dougong.registry.registration import Registration
from dougong.registry.resolver import Resolver
from dougong.registry.routing import RoutingTable
from dougong.registry.snapshot import FileSnapshots, Snapshot, Snapshots
from dougong.registry.sqlite import boot_id

__all__ = [
    "PROBE_S",
    "Change",
    "ChangeKind",
    "Compacted",
    "Discovery",
    "DrainRequest",
    "Election",
    "Explanation",
    "Fence",
    "FileSnapshots",
    "Health",
    "HealthBook",
    "HealthRules",
    "Held",
    "Instance",
    "InstanceState",
    "InvalidEntry",
    "KeyValue",
    "Leader",
    "Lease",
    "Listing",
    "LocalRegistry",
    "Lock",
    "MemoryRegistry",
    "Probe",
    "Prober",
    "Registration",
    "Registry",
    "Resolver",
    "RoutingTable",
    "Snapshot",
    "Snapshots",
    "Source",
    "Standing",
    "ask_to_drain",
    "boot_id",
    "drain_asked",
    "find_instances",
    "instance_key",
    "open_registry",
    "read_instance",
    "service_prefix",
]
