"""Outlier detection: who fails is left alone for a while, though never more of them than may be missing.

Envoy's rules, decision for decision. Each answer costs a few additions (`report`); the rest happens every interval
(`tick`), in this order:

1. who has been out long enough comes back: `min(base * back-off, max)`;
2. the buckets of answers are swapped;
3. success rate, then failure percentage, on the finished bucket;
4. whoever is in, and came back at least an interval ago, has its back-off lessened by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dougong.mesh.host import Host
from dougong.mesh.outcome import Outcome
from dougong.mesh.policy import OutlierPolicy
from dougong.mesh.statistics import Action, EjectionEvent, EjectionLog, EjectionType, OutlierCounters

__all__ = ["HostMonitor", "OutlierDetection"]

SUCCESS_RATE_HOSTS = 5
SUCCESS_RATE_REQUESTS = 100
SUCCESS_RATE_STDEV_FACTOR = 1.9
FAILURE_PERCENTAGE_HOSTS = 5
FAILURE_PERCENTAGE_REQUESTS = 50
FAILURE_PERCENTAGE = 85.0
_ROUNDING_S = 1e-6
"""A moment and a duration later may be less than that duration later, in floats."""


class HostMonitor:
    """What is kept about one host, of the running interval and, for the rates, of the finished one."""

    __slots__ = (
        "backoff",
        "bad",
        "consecutive_5xx",
        "consecutive_gateway",
        "consecutive_local",
        "ejected_at",
        "ejections",
        "failing",
        "finished",
        "finished_good",
        "finished_local",
        "finished_local_good",
        "gone",
        "good",
        "local",
        "local_good",
        "unejected_at",
    )

    def __init__(self) -> None:
        self.consecutive_5xx = self.consecutive_gateway = self.consecutive_local = 0
        self.good = self.bad = self.local = self.local_good = 0
        self.finished = self.finished_good = self.finished_local = self.finished_local_good = 0
        self.failing = False
        """The last answer was bad: there are rows to end."""
        self.ejections = 0
        self.backoff = 0
        """How many times the base an ejection lasts."""
        self.ejected_at = 0.0
        self.unejected_at: float | None = None
        self.gone = False
        """No longer one of the cluster's hosts; calls to it may still end."""


