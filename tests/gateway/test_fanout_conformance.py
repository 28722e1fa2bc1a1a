"""One suite for all that carries messages between gateways: in one process, through a hub, through a real Redis."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests import engines
from tests.gateway.fanout_process import presence_gateway
from tests.gateway.wire import Peer, head, line

from dougong.config import Secret
from dougong.errors import DeadlineExceeded, Error, Invalid, Unavailable
from dougong.evidence.engines import Redis
from dougong.gateway import (
    FanOut,
    HistoryPolicy,
    Hub,
    InProcess,
    LocalFanOut,
    Missed,
    Offset,
    Published,
    Publisher,
    RedisFanOut,
    Slow,
)
from dougong.gateway.fanout import hub as hub_module
from dougong.gateway.fanout._protocol import MESSAGE_BYTES_MAX
from dougong.gateway.fanout.redis_link import RedisLink

PATIENCE_S = 60.0
_prefixes = (f"test{number}" for number in itertools.count())


class End:
    """A process's fan-out, and what it heard."""

    def __init__(self, fan_out: FanOut) -> None:
        self.fan_out = fan_out
        self.heard: list[Published] = []
        self.lost: list[str] = []

    async def publish(self, topic: str, *texts: str, keep: bool = True) -> list[Offset | None]:
        return [
            await self.fan_out.publish(topic, text.encode(), slow=Slow.RESUME, keep=keep) for text in map(str, texts)
        ]

    def texts(self, topic: str) -> list[str]:
        return [message.data.decode() for message in self.heard if message.topic == topic]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def until_heard(self, topic: str, text: str) -> None:
        await self.until(lambda: text in self.texts(topic))


