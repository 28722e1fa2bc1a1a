"""The generator: on schedule whatever the target does, latency from the due time, every outcome in the journal."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dougong.contract import Message
from dougong.errors import Conflict, Error, Unavailable
from dougong.evidence import Journal, Load, fixed, run_closed, run_open


class Ask(Message):
    n: int


class Say(Message):
    n: int


class Target:
    """Answers when `gate` is open, and remembers what it got."""

    def __init__(self, *, open_at_once: bool = True) -> None:
        self.batches: list[int] = []
        self.gate = asyncio.Event()
        self.arrived = asyncio.Event()
        self.under_way = 0
        self.under_way_max = 0
        if open_at_once:
            self.gate.set()

    async def send(self, requests: Sequence[Ask]) -> Sequence[Say | Error]:
        self.batches.append(len(requests))
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        self.arrived.set()
        await self.gate.wait()
        await asyncio.sleep(0)
        self.under_way -= 1
        return [Say(n=r.n) if r.n % 10 else Conflict("no", code="tens") for r in requests]


def maker(limit: int | None = None) -> Callable[[int], Sequence[Ask]]:
    numbers = itertools.count(1) if limit is None else iter(range(1, limit + 1))
    return lambda count: [Ask(n=n) for n in itertools.islice(numbers, count)]


async def test_all_that_was_due_is_sent_though_nothing_is_answered() -> None:
    target, load = Target(open_at_once=False), Load[Ask, Say]()
    run = asyncio.create_task(run_open(target, fixed(5000, 0.1), maker(), batch=50, load=load))
    while load.offered < 500:
        await asyncio.sleep(0.001)
    assert load.journal.acknowledged == []
    assert load.outstanding == 500
    target.gate.set()
    await run
    assert (load.outstanding, len(load.journal.acknowledged), load.journal.refused) == (0, 450, {"tens": 50})
    assert max(target.batches) <= 50


async def test_what_cannot_be_outstanding_is_dropped_and_counted() -> None:
    target = Target(open_at_once=False)
    load: Load[Ask, Say] = Load()
    run = asyncio.create_task(run_open(target, fixed(5000, 0.1), maker(), batch=10, outstanding_max=100, load=load))
    while load.offered < 500:
        await asyncio.sleep(0.001)
    target.gate.set()
    await run
    report = load.report()
    assert (report.offered, report.dropped) == (500, 400)
    assert report.acknowledged + sum(report.refused.values()) == 100


async def test_what_still_fits_of_a_group_is_sent() -> None:
    target = Target(open_at_once=False)
    load: Load[Ask, Say] = Load()
    run = asyncio.create_task(run_open(target, iter([0.0] * 25), maker(), batch=10, outstanding_max=13, load=load))
    while load.offered < 25:
        await asyncio.sleep(0.001)
    target.gate.set()
    await run
    assert (target.batches, load.dropped) == ([10, 3], 12)


async def test_it_ends_when_there_is_nothing_left_to_ask() -> None:
    load = await run_open(Target(), fixed(5000, 10.0), maker(limit=37), batch=10)
    assert load.report().offered == 37
    closed = await run_closed(Target(), maker(limit=37), seconds=60, batch=10, in_flight=3)
    assert closed.report().offered == 37


async def test_closed_keeps_so_many_under_way() -> None:
    target = Target()
    load = await run_closed(target, maker(limit=1000), seconds=60, batch=10, in_flight=4)
    assert target.under_way_max == 4
    assert load.report().acknowledged == 900


def test_latency_counts_from_when_it_was_due() -> None:
    load: Load[Ask, Say] = Load()
    load.sent(2, 0.45)
    load.answered([Ask(n=1), Ask(n=2)], [Say(n=1), Say(n=2)], [0.1, 0.0], 0.5, 0.6)
    report = load.report()
    assert report.latency.max_ms == pytest.approx(600, rel=2e-3)
    assert report.latency.p50_ms == pytest.approx(500, rel=2e-3)
    assert report.service.max_ms == pytest.approx(100, rel=2e-3)


def test_a_generator_that_lags_makes_the_run_void() -> None:
    load: Load[Ask, Say] = Load()
    load.sent(10, 0.049)
    assert not load.report().void
    load.sent(10, 0.151)
    assert "100 ms late" in load.report().void


def test_the_journal_tells_refused_from_unknown() -> None:
    journal: Journal[Ask, Say] = Journal()
    asked = [Ask(n=n) for n in range(3)]
    acknowledged = journal.record(asked, [Say(n=0), Conflict("no", code="taken"), Unavailable("gone", code="lost")])
    assert acknowledged == 1
    assert journal.acknowledged == [(asked[0], Say(n=0))]
    assert journal.refused == {"taken": 1, "lost": 1}
    assert journal.unknown == [asked[2]]


def test_a_scenario_decides_what_is_unknown() -> None:
    journal: Journal[Ask, Say] = Journal(lambda error: error.code == "taken")
    journal.record([Ask(n=1), Ask(n=2)], [Conflict("no", code="taken"), Unavailable("gone", code="lost")])
    assert journal.unknown == [Ask(n=1)]


def test_journals_are_kept_and_added_up(tmp_path: Path) -> None:
    journal: Journal[Ask, Say] = Journal()
    journal.record([Ask(n=1), Ask(n=2), Ask(n=3)], [Say(n=1), Conflict("no", code="taken"), Unavailable("gone")])
    journal.save(tmp_path / "journal")
    again = Journal.load(tmp_path / "journal", Ask, Say)
    again.add(journal)
    assert again.acknowledged == [(Ask(n=1), Say(n=1))] * 2
    assert again.unknown == [Ask(n=3)] * 2
    assert again.refused == {"taken": 2, "unavailable": 2}


async def test_a_target_that_breaks_ends_the_run() -> None:
    class Broken:
        async def send(self, requests: Sequence[Ask]) -> Sequence[Say | Error]:
            raise RuntimeError("broken")

    with pytest.raises(ExceptionGroup, match="unhandled"):
        await run_open(Broken(), fixed(100, 1.0), maker(), batch=1)
