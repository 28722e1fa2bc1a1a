"""The machine that most tests drive: a parcel, with a guard, actions, deadlines and a way back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from dougong.clock import Clock, ManualClock
from dougong.statemachine import Deadline, Fire, Instance, Machine, Outcome, Rule, State, TimekeeperSettings, Transition
from dougong.statemachine.history import History
from dougong.statemachine.timekeeper import Timekeeper
from dougong.store import Migration, Store, Tx, migrations_from
from dougong.store._tx import SqliteTx

HOUR_S = 3600.0


class Parcels(
    Machine[int],
    table="parcels",
    name="parcel",
    reads=("weight_g",),
    updated="updated_us",
):
    """packed → on_the_way → delivered, or lost, or back to packed."""

    states: ClassVar[Sequence[State]] = (
        State("packed", initial=True, deadline=Deadline(HOUR_S, "give_up")),
        State("on_the_way", deadline=Deadline(24 * HOUR_S, "lose")),
        State("at_customs"),
        State("delivered", final=True),
        State("lost", final=True),
    )
    rules: ClassVar[Sequence[Rule]] = (
        Rule("packed", "send", "on_the_way", guard="is_light", action="note"),
        Rule("packed", "send", "at_customs"),
        Rule("packed", "give_up", "lost", action="note"),
        Rule(("on_the_way", "at_customs"), "return", "packed"),
        Rule("on_the_way", "deliver", "delivered"),
        Rule("on_the_way", "lose", "lost"),
    )

    poison: int = -1
    """A parcel whose action fails."""

    def is_light(self, parcel: Instance[int], data: object) -> bool:
        if data == "stumble":
            raise RuntimeError("the guard stumbled")
        weight_g = parcel.columns["weight_g"]
        assert isinstance(weight_g, int)
        return weight_g <= 1000

    async def note(self, tx: Tx, transitions: Sequence[Transition[int]]) -> None:
        if any(t.instance == self.poison for t in transitions):
            raise RuntimeError("poison")
        await tx.execute_many(
            "INSERT INTO notes (parcel, event) VALUES (?, ?)", [(t.instance, t.event) for t in transitions]
        )


def tables(dialect: str = "sqlite") -> str:
    """What a migration of the user's own makes."""
    return (
        "CREATE TABLE parcels (id BIGINT PRIMARY KEY, weight_g BIGINT NOT NULL DEFAULT 100, updated_us BIGINT);"
        "CREATE TABLE notes (parcel BIGINT NOT NULL, event VARCHAR(64) NOT NULL);"
    ).replace("BIGINT PRIMARY", "INTEGER PRIMARY" if dialect == "sqlite" else "BIGINT PRIMARY") + Parcels.schema_sql(
        dialect
    )


async def drop_index(store: Store, name: str) -> None:
    """Of the history."""
    on = " ON dougong_transitions" if store.dialect == "mysql" else ""
    await store.migrate(f"without {name}", [Migration(1, "drop", f"DROP INDEX {name}{on}")])


async def pack(tx: Tx, machine: Machine[int], ids: Sequence[int], weight_g: int = 100) -> None:
    """New parcels."""
    await tx.execute_many(
        "INSERT INTO parcels (id, weight_g, state, state_version, definition, due_us) VALUES (?, ?, ?, ?, ?, ?)",
        [(id_, weight_g, *machine.initial()) for id_ in ids],
    )


async def packed(store: Store, machine: Machine[int], ids: Sequence[int], weight_g: int = 100) -> None:
    await store.write(lambda tx: pack(tx, machine, ids, weight_g))


def keeper(
    machine: Machine[int], store: Store, clock: Clock, settings: TimekeeperSettings | None = None
) -> Timekeeper[int]:
    """The machine's background work, to be done step by step."""
    return Timekeeper(machine._firing, store, clock, machine.history, settings or TimekeeperSettings())


def codes(outcomes: Sequence[Outcome[int]]) -> list[str]:
    """Where each was led, or why not."""
    return [o.target if isinstance(o, Transition) else o.code for o in outcomes]


def in_memory() -> tuple[SqliteTx, Callable[[], None]]:
    """A transaction over a database that is nowhere: for tests by the thousand."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(tables())
    for migration in migrations_from("dougong.statemachine.migrations"):
        connection.executescript(migration.sql)
    tx = SqliteTx(connection, Path("nowhere"))
    tx.open()
    return tx, connection.close


class NoStore:
    """Enough of a store to make a machine whose units are run by hand."""

    name = "none"
    dialect = "sqlite"


def machine_without_store(clock: Clock | None = None) -> Parcels:
    return Parcels(NoStore(), clock=clock or ManualClock())  # type: ignore[arg-type]


__all__ = [
    "HOUR_S",
    "Fire",
    "History",
    "NoStore",
    "Parcels",
    "codes",
    "drop_index",
    "in_memory",
    "keeper",
    "machine_without_store",
    "pack",
    "packed",
    "tables",
]
