"""Instances that come, go, stop in good order, and vanish."""

from __future__ import annotations

import asyncio

import pytest
from tests.rpc.conftest import Lab, closed_gate, until
from tests.rpc.example import Answer, Ask, Example

from dougong.contract import batch_codec, describe
from dougong.errors import Unavailable
from dougong.registry import Instance
from dougong.rpc import MemoryTransport, call_scope, close_client
from dougong.rpc._batch_client import BatchStream
from dougong.rpc._transport import connection_lost

PLACE = next(method for method in describe(Example).methods if method.attribute == "place")


class Listed:
    """A resolver the test writes by hand."""

    def __init__(self, *addresses: str) -> None:
        self.put(*addresses)
        self.found_missing: set[str] = set()

    def put(self, *addresses: str) -> None:
        self._instances = tuple(Instance(service="test.v1.Example", address=address) for address in addresses)

    def instances(self) -> tuple[Instance, ...]:
        return self._instances

    def probe_failed(self, address: str) -> None:
        self.found_missing.add(address)


async def test_calls_are_spread_over_instances(lab: Lab) -> None:
    services = [Example(str(i)) for i in range(3)]
    servers = [await lab.serve(service) for service in services]
    remote = lab.call([server.address for server in servers])
    await asyncio.gather(*(remote.get(Ask()) for _ in range(60)))
    assert all(service.entered > 5 for service in services)
    await remote.place.many([Ask(text=str(i)) for i in range(200)])
    assert sum(len(service.items) for service in services) == 200
    assert all(service.items for service in services)


async def test_new_instances_get_calls_and_unlisted_ones_no_more(lab: Lab) -> None:
    old, new = Example("old"), Example("new")
    listed = Listed((await lab.serve(old)).address)
    remote = lab.call(listed)
    assert (await remote.change(Ask())).text == "old"
    with closed_gate(old):
        under_way = asyncio.create_task(remote.change(Ask()))
        batch = asyncio.create_task(remote.place(Ask(text="batch")))
        await until(lambda: old.entered == 3)
        listed.put((await lab.serve(new)).address)
        for _ in range(5):
            assert (await remote.change(Ask())).text == "new"
        assert (await remote.place(Ask(text="late"))).text == "late"
    assert (await under_way).text == "old", "what was under way ends where it began"
    assert (await batch).text == "batch"
    assert new.items == [""] * 5 + ["late"]


async def test_nobody_there(lab: Lab) -> None:
    listed = Listed()
    remote = lab.call(listed, patience_s=0.1)
    with pytest.raises(Unavailable) as caught:
        await remote.get(Ask())
    assert caught.value.code == "no_instance"
    (outcome,) = await remote.place.many([Ask()])
    assert isinstance(outcome, Unavailable)
    assert outcome.code == "no_instance"
    patient = lab.call(listed)
    call = asyncio.create_task(patient.get(Ask(text="waited")))
    await asyncio.sleep(0.02)
    listed.put((await lab.serve(Example())).address)
    assert (await call).text == "waited"


async def test_nobody_answers(lab: Lab) -> None:
    remote = lab.call("127.0.0.1:1", patience_s=0.1)
    with pytest.raises(Unavailable) as caught:
        await remote.change(Ask())
    assert caught.value.code == "connect_failed"
    (outcome,) = await remote.place.many([Ask()])
    assert isinstance(outcome, Unavailable)
    assert outcome.code == "connect_failed"


async def test_a_dead_instance_costs_nothing_while_another_lives(lab: Lab) -> None:
    """Not idempotent, and still repeated: a refused connection did nothing."""
    service = Example("alive")
    remote = lab.call(["127.0.0.1:1", (await lab.serve(service)).address])
    for _ in range(20):
        assert (await remote.change(Ask())).text == "alive"
    outcomes = await remote.place.many([Ask(text="x") for _ in range(100)])
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    assert service.items.count("x") == 100


async def test_drain_ends_what_runs_and_sends_the_rest_elsewhere(lab: Lab) -> None:
    old, new = Example("old"), Example("new")
    first = await lab.serve(old)
    listed = Listed(first.address)
    remote = lab.call(listed, frames_per_stream=2)
    with closed_gate(old):
        change = asyncio.create_task(remote.change(Ask(text="running")))
        batches = [asyncio.create_task(remote.place(Ask(text=f"b{i}"))) for i in range(2)]
        await until(lambda: old.entered >= 2)
        drained = asyncio.create_task(first.drain(5))
        await asyncio.sleep(0)
        listed.put(first.address, (await lab.serve(new)).address)
        # Still listed, already stopping: it turns calls away in a way that lets them go elsewhere.
        for _ in range(5):
            assert (await remote.change(Ask(text="turned away"))).text == "new"
        more = await remote.place.many([Ask(text=f"m{i}") for i in range(30)])
        assert all(isinstance(outcome, Answer) for outcome in more)
        assert not drained.done()
    assert await drained
    await first.stop()
    assert (await change).text == "old"
    assert [(await batch).text for batch in batches] == ["b0", "b1"]
    assert not any(item.startswith("m") for item in old.items)
    assert first.in_flight == 0


async def test_a_stream_that_breaks_is_a_doubt_before_any_call_fails(memory_lab: Lab) -> None:
    """Found by the story `network`: a client whose idle stream broke went on calling the dead."""
    server = await memory_lab.serve(Example())
    listed = Listed(server.address)
    remote = memory_lab.call(listed)
    await remote.place(Ask(text="x"))
    assert not listed.found_missing
    assert isinstance(memory_lab.transport, MemoryTransport)
    memory_lab.transport.crash(server.address)
    await until(lambda: listed.found_missing == {server.address})


