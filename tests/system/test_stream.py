"""Orders on the bidirectional stream, as a sales channel's own client sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.system.conftest import Shop

from dougong.contract import batch_codec, describe
from dougong.errors import Error, Invalid
from dougong.rpc import GrpcTransport, Metadata, client, close_client
from shop.orders import Line, Orders, PlacedOrder, PlaceOrder
from shop.users import PARTNER_EMAIL

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("shop"), pytest.mark.asyncio(loop_scope="session")]

PLACE = next(method for method in describe(Orders).methods if method.attribute == "place")


def order(user: int = 7, sku: str = "sku-0010", quantity: int = 1, key: str = "") -> PlaceOrder:
    return PlaceOrder(user_id=str(user), lines=[Line(sku=sku, quantity=quantity)], idempotency_key=key)


@pytest_asyncio.fixture(loop_scope="session")
async def partner(running_shop: Shop) -> AsyncIterator[Orders]:
    made = client(
        Orders, running_shop.supervisor.find("orders-0").address, token=await running_shop.token(PARTNER_EMAIL)
    )
    yield made
    await close_client(made)


async def test_good_and_bad_orders_of_one_batch_have_their_own_outcomes(partner: Orders) -> None:
    outcomes = await partner.place.many(
        [
            order(),
            order(sku="sku-none"),
            PlaceOrder(user_id="7", lines=[]),
            order(user=999_999),
            order(quantity=10_000, sku="sku-0001"),
            order(key="twice"),
            order(key="twice"),
            PlaceOrder(user_id="not a number", lines=[Line(sku="sku-0010", quantity=1)]),
        ]
    )
    codes = [outcome.code if isinstance(outcome, Error) else "placed" for outcome in outcomes]
    assert codes == [
        "placed",
        "unknown_sku",
        "invalid_field",
        "unknown_user",
        "placed",
        "placed",
        "placed",
        "invalid_field",
    ]
    assert isinstance(outcomes[5], PlacedOrder)
    assert outcomes[5] == outcomes[6]


async def test_a_batch_over_the_limit_is_refused_whole(running_shop: Shop) -> None:
    shop = running_shop
    connection = GrpcTransport().connect(shop.supervisor.find("orders-0").address)
    token = await shop.token(PARTNER_EMAIL)
    _, before = await shop.call("GET", "/v1/stock/sku-0777")
    frame = batch_codec(PLACE).encode_request(1, 5000, [order(sku="sku-0777")] * 10_000)
    stream = await connection.stream(PLACE.batch_path, Metadata(authorization=f"Bearer {token}"), 10.0)
    await stream.send(frame)
    answer = await stream.receive()
    assert answer is not None
    errors = [outcome for _, outcome in batch_codec(PLACE).decode_reply(answer).outcomes]
    await connection.close()
    _, after = await shop.call("GET", "/v1/stock/sku-0777")
    assert after == before
    (error,) = errors
    assert isinstance(error, Invalid)
    assert error.code == "batch_too_large"
    assert "10000" in error.message.replace(",", "")


async def test_a_customer_cannot_order_for_another(running_shop: Shop) -> None:
    token = await running_shop.token("user-5@shop.example")
    made = client(Orders, running_shop.supervisor.find("orders-0").address, token=token)
    try:
        own, other = await made.place.many([order(user=5), order(user=6)])
    finally:
        await close_client(made)
    assert isinstance(own, PlacedOrder)
    assert isinstance(other, Error)
    assert other.family == "forbidden"
