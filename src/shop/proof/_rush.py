"""The rush on the shop: made-up customers, or a file of orders, over the stream or over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec

from dougong.app import load_mesh, load_system, read_note, running_registry_url
from dougong.errors import Error, Invalid, NotFound, Unavailable
from dougong.evidence import Discrepancy, RushOptions, Zipf
from dougong.mesh import Mesh
from dougong.registry import Discovery, open_registry
from dougong.rpc import client, close_client
from shop.orders import Line, Orders, PlaceOrder
from shop.proof._books import Before, OrderJournal, audit, look_before
from shop.proof._orders_file import read_orders
from shop.proof._targets import HttpTarget, OrderTarget, Persistent, StreamTarget, leaves_order_open
from shop.users import DEMO_PASSWORD, PARTNER_EMAIL

__all__ = ["DEMO_USERS", "OrderRush", "rush"]

DEMO_USERS = 10_000
"""Customers that an empty shop is filled with, and the baseline too."""
_UP_S = 10.0
_PIECES_MAX = 3


class OrderRush:
    """Orders of one to three pieces; SKUs by Zipf, customers all alike, placed by a partner on their behalf.

    Finds the shop in the registry of `options.data`. With no data directory it sends to any service at
    `options.http_url` that takes the same `POST /v1/orders`, which is how the baseline is measured.
    """

    @asynccontextmanager
    async def open(self, options: RushOptions) -> AsyncGenerator[OpenRush]:
        async with AsyncExitStack() as stack:
            if not options.data:
                yield await _open_plain(options, stack)
                return
            data = Path(options.data)
            if not (data / "registry.db").exists() and read_note(data) is None:
                raise NotFound(f"the shop is not up on {data}; start it with 'dougong up'", code="no_system")
            registry = await open_registry(running_registry_url(data))
            stack.push_async_callback(registry.close)
            discovery = Discovery(registry)
            stack.push_async_callback(discovery.close)
            edge = await discovery.resolve("apps.edge")

            def front() -> str:
                instances = edge.instances()
                if not instances:
                    raise Unavailable("no edge is serving", code="no_instances")
                return f"http://{random.choice(instances).metadata['http']}"

            if options.http_url:
                url = options.http_url.rstrip("/")
                front = lambda: url  # noqa: E731 (a constant in place of the function above)
            else:
                await edge.wait_ready(_UP_S)
            token = await _log_in(front, options.seconds)
            target: OrderTarget
            if options.transport == "grpc":
                instances = await discovery.resolve("shop.v1.Orders")
                orders = client(Orders, instances, token=token, mesh=_policy(data))
                stack.push_async_callback(close_client, orders)
                target = StreamTarget(orders)
            else:
                http = HttpTarget(front, token, options.connections)
                stack.push_async_callback(http.close)
                target = http
            before = await asyncio.to_thread(look_before, data)
            make = await _maker(options, front, await asyncio.to_thread(_customers, data))
            yield OpenRush(options, target, make, before)


def _policy(data: Path) -> Mesh | None:
    """The generator is a caller like any other, so it follows the policy of the system that is up."""
    note = read_note(data)
    if note is None:
        return None
    path = Path(note.system)
    return load_mesh(load_system(path, profile=note.profile), path, "rush")


class OpenRush:
    """A rush connected to its shop."""

    def __init__(
        self,
        options: RushOptions,
        target: OrderTarget,
        make: Callable[[int], Sequence[PlaceOrder]],
        before: Before | None,
    ) -> None:
        self.target: OrderTarget = Persistent(target) if options.retry else target
        self._make = make
        self._data = options.data
        self._before = before

    def make(self, count: int) -> Sequence[PlaceOrder]:
        return self._make(count)

    def is_unknown(self, error: Error) -> bool:
        return leaves_order_open(error)

    async def check(self, journal: OrderJournal) -> Sequence[Discrepancy]:
        if self._before is None:
            raise Unavailable("there is no data directory to check", code="no_books")
        return await audit(Path(self._data), journal, before=self._before)


async def _open_plain(options: RushOptions, stack: AsyncExitStack) -> OpenRush:
    """Any service with the same front: no registry, no token, customers 1 to 10,000."""
    url = options.http_url.rstrip("/")
    target = HttpTarget(lambda: url, "", options.connections)
    stack.push_async_callback(target.close)
    return OpenRush(options, target, await _maker(options, lambda: url, range(1, DEMO_USERS + 1)), None)


async def _maker(
    options: RushOptions, front: Callable[[], str], users: Sequence[int]
) -> Callable[[int], Sequence[PlaceOrder]]:
    """What makes the next so many orders."""
    keys = options.keys or options.retry
    if options.orders_file:
        orders = await asyncio.to_thread(read_orders, Path(options.orders_file))
        return _FromFile(orders, keys=keys).make
    rng = random.Random(options.seed)
    return _MadeUp(await _skus(front), users, options.zipf_s, rng, keys=keys).make


class _MadeUp:
    """Orders of customers nobody knows."""

    def __init__(
        self, skus: Sequence[str], users: Sequence[int], zipf_s: float, rng: random.Random, *, keys: bool
    ) -> None:
        self._skus = list(skus)
        rng.shuffle(self._skus)  # which are the favourites is chance, not the alphabet
        self._zipf = Zipf(len(skus), zipf_s, rng)
        self._users = [str(user) for user in users]
        self._random = rng.random
        self._keys = _keys() if keys else None

    def make(self, count: int) -> list[PlaceOrder]:
        draw, chance, skus, users, keys = self._zipf.draw, self._random, self._skus, self._users, self._keys
        return [
            PlaceOrder(
                user_id=users[int(chance() * len(users))],
                lines=[Line(sku=skus[draw()], quantity=1 + int(chance() * _PIECES_MAX))],
                idempotency_key=next(keys) if keys is not None else "",
            )
            for _ in range(count)
        ]


class _FromFile:
    """Orders of a file, each once."""

    def __init__(self, orders: Sequence[PlaceOrder], *, keys: bool) -> None:
        self._orders = iter(orders)
        self._keys = _keys() if keys else None

    def make(self, count: int) -> list[PlaceOrder]:
        orders = list(itertools.islice(self._orders, count))
        if self._keys is None:
            return orders
        return [
            order if order.idempotency_key else msgspec.structs.replace(order, idempotency_key=next(self._keys))
            for order in orders
        ]


def _keys() -> Iterator[str]:
    """Idempotency keys that no earlier run used, whatever its seed."""
    run = f"rush-{time.time_ns():x}"
    return (f"{run}-{n}" for n in itertools.count())


def _customers(data: Path) -> list[int]:
    found: list[int] = []
    for file in data.absolute().glob("users.db-*.db"):
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as users:
            found += [
                row[0]
                for row in users.execute(
                    "SELECT id FROM users WHERE role = 'customer' AND id <= ? "
                    "AND id % 128 IN (SELECT bucket FROM dougong_bucket_owner WHERE state <> 'gone')",
                    (DEMO_USERS,),
                )
            ]
    found.sort()
    if not found:
        raise NotFound("the shop has no customers to order for", code="no_customers")
    return found


async def _log_in(front: Callable[[], str], seconds: float) -> str:
    """The partner's token: a sales channel that orders on behalf of customers."""
    credentials = {"email": PARTNER_EMAIL, "password": DEMO_PASSWORD}
    answer = await _call("POST", front, "/v1/login", json=credentials)
    if seconds + _UP_S > answer["expires_in_s"]:
        raise Invalid(
            f"the token lives {answer['expires_in_s']} s, the rush takes {seconds:g} s: start the shop with"
            f" DOUGONG_APP_USERS_TOKEN_TTL_S={seconds + 2 * _UP_S:.0f}",
            code="token_too_short",
        )
    return str(answer["token"])


async def _skus(front: Callable[[], str]) -> list[str]:
    skus: list[str] = []
    after = ""
    while True:
        page = await _call("GET", front, "/v1/products", params={"after": after, "limit": "1000"})
        skus += [item["sku"] for item in page["items"]]
        after = page.get("next", "")
        if not after:
            return skus


async def _call(verb: str, front: Callable[[], str], path: str, **arguments: Any) -> dict[str, Any]:
    """One request before the load starts; tried for some seconds, since the system may just be coming up."""
    give_up = time.monotonic() + _UP_S
    while True:
        try:
            async with aiohttp.request(verb, front() + path, **arguments) as answer:
                if answer.status == 200:
                    return cast("dict[str, Any]", await answer.json(content_type=None))
                problem = Unavailable(f"{verb} {path} answered {answer.status}: {(await answer.text())[:300]}")
        except (aiohttp.ClientError, Error) as error:
            problem = Unavailable(f"{verb} {path} failed: {error}", code="front_unreachable")
        if time.monotonic() > give_up:
            raise problem
        await asyncio.sleep(0.1)


rush = OrderRush()
