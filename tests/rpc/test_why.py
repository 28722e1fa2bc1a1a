"""What a caller can learn of its call."""

from __future__ import annotations

import asyncio

from tests.rpc.conftest import Lab
from tests.rpc.example import Answer, Ask, Example
from tests.rpc.test_failures import Listed

from dougong.rpc import why
from dougong.telemetry import span


class Numbered(Listed):
    revision = 42


async def test_a_plain_call(grpc_lab: Lab) -> None:
    server = await grpc_lab.serve(Example())
    remote = grpc_lab.call(Numbered("127.0.0.1:1", server.address))
    retried: list[tuple[str, str]] = []
    while not retried:
        with why() as record:
            await remote.change(Ask())
        assert record.endpoint == server.address
        assert (record.method, record.instances, record.revision) == ("/test.v1.Example/Change", 2, 42)
        assert record.batch_size == 0
        assert record.attempts == 1 + len(record.retried)
        retried = record.retried
    assert retried[0] == ("127.0.0.1:1", "connect_failed"), "the dead one was tried, sooner or later"
    with why() as record:
        await remote.change(Ask())
    assert record.attempts in (1, 2)
    assert record.connection_age_s > 0
    assert record.reused or record.attempts > 1


async def test_a_call_in_a_batch(lab: Lab) -> None:
    server = await lab.serve(Example())
    remote = lab.call(server.address)

    async def curious() -> tuple[int, bool, float]:
        with why() as record:
            await remote.look(Ask())
        assert record.endpoint == server.address
        assert record.attempts == 1
        return record.batch_size, record.reused, record.queue_s

    async def plain() -> Answer:
        return await remote.look(Ask())

    asking = asyncio.create_task(curious())
    await asyncio.gather(*(plain() for _ in range(9)))
    size, reused, queue_s = await asking
    assert (size, reused) == (10, False), "it rode with nine who did not ask, on a stream opened for them"
    assert queue_s >= 0
    assert (await curious())[:2] == (1, True)


async def test_it_is_written_to_a_span(lab: Lab) -> None:
    server = await lab.serve(Example())
    remote = lab.call(server.address)
    with span("checkout") as current, why(current):
        await remote.get(Ask())
    assert current.attributes["rpc.endpoint"] == server.address
    assert current.attributes["rpc.attempts"] == 1
    with span("idle") as current, why(current):
        pass
    assert current.attributes == {}