class Carrier:
    """What a test runs on: ends that share messages, and what can happen between them."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.policy = HistoryPolicy(messages_max=1000)
        self.prefix = f"{next(_prefixes)}.{os.getpid()}"
        self.ends: list[FanOut] = []
        self.server: Redis | None = None
        self.hub: Hub | None = None

    async def end(self) -> End:
        if self.kind == "in-process":
            if not self.ends:
                self.ends.append(InProcess(self.policy))
            fan_out = self.ends[0]
        elif self.kind == "local":
            if self.hub is None:
                await self.start_hub()
            fan_out = LocalFanOut(self.folder, serves=False, timeout_s=20.0)
        else:
            self.server = self.server or engines.redis()
            fan_out = RedisFanOut(Secret(self.server.url()), self.policy, prefix=self.prefix, timeout_s=20.0)
        end = End(fan_out)
        await fan_out.start(end.heard.append, end.lost.append)
        if fan_out not in self.ends:
            self.ends.append(fan_out)
        return end

    async def start_hub(self) -> None:
        self.hub = Hub(self.folder, self.policy)
        await self.hub.start()

    async def cut(self) -> None:
        """All connections are lost, and nothing else."""
        if self.kind == "local":
            assert self.hub is not None
            before = {fan_out: fan_out._line for fan_out in self.ends if isinstance(fan_out, LocalFanOut)}
            for line in tuple(self.hub._lines):
                line.cut()
            while any(line is not None and fan_out._line is line for fan_out, line in before.items()):
                await asyncio.sleep(0)
        else:
            await self.redis_command("CLIENT", "KILL", "TYPE", "pubsub")

    @asynccontextmanager
    async def away(self, end: End) -> AsyncGenerator[None]:
        """One end cannot connect meanwhile."""
        fan_out = end.fan_out
        if isinstance(fan_out, LocalFanOut):
            path, fan_out._path = fan_out._path, "/nowhere"
            assert fan_out._line is not None
            fan_out._line.cut()
            yield
            fan_out._path = path
        else:
            assert isinstance(fan_out, RedisFanOut)
            url, fan_out._url = fan_out._url, Secret("redis://127.0.0.1:1")
            await self.redis_command("CLIENT", "KILL", "TYPE", "pubsub")
            await end.until(lambda: not fan_out._connected)
            yield
            fan_out._url = url

    async def redis_command(self, *command: str) -> None:
        import redis.asyncio

        assert self.server is not None
        client = redis.asyncio.Redis.from_url(self.server.url(), protocol=2)
        await client.execute_command(*command)  # type: ignore[no-untyped-call]
        await client.aclose()

    async def close(self) -> None:
        for fan_out in self.ends:
            await fan_out.close()
        if self.hub is not None:
            await self.hub.stop()


@asynccontextmanager
async def carrying(kind: str) -> AsyncGenerator[Carrier]:
    folder = Path(tempfile.mkdtemp(prefix="dougong-hub-"))  # short: it holds a socket
    carrier = Carrier(kind, folder)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield carrier
    finally:
        await carrier.close()
        shutil.rmtree(folder)


@pytest.fixture(params=["in-process", "local", "redis"])
async def carrier(request: pytest.FixtureRequest) -> AsyncIterator[Carrier]:
    async with carrying(str(request.param)) as one:
        yield one


@pytest.fixture(params=["local", "redis"])
async def between(request: pytest.FixtureRequest) -> AsyncIterator[Carrier]:
    """Where there is something between processes."""
    async with carrying(str(request.param)) as one:
        yield one


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    server = engines.make_redis()
    yield server
    server.remove()


async def test_who_joined_hears_in_order_and_who_left_does_not(carrier: Carrier) -> None:
    end = await carrier.end()
    start = await end.fan_out.join("a")
    await end.fan_out.join("b")
    offsets = await end.publish("a", *map(str, range(50)))
    await end.fan_out.publish("a", b"passing", slow=Slow.LATEST, keep=False)
    await end.publish("nobody", "x")
    await end.until_heard("a", "passing")
    assert end.texts("a") == [*map(str, range(50)), "passing"]
    assert [message.offset for message in end.heard[:-1]] == offsets
    assert [offset.number - offsets[0].number for offset in offsets if offset and offsets[0]] == list(range(50))
    assert offsets[0] is not None
    assert (offsets[0].epoch, offsets[0].number > start.number) == (start.epoch, True)
    assert (end.heard[-1].offset, end.heard[-1].slow) == (None, Slow.LATEST)
    await end.fan_out.leave("a")
    await end.publish("a", "late")
    await end.publish("b", "end")
    await end.until_heard("b", "end")
    assert end.texts("a")[-1] == "passing"
    await end.fan_out.join("a")
    await end.publish("a", "again")
    await end.until_heard("a", "again")
    assert end.texts("a")[-2:] == ["passing", "again"]
    assert end.lost == []


async def test_what_came_after_an_offset(carrier: Carrier) -> None:
    carrier.policy = HistoryPolicy(messages_max=5)
    end = await carrier.end()
    start = await end.fan_out.join("a")
    assert await end.fan_out.since("a", start) == Missed([], start, complete=True)
    await end.fan_out.leave("a")
    first, second, *_, last = await end.publish("a", *"123456")
    assert first is not None
    assert second is not None
    assert last is not None
    missed = await end.fan_out.since("a", first)
    assert missed == Missed([(first.number + n, b"%d" % (n + 1)) for n in range(1, 6)], last, complete=True)
    assert await end.fan_out.since("a", last) == Missed([], last, complete=True)
    assert not (await end.fan_out.since("a", start)).complete  # one of six is gone
    for wrong in (Offset("another", last.number), Offset(last.epoch, last.number + 7), Offset(last.epoch, -1)):
        missed = await end.fan_out.since("a", wrong)
        assert (missed.now, missed.complete) == (last, False)


async def test_what_is_too_large_is_refused_and_what_is_not_arrives(carrier: Carrier) -> None:
    end = await carrier.end()
    topic = "t" * 200
    start = await end.fan_out.join(topic)
    largest = bytes(range(256)) * (MESSAGE_BYTES_MAX // 256)
    for _ in range(3):
        await end.fan_out.publish(topic, largest, slow=Slow.CLOSE, keep=True)
    await end.until(lambda: len(end.heard) == 3)
    assert {message.data for message in end.heard} == {largest}
    assert [data for _, data in (await end.fan_out.since(topic, start)).messages] == [largest] * 3
    for wrong, data in ((topic, largest + b"!"), ("", b""), ("t" * 801, b"")):
        with pytest.raises(Invalid, match=r"limit|bytes"):
            await end.fan_out.publish(wrong, data, slow=Slow.CLOSE, keep=True)


async def test_complete_is_never_said_wrongly(carrier: Carrier) -> None:
    """A client follows now and then, from any process, while connections break: it has all, or is told."""
    carrier.policy = HistoryPolicy(messages_max=4)
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    ends = [await carrier.end() for _ in range(2)] if carrier.kind != "in-process" else [await carrier.end()]
    members = {ends[0]}
    place, got, published = await ends[0].fan_out.join("a"), list[int](), 0
    for _ in range(150):
        what = chance.random()
        end = chance.choice(ends)
        if what < 0.6:
            await end.publish("a", str(published))
            published += 1
        elif what < 0.63 and carrier.kind != "in-process":
            await carrier.cut()
        elif what < 0.7:
            if chance.random() < 0.5:
                members.add(end)
                await end.fan_out.join("a")
            else:
                await end.fan_out.leave("a")
                members.discard(end)
        else:
            missed = await end.fan_out.since("a", place)
            if end in members and missed == Missed([], place, complete=True):
                continue  # what is still under way to a process that joined is delivered there
            fresh = [int(data) for _, data in missed.messages]
            expected = list(range(got[-1] + 1 if got else 0, published))
            assert fresh == (expected if missed.complete else expected[-4:]), f"seed {seed}"
            assert missed.complete == (len(expected) <= 4), f"seed {seed}"
            got += fresh
            place = missed.now
    assert got == sorted(set(got)), f"seed {seed}"


async def test_offsets_are_the_same_for_all(between: Carrier) -> None:
    one, two, three = [await between.end() for _ in range(3)]
    await asyncio.gather(one.fan_out.join("a"), two.fan_out.join("a"))
    told = await asyncio.gather(
        *(end.publish("a", *(f"{name}{n}" for n in range(100))) for name, end in (("x", two), ("y", three)))
    )
    for end in (one, two):
        await end.until(lambda end=end: len(end.heard) == 200)  # type: ignore[misc]
    assert one.heard == two.heard
    numbers = [message.offset.number for message in one.heard if message.offset is not None]
    assert numbers == list(range(numbers[0], numbers[0] + 200))
    assert sorted(offset.number for offsets in told for offset in offsets if offset) == numbers
    for name in "xy":
        assert [text for text in one.texts("a") if text[0] == name] == [f"{name}{n}" for n in range(100)]


async def test_nothing_is_missed_between_joining_and_the_first_message(between: Carrier) -> None:
    one, two = await between.end(), await between.end()
    topics = [f"t{n}" for n in range(20)]
    going = True

    async def speak(topic: str) -> None:
        number = 0
        while going:
            await two.publish(topic, str(number))
            number += 1

    async with asyncio.TaskGroup() as tasks:
        for topic in topics:
            tasks.create_task(speak(topic))
        for _ in range(3):
            since = len(one.heard)
            places = dict(zip(topics, await asyncio.gather(*map(one.fan_out.join, topics)), strict=True))

            def each_twice(since: int = since) -> bool:
                heard = [message.topic for message in one.heard[since:]]
                return all(heard.count(topic) > 1 for topic in topics)

            await one.until(each_twice)
            for topic, place in places.items():
                numbers = [m.offset.number for m in one.heard[since:] if m.topic == topic and m.offset]
                after = [number for number in numbers if number > place.number]
                known = (await two.fan_out.since(topic, place)).messages
                assert after[0] == known[0][0]
                assert after == list(range(after[0], after[0] + len(after)))
            # Left and joined again at once: joined.
            await asyncio.gather(*(one.fan_out.leave(topic) for topic in topics))
        going = False


async def test_who_leaves_and_joins_at_once_is_in(between: Carrier) -> None:
    one, two = await between.end(), await between.end()
    for _ in range(20):
        await one.fan_out.join("a")
        await asyncio.gather(one.fan_out.leave("a"), one.fan_out.join("a"))
    await two.publish("a", "1")
    await one.until_heard("a", "1")
    assert one.texts("a") == ["1"]


async def test_what_was_missed_while_the_connection_was_lost_is_made_up_for(between: Carrier) -> None:
    one, two = await between.end(), await between.end()
    topics = [f"t{n}" for n in range(50)]
    await asyncio.gather(*map(one.fan_out.join, topics))
    sent = 0
    for _ in range(4):
        await asyncio.gather(*(two.publish(topic, str(sent), str(sent + 1)) for topic in topics[1:]))
        sent += 2
        await between.cut()
        for topic in topics[1:]:
            await two.publish(topic, str(sent))
        sent += 1
    for topic in topics[1:]:
        await one.until_heard(topic, str(sent - 1))
        assert one.texts(topic) == [str(n) for n in range(sent)]
        numbers = [m.offset.number for m in one.heard if m.topic == topic and m.offset]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert one.lost == []


async def test_what_cannot_be_made_up_for_is_told(between: Carrier) -> None:
    between.policy = HistoryPolicy(messages_max=3)
    one = await between.end()
    two = await between.end()
    await one.fan_out.join("a")
    await one.fan_out.join("b")
    await two.publish("b", "x")
    await one.until_heard("b", "x")
    async with between.away(one):
        await two.publish("a", *"123456")
    await one.until(lambda: one.lost == ["a"])
    await two.publish("a", "7")
    await one.until_heard("a", "7")
    assert one.texts("a") == ["7"]
    assert one.lost == ["a"]


async def test_without_anybody_to_carry_it_is_said_and_what_is_there_stays(own_redis: Redis) -> None:
    for kind in ("local", "redis"):
        async with carrying(kind) as carrier:
            carrier.server = own_redis
            one = await carrier.end()
            place = await one.fan_out.join("a")
            (offset,) = await one.publish("a", "1")
            await one.until_heard("a", "1")
            if carrier.hub is not None:
                await carrier.hub.stop()
            else:
                own_redis.kill()
            one.fan_out._timeout_s = 0.2  # type: ignore[attr-defined]
            with pytest.raises(Error):  # sent as it went, perhaps
                await one.publish("a", "2")
            with pytest.raises(Unavailable, match=r"cannot publish to a: .*(keep a process running|start it)") as told:
                await one.publish("a", "2")
            assert (told.value.code, told.value.retry_after_s) == ("fan_out_unavailable", 1.0)
            with pytest.raises(Unavailable, match="cannot join b"):
                await one.fan_out.join("b")
            with pytest.raises(Unavailable, match="cannot ask what a missed"):
                await one.fan_out.since("a", place)
            assert offset is not None
            assert await one.fan_out.join("a") == offset
            assert await one.fan_out.since("a", offset) == Missed([], offset, complete=True)
            one.fan_out._timeout_s = PATIENCE_S  # type: ignore[attr-defined]
            if carrier.hub is not None:
                await carrier.start_hub()
            else:
                own_redis.start()
                await one.until(lambda one=one: one.lost == ["a"])  # type: ignore[misc]
            await one.publish("a", "3")
            await one.until_heard("a", "3")
            # A hub goes on with the journal; a Redis that was killed may have lost something, and says so.
            assert one.lost == ([] if kind == "local" else ["a"])
            assert (await one.fan_out.since("a", offset)).complete == (kind == "local")


async def test_services_speak_to_users(between: Carrier) -> None:
    one, fan_out = await between.end(), (await between.end()).fan_out
    await one.fan_out.join("user:7")
    await fan_out.close()
    async with Publisher(fan_out) as publisher:
        await publisher.tell("7", {"order": "42"})
        await one.until_heard("user:7", '{"order":"42"}')


# processes for real


class Child:
    """A process of `tests.gateway.fanout_process`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    async def lines(self) -> list[str]:
        """All that it still has to say."""
        assert self.process.stdout is not None
        said = (await self.process.stdout.read()).decode().splitlines()
        await self.process.wait()
        return said


