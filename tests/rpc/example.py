"""A service with every shape of method, for the tests of this room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from msgspec import Meta

from dougong.contract import Message, Service, Subject, batched, rpc
from dougong.errors import FAMILIES, Error, Invalid, NotFound, error_from
from dougong.rpc import Caller, current_caller, remaining_s
from dougong.telemetry import current_trace


class Ask(Message):
    text: str = ""
    number: Annotated[int, Meta(ge=0)] = 0
    owner: Subject = ""


class Answer(Message):
    text: str = ""
    number: int = 0
    owner: str = ""


class Example(Service, package="test.v1"):
    """What the tests call. It remembers what happened to it."""

    def __init__(self, name: str = "one") -> None:
        self.name = name
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = 0
        self.finished = 0
        self.cancelled = 0
        self.batches: list[int] = []
        self.items: list[str] = []
        self.callers: list[Caller | None] = []

    async def _pass(self) -> None:
        self.entered += 1
        self.callers.append(current_caller())
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.finished += 1

    @rpc(idempotent=True)
    async def get(self, request: Ask) -> Answer:
        """Idempotent."""
        await self._pass()
        return Answer(text=request.text, number=request.number, owner=request.owner)

    @rpc()
    async def change(self, request: Ask) -> Answer:
        """Not idempotent."""
        await self._pass()
        self.items.append(request.text)
        return Answer(text=self.name)

    @rpc(public=True)
    async def hello(self, request: Ask) -> Answer:
        caller = current_caller()
        return Answer(text="nobody" if caller is None else caller.subject, owner=request.owner)

    @rpc(internal=True)
    async def secret(self, request: Ask) -> Answer:
        return Answer(text="secret")

    @rpc(roles=("admin", "clerk"), on_behalf=("clerk",))
    async def administer(self, request: Ask) -> Answer:
        return Answer(text=request.owner)

    @rpc()
    async def fail(self, request: Ask) -> Answer:
        if request.text in FAMILIES:
            raise error_from(request.text, "its_code", "what, where, remedy", {"sku": "kettle"}, 1.5)
        raise ZeroDivisionError("detail of ours")

    @rpc()
    async def budget(self, request: Ask) -> Answer:
        left, trace = remaining_s(), current_trace()
        return Answer(number=int((left or 0) * 1000), text="" if trace is None else trace.trace_id)

    @rpc()
    async def blob(self, request: Ask) -> Answer:
        return Answer(text="x" * request.number)

    @rpc()
    async def wrong(self, request: Ask) -> Answer:
        return Answer(number=2**70)

    @rpc()
    def down(self, request: Ask) -> AsyncIterator[Answer]:
        async def answers() -> AsyncIterator[Answer]:
            try:
                for number in range(request.number):
                    yield Answer(number=number)
                    if request.text == "pause":
                        await self._pass()
            finally:
                self.items.append("closed")
            if request.text == "fail":
                raise NotFound("no more", code="no_more")

        return answers()

    @rpc()
    async def up(self, requests: AsyncIterator[Ask]) -> Answer:
        total = 0
        async for request in requests:
            total += request.number
        return Answer(number=total)

    @rpc()
    async def both(self, requests: AsyncIterator[Ask]) -> AsyncIterator[Answer]:
        async for request in requests:
            yield Answer(number=request.number * 2, owner=request.owner)

    @batched(max_batch=10)
    async def place(self, requests: Sequence[Ask]) -> Sequence[Answer | Error]:
        """Not idempotent."""
        return await self._many(requests)

    @batched(max_batch=10, idempotent=True)
    async def look(self, requests: Sequence[Ask]) -> Sequence[Answer | Error]:
        """Idempotent."""
        return await self._many(requests)

    @batched(max_batch=1000)
    async def echo(self, requests: Sequence[Ask]) -> Sequence[Answer | Error]:
        self.batches.append(len(requests))
        return [Answer(text=request.text * max(1, request.number)) for request in requests]

    async def _many(self, requests: Sequence[Ask]) -> Sequence[Answer | Error]:
        self.batches.append(len(requests))
        await self._pass()
        outcomes: list[Answer | Error] = []
        for request in requests:
            if request.text == "raise":
                raise ZeroDivisionError("detail of ours")
            if request.text == "short":
                return []
            self.items.append(request.text)
            if request.text == "refuse":
                outcomes.append(Invalid("refused", code="refused", number=request.number))
            elif request.text == "wrong":
                outcomes.append(Answer(number=2**70))
            else:
                outcomes.append(Answer(text=request.text, number=request.number, owner=request.owner))
        return outcomes
