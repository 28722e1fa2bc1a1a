"""The status page: processes, health, instances, and what the apps themselves find worth a glance.

One HTML file that asks for `/api/status` every second. It shows and changes nothing; it answers only to a loopback
Host, so that a web page elsewhere cannot read it by pointing its own name at this machine.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import re
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping
from contextlib import suppress
from typing import Any

import msgspec
import psutil

from dougong.app import (
    AppStatus,
    GetStatus,
    ProcessState,
    Status,
    Supervisor,
    load_run_settings,
    network_transport,
    read_secrets,
)
from dougong.errors import Error, Invalid
from dougong.registry import Instance, Listing, read_instance
from dougong.rpc import client, close_client

__all__ = ["StatusPage"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)
_REGISTRY_S = 1.0
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


class StatusPage:
    """An ASGI app over a supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._page = (importlib.resources.files("dougong.cli") / "status.html").read_bytes()
        self._token = read_secrets(supervisor.data / "keys", supervisor.system.name).system_token
        self._transport = network_transport(load_run_settings())  # the processes have their settings from here
        self._clients: dict[str, Status] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if not _LOOPBACK.fullmatch(host):
            await _answer(send, 403, b"text/plain", b"this page answers to the machine itself: http://127.0.0.1:PORT")
        elif scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, b"text/plain", b"this page only shows", (b"allow", b"GET, HEAD"))
        elif scope["path"] == "/":
            await _answer(send, 200, b"text/html; charset=utf-8", self._page)
        elif scope["path"] == "/api/status":
            await _answer(send, 200, b"application/json", msgspec.json.encode(await self.status()))
        else:
            await _answer(send, 404, b"text/plain", b"nothing here; the page is /")

    async def status(self) -> dict[str, object]:
        """Everything the page shows."""
        supervisor = self._supervisor
        listing = await self._listing()
        serving = [p.address for p in supervisor.processes if p.state is ProcessState.SERVING]
        await self._close_all_but(serving)
        told = await asyncio.gather(*(self._ask(address) for address in serving))
        return {
            "system": supervisor.system.name,
            "data": str(supervisor.data),
            "revision": listing.revision if listing is not None else None,
            "processes": [
                {
                    "name": p.name,
                    "app": p.app,
                    "state": p.state.value,
                    "pid": p.pid,
                    "restarts": p.restarts,
                    "address": p.address,
                    "http": p.http,
                    "front": bool(p.front),
                    "started_us": p.started_us,
                    "rss_bytes": _rss(p.pid),
                }
                for p in supervisor.processes
            ],
            "instances": list(_instances(listing)) if listing is not None else [],
            "tables": [{"app": s.app, "table": table} for s in told if s is not None for table in s.tables],
        }

    async def _listing(self) -> Listing | None:
        """None from a registry that is silent: then more than ever it matters how the processes are."""
        with suppress(Error, TimeoutError):
            async with asyncio.timeout(_REGISTRY_S):
                return await self._supervisor.registry.list("/services/")
        return None

    async def close(self) -> None:
        """Let go of the connections to the apps."""
        await self._close_all_but(())

    async def _close_all_but(self, addresses: Collection[str]) -> None:
        for address in self._clients.keys() - set(addresses):
            await close_client(self._clients.pop(address))

    async def _ask(self, address: str) -> AppStatus | None:
        try:
            if address not in self._clients:
                self._clients[address] = client(Status, [address], token=self._token, transport=self._transport)
            return await self._clients[address].get_status(GetStatus())
        except Error:
            return None  # its process row says how it is


def _instances(listing: Listing) -> Iterator[Instance]:
    for item in listing.items:
        with suppress(Invalid):  # `dougong services` names it
            yield read_instance(item.key, item.value)


def _rss(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0


async def _answer(send: Send, status: int, kind: bytes, body: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [
        *more,
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"content-security-policy", _POLICY),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
