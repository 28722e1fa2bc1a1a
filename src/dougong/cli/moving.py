"""`dougong shards move` and what belongs to it: buckets go to other databases while they are in use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import cyclopts
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from dougong.cli.opening import HERE, Where, opened
from dougong.cli.parameters import Json
from dougong.cli.showing import print_document
from dougong.errors import Invalid
from dougong.shard import Mover, MoveRecord, MoveReport, MoveSettings, ShardedStore, plan_moves, rebalance

__all__ = ["add_to"]

Bucket = Annotated[int, cyclopts.Parameter(help="0 to 127.")]


def add_to(shards: cyclopts.App) -> None:
    """Its commands."""
    for command in (move, rebalance_, pause, resume, cancel, reverse, complete, moves, tidy):
        shards.command(command, name=command.__name__.rstrip("_"))


async def move(
    bucket: int,
    *,
    to: str,
    complete: bool = False,
    share: float = MoveSettings().share,
    where: Where = HERE,
    json: Json = False,
) -> None:
    """Move a bucket to another database, and keep the old copy so that it can come back.

    A move that was interrupted, by Ctrl-C too, goes on where it was when this is called again.

    Parameters
    ----------
    bucket
        0 to 127; `dougong shards why` tells that of a key.
    to
        Name of the database. SQLite files are made when there is no such one yet.
    complete
        Give up the old copy at once.
    share
        Of the time that the mover works; the rest it leaves to others.
    """

    async def work(mover: Mover) -> MoveReport:
        return await mover.move(bucket, to, complete=complete)

    await _do(work, where, json=json, share=share)


async def rebalance_(
    *,
    to: int,
    dry_run: bool = False,
    share: float = MoveSettings().share,
    where: Where = HERE,
    json: bool = False,
) -> None:
    """Lay all buckets over so many databases, by moving one after the other.

    Parameters
    ----------
    to
        How many databases: db-0 to db-(N-1), or as many as the layout names.
    dry_run
        Only say what would move.
    share
        Of the time that the mover works; the rest it leaves to others.
    json
        A JSON document for each move instead of words.
    """
    async with opened(where) as store:
        targets = _targets(store, to)
        if dry_run:
            plan = await plan_moves(store, targets)
            if json:
                print_document([planned._asdict() for planned in plan])
                return
            for planned in plan:
                Console().print(f"bucket {planned.bucket}: {planned.source} to {planned.target}", highlight=False)
            Console().print(f"{len(plan)} of 128 buckets would move")
            return

        def each(report: MoveReport, left: int) -> None:
            _tell(report, json=json)
            if not json:
                Console().print(f"  {left} left", style="dim")

        moved = await rebalance(_mover(store, share), store, targets, each=each)
        if not json:
            Console().print(f"{moved} buckets moved; they lie over {', '.join(targets)}", soft_wrap=True)


async def pause(bucket: Bucket, *, where: Where = HERE) -> None:
    """Have whoever moves this bucket stop after the piece at hand. Writes go on being noted."""
    async with opened(where) as store:
        await Mover(store).pause(bucket)
    Console().print(f"bucket {bucket} pauses; `dougong shards resume {bucket}` goes on", highlight=False)


async def resume(bucket: Bucket, *, where: Where = HERE, json: Json = False) -> None:
    """Go on with a move that was paused, or whose mover died."""
    await _do(lambda mover: mover.resume(bucket), where, json=json)


async def cancel(bucket: Bucket, *, where: Where = HERE, json: Json = False) -> None:
    """Give up a move before the switch: the bucket stays, and the copy is deleted."""
    await _do(lambda mover: mover.cancel(bucket), where, json=json)


async def reverse(bucket: Bucket, *, where: Where = HERE, json: Json = False) -> None:
    """Bring a bucket back to where it came from, with all that was written since."""
    await _do(lambda mover: mover.reverse(bucket), where, json=json)


async def complete(bucket: Bucket, *, where: Where = HERE, json: Json = False) -> None:
    """Give up the old copy of a bucket that moved: there is no way back then, but another move."""
    await _do(lambda mover: mover.complete(bucket), where, json=json)


async def moves(*, where: Where = HERE, json: Json = False) -> None:
    """The last move of every bucket that ever moved."""
    async with opened(where) as store:
        records = await store.moves.all()
        left = await Mover(store).triggers.left()
    if json:
        listed = [{**msgspec.to_builtins(record), "outcome": record.outcome} for record in records]
        print_document(listed)
        return
    table = Table("bucket", "owner", "other", "state", "wish", "rows", "mover", box=None)
    for record in records:
        wish = record.wish.value if record.running and record.wish.value != "go" else ""
        table.add_row(
            str(record.bucket), record.source, record.target, record.outcome, wish, str(record.rows), record.mover
        )
    Console().print(table if records else "no bucket ever moved")
    if left:
        Console().print(
            f"{', '.join(sorted(left))}: triggers of moves that are over; `dougong shards tidy` takes them away",
            highlight=False,
            soft_wrap=True,
        )


async def tidy(*, where: Where = HERE, json: bool = False) -> int:
    """Take triggers away that no move needs any more, where a mover died or met a table in use.

    Parameters
    ----------
    json
        One JSON document instead of words: the databases that were done, and those where a table is in use.
    """
    async with opened(where) as store:
        mover = Mover(store)
        left = await mover.triggers.left()
        busy = await mover.tidy()
    done = sorted(left.keys() - set(busy))
    if json:
        print_document({"done": done, "busy": busy})
    else:
        words = f"no triggers are left in {', '.join(done)}" if done else "nothing was taken away"
        Console().print(words if left else "no triggers were left of moves that are over", highlight=False)
        if busy:
            Console().print(f"in use: {', '.join(busy)}; try again later", highlight=False)
    return int(bool(busy))


def _targets(store: ShardedStore, count: int) -> list[str]:
    names = [f"db-{number}" for number in range(count)]
    unknown = [name for name in names if not store.databases.knows(name)]
    if not unknown and count > 0:
        return names
    if count == len(store.databases.names):
        return list(store.databases.names)
    raise Invalid(
        f"{store.name} has no databases {', '.join(unknown) or 'at all'}; it has {', '.join(store.databases.names)}:"
        " name new ones in its layout first",
        code="unknown_shard",
    )


def _mover(store: ShardedStore, share: float, progress: Callable[[MoveRecord, int], None] | None = None) -> Mover:
    if not 0.05 <= share <= 1.0:
        raise Invalid(f"a mover's share is 0.05 to 1, not {share:g}", code="bad_share")
    return Mover(store, settings=MoveSettings(share=share), progress=progress)


async def _do(
    work: Callable[[Mover], Awaitable[MoveReport]],
    where: Where,
    *,
    json: bool,
    share: float = MoveSettings().share,
) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} rows"),
        TimeElapsedColumn(),
    )
    async with opened(where) as store:
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=json) as bars:
            shown: list[TaskID] = []

            def progress(record: MoveRecord, rows: int) -> None:
                if not shown:
                    shown.append(bars.add_task("", total=None))
                words = f"bucket {record.bucket} {record.source} → {record.target} {record.phase.value}"
                bars.update(shown[0], description=words, completed=rows)

            try:
                report = await work(_mover(store, share, progress))
            except asyncio.CancelledError:
                Console(stderr=True).print("stopped; the bucket is served, and the same command goes on with its move")
                raise
    _tell(report, json=json)


def _tell(report: MoveReport, *, json: bool) -> None:
    if json:
        print_document(report)
        return
    words = {
        "reversible": f"is in {report.source} now; {report.target} keeps a copy until you `complete` or `reverse`",
        "moved": f"is in {report.source}, and nowhere else",
        "reversed": f"is back in {report.source}, and nowhere else",
        "cancelled": f"stays in {report.source}",
        "copying": f"pauses on its way from {report.source} to {report.target}",
    }
    pause_ms = f", {report.pause_s * 1000:.0f} ms without writes" if report.pause_s else ""
    Console().print(
        f"bucket {report.bucket} {words.get(report.outcome, report.outcome)}"
        f" ({report.rows:,} rows copied, {report.compared:,} compared{pause_ms}, {report.seconds:.1f} s)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
