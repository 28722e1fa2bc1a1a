"""Who is where."""

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

__all__ = [
    "Change",
    "ChangeKind",
    "Compacted",
    "Instance",
    "InstanceState",
    "KeyValue",
    "Lease",
    "Listing",
    "Registry",
]
