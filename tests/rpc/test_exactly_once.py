"""Whatever happens to the instances: an acknowledged item was done exactly once, and an error tells the truth.

Items are not idempotent here, so each is done at most once; `connection_lost` and `deadline_exceeded` are the only
answers after which it may have been done.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rpc.example import Answer, Ask, Example
from tests.rpc.test_failures import Listed

from dougong.contract import describe
from dougong.errors import Error
from dougong.rpc import MemoryTransport, Server, client, close_client, trust_everyone

UNKNOWN = {"connection_lost", "deadline_exceeded"}


class Slow(Example, package="test.v1", name="test.v1.Example"):
    """Takes a few turns of the loop, does the items one by one."""

    def __init__(self, random: Random, done: list[str]) -> None:
        super().__init__()
        self.random = random
        self.done = done

    async def _many(self, requests: Sequence[Ask]) -> Sequence[Answer | Error]:
        outcomes: list[Answer | Error] = []
        for request in requests:
            for _ in range(self.random.randrange(3)):
                await asyncio.sleep(0)
            self.done.append(request.text)
            outcomes.append(Answer(text=request.text))
        return outcomes


class Fleet:
    """Three addresses at which a server is up, or not."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.transport = MemoryTransport()
        self.done: list[str] = []
        self.servers: dict[str, Server] = {}
        self.listed = Listed()

    async def happen(self, event: str, address: str) -> None:
        server = self.servers.get(address)
        if event == "start" and server is None:
            made = Server([Slow(self.random, self.done)], authenticator=trust_everyone, transport=self.transport)
            await made.start(address)
            self.servers[address] = made
        elif event == "crash" and server is not None:
            self.transport.crash(address)
            del self.servers[address]
        elif event == "stop" and server is not None:
            del self.servers[address]
            await server.drain(1)
            await server.stop(0)
        elif event == "list":
            self.listed.put(*{*(i.address for i in self.listed.instances()), address})
        elif event == "unlist":
            self.listed.put(*({i.address for i in self.listed.instances()} - {address}))


events = st.tuples(
    st.sampled_from(["start", "start", "list", "list", "crash", "stop", "unlist"]),
    st.sampled_from(["a:1", "b:1", "c:1"]),
    st.integers(0, 8),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(events, max_size=14), st.integers(0, 2**32), st.booleans())
def test_acknowledged_is_done_once_and_errors_tell_the_truth(
    happenings: list[tuple[str, str, int]], seed: int, idempotent: bool
) -> None:
    async def scenario() -> None:
        random = Random(seed)
        fleet = Fleet(random)
        await fleet.happen("start", "a:1")
        await fleet.happen("list", "a:1")
        remote = client(Example, fleet.listed, transport=fleet.transport, random=random, patience_s=0.05)
        method = remote.look if idempotent else remote.place
        lists = [[Ask(text=f"{caller}-{item}") for item in range(random.randint(1, 40))] for caller in range(5)]
        calls = [asyncio.create_task(method.many(asked)) for asked in lists]
        for event, address, pause in happenings:
            await fleet.happen(event, address)
            for _ in range(pause):
                await asyncio.sleep(0)
        done = fleet.done
        for asked, call in zip(lists, calls, strict=True):
            outcomes = await call
            assert len(outcomes) == len(asked)
            for request, outcome in zip(asked, outcomes, strict=True):
                times = done.count(request.text)
                if isinstance(outcome, Answer):
                    assert outcome.text == request.text
                    assert times >= 1
                else:
                    assert isinstance(outcome, Error)
                    assert times == 0 or outcome.code in UNKNOWN, f"{outcome.code} after it was done"
        if not idempotent:
            assert max(Counter(done).values(), default=0) <= 1
        await close_client(remote)
        for address in list(fleet.servers):
            await fleet.happen("stop", address)

    asyncio.run(scenario())


async def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: a client that repeats what may have been begun does things twice."""
    random = Random(1)
    fleet = Fleet(random)
    await fleet.happen("start", "a:1")
    await fleet.happen("list", "a:1")
    contract = describe(Example)
    reckless = tuple(msgspec.structs.replace(method, idempotent=True) for method in contract.methods)
    monkeypatch.setattr(Example, "__contract__", msgspec.structs.replace(contract, methods=reckless))
    remote = client(Example, fleet.listed, transport=fleet.transport, random=random)
    call = asyncio.create_task(remote.place.many([Ask(text=str(item)) for item in range(40)]))
    while len(fleet.done) < 5:
        await asyncio.sleep(0)
    await fleet.happen("crash", "a:1")
    await fleet.happen("start", "a:1")
    assert all(isinstance(outcome, Answer) for outcome in await call)
    assert max(Counter(fleet.done).values()) > 1
    await close_client(remote)
    await fleet.happen("stop", "a:1")
