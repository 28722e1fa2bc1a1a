"""What a cluster counted, under the names that Envoy gives it, and the log of ejections.

Dashboards and alerts written for Envoy's `/stats` read ours. *Detected* is apart from *enforced*: a rule that is only
watched (shadow mode) counts what it would have done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum

import msgspec

__all__ = ["Action", "Counters", "EjectionEvent", "EjectionLog", "EjectionType", "OutlierCounters"]


class OutlierCounters(msgspec.Struct):
    """`outlier_detection.*`; counters but for the first, which is a gauge."""

    ejections_active: int = 0
    ejections_enforced_total: int = 0
    ejections_overflow: int = 0
    """Not ejected although detected: as many as may be are out already."""
    ejections_detected_consecutive_5xx: int = 0
    ejections_enforced_consecutive_5xx: int = 0
    ejections_detected_consecutive_gateway_failure: int = 0
    ejections_enforced_consecutive_gateway_failure: int = 0
    ejections_detected_consecutive_local_origin_failure: int = 0
    ejections_enforced_consecutive_local_origin_failure: int = 0
    ejections_detected_success_rate: int = 0
    ejections_enforced_success_rate: int = 0
    ejections_detected_local_origin_success_rate: int = 0
    ejections_enforced_local_origin_success_rate: int = 0
    ejections_detected_failure_percentage: int = 0
    ejections_enforced_failure_percentage: int = 0
    ejections_detected_local_origin_failure_percentage: int = 0
    ejections_enforced_local_origin_failure_percentage: int = 0
    ejections_total: int = 0
    """Deprecated by Envoy and kept by it, as the next two."""
    ejections_consecutive_5xx: int = 0
    ejections_success_rate: int = 0

    def detected(self, kind: EjectionType) -> None:
        name = f"ejections_detected_{_SUFFIX[kind]}"
        setattr(self, name, getattr(self, name) + 1)

    def enforced(self, kind: EjectionType) -> None:
        self.ejections_enforced_total += 1
        name = f"ejections_enforced_{_SUFFIX[kind]}"
        setattr(self, name, getattr(self, name) + 1)


class Counters(msgspec.Struct):
    """What only rises, of the cluster itself."""

    lb_healthy_panic: int = 0
    """Picks made among all hosts because too few are healthy."""
    upstream_cx_max_requests: int = 0
    """Connections that had as many calls as they may."""
    upstream_cx_none_healthy: int = 0
    """Calls refused because nobody is left."""
    upstream_cx_overflow: int = 0
    """Connections that were wanted and not opened."""
    upstream_cx_total: int = 0
    upstream_cx_connect_fail: int = 0
    upstream_rq_active_overflow: int = 0
    """Calls refused because too many are under way. Envoy before 1.40 counted them with the next but one."""
    upstream_rq_pending_failure_eject: int = 0
    """Calls that waited for a connection that failed."""
    upstream_rq_pending_overflow: int = 0
    """Calls refused because too many wait."""
    upstream_rq_pending_total: int = 0
    upstream_rq_retry: int = 0
    upstream_rq_retry_overflow: int = 0
    upstream_rq_total: int = 0


class EjectionType(StrEnum):
    """Why, as Envoy's log has it."""

    CONSECUTIVE_5XX = "CONSECUTIVE_5XX"
    CONSECUTIVE_GATEWAY_FAILURE = "CONSECUTIVE_GATEWAY_FAILURE"
    CONSECUTIVE_LOCAL_ORIGIN_FAILURE = "CONSECUTIVE_LOCAL_ORIGIN_FAILURE"
    SUCCESS_RATE = "SUCCESS_RATE"
    SUCCESS_RATE_LOCAL_ORIGIN = "SUCCESS_RATE_LOCAL_ORIGIN"
    FAILURE_PERCENTAGE = "FAILURE_PERCENTAGE"
    FAILURE_PERCENTAGE_LOCAL_ORIGIN = "FAILURE_PERCENTAGE_LOCAL_ORIGIN"


_SUFFIX = {kind: kind.value.lower() for kind in EjectionType} | {
    EjectionType.SUCCESS_RATE_LOCAL_ORIGIN: "local_origin_success_rate",
    EjectionType.FAILURE_PERCENTAGE_LOCAL_ORIGIN: "local_origin_failure_percentage",
}
"""Of its counters; Envoy turns two of the names round."""


class Action(StrEnum):
    EJECT = "EJECT"
    UNEJECT = "UNEJECT"


class EjectionEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the log."""

    time: float
    """On the clock whose times were passed in."""
    cluster: str
    upstream: str
    action: Action
    num_ejections: int
    """Of this host so far."""
    type: EjectionType | None = None
    """Why; not said of an un-ejection."""
    enforced: bool = False
    """Of an ejection: it was carried out, not only noticed."""

    def json(self) -> str:
        return msgspec.json.encode(self).decode()


class EjectionLog:
    """The last `size` events; each also goes to `sink`, if there is one."""

    __slots__ = ("_sink", "events")

    def __init__(self, sink: Callable[[EjectionEvent], None] | None = None, *, size: int = 1000) -> None:
        self._sink = sink
        self.events: deque[EjectionEvent] = deque(maxlen=size)

    def write(self, event: EjectionEvent) -> None:
        self.events.append(event)
        if self._sink is not None:
            self._sink(event)
