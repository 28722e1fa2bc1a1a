"""Lists of any length in SQL: every value is asked for once, in few different statements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from dougong.store import Row, Store, Tx, Value, execute_with, fetch_with, open_store
from dougong.store._lists import MARKS_MAX

MANY = MARKS_MAX + 3


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(f"sqlite:///{tmp_path}/lists.db")

    async def fill(tx: Tx) -> None:
        await tx.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, colour TEXT NOT NULL)")
        await tx.execute_many("INSERT INTO things VALUES (?, 'red')", [(id_,) for id_ in range(MANY)])

    await opened.write(fill)
    yield opened
    await opened.close()


@pytest.mark.parametrize("count", [0, 1, 2, 3, MARKS_MAX, MANY])
async def test_each_value_is_met_once(store: Store, count: int) -> None:
    ids = list(range(count))

    async def unit(tx: Tx) -> tuple[int, list[int]]:
        sql = "UPDATE things SET colour = ? WHERE colour = ? AND id IN ({ids})"
        changed = await execute_with(tx, sql, ids, ("blue", "red"))
        found = await fetch_with(tx, "SELECT id FROM things WHERE colour = ? AND id IN ({ids})", ids, ("blue",))
        return changed, sorted(int(str(row[0])) for row in found)

    assert await store.write(unit) == (count, ids)
    row = await store.fetch_one("SELECT count(*) FROM things WHERE colour = 'blue'")
    assert row == (count,)


class Heard:
    """A transaction that only notes statements."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        self.said.add(sql)
        assert sql.count("?") == len(parameters)
        return []


async def test_lists_of_many_lengths_are_a_dozen_statements() -> None:
    heard = Heard()
    for count in range(1, 1025):
        await fetch_with(cast(Tx, heard), "SELECT id FROM things WHERE id IN ({ids})", range(count))
    assert len(heard.said) == 11
