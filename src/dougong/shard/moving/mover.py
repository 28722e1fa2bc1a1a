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
from collections.abc import Callable
from functools import partial

import msgspec

from dougong.errors import Conflict, DeadlineExceeded, Error, Invalid, Overloaded, Unavailable
from dougong.shard.buckets import BUCKETS, BucketState
from dougong.shard.moving.capture import capture_migrations, capture_owner
from dougong.shard.moving.copying import Copier, Pace
from dougong.shard.moving.moves import Moves, TakenOver
from dougong.shard.moving.record import MoveRecord, Phase, Wish
from dougong.shard.moving.shapes import Shape, check_alike, read_shapes
from dougong.shard.moving.side import At, Side, Stage
from dougong.shard.moving.switching import back_off, finish_switch
from dougong.shard.sharded import ShardedStore
from dougong.store import Store
from dougong.telemetry import counter, get_logger, histogram

__all__ = ["MoveReport", "MoveSettings", "Mover"]

_log = get_logger("dougong.shard")
_rows = counter("dougong_shard_move_rows_total", "Rows copied by moves of buckets.", ("store",))
_moves = counter("dougong_shard_moves_total", "Moves of buckets that ended.", ("store", "outcome"))
_pause = histogram(
    "dougong_shard_move_pause_seconds", "For how long a moving bucket took no writes.", labels=("store",)
)

_WAIT_S, _WAIT_S_MAX = 0.05, 2.0
"""Between two tries."""
_AGAIN = (Unavailable, Overloaded, DeadlineExceeded)


class MoveSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How gently, and how patiently."""

    piece_s: float = 0.02
    """How long one piece of work may take: who writes may wait so long behind it."""
    share: float = 0.6
    """Of the time that is worked; the rest is left to others."""
    lag_max: int = 64
    """Notes of a table that may be left when the bucket is fenced."""
    rounds_max: int = 200
    """Rounds of catching up in which it does not get closer, before it is given up as too busy."""
    fence_s: float = 1.0
    """The longest time without writes; then the source serves again, and the switch is tried once more, later."""
    fences_max: int = 10
    routers_s: float = 15.0
    """How long routers that watch the map may be behind before a switch; the dead are not counted after their lease."""
    verify: bool = True
    """Compare all rows before the switch."""
    patience_s: float = 60.0
    """How long databases may be away before the mover gives up. The move can be resumed."""
    leave: frozenset[str] = frozenset()
    """Tables that stay where they are, as they have no buckets."""


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


Progress = Callable[[MoveRecord, int], None]
"""Called now and then with the record and the rows copied so far."""


class Mover:
    """Moves buckets of one sharded store, one after the other. `name` tells movers apart."""

    side = Side
    copier = Copier

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
        self._compared = 0
        self._pause_s = 0.0

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
        self._compared, self._pause_s = 0, 0.0
        record = await self._persist(bucket)
        if record.phase is Phase.DONE:
            _moves.inc(1, self._sharded.name, record.outcome)
        await self._sharded.refresh()
        return MoveReport(
            bucket=bucket,
            source=record.source,
            target=record.target,
            outcome=record.outcome,
            rows=record.rows,
            compared=self._compared,
            pause_s=self._pause_s,
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

    async def _persist(self, bucket: int) -> MoveRecord:
        """Take the move over and work on it; after whatever went wrong, again."""
        patient_until = self._clock.monotonic() + self._settings.patience_s
        wait_s, fences = _WAIT_S, 0
        while True:
            began = self._clock.monotonic()
            try:
                record = await self.moves.take_over(bucket, self._name)
                if record.phase is Phase.DONE:
                    return record
                return await self._work(record)
            except TakenOver:
                record_now = await self._mine(bucket)
                if record_now.phase is Phase.DONE:
                    return record_now
                continue  # a router opened the bucket while this mover was slow
            except _FenceFailed as failed:
                fences += 1
                problem: Error = failed.problem
                opened = await self._open_again(bucket)
                if fences >= self._settings.fences_max and opened:
                    raise problem from None
            except _AGAIN as error:
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

    async def _open_again(self, bucket: int) -> bool:
        """Have the bucket served at once; False when that could not be done yet."""
        try:
            record = await self.moves.take_over(bucket, self._name)
            if record.phase is Phase.FENCING:
                source = self.side(self._sharded.databases, record.source, record)
                await source.enter()
                await back_off(self.moves, source, record)
        except (*_AGAIN, TakenOver) as error:
            _log.warning("a bucket could not be opened again yet", bucket=bucket, problem=str(error))
            return False
        return True

    async def _work(self, record: MoveRecord) -> MoveRecord:
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
                record = await self._copy(record, source, target, at)
            elif record.phase is Phase.REVERSIBLE:
                if record.wish is Wish.COMPLETE:
                    record = await self.moves.advance(record, Phase.ENDING, wish=Wish.GO)
                elif record.wish is Wish.REVERSE:
                    shapes = await self._prepare(source, target)
                    record = await self._switch(record, source, target, self._copier(source, target, shapes))
                else:
                    return record
            elif record.phase is Phase.ENDING:
                record = await self._end(record, source, target)
            else:
                return record

    async def _copy(self, record: MoveRecord, source: Side, target: Side, at: At) -> MoveRecord:
        shapes = await self._prepare(source, target)
        await source.turn(BucketState.SERVING, to=BucketState.MOVING)
        copier = self._copier(source, target, shapes)
        watch = _Watch(self.moves, record, self._progress)
        try:
            if at.stage == Stage.NEW:
                await copier.clear(target, each=watch.look)
                await target.fill(_nothing, At(Stage.COPYING))
                at = At(Stage.COPYING)
            if at.stage == Stage.COPYING:
                await copier.copy(at, each=watch.copied)
                _rows.inc(watch.rows - record.rows, self._sharded.name)
            return await self._switch(record, source, target, copier, watch)
        except _Wished:
            return await self.moves.advance(record, Phase.COPYING, rows=watch.rows)

    async def _switch(
        self, record: MoveRecord, source: Side, target: Side, copier: Copier, watch: _Watch | None = None
    ) -> MoveRecord:
        """Bring the target up to date, compare, and hand over."""
        settings = self._settings
        watch = watch if watch is not None else _Watch(self.moves, record, self._progress)
        await self._close_in(copier, watch)
        if settings.verify:

            async def between() -> None:
                await watch.look()
                await copier.catch_up(most=settings.lag_max * 4)

            self._compared = await copier.compare(each=between)
            await self._close_in(copier, watch)
        await self._all_follow(record)
        await self._close_in(copier, watch)
        record = await self.moves.advance(record, Phase.FENCING, wish=Wish.GO, rows=watch.rows)
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(settings.fence_s):
                await source.turn(BucketState.MOVING, to=BucketState.FENCED)
                while await copier.catch_up(most=512, paced=False):
                    pass
                switched = await self.moves.switch(record)
        except TimeoutError:
            raise _FenceFailed(
                Unavailable(
                    f"bucket {record.bucket}: the last changes did not reach {record.target} within"
                    f" {settings.fence_s:g} s; {record.source} serves on",
                    code="fence_timeout",
                    bucket=record.bucket,
                )
            ) from None
        except _AGAIN as error:
            raise _FenceFailed(error) from error
        old = self.side(self._sharded.databases, switched.target, switched)
        new = self.side(self._sharded.databases, switched.source, switched)
        record = await finish_switch(self.moves, old, new, switched)
        self._pause_s = self._clock.monotonic() - began
        _pause.observe(self._pause_s, self._sharded.name)
        return record

    async def _all_follow(self, record: MoveRecord) -> None:
        """Wait until every router that watches the map knows the present one: the next change reaches it soon."""
        await self._sharded.refresh()
        version = self._sharded.map.version
        until = self._clock.monotonic() + self._settings.routers_s
        while behind := await self._sharded.routers_behind(version):
            if self._clock.monotonic() >= until:
                raise Unavailable(
                    f"bucket {record.bucket} is not switched while routers {', '.join(behind)} do not know map version"
                    f" {version}: see why they cannot read {self._sharded.name}'s map, or stop them",
                    code="routers_behind",
                    retry_after_s=1.0,
                )
            await asyncio.sleep(_WAIT_S)

    async def _close_in(self, copier: Copier, watch: _Watch) -> None:
        """Until few notes are left. More and more of them: too much is written to ever get there."""
        best, worse = 1 << 62, 0
        while True:
            await watch.look()
            left = await copier.pending()
            if left <= self._settings.lag_max:
                return
            worse = 0 if left < best else worse + 1
            best = min(best, left)
            if worse > self._settings.rounds_max:
                raise Conflict(
                    f"bucket {watch.record.bucket}: {left} changes wait and they do not get fewer; write less, or give"
                    " the move a greater share",
                    code="move_too_slow",
                    bucket=watch.record.bucket,
                )
            await copier.catch_up(most=512, paced=worse < 3)  # without gain: rest no more

    async def _end(self, record: MoveRecord, source: Side, target: Side) -> MoveRecord:
        """The owner serves as ever, and the other copy goes."""
        await source.turn(BucketState.MOVING, BucketState.FENCED, to=BucketState.SERVING)
        shapes = await self._shapes(source)
        await self._take_notes(source, shapes)  # it may be over before it took any
        copier = self._copier(source, target, shapes)
        watch = _Watch(self.moves, record, self._progress)
        await copier.strike_all(source, each=watch.keep)
        await copier.clear(target, each=watch.keep)
        return await self.moves.advance(record, Phase.DONE)

    async def _prepare(self, source: Side, target: Side) -> list[Shape]:
        """Both have the same tables, and can take notes of them."""
        here, there = await self._shapes(source), await self._shapes(target)
        await source.call(lambda ours: target.call(lambda theirs: _alike(ours, theirs, here, there)))
        for side in (source, target):
            await self._take_notes(side, here)
        return here

    async def _take_notes(self, side: Side, shapes: list[Shape]) -> None:
        for shape in shapes:
            await side.call(partial(_capture, shape))

    async def _shapes(self, side: Side) -> list[Shape]:
        tables = await self._sharded.maps.tables()
        return await side.call(lambda store: read_shapes(store, tables, leave=self._settings.leave))

    def _copier(self, source: Side, target: Side, shapes: list[Shape]) -> Copier:
        pace = Pace(self._clock, piece_s=self._settings.piece_s, share=self._settings.share)
        return self.copier(source, target, shapes, self._sharded.dialect, pace)


class _FenceFailed(Exception):
    """The switch did not come about; the source has to serve again first."""

    def __init__(self, problem: Error) -> None:
        super().__init__(str(problem))
        self.problem = problem


class _Wished(Exception):
    """Somebody wants to pause or to cancel."""


class _Watch:
    """Looks at what is wished, and tells how far it is."""

    EVERY_S = 0.2

    def __init__(self, moves: Moves, record: MoveRecord, progress: Progress | None) -> None:
        self.record = record
        self.rows = record.rows
        self._moves = moves
        self._progress = progress
        self._looked = 0.0

    async def copied(self, rows: int) -> None:
        self.rows += rows
        await self.look()

    async def keep(self) -> None:
        """Only tell; nothing can be wished now."""
        if self._progress is not None:
            self._progress(self.record, self.rows)

    async def look(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._looked < self.EVERY_S:
            return
        self._looked = now
        record = await self._moves.get(self.record.bucket)
        if record is None or record.token != self.record.token:
            raise TakenOver(self.record.bucket)
        if self._progress is not None:
            self._progress(record, self.rows)
        if record.wish in (Wish.PAUSE, Wish.CANCEL):
            raise _Wished


async def _alike(ours: Store, theirs: Store, here: list[Shape], there: list[Shape]) -> None:
    check_alike(ours, theirs, here, there)


async def _capture(shape: Shape, store: Store) -> int:
    return await store.migrate(capture_owner(shape), capture_migrations(shape))


async def _nothing(tx: object) -> None:
    """A unit that only says how far the target is."""
