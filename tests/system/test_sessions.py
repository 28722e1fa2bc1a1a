"""Logging in and out through the edge: two processes that share nothing but what one tells the other."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import pytest
from tests.system.conftest import READY_S, SYSTEM_FILE, Shop, free_port, kill, system_on

from dougong.app import ProcessState, Supervisor
from dougong.errors import Unauthenticated
from dougong.rpc import client as rpc_client
from dougong.rpc import close_client
from shop.users import GetProfile, Users

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("shop"), pytest.mark.asyncio(loop_scope="session")]

PASSWORD = "correct horse"
PATIENCE_S = 60.0


@dataclass
class Client:
    """One device of a customer."""

    shop: Shop
    email: str
    answer: dict[str, object]

    @property
    def token(self) -> str:
        return str(self.answer["token"])

    async def refresh(self) -> int:
        status, answer = await self.shop.call("POST", "/v1/token", {"refresh_token": self.answer["refresh_token"]})
        if status == 200:
            self.answer = answer
        return status

    async def me(self) -> tuple[int, object]:
        status, answer = await self.shop.call("GET", "/v1/me", token=self.token)
        return status, answer.get("code")

    async def until_refused(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await self.me()) != (401, "token_ended"):
                await asyncio.sleep(0.1)


async def registered(shop: Shop, name: str) -> str:
    email = f"{name}-{id(shop)}-{asyncio.get_running_loop().time()}@test.example"
    status, _ = await shop.call("POST", "/v1/users", {"email": email, "password": PASSWORD, "name": name})
    assert status == 200
    return email


async def login(shop: Shop, email: str, password: str = PASSWORD) -> Client:
    status, answer = await shop.call("POST", "/v1/login", {"email": email, "password": password})
    assert status == 200, answer
    return Client(shop, email, answer)


async def test_a_session_from_its_opening_to_its_end(running_shop: Shop) -> None:
    email = await registered(running_shop, "ann")
    phone, laptop = await login(running_shop, email), await login(running_shop, email)
    assert phone.answer["expires_in_s"] == 900
    first = phone.answer
    assert await phone.refresh() == 200
    assert phone.answer["refresh_token"] != first["refresh_token"]
    assert phone.answer["session_id"] == first["session_id"]
    assert (await phone.me())[0] == 200
    _, listed = await running_shop.call("GET", "/v1/sessions", token=laptop.token)
    items = listed["items"]
    assert isinstance(items, list)
    assert {str(item["session_id"]): bool(item.get("current", False)) for item in items} == {
        str(phone.answer["session_id"]): False,
        str(laptop.answer["session_id"]): True,
    }
    assert await running_shop.call("POST", "/v1/logout", {}, token=phone.token) == (200, {"sessions": 1})
    await phone.until_refused()
    assert await phone.refresh() == 401
    assert (await laptop.me())[0] == 200
    assert (await running_shop.call("POST", "/v1/logout-all", {}, token=laptop.token))[1] == {"sessions": 1}
    await laptop.until_refused()


async def test_another_password_and_an_operator_end_sessions(running_shop: Shop) -> None:
    email = await registered(running_shop, "bob")
    phone, laptop = await login(running_shop, email), await login(running_shop, email)
    change = {"old_password": "wrong horse", "new_password": "battery staple"}
    status, answer = await running_shop.call("POST", "/v1/password", change, token=laptop.token)
    assert (status, answer["code"]) == (403, "wrong_password")
    change["old_password"] = PASSWORD
    assert await running_shop.call("POST", "/v1/password", change, token=laptop.token) == (200, {"sessions": 1})
    await phone.until_refused()
    assert (await laptop.me())[0] == 200
    path = f"/v1/users/{laptop.answer['user_id']}/end-sessions"
    assert (await running_shop.call("POST", path, {}, token=laptop.token))[0] == 403
    operator = await running_shop.token("operator@shop.example")
    assert await running_shop.call("POST", path, {}, token=operator) == (200, {"sessions": 1})
    await laptop.until_refused()
    assert (await login(running_shop, email, "battery staple")).answer["user_id"] == laptop.answer["user_id"]


async def test_who_guesses_is_told_to_wait_and_a_customer_is_not_shut_out(running_shop: Shop) -> None:
    email = await registered(running_shop, "eve")
    await login(running_shop, email)  # from here: this address is known to the account
    statuses = []
    for _ in range(11):
        async with running_shop.http.post(
            f"{running_shop.url}/v1/login", json={"email": f"nobody-{email}", "password": "x"}
        ) as answer:
            statuses.append(answer.status)
            if answer.status == 429:
                assert int(answer.headers["Retry-After"]) >= 1
                assert (await answer.json(content_type=None))["code"] == "login_throttled"
    assert statuses == [401] * 10 + [429]
    await login(running_shop, email)


async def test_forged_and_odd_refresh_tokens(running_shop: Shop) -> None:
    for token in ("", "x", "rt1." + "A" * 75, "rt1.' OR 1=1 --", "é" * 79):
        status, answer = await running_shop.call("POST", "/v1/token", {"refresh_token": token})
        assert (status, answer["code"]) == (401, "refresh_token_invalid"), token
    status, answer = await running_shop.call("POST", "/v1/token", {"refresh_token": "x" * 1000})
    assert status == 400


async def test_what_one_process_of_users_ended_all_others_hear(tmp_path: Path) -> None:
    """Two processes of users, and an edge that is killed: the first answer of the next one knows who logged out."""
    port = free_port()
    system = system_on(port)
    two = msgspec.structs.replace(system.apps["users"], instances=2)
    system = msgspec.structs.replace(system, apps={**system.apps, "users": two})
    supervisor = Supervisor(system, SYSTEM_FILE, tmp_path, on_line=lambda name, line: None)
    await supervisor.start(ready_s=READY_S)
    try:
        async with aiohttp.ClientSession() as http:
            shop = Shop(supervisor, f"http://127.0.0.1:{port}", http, [])
            email = await registered(shop, "cy")
            clients = [await login(shop, email) for _ in range(12)]
            for client in clients[:-1]:
                assert (await shop.call("POST", "/v1/logout", {}, token=client.token))[0] == 200
            for client in clients[:-1]:
                await client.until_refused()
            assert (await clients[-1].me())[0] == 200
            await both_know(supervisor, clients[:-1])
            edge = supervisor.find("edge")
            os.kill(edge.pid, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_S):
                while not edge.restarts or edge.state is not ProcessState.SERVING:
                    await asyncio.sleep(0.05)
            for client in clients[:-1]:
                assert await client.me() == (401, "token_ended")
            assert await clients[-1].refresh() == 200
            assert (await clients[-1].me())[0] == 200
    finally:
        await supervisor.stop()


async def test_a_refresh_survives_the_death_of_who_answers_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users is killed again and again while a client refreshes; it repeats what has no answer, and is never logged out.

    With a grace of a minute, so that a machine that is slow to restart a process is no failure.
    """
    monkeypatch.setenv("DOUGONG_APP_USERS_REFRESH_GRACE_S", "60")
    rng = random.Random(7)
    port = free_port()
    supervisor = Supervisor(system_on(port), SYSTEM_FILE, tmp_path, on_line=lambda name, line: None)
    await supervisor.start(ready_s=READY_S)
    try:
        async with aiohttp.ClientSession() as http:
            shop = Shop(supervisor, f"http://127.0.0.1:{port}", http, [])
            client = await login(shop, await registered(shop, "dee"))
            seen = {client.answer["refresh_token"]}
            users = supervisor.find("users")

            async def killing() -> None:
                for kills in range(3):
                    await asyncio.sleep(rng.uniform(0.05, 0.3))
                    await kill(supervisor, "users", ["users"] * kills)

            killer = asyncio.create_task(killing())
            unanswered = rounds = 0
            while not killer.done() or rounds < 20:
                async with asyncio.timeout(PATIENCE_S):
                    while (status := await client.refresh()) != 200:
                        assert status >= 500, status
                        unanswered += 1
                        await asyncio.sleep(0.05)
                assert client.answer["refresh_token"] not in seen  # one line, without a step back
                seen.add(client.answer["refresh_token"])
                rounds += 1
            await killer
            assert users.restarts >= 2
            _, listed = await shop.call("GET", "/v1/sessions", token=client.token)
            assert len(listed["items"]) == 1  # type: ignore[arg-type]
    finally:
        await supervisor.stop()


async def both_know(supervisor: Supervisor, clients: list[Client]) -> None:
    """Each process of users, asked by itself, refuses their tokens."""
    for process in (one for one in supervisor.processes if one.app == "users"):
        for client in clients:
            users = rpc_client(Users, process.address, token=client.token)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while True:
                        try:
                            await users.get_profile(GetProfile())
                        except Unauthenticated as refused:
                            if refused.code == "token_ended":
                                break
                            raise
                        await asyncio.sleep(0.1)
            finally:
                await close_client(users)