@asynccontextmanager
async def child(*arguments: str) -> AsyncGenerator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.gateway.fanout_process", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_process_that_hangs_holds_nobody_up_and_makes_up_for_it(
    own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_OUT_BYTES_MAX", 1_000_000)
    filler = "x" * 20_000
    for kind in ("local", "redis"):
        async with carrying(kind) as carrier:
            carrier.policy = HistoryPolicy(messages_max=1000)
            carrier.server, carrier.prefix = own_redis, "dougong"
            one = await carrier.end()
            await one.fan_out.join("a")
            if kind == "redis":
                await carrier.redis_command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 1")
            where = str(carrier.folder) if kind == "local" else own_redis.url()
            async with child("hear", kind, where, "a", "end") as other:
                assert await other.line() == "joined"
                other.process.send_signal(signal.SIGSTOP)
                await one.publish("a", *(f"{number} {filler}" for number in range(300)))
                await one.until_heard("a", f"299 {filler}")  # nobody else waits for it
                other.process.send_signal(signal.SIGCONT)
                await one.publish("a", "end")
                said = await other.lines()
            numbers = [message.offset.number for message in one.heard if message.offset is not None]
            assert [line.split(" ")[:2] for line in said] == [
                [str(number), text] for number, text in zip(numbers, [*map(str, range(300)), "end"], strict=True)
            ]


