"""Where a rush sends its orders: the stream of batches, or HTTP one by one; and a customer who does not give up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from dougong.errors import FAMILIES, Error, error_from
from dougong.evidence import HttpLoad, Target
from shop.orders import Line, Orders, PlacedOrder, PlaceOrder

__all__ = ["HttpTarget", "OrderTarget", "Persistent", "StreamTarget", "leaves_order_open"]

OrderTarget = Target[PlaceOrder, PlacedOrder]

_RETRY_S_MIN = 0.05
_RETRY_S_MAX = 1.0
_FAMILIES = {kind.http_status: kind.family for kind in FAMILIES.values()}


class _Body(msgspec.Struct):
    user_id: str
    lines: list[Line]


class _Problem(msgspec.Struct):
    """What we read of a problem document; other services' errors have less."""

    code: str = ""
    detail: object = ""
    fields: dict[str, str | int | float | bool] = {}


_encode = msgspec.json.Encoder().encode
_decode_placed = msgspec.json.Decoder(PlacedOrder).decode
_decode_problem = msgspec.json.Decoder(_Problem).decode


def leaves_order_open(error: Error) -> bool:
    """Whether an error leaves open what became of its order. One that names the order tells what was decided."""
    return error.family in {"unavailable", "deadline_exceeded", "internal"} and "order_id" not in error.fields


class StreamTarget:
    """`Orders.place` over its bidirectional stream of batches."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    async def send(self, requests: Sequence[PlaceOrder]) -> Sequence[PlacedOrder | Error]:
        return await self._orders.place.many(requests)


class HttpTarget:
    """`POST /v1/orders`, one order per request, over at most `connections` connections."""

    def __init__(self, url: Callable[[], str], token: str, connections: int) -> None:
        self._url = url
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._headers = f"Content-Type: application/json\r\n{authorization}".encode()
        self._http = HttpLoad(connections)

    async def send(self, requests: Sequence[PlaceOrder]) -> Sequence[PlacedOrder | Error]:
        if len(requests) == 1:
            return (await self._one(requests[0]),)
        return await asyncio.gather(*map(self._one, requests))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def _one(self, request: PlaceOrder) -> PlacedOrder | Error:
        headers = self._headers
        if request.idempotency_key:
            headers += f"Idempotency-Key: {request.idempotency_key}\r\n".encode()
        body = _encode(_Body(request.user_id, request.lines))
        try:
            status, text = await self._http.send("POST", f"{self._url()}/v1/orders", headers, body)
        except Error as error:
            return error
        return _decode_placed(text) if status == 200 else _error(status, text)


def _error(status: int, text: bytes) -> Error:
    try:
        problem = _decode_problem(text)
    except msgspec.MsgspecError:
        problem = _Problem(detail=text[:200].decode(errors="replace"))
    family = _FAMILIES.get(status, "internal" if status >= 500 else "invalid")
    return error_from(family, problem.code or f"http_{status}", str(problem.detail), problem.fields)


class Persistent:
    """Sends again, under the same idempotency key, what has no known outcome, for at most `patience_s` seconds."""

    def __init__(self, target: OrderTarget, *, patience_s: float = 60.0) -> None:
        self._target = target
        self._patience_s = patience_s

    async def send(self, requests: Sequence[PlaceOrder]) -> Sequence[PlacedOrder | Error]:
        outcomes = list(await self._target.send(requests))
        loop = asyncio.get_running_loop()
        give_up, pause_s = loop.time() + self._patience_s, _RETRY_S_MIN
        while (left := _left_open(outcomes)) and loop.time() < give_up:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_S_MAX)
            again = await self._target.send([requests[i] for i in left])
            for i, outcome in zip(left, again, strict=True):
                outcomes[i] = outcome
        return outcomes


def _left_open(outcomes: Sequence[PlacedOrder | Error]) -> list[int]:
    return [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Error) and leaves_order_open(outcome)]
