"""`loadBalancer`: who of those there gets the call."""

from __future__ import annotations

import math

from dougong.mesh.istio._block import Block
from dougong.mesh.istio._fields import Table
from dougong.mesh.policy import BalancerKind, Balancing, HashOn, HashSource, LocalityPolicy

__all__ = ["read_balancing"]

_SIMPLE = {
    "UNSPECIFIED": BalancerKind.LEAST_REQUEST,
    "LEAST_CONN": BalancerKind.LEAST_REQUEST,
    "LEAST_REQUEST": BalancerKind.LEAST_REQUEST,
    "RANDOM": BalancerKind.RANDOM,
    "ROUND_ROBIN": BalancerKind.ROUND_ROBIN,
    "PASSTHROUGH": BalancerKind.LEAST_REQUEST,
}
_HASH_KEYS = ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName")
_RING_MAX = 8 * 1024 * 1024
"""Envoy's own maximum."""
_MAGLEV_MAX = 5_000_010
_TOPOLOGY = frozenset(
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"],
)


def read_balancing(balancer: Table, *, detects: bool) -> Block[Balancing]:
    """`detects`: there is outlier detection, without which nothing ever fails over."""
    with balancer:
        balancer.one_of("simple", "consistentHash")
        simple = balancer.choice("simple", _SIMPLE, default="UNSPECIFIED")
        if simple == "LEAST_CONN":
            balancer.warn("simple", "deprecated_value", "LEAST_CONN is deprecated: write LEAST_REQUEST")
        elif simple == "PASSTHROUGH":
            balancer.warn("simple", "unsupported_value", "PASSTHROUGH is not done in process: LEAST_REQUEST is used")
        value = Balancing(kind=_SIMPLE[simple])
        places = balancer.spots(kind="simple")
        hashed = balancer.table("consistentHash")
        if hashed is not None:
            value = _read_hash(hashed)
            places = balancer.spots(kind="consistentHash") | hashed.spots(ring_size_min="minimumRingSize")
            places |= hashed.spots(ring_size_min="ringHash", maglev_size="maglev")
            for name in _HASH_KEYS:
                places |= hashed.spots(hash_on=name)
        locality = balancer.table("localityLbSetting")
        warmup_s, least, aggression = _read_warmup(balancer, value.kind)
        value = Balancing(
            kind=value.kind,
            hash_on=value.hash_on,
            ring_size_min=value.ring_size_min,
            maglev_size=value.maglev_size,
            locality=None if locality is None else _read_locality(locality, detects=detects),
            warmup_s=warmup_s,
            warmup_min_percent=least,
            warmup_aggression=aggression,
        )
    places |= balancer.spots(locality="localityLbSetting", warmup_s="warmupDurationSecs")
    if "warmup" in balancer.places:
        places |= dict.fromkeys(("warmup_s", "warmup_min_percent", "warmup_aggression"), balancer.places["warmup"])
    return Block(value, balancer.place, places)


def _read_warmup(balancer: Table, kind: BalancerKind) -> tuple[float, float, float]:
    balancer.one_of("warmup", "warmupDurationSecs")
    seconds, least, aggression = balancer.duration("warmupDurationSecs"), 10.0, 1.0
    if seconds:
        balancer.warn("warmupDurationSecs", "deprecated_field", "is deprecated: write warmup with duration")
    warmup = balancer.table("warmup")
    if warmup is not None:
        with warmup:
            seconds = warmup.duration("duration")
            if "duration" not in warmup:
                warmup.fault("", "missing_field", "has no duration")
            least = warmup.number("minimumPercent", high=100.0, default=10.0)
            aggression = warmup.number("aggression", low=1.0, default=1.0)
    if seconds and kind not in {BalancerKind.LEAST_REQUEST, BalancerKind.ROUND_ROBIN}:
        name = "warmup" if warmup is not None else "warmupDurationSecs"
        balancer.warn(name, "no_effect", f"has no effect with {kind.value}: only LEAST_REQUEST and ROUND_ROBIN warm up")
        seconds = 0.0
    return seconds, least, aggression


