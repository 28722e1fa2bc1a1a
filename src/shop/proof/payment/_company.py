"""The payment provider in a simulated world: somebody else's books, over a network, telling us what it likes.

Its books are `shop.provider`'s own. They survive its crashes, as a company's do; webhooks under way do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from dougong.contract import Message, Service, rpc
from dougong.errors import Error, Unavailable
from dougong.rpc import Server, client
from dougong.simulation import Process, World
from shop.orders import OrdersSettings, Payments, Webhook
from shop.orders._provider import PaymentProvider
from shop.provider import Event, Intents, NewIntent, NewRefund, Refused, signature

__all__ = ["ADDRESS", "Company", "Exchange", "Provider", "Said"]

ADDRESS = "provider:1"
ATTEMPTS_MAX = 6
"""Of a webhook. Whatever is not heard then is never told."""
_TROUBLE = ((0.04, "answers 503"),)
_WEBHOOK = ((0.15, "never"), (0.15, "twice"), (0.2, "late"))
_LATE_S_MAX = 12.0

_encode = msgspec.json.Encoder().encode


class Exchange(Message):
    """An HTTP request."""

    verb: str
    path: str
    key: str = ""
    body: bytes = b""


class Said(Message):
    """Its answer."""

    status: int
    body: bytes


class Company(Service, package="provider.v1"):
    """One process of the provider's."""

    def __init__(self, world: World, process: Process, books: Intents, secret: str, shops: Sequence[str]) -> None:
        self._process = process
        self._books = books
        self._secret = secret
        self._shop = client(Payments, shops, transport=process.transport, random=process.random, patience_s=0.05)
        self._faults = world.faults.source(f"provider {process.number}", "provider")
        self.under_way: set[asyncio.Task[None]] = set()
        """Webhooks that are still to be told."""

    async def open(self) -> None:
        """Answer from now on."""
        await Server([self], transport=self._process.transport).start(ADDRESS)

    @rpc(public=True, idempotent=True, timeout_s=3.0)
    async def exchange(self, request: Exchange) -> Said:
        """The API, and the page where customers pay."""
        if self._faults.strike(_TROUBLE, request.path) is not None:
            return Said(status=503, body=b"{}")
        try:
            answer, events = self._answer(request)
        except Refused as refused:
            return Said(status=refused.status, body=_encode({"code": refused.code, "message": refused.message}))
        for event in events:
            task = asyncio.create_task(self._tell(event))
            self.under_way.add(task)
            task.add_done_callback(self.under_way.discard)
        return Said(status=200, body=_encode(answer))

    def _answer(self, request: Exchange) -> tuple[object, Sequence[Event]]:
        books, now_s = self._books, self._process.clock.now_us() // 1_000_000
        events: Sequence[Event] = ()
        parts = request.path.strip("/").split("/")
        match request.verb, *parts:
            case "POST", "v1", "intents":
                id_ = books.create(request.key, msgspec.json.decode(request.body, type=NewIntent)).id
            case "GET", "v1", "intents", id_:
                pass
            case "POST", "v1", "intents", id_, "void":
                events = books.void(id_, now_s)
            case "POST", "v1", "refunds":
                wanted = msgspec.json.decode(request.body, type=NewRefund)
                return books.refund(request.key, wanted, now_s)
            case "POST", "pay", id_:
                events = (books.pay if request.body == b"pay" else books.decline)(id_, now_s)
            case _:
                raise Refused(404, "unknown", f"there is no {request.path}")
        return {**msgspec.structs.asdict(books.find(id_)), "pay_url": f"/pay/{id_}"}, events

    async def _tell(self, event: Event) -> None:
        what, how = self._faults.strike(_WEBHOOK, event.type) or ("", 0.0)
        if what == "never":
            return
        if what == "late":
            await asyncio.sleep(how * _LATE_S_MAX)
        await self._until_heard(event)
        if what == "twice":
            await asyncio.sleep(how * _LATE_S_MAX)
            await self._until_heard(event)

    async def _until_heard(self, event: Event) -> None:
        body, pause_s = _encode(event), 0.2
        for _ in range(ATTEMPTS_MAX):
            signed = signature(self._secret, self._process.clock.now_us() // 1_000_000, body)
            try:
                await self._shop.hear(Webhook(signature=signed, body=body))
                return
            except Error:
                await asyncio.sleep(pause_s)
                pause_s *= 2


class Provider(PaymentProvider):
    """Orders' own client of the provider, over the simulated network."""

    def __init__(self, process: Process, settings: OrdersSettings) -> None:
        super().__init__(settings)
        self._timeout_s = settings.provider_timeout_s
        self._remote = client(Company, ADDRESS, transport=process.transport, random=process.random, patience_s=0.05)

    async def _exchange(self, verb: str, path: str, body: object, key: str) -> tuple[int, bytes]:
        request = Exchange(verb=verb, path=path, key=key, body=b"" if body is None else _encode(body))
        try:
            async with asyncio.timeout(self._timeout_s):
                said = await self._remote.exchange(request)
        except (Error, TimeoutError) as error:
            raise Unavailable(f"the payment provider does not answer: {error}", code="provider_unavailable") from error
        return said.status, said.body
