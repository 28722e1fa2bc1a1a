"""The machine: a declaration, and the thin shell that gives it a database, a clock and background work."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import ClassVar, Generic, TypeVar, cast

from dougong.clock import Clock, SystemClock
from dougong.statemachine._declare import Declaration, declare
from dougong.statemachine._protocol import Fire, Instance, Key, Outcome, Rule, State
from dougong.statemachine.diagram import mermaid, svg
from dougong.statemachine.firing import Firing
from dougong.statemachine.history import History, HistoryTable
from dougong.statemachine.rows import Rows
from dougong.statemachine.schema import check_schema, schema_sql
from dougong.statemachine.timekeeper import Timekeeper, TimekeeperSettings
from dougong.store import Store, Tx, in_halves, migrations_from
from dougong.telemetry import span

__all__ = ["Machine"]

K = TypeVar("K", bound=Key)


class Machine(Generic[K]):
    """Base of all machines: `class Orders(Machine[int], table="orders")` with `states` and `rules`.

    Class keywords: `table` and `key` name the user's own table and its key column; `name` is the machine's, for good
    (the table's if left out); `version` and `migrations` say which definition this is, and how to read older ones
    (`{1: {"old state": "new state"}}` leads from version 1 to 2); `reads` are columns of the user's own that guards
    see; `updated` is a column that is set to the time of each transition.

    Guards (`def g(self, instance, data) -> bool`, pure) and actions (`async def a(self, tx, transitions)`, in the
    unit of the transition, once per batch) are methods, named in the rules.
    """

    states: ClassVar[Sequence[State]]
    rules: ClassVar[Sequence[Rule]]
    declaration: ClassVar[Declaration]

    def __init_subclass__(
        cls,
        *,
        table: str = "",
        key: str = "",
        name: str = "",
        version: int = 0,
        migrations: Mapping[int, Mapping[str, str]] | None = None,
        reads: Sequence[str] | None = None,
        updated: str | None = None,
        **kwargs: object,
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.declaration = declare(
            cls,
            Machine,
            table=table,
            key=key,
            name=name,
            version=version,
            migrations=migrations,
            reads=reads,
            updated=updated,
        )

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock | None = None,
        settings: TimekeeperSettings | None = None,
        deadlines_s: Mapping[str, float] | None = None,
    ) -> None:
        """`deadlines_s`: state → its deadline here, instead of the declared one."""
        declared = self.declaration
        table = declared.table.with_durations(deadlines_s or {})
        moves = [move for ways in table.moves.values() for some in ways.values() for move in some]
        key_type = cast("type[K]", declared.key_type)
        self._store = store
        self._clock = clock if clock is not None else SystemClock()
        self._settings = settings if settings is not None else TimekeeperSettings()
        self._firing: Firing[K] = Firing(
            declared.name,
            key_type,
            table,
            Rows(declared.rows, declared.key, reads=declared.reads, updated=declared.updated),
            HistoryTable(declared.name, key_type, store.dialect),
            {move.guard: getattr(self, move.guard) for move in moves if move.guard},
            {move.action: getattr(self, move.action) for move in moves if move.action},
        )
        self.history: History[K] = History(store, self._firing.history)
        """What happened: to follow by position, or by instance."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, *, keep_time: bool = True) -> None:
        """Prepare the history, check the user's table, and fire deadlines from now on.

        `Invalid` says which columns or index are missing, with the statements that add them. With `keep_time` off
        nothing runs in the background: deadlines and old definitions are some other process's business.
        """
        await self._store.migrate("dougong.statemachine", migrations_from("dougong.statemachine.migrations"))
        await check_schema(self._store, self.declaration)
        await self._store.write(self._firing.history.register)
        if keep_time:
            keeper = Timekeeper(self._firing, self._store, self._clock, self.history, self._settings)
            self._spawn(keeper.fire_deadlines())
            self._spawn(keeper.bring_forward())

    async def stop(self) -> None:
        """Fire no more deadlines here: they stay in the table, for another process or the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @classmethod
    def schema_sql(cls, dialect: str = "sqlite") -> str:
        """The statements that give the user's table what a machine needs, for a migration of the user's own.

        `dialect`: `sqlite`, `mysql` or `postgresql`.
        """
        return schema_sql(cls.declaration, dialect)

    @classmethod
    def mermaid(cls) -> str:
        """The declaration as a Mermaid `stateDiagram-v2`."""
        return mermaid(cls.declaration.table)

    @classmethod
    def svg(cls) -> str:
        """The declaration as a picture. Dashed: what a deadline fires. A double frame: final."""
        return svg(cls.declaration.table, cls.declaration.name)

    def initial(self) -> tuple[str, int, int, int | None]:
        """What to insert a new instance with: `state`, `state_version`, `definition`, `due_us`."""
        table = self._firing.table
        return table.initial, 0, table.version, table.due_us(table.initial, self._clock.now_us())

    async def fire(
        self, tx: Tx, fires: Sequence[Fire[K]], *, expecting: tuple[str, int] | None = None
    ) -> list[Outcome[K]]:
        """Fire events in a unit of the caller's own; one outcome each, in order. A refused one hurts no other.

        With `expecting`, a state and version that all instances are known to have (new ones are in the initial state
        at version 0), nothing is read first unless a guard has to see it; who stands elsewhere by then gets `Conflict`
        (code `instance_moved`). Raises what an action raised: then the unit is to be undone.
        """
        return await self._firing.fire(tx, fires, self._clock.now_us(), expecting)

    async def fire_many(
        self, fires: Sequence[Fire[K]], *, expecting: tuple[str, int] | None = None
    ) -> list[Outcome[K]]:
        """Fire events in a unit of their own; when it returns, what happened is durable.

        An action that fails spoils nothing but its own event, whose outcome is that error. Raises only `Unavailable`
        and `Overloaded`, from the database: some of the events may have happened by then.
        """
        outcomes: dict[int, Outcome[K]] = {}

        async def part(places: Sequence[int]) -> None:
            some = [fires[place] for place in places]
            got = await self._store.write(lambda tx: self.fire(tx, some, expecting=expecting))
            outcomes.update(zip(places, got, strict=True))

        if not fires:
            return []
        self._firing.check_size(fires)
        with span("statemachine.fire", machine=self._firing.name, items=len(fires)):
            _, culprits = await in_halves(range(len(fires)), part)
        for place, error in culprits:
            outcomes[place] = self._firing.failed(fires[place], error)
        self.history.wake()
        return [outcomes[place] for place in range(len(fires))]

    async def find(self, instances: Sequence[K]) -> dict[K, Instance[K]]:
        """Where instances stand, as stored: those there are."""
        if not instances:
            return {}
        return await self._store.read(lambda tx: self._firing.rows.read(tx, instances))

    def _spawn(self, work: Coroutine[object, None, None]) -> None:
        task = asyncio.create_task(work, name=f"machine {self._firing.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
