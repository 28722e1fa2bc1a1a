"""Who moves a bucket from one database to another while it is read and written.

Everything that matters is in the databases: the record of the move beside the map, notes of changed keys in the source,
how far the copy is in the target. So a mover may be killed anywhere and another goes on, and each begins in the same
way, under a new token that shuts out the one before. A call that failed half-way is no special case: its mover begins
anew, too.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec

from dougong.errors import Error, Invalid
from dougong.shard.buckets import BUCKETS
from dougong.shard.moving.capture import remove_triggers
from dougong.shard.moving.copying import Copier
from dougong.shard.moving.moves import Moves, TakenOver
from dougong.shard.moving.phases import AGAIN, FenceFailed, Phases
from dougong.shard.moving.record import MoveRecord, Phase, Wish
from dougong.shard.moving.settings import MoveSettings
from dougong.shard.moving.side import Side
from dougong.shard.moving.switching import back_off, finish_switch
from dougong.shard.moving.triggers import Triggers
from dougong.shard.moving.watch import Progress
from dougong.shard.sharded import ShardedStore
from dougong.telemetry import counter, get_logger

__all__ = ["MoveReport", "Mover"]

_log = get_logger("dougong.shard")
_moves = counter("dougong_shard_moves_total", "Moves of buckets that ended.", ("store", "outcome"))

_WAIT_S, _WAIT_S_MAX = 0.05, 2.0
"""Between two tries."""
_TIDY_AFTER_S = (0.0, 0.5, 2.0)
"""Tries at the end of a move; what is left then is for who comes later."""


class MoveReport(msgspec.Struct, frozen=True):
    """How it stands when the mover returns."""

    bucket: int
    source: str
    """Who owns the bucket."""
    target: str
    """Who has the other copy, or had it."""
    outcome: str
    """`reversible`, `moved`, `cancelled`, `reversed`, or `copying` when it is paused."""
    rows: int
    compared: int
    """Rows found alike before the switch."""
    pause_s: float
    """For how long there were no writes; 0 when another mover switched."""
    seconds: float


class Mover:
    """Moves buckets of one sharded store, one after the other. `name` tells movers apart."""

    side = Side
    copier = Copier
    noting = Triggers

    def __init__(
        self,
        sharded: ShardedStore,
        *,
        name: str = "",
        settings: MoveSettings | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._sharded = sharded
        self._name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._settings = settings if settings is not None else MoveSettings()
        self._progress = progress
        self._clock = sharded.clock
        self.moves: Moves = sharded.moves
        self.triggers = self.noting(sharded.metadata, sharded.moves)
        self._more = False

    async def move(self, bucket: int, to: str, *, complete: bool = False) -> MoveReport:
        """Bring a bucket to another database, or go on with that, until the new owner serves.

        The old one keeps its copy until `complete`, and `reverse` brings the bucket back; with `complete=True` it does
        not. Raises `Conflict` (`move_running`, `already_there`, `copy_differs`, `move_taken_over`), `Invalid`
        (`cannot_move`), and `Unavailable` after `patience_s`; whatever is raised, the bucket is served, or is again as
        soon as its database is there.
        """
        if not 0 <= bucket < BUCKETS:
            raise Invalid(f"there is no bucket {bucket}; there are 0 to {BUCKETS - 1}", code="bad_bucket")
        await self._sharded.prepare(to)
        await self.moves.begin(bucket, to, self._name)
        report = await self.run(bucket)
        if not complete:
            return report
        end = await self.finish(bucket)
        return msgspec.structs.replace(
            end, compared=report.compared, pause_s=report.pause_s, seconds=report.seconds + end.seconds
        )

    async def run(self, bucket: int) -> MoveReport:
        """Go on with a move wherever it is, and do what is wished of it."""
        began = self._clock.monotonic()
        phases = Phases(self._sharded, self.triggers, self._settings, self._progress, self.side, self.copier)
        record = await self._persist(bucket, phases)
        if record.phase is Phase.DONE:
            _moves.inc(1, self._sharded.name, record.outcome)
            if not self._more:
                await self._tidy_up(record)
        await self._sharded.refresh()
        return MoveReport(
            bucket=bucket,
            source=record.source,
            target=record.target,
            outcome=record.outcome,
            rows=record.rows,
            compared=phases.compared,
            pause_s=phases.pause_s,
            seconds=self._clock.monotonic() - began,
        )

    async def complete(self, bucket: int) -> MoveReport:
        """After the switch: give up the old copy."""
        await self.moves.wish(bucket, Wish.COMPLETE)
        return await self.run(bucket)

    async def finish(self, bucket: int) -> MoveReport:
        """Go on to the very end: paused or not, to the target, and without a way back."""
        report = await self.resume(bucket)
        while report.outcome in (Phase.COPYING.value, Phase.REVERSIBLE.value):  # somebody may pause it again
            if report.outcome == Phase.REVERSIBLE.value:
                return await self.complete(bucket)
            report = await self.resume(bucket)
        return report

    async def reverse(self, bucket: int) -> MoveReport:
        """After the switch: bring the bucket back to the database it came from, with all that changed since."""
        await self.moves.wish(bucket, Wish.REVERSE)
        return await self.run(bucket)

    async def cancel(self, bucket: int) -> MoveReport:
        """Before the switch: stay. `Conflict` (code `wrong_phase`) when it is too late, see `reverse`."""
        await self.moves.wish(bucket, Wish.CANCEL)
        return await self.run(bucket)

    async def pause(self, bucket: int) -> MoveRecord:
        """Whoever moves this bucket stops after the piece at hand."""
        return await self.moves.wish(bucket, Wish.PAUSE)

    async def resume(self, bucket: int) -> MoveReport:
        """Go on after `pause`, or after a mover was killed."""
        record = await self.moves.get(bucket)
        if record is not None and record.wish is Wish.PAUSE:
            await self.moves.wish(bucket, Wish.GO)
        return await self.run(bucket)

    @asynccontextmanager
    async def several(self) -> AsyncGenerator[None]:
        """Around moves that follow each other: triggers are taken away after the last instead of after each."""
        self._more = True
        try:
            yield
        finally:
            self._more = False
        await self.tidy()

    async def tidy(self) -> list[str]:
        """Take triggers away that no move needs any more; names of the databases where that was not possible yet.

        Movers do so when a move ends. This is for what one left that died then, or that met a transaction that holds
        a table for long.
        """
        busy = []
        tables = list(await self._sharded.maps.tables())
        for shard, number in (await self.triggers.unwanted()).items():
            try:
                await self._remove(shard, tables, number)
                await self.triggers.gone(shard, number)
            except Error as error:
                _log.warning("triggers of moves are left in a database", shard=shard, problem=str(error))
                busy.append(shard)
        return busy

    async def _tidy_up(self, record: MoveRecord) -> None:
        """The move is over, whatever comes of this."""
        for wait_s in _TIDY_AFTER_S:
            await asyncio.sleep(wait_s)
            try:
                if not {record.source, record.target} & set(await self.tidy()):
                    return
            except AGAIN as error:
                _log.warning("triggers of moves could not be looked for", problem=str(error))

    async def _remove(self, shard: str, tables: Sequence[str], number: int) -> None:
        await self._sharded.databases.call(shard, lambda store: remove_triggers(store, tables, number))

    async def _persist(self, bucket: int, phases: Phases) -> MoveRecord:
        """Take the move over and work on it; after whatever went wrong, again."""
        patient_until = self._clock.monotonic() + self._settings.patience_s
        wait_s, fences = _WAIT_S, 0
        while True:
            began = self._clock.monotonic()
            try:
                record = await self.moves.take_over(bucket, self._name)
                if record.phase is Phase.DONE:
                    return record
                return await self._work(record, phases)
            except TakenOver:
                record_now = await self._mine(bucket)
                if record_now.phase is Phase.DONE:
                    return record_now
                continue  # a router opened the bucket while this mover was slow
            except FenceFailed as failed:
                fences += 1
                problem: Error = failed.problem
                opened = await self._open_again(bucket)
                if opened is not None and opened.switches > failed.record.switches:
                    continue  # it was committed, only its answer was lost
                if fences >= self._settings.fences_max and opened is not None:
                    raise problem from None
            except AGAIN as error:
                problem = error
                now = self._clock.monotonic()
                if now - began > self._settings.patience_s:  # it worked for a long time before this
                    patient_until, wait_s = now + self._settings.patience_s, _WAIT_S
                if now >= patient_until:
                    raise
            _log.warning("a move goes on in a moment", bucket=bucket, problem=str(problem), code=problem.code)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _WAIT_S_MAX)

    async def _mine(self, bucket: int) -> MoveRecord:
        now = await self.moves.get(bucket)
        if now is None or (now.mover != self._name and now.phase is not Phase.DONE):
            raise TakenOver(bucket)
        return now

    async def _open_again(self, bucket: int) -> MoveRecord | None:
        """Have the bucket served at once, by its old owner or, if the switch was committed, by the new one.

        None when that could not be done yet.
        """
        try:
            record = await self.moves.take_over(bucket, self._name)
            source = self.side(self._sharded.databases, record.source, record)
            if record.phase is Phase.FENCING:
                await source.enter()
                return await back_off(self.moves, source, record)
            if record.phase is Phase.SWITCHED:
                target = self.side(self._sharded.databases, record.target, record)
                await source.enter()
                await target.enter()
                return await finish_switch(self.moves, target, source, record)
        except (*AGAIN, TakenOver) as error:
            _log.warning("a bucket could not be opened again yet", bucket=bucket, problem=str(error))
            return None
        return record

    async def _work(self, record: MoveRecord, phases: Phases) -> MoveRecord:
        """From wherever it is to where nothing is left to do for now."""
        while True:
            source = self.side(self._sharded.databases, record.source, record)
            target = self.side(self._sharded.databases, record.target, record)
            await source.enter()
            if record.phase is Phase.FENCING:  # somebody died there
                record = await back_off(self.moves, source, record)
                continue
            at = await target.enter()
            if record.phase is Phase.SWITCHED:
                record = await finish_switch(self.moves, target, source, record)
            elif record.phase is Phase.COPYING:
                if record.wish is Wish.CANCEL:
                    record = await self.moves.advance(record, Phase.ENDING, wish=Wish.GO)
                    continue
                if record.wish is Wish.PAUSE:
                    return record
                record = await phases.copy(record, source, target, at)
            elif record.phase is Phase.REVERSIBLE:
                if record.wish is Wish.COMPLETE:
                    record = await self.moves.advance(record, Phase.ENDING, wish=Wish.GO)
                elif record.wish is Wish.REVERSE:
                    record = await phases.reverse(record, source, target)
                else:
                    return record
            elif record.phase is Phase.ENDING:
                record = await phases.end(record, source, target, at)
            else:
                return record
