"""A table that lacks something is refused at the start, with the statements that add it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.statemachine.conftest import Open
from tests.statemachine.parcels import Parcels

from dougong.errors import Invalid
from dougong.store import Migration, Store, open_store


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(f"sqlite:///{tmp_path}/bare.db", name="bare")
    yield store
    await store.close()


async def run(store: Store, *statements: str) -> None:
    for statement in statements:
        await store.write(lambda tx, statement=statement: tx.execute(statement))  # type: ignore[misc]


TABLE = "CREATE TABLE parcels (id INTEGER PRIMARY KEY, weight_g INTEGER, updated_us INTEGER)"


async def test_no_table(bare: Store) -> None:
    with pytest.raises(Invalid, match="stands on table 'parcels' with key 'id', which bare does not have"):
        await Parcels(bare).start(keep_time=False)


async def test_what_is_missing_can_be_pasted(bare: Store) -> None:
    await run(bare, TABLE, "ALTER TABLE parcels ADD COLUMN state TEXT")
    with pytest.raises(Invalid) as raised:
        await Parcels(bare).start(keep_time=False)
    head, *statements = raised.value.message.splitlines()
    assert head == "table 'parcels' lacks what machine 'parcel' needs; add to a migration:"
    assert statements == [
        "ALTER TABLE parcels ADD COLUMN state_version INTEGER NOT NULL DEFAULT 0;",
        "ALTER TABLE parcels ADD COLUMN definition INTEGER NOT NULL DEFAULT 1;",
        "ALTER TABLE parcels ADD COLUMN due_us INTEGER;",
        "CREATE INDEX parcels_due ON parcels (state, due_us) WHERE due_us IS NOT NULL;",
    ]
    await run(bare, *statements)
    await Parcels(bare).start(keep_time=False)


async def test_the_index_must_be_there(bare: Store) -> None:
    await run(bare, TABLE, *Parcels.schema_sql().splitlines()[:-1], "CREATE INDEX another ON parcels (due_us)")
    with pytest.raises(Invalid, match="CREATE INDEX parcels_due"):
        await Parcels(bare).start(keep_time=False)


async def test_columns_that_the_machine_names(bare: Store) -> None:
    await run(
        bare, "CREATE TABLE parcels (id INTEGER PRIMARY KEY, weight_g INTEGER)", *Parcels.schema_sql().splitlines()
    )
    with pytest.raises(Invalid, match="names column 'updated_us', which table 'parcels' does not have"):
        await Parcels(bare).start(keep_time=False)


async def test_what_is_missing_on_every_engine(open_again: Open) -> None:
    """The statements said are the statements that help, and the index is looked for where the engine keeps it."""
    store = await open_again("bare")
    await store.migrate("table", [Migration(1, "table", TABLE.replace("INTEGER", "BIGINT"))])
    statements = Parcels.schema_sql(store.dialect).splitlines()
    for number, some in enumerate((statements, statements[-1:]), 1):
        with pytest.raises(Invalid) as raised:
            await Parcels(store).start(keep_time=False)
        assert raised.value.message.splitlines()[1:] == some
        step = "\n".join(statements[:-1] if number == 1 else some)
        await store.migrate("columns", [Migration(n, f"step {n}", step) for n in [number]])
    await Parcels(store).start(keep_time=False)


def test_an_unknown_dialect() -> None:
    with pytest.raises(Invalid, match="there are sqlite, mysql, postgresql"):
        Parcels.schema_sql("oracle")