class Ending:
    """A stream whose other end says nothing until it is told how to end."""

    def __init__(self) -> None:
        self.ends: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def send(self, message: bytes) -> None: ...

    async def finish(self) -> None: ...

    async def receive(self) -> bytes | None:
        await self.ends
        return None

    def cancel(self) -> None: ...


@pytest.mark.parametrize("breaks", [True, False])
async def test_a_stream_that_breaks_while_it_is_put_away_is_a_doubt_too(breaks: bool) -> None:
    """Found by the story `network`: its server had crashed, and what it broke was ours to end anyway."""
    told: list[str] = []
    ending = Ending()
    stream = BatchStream(
        ending, batch_codec(PLACE), "a:1", lambda _: told.append("gone"), lambda: told.append("broken")
    )
    retiring = asyncio.create_task(stream.retire(60))
    await asyncio.sleep(0)
    if breaks:
        ending.ends.set_exception(connection_lost("a:1", "reset"))
    else:
        ending.ends.set_result(None)
    await retiring
    assert told == (["broken"] if breaks else [])


async def test_a_stream_that_ends_in_good_order_is_no_doubt(memory_lab: Lab) -> None:
    server = await memory_lab.serve(Example())
    listed = Listed(server.address)
    remote = memory_lab.call(listed)
    await remote.place(Ask(text="x"))
    assert await server.drain(5)
    await server.stop()
    assert not listed.found_missing


async def test_a_drain_that_takes_too_long_says_so(lab: Lab) -> None:
    service = Example()
    server = await lab.serve(service)
    remote = lab.call(server.address)
    with closed_gate(service):
        call = asyncio.create_task(remote.change(Ask()))
        await until(lambda: service.entered == 1)
        assert not await server.drain(0.05)
        await server.stop(0)
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.code == "connection_lost"
    assert service.cancelled == 1


async def test_restarts_under_load_lose_nothing_and_do_nothing_twice(lab: Lab) -> None:
    """The server goes down in good order and comes back on the same address, several times, while calls go on."""
    service = Example()
    server = await lab.serve(service)
    address = server.address
    remote = lab.call(address)
    done = asyncio.Event()
    outcomes: dict[str, object] = {}

    async def keep_calling(name: str) -> None:
        serial = 0
        while not done.is_set():
            asked = [Ask(text=f"{name}-{serial + i}") for i in range(25)]
            serial += 25
            for request, outcome in zip(asked, await remote.place.many(asked), strict=True):
                outcomes[request.text] = outcome

    callers = [asyncio.create_task(keep_calling(name)) for name in "abc"]
    for _ in range(3):
        await asyncio.sleep(0.05)
        await server.drain(1)
        await server.stop(0.2)
        server = await lab.serve(service, address)
    await asyncio.sleep(0.05)
    done.set()
    await asyncio.gather(*callers)
    bad = {text: outcome for text, outcome in outcomes.items() if not isinstance(outcome, Answer)}
    assert not bad
    assert sorted(service.items) == sorted(outcomes), "each exactly once"


async def test_a_crash_leaves_the_outcome_unknown_only_where_it_is(memory_lab: Lab) -> None:
    """Answered items keep their answers, idempotent ones are repeated elsewhere, the others say `connection_lost`."""
    transport = memory_lab.transport
    assert isinstance(transport, MemoryTransport)
    dying, living = Example("dying"), Example("living")
    first = await memory_lab.serve(dying)
    listed = Listed(first.address)
    remote = memory_lab.call(listed, frames_per_stream=2)
    with closed_gate(dying):
        change = asyncio.create_task(remote.change(Ask()))
        get = asyncio.create_task(remote.get(Ask(text="repeated")))
        place = asyncio.create_task(remote.place.many([Ask(text=f"p{i}") for i in range(35)]))
        look = asyncio.create_task(remote.look.many([Ask(text=f"l{i}") for i in range(35)]))
        await until(lambda: dying.entered == 6)
        listed.put((await memory_lab.serve(living)).address)
        transport.crash(first.address)
        with pytest.raises(Unavailable) as caught:
            await change
        assert caught.value.code == "connection_lost"
        assert (await get).text == "repeated"
        placed = await place
        lost = [getattr(outcome, "code", "ok") for outcome in placed]
        assert lost == ["connection_lost"] * 20 + ["ok"] * 15, "two frames were under way, two had not been sent"
        assert all(isinstance(outcome, Answer) for outcome in await look)
        assert sorted(living.items) == sorted([f"p{i}" for i in range(20, 35)] + [f"l{i}" for i in range(35)])
        assert listed.found_missing == {first.address}, "the resolver is told who was not there"


async def test_closing_a_client_answers_everybody(lab: Lab) -> None:
    service = Example()
    remote = lab.call((await lab.serve(service)).address)
    with closed_gate(service):
        batch = asyncio.ensure_future(remote.place.many([Ask() for _ in range(100)]))  # noqa: RUF006 (it is awaited below)
        await until(lambda: service.entered == 4)
        async with asyncio.timeout(60):
            await close_client(remote)
            outcomes = await batch
    assert {getattr(outcome, "code", "") for outcome in outcomes} == {"closed"}
    (outcome,) = await remote.place.many([Ask()])
    assert isinstance(outcome, Unavailable)


async def test_a_deadline_bounds_the_wait_for_an_instance(lab: Lab) -> None:
    remote = lab.call(Listed(), patience_s=1000.0)
    async with asyncio.timeout(60):
        with call_scope(timeout_s=0.05), pytest.raises(Exception, match="not_sent"):
            await remote.get(Ask())
