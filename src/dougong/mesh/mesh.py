"""What one process makes of policy: the files that were read, a cluster per destination, what became of its calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING
from weakref import WeakSet

from dougong.mesh.cluster import Cluster
from dougong.mesh.colour import Colouring
from dougong.mesh.policy import Mode
from dougong.mesh.routing import Routes
from dougong.mesh.statistics import EjectionEvent

if TYPE_CHECKING:
    from dougong.mesh.istio import Policies

__all__ = ["Mesh"]

_REMEMBERED_MAX = 1000
"""Baggages whose colours are known without looking."""


class Mesh:
    """Policies, put to use. Pass it to `dougong.rpc.client`; everything else follows."""

    def __init__(
        self,
        policies: Policies,
        *,
        mode: Mode = Mode.ENHANCED,
        locality: str = "",
        labels: Mapping[str, str] | None = None,
        random: Random | None = None,
        sink: Callable[[EjectionEvent], None] | None = None,
    ) -> None:
        """`locality` and `labels` are this process's own; `sink` is told of every ejection and return."""
        self.policies = policies
        self.mode = mode
        self.random = random if random is not None else Random()
        self.colouring = Colouring(policies.matched_headers())
        self._locality = locality
        self._labels = labels
        self._sink = sink
        self._headers: dict[str, Mapping[str, str]] = {}
        self._clusters = WeakSet[Cluster]()

    @classmethod
    def load(
        cls,
        paths: Iterable[Path | str],
        *,
        mode: Mode = Mode.ENHANCED,
        namespace: str = "default",
        hosts: Mapping[str, str] | None = None,
        locality: str = "",
        labels: Mapping[str, str] | None = None,
        sink: Callable[[EjectionEvent], None] | None = None,
    ) -> Mesh:
        """Of DestinationRule and VirtualService files, and folders of them.

        `namespace` and `labels` are this process's; `hosts` names the host of services that are not called after it.
        Raises `Invalid` with every fault of every file; what is known and not enforced is in `policies.warnings`.
        """
        from dougong.mesh.istio import load_policies  # the reader is a megabyte that processes without files do without

        policies = load_policies(paths, namespace=namespace, labels=labels, hosts=hosts)
        return cls(policies, mode=mode, locality=locality, labels=labels, sink=sink)

    def host_of(self, service: str) -> str:
        """The full host of a service by its contract's name."""
        return self.policies.host_of(service)

    def routes(self, host: str) -> Routes | None:
        """What a VirtualService says of a host; None without one."""
        return self.policies.routes(host)

    def subset_labels(self, host: str, subset: str) -> Mapping[str, str]:
        """What an instance must be labelled with to belong to a subset."""
        return self.policies.subset_labels(host, subset)

    def headers(self, baggage: str) -> Mapping[str, str]:
        """What rules may match of a call that carries this baggage: its colours."""
        found = self._headers.get(baggage)
        if found is None:
            if len(self._headers) >= _REMEMBERED_MAX:
                self._headers.clear()
            found = self._headers[baggage] = self.colouring.headers(baggage)
        return found

    def cluster(self, host: str, now: float, *, subset: str = "", port: int = 0) -> Cluster:
        """A new one, for one client. Its statistics are among the mesh's for as long as it lives."""
        from dougong.mesh.istio import cluster_name

        policy = self.policies.for_service(host, port, subset)
        cluster = Cluster(
            cluster_name(self.policies.full(host), port, subset),
            policy,
            now,
            random=self.random,
            locality=self._locality,
            labels=self._labels,
            mode=self.mode,
            sink=self._sink,
        )
        self._clusters.add(cluster)
        return cluster

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        """Those in use, by name."""
        return tuple(sorted(self._clusters, key=lambda cluster: cluster.name))

    def statistics(self) -> dict[str, int]:
        """Of all clusters, under Envoy's names; clients of the same destination are added up."""
        total: dict[str, int] = {}
        for cluster in self.clusters:
            for name, value in cluster.statistics().items():
                total[name] = total.get(name, 0) + value
        return total
