from __future__ import annotations

import asyncio
import importlib.metadata
import io
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from dougong.contract import Message
from dougong.errors import Error, Invalid, NotFound, Unavailable
from dougong.evidence import (
    Claim,
    Discrepancy,
    Journal,
    LoadReport,
    RushOptions,
    apart,
    claim_names,
    find_claim,
    find_rush,
    generator,
    rush,
    rush_names,
)


class Ask(Message):
    n: int


class Say(Message):
    n: int


class Echo:
    """A scenario whose system loses every hundredth request when asked to."""

    def __init__(self, *, loses: bool = False, limit: int = 300) -> None:
        self.loses = loses
        self.limit = limit
        self.sent: list[int] = []
        self.closed = False

    @asynccontextmanager
    async def open(self, options: RushOptions) -> AsyncGenerator[OpenEcho]:
        yield OpenEcho(self)
        self.closed = True


class OpenEcho:
    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._numbers = iter(range(1, echo.limit + 1))
        self._kept: set[int] = set()

    @property
    def target(self) -> OpenEcho:
        return self

    async def send(self, requests: Sequence[Ask]) -> Sequence[Say | Error]:
        self._echo.sent.append(len(requests))
        self._kept |= {r.n for r in requests if not (self._echo.loses and r.n % 100 == 0)}
        return [Unavailable("gone", code="lost") if r.n % 50 == 1 else Say(n=r.n) for r in requests]

    def make(self, count: int) -> Sequence[Ask]:
        return [Ask(n=n) for n in itertools.islice(self._numbers, count)]

    def is_unknown(self, error: Error) -> bool:
        return error.code == "lost"

    async def check(self, journal: Journal[Ask, Say]) -> Sequence[Discrepancy]:
        return [
            Discrepancy("lost", f"{reply.n} is gone") for _, reply in journal.acknowledged if reply.n not in self._kept
        ]


@pytest.mark.parametrize("schedule", ["poisson", "fixed", "closed"])
async def test_a_rush_from_options_to_result(schedule: str, tmp_path: Path) -> None:
    echo, seen = Echo(), list[LoadReport]()
    options = msgspec.convert(
        {"rate": 5000, "seconds": 30, "schedule": schedule, "check": True, "journal": str(tmp_path / "j"), "batch": 7},
        RushOptions,
    )
    result = await rush(echo, options, progress=seen.append)
    assert (result.report.offered, result.report.acknowledged, result.unknown) == (300, 294, 6)
    assert result.report.refused == {"lost": 6}
    assert (result.discrepancies, result.clean) == ((), not result.report.void)  # if the machine was busy
    assert seen[-1] == result.report
    assert max(echo.sent) <= 7
    assert echo.closed
    assert len(Journal.load(tmp_path / "j", Ask, Say).acknowledged) == 294
    assert msgspec.json.decode(result.to_json())["report"]["latency"]["count"] == 294
    assert result.histogram


async def test_a_check_can_fail() -> None:
    result = await rush(Echo(loses=True), RushOptions(rate=5000, check=True))
    assert result.discrepancies is not None
    assert [d.what for d in result.discrepancies] == ["100 is gone", "200 is gone", "300 is gone"]
    assert not result.clean


async def test_unchecked_is_not_the_same_as_clean_books() -> None:
    result = await rush(Echo(loses=True), RushOptions(rate=5000))
    assert result.discrepancies is None


async def test_http_sends_one_by_one() -> None:
    echo = Echo()
    await rush(echo, RushOptions(rate=5000, transport="http"))
    assert set(echo.sent) == {1}


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.0}, {"seconds": -1.0}, {"connections": 0}, {"batch": 0}, {"zipf_s": -1.0}, {"rate": 1e10}]
)
def test_options_out_of_bounds_are_named(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(Invalid, match=f"^invalid_option: {name} must be"):
        RushOptions(**wrong)  # type: ignore[arg-type]


def entry(name: str, value: str, group: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name, value, group)


def declare(monkeypatch: pytest.MonkeyPatch, *entries: importlib.metadata.EntryPoint) -> None:
    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [e for e in entries if e.group == group]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_claims_and_rushes_are_found_by_entry_point() -> None:
    for name in claim_names():
        assert isinstance(find_claim(name), Claim)
    assert rush_names() == ["orders"]
    assert callable(find_rush("orders").open)


@pytest.mark.parametrize(
    ("group", "value", "says"),
    [
        ("dougong.claims", "no_such_module:claim", "no_such_module"),
        ("dougong.claims", "dougong.evidence:no_such_name", "no_such_name"),
        ("dougong.claims", "dougong.evidence:prove", "is not a Claim"),
        ("dougong.claims", "shop.proof:orders", "is a claim called 'orders'"),
        ("dougong.rushes", "dougong.evidence:prove", r"has no open\(options\)"),
    ],
)
def test_a_declaration_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, group: str, value: str, says: str
) -> None:
    declare(monkeypatch, entry("mine", value, group))
    with pytest.raises(Invalid, match=f"'mine'.*{says}"):
        find_claim("mine") if group == "dougong.claims" else find_rush("mine")


@pytest.mark.processes
async def test_errors_cross_from_the_generators_process(tmp_path: Path) -> None:
    async with generator() as load:
        for _ in range(2):  # it survives a failed rush
            with pytest.raises(NotFound, match="the shop is not up on"):
                await load.rush("orders", RushOptions(data=str(tmp_path)))


class Where(Echo):
    """Notes the loops on which it was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.loops: list[asyncio.AbstractEventLoop] = []

    @asynccontextmanager
    async def open(self, options: RushOptions) -> AsyncGenerator[OpenEcho]:
        self.loops.append(asyncio.get_running_loop())
        yield OpenEcho(self)


def test_rushes_of_one_child_share_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC goes on calling every loop it was used on: one that is closed between two rushes is noise on stderr."""
    where = Where()
    monkeypatch.setattr(apart, "find_rush", lambda name: {"echo": where}[name])
    monkeypatch.setattr(apart, "gc", SimpleNamespace(freeze=lambda: None, set_threshold=lambda *_: None))
    line = msgspec.json.encode(apart.Order("echo", RushOptions(rate=1000, seconds=0.01))) + b"\n"
    answers = io.BytesIO()
    apart.serve_rushes(io.BytesIO(2 * line), answers)
    said = [msgspec.json.decode(answer, type=apart.Answer) for answer in answers.getvalue().splitlines()]
    assert [answer.message for answer in said] == ["", ""]
    first, second = where.loops
    assert first is second
