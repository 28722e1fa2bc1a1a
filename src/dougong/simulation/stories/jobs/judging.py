"""What must be true in the end, judged by what was committed and what people were told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from dougong.simulation.checks import monotonic, no_effect_after
from dougong.simulation.disk import Database
from dougong.simulation.stories.jobs.working import RETRIES

if TYPE_CHECKING:
    from dougong.simulation.stories.jobs import Tale

__all__ = ["counts_agree", "judge", "unfinished"]

WAITING, BLOCKED, RUNNING, DONE, DEAD, CANCELLED = range(1, 7)
_MAY = {
    0: (WAITING, BLOCKED),
    WAITING: (RUNNING, CANCELLED),
    BLOCKED: (WAITING, CANCELLED),
    RUNNING: (WAITING, DONE, DEAD, CANCELLED),
    DEAD: (WAITING, BLOCKED),
    CANCELLED: (WAITING, BLOCKED),
    DONE: (),
}
_COLUMNS = ("delayed_jobs", "waiting", "blocked", "running", "done", "dead", "cancelled")


class _Row(msgspec.Struct, array_like=True):
    id: int
    job: str
    state: int
    attempts: int
    stalls: int
    error: str
    payload: bytes

    @property
    def arguments(self) -> Mapping[str, object]:
        return msgspec.json.decode(self.payload, type=dict[str, object])

    @property
    def label(self) -> str:
        return str(self.arguments["label"])


class _Move(msgspec.Struct, array_like=True):
    number: int
    id: int
    was: int
    state: int
    attempts: int
    stalls: int


def unfinished(database: Database) -> list[int]:
    """Jobs still to be done; not those that wait for a group which cannot be complete."""
    return [
        id_
        for (id_,) in database.rows_as(
            tuple[int],
            "SELECT id FROM dougong_jobs WHERE state IN (1, 2, 3) AND NOT (state = 2 AND id IN "
            "(SELECT id FROM dougong_job_groups WHERE missing > 0))",
        )
    ]


def counts_agree(database: Database) -> Iterator[str]:
    """The numbers that are kept of a queue are those of its rows."""
    rows = database.rows_as(
        tuple[str, int, int],
        "SELECT queue, CASE WHEN state = 1 AND delayed_us IS NOT NULL THEN 0 ELSE state END, count(*) "
        "FROM dougong_jobs GROUP BY 1, 2",
    )
    counted = {(queue, where): count for queue, where, count in rows}
    for queue, *kept in database.rows(f"SELECT queue, {', '.join(_COLUMNS)} FROM dougong_job_queues"):  # noqa: S608
        real = [counted.get((str(queue), where), 0) for where in range(7)]
        if kept != real:
            yield f"queue {queue!s} is said to have {kept}, and has {real} ({', '.join(_COLUMNS)})"


def judge(tale: Tale, *, steady: bool) -> Iterator[str]:
    """All that is about jobs. `steady`: the clock was never set, so that times can be compared."""
    database = tale.database
    rows = {
        row.id: row
        for row in database.rows_as(
            _Row, "SELECT id, job, state, attempts, stalls, coalesce(error, ''), payload FROM dougong_jobs"
        )
    }
    moves = database.rows_as(_Move, "SELECT number, id, was, state, attempts, stalls FROM story_moves ORDER BY number")
    by_label: dict[str, list[_Row]] = {}
    for row in rows.values():
        if row.job != "fired":
            by_label.setdefault(row.label, []).append(row)
    yield from counts_agree(database)
    yield from _ended(rows, unfinished(database))
    yield from _acknowledged(tale, rows, by_label)
    yield from _effects(database, rows)
    yield from _ways(tale, moves)
    yield from _attempts(tale, rows)
    yield from _alone(rows, moves)
    yield from _chains(by_label, moves)
    yield from _groups(database, by_label, moves)
    yield from _stopped(tale, moves)
    if steady:
        for id_, early_us in database.rows("SELECT id, early_us FROM story_early"):
            yield f"job {id_!s} was taken {early_us!s} us before it was due"


def _ended(rows: Mapping[int, _Row], left: list[int]) -> Iterator[str]:
    for id_ in left:
        yield f"job {id_} ({rows[id_].job} {rows[id_].label}) is left in state {rows[id_].state}"


def _acknowledged(tale: Tale, rows: Mapping[int, _Row], by_label: Mapping[str, list[_Row]]) -> Iterator[str]:
    for id_, label in tale.acknowledged.items():
        if id_ not in rows:
            yield f"job {id_} ({label}) was acknowledged and is not there"
        elif label and rows[id_].label != label:
            yield f"job {id_} was acknowledged for {label} and is {rows[id_].label}"
    for label, some in by_label.items():
        if len(some) > 1:
            yield f"{label} was put once and is there {len(some)} times: {[row.id for row in some]}"
    ordered = {str(label) for (label,) in tale.database.rows("SELECT label FROM story_orders")}
    put = {label for label in by_label if label.startswith("o")}
    if ordered != put:
        yield f"of orders and their jobs these are without the other: {sorted(ordered ^ put)}"


def _effects(database: Database, rows: Mapping[int, _Row]) -> Iterator[str]:
    counts = dict(database.rows_as(tuple[int, int], "SELECT job_id, count(*) FROM story_effects GROUP BY job_id"))
    for id_, row in rows.items():
        count = counts.get(id_, 0)
        if count > 1 or (row.state == DONE and not count):
            yield f"job {id_} ({row.label}) in state {row.state} had {count} effects"


def _ways(tale: Tale, moves: list[_Move]) -> Iterator[str]:
    yield from monotonic("job", [(m.id, m.state) for m in moves if m.was or m.state], allowed=_MAY)
    yield from no_effect_after("job", [(m.id, m.state) for m in moves if m.was], last=(DONE,))
    for move in moves:
        if move.was in (DEAD, CANCELLED) and move.id not in tale.replayed:
            yield f"job {move.id} came back from state {move.was}, and nobody replayed it"


def _attempts(tale: Tale, rows: Mapping[int, _Row]) -> Iterator[str]:
    """No more than are allowed, and none spent that was not made."""
    ran: dict[int, set[int]] = {}
    for id_, attempt in tale.ran:
        ran.setdefault(id_, set()).add(attempt)
    for id_, row in rows.items():
        if row.attempts > RETRIES + 1 + row.stalls:
            yield f"job {id_} had {row.attempts} attempts, {row.stalls} of them stalled"
        if row.state not in (DONE, DEAD) or row.error.startswith("stalled") or id_ in tale.replayed:
            continue
        times = len(ran.get(id_, ()))
        if times < row.attempts - row.stalls:
            yield f"job {id_} spent {row.attempts} attempts ({row.stalls} stalled) and ran {times} times"


def _alone(rows: Mapping[int, _Row], moves: list[_Move]) -> Iterator[str]:
    """Of a unique mark there is one unfinished job at most, at any time."""
    standing: dict[object, set[int]] = {}
    for move in moves:
        row = rows[move.id]
        if row.job == "sole":
            those = standing.setdefault(row.arguments["mark"], set())
            if move.state in (WAITING, BLOCKED, RUNNING):
                those.add(move.id)
                if len(those) > 1:
                    yield f"unfinished jobs of the unique mark {row.arguments['mark']}: {sorted(those)}"
            else:
                those.discard(move.id)


def _chains(by_label: Mapping[str, list[_Row]], moves: list[_Move]) -> Iterator[str]:
    first: dict[int, int] = {}
    done: dict[int, int] = {}
    for move in moves:
        first.setdefault(move.id, move.number)
        if move.state == DONE:
            done[move.id] = move.number
    for label, (row, *_) in by_label.items():
        if not label.startswith("c"):
            continue
        name, number = label.split("/")
        before = by_label.get(f"{name}/{int(number) - 1}")
        if number != "0" and (before is None or done.get(before[0].id, 1 << 60) > first[row.id]):
            yield f"{label} of a chain came before the one before it was done"


def _groups(database: Database, by_label: Mapping[str, list[_Row]], moves: list[_Move]) -> Iterator[str]:
    done = {move.id: move.number for move in moves if move.state == DONE}
    freed: dict[int, int] = {}
    for move in moves:
        if move.was == BLOCKED and move.state == WAITING:
            freed.setdefault(move.id, move.number)
    missing = dict(database.rows_as(tuple[int, int], "SELECT id, missing FROM dougong_job_groups"))
    for label, (head, *_) in by_label.items():
        if not label.startswith("g") or not label.endswith("/then") or label.count("/") != 1:
            continue
        name = label.removesuffix("/then")
        members = [some[0] for other, some in by_label.items() if other.startswith(f"{name}/") and other != label]
        late = [m.id for m in members if done.get(m.id, 1 << 60) > freed.get(head.id, 1 << 60)]
        if head.id in freed and late:
            yield f"{label} came before these of its group were done: {late}"
        undone = [m for m in members if m.state != DONE]
        if head.state == BLOCKED and not undone:
            yield f"{label} waits, and all of its group is done"
        if (missing.get(head.id) == 0) != (not undone):
            yield f"{label}: {missing.get(head.id)} of its group are missing, and {len(undone)} are not done"


def _stopped(tale: Tale, moves: list[_Move]) -> Iterator[str]:
    """What was cancelled does not start, nor does what is in a paused queue."""
    queues = dict(tale.database.rows_as(tuple[int, str], "SELECT id, queue FROM dougong_jobs"))
    cancelled = dict(tale.cancels)
    for move in moves:
        if move.state != RUNNING:
            continue
        if move.id not in tale.replayed and move.number > cancelled.get(move.id, 1 << 60):
            yield f"job {move.id} was cancelled, and started after that"
        for queue, since, until in tale.pauses:
            if queues[move.id] == queue and since < move.number <= until:
                yield f"job {move.id} was taken from the paused queue {queue}"
