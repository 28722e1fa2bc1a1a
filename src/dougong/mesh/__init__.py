"""Which endpoint a call goes to, and whether at all: policy as pure algorithms.

The one idea: **what decides knows no connection.** A policy sees numbers (calls in flight, failures in a row, what time
it is) and answers; `rpc` and `tcc` count and connect. So every policy runs a million times in a test, from a seed.

    cluster = Cluster("outbound|8080||orders", Policy(outlier=OutlierPolicy()), now)
    host = cluster.pick(now)             # by the policy's balancer, never one that is ejected
    cluster.ended(host, OK, now)         # ... and five 503 in a row eject it

`dougong.mesh.istio` reads DestinationRule and VirtualService files; `Mesh` is what one process makes of them.
What it does not do: connect, retry, wait. That is `rpc`'s.
"""

import importlib
from typing import TYPE_CHECKING

from dougong.breaker import Breaker, BreakerPolicy, BreakerState
from dougong.mesh.baggage import BAGGAGE_MAX, accepted_baggage, extend_baggage
from dougong.mesh.balancers import Balancer, call_key, make_balancer, observe, subset
from dougong.mesh.cluster import Cluster
from dougong.mesh.colour import COLOUR_HEADER, Colouring
from dougong.mesh.concurrency import ConcurrencyLimiter, Gradient2, Gradient2Policy, Vegas, VegasPolicy
from dougong.mesh.error_rate import ErrorRateBreaker, ErrorRatePolicy
from dougong.mesh.faults import Injected, decide
from dougong.mesh.host import Host
from dougong.mesh.limits import Limits
from dougong.mesh.mesh import Mesh
from dougong.mesh.outcome import CONNECT_FAILED, OK, RESET, TIMEOUT, Origin, Outcome, of_grpc, of_http
from dougong.mesh.p2c import P2C, EndpointLoad
from dougong.mesh.policy import (
    NO_LIMIT,
    BalancerKind,
    Balancing,
    ConnectionLimits,
    Mode,
    OutlierPolicy,
    Policy,
    RetryBudgetPolicy,
)
from dougong.mesh.request_headers import RequestHeaders
from dougong.mesh.retrying import DEFAULT_RETRIES, Failure, RetryPolicy
from dougong.mesh.routing import Call, Decision, Destination, Routes, mirrors_of
from dougong.mesh.statistics import Action, EjectionEvent, EjectionType
from dougong.mesh.throttle import Throttle, ThrottlePolicy

if TYPE_CHECKING:
    from dougong.mesh.istio import Line, Policies, cluster_name, explain, load_policies, read_policies

__all__ = [
    "BAGGAGE_MAX",
    "COLOUR_HEADER",
    "CONNECT_FAILED",
    "DEFAULT_RETRIES",
    "NO_LIMIT",
    "OK",
    "P2C",
    "RESET",
    "TIMEOUT",
    "Action",
    "Balancer",
    "BalancerKind",
    "Balancing",
    "Breaker",
    "BreakerPolicy",
    "BreakerState",
    "Call",
    "Cluster",
    "Colouring",
    "ConcurrencyLimiter",
    "ConnectionLimits",
    "Decision",
    "Destination",
    "EjectionEvent",
    "EjectionType",
    "EndpointLoad",
    "ErrorRateBreaker",
    "ErrorRatePolicy",
    "Failure",
    "Gradient2",
    "Gradient2Policy",
    "Host",
    "Injected",
    "Limits",
    "Line",
    "Mesh",
    "Mode",
    "Origin",
    "Outcome",
    "OutlierPolicy",
    "Policies",
    "Policy",
    "RequestHeaders",
    "RetryBudgetPolicy",
    "RetryPolicy",
    "Routes",
    "Throttle",
    "ThrottlePolicy",
    "Vegas",
    "VegasPolicy",
    "accepted_baggage",
    "call_key",
    "cluster_name",
    "decide",
    "explain",
    "extend_baggage",
    "load_policies",
    "make_balancer",
    "mirrors_of",
    "observe",
    "of_grpc",
    "of_http",
    "read_policies",
    "subset",
]

_READER = frozenset(["Line", "Policies", "cluster_name", "explain", "load_policies", "read_policies"])


def __getattr__(name: str) -> object:
    """The reader of files is loaded when asked for: it is a megabyte that processes without files do without."""
    if name in _READER:
        value: object = getattr(importlib.import_module("dougong.mesh.istio"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
