"""What is done in the phases of a move that take long: filling the target, handing the bucket over, giving a copy up.

Each begins with the record and the two databases as they are found, and ends with the record as it is then.
"""

from __future__ import annotations

import asyncio
from functools import partial

from dougong.errors import Conflict, DeadlineExceeded, Error, Invalid, Overloaded, Unavailable
from dougong.shard.buckets import BucketState
from dougong.shard.moving.capture import make_notes, make_triggers
from dougong.shard.moving.copying import Copier, Pace
from dougong.shard.moving.record import MoveRecord, Phase, Wish
from dougong.shard.moving.settings import MoveSettings
from dougong.shard.moving.shapes import Shape, check_alike, read_shapes
from dougong.shard.moving.side import At, Side, Stage
from dougong.shard.moving.switching import finish_switch
from dougong.shard.moving.triggers import Triggers
from dougong.shard.moving.watch import Progress, Watch, Wished
from dougong.shard.sharded import ShardedStore
from dougong.store import Store
from dougong.telemetry import counter, histogram

__all__ = ["AGAIN", "FenceFailed", "Phases"]

_rows = counter("dougong_shard_move_rows_total", "Rows copied by moves of buckets.", ("store",))
_pause = histogram(
    "dougong_shard_move_pause_seconds", "For how long a moving bucket took no writes.", labels=("store",)
)

AGAIN = (Unavailable, Overloaded, DeadlineExceeded)
"""What may be over in a moment."""
_LOOK_S = 0.05
"""Between two looks at routers that are behind."""
_NUMBERS_MAX = 48
"""Each twice the one before: where the metadata database was set back, its numbers are behind those in the others."""


class FenceFailed(Exception):
    """The switch did not come about; the source has to serve again first."""

    def __init__(self, problem: Error, record: MoveRecord) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.record = record


