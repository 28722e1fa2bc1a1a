"""One destination as one client sees it: its hosts, who of them may be called, and whether at all.

Ties the pure parts together for one host name, or one subset of it: outlier detection takes hosts out, the balancer
picks among the rest, limits refuse what is too much, and all of it is counted under Envoy's names. Time is passed in,
connections are the caller's.

    host = cluster.pick(now)
    cluster.begin(host)
    ...                                  # the call
    cluster.ended(host, OK, now)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from random import Random

from dougong.errors import Unavailable
from dougong.mesh.balancers import Balancer, make_balancer
from dougong.mesh.host import Host
from dougong.mesh.limits import Limits
from dougong.mesh.outcome import Outcome
from dougong.mesh.outlier import OutlierDetection
from dougong.mesh.policy import Mode, Policy
from dougong.mesh.statistics import Counters, EjectionEvent, EjectionLog, OutlierCounters
from dougong.registry import Instance

__all__ = ["Cluster"]

_OVERPROVISIONING = 140
"""Envoy: hosts are taken to have 40 % in reserve, so with at least 72 % of them there is no reason to panic."""


class Cluster:
    """`name` as Envoy has it: `outbound|8080|subset|service.namespace.svc.cluster.local`."""

    __slots__ = (
        "__weakref__",
        "_addresses",
        "_balancer",
        "_detection",
        "_seen",
        "_unusual",
        "counters",
        "due",
        "hosts",
        "limits",
        "log",
        "mode",
        "name",
        "outlier_counters",
        "panic",
        "policy",
    )

    def __init__(
        self,
        name: str,
        policy: Policy,
        now: float,
        *,
        balancer: Balancer | None = None,
        random: Random | None = None,
        locality: str = "",
        labels: Mapping[str, str] | None = None,
        mode: Mode = Mode.PARITY,
        sink: Callable[[EjectionEvent], None] | None = None,
    ) -> None:
        """`locality` and `labels` are the caller's own. `sink` gets each ejection; `log` keeps the last of them."""
        self.name = name
        self.policy = policy
        self.mode = mode
        self.counters = Counters()
        self.outlier_counters = OutlierCounters()
        self.log = EjectionLog(sink)
        self.limits = Limits(policy.limits, policy.retry_budget, counters=self.counters, cluster=name)
        self.hosts: tuple[Host, ...] = ()
        self.panic = False
        """So few are healthy that all are used."""
        self.due = math.inf
        """When `tick` has something to do."""
        self._detection: OutlierDetection | None = None
        if policy.outlier is not None:
            self._detection = OutlierDetection(
                policy.outlier,
                now,
                cluster=name,
                counters=self.outlier_counters,
                log=self.log,
                changed=self._hosts_changed,
            )
            self.due = self._detection.due
        self._balancer = balancer or make_balancer(
            policy.balancing,
            random or Random(),
            locality=locality,
            labels=labels,
            panic_percent=policy.outlier.min_health_percent if policy.outlier is not None else 0,
        )
        self._addresses: dict[str, Host] = {}
        self._seen: tuple[Instance, ...] | None = None
        self._unusual = True

    def update(self, instances: tuple[Instance, ...], now: float) -> bool:
        """These are there now; whether that is news. Hosts that stay keep their order and all that is known of them."""
        if instances is self._seen:
            return False
        self._seen = instances
        old = self._addresses
        listed = {instance.address: instance for instance in instances}
        hosts = {address: host for address, host in old.items() if address in listed}
        changed = len(hosts) != len(old)
        for address, instance in listed.items():
            labels = {**instance.metadata, "version": instance.version} if instance.version else instance.metadata
            host = hosts.get(address)
            if host is None:
                host = hosts[address] = Host(address)
                host.joined_at = now
            elif host.weight == instance.weight and host.locality == instance.zone and host.labels == labels:
                continue
            host.weight, host.locality, host.labels = instance.weight, instance.zone, labels
            changed = True
        if changed:
            self._addresses = hosts
            self.hosts = tuple(hosts.values())
            if self._detection is not None:
                self._detection.watch(self.hosts)
            self._hosts_changed()
        return changed

    def pick(self, now: float, key: int | None = None) -> Host:
        """Whom to call, by `key` where the balancer hashes. Raises `Unavailable`: `no_healthy_host` where nobody may be
        called, `no_endpoint` where those who may are all resting."""
        if now >= self.due:
            self.tick(now)
        if self._unusual:
            if not self.panic:
                raise self._nobody()
            self.counters.lb_healthy_panic += 1
        return self._balancer.pick(self.hosts, key, now)

    def rest(self, host: Host) -> None:
        """It could not be reached: pick others until `wake`."""
        host.resting = host.away = True

    def wake(self, host: Host) -> None:
        """It may be tried again."""
        host.resting = False
        host.away = host.ejected

    def begin(self, host: Host) -> None:
        """A call to it begins. Raises `Overloaded` (`max_requests`) where too many are under way.

        For callers whose transport keeps one multiplexed connection per host. Who keeps a pool of connections for each
        asks `limits` itself when a call goes on one, and tells `report` how calls ended.
        """
        self.limits.begin()
        host.in_flight += 1

    def sent(self, host: Host) -> None:
        """It goes out on a connection that is there: in split mode, proof that connecting to `host` works."""
        if self._detection is not None:
            self._detection.sent(host)

    def ended(self, host: Host, outcome: Outcome, now: float) -> None:
        """The call that `begin` let through ended."""
        self.limits.end()
        host.in_flight -= 1
        if self._detection is not None:
            self._detection.report(host, outcome, now)

    def report(self, host: Host, outcome: Outcome, now: float) -> None:
        """What is known of `host` without a call of its own: a connection that failed, a call on a pool."""
        if self._detection is not None:
            self._detection.report(host, outcome, now)

    def item(self, host: Host, outcome: Outcome, now: float) -> None:
        """One item of a batch was answered. Envoy does not look into batches: it counts in enhanced mode only."""
        if self._detection is not None and self.mode is Mode.ENHANCED:
            self._detection.report(host, outcome, now)

    def tick(self, now: float) -> None:
        """What is to be done by time; nothing before `due`."""
        if self._detection is not None and now >= self.due:
            self._detection.tick(now)
            self.due = self._detection.due

    def statistics(self) -> dict[str, int]:
        """All counters and gauges, as Envoy's `/stats` names them."""
        prefix = f"cluster.{self.name}."
        values: dict[str, int] = {}
        for name in Counters.__struct_fields__:
            values[prefix + name] = getattr(self.counters, name)
        for name, value in self.limits.gauges().items():
            values[prefix + name] = value
        values[f"{prefix}membership_total"] = len(self.hosts)
        values[f"{prefix}membership_healthy"] = sum(not host.ejected for host in self.hosts)
        if self._detection is not None:
            for name in OutlierCounters.__struct_fields__:
                values[f"{prefix}outlier_detection.{name}"] = getattr(self.outlier_counters, name)
        return values

    def _hosts_changed(self) -> None:
        for host in self.hosts:
            host.away = host.ejected or host.resting
        total = len(self.hosts)
        healthy = sum(not host.ejected for host in self.hosts)
        self.panic = total > 0 and self._too_few(healthy, total)
        self._unusual = self.panic or not healthy
        self._balancer.changed(self.hosts, panic=self.panic)

    def _too_few(self, healthy: int, total: int) -> bool:
        threshold = 0 if self.policy.outlier is None else self.policy.outlier.min_health_percent
        if _OVERPROVISIONING * healthy // total >= 100:
            return False
        return 100.0 * healthy / total < min(100, threshold)

    def _nobody(self) -> Unavailable:
        self.counters.upstream_cx_none_healthy += 1
        count = len(self.hosts)
        return Unavailable(
            f"none of {count} hosts of {self.name} is healthy: wait until one is back, or set minHealthPercent"
            if count
            else f"{self.name} has no hosts",
            code="no_healthy_host",
            hosts=count,
        )
