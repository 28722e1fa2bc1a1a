"""The whole shop as real processes, once per test worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import pytest
import pytest_asyncio

import shop
from dougong.app import AppSpec, Supervisor, System, load_system
from dougong.evidence.engines import free_port
from shop.users import DEMO_PASSWORD

SYSTEM_FILE = Path(shop.__file__).with_name("system.toml")
READY_S = 60.0


def system_on(port: int) -> System:
    """The shop's own system file, with its edge on another port."""
    system = load_system(SYSTEM_FILE)
    edge = msgspec.structs.replace(system.apps["edge"], http=f"127.0.0.1:{port}")
    return msgspec.structs.replace(system, apps={**system.apps, "edge": edge})


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
        system_on(port),
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


__all__ = ["AppSpec", "Shop", "free_port", "running_shop", "system_on"]