class OutlierDetection:
    """Of one cluster. Times are seconds on any clock that does not jump, passed in.

    `changed` is called whenever a host was ejected or is back.
    """

    def __init__(
        self,
        policy: OutlierPolicy,
        now: float,
        *,
        cluster: str = "",
        counters: OutlierCounters | None = None,
        log: EjectionLog | None = None,
        changed: Callable[[], None] | None = None,
    ) -> None:
        self.policy = policy
        self.cluster = cluster
        self.counters = counters if counters is not None else OutlierCounters()
        self.log = log if log is not None else EjectionLog()
        self.due = now + policy.interval_s
        """When the next tick is."""
        self._changed = changed
        self._hosts: tuple[Host, ...] = ()
        self._split = policy.split_local_origin
        self._max_5xx = policy.consecutive_5xx
        self._max_gateway = policy.consecutive_gateway
        self._max_ejection_s = max(policy.max_ejection_s, policy.base_ejection_s)
        self._max_percent = min(100, policy.max_ejection_percent)

    def watch(self, hosts: Iterable[Host]) -> None:
        """These are the cluster's hosts now. Those that stay keep what is known of them."""
        hosts = tuple(hosts)
        staying = set(hosts)
        for host in self._hosts:
            if host not in staying:
                monitor: HostMonitor = host.outlier  # type: ignore[assignment]  # put there below
                monitor.gone = True
                self.counters.ejections_active -= host.ejected
        for host in hosts:
            if not isinstance(host.outlier, HostMonitor) or host.outlier.gone:
                host.outlier = HostMonitor()
                host.ejected = False
        self._hosts = hosts

    def sent(self, host: Host) -> None:
        """A call goes out on a connection to `host`: connecting works. It says something in split mode only."""
        if self._split:
            monitor: HostMonitor = host.outlier  # type: ignore[assignment]  # `watch` put it there
            monitor.local += 1
            monitor.local_good += 1
            monitor.consecutive_local = 0

    def report(self, host: Host, outcome: Outcome, now: float) -> None:
        """A call to `host` ended."""
        monitor: HostMonitor = host.outlier  # type: ignore[assignment]  # `watch` put it there
        if outcome.local and self._split:
            monitor.local += 1
            monitor.consecutive_local += 1
            if monitor.consecutive_local == self.policy.consecutive_local_origin:
                self._detected(host, monitor, EjectionType.CONSECUTIVE_LOCAL_ORIGIN_FAILURE, now)
            return
        status = outcome.status
        if status < 500:
            monitor.good += 1
            if monitor.failing:
                monitor.failing = False
                monitor.consecutive_5xx = monitor.consecutive_gateway = 0
            return
        monitor.bad += 1
        monitor.failing = True
        if 502 <= status <= 504:
            monitor.consecutive_gateway += 1
            if monitor.consecutive_gateway == self._max_gateway:
                self._detected(host, monitor, EjectionType.CONSECUTIVE_GATEWAY_FAILURE, now)
        else:
            monitor.consecutive_gateway = 0
        monitor.consecutive_5xx += 1
        if monitor.consecutive_5xx == self._max_5xx:
            self._detected(host, monitor, EjectionType.CONSECUTIVE_5XX, now)

    def tick(self, now: float) -> None:
        """To be called when `due` has come; late is one tick, not several."""
        policy = self.policy
        back = False
        for host in self._hosts:
            monitor: HostMonitor = host.outlier  # type: ignore[assignment]  # `watch` put it there
            if host.ejected:
                stay_s = min(policy.base_ejection_s * monitor.backoff, self._max_ejection_s)
                if stay_s <= now - monitor.ejected_at + _ROUNDING_S:
                    self._uneject(host, monitor, now)
                    back = True
            monitor.finished, monitor.finished_good = monitor.good + monitor.bad, monitor.good
            monitor.finished_local, monitor.finished_local_good = monitor.local, monitor.local_good
            monitor.good = monitor.bad = monitor.local = monitor.local_good = 0
        self._judge_rates(now, local=False)
        self._judge_rates(now, local=True)
        for host in self._hosts:
            monitor = host.outlier  # type: ignore[assignment]
            if monitor.backoff and not host.ejected and monitor.unejected_at is not None:
                calm_s = now - monitor.unejected_at
                monitor.backoff -= calm_s >= policy.interval_s - _ROUNDING_S
        self.due = now + policy.interval_s
        if back and self._changed is not None:
            self._changed()

    def _detected(self, host: Host, monitor: HostMonitor, kind: EjectionType, now: float) -> None:
        if host.ejected or monitor.gone:
            return
        self.counters.detected(kind)
        self._try_eject(host, monitor, kind, now)
        if kind is EjectionType.CONSECUTIVE_5XX:
            self.counters.ejections_consecutive_5xx += 1
            monitor.consecutive_5xx = 0
        elif kind is EjectionType.CONSECUTIVE_GATEWAY_FAILURE:
            monitor.consecutive_gateway = 0
        else:
            monitor.consecutive_local = 0

    def _try_eject(self, host: Host, monitor: HostMonitor, kind: EjectionType, now: float) -> None:
        counters, policy = self.counters, self.policy
        if not self._may_eject():
            counters.ejections_overflow += 1
            return
        if kind is EjectionType.CONSECUTIVE_5XX or kind is EjectionType.SUCCESS_RATE:
            counters.ejections_total += 1
        enforced = self._enforces(kind)
        if enforced:
            counters.ejections_active += 1
            counters.enforced(kind)
            host.ejected = True
            monitor.ejections += 1
            monitor.ejected_at = now
            if monitor.backoff * policy.base_ejection_s < self._max_ejection_s + policy.base_ejection_s:
                monitor.backoff += 1
            if self._changed is not None:
                self._changed()
        self.log.write(
            EjectionEvent(
                time=now,
                cluster=self.cluster,
                upstream=host.address,
                action=Action.EJECT,
                num_ejections=monitor.ejections,
                type=kind,
                enforced=enforced,
            )
        )

    def _may_eject(self) -> bool:
        active = self.counters.ejections_active
        if 100.0 * (active + 1) / len(self._hosts) <= self._max_percent:
            return True
        return self.policy.always_eject_one and not active

    def _enforces(self, kind: EjectionType) -> bool:
        if kind is EjectionType.CONSECUTIVE_GATEWAY_FAILURE:
            return self.policy.enforce_gateway
        if kind in (EjectionType.SUCCESS_RATE, EjectionType.SUCCESS_RATE_LOCAL_ORIGIN):
            return self.policy.success_rate
        if kind in (EjectionType.FAILURE_PERCENTAGE, EjectionType.FAILURE_PERCENTAGE_LOCAL_ORIGIN):
            return self.policy.failure_percentage
        return True

    def _uneject(self, host: Host, monitor: HostMonitor, now: float) -> None:
        """The counters start anew, or the first error after coming back might be the last one of an old row."""
        self.counters.ejections_active -= 1
        host.ejected = False
        monitor.consecutive_5xx = monitor.consecutive_gateway = monitor.consecutive_local = 0
        monitor.unejected_at = now
        self.log.write(
            EjectionEvent(
                time=now,
                cluster=self.cluster,
                upstream=host.address,
                action=Action.UNEJECT,
                num_ejections=monitor.ejections,
            )
        )

    def _judge_rates(self, now: float, *, local: bool) -> None:
        """Who is far below the others, and who fails nearly always, in the finished interval.

        Both judge by the rates as they were at its end, whoever is ejected meanwhile.
        """
        if len(self._hosts) < min(SUCCESS_RATE_HOSTS, FAILURE_PERCENTAGE_HOSTS):
            return
        rates: list[tuple[Host, HostMonitor, int, float]] = []
        for host in self._hosts:
            monitor: HostMonitor = host.outlier  # type: ignore[assignment]  # `watch` put it there
            total, good = (
                (monitor.finished_local, monitor.finished_local_good)
                if local
                else (monitor.finished, monitor.finished_good)
            )
            if not host.ejected and total >= FAILURE_PERCENTAGE_REQUESTS:
                rates.append((host, monitor, total, 100.0 * good / total))
        busy = [entry for entry in rates if entry[2] >= SUCCESS_RATE_REQUESTS]
        if len(busy) >= SUCCESS_RATE_HOSTS:
            kind = EjectionType.SUCCESS_RATE_LOCAL_ORIGIN if local else EjectionType.SUCCESS_RATE
            mean = sum(rate for *_, rate in busy) / len(busy)
            deviation = (sum((rate - mean) ** 2 for *_, rate in busy) / len(busy)) ** 0.5
            for host, monitor, _, rate in busy:
                if rate < mean - SUCCESS_RATE_STDEV_FACTOR * deviation:
                    self.counters.ejections_success_rate += 1
                    self.counters.detected(kind)
                    self._try_eject(host, monitor, kind, now)
        if len(rates) >= FAILURE_PERCENTAGE_HOSTS:
            kind = EjectionType.FAILURE_PERCENTAGE_LOCAL_ORIGIN if local else EjectionType.FAILURE_PERCENTAGE
            for host, monitor, _, rate in rates:
                if 100.0 - rate >= FAILURE_PERCENTAGE and not host.ejected:
                    self.counters.detected(kind)
                    self._try_eject(host, monitor, kind, now)
