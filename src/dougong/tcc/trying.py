"""The first phase: ask all participants of a run at once, and judge what they say.

What several runs ask a participant while a call to it is in flight rides in the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import repeat

from dougong.errors import Error, error_from
from dougong.rpc import Batcher, call_scope
from dougong.tcc._protocol import Refusal
from dougong.tcc.settings import CoordinatorSettings
from dougong.tcc.sides import Side, initiator_of
from dougong.tcc.transaction import Decision, NewTransaction, judge
from dougong.tcc.wire import ParticipantClient, TryBatch, answers_of
from dougong.telemetry import span

__all__ = ["Trying"]

_Said = bool | Refusal


class Trying:
    """The participants of one coordinator, each with a queue of its own."""

    def __init__(
        self,
        initiator: str,
        participants: Mapping[str, ParticipantClient],
        settings: CoordinatorSettings,
        stamp_us: Callable[[], int],
    ) -> None:
        self._initiator = initiator
        self._stamp_us = stamp_us
        self._timeout_s = settings.try_timeout_s
        self._tries: dict[str, Batcher[tuple[int, bytes], _Said]] = {
            name: Batcher(
                self._call(name, client),
                max_batch=settings.max_batch,
                max_in_flight=settings.calls_in_flight,
                timeout_s=settings.try_timeout_s,
                name=f"try of {name}",
            )
            for name, client in participants.items()
        }

    async def ask(
        self, transactions: Sequence[NewTransaction], sides: dict[str, Side], *, held: bool
    ) -> tuple[list[Decision], dict[str, list[int]]]:
        """The decisions, and per participant the refused positions of which it may hold something."""
        # Our own call to a participant, whoever made us run: calls of different callers ride together.
        with span("tcc.try"), call_scope(timeout_s=self._timeout_s):
            if len(sides) == 1:
                ((name, side),) = sides.items()
                answered = [await self._tries[name].many(side.items)]
            else:
                answered = await asyncio.gather(*(self._tries[n].many(side.items) for n, side in sides.items()))
        verdict = judge(
            {name: (side.positions, said) for (name, side), said in zip(sides.items(), answered, strict=True)},
        )
        if not verdict.refused:
            ids = [t.id for t in transactions]
            return list(map(Decision, ids, repeat(True), repeat(""), repeat(""), repeat(held))), {}
        no = verdict.refused
        decisions = [
            Decision(t.id, False, *no[i]) if i in no else Decision(t.id, True, held=held)
            for i, t in enumerate(transactions)
        ]
        return decisions, verdict.holding

    async def close(self) -> None:
        """Ask nobody any more; who waits is answered `Unavailable`."""
        for batcher in self._tries.values():
            await batcher.close()

    def _call(
        self, name: str, client: ParticipantClient
    ) -> Callable[[Sequence[tuple[int, bytes]]], Awaitable[Sequence[_Said | Error]]]:
        as_whom = initiator_of(self._initiator, name)

        async def call(items: Sequence[tuple[int, bytes]]) -> Sequence[_Said | Error]:
            ids, payloads = zip(*items, strict=True)
            request = TryBatch(
                initiator=as_whom, sent_us=self._stamp_us(), transactions=list(ids), payloads=list(payloads)
            )
            with span("tcc.call", participant=name, items=len(ids)):
                answers = answers_of(await client.try_(request), len(ids))
            said: list[_Said | Error] = [True] * len(ids)
            for i, family, code, message in answers:
                said[i] = error_from(family, code, message, {}) if family else Refusal(code, message)
            return said

        return call
