"""The provider on HTTP: the shop's side under `/v1` (with its key), the customer's under `/pay`, ours under `/test`."""

from __future__ import annotations

import asyncio
import hmac
import html
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from aiohttp import web

from shop.provider._behaviour import Behaviour
from shop.provider._intents import Event, Intent, Intents, NewIntent, NewRefund, Refused
from shop.provider._webhooks import Webhooks

__all__ = ["Provider", "serving"]

BODY_BYTES_MAX = 64 * 1024

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_encode = msgspec.json.Encoder().encode
_PAGE = """<!doctype html><meta name="viewport" content="width=device-width"><title>Pay</title>
<style>body{{font:1rem system-ui;max-width:24rem;margin:4rem auto;text-align:center}}button{{font:inherit;margin:.5rem}}
</style><h1>{amount}</h1><p>for {reference}: {status}</p>
<form method="post"><button name="outcome" value="pay">Pay</button>
<button name="outcome" value="decline">Decline</button></form>"""


class Provider:
    """One provider with one shop as its customer."""

    def __init__(self, key: str, webhook_secret: str) -> None:
        self.key = key
        """The shop's API key."""
        self.url = ""
        """Its own, once it serves."""
        self.behaviour = Behaviour()
        self.intents = Intents()
        self.webhooks = Webhooks(webhook_secret, lambda: self.behaviour)

    def application(self) -> web.Application:
        """The aiohttp application."""
        made = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[self._guard])
        made.add_routes(
            [
                web.post("/v1/intents", self._create),
                web.get("/v1/intents/{id}", self._ask),
                web.post("/v1/intents/{id}/void", self._void),
                web.post("/v1/refunds", self._refund),
                web.get("/pay/{id}", self._page),
                web.post("/pay/{id}", self._customer),
                web.put("/test/behaviour", self._behave),
                web.get("/test/books", self._books),
            ]
        )
        return made

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/pay/"):
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(token.encode(), self.key.encode()):
                return _json(401, {"code": "bad_key", "message": "the API key is wrong"})
        try:
            return await handler(request)
        except Refused as refused:
            return _json(refused.status, {"code": refused.code, "message": refused.message})

    async def _create(self, request: web.Request) -> web.Response:
        await self._today("create")
        intent = self.intents.create(_idempotency_key(request), _read(await request.read(), NewIntent))
        return self._intent(intent)

    async def _ask(self, request: web.Request) -> web.Response:
        await self._today("ask")
        return self._intent(self.intents.find(request.match_info["id"]))

    async def _void(self, request: web.Request) -> web.Response:
        await self._today("void")
        id_ = request.match_info["id"]
        self._tell(id_, self.intents.void(id_, _now_s()))
        return self._intent(self.intents.find(id_))

    async def _refund(self, request: web.Request) -> web.Response:
        await self._today("refund")
        wanted = _read(await request.read(), NewRefund)
        refund, events = self.intents.refund(_idempotency_key(request), wanted, _now_s())
        self._tell(refund.intent, events)
        return _json(200, refund)

    async def _page(self, request: web.Request) -> web.Response:
        intent = self.intents.find(request.match_info["id"])
        page = _PAGE.format(
            amount=f"{intent.amount_minor / 100:.2f} {intent.currency}",
            reference=html.escape(intent.reference),
            status=intent.status,
        )
        return web.Response(text=page, content_type="text/html")

    async def _customer(self, request: web.Request) -> web.Response:
        id_, outcome = request.match_info["id"], (await request.post()).get("outcome")
        if outcome not in ("pay", "decline"):
            raise Refused(400, "bad_outcome", "outcome is 'pay' or 'decline'")
        end = self.intents.pay if outcome == "pay" else self.intents.decline
        self._tell(id_, end(id_, _now_s()))
        return self._intent(self.intents.find(id_))

    async def _behave(self, request: web.Request) -> web.Response:
        self.behaviour = _read(await request.read(), Behaviour)
        return _json(200, self.behaviour)

    async def _books(self, request: web.Request) -> web.Response:
        return _json(200, {"books": self.intents.books(), "intents": self.intents.by_reference()})

    async def _today(self, operation: str) -> None:
        behaviour = self.behaviour
        if behaviour.slow_s:
            await asyncio.sleep(behaviour.slow_s)
        if operation in behaviour.refuse:
            raise Refused(503, "unavailable", "we are experiencing difficulties")

    def _tell(self, id_: str, events: list[Event]) -> None:
        self.webhooks.send(self.intents.webhook_url(id_), events)

    def _intent(self, intent: Intent) -> web.Response:
        return _json(200, {**msgspec.structs.asdict(intent), "pay_url": f"{self.url}/pay/{intent.id}"})


@asynccontextmanager
async def serving(provider: Provider, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[Provider]:
    """The provider, listening; port 0 takes a free one."""
    runner = web.AppRunner(provider.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        provider.url = f"http://{host}:{runner.addresses[0][1]}"
        yield provider
    finally:
        await provider.webhooks.close()
        await runner.cleanup()


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(400, "bad_request", str(error)) from error


def _idempotency_key(request: web.Request) -> str:
    return request.headers.get("Idempotency-Key", "")


def _json(status: int, value: object) -> web.Response:
    return web.Response(status=status, body=_encode(value), content_type="application/json")


def _now_s() -> int:
    return int(time.time())
