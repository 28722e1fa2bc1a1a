"""What applies to a destination once all files are read: plain values, with Istio's and Envoy's defaults filled in.

`istio` makes them from DestinationRule and VirtualService files; everything that decides (outlier detection, limits,
balancers) takes them as they are. Durations are seconds, shares are percent from 0 to 100, and no limit is `NO_LIMIT`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = [
    "NO_LIMIT",
    "BalancerKind",
    "Balancing",
    "ConnectionLimits",
    "HashOn",
    "HashSource",
    "LocalityPolicy",
    "Mode",
    "OutlierPolicy",
    "Policy",
    "RetryBudgetPolicy",
    "TlsMode",
    "TlsPolicy",
]

NO_LIMIT = 2**32 - 1
"""What Envoy takes for a limit that is unset or 0."""


class Mode(StrEnum):
    PARITY = "parity"
    """Envoy's decisions, one for one: it sees HTTP status and connections, not what is in a gRPC trailer or a batch."""
    ENHANCED = "enhanced"
    """Also counts gRPC status in trailers and failed items of batches."""


class OutlierPolicy(msgspec.Struct, frozen=True):
    """When a host is taken out. 0 for a count means that this kind is not detected."""

    consecutive_5xx: int = 5
    consecutive_gateway: int = 5
    enforce_gateway: bool = False
    """Unset in Istio's file, gateway errors are detected and not enforced."""
    split_local_origin: bool = False
    """Keep failures of ours (connect, time-out, reset) apart from statuses the host sent."""
    consecutive_local_origin: int = 5
    interval_s: float = 10.0
    base_ejection_s: float = 30.0
    max_ejection_s: float = 300.0
    """At least the base."""
    max_ejection_percent: int = 10
    min_health_percent: int = 0
    """Panic threshold: with fewer available, all are used; 0: never."""
    success_rate: bool = False
    """Always off in Istio's reading of its own files."""
    failure_percentage: bool = False
    always_eject_one: bool = False


class ConnectionLimits(msgspec.Struct, frozen=True):
    """Of one cluster in one client, all hosts together."""

    max_connections: int = NO_LIMIT
    connect_timeout_s: float = 10.0
    max_pending: int = NO_LIMIT
    """Calls that wait for a connection: `http1MaxPendingRequests`."""
    max_requests: int = NO_LIMIT
    """Calls under way: `http2MaxRequests`."""
    max_requests_per_connection: int = NO_LIMIT
    """A connection then drains and is replaced."""
    max_retries: int = NO_LIMIT
    """Retries under way, where no budget is set."""
    max_concurrent_streams: int = NO_LIMIT
    """Calls on one connection at once."""
    idle_timeout_s: float = 3600.0
    """0: never."""
    max_connection_age_s: float = 0.0
    """`maxConnectionDuration`; 0: none."""


class RetryBudgetPolicy(msgspec.Struct, frozen=True):
    """Retries under way, as a share of what is under way."""

    percent: float = 20.0
    min_concurrency: int = 3


class BalancerKind(StrEnum):
    LEAST_REQUEST = "least_request"
    """Power of two choices by calls in flight; by weight over load where weights differ."""
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    RING_HASH = "ring_hash"
    MAGLEV = "maglev"
    PEAK_EWMA = "peak_ewma"
    """Beyond Istio: power of two choices by decayed peak latency times load."""


class HashSource(StrEnum):
    HEADER = "header"
    COOKIE = "cookie"
    SOURCE_IP = "source_ip"
    QUERY_PARAMETER = "query_parameter"


class HashOn(msgspec.Struct, frozen=True):
    source: HashSource
    name: str = ""
    ttl_s: float = 0.0
    """Of a cookie that is made when there is none."""


class LocalityPolicy(msgspec.Struct, frozen=True):
    enabled: bool = True
    distribute: dict[str, dict[str, int]] = {}
    """From a locality: percent to each."""
    failover: dict[str, str] = {}
    """From region to region."""
    failover_priority: tuple[str, ...] = ()
    """Labels, the more of which (from the first on) equal ours the higher the priority."""


class Balancing(msgspec.Struct, frozen=True):
    kind: BalancerKind = BalancerKind.LEAST_REQUEST
    hash_on: HashOn | None = None
    """For the two hashes."""
    ring_size_min: int = 1024
    maglev_size: int = 65_537
    locality: LocalityPolicy | None = None
    warmup_s: float = 0.0
    """A new host's share rises over this time."""
    warmup_min_percent: float = 10.0
    """What it starts with."""
    warmup_aggression: float = 1.0
    """1: rises evenly; above: faster at first."""


class TlsMode(StrEnum):
    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class TlsPolicy(msgspec.Struct, frozen=True):
    mode: TlsMode = TlsMode.DISABLE
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""


class Policy(msgspec.Struct, frozen=True):
    """Everything that applies to one cluster: a host, or a subset of one."""

    limits: ConnectionLimits = ConnectionLimits()
    outlier: OutlierPolicy | None = None
    """None: nobody is ejected."""
    balancing: Balancing = Balancing()
    retry_budget: RetryBudgetPolicy | None = None
    tls: TlsPolicy | None = None
