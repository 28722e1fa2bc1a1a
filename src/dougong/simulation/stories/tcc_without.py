"""The transaction rooms with one safeguard missing each: what the story must notice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from dougong.store import Tx
from dougong.tcc import BranchState, Coordinator, ParticipantService
from dougong.tcc.fence import Fence, FenceRow, SettleVerdict, TryVerdict
from dougong.tcc.fence_table import FenceTable
from dougong.tcc.log import Log, LogRow
from dougong.tcc.places import OnePlace

__all__ = ["SAFEGUARDS", "Claims", "weaken_coordinator", "weaken_participant"]

SAFEGUARDS: Mapping[str, str] = {
    "fence": "the row that remembers what was answered to a branch",
    "suspension": "the record of a Cancel that came before its Try",
    "floor": "the time before which calls are echoes of what is over and forgotten",
    "compare-and-set": "a state is only set over the state that was expected",
    "recovery-lease": "who recovers a transaction is left alone with it for a while",
}

Claims = list[tuple[int, str, int, int, int]]
"""(transaction, who claimed it, by which time, until when, due when before), in order."""


def weaken_participant(service: ParticipantService[object], without: str) -> None:
    """Take a safeguard away, if it is the participant's."""
    places = service._places
    assert isinstance(places, OnePlace)  # of a participant with one database
    if without == "fence":
        service._fence, places.table = _NoFence(), _ForgivingTable()
    elif without == "suspension":
        service._fence = _NoSuspension()
    elif without == "floor":
        places.table = _NoFloor()


def weaken_coordinator(coordinator: Coordinator, without: str, claims: Claims, name: str) -> None:
    """Have the log write down its claims as `name`'s, and take a safeguard away, if it is the log's."""
    log = {"compare-and-set": _BlindLog, "recovery-lease": _LeaselessLog}.get(without, _WatchedLog)(claims, name)
    for part in (coordinator, *vars(coordinator).values()):
        if isinstance(getattr(part, "_log", None), Log):
            part._log = log


class _NoFence(Fence):
    """Takes every call at its word."""

    def judge_try(
        self, known: Mapping[int, FenceRow], transactions: Sequence[int], payloads: Sequence[bytes]
    ) -> TryVerdict:
        return TryVerdict(range(len(transactions)), [], [])

    def judge_settle(
        self, known: Mapping[int, FenceRow], transactions: Sequence[int], to: BranchState
    ) -> SettleVerdict:
        return SettleVerdict([t for t in transactions if t in known and known[t][1] is not None], [], [])


class _ForgivingTable(FenceTable):
    """Keeps the last payload only, so that a missing fence is not saved by its primary key."""

    _insert_tried = FenceTable._insert_tried.replace("INSERT", "INSERT OR REPLACE")
    _insert_other = FenceTable._insert_other.replace("INSERT", "INSERT OR REPLACE")

    async def settle(self, tx: Tx, scope: int, ids: Sequence[int], to: BranchState) -> None:
        pass

    async def _file(self, tx: Tx, scope: int, sent_us: int, ids: Sequence[int]) -> None:
        await tx.execute(
            "DELETE FROM dougong_fence_pages WHERE scope = ? AND sent_us = ? AND first_id = ?", (scope, sent_us, ids[0])
        )
        await super()._file(tx, scope, sent_us, ids)


class _NoSuspension(Fence):
    """Does not remember a Cancel that came before its Try."""

    def judge_settle(
        self, known: Mapping[int, FenceRow], transactions: Sequence[int], to: BranchState
    ) -> SettleVerdict:
        verdict = super().judge_settle(known, transactions, to)
        return SettleVerdict(verdict.run, verdict.answers, [])


class _NoFloor(FenceTable):
    """Forgets what is over, and that it was over."""

    async def scope(self, tx: Tx, participant: str, initiator: str) -> tuple[int, int]:
        return (await super().scope(tx, participant, initiator))[0], 0


class _WatchedLog(Log):
    """Tells who claims what."""

    def __init__(self, claims: Claims, name: str) -> None:
        self._claims = claims
        self._name = name

    async def claim(
        self, tx: Tx, now_us: int, horizon_us: int, hold_horizon_us: int, owner: str, until_us: int
    ) -> list[LogRow]:
        sql = (
            "SELECT id, coalesce(due_us, expires_us) FROM dougong_transactions "
            "WHERE due_us IS NOT NULL OR expires_us IS NOT NULL"
        )
        due = dict(cast("list[tuple[int, int]]", await tx.fetch_all(sql)))
        rows = await super().claim(tx, now_us, horizon_us, hold_horizon_us, owner, until_us)
        await self._after_claim(tx, rows, due)
        marker = [(row.id, self._name, now_us, until_us, due[row.id]) for row in rows]
        # A unit may run twice: the second time it says the same.
        self._claims += [claim for claim in marker if claim not in self._claims[-len(marker) :]]
        return rows

    async def _after_claim(self, tx: Tx, rows: Sequence[LogRow], due: Mapping[int, int]) -> None:
        pass


class _BlindLog(_WatchedLog):
    """Sets without comparing."""

    _expecting = ""


class _LeaselessLog(_WatchedLog):
    """Leaves a claimed transaction to everybody else, too."""

    async def _after_claim(self, tx: Tx, rows: Sequence[LogRow], due: Mapping[int, int]) -> None:
        await tx.execute_many(
            "UPDATE dougong_transactions SET due_us = ? WHERE id = ?", [(due[row.id], row.id) for row in rows]
        )