async def test_users_of_a_process_that_was_killed_are_gone_and_of_one_that_hung_come_back(between: Carrier) -> None:
    await between.end()
    where = str(between.folder) if between.server is None else between.server.url()
    fan_out: FanOut = LocalFanOut(between.folder, serves=False, timeout_s=20.0)
    if between.server is not None:
        fan_out = RedisFanOut(Secret(where), prefix=between.prefix, timeout_s=20.0)
    async with (
        child("gateway", between.kind, where, between.prefix) as killed,
        child("gateway", between.kind, where, between.prefix) as hangs,
        line(presence_gateway(fan_out)) as it,
    ):
        watcher = await it.session("/live?user=watcher")

        async def until(condition: Callable[[], bool]) -> None:
            while not condition():
                told = (await watcher.told())["data"]
                assert isinstance(told, dict)
                if told["event"] == "processes":
                    for process in speaks_for.keys() - told["processes"]:
                        del speaks_for[process]
                else:
                    speaks_for[told["process"]] = {told["user"]} if told["event"] == "join" else set()

        speaks_for: dict[str, set[str]] = {}
        peers = list[Peer]()
        for user, process in (("7", killed), ("8", hangs)):
            peer = Peer(*await asyncio.open_connection("127.0.0.1", int(await process.line())))
            assert await peer.shake(head(f"/live?user={user}")) == 101
            peers.append(peer)
        await until(lambda: sorted(speaks_for.values(), key=str) == [{"7"}, {"8"}])
        killed.process.kill()
        await until(lambda: list(speaks_for.values()) == [{"8"}])
        hangs.process.send_signal(signal.SIGSTOP)
        await until(lambda: not speaks_for)
        hangs.process.send_signal(signal.SIGCONT)
        await until(lambda: list(speaks_for.values()) == [{"8"}])
        for peer in peers:
            peer.hang_up()


