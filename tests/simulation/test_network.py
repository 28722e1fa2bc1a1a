"""The network: the usual server and client on it, and what can happen to a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest

from dougong.contract import Message, Service, batched, rpc
from dougong.errors import Conflict, DeadlineExceeded, Error, Invalid, Unavailable
from dougong.rpc import Lost, Metadata, Server, client, close_client
from dougong.simulation import Chaos, Process, World

R = TypeVar("R")


class Word(Message):
    text: str


class Echo(Service, package="test.simulation.v1"):
    """Says it again."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard

    @rpc(public=True)
    async def once(self, request: Word) -> Word:
        """Not to be repeated."""
        self.heard.append(request.text)
        return request

    @rpc(public=True, idempotent=True, timeout_s=1.0)
    async def often(self, request: Word) -> Word:
        """May be repeated."""
        self.heard.append(request.text)
        return request

    @rpc(public=True)
    async def refuse(self, request: Word) -> Word:
        """Never."""
        raise Conflict("no", code="never", word=request.text)

    @rpc(public=True)
    async def fail(self, request: Word) -> Word:
        """A bug."""
        raise KeyError(request.text)

    @rpc(public=True, timeout_s=2.0)
    async def sleep(self, request: Word) -> Word:
        """Longer than anybody waits."""
        try:
            await asyncio.sleep(float(request.text))
        except asyncio.CancelledError:
            self.heard.append("cancelled")
            raise
        return request

    @batched(public=True, max_batch=10)
    async def batched(self, requests: Sequence[Word]) -> Sequence[Word | Error]:
        """In lists."""
        self.heard.append(f"{len(requests)} at once")
        return requests

    @rpc(public=True)
    async def stream(self, requests: AsyncIterator[Word]) -> AsyncIterator[Word]:
        """One for one."""
        async for request in requests:
            self.heard.append(request.text)
            yield request


def talk(
    work: Callable[[Process, Echo], Coroutine[Any, Any, R]],
    *,
    seed: int = 1,
    chaos: Chaos | None = None,
    events: Callable[[World], Coroutine[Any, Any, None]] | None = None,
) -> tuple[R, list[str], World]:
    """A server on one node, `work` with a client on another; what it returned and what was heard."""
    world = World(seed, chaos=chaos)
    heard: list[str] = []
    results: list[R] = []

    async def serve(process: Process) -> None:
        await Server([Echo(heard)], transport=process.transport).start()  # 127.0.0.1, as everywhere

    async def use(process: Process) -> None:
        echo = client(Echo, "server:1", transport=process.transport, random=process.random, patience_s=0.5)
        results.append(await work(process, echo))
        await close_client(echo)

    async def main() -> None:
        world.node("server").start(serve)
        await asyncio.sleep(0.1)
        world.node("client").start(use)
        if events is not None:
            await events(world)
        while not results and not world.failures:
            await asyncio.sleep(0.1)
        await asyncio.sleep(70.0)  # until the last copy has arrived

    world.run(main())
    assert world.failures == []
    return results[0], heard, world


def test_every_kind_of_method_works() -> None:
    async def work(process: Process, echo: Echo) -> list[object]:
        async def words() -> AsyncIterator[Word]:
            for text in "xyz":
                yield Word(text=text)

        seen: list[object] = [(await echo.once(Word(text="a"))).text, (await echo.batched(Word(text="b"))).text]
        many = await echo.batched.many([Word(text=str(n)) for n in range(25)])
        seen.append([word.text for word in many if isinstance(word, Word)])
        seen.append([word.text async for word in echo.stream(words())])
        for call in (echo.refuse, echo.fail):
            try:
                await call(Word(text="w"))
            except Error as error:
                seen.append((error.family, error.code, error.fields.get("word")))
        return seen

    seen, heard, _ = talk(work)
    assert seen == [
        "a",
        "b",
        [str(n) for n in range(25)],
        ["x", "y", "z"],
        ("conflict", "never", "w"),
        ("internal", "internal", None),
    ]
    assert heard[-3:] == ["x", "y", "z"]


def test_messages_overtake_each_other() -> None:
    async def work(process: Process, echo: Echo) -> None:
        await asyncio.gather(*(echo.once(Word(text=str(n))) for n in range(20)))

    _, heard, _ = talk(work)
    assert sorted(heard, key=int) == [str(n) for n in range(20)] != heard


async def try_often(echo: Echo, count: int = 60) -> list[str]:
    said: list[str] = []
    for number in range(count):
        try:
            await echo.often(Word(text=str(number)))
            said.append("ok")
        except Error as error:
            said.append(error.code)
    return said


async def try_once(echo: Echo, count: int = 60) -> list[str]:
    said: list[str] = []
    for number in range(count):
        try:
            await echo.once(Word(text=str(number)))
            said.append("ok")
        except Error as error:
            said.append(error.code)
    return said


