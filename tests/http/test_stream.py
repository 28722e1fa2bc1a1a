"""Server streams as lines of JSON."""

from __future__ import annotations

import asyncio
import json

from tests.http.desk import Desk, ask, front


def lines(body: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in body.splitlines()]


async def test_one_object_per_line() -> None:
    desk = Desk()
    response = await ask(front(desk), "GET", "/v1/count?up_to=3")
    assert (response.status, response.headers["content-type"]) == (200, "application/x-ndjson")
    assert lines(response.body) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert response.complete
    assert desk.streams_closed == 1


async def test_an_empty_stream_is_an_answer() -> None:
    response = await ask(front(), "GET", "/v1/count?up_to=0")
    assert (response.status, response.body, response.complete) == (200, b"", True)


async def test_a_refusal_before_the_first_item_has_its_own_status() -> None:
    response = await ask(front(), "GET", "/v1/count?fail_at=0")
    assert (response.status, response.json["code"]) == (409, "stumbled")


async def test_an_error_on_the_way_is_the_last_line() -> None:
    response = await ask(front(), "GET", "/v1/count?fail_at=2")
    *items, last = lines(response.body)
    assert items == [{"n": 0}, {"n": 1}]
    assert last["error"]["code"] == "stumbled"  # type: ignore[index]
    crashed = lines((await ask(front(), "GET", "/v1/count?fail_at=3")).body)[-1]
    assert crashed["error"]["code"] == "internal"  # type: ignore[index]


async def test_the_deadline_ends_a_stream() -> None:
    desk = Desk()
    response = await ask(front(desk), "GET", "/v1/count?up_to=9&pause_s=60", headers=[("x-request-timeout-ms", "30")])
    first, last = lines(response.body)
    assert first == {"n": 0}
    assert last["error"]["code"] == "deadline_exceeded"  # type: ignore[index]
    assert desk.streams_closed == 1


async def test_a_cancelled_request_closes_the_stream() -> None:
    desk = Desk()
    request = asyncio.create_task(ask(front(desk), "GET", "/v1/count?up_to=9&pause_s=60"))
    await asyncio.sleep(0.02)
    request.cancel()
    await asyncio.wait({request})
    assert request.cancelled()
    assert desk.streams_closed == 1
