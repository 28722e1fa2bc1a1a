"""`trafficPolicy`: each block read into what takes effect, with the line behind every value that was written.

Istio replaces blocks as wholes (a subset's connectionPool, everything of a port), so a block needs its defaults once,
here, and merging is choosing.
"""

from __future__ import annotations

import msgspec

from dougong.mesh.istio._balancing import read_balancing
from dougong.mesh.istio._block import Block
from dougong.mesh.istio._fields import Table
from dougong.mesh.istio._problems import Place
from dougong.mesh.policy import (
    NO_LIMIT,
    Balancing,
    ConnectionLimits,
    OutlierPolicy,
    RetryBudgetPolicy,
    TlsMode,
    TlsPolicy,
)

__all__ = ["Traffic", "read_port", "read_traffic"]

_BLOCKS = ("connectionPool", "loadBalancer", "outlierDetection", "tls")
_UINT32_MAX = 2**32 - 1
_EJECTION_MAX_S = 300.0
"""Envoy's max_ejection_time, which Istio never sets."""


class Traffic(msgspec.Struct, frozen=True):
    """One `trafficPolicy`, or one entry of its `portLevelSettings`."""

    limits: Block[ConnectionLimits] | None = None
    outlier: Block[OutlierPolicy] | None = None
    balancing: Block[Balancing] | None = None
    tls: Block[TlsPolicy] | None = None
    retry_budget: Block[RetryBudgetPolicy] | None = None
    ports: dict[int, Traffic] = {}


def read_traffic(policy: Table) -> Traffic:
    with policy:
        if not any(
            name in policy for name in (*_BLOCKS, "portLevelSettings", "tunnel", "proxyProtocol", "retryBudget")
        ):
            policy.fault("", "missing_field", f"says nothing: set at least one of {', '.join(_BLOCKS)}")
        traffic = _blocks(policy)
        budget = policy.table("retryBudget")
        policy.unsupported("tunnel", "calls go straight to the endpoint", "protocol", "targetHost", "targetPort")
        policy.unsupported("proxyProtocol", "calls go straight to the endpoint", "version")
        ports: dict[int, Traffic] = {}
        for entry in policy.tables("portLevelSettings"):
            _read_port(entry, ports)
        return msgspec.structs.replace(
            traffic, retry_budget=None if budget is None else _read_budget(budget), ports=ports
        )


def _read_port(entry: Table, ports: dict[int, Traffic]) -> None:
    with entry:
        number = read_port(entry, required=True)
        if not any(name in entry for name in _BLOCKS):
            entry.fault("", "missing_field", f"says nothing: set at least one of {', '.join(_BLOCKS)}")
        traffic = _blocks(entry)
        if number in ports:
            entry.fault("port", "contradiction", f"port {number} has settings already: keep one entry")
        elif number:
            ports[number] = traffic


def read_port(holder: Table, *, required: bool = False) -> int:
    """A port selector; 0 where there is none."""
    port = holder.table("port", required=required)
    if port is None:
        return 0
    with port:
        number = port.whole("number", low=1, high=65_535)
        if "number" not in port:
            port.fault("", "missing_field", "has no number: write number: 8080")
    return number


def _blocks(holder: Table) -> Traffic:
    pool = holder.table("connectionPool")
    balancer = holder.table("loadBalancer")
    outlier = holder.table("outlierDetection")
    tls = holder.table("tls")
    return Traffic(
        limits=None if pool is None else _read_limits(pool),
        outlier=None if outlier is None else _read_outlier(outlier),
        balancing=None if balancer is None else read_balancing(balancer, detects=outlier is not None),
        tls=None if tls is None else _read_tls(tls),
    )


def _read_limits(pool: Table) -> Block[ConnectionLimits]:
    """Unset and 0 are both no limit: Istio cannot tell them apart."""
    limits = ConnectionLimits()
    places: dict[str, Place] = {}
    with pool:
        if "http" not in pool and "tcp" not in pool:
            pool.fault("", "missing_field", "says nothing: set http, tcp or both")
        tcp = pool.table("tcp")
        if tcp is not None:
            limits = _read_tcp(tcp, limits)
            places |= tcp.spots(
                max_connections="maxConnections",
                connect_timeout_s="connectTimeout",
                max_connection_age_s="maxConnectionDuration",
                idle_timeout_s="idleTimeout",
            )
        http = pool.table("http")
        if http is not None:
            limits = _read_http(http, limits)
            places |= http.spots(
                max_pending="http1MaxPendingRequests",
                max_requests="http2MaxRequests",
                max_requests_per_connection="maxRequestsPerConnection",
                max_retries="maxRetries",
                max_concurrent_streams="maxConcurrentStreams",
                idle_timeout_s="idleTimeout",
            )
    return Block(limits, pool.place, places)


def _read_tcp(tcp: Table, limits: ConnectionLimits) -> ConnectionLimits:
    with tcp:
        tcp.unsupported("tcpKeepalive", "the connection's own pings find dead peers", "interval", "probes", "time")
        return msgspec.structs.replace(
            limits,
            max_connections=tcp.whole("maxConnections") or NO_LIMIT,
            connect_timeout_s=tcp.duration("connectTimeout", default=limits.connect_timeout_s),
            max_connection_age_s=tcp.duration("maxConnectionDuration"),
            idle_timeout_s=tcp.duration("idleTimeout", default=limits.idle_timeout_s, zero=True),
        )


