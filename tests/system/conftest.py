"""The whole shop as real processes, once per test worker."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import pytest
import pytest_asyncio

import shop
from dougong.app import AppSpec, ProcessState, Supervisor, System, load_system
from dougong.evidence.engines import free_port
from shop.users import DEMO_PASSWORD

SYSTEM_FILE = Path(shop.__file__).with_name("system.toml")
READY_S = 60.0
PATIENCE_S = 60.0


def system_on(port: int, *, live: bool = False) -> System:
    """The shop's own system file, with its edge on another port, and the app that tells screens twice or not at all."""
    system = load_system(SYSTEM_FILE)
    apps = {**system.apps, "edge": msgspec.structs.replace(system.apps["edge"], http=f"127.0.0.1:{port}")}
    screens = apps.pop("live")
    if live:
        http, gateway = (f"127.0.0.1:{port}" for port in (free_pair(), free_port()))
        apps["live"] = msgspec.structs.replace(screens, http=http, live=gateway, instances=2)
    return msgspec.structs.replace(system, apps=apps)


def free_pair() -> int:
    """The first of two ports."""
    while True:
        first = free_port()
        with socket.socket() as second, suppress(OSError):
            second.bind(("127.0.0.1", first + 1))
            return first


async def kill(supervisor: Supervisor, name: str, killed: Sequence[str]) -> None:
    """kill -9 of a process, once it serves again after those that were `killed` before."""
    process = supervisor.find(name)
    async with asyncio.timeout(PATIENCE_S):
        while process.restarts < killed.count(name) or process.state is not ProcessState.SERVING:
            await asyncio.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)


@dataclass
class Shop:
    """A running shop and a way to talk to it."""

    supervisor: Supervisor
    url: str
    http: aiohttp.ClientSession
    lines: list[str]

    async def call(
        self, verb: str, path: str, body: object = None, *, token: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, object]]:
        """Status and JSON body."""
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        async with self.http.request(verb, self.url + path, json=body, headers=sent) as answer:
            return answer.status, await answer.json(content_type=None)

    async def customer(self, name: str) -> str:
        """Register somebody new; their token."""
        email = f"{name}-{id(self)}-{asyncio.get_running_loop().time()}@test.example"
        status, _ = await self.call("POST", "/v1/users", {"email": email, "password": "correct horse", "name": name})
        assert status in (200, 201)
        return await self.token(email, "correct horse")

    async def token(self, email: str, password: str = DEMO_PASSWORD) -> str:
        status, answer = await self.call("POST", "/v1/login", {"email": email, "password": password})
        assert status in (200, 201), answer
        return str(answer["token"])


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running_shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    port, lines = free_port(), list[str]()
    supervisor = Supervisor(
        system_on(port, live=True),
        SYSTEM_FILE,
        tmp_path_factory.mktemp("shop"),
        on_line=lambda name, line: lines.append(f"{name}: {line}"),
    )
    try:
        await supervisor.start(ready_s=READY_S)
    except BaseException as error:
        error.add_note("\n".join(lines[-50:]))
        raise
    async with aiohttp.ClientSession() as http:
        yield Shop(supervisor, f"http://127.0.0.1:{port}", http, lines)
    await supervisor.stop()


__all__ = ["AppSpec", "Shop", "free_port", "kill", "running_shop", "system_on"]
