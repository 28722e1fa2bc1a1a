"""Keys of a system of real processes: one issues tokens, another one believes them, and both follow the files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from tests.app.conftest import PATIENCE_S, running

from dougong.app import retire_key, rotate_keys, show_keys
from dougong.evidence.engines import free_port

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("supervisor")]

APPS = """
[apps.tickets]
target = "tests.app.sample:tickets"
[apps.desk]
target = "tests.app.sample:desk"
http = "127.0.0.1:{port}"
"""


class Desk:
    """Its front, as customers see it."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self.asked = 0
        self.refused: list[str] = []
        self.tokens: list[str] = []

    async def ticket(self) -> str:
        async with self._http.get("/v1/ticket/ada") as answer:
            return str((await answer.json())["token"])

    async def refuses(self, token: str) -> str:
        """The error's code, "" when the token is believed."""
        async with self._http.get("/v1/me", headers={"Authorization": f"Bearer {token}"}) as answer:
            body = await answer.json()
            return "" if body.get("text") == "ada" else f"{answer.status} {body.get('code')}"

    async def kids(self) -> list[str]:
        async with self._http.get("/.well-known/jwks.json") as answer:
            return [key["kid"] for key in (await answer.json(content_type=None))["keys"]]

    async def customers(self) -> None:
        """New tokens and old ones, as fast as they come."""
        while True:
            self.tokens.append(await self.ticket())
            for token in {self.tokens[0], self.tokens[len(self.tokens) // 2], self.tokens[-1]}:
                self.asked += 1
                if code := await self.refuses(token):
                    self.refused.append(code)


async def test_nobody_is_refused_while_keys_rotate_and_a_leaked_one_is_refused_everywhere(tmp_path: Path) -> None:
    async with (
        running(tmp_path, APPS.format(port=(port := free_port()))) as it,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        asyncio.timeout(PATIENCE_S),
    ):
        keys, desk = it.supervisor.data / "keys", Desk(http)
        first = await desk.ticket()
        (leaked,) = await desk.kids()
        load = asyncio.create_task(desk.customers())
        try:
            second = await rotate_keys(keys, wait_s=0.5)  # less than they take to follow: they have to look
            while not it.said("another key signs"):
                await asyncio.sleep(0.02)
            third = await rotate_keys(keys, wait_s=0)
            while not any("another key signs" in line and third in line for _, line in it.lines):
                await asyncio.sleep(0.02)
            told = desk.asked
            while desk.asked < told + 100:
                await asyncio.sleep(0.02)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        assert desk.refused == [], f"of {desk.asked}"
        assert set(await desk.kids()) == {leaked, second, third}

        assert await desk.refuses(first) == ""
        await retire_key(keys, leaked, now=True)
        while not (code := await desk.refuses(first)):
            await asyncio.sleep(0.02)
        assert code == "401 token_unknown_key"
        assert await desk.refuses(await desk.ticket()) == ""
        assert set(await desk.kids()) == {second, third}
        assert {key.kid for key in show_keys(keys)[0]} == {second, third}
