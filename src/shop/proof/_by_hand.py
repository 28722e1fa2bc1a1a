"""The baseline of fulfilment: a status column, as most order services keep one, and a person for what gets stuck.

It does what such services do: webhooks are checked and may repeat, a cron job cancels what is not paid in time, a
refund is tried several times before it is given up and logged. What it lacks is a way out of every state: an order
whose picker is gone, whose courier says nothing, or whose payment was never heard of stays where it is until somebody
looks.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from shop.fulfilment import Stalls
from shop.provider import Provider

__all__ = ["StatusColumn", "status_column"]

TICK_S = 0.05
REFUND_TRIES = 3
REFUND_PAUSE_S = 0.2
PRICE_MINOR = 1000

_SCHEMA = """
CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT NOT NULL, intent TEXT, updated_s REAL NOT NULL);
CREATE INDEX orders_by_status ON orders (status, updated_s);
"""
_NEXT = {"confirmed": "picking", "picking": "shipped", "shipped": "delivered"}


class StatusColumn:
    """An order service with its warehouse, in one process and one database."""

    def __init__(
        self,
        database: sqlite3.Connection,
        http: aiohttp.ClientSession,
        provider: Provider,
        secret: str,
        *,
        stalls: Stalls,
        stage_s: float,
        pay_within_s: float,
    ) -> None:
        self._database = database
        self._http = http
        self._provider = provider
        self._secret = secret
        self._stalls = stalls
        self._stage_s = stage_s
        self._pay_within_s = pay_within_s
        self._ids = itertools.count(2, 2)
        self.webhook_url = ""

    async def place(self, *, external: bool) -> tuple[int, str]:
        """(order id, where to pay; empty if it is paid)"""
        id_ = next(self._ids)
        if not external:
            self._set(id_, "confirmed")
            return id_, ""
        body = {
            "amount_minor": PRICE_MINOR,
            "currency": "EUR",
            "reference": f"by-hand-{id_}",
            "webhook_url": self.webhook_url,
        }
        status, intent = await self._call("/v1/intents", f"by-hand-{id_}", body)
        assert status == 200, intent
        self._set(id_, "awaiting_payment")
        self._database.execute("UPDATE orders SET intent = ? WHERE id = ?", (intent["id"], id_))
        return id_, str(intent["pay_url"])

    async def cancel(self, id_: int) -> bool:
        """Cancel and refund; what cannot be refunded now is a matter for a person."""
        (status, intent) = self._database.execute("SELECT status, intent FROM orders WHERE id = ?", (id_,)).fetchone()
        if status not in ("confirmed", "picking"):
            return False
        self._set(id_, "refund_failed")
        for _ in range(REFUND_TRIES):
            code, _ = await self._call(
                "/v1/refunds", f"by-hand-refund-{id_}", {"intent": intent, "amount_minor": PRICE_MINOR}
            )
            if code == 200:
                self._set(id_, "cancelled")
                break
            await asyncio.sleep(REFUND_PAUSE_S)
        return True

    async def states(self) -> dict[int, str]:
        """Order → status."""
        return dict(self._database.execute("SELECT id, status FROM orders"))

    async def take(self, request: web.Request) -> web.Response:
        """The webhook."""
        body = await request.read()
        signed = dict(part.split("=", 1) for part in request.headers["Webhook-Signature"].split(","))
        right = hmac.new(self._secret.encode(), signed["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(right, signed["v1"]):
            return web.Response(status=401)
        event = msgspec.json.decode(body)
        if event["type"] in ("intent.paid", "intent.declined"):
            self._database.execute(
                "UPDATE orders SET status = ?, updated_s = ? WHERE intent = ? AND status = 'awaiting_payment'",
                ("confirmed" if event["type"] == "intent.paid" else "cancelled", time.time(), event["intent"]["id"]),
            )
        return web.Response()

    async def work(self) -> None:
        """Warehouse and cron, for ever."""
        while True:
            now_s = time.time()
            for id_, status in self._database.execute(
                "SELECT id, status FROM orders WHERE status IN ('confirmed', 'picking', 'shipped') AND updated_s <= ?",
                (now_s - self._stage_s,),
            ).fetchall():
                if status == "picking" and self._stalls.picker_dies(id_, 0):
                    continue
                silent = self._stalls.courier_silent(id_) or self._stalls.parcel_lost(id_)
                if status == "shipped" and silent:
                    continue
                self._set(id_, _NEXT[status])
            self._database.execute(
                "UPDATE orders SET status = 'cancelled' WHERE status = 'awaiting_payment' AND updated_s <= ?",
                (now_s - self._pay_within_s,),
            )
            await asyncio.sleep(TICK_S)

    def _set(self, id_: int, status: str) -> None:
        self._database.execute(
            "INSERT INTO orders (id, status, updated_s) VALUES (?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET status = excluded.status, updated_s = excluded.updated_s",
            (id_, status, time.time()),
        )

    async def _call(self, path: str, key: str, body: object) -> tuple[int, dict[str, object]]:
        headers = {"Authorization": f"Bearer {self._provider.key}", "Idempotency-Key": key}
        async with self._http.post(self._provider.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def status_column(
    path: Path, provider: Provider, secret: str, *, stalls: Stalls, stage_s: float, pay_within_s: float
) -> AsyncGenerator[StatusColumn]:
    """The service, at work on a new database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.executescript(_SCHEMA)
        async with aiohttp.ClientSession() as http:
            made = StatusColumn(
                database, http, provider, secret, stalls=stalls, stage_s=stage_s, pay_within_s=pay_within_s
            )
            app = web.Application()
            app.router.add_post("/webhook", made.take)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            made.webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhook"
            working = asyncio.create_task(made.work())
            try:
                yield made
            finally:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                await runner.cleanup()