async def test_the_hub_is_killed_while_it_carries() -> None:
    """What was acknowledged arrives, once and in order, in whatever process; the standby goes on with the numbers."""
    async with carrying("local") as carrier:
        ends = [End(LocalFanOut(carrier.folder, serves=False, timeout_s=PATIENCE_S)) for _ in range(2)]
        for end in ends:
            await end.fan_out.start(end.heard.append, end.lost.append)
            carrier.ends.append(end.fan_out)
        one, two = ends
        acknowledged: list[str] = []
        going = True

        async def speak() -> None:
            for number in itertools.count():
                if not going:
                    return
                try:
                    await two.publish("a", str(number))
                    acknowledged.append(str(number))
                except DeadlineExceeded:
                    pass

        folder = str(carrier.folder)
        async with child("hub", folder) as first, child("hub", folder) as second, child("hub", folder) as third:
            await one.fan_out.join("a")
            speaking = asyncio.create_task(speak())
            left = [first, second, third]
            for _ in range(2):
                before = len(acknowledged)
                await one.until(lambda before=before: len(acknowledged) > before + 200)  # type: ignore[misc]
                pid = int((carrier.folder / "hub.lock").read_text())
                os.kill(pid, signal.SIGKILL)
                left = [each for each in left if each.process.pid != pid]
            before = len(acknowledged)
            await one.until(lambda: len(acknowledged) > before + 200)
            going = False
            await speaking
            await two.publish("a", "end")
            await one.until_heard("a", "end")
            heard = one.texts("a")[:-1]
            assert one.lost == []
            assert [int(text) for text in heard] == sorted({int(text) for text in heard})
            assert set(acknowledged) <= set(heard)
            numbers = [message.offset.number for message in one.heard if message.offset is not None]
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(left) == 1