def _read_http(http: Table, limits: ConnectionLimits) -> ConnectionLimits:
    """Its idle timeout goes before that of tcp."""
    with http:
        upgrade = http.choice("h2UpgradePolicy", ("DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"), default="DEFAULT")
        if http.flag("useClientProtocol") and upgrade == "UPGRADE":
            http.fault("useClientProtocol", "contradiction", "h2UpgradePolicy is UPGRADE: set one of them")
        for name in ("h2UpgradePolicy", "useClientProtocol"):
            if name in http:
                http.warn(name, "unsupported_field", "is not enforced in process: gRPC is HTTP/2 anyway")
        return msgspec.structs.replace(
            limits,
            max_pending=http.whole("http1MaxPendingRequests") or NO_LIMIT,
            max_requests=http.whole("http2MaxRequests") or NO_LIMIT,
            max_requests_per_connection=http.whole("maxRequestsPerConnection", high=2**29) or NO_LIMIT,
            max_retries=http.whole("maxRetries") or NO_LIMIT,
            max_concurrent_streams=http.whole("maxConcurrentStreams") or NO_LIMIT,
            idle_timeout_s=http.duration("idleTimeout", default=limits.idle_timeout_s),
        )


def _read_outlier(outlier: Table) -> Block[OutlierPolicy]:
    with outlier:
        if outlier.node("consecutiveErrors") is not None:
            outlier.warn(
                "consecutiveErrors", "deprecated_field", "is ignored by Istio: write consecutive5xxErrors instead"
            )
        split = outlier.flag("splitExternalLocalOriginErrors")
        local = outlier.whole("consecutiveLocalOriginFailures", high=_UINT32_MAX)
        if local and not split:
            outlier.fault(
                "consecutiveLocalOriginFailures",
                "contradiction",
                "takes effect only with splitExternalLocalOriginErrors: true: add it, or remove this",
            )
        gateway = outlier.whole("consecutiveGatewayErrors", high=_UINT32_MAX, default=5)
        base_s = outlier.duration("baseEjectionTime", default=30.0)
        value = OutlierPolicy(
            consecutive_5xx=outlier.whole("consecutive5xxErrors", high=_UINT32_MAX, default=5),
            consecutive_gateway=gateway,
            enforce_gateway="consecutiveGatewayErrors" in outlier and gateway > 0,
            split_local_origin=split,
            consecutive_local_origin=local or 5,
            interval_s=outlier.duration("interval", default=10.0),
            base_ejection_s=base_s,
            max_ejection_s=max(_EJECTION_MAX_S, base_s),
            max_ejection_percent=outlier.percent("maxEjectionPercent") or 10,
            min_health_percent=outlier.percent("minHealthPercent"),
        )
    places = outlier.spots(
        consecutive_5xx="consecutive5xxErrors",
        consecutive_gateway="consecutiveGatewayErrors",
        enforce_gateway="consecutiveGatewayErrors",
        split_local_origin="splitExternalLocalOriginErrors",
        consecutive_local_origin="consecutiveLocalOriginFailures",
        interval_s="interval",
        base_ejection_s="baseEjectionTime",
        max_ejection_percent="maxEjectionPercent",
        min_health_percent="minHealthPercent",
    )
    if base_s > _EJECTION_MAX_S:
        places["max_ejection_s"] = places["base_ejection_s"]
    return Block(value, outlier.place, places)


def _read_budget(budget: Table) -> Block[RetryBudgetPolicy]:
    with budget:
        value = RetryBudgetPolicy(
            percent=budget.number("percent", high=100.0, default=20.0),
            min_concurrency=budget.whole("minRetryConcurrency", high=_UINT32_MAX) or 3,
        )
        budget.unsupported("budgetInterval", "the share is of calls under way")
    return Block(value, budget.place, budget.spots(percent="percent", min_concurrency="minRetryConcurrency"))


def _read_tls(tls: Table) -> Block[TlsPolicy]:
    own = ("clientCertificate", "privateKey", "caCertificates", "credentialName", "subjectAltNames", "sni", "caCrl")
    with tls:
        mode = TlsMode(tls.choice("mode", [mode.value for mode in TlsMode], default="DISABLE"))
        value = TlsPolicy(
            mode=mode,
            client_certificate=tls.text("clientCertificate"),
            private_key=tls.text("privateKey"),
            ca_certificates=tls.text("caCertificates"),
            subject_alt_names=tls.texts("subjectAltNames"),
            sni=tls.text("sni"),
        )
        named = "credentialName" in tls
        if mode is TlsMode.ISTIO_MUTUAL:
            for name in own:
                if name in tls and name not in {"subjectAltNames", "sni"}:
                    tls.fault(name, "contradiction", "mode ISTIO_MUTUAL brings its own certificates: remove this")
        if mode is TlsMode.MUTUAL and not named:
            for name in ("clientCertificate", "privateKey"):
                if name not in tls:
                    tls.fault(name, "missing_field", "is missing, and mode MUTUAL needs it")
        if named and (value.client_certificate or value.private_key or value.ca_certificates):
            tls.fault("credentialName", "contradiction", "certificate paths are set too: keep one of the two")
        tls.unsupported("credentialName", "there is no Kubernetes secret here, give paths")
        tls.unsupported("insecureSkipVerify", "certificates are always verified")
        tls.unsupported("caCrl", "revocation lists are not consulted")
    return Block(
        value,
        tls.place,
        tls.spots(
            mode="mode",
            client_certificate="clientCertificate",
            private_key="privateKey",
            ca_certificates="caCertificates",
            subject_alt_names="subjectAltNames",
            sni="sni",
        ),
    )
