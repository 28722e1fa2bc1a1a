"""kill -9 of coordinator and participants at random moments under load: nothing lost, nothing doubled, none oversold.

`DOUGONG_KILLS=200` kills more often than the default; `-o log_cli=true --log-cli-level=INFO` says what came of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pytest
from tests.engines import database_url, free_port
from tests.tcc.till import SHELVES, Place, Till

from dougong.errors import DeadlineExceeded, Unavailable
from dougong.rpc import client, close_client
from dougong.store import Migration, Store, open_store
from shop.proof.tcc.shelf import SKUS, stock_up

pytestmark = pytest.mark.processes

EACH = 3
"""Of each SKU: most of what is wanted is refused sooner or later, and the last one is fought over."""
HOT = 60
BATCH = 20
CLIENTS = 4
REPEATS_MAX = 200


class Processes:
    """Three processes that are started again when they are killed."""

    def __init__(self, urls: dict[str, str]) -> None:
        self._urls = urls
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in urls}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        for name in (*SHELVES, "till"):
            self.start(name)

    def start(self, name: str) -> None:
        role = "till" if name == "till" else "shelf"
        shelves = [self.addresses[shelf] for shelf in SHELVES]
        self._children[name] = subprocess.Popen(
            [sys.executable, "-m", "tests.tcc.till", role, self._urls[name], self.addresses[name], *shelves],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if os.environ.get("DOUGONG_QUIET", "1") == "1" else None,
        )

    def kill(self, name: str) -> None:
        self._children[name].kill()
        self._children[name].wait()

    def stop(self) -> None:
        for name in self._children:
            self.kill(name)


class Customers:
    """Place orders, and ask again until they know; what they heard."""

    def __init__(self, till: Till, rng: random.Random) -> None:
        self._till = till
        self._rng = rng
        self._next = 0
        self.wanted: dict[int, tuple[int, int]] = {}
        self.heard: dict[int, bool] = {}
        self.asked_again = 0

    async def shop(self) -> None:
        while True:
            ids = list(range(self._next + 1, self._next + BATCH + 1))
            self._next += BATCH
            for i in ids:
                self.wanted[i] = (
                    0 if self._rng.random() < 0.5 else self._rng.randrange(1, SKUS),
                    self._rng.randint(1, 2),
                )
            await self.place(ids)

    async def served(self) -> None:
        """Until one more of them heard: then others wait for an answer."""
        before = len(self.heard)
        async with asyncio.timeout(60):
            while len(self.heard) == before:
                await asyncio.sleep(0.005)

    async def place(self, ids: list[int]) -> None:
        request = Place(ids=ids, skus=[self.wanted[i][0] for i in ids], quantities=[self.wanted[i][1] for i in ids])
        for _ in range(REPEATS_MAX):
            try:
                placed = await self._till.place(request)
            except (Unavailable, DeadlineExceeded):
                self.asked_again += 1
                await asyncio.sleep(0.05)
                continue
            for i, accepted in zip(ids, placed.accepted, strict=True):
                assert self.heard.setdefault(i, accepted) == accepted
            return
        raise AssertionError(f"{ids} were never answered")


@pytest.mark.parametrize(
    ("dialect", "kills"),
    [
        pytest.param("sqlite", 25, marks=pytest.mark.xdist_group("kill-sqlite")),
        pytest.param("mysql", 10, marks=pytest.mark.xdist_group("kill-mysql")),
    ],
)
async def test_no_kill_makes_the_books_disagree(dialect: str, kills: int, tmp_path: Path) -> None:
    kills = int(os.environ.get("DOUGONG_KILLS", kills))
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    with _databases(dialect, tmp_path) as urls:
        await _prepare(urls)
        processes = Processes(urls)
        try:
            till = client(Till, processes.addresses["till"])
            customers = Customers(till, rng)
            shopping = [asyncio.create_task(customers.shop()) for _ in range(CLIENTS)]
            victims = [(*SHELVES, "till")[number % (len(SHELVES) + 1)] for number in range(kills)]
            rng.shuffle(victims)  # each is killed, so somebody notices
            for victim in victims:
                await asyncio.sleep(rng.uniform(0.05, 0.8))
                if victim == "till":  # on a slow machine it may not serve yet, and then nobody would notice
                    await customers.served()
                processes.kill(victim)
                await asyncio.sleep(rng.choice((0.0, 0.0, 0.2)))
                processes.start(victim)
            async with asyncio.timeout(60):
                while set(customers.heard.values()) != {True, False}:
                    await asyncio.sleep(0.05)
            for task in shopping:
                task.cancel()
            done = await asyncio.gather(*shopping, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in done), done
            unheard = [i for i in customers.wanted if i not in customers.heard]
            for start in range(0, len(unheard), BATCH):
                await customers.place(unheard[start : start + BATCH])
            await close_client(till)
            found = await _problems(urls, customers)
        finally:
            processes.stop()
    told = f"seed {seed}: {kills} kills, {len(customers.heard)} orders, {customers.asked_again} asked again"
    logging.getLogger(__name__).info(told)
    assert not found, (told, found[:20])
    assert customers.asked_again >= kills / 10, f"nobody noticed the kills: {told}"
    assert set(customers.heard.values()) == {True, False}


@contextmanager
def _databases(dialect: str, folder: Path) -> Generator[dict[str, str]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(database_url(dialect, folder)) for name in (*SHELVES, "till")}


async def _prepare(urls: dict[str, str]) -> None:
    for name, url in urls.items():
        store = await open_store(url, name=name)
        if name == "till":
            table = "CREATE TABLE decided (id BIGINT PRIMARY KEY, accepted INTEGER NOT NULL)"
            await store.migrate("test.till", [Migration(1, "decided", table)])
        else:
            await stock_up(store, EACH)
            await store.write(lambda tx: tx.execute("UPDATE shelf SET available = ? WHERE sku = 0", (HOT,)))
        await store.close()


async def _problems(urls: dict[str, str], customers: Customers) -> list[str]:
    """Wait until everything is settled; then what is wrong."""
    stores: dict[str, Store] = {name: await open_store(url, name=name) for name, url in urls.items()}
    try:
        async with asyncio.timeout(60):
            while await stores["till"].fetch_one(
                "SELECT 1 FROM dougong_transactions WHERE state NOT IN (3, 5) LIMIT 1"
            ):
                await asyncio.sleep(0.1)
        log = await _pairs(stores["till"], "SELECT id, state FROM dougong_transactions")
        decided = await _pairs(stores["till"], "SELECT id, accepted FROM decided")
        found = [
            f"{i} was heard as {yes}, decided {decided.get(i)}"
            for i, yes in customers.heard.items()
            if decided.get(i) != int(yes)
        ]
        found += [
            f"{i} is decided {decided.get(i)}, logged {state}"
            for i, state in log.items()
            if decided.get(i) != int(state == 3)
        ]
        sold: dict[int, int] = {}
        for i, yes in decided.items():
            if yes:
                sku, quantity = customers.wanted[i]
                sold[sku] = sold.get(sku, 0) + quantity
        for name in SHELVES:
            for shelf, *counts in await stores[name].fetch_all("SELECT sku, available, frozen, sold FROM shelf"):
                gone = sold.get(cast(int, shelf), 0)
                wanted = [(EACH if shelf else HOT) - gone, 0, gone]
                if counts != wanted or wanted[0] < 0:
                    found.append(f"shelf {name}, sku {shelf!r}: available, frozen, sold are {counts}, not {wanted}")
        return found
    finally:
        for store in stores.values():
            await store.close()


async def _pairs(store: Store, sql: str) -> dict[int, int]:
    return dict(cast("list[tuple[int, int]]", await store.fetch_all(sql)))
