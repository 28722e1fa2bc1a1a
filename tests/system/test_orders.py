"""Orders through HTTP and real processes: the good way first, then everything that can be wrong with one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time

import pytest
from tests.system.conftest import Shop

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("shop"), pytest.mark.asyncio(loop_scope="session")]

LINES = [{"sku": "sku-0001", "quantity": 2}]


async def until_state(shop: Shop, token: str, order_id: str, state: str) -> dict[str, object]:
    """Ask until the order is there; the deadline only ends a test that would never end."""
    async with asyncio.timeout(60):
        while True:
            _, order = await shop.call("GET", f"/v1/orders/{order_id}", token=token)
            if order.get("state") == state:
                return order
            await asyncio.sleep(0.05)


async def test_an_order_is_paid_taken_from_stock_and_delivered(running_shop: Shop) -> None:
    shop = running_shop
    token = await shop.customer("ada")
    _, before = await shop.call("GET", "/v1/wallet", token=token)
    status, placed = await shop.call("POST", "/v1/orders", {"lines": LINES}, token=token)
    assert status in (200, 201), placed
    assert placed["state"] == "confirmed"
    order = await until_state(shop, token, str(placed["order_id"]), "delivered")
    assert order["lines"] == LINES
    _, wallet = await shop.call("GET", "/v1/wallet", token=token)
    assert int(str(before["available"])) - int(str(wallet["available"])) == placed["total_minor"] == wallet["spent"]
    _, stock = await shop.call("GET", "/v1/stock/sku-0001")
    assert int(str(stock["available"])) + int(str(stock["frozen"])) + int(str(stock["sold"])) == stock["total"]
    assert int(str(stock["sold"])) >= 2


async def test_orders_are_listed_newest_first_in_pages(running_shop: Shop) -> None:
    shop = running_shop
    token = await shop.customer("grace")
    placed = [(await shop.call("POST", "/v1/orders", {"lines": LINES}, token=token))[1]["order_id"] for _ in range(5)]
    seen: list[object] = []
    before = ""
    while True:
        _, page = await shop.call("GET", f"/v1/orders?limit=2&before={before}", token=token)
        items = page["items"]
        assert isinstance(items, list)
        seen += [item["order_id"] for item in items]
        before = str(page["next"])
        if not before:
            break
    assert seen == placed[::-1]


async def test_a_cancelled_order_gives_stock_and_money_back(running_shop: Shop) -> None:
    shop = running_shop
    token = await shop.customer("edsger")
    lines = [{"sku": "sku-0900", "quantity": 3}]
    _, before = await shop.call("GET", "/v1/stock/sku-0900")
    _, placed = await shop.call("POST", "/v1/orders", {"lines": lines}, token=token)
    status, cancelled = await shop.call("POST", f"/v1/orders/{placed['order_id']}/cancel", {}, token=token)
    assert status == 200, cancelled
    assert cancelled["state"] == "cancelled"
    async with asyncio.timeout(60):
        while True:
            _, wallet = await shop.call("GET", "/v1/wallet", token=token)
            _, stock = await shop.call("GET", "/v1/stock/sku-0900")
            if wallet["spent"] == wallet["frozen"] == 0 and stock["available"] == before["available"]:
                break
            await asyncio.sleep(0.05)
    assert wallet["available"] == wallet["deposited"]


async def test_a_delivered_order_cannot_be_cancelled(running_shop: Shop) -> None:
    shop = running_shop
    token = await shop.customer("barbara")
    _, placed = await shop.call("POST", "/v1/orders", {"lines": LINES}, token=token)
    await until_state(shop, token, str(placed["order_id"]), "delivered")
    status, problem = await shop.call("POST", f"/v1/orders/{placed['order_id']}/cancel", {}, token=token)
    assert (status, problem["code"]) == (409, "order_not_cancellable")


async def test_an_idempotency_key_gets_the_first_answer_again(running_shop: Shop) -> None:
    shop = running_shop
    token = await shop.customer("alan")
    key = {"Idempotency-Key": "checkout-1"}
    answers = await asyncio.gather(
        *(shop.call("POST", "/v1/orders", {"lines": LINES}, token=token, headers=key) for _ in range(8))
    )
    assert len({json.dumps(answer, sort_keys=True) for answer in answers}) == 1, answers
    status, problem = await shop.call(
        "POST", "/v1/orders", {"lines": [{"sku": "sku-0002", "quantity": 1}]}, token=token, headers=key
    )
    assert (status, problem["code"]) == (409, "idempotency_key_reused")
    _, page = await shop.call("GET", "/v1/orders", token=token)
    items = page["items"]
    assert isinstance(items, list)
    assert len(items) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"lines": []}, 400, None),
        ({"lines": [{"sku": "sku-0001", "quantity": -1}]}, 400, None),
        ({"lines": [{"sku": "sku-0001", "quantity": 0}]}, 400, None),
        ({"lines": [{"sku": "sku-0001", "quantity": 10**12}]}, 400, None),
        ({"lines": [{"sku": "sku-0001", "quantity": 10**30}]}, 400, None),
        ({"lines": [{"sku": "sku-0001", "quantity": "two"}]}, 400, None),
        ({"lines": [{"sku": "sku-0001", "quantity": 1.5}]}, 400, None),
        ({"lines": [{"sku": "sku-0001"}]}, 400, None),
        ({"lines": LINES, "discount": 100}, 400, None),
        ({"lines": LINES * 101}, 400, None),
        ({}, 400, None),
        ([], 400, None),
        ({"lines": [{"sku": "sku-9999", "quantity": 1}]}, 400, "unknown_sku"),
        ({"lines": [{"sku": "x'; DROP TABLE stock; --", "quantity": 1}]}, 400, None),
        ({"lines": [{"sku": "sku-0005", "quantity": 10_000}]}, 409, "insufficient_funds"),
    ],
)
async def test_a_wrong_order_is_named_and_leaves_nothing(
    running_shop: Shop, body: object, status: int, code: str | None
) -> None:
    shop = running_shop
    token = await shop.customer("eve")
    got, problem = await shop.call("POST", "/v1/orders", body, token=token)
    assert got == status, problem
    assert code is None or problem["code"] == code
    assert problem["detail"]
    _, wallet = await shop.call("GET", "/v1/wallet", token=token)
    assert wallet["available"] == wallet["deposited"]
    assert wallet["spent"] == 0


async def test_stock_that_is_not_there_is_not_sold(running_shop: Shop) -> None:
    shop = running_shop
    token = await shop.token("operator@shop.example")
    product = {"name": "Rare thing", "price_minor": 1, "restock": 3}
    status, _ = await shop.call("PUT", "/v1/products/rare-1", product, token=token)
    assert status == 200
    customer = await shop.customer("mallory")
    line = {"lines": [{"sku": "rare-1", "quantity": 1}]}
    answers = await asyncio.gather(*(shop.call("POST", "/v1/orders", line, token=customer) for _ in range(10)))
    accepted = [answer for status, answer in answers if status in (200, 201)]
    refused = [answer["code"] for status, answer in answers if status not in (200, 201)]
    assert len(accepted) == 3
    assert refused == ["insufficient_stock"] * 7
    async with asyncio.timeout(60):
        while True:
            _, stock = await shop.call("GET", "/v1/stock/rare-1")
            if stock["sold"] == 3:
                break
            await asyncio.sleep(0.05)
    assert (stock["available"], stock["frozen"]) == (0, 0)


async def test_malformed_json_and_oversized_bodies_are_refused(running_shop: Shop) -> None:
    shop = running_shop
    token = await shop.customer("trudy")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    async with shop.http.post(f"{shop.url}/v1/orders", data=b'{"lines": [', headers=headers) as answer:
        assert answer.status == 400
    async with shop.http.post(f"{shop.url}/v1/orders", data=b"[" * 100_000, headers=headers) as answer:
        assert answer.status == 400
    async with shop.http.post(f"{shop.url}/v1/orders", data=io.BytesIO(b" " * (2 << 20)), headers=headers) as answer:
        assert answer.status == 413


def segment(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("kind", ["missing", "garbage", "none", "forged", "tampered"])
async def test_tokens_that_were_not_issued_open_nothing(running_shop: Shop, kind: str) -> None:
    shop = running_shop
    good = await shop.customer("oscar")
    header, payload, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    admin = segment({**claims, "roles": ["operator"], "exp": int(time.time()) + 9999})
    token = {
        "missing": "",
        "garbage": "not.a.token",
        "none": f"{segment({'alg': 'none', 'typ': 'JWT'})}.{admin}.",
        "forged": f"{header}.{admin}.{signature}",
        "tampered": f"{header}.{payload}.{signature[:-4]}AAAA",
    }[kind]
    status, problem = await shop.call("GET", "/v1/books/stock", token=token)
    assert status == 401, problem
    status, _ = await shop.call("GET", "/v1/books/stock", token=good)
    assert status == 403


async def test_nobody_sees_or_orders_for_somebody_else(running_shop: Shop) -> None:
    shop = running_shop
    alice, bob = await shop.customer("alice"), await shop.customer("bob")
    _, placed = await shop.call("POST", "/v1/orders", {"lines": LINES}, token=alice)
    status, problem = await shop.call("GET", f"/v1/orders/{placed['order_id']}", token=bob)
    assert (status, problem["code"]) == (404, "unknown_order")
    status, _ = await shop.call("POST", f"/v1/orders/{placed['order_id']}/cancel", {}, token=bob)
    assert status == 404
    status, problem = await shop.call("POST", "/v1/orders", {"lines": LINES, "user_id": "1"}, token=bob)
    assert status == 403, problem


async def test_internal_methods_are_not_on_the_web(running_shop: Shop) -> None:
    shop = running_shop
    _, document = await shop.call("GET", "/openapi.json")
    paths = document["paths"]
    assert isinstance(paths, dict)
    assert "/v1/orders" in paths
    assert not any("follow" in path or "advance" in path for path in paths)


async def test_cancelling_twice_at_once_gives_back_once(running_shop: Shop) -> None:
    shop = running_shop
    token = await shop.customer("leslie")
    _, placed = await shop.call("POST", "/v1/orders", {"lines": LINES}, token=token)
    path = f"/v1/orders/{placed['order_id']}/cancel"
    answers = await asyncio.gather(*(shop.call("POST", path, {}, token=token) for _ in range(4)))
    states = {str(answer.get("state") or answer.get("code")) for _, answer in answers}
    assert "cancelled" in states, answers
    assert states <= {"cancelled", "order_not_cancellable"}, answers
    async with asyncio.timeout(60):
        while True:
            _, wallet = await shop.call("GET", "/v1/wallet", token=token)
            if wallet["spent"] == wallet["frozen"] == 0:
                break
            await asyncio.sleep(0.05)
    assert wallet["available"] == wallet["deposited"]
