"""The provider keeps its books, and misbehaves only as told."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from shop.provider import Behaviour, Intents, Provider, Status, serving
from shop.provider._intents import NewIntent, NewRefund, Refused

SECRET = "hush"


@dataclass
class Shop:
    """Somebody who listens for webhooks."""

    url: str = ""
    heard: list[tuple[str, str, bool]] = field(default_factory=list)
    """(event id, type, whether the signature is right and fresh)"""
    deaf: int = 0
    """So many webhooks are answered 500."""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        signed = dict(part.split("=", 1) for part in request.headers["Webhook-Signature"].split(","))
        right = hmac.new(SECRET.encode(), signed["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        good = hmac.compare_digest(right, signed["v1"]) and abs(time.time() - int(signed["t"])) < 60
        event = msgspec.json.decode(body)
        self.heard.append((event["id"], event["type"], good))
        self.news.set()
        if self.deaf:
            self.deaf -= 1
            return web.Response(status=500)
        return web.Response(status=200 if good else 401)

    async def until(self, enough: Callable[[], bool]) -> None:
        """The deadline only ends a test that would never end."""
        async with asyncio.timeout(60):
            while not enough():
                self.news.clear()
                await self.news.wait()


@dataclass
class Stand:
    provider: Provider
    shop: Shop
    http: aiohttp.ClientSession

    async def call(
        self, verb: str, path: str, body: object = None, *, key: str = "", api_key: str = "key"
    ) -> tuple[int, Mapping[str, object]]:
        headers = {"Authorization": f"Bearer {api_key}", **({"Idempotency-Key": key} if key else {})}
        async with self.http.request(verb, self.provider.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def intent(self, reference: str = "order-1", amount_minor: int = 500) -> str:
        body = {
            "amount_minor": amount_minor,
            "currency": "EUR",
            "reference": reference,
            "webhook_url": f"{self.shop.url}/hook",
        }
        status, made = await self.call("POST", "/v1/intents", body, key=reference)
        assert status == 200, made
        return str(made["id"])

    async def customer(self, intent: str, outcome: str) -> int:
        async with self.http.post(f"{self.provider.url}/pay/{intent}", data={"outcome": outcome}) as answer:
            return answer.status

    async def behave(self, **how: object) -> None:
        status, answer = await self.call("PUT", "/test/behaviour", how)
        assert status == 200, answer


@pytest_asyncio.fixture
async def stand() -> AsyncIterator[Stand]:
    shop = Shop()
    app = web.Application()
    app.router.add_post("/hook", shop.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    shop.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with serving(Provider("key", SECRET)) as provider, aiohttp.ClientSession() as http:
        yield Stand(provider, shop, http)
    await runner.cleanup()


def kinds(shop: Shop) -> list[str]:
    return [kind for _, kind, _ in shop.heard]


async def test_a_payment_is_told_by_signed_webhooks(stand: Stand) -> None:
    intent = await stand.intent()
    assert await stand.customer(intent, "pay") == 200
    await stand.shop.until(lambda: len(stand.shop.heard) == 2)
    assert kinds(stand.shop) == ["intent.processing", "intent.paid"]
    assert all(good for _, _, good in stand.shop.heard)
    status, asked = await stand.call("GET", f"/v1/intents/{intent}")
    assert (status, asked["status"]) == (200, "paid")


async def test_it_tells_again_until_it_is_heard(stand: Stand) -> None:
    stand.shop.deaf = 2
    await stand.customer(await stand.intent(), "decline")
    await stand.shop.until(lambda: len(stand.shop.heard) == 3)
    assert len({id_ for id_, _, _ in stand.shop.heard}) == 1


async def test_misbehaviour(stand: Stand) -> None:
    await stand.behave(copies=2, reorder=True, wrong_signatures=1)
    await stand.customer(await stand.intent(), "pay")
    await stand.shop.until(lambda: len(stand.shop.heard) == 8)
    assert kinds(stand.shop) == ["intent.paid"] * 4 + ["intent.processing"] * 4
    assert [good for _, _, good in stand.shop.heard] == [False, True] * 4
    await stand.behave(stale_s=3600)
    await stand.customer(await stand.intent("order-2"), "decline")
    await stand.shop.until(lambda: len(stand.shop.heard) > 8)
    assert not stand.shop.heard[8][2]


async def test_a_webhook_that_never_comes(stand: Stand) -> None:
    await stand.behave(never=True)
    await stand.customer(await stand.intent(), "pay")
    await stand.behave()
    await stand.customer(await stand.intent("order-2"), "decline")
    await stand.shop.until(lambda: bool(stand.shop.heard))
    assert kinds(stand.shop) == ["intent.declined"]


async def test_a_refund_is_made_once_per_key_and_never_too_large(stand: Stand) -> None:
    intent = await stand.intent()
    refund = {"intent": intent, "amount_minor": 400}
    assert (await stand.call("POST", "/v1/refunds", refund, key="r"))[0] == 409  # nothing is paid
    await stand.customer(intent, "pay")
    await stand.behave(refuse=["refund"])
    assert (await stand.call("POST", "/v1/refunds", refund, key="r"))[0] == 503
    await stand.behave()
    first = await stand.call("POST", "/v1/refunds", refund, key="r")
    assert first[0] == 200
    assert await stand.call("POST", "/v1/refunds", refund, key="r") == first
    status, problem = await stand.call("POST", "/v1/refunds", refund, key="other")
    assert (status, problem["code"]) == (409, "refund_too_large")
    assert (await stand.call("POST", "/v1/refunds", {**refund, "amount_minor": 1}, key="r"))[0] == 409
    _, all_of_it = await stand.call("GET", "/test/books")
    assert all_of_it["books"] == {"intents": 1, "paid_minor": 500, "refunded_minor": 400}


@pytest.mark.parametrize(
    ("verb", "path", "body", "status"),
    [
        ("POST", "/v1/intents", {"amount_minor": 0}, 400),
        (
            "POST",
            "/v1/intents",
            {"amount_minor": 1, "currency": "EUR", "reference": "x", "webhook_url": "file:///"},
            400,
        ),
        ("GET", "/v1/intents/none", None, 404),
        ("POST", "/v1/intents/none/void", None, 404),
        ("POST", "/v1/refunds", {"intent": "none", "amount_minor": 5}, 404),
        ("PUT", "/test/behaviour", {"copies": 1000}, 400),
    ],
)
async def test_what_is_wrong_is_refused(stand: Stand, verb: str, path: str, body: object, status: int) -> None:
    assert (await stand.call(verb, path, body, key="k"))[0] == status
    assert (await stand.call(verb, path, body, key="k", api_key="guess"))[0] == 401


async def test_the_customer_sees_a_page(stand: Stand) -> None:
    intent = await stand.intent("<b>order</b>")
    async with stand.http.get(f"{stand.provider.url}/pay/{intent}") as answer:
        page = await answer.text()
    assert "5.00 EUR" in page
    assert "&lt;b&gt;order" in page
    async with stand.http.post(f"{stand.provider.url}/pay/{intent}", data={"outcome": "steal"}) as answer:
        assert answer.status == 400


steps = st.lists(st.sampled_from(["pay", "decline", "void", "refund"]), max_size=12)


@given(steps)
def test_a_payment_ends_once_and_what_is_refunded_was_paid(steps: list[str]) -> None:
    intents = Intents()
    wanted = NewIntent(amount_minor=100, currency="EUR", reference="r", webhook_url="http://x/")
    intent = intents.create("k", wanted)
    assert intents.create("k", wanted) is intent
    ended: Status | None = None
    events: list[str] = []
    for n, step in enumerate(steps):
        try:
            if step == "refund":
                told = intents.refund(f"r{n}", NewRefund(intent.id, 60), n)[1]
            else:
                told = getattr(intents, step)(intent.id, n)
        except Refused:
            told = []
        events += [event.type for event in told]
        if ended is None and intent.status is not Status.OPEN:
            ended = intent.status
        assert ended is None or intent.status is ended
    assert intent.refunded_minor in ((0, 60) if ended is Status.PAID else (0,))
    assert sum(kind in ("intent.paid", "intent.declined", "intent.voided") for kind in events) == (ended is not None)
    assert intents.books().paid_minor == (100 if ended is Status.PAID else 0)


def test_a_good_day_is_the_default() -> None:
    assert Behaviour() == Behaviour(
        never=False, copies=1, reorder=False, late_s=0, stale_s=0, wrong_signatures=0, refuse=(), slow_s=0
    )
