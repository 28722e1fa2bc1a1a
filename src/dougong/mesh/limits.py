"""The limits of one cluster in one client, all its hosts together: what counts against them, and what is left.

Envoy's circuit breakers. They keep a slow callee from filling the caller: beyond them a call is refused at once rather
than queued for ever. A pool of connections asks here before it opens one, lets a call wait or puts it on one; so what
may be there, and which counter rises when it may not, is decided in this place alone.
"""

from __future__ import annotations

from dougong.errors import Overloaded
from dougong.mesh.policy import ConnectionLimits, RetryBudgetPolicy
from dougong.mesh.retry_budget import RetryBudget
from dougong.mesh.statistics import Counters

__all__ = ["Limits"]


class Limits:
    """Counts of what is there now, against what may be."""

    __slots__ = ("cluster", "connections", "counters", "max_requests", "pending", "policy", "requests", "retries")

    def __init__(
        self,
        policy: ConnectionLimits,
        retry_budget: RetryBudgetPolicy | None = None,
        *,
        counters: Counters | None = None,
        cluster: str = "",
    ) -> None:
        self.policy = policy
        self.cluster = cluster
        self.counters = counters if counters is not None else Counters()
        self.max_requests = policy.max_requests
        self.connections = 0
        self.pending = 0
        """Calls that wait for a connection."""
        self.requests = 0
        """Calls that are on one."""
        self.retries = RetryBudget(retry_budget, policy.max_retries)

    @property
    def room(self) -> bool:
        """Whether one more connection keeps within `max_connections`."""
        return self.connections < self.policy.max_connections

    def may_open(self, *, has_one: bool) -> bool:
        """Whether a host may have one more connection, which its calls want; if not, that is counted.

        A host that has none gets one whatever the limit, or its calls would wait for the connections of others to end.
        """
        if self.connections < self.policy.max_connections:
            return True
        self.counters.upstream_cx_overflow += 1
        return not has_one

    def opened(self) -> None:
        """A connection counts from the moment it is wanted, until `closed`."""
        self.connections += 1
        self.counters.upstream_cx_total += 1

    def closed(self) -> None:
        self.connections -= 1

    def wait(self) -> None:
        """A call waits for a connection, until `waited`. Raises `Overloaded` (`max_pending`) where too many do."""
        if self.pending >= self.policy.max_pending:
            raise self._too_many_pending()
        self.pending += 1
        self.counters.upstream_rq_pending_total += 1

    def waited(self) -> None:
        """It goes on one, or gave up."""
        self.pending -= 1

    def begin(self) -> None:
        """A call goes on a connection, until `end`. Raises `Overloaded` (`max_requests`) where too many are on one."""
        if self.requests >= self.max_requests:
            raise self._too_many_requests()
        self.requests += 1
        self.counters.upstream_rq_total += 1

    def may_begin(self) -> None:
        """Whether `begin` will do, where something is to be done before it. Raises `Overloaded` as that does."""
        if self.requests >= self.max_requests:
            raise self._too_many_requests()

    def end(self) -> None:
        self.requests -= 1

    def begin_retry(self, *, ended: int = 0) -> bool:
        """Whether a call may be made again; if so the retry counts until `end_retry`.

        Envoy counts the attempt that failed as under way, too: `ended` is 1 where it was reported as ended already.
        """
        if self.retries.begin(self.requests + self.pending + ended):
            self.counters.upstream_rq_retry += 1
            return True
        self.counters.upstream_rq_retry_overflow += 1
        return False

    def end_retry(self) -> None:
        self.retries.ended()

    def _too_many_requests(self) -> Overloaded:
        """The refusal of a call beyond `max_requests`, counted."""
        self.counters.upstream_rq_active_overflow += 1
        return Overloaded(
            f"{self.requests} calls to {self.cluster} are under way (limit {self.max_requests}): back off, or raise"
            " http2MaxRequests",
            code="max_requests",
            cluster=self.cluster,
        )

    def _too_many_pending(self) -> Overloaded:
        """The refusal of a call beyond `max_pending`, counted."""
        self.counters.upstream_rq_pending_overflow += 1
        return Overloaded(
            f"{self.pending} calls to {self.cluster} wait for a connection (limit {self.policy.max_pending}): back off,"
            " or raise http1MaxPendingRequests",
            code="max_pending",
            cluster=self.cluster,
        )

    def gauges(self) -> dict[str, int]:
        """What is there now, under Envoy's names."""
        policy = self.policy
        return {
            "upstream_cx_active": self.connections,
            "upstream_rq_active": self.requests,
            "upstream_rq_pending_active": self.pending,
            "circuit_breakers.default.cx_open": int(self.connections >= policy.max_connections),
            "circuit_breakers.default.rq_open": int(self.requests >= policy.max_requests),
            "circuit_breakers.default.rq_pending_open": int(self.pending >= policy.max_pending),
            # Envoy judges this one by the fixed number even where a budget decides
            "circuit_breakers.default.rq_retry_open": int(self.retries.under_way >= policy.max_retries),
        }
