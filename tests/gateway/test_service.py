"""Calls on a connection reach service methods by the rules by which REST reaches them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta
from tests.gateway.wire import Peer, line

from dougong.contract import Header, Message, Service, Subject, rpc
from dougong.errors import Conflict, Internal
from dougong.gateway import Asker, Call, Gateway, Grant, Upgrade, service_calls
from dougong.rpc import Caller, current_caller, current_origin, remaining_s
from dougong.telemetry import current_trace, recorder


class Place(Message):
    sku: str
    key: Annotated[str, Header("Idempotency-Key")] = ""
    quantity: Annotated[int, Meta(ge=1, le=9)] = 1
    user: Subject = ""


class Placed(Message):
    text: str


class Orders(Service, package="test.v1"):
    @rpc(http="POST /v1/orders/{sku}", on_behalf=("admin",))
    async def place(self, request: Place) -> Placed:
        """Says what it knows."""
        caller, trace = current_caller(), current_trace()
        assert caller is not None
        assert trace is not None
        left_s = remaining_s()
        assert left_s is not None
        origin = current_origin()
        return Placed(
            text=f"{request.user} {request.sku} {request.quantity} {request.key} {caller.subject} {caller.session} "
            f"{origin.address} {origin.session} {trace.trace_id} {0 < left_s <= 3}"
        )

    @rpc(http="POST /v1/audit", roles=("admin",))
    async def audit(self, request: Placed) -> Placed:
        """Not for everybody."""
        return request

    @rpc(http="POST /v1/slow", timeout_s=0.05)
    async def slow(self, request: Placed) -> Placed:
        """Too slow."""
        await asyncio.sleep(60)
        return request

    @rpc(http="POST /v1/broken")
    async def broken(self, request: Placed) -> Placed:
        """Broken."""
        if request.text == "bug":
            raise RuntimeError("password=secret")
        if request.text == "fault":
            raise Internal("password=secret")
        raise Conflict("sold out", code="sold_out", left=0)

    @rpc(http="POST /v1/secret", internal=True)
    async def secret(self, request: Placed) -> Placed:
        """Only for ourselves."""
        return request

    @rpc()
    async def unlisted(self, request: Placed) -> Placed:
        """Without a rule it is not served outside."""
        return request

    @rpc(http="GET /v1/stream")
    def stream(self, request: Placed) -> AsyncIterator[Placed]:
        """Has an end, and calls have one answer."""
        raise NotImplementedError


async def by_query(upgrade: Upgrade) -> Grant:
    user, roles = upgrade.query["user"], tuple(upgrade.query.get("roles", "").split())
    expires = upgrade.query.get("expires")
    return Grant(user=user, caller=Caller(user, roles, session="s-1"), expires_in_s=float(expires) if expires else None)


async def ask(peer: Peer, method: str, data: object, **more: object) -> dict[str, object]:
    peer.say(kind="call", id=1, method=f"test.v1.Orders/{method}", data=data, **more)
    return await peer.told()


async def test_a_call_has_all_that_a_request_has() -> None:
    async with line(Gateway(by_query, calls=service_calls([(Orders, Orders())]))) as it:
        peer = await it.session("/live?user=u-1")
        trace = "0af7651916cd43dd8448eb211c80319c"
        told = await ask(
            peer,
            "Place",
            {"sku": "tea", "quantity": 2, "key": "k-1"},
            traceparent=f"00-{trace}-b7ad6b7169203331-01",
        )
        assert told["data"] == {"text": f"u-1 tea 2 k-1 u-1 s-1 127.0.0.1 s-1 {trace} True"}


REFUSED: list[tuple[str, object, str]] = [
    ("Place", {}, "missing_field"),
    ("Place", {"sku": "tea", "quantity": 10}, "invalid_field"),
    ("Place", {"sku": "tea", "colour": "red"}, "unknown_field"),
    ("Place", {"sku": "tea", "user": "u-2"}, "not_your_subject"),
    ("Place", [], "invalid_field"),
    ("Audit", {"text": ""}, "role_missing"),
    ("Secret", {"text": ""}, "no_such_method"),
    ("Unlisted", {"text": ""}, "no_such_method"),
    ("Stream", {"text": ""}, "no_such_method"),
    ("Nothing", {}, "no_such_method"),
    ("Slow", {"text": ""}, "deadline_exceeded"),
    ("Broken", {"text": ""}, "sold_out"),
    ("Broken", {"text": "bug"}, "internal"),
    ("Broken", {"text": "fault"}, "internal"),
]


async def test_what_is_answered_at_once_sets_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = service_calls([(Orders, Orders())])
    caller = Caller("u-9", ("admin",))
    monkeypatch.setattr(asyncio, "timeout", None)

    async def one() -> bytes:
        return await calls(
            Asker("u-9", caller), Call(id=1, method="test.v1.Orders/Audit", data=msgspec.Raw(b'{"text":"a"}'))
        )

    assert await asyncio.create_task(one()) == b'{"text":"a"}'


async def test_each_call_is_a_span_of_its_callers_trace_and_errors_are_kept_unsampled() -> None:
    trace = "0af7651916cd43dd8448eb211c80319d"
    async with line(Gateway(by_query, calls=service_calls([(Orders, Orders())]))) as it:
        peer = await it.session("/live?user=u-9&roles=admin")
        for flags, method, text in (("00", "Audit", "a"), ("00", "Broken", ""), ("01", "Audit", "a")):
            await ask(peer, method, {"text": text}, traceparent=f"00-{trace}-b7ad6b7169203331-{flags}")
    spans = [(one.name, one.parent_id, one.failed) for one in recorder().spans(trace)]
    assert spans == [
        ("test.v1.Orders/Broken", "b7ad6b7169203331", True),
        ("test.v1.Orders/Audit", "b7ad6b7169203331", False),
    ]


async def test_refusals_have_the_codes_that_rest_has() -> None:
    async with line(Gateway(by_query, calls=service_calls([(Orders, Orders())]))) as it:
        peer = await it.session("/live?user=u-1")
        for method, data, code in REFUSED:
            told = await ask(peer, method, data)
            assert (told["kind"], told["code"]) == ("refused", code), (method, data, told)
            assert "secret" not in str(told)
        admin = await it.session("/live?user=u-9&roles=admin")
        assert (await ask(admin, "Audit", {"text": "a"}))["data"] == {"text": "a"}
        assert "u-2 tea" in str((await ask(admin, "Place", {"sku": "tea", "user": "u-2"}))["data"])


async def test_nothing_is_done_for_longer_than_the_session_lasts() -> None:
    async with line(Gateway(by_query, calls=service_calls([(Orders, Orders())]))) as it:
        peer = await it.session("/live?user=u-1&expires=1")
        told = await ask(peer, "Place", {"sku": "tea"})
        assert "False" not in str(told)
        assert (await ask(peer, "Slow", {"text": ""}, timeout_s=60))["code"] == "deadline_exceeded"


async def test_past_the_limit_callers_back_off() -> None:
    async with line(Gateway(by_query, calls=service_calls([(Orders, Orders())], max_in_flight=1))) as it:
        peer = await it.session("/live?user=u-1")
        for number in range(2):
            peer.say(kind="call", id=number, method="test.v1.Orders/Slow", data={"text": ""})
        assert {(await peer.told())["code"] for _ in range(2)} == {"too_many_calls", "deadline_exceeded"}
        assert "data" in await ask(peer, "Place", {"sku": "tea"})
