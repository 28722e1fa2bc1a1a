"""The text of statements, and that writing it costs a process no library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from dougong.dao import Entity
from dougong.dao._shape import shape_of
from dougong.dao._statements import DIALECTS, Statements


class User(Entity, table="users", version="version"):
    id: int
    email: str
    version: int = 1


class Tag(Entity, table="tags", key="name"):
    name: str


USERS = Statements(shape_of(User), "sqlite")


def test_the_statements_of_a_row() -> None:
    assert USERS.insert == "INSERT INTO `users` (`id`, `email`, `version`) VALUES (?, ?, ?)"
    assert USERS.get == "SELECT `users`.`id`, `users`.`email`, `users`.`version` FROM `users` WHERE `users`.`id` = ?"
    assert USERS.exists == "SELECT 1 FROM `users` WHERE `users`.`id` = ?"
    assert USERS.delete == "DELETE FROM `users` WHERE `users`.`id` = ?"
    assert USERS.update == (
        "UPDATE `users` SET `email` = ?, `version` = ? WHERE `users`.`id` = ? AND `users`.`version` = ?"
    )
    assert USERS.overwrite == (
        "UPDATE `users` SET `email` = ?, `version` = `users`.`version` + 1 WHERE `users`.`id` = ?"
    )


def test_what_comes_after_a_row_is_one_condition() -> None:
    found = USERS.find((("id", ">", 1),), (("email", True), ("id", False)), after=True, owned="id % 4")
    assert found.partition(" WHERE ")[2] == (
        "`users`.`id` > ? AND id % 4 IN ({owned})"
        " AND ((`users`.`email` < ?) OR (`users`.`email` = ? AND `users`.`id` > ?))"
        " ORDER BY `users`.`email` DESC, `users`.`id` ASC LIMIT ?"
    )


def test_a_row_that_is_its_key() -> None:
    tags = Statements(shape_of(Tag), "postgresql")
    assert tags.update == tags.overwrite == 'UPDATE "tags" SET "name" = ? WHERE "tags"."name" = ?'


def test_unknown_dialects_are_refused() -> None:
    with pytest.raises(TypeError, match="no SQL dialect 'oracle'; there are sqlite, mysql, postgresql"):
        Statements(shape_of(User), "oracle")


_NAMES = st.sampled_from(["id", "email", "version"])
_PARTS = st.lists(
    st.one_of(
        st.tuples(_NAMES, st.sampled_from(["=", "!=", ">=", "<=", ">", "<"]), st.just(1)),
        st.tuples(_NAMES, st.sampled_from(["null", "not null"]), st.just(0)),
        st.tuples(_NAMES, st.just("in"), st.integers(0, 3)),
    ),
    max_size=3,
)
_ORDERS = st.lists(st.tuples(_NAMES, st.booleans()), min_size=1, max_size=3, unique_by=lambda each: each[0])


@given(st.sampled_from(DIALECTS), _PARTS, _ORDERS, st.booleans())
def test_it_means_what_sqlalchemy_writes(
    dialect: str, parts: list[tuple[str, str, int]], order: list[tuple[str, bool]], after: bool
) -> None:
    ours = Statements(shape_of(User), dialect).find(tuple(parts), tuple(order), after=after)
    assert _plain(ours) == _plain(_by_sqlalchemy(parts, order, after=after))


def _by_sqlalchemy(parts: list[tuple[str, str, int]], order: list[tuple[str, bool]], *, after: bool) -> str:
    table = sa.table("users", *(sa.column(name) for name in ("id", "email", "version")))
    query, columns = table.select(), table.c
    mark: sa.ColumnClause[object] = sa.literal_column("?")
    for name, operator, count in parts:
        if operator == "in":
            query = query.where(columns[name].in_([mark] * count) if count else sa.literal_column("0 = 1"))
        elif operator.endswith("null"):
            query = query.where(columns[name].is_(None) if operator == "null" else columns[name].is_not(None))
        else:
            query = query.where(columns[name].op(operator, is_comparison=True)(mark))
    if after:
        behind = [columns[name] < mark if down else columns[name] > mark for name, down in order]
        if len({down for _, down in order}) == 1:
            row, values = sa.tuple_(*(columns[name] for name, _ in order)), sa.tuple_(*[mark] * len(order))
            query = query.where(row < values if order[0][1] else row > values)
        else:
            ways = [
                sa.and_(*(columns[name] == mark for name, _ in order[:place]), behind[place])
                for place in range(len(order))
            ]
            query = query.where(sa.or_(*ways))
    query = query.order_by(*(columns[name].desc() if down else columns[name].asc() for name, down in order))
    return f"{query} LIMIT ?"


def _plain(sql: str) -> str:
    """Without quotes, line ends, and brackets that only group."""
    for sign in ('"', "`", "(", ")"):
        sql = sql.replace(sign, "")
    return " ".join(sql.split())


def test_a_dao_needs_no_sqlalchemy(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from dougong.dao import DAO, Entity
from dougong.store import Migration, open_store

class Tag(Entity, table="tags", key="name"):
    name: str

async def main():
    store = await open_store(sys.argv[1])
    await store.migrate("test", [Migration(1, "tags", "CREATE TABLE tags (name TEXT PRIMARY KEY)")])
    dao = DAO(Tag, store)
    await dao.create(Tag("a"))
    print((await dao.find()).items, "sqlalchemy" in sys.modules)
    await store.close()

asyncio.run(main())
"""
    command = (sys.executable, "-c", code, f"sqlite:///{tmp_path / 'tags.db'}")
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[Tag(name='a')] False"
