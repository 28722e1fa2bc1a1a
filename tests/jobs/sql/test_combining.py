"""Puts side by side share a unit; each caller hears of its own, and of nobody else's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.jobs.queues import new, sql_engine

from dougong.errors import Conflict, Unavailable
from dougong.jobs import Enqueued, NewJob
from dougong.jobs.sql.combining import TOGETHER_MAX, Combiner


class Writes:
    """Gives jobs numbers by their payload; refuses some."""

    def __init__(self, refused: dict[bytes, Exception] | None = None) -> None:
        self.units: list[list[bytes]] = []
        self._refused = refused or {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        await self.gate.wait()
        self.units.append([job.payload for job in jobs])
        for job in jobs:
            if job.payload in self._refused:
                raise self._refused[job.payload]
        return [Enqueued(int(job.payload)) for job in jobs]


def job(number: int) -> NewJob:
    return new(payload=b"%d" % number)


async def test_what_comes_meanwhile_goes_together_and_no_more_than_may() -> None:
    writes = Writes()
    combiner = Combiner(writes)
    writes.gate.clear()
    first = asyncio.create_task(combiner.put([job(0)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    more = [asyncio.create_task(combiner.put([job(number), job(number)])) for number in range(1, 301)]
    await asyncio.sleep(0)
    more[1].cancel()
    writes.gate.set()
    assert await first == [Enqueued(0)]
    answers = await asyncio.gather(*more, return_exceptions=True)
    assert isinstance(answers.pop(1), asyncio.CancelledError)
    assert answers == [[Enqueued(number)] * 2 for number in range(1, 301) if number != 2]
    assert [len(unit) for unit in writes.units] == [1, TOGETHER_MAX, 2 * 299 - TOGETHER_MAX]
    await combiner.close()
    assert await combiner.put([job(7)]) == [Enqueued(7)]


@pytest.mark.parametrize("error", [Conflict("no", code="no"), TypeError("no")])
async def test_one_that_is_refused_is_refused_alone(error: Exception) -> None:
    writes = Writes({b"2": error})
    combiner = Combiner(writes)
    answers = await asyncio.gather(*(combiner.put([job(number)]) for number in range(4)), return_exceptions=True)
    assert answers == [[Enqueued(0)], [Enqueued(1)], error, [Enqueued(3)]]


async def test_what_may_have_been_written_is_not_written_again() -> None:
    error = Unavailable("gone", code="gone")
    writes = Writes({b"2": error})
    combiner = Combiner(writes)
    answers = await asyncio.gather(*(combiner.put([job(number)]) for number in range(4)), return_exceptions=True)
    assert answers == [error] * 4
    assert len(writes.units) == 1


async def test_callers_side_by_side_share_a_unit_and_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with sql_engine("sqlite", tmp_path) as engine:
        units: list[int] = []
        insert = engine.queue._insert

        async def counted(jobs: Sequence[NewJob]) -> list[Enqueued]:
            units.append(len(jobs))
            return await insert(jobs)

        monkeypatch.setattr(engine.queue._puts, "_write", counted)
        put = await asyncio.gather(*(engine.queue.put([new(key="one" if number < 2 else None)]) for number in range(9)))
        assert units == [9]
        assert put[0] == [Enqueued(put[1][0].id, True)]
        assert put[1] == [Enqueued(put[0][0].id, False)]
        assert len({one.id for (one,) in put}) == 8
