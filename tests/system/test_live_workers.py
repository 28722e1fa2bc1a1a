"""Screens of the shop held by two processes: each shows what happens, also those whose process is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from uuid import uuid4

import msgspec
import pytest
from tests.system.conftest import PATIENCE_S, Shop

from dougong.app import Connections, GetConnections, Process, ProcessState, read_secrets
from dougong.gateway import ClientSettings, LiveClient, Pauses, Subscription, Told
from dougong.rpc import client, close_client
from shop.users import DEMO_PASSWORD

pytestmark = [
    pytest.mark.processes,
    pytest.mark.xdist_group("shop"),
    pytest.mark.asyncio(loop_scope="session"),
]

QUICK = ClientSettings(pauses=Pauses(first_s=0.05, max_s=0.5))
SCREENS_MAX = 24


class Change(msgspec.Struct):
    order_id: str
    state: str


class Screen:
    """What a page does: it shows what it is told, and loads everything when it has to."""

    def __init__(self, shop: Shop, token: str, live: LiveClient) -> None:
        self._shop = shop
        self._token = token
        self.live = live
        self.shown: dict[str, str] = {}
        self.loads = 0

    async def follow(self, orders: Subscription) -> None:
        async for told in orders:
            if isinstance(told, Told):
                change = msgspec.json.decode(told.data, type=Change)
                self.shown[change.order_id] = change.state
            else:
                await self.load()

    async def load_when_told(self, all_: Subscription) -> None:
        async for _ in all_:
            await self.load()

    async def load(self) -> None:
        self.loads += 1
        status, page = await self._shop.call("GET", "/v1/orders?limit=50", token=self._token)
        assert status == 200
        for order in msgspec.convert(page["items"], list[Change]):
            if self.shown.get(order.order_id) != "delivered":  # what is loaded may be older than what was told
                self.shown[order.order_id] = order.state


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


def all_show(screens: list[Screen], orders: int) -> bool:
    """So many orders, all delivered."""
    return all(list(screen.shown.values()) == ["delivered"] * orders for screen in screens)


def serves_again(process: Process, killed: int) -> bool:
    return process.state is ProcessState.SERVING and process.pid != killed


async def held(shop: Shop, process: Process, user: str) -> int:
    """How many screens of a user the process has."""
    token = read_secrets(shop.supervisor.data / "keys", "shop").system_token
    asked = client(Connections, [process.address], token=token)
    try:
        return len((await asked.get_connections(GetConnections(user=user))).items)
    finally:
        await close_client(asked)


async def test_screens_of_a_process_that_is_killed_go_on_at_the_other(running_shop: Shop) -> None:
    shop = running_shop
    processes = [p for p in shop.supervisor.processes if p.app == "live"]
    assert len(processes) == 2
    await until(lambda: all(p.state is ProcessState.SERVING for p in processes))
    email = f"screens-{uuid4().hex}@shop.example"
    status, made = await shop.call("POST", "/v1/users", {"email": email, "password": DEMO_PASSWORD, "name": "Ada"})
    assert status < 300
    user, token = str(made["user_id"]), await shop.token(email)
    async with shop.http.get(f"http://{processes[0].http}/v1/live") as answer:
        where = await answer.json()
    url = f"ws://127.0.0.1:{where['port']}{where['path']}"

    async def key(renew: bool) -> str:
        return token

    async def order() -> None:
        sent = {"lines": [{"sku": "sku-0001", "quantity": 1}]}
        status, _ = await shop.call("POST", "/v1/orders", sent, token=token, headers={"Idempotency-Key": uuid4().hex})
        assert status < 300

    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        screens: list[Screen] = []
        while not all([await held(shop, process, user) for process in processes]):
            assert len(screens) < SCREENS_MAX, "the kernel deals them out"
            live = await stack.enter_async_context(LiveClient(url, token=key, settings=QUICK))
            screens.append(Screen(shop, token, live))
            tasks.create_task(screens[-1].follow(await live.subscribe(f"user:{user}")))
            tasks.create_task(screens[-1].load_when_told(await live.subscribe("orders")))
        await order()
        await until(partial(all_show, screens, 1))

        # The one that tells all is among the two; whichever it is, nobody stays behind.
        for orders, process in enumerate(processes, start=2):
            before = [screen.live.connections for screen in screens]
            cut_off = await held(shop, process, user)
            await order()
            killed = process.pid
            os.kill(killed, signal.SIGKILL)
            await until(partial(all_show, screens, orders))
            again = [screen.live.connections > count for screen, count in zip(screens, before, strict=True)]
            assert sum(again) >= cut_off  # others may be asked to, to even out
            await until(partial(serves_again, process, killed))