def _read_hash(hashed: Table) -> Balancing:
    with hashed:
        on = _read_hash_key(hashed)
        size = hashed.whole("minimumRingSize", high=_RING_MAX)
        if hashed.one_of("ringHash", "maglev") and size:
            hashed.fault("minimumRingSize", "contradiction", "ringHash or maglev is set too: write ringHash only")
        elif size:
            hashed.warn("minimumRingSize", "deprecated_field", "is deprecated: write it into ringHash")
        ring = hashed.table("ringHash")
        if ring is not None:
            with ring:
                size = ring.whole("minimumRingSize", high=_RING_MAX)
        maglev = hashed.table("maglev")
        if maglev is None:
            return Balancing(kind=BalancerKind.RING_HASH, hash_on=on, ring_size_min=size or 1024)
        with maglev:
            table_size = maglev.whole("tableSize", high=_MAGLEV_MAX)
            if not table_size:
                maglev.warn("tableSize", "refused_by_istio", "is not set: 65537 is used here, Istio refuses the file")
            elif not _is_prime(table_size):
                maglev.fault("tableSize", "out_of_range", f"{table_size} is not prime: 65537 is, and 131071 is")
                table_size = 0
        return Balancing(kind=BalancerKind.MAGLEV, hash_on=on, maglev_size=table_size or 65_537)


def _read_hash_key(hashed: Table) -> HashOn | None:
    hashed.one_of(*_HASH_KEYS)
    header, query = hashed.text("httpHeaderName"), hashed.text("httpQueryParameterName")
    source_ip = hashed.flag("useSourceIp")
    cookie = hashed.table("httpCookie")
    if cookie is not None:
        with cookie:
            name, ttl_s = cookie.text("name", required=True), cookie.duration("ttl", zero=True)
            cookie.unsupported("path", "no cookie is set on a browser")
            cookie.unsupported("attributes", "no cookie is set on a browser")
        return HashOn(HashSource.COOKIE, name, ttl_s)
    if header:
        return HashOn(HashSource.HEADER, header.lower())
    if query:
        return HashOn(HashSource.QUERY_PARAMETER, query)
    if source_ip:
        return HashOn(HashSource.SOURCE_IP)
    hashed.warn("", "no_effect", f"names nothing to hash, so hosts are picked at random: add {', '.join(_HASH_KEYS)}")
    return None


def _read_locality(locality: Table, *, detects: bool) -> LocalityPolicy:
    with locality:
        distribute = _read_distribute(locality)
        failover = _read_failover(locality)
        priority = locality.texts("failoverPriority")
        enabled = locality.flag("enabled", default=True)
        if distribute and failover:
            locality.fault("failover", "contradiction", "distribute is set too: keep one of the two")
        if distribute and priority:
            locality.warn("failoverPriority", "no_effect", "has no effect, as distribute is set too")
        if failover and (topology := next((label for label in priority if label in _TOPOLOGY), "")):
            locality.fault("failoverPriority", "contradiction", f"{topology} and failover exclude each other")
        if (failover or priority) and not detects:
            name = "failover" if failover else "failoverPriority"
            locality.warn(
                name, "no_effect", "has no effect without outlierDetection beside it: nothing is ever ejected"
            )
    return LocalityPolicy(enabled=enabled, distribute=distribute, failover=failover, failover_priority=priority)


def _read_distribute(locality: Table) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for entry in locality.tables("distribute"):
        with entry:
            source = entry.text("from", required=True)
            shares: dict[str, int] = {}
            for name, place, node in entry.entries("to"):
                if isinstance(node.value, int) and not isinstance(node.value, bool) and 1 <= node.value <= 100:
                    shares[name] = node.value
                else:
                    entry.findings.fault(
                        place, f"{entry.at('to')}.{name}", "out_of_range", "is not a whole number from 1 to 100"
                    )
            if sum(shares.values()) != 100:
                entry.fault("to", "out_of_range", f"the shares add up to {sum(shares.values())}, not 100")
            if source in found:
                entry.fault("from", "contradiction", f"{source!r} is distributed already: keep one entry")
            found[source] = shares
    return found


def _read_failover(locality: Table) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in locality.tables("failover"):
        with entry:
            source, to = entry.text("from", required=True), entry.text("to", required=True)
            if source and source == to:
                entry.fault("to", "contradiction", f"{source!r} cannot fail over to itself")
            for name, region in (("from", source), ("to", to)):
                if "/" in region or "*" in region:
                    entry.fault(name, "out_of_range", f"{region[:60]!r} is not a region: no zones and no * here")
            found[source] = to
    return found


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, math.isqrt(number) + 1))
