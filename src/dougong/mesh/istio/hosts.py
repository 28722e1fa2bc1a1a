"""Which host a name means: the one place where names of services, hosts in files and clusters meet.

A service `shop.v1.OrderBook` is the host `order-book`: the last part of its name, as Kubernetes writes names. Whoever
names its hosts otherwise passes `hosts={"shop.v1.OrderBook": "orders.shop"}` to `load_policies`.

A host in a file or in a call is a short name (`orders`: in the namespace of whoever says it), `orders.shop` (in that
namespace), the full name `orders.shop.svc.cluster.local`, or in files a wildcard `*.shop.svc.cluster.local`, of which
the most specific wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["CLUSTER_DOMAIN", "cluster_name", "full_name", "host_of_service", "is_host", "most_specific", "namespace_of"]

CLUSTER_DOMAIN = "svc.cluster.local"
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_LABEL = re.compile(r"[a-zA-Z0-9_](?:[-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?\Z")
_WILD_LABEL = re.compile(r"\*(?:-?[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,60}[a-zA-Z0-9])?)?\Z")


def host_of_service(service: str) -> str:
    """The short host of a service by its contract's name."""
    return _HUMPS.sub("-", service.rpartition(".")[2]).lower()


def full_name(host: str, namespace: str) -> str:
    """`orders` in `shop` is `orders.shop.svc.cluster.local`; a wildcard, or a name of three parts and more, is itself.

    Istio takes a two-part name in a file literally; here it is the service of that namespace, and the reader warns.
    """
    host = host.lower().rstrip(".")
    if "*" in host:
        return host
    parts = host.split(".")
    if len(parts) == 1:
        return f"{host}.{namespace}.{CLUSTER_DOMAIN}"
    if len(parts) == 2:
        return f"{host}.{CLUSTER_DOMAIN}"
    return f"{host}.cluster.local" if len(parts) == 3 and parts[2] == "svc" else host


def namespace_of(full: str) -> str:
    """The namespace of a full name, or nothing for a host outside."""
    parts = full.split(".")
    return parts[1] if full.endswith(f".{CLUSTER_DOMAIN}") and len(parts) == 5 else ""


def is_host(host: str, *, wildcard: bool) -> bool:
    """Whether it is a name at all: labels of letters, digits and hyphens, the first a wildcard if that is allowed."""
    if not 0 < len(host) <= 253:
        return False
    first, *rest = host.removesuffix(".").split(".")
    begins = bool(_LABEL.match(first)) or (wildcard and bool(_WILD_LABEL.match(first)))
    return begins and all(_LABEL.match(label) for label in rest)


def most_specific(host: str, patterns: Iterable[str]) -> str | None:
    """The pattern that is this host, else the longest wildcard that covers it."""
    best: str | None = None
    for pattern in patterns:
        if pattern == host:
            return pattern
        if pattern.startswith("*") and host.endswith(pattern[1:]) and (best is None or len(pattern) > len(best)):
            best = pattern
    return best


def cluster_name(full: str, port: int, subset: str = "") -> str:
    """As Envoy's statistics call it: `outbound|8080|v1|orders.shop.svc.cluster.local`."""
    return f"outbound|{port}|{subset}|{full}"