class Phases:
    """Of one run of a mover. `compared` and `pause_s` tell what came of it."""

    def __init__(
        self,
        sharded: ShardedStore,
        triggers: Triggers,
        settings: MoveSettings,
        progress: Progress | None,
        side: type[Side],
        copier: type[Copier],
    ) -> None:
        self._sharded = sharded
        self._moves = sharded.moves
        self._clock = sharded.clock
        self._triggers = triggers
        self._settings = settings
        self._progress = progress
        self._side = side
        self._copy_with = copier
        self.compared = 0
        """Rows found alike before the switch."""
        self.pause_s = 0.0
        """For how long there were no writes."""

    async def copy(self, record: MoveRecord, source: Side, target: Side, at: At) -> MoveRecord:
        """Fill the target from where it was left, and hand over; or stop, when that is wished."""
        shapes = await self._prepare(record, source, target)
        await source.turn(BucketState.SERVING, to=BucketState.MOVING)
        copier = self._copier(source, target, shapes)
        watch = Watch(self._moves, record, self._progress)
        try:
            if at.stage == Stage.NEW:
                await copier.clear(target, each=watch.look)
                await target.fill(_nothing, At(Stage.COPYING))
                at = At(Stage.COPYING)
            if at.stage == Stage.COPYING:
                await copier.copy(at, each=watch.copied)
                _rows.inc(watch.rows - record.rows, self._sharded.name)
            return await self.switch(record, source, target, copier, watch)
        except Wished:
            return await self._moves.advance(record, Phase.COPYING, rows=watch.rows)

    async def reverse(self, record: MoveRecord, source: Side, target: Side) -> MoveRecord:
        """Hand it back: the target has everything but what was noted since."""
        shapes = await self._prepare(record, source, target)
        return await self.switch(record, source, target, self._copier(source, target, shapes))

    async def switch(
        self, record: MoveRecord, source: Side, target: Side, copier: Copier, watch: Watch | None = None
    ) -> MoveRecord:
        """Bring the target up to date, compare, and hand over."""
        settings = self._settings
        watch = watch if watch is not None else Watch(self._moves, record, self._progress)
        await self._close_in(copier, watch)
        if settings.verify:

            async def between() -> None:
                await watch.look()
                await copier.catch_up(most=settings.lag_max * 4)

            try:
                self.compared = await copier.compare(each=between)
            except Conflict:
                await self._moves.still(record)  # what a later mover has brought up to date differs from what was read
                raise
            await self._close_in(copier, watch)
        await self._all_follow(record)
        await self._close_in(copier, watch)
        record = await self._moves.advance(record, Phase.FENCING, wish=Wish.GO, rows=watch.rows)
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(settings.fence_s):
                await source.turn(BucketState.MOVING, to=BucketState.FENCED)
                while await copier.catch_up(most=512, paced=False):
                    pass
                switched = await self._moves.switch(record)
        except TimeoutError:
            raise FenceFailed(
                Unavailable(
                    f"bucket {record.bucket}: the last changes did not reach {record.target} within"
                    f" {settings.fence_s:g} s; {record.source} serves on",
                    code="fence_timeout",
                    bucket=record.bucket,
                ),
                record,
            ) from None
        except AGAIN as error:
            raise FenceFailed(error, record) from error
        old = self._side(self._sharded.databases, switched.target, switched)
        new = self._side(self._sharded.databases, switched.source, switched)
        record = await finish_switch(self._moves, old, new, switched)
        self.pause_s = self._clock.monotonic() - began
        _pause.observe(self.pause_s, self._sharded.name)
        return record

    async def end(self, record: MoveRecord, source: Side, target: Side, at: At) -> MoveRecord:
        """The owner serves as ever, and the other copy goes."""
        await source.turn(BucketState.MOVING, BucketState.FENCED, to=BucketState.SERVING)
        try:
            shapes = await self._shapes(source)
        except Invalid:
            if record.switches or at.stage != Stage.NEW:
                raise
            return await self._moves.advance(record, Phase.DONE)  # it was refused for that, and nothing was copied
        await source.call(lambda store: make_notes(store, shapes))  # it may be over before it took any
        copier = self._copier(source, target, shapes)
        watch = Watch(self._moves, record, self._progress)
        await copier.strike_all(source, each=watch.keep)
        await copier.clear(target, each=watch.keep)
        return await self._moves.advance(record, Phase.DONE)

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
            await asyncio.sleep(_LOOK_S)

    async def _close_in(self, copier: Copier, watch: Watch) -> None:
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

    async def _prepare(self, record: MoveRecord, source: Side, target: Side) -> list[Shape]:
        """Both have the same tables, and can take notes of them."""
        here, there = await self._shapes(source), await self._shapes(target)
        await source.call(lambda ours: target.call(lambda theirs: _alike(ours, theirs, here, there)))
        for side in (source, target):
            await self._take_notes(record, side, here)
        return here

    async def _take_notes(self, record: MoveRecord, side: Side, shapes: list[Shape]) -> None:
        """Have triggers that nobody takes away before the record says that the move is over."""
        number = await self._triggers.want(record, side.name)
        for _ in range(_NUMBERS_MAX):
            if await side.call(partial(make_triggers, shapes=shapes, number=number)):
                return
            number = await self._triggers.want(record, side.name, above=2 * number)
        raise Conflict(f"the triggers made in database {side.name} are not there", code="no_triggers")

    async def _shapes(self, side: Side) -> list[Shape]:
        tables = await self._sharded.maps.tables()
        return await side.call(lambda store: read_shapes(store, tables, leave=self._settings.leave))

    def _copier(self, source: Side, target: Side, shapes: list[Shape]) -> Copier:
        pace = Pace(self._clock, piece_s=self._settings.piece_s, share=self._settings.share)
        return self._copy_with(source, target, shapes, self._sharded.dialect, pace)


async def _alike(ours: Store, theirs: Store, here: list[Shape], there: list[Shape]) -> None:
    check_alike(ours, theirs, here, there)


async def _nothing(tx: object) -> None:
    """A unit that only says how far the target is."""