async def test_whoever_gets_the_lock_is_the_hub() -> None:
    async with carrying("local") as carrier:
        left: dict[LocalFanOut, End] = {}
        for _ in range(3):
            fan_out = LocalFanOut(carrier.folder, timeout_s=PATIENCE_S)
            end = left[fan_out] = End(fan_out)
            carrier.ends.append(fan_out)
            await fan_out.start(end.heard.append, end.lost.append)
            await fan_out.join("a")
        for text in "123":
            first = next(iter(left.values()))
            await first.until(lambda: any(fan_out._hub for fan_out in left))
            await first.publish("a", text)
            for each in left.values():
                await each.until_heard("a", text)
            if text != "3":
                (holder,) = (fan_out for fan_out in left if fan_out._hub)
                line = next(fan_out for fan_out in left if fan_out is not holder)._line
                await holder.close()
                del left[holder]
                await first.until(lambda line=line: all(fan_out._line not in {None, line} for fan_out in left))  # type: ignore[misc]
        assert [(end.texts("a"), end.lost) for end in left.values()] == [(["1", "2", "3"], [])]


async def test_without_the_journal_a_hub_that_goes_takes_the_history_with_it() -> None:
    async with carrying("local") as carrier:
        one = await carrier.end()
        await one.fan_out.join("a")
        (offset,) = await one.publish("a", "1")
        assert carrier.hub is not None
        assert offset is not None
        await carrier.hub.stop()
        (carrier.folder / "history").unlink()
        await carrier.start_hub()
        await one.until(lambda: one.lost == ["a"])
        assert not (await one.fan_out.since("a", offset)).complete


async def test_somebody_else_on_the_socket_is_no_hub() -> None:
    async with carrying("local") as carrier:
        server = await asyncio.start_unix_server(lambda _, writer: writer.close(), carrier.folder / "hub.sock")
        fan_out = LocalFanOut(carrier.folder, serves=False, timeout_s=0.2)
        carrier.ends.append(fan_out)
        await fan_out.start(lambda _: None, lambda _: None)
        for _ in range(3):
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await fan_out.publish("a", b"1", slow=Slow.RESUME, keep=True)
        server.close()
        fan_out._timeout_s = PATIENCE_S
        await carrier.start_hub()
        while True:
            try:
                await fan_out.publish("a", b"1", slow=Slow.RESUME, keep=True)
                break
            except DeadlineExceeded:  # to the last one, which closes
                continue


async def test_a_new_hub_needs_a_folder_that_it_can_use(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="longer than the 107 bytes"):
        LocalFanOut(tmp_path / ("x" * 100))
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be used"):
        await Hub(Path("/proc/nowhere")).start()
    for wrong in (
        "http://:geheim@x",
        "redis://:geheim@h/x",
        "redis://:geheim@h/0?ssl_cert_reqs=none",
        "redis://:geheim@h:x",
    ):
        with pytest.raises(Invalid, match="must be redis://") as told:
            RedisFanOut(Secret(wrong))
        assert "geheim" not in str(told.value)


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_redis_that_forgot_what_it_said_is_another_one(
    own_redis: Redis, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """It comes back with a state of before, as after a fail-over. Were it taken for the same, numbers would come twice
    and a client that missed a message would be told that it has all."""
    if not guarded:
        monkeypatch.setattr(RedisLink, "open", _open_for_the_same(RedisLink.open))
    async with carrying("redis") as carrier:
        carrier.server = own_redis
        one = await carrier.end()
        await one.fan_out.join("a")
        await one.publish("a", "1", "2")
        await carrier.redis_command("SAVE")
        (last,) = await one.publish("a", "3")
        assert last is not None
        own_redis.kill()
        await one.until(lambda: not one.fan_out._connected)  # type: ignore[attr-defined]
        own_redis.start()
        await one.until(lambda: one.fan_out._connected)  # type: ignore[attr-defined]
        await one.fan_out.leave("a")
        await one.publish("a", "4", "5")
        missed = await one.fan_out.since("a", last)
        if guarded:
            assert not missed.complete
        else:
            assert (missed.complete, [data for _, data in missed.messages]) == (True, [b"5"])  # where is 4?


def _open_for_the_same(
    open_: Callable[[RedisLink], Awaitable[tuple[str, bool]]],
) -> Callable[[RedisLink], Awaitable[tuple[str, bool]]]:
    async def opened(link: RedisLink) -> tuple[str, bool]:
        _, evicts = await open_(link)
        return "0" * 12, evicts

    return opened
