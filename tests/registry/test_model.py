"""The registry on disk against the rules in memory: any sequence of steps, the same answers."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dougong.clock import ManualClock
from dougong.errors import Error
from dougong.registry import Change, LocalRegistry, MemoryRegistry, Registry

KEYS = ["/a", "/a/1", "/a/2", "/b", "/b/1"]
Step = tuple[object, ...]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.sampled_from([1.0, 2.5, 4.0])),
        st.tuples(st.just("keep_alive"), st.integers(0, 5)),
        st.tuples(st.just("revoke"), st.integers(0, 5)),
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.binary(max_size=2), st.integers(-1, 5)),
        st.tuples(st.just("create"), st.sampled_from(KEYS), st.binary(max_size=2), st.integers(-1, 5)),
        st.tuples(st.just("delete"), st.sampled_from(KEYS)),
        st.tuples(st.just("compact"), st.integers(0, 12)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 3.0])),
        st.tuples(st.just("history"), st.sampled_from(["/", "/a/", "/b"]), st.integers(1, 12)),
    ),
    max_size=30,
)


class Player:
    """Plays steps at one registry and writes down what it answered. Leases are named by the order of their grants."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.leases: list[int] = []

    def lease(self, index: int) -> int:
        if index < 0:
            return 0
        return self.leases[index] if index < len(self.leases) else 987_654_321

    async def play(self, step: Step) -> object:
        match step:
            case ("grant", float(ttl_s)):
                granted = await self.registry.grant(ttl_s)
                self.leases.append(granted.id)
                return granted.ttl_s
            case ("keep_alive", int(index)):
                return await self.registry.keep_alive(self.lease(index))
            case ("revoke", int(index)):
                await self.registry.revoke(self.lease(index))
                return None
            case ("put", str(key), bytes(value), int(index)):
                return await self.registry.put(key, value, lease=self.lease(index))
            case ("create", str(key), bytes(value), int(index)):
                return await self.registry.create(key, value, lease=self.lease(index))
            case ("delete", str(key)):
                return await self.registry.delete(key)
            case ("compact", int(revision)):
                await self.registry.compact(revision)
                return None
            case ("history", str(prefix), int(revision)):
                return await self.history(prefix, revision)
            case _:
                return None

    async def history(self, prefix: str, revision: int) -> list[tuple[Change, ...]]:
        """What is there to be seen; a last put tells where it ends."""
        end = await self.registry.put(f"{prefix}end", b"")
        seen: list[tuple[Change, ...]] = []
        async for changes in self.registry.watch(prefix, min(revision, end)):
            seen.append(tuple(changes))
            if changes[0].revision >= end:
                break
        return seen

    async def answer(self, step: Step) -> object:
        try:
            return await self.play(step)
        except Error as error:
            fields = {name: value for name, value in error.fields.items() if name != "lease"}
            return type(error), error.code, fields

    async def picture(self) -> object:
        listing = await self.registry.list("/")
        items = [(i.key, i.value, i.create_revision, i.mod_revision, self.name(i.lease)) for i in listing.items]
        return listing.revision, items

    def name(self, lease: int) -> int:
        return self.leases.index(lease) if lease else -1


@given(steps)
def test_the_file_follows_the_rules(story: list[Step]) -> None:
    async def run(directory: str) -> None:
        clock = ManualClock(monotonic=100.0)
        memory = Player(MemoryRegistry(clock, history_revisions_max=8))
        local = Player(LocalRegistry(Path(directory) / "r.db", clock, history_revisions_max=8))
        try:
            for step in story:
                if step[0] == "wait":
                    clock.advance(float(str(step[1])))
                players: list[Callable[[Step], Awaitable[object]]] = [memory.answer, local.answer]
                one, other = [await answer(step) for answer in players]
                assert one == other, step
                assert await memory.picture() == await local.picture(), step
        finally:
            await memory.registry.close()
            await local.registry.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(directory))