def test_a_lost_request_has_no_effect_and_a_lost_answer_has_one() -> None:
    async def work(process: Process, echo: Echo) -> list[str]:
        return await try_once(echo)

    said, heard, _ = talk(work, chaos=Chaos(request_lost=0.5))
    assert set(said) == {"ok", "connection_lost", "deadline_exceeded"}
    assert len(heard) == said.count("ok")
    said, heard, _ = talk(work, chaos=Chaos(answer_lost=0.5))
    assert set(said) == {"ok", "connection_lost", "deadline_exceeded"}
    assert len(heard) == 60


def test_copies_and_latecomers_are_of_what_may_be_repeated() -> None:
    async def often(process: Process, echo: Echo) -> list[str]:
        return await try_often(echo)

    async def once(process: Process, echo: Echo) -> list[str]:
        return await try_once(echo)

    chaos = Chaos(request_twice=0.3, request_late=0.2)
    _, heard, _ = talk(often, chaos=chaos)
    assert len(heard) > len(set(heard)) == 60
    _, heard, _ = talk(once, chaos=chaos)
    assert len(heard) == len(set(heard)) < 60


def test_a_call_to_nobody_fails_at_once_and_surely() -> None:
    async def work(process: Process, echo: Echo) -> tuple[str, bool]:
        connection = process.transport.connect("server:2")
        with pytest.raises(Lost) as caught:
            await connection.unary("/x", b"", Metadata(), 1.0)
        return caught.value.error.code, caught.value.started

    assert talk(work)[0] == ("connect_failed", False)


def test_a_killed_server_is_noticed_and_what_it_had_begun_is_unknown() -> None:
    async def work(process: Process, echo: Echo) -> str:
        with pytest.raises((Unavailable, DeadlineExceeded)) as caught:
            await echo.sleep(Word(text="1.5"))
        return caught.value.code

    async def events(world: World) -> None:
        await asyncio.sleep(0.5)
        world.node("server").crash()

    said = {talk(work, seed=seed, events=events)[0] for seed in range(12)}
    assert said == {"connection_lost", "deadline_exceeded"}
    assert talk(work, events=events)[1] == []  # not even cancelled: it is dead


def test_a_caller_that_gives_up_is_mostly_heard_of() -> None:
    async def work(process: Process, echo: Echo) -> None:
        for _ in range(12):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await echo.sleep(Word(text="1.0"))

    _, heard, _ = talk(work)
    assert 0 < heard.count("cancelled") < 12


def test_a_partition_cuts_both_ways_and_heals() -> None:
    async def work(process: Process, echo: Echo) -> list[str]:
        network, seen = process.node.world.network, list[str]()
        for cut in (True, False):
            if cut:
                network.cut("client", "server")
            try:
                await echo.often(Word(text="a"))
                seen.append("ok")
            except Error as error:
                seen.append(error.family)
            network.join("server", "client")
        return seen

    seen, _, _ = talk(work)
    assert seen[0] in {"unavailable", "deadline_exceeded"}
    assert seen[1] == "ok"


def test_streams_keep_their_order_break_as_a_whole_and_are_opened_again() -> None:
    async def work(process: Process, echo: Echo) -> list[str]:
        said: list[str] = []

        async def words() -> AsyncIterator[Word]:
            for number in range(20):
                yield Word(text=str(number))

        for _ in range(10):
            got: list[str] = []
            try:
                async with asyncio.timeout(30.0):
                    async for word in echo.stream(words()):
                        got.append(word.text)  # noqa: PERF401 (it breaks in between)
                said.append("whole")
            except Error as error:
                said.append(error.code)
            assert got == [str(number) for number in range(len(got))]
        return said

    assert set(talk(work)[0]) == {"whole"}
    assert set(talk(work, chaos=Chaos(stream_broken=0.02))[0]) == {"whole", "connection_lost"}


def test_batches_survive_broken_streams() -> None:
    async def work(process: Process, echo: Echo) -> list[str]:
        said: list[str] = []
        for number in range(60):
            try:
                await echo.batched(Word(text=str(number)))
                said.append("ok")
            except Error as error:
                said.append(error.code)
        return said

    said, _, _ = talk(work, chaos=Chaos(stream_broken=0.1))
    assert set(said) == {"ok", "connection_lost"}
    assert said.count("ok") > 30


def test_addresses_are_nodes() -> None:
    async def work(process: Process, echo: Echo) -> list[str]:
        codes: list[str] = []
        for address in ("elsewhere:1", "client:5", "client:5", "localhost:0"):
            try:
                server = Server([Echo([])], transport=process.transport)
                codes.append(await server.start(address))
                await server.stop()
                if address == "client:5":
                    await Server([Echo([])], transport=process.transport).start(address)
            except (Invalid, Unavailable) as error:
                codes.append(error.code)
        return codes

    assert talk(work)[0] == ["bad_address", "client:5", "address_taken", "client:2"]
