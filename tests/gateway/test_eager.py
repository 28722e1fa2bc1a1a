"""What is begun in the name of a task that stands by: deadlines, cancellation and context arrive where they should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar

import pytest

from dougong.gateway.eager import Eager, Waiting
from dougong.gateway.within import Begun, begin

PATIENCE_S = 60.0
_who: ContextVar[str] = ContextVar("who", default="nobody")


class Office:
    """Begins work on the spot, also where no task is."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self.tasks: list[asyncio.Task[None]] = []
        self.over = False
        self.eager = Eager(self._new_task)

    def _new_task(self, work: Coroutine[None, None, None], context: Context) -> asyncio.Task[None] | None:
        if self.over:
            work.close()
            return None
        self.tasks.append(self._group.create_task(work, context=context))
        return self.tasks[-1]

    def begin(self, work: Awaitable[bytes]) -> asyncio.Future[bytes]:
        """What it comes to."""
        result: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def rest(begun: Begun[bytes]) -> None:
            try:
                got = await begun.within(PATIENCE_S)
            except asyncio.CancelledError:
                got = None
            if result.done():  # a test that waits no more
                return
            if got is None:
                result.set_exception(RuntimeError("cancelled"))
            else:
                result.set_result(got)

        def step() -> Waiting | None:
            begun = begin(work)
            if isinstance(begun, Begun):
                return Waiting(begun, rest(begun))
            result.set_result(begun)
            return None

        assert self.eager.run(step) is not result.done()
        return result

    async def soon(self, *works: Callable[[], Awaitable[bytes]]) -> list[bytes | BaseException]:
        """All of them, one after the other in one callback of the loop; what each comes to."""
        begun: list[asyncio.Future[bytes]] = []
        done = asyncio.Event()

        def callback() -> None:
            assert asyncio.current_task() is None
            try:
                begun.extend(self.begin(work()) for work in works)
            finally:
                assert asyncio.current_task() is None
                done.set()

        asyncio.get_running_loop().call_soon(callback)
        async with asyncio.timeout(PATIENCE_S):
            await done.wait()
            return await asyncio.gather(*begun, return_exceptions=True)


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with asyncio.TaskGroup() as group:
        made = Office(group)
        yield made
        for task in made.tasks:
            task.cancel()


async def at_once() -> bytes:
    assert asyncio.current_task() is not None
    async with asyncio.timeout(PATIENCE_S):  # needs the task it runs in
        return b"1"


async def later() -> bytes:
    task = asyncio.current_task()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        return b"2"


async def too_late() -> bytes:
    try:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    except TimeoutError:
        return b"too late"
    raise AssertionError


async def test_who_does_not_wait_needs_no_task_of_its_own(office: Office) -> None:
    assert await office.soon(*[at_once] * 10) == [b"1"] * 10
    assert len(office.tasks) == 1
    assert await office.soon(at_once, later, at_once, later) == [b"1", b"2", b"1", b"2"]
    assert len(office.tasks) == 2  # the one that stood by went on with what waited first, another with what did then


async def test_a_task_may_call_and_stays_the_current_one(office: Office) -> None:
    me = asyncio.current_task()
    assert await office.begin(at_once()) == b"1"
    assert asyncio.current_task() is me
    result = office.begin(later())
    assert asyncio.current_task() is me
    assert await result == b"2"
    with pytest.raises(ZeroDivisionError):
        office.eager.run(lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    assert asyncio.current_task() is me


async def test_deadlines_that_end_before_the_task_goes_on_are_the_works_own(office: Office) -> None:
    # The first one has begun to stand by when it is used, those after it have not.
    await office.soon(at_once)
    assert await office.soon(*[too_late] * 5) == [b"too late"] * 5
    assert await office.soon(later) == [b"2"]


async def test_the_same_without_an_interruption_waits_for_ever(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    await office.soon(at_once)
    monkeypatch.setattr(Begun, "interrupt", lambda _: None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await office.soon(too_late)


async def test_who_cancels_himself_hears_of_it_where_he_waits_and_nobody_else_does(office: Office) -> None:
    async def himself(*, waits: bool) -> bytes:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if waits:
            await asyncio.sleep(0)
        return b"3"

    await office.soon(at_once)
    got = await office.soon(lambda: himself(waits=False), at_once, later, lambda: himself(waits=True), later)
    assert [str(one) for one in got] == ["b'3'", "b'1'", "b'2'", "cancelled", "b'2'"]


async def test_each_that_waits_keeps_its_context(office: Office) -> None:
    async def knows(name: str) -> bytes:
        before = _who.get()
        token = _who.set(name)
        await asyncio.sleep(0)
        known = _who.get()
        _who.reset(token)  # which only the context allows in which it was set
        return f"{before} {known} {_who.get()}".encode()

    got = await office.soon(lambda: knows("ada"), lambda: knows("bob"))
    assert got == [b"nobody ada nobody", b"nobody bob nobody"]


async def test_what_one_sets_and_leaves_nobody_else_sees(office: Office) -> None:
    async def leaves(name: str) -> bytes:
        before = _who.get()
        _who.set(name)
        return before.encode()

    async def resets() -> bytes:
        _who.reset(_who.set("eve"))
        return _who.get().encode()

    assert await office.soon(lambda: leaves("ada"), lambda: leaves("bob"), at_once) == [b"nobody", b"nobody", b"1"]
    tasks = len(office.tasks)
    assert await office.soon(resets, resets, at_once) == [b"nobody", b"nobody", b"1"]
    assert len(office.tasks) == tasks


async def test_when_all_ends_nothing_is_begun() -> None:
    ran = []
    async with asyncio.TaskGroup() as group:
        office = Office(group)
        office.over = True
        assert not office.eager.run(lambda: ran.append(1))
    assert not ran
