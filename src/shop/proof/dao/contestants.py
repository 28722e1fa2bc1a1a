"""Those who read a user by its key, and a page of users: each as its own documentation would write it.

The ORMs hand out the time as the integer it is stored as; the DAOs make a `datetime` of it.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
import typing
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

from dougong.dao import DAO, column
from dougong.store import Migration, Row, Store, Unit, Value
from shop.proof.dao.tables import PlainUser, User

__all__ = ["Contestant", "Driver", "MySQLDriver", "Ours", "Reflective", "SQLiteDriver", "Still"]

R = TypeVar("R")

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class Contestant(Protocol):
    """One way to read users. Loops on its own, so that nothing but its own code is measured."""

    async def get(self, keys: Sequence[int]) -> str:
        """Read each, one after the other; the e-mail of the last."""

    async def page(self, rows: int) -> str:
        """Read the first `rows` by key as objects; the e-mail of the last."""


_GET = "SELECT id, email, name, joined, version FROM users WHERE id = {}"
_PAGE = "SELECT id, email, name, joined, version FROM users ORDER BY id LIMIT {}"


class SQLiteDriver:
    """sqlite3, a statement that is prepared, a tuple as it comes."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)

    async def get(self, keys: Sequence[int]) -> str:
        sql, row = _GET.format("?"), None
        for key in keys:
            row = self._connection.execute(sql, (key,)).fetchone()
        return str(row[1]) if row else ""

    async def page(self, rows: int) -> str:
        found = self._connection.execute(_PAGE.format("?"), (rows,)).fetchall()
        return str(found[-1][1])

    async def close(self) -> None:
        self._connection.close()


class MySQLDriver:
    """asyncmy, a statement that is prepared, a tuple as it comes."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cursor = connection.cursor()

    @classmethod
    async def open(cls, url: str) -> MySQLDriver:
        import asyncmy

        parts = urlsplit(url)
        socket = parse_qs(parts.query)["unix_socket"][0]
        connection = await asyncmy.connect(
            user=parts.username, database=parts.path[1:], unix_socket=socket, autocommit=True, stmt_cache_size=512
        )
        return cls(connection)

    async def get(self, keys: Sequence[int]) -> str:
        sql, row = _GET.format("%s"), None
        for key in keys:
            await self._cursor.execute(sql, (key,))
            row = await self._cursor.fetchone()
        return str(row[1]) if row else ""

    async def page(self, rows: int) -> str:
        await self._cursor.execute(_PAGE.format("%s"), (rows,))
        found = await self._cursor.fetchall()
        return str(found[-1][1])

    async def close(self) -> None:
        self._connection.close()


Driver = SQLiteDriver | MySQLDriver


class Ours:
    """`DAO(User, store)`."""

    def __init__(self, store: Store) -> None:
        self._users = DAO(User, store)

    async def get(self, keys: Sequence[int]) -> str:
        user = None
        for key in keys:
            user = await self._users.get(key)
        return user.email if user is not None else ""

    async def page(self, rows: int) -> str:
        return (await self._users.find(order=[column(User.id).ascending], limit=rows)).items[-1].email


class Reflective:
    """A generic DAO as it is usually written: type hints and fields are read, and SQL is put together, at each call."""

    def __init__(self, store: Store) -> None:
        self._entity = PlainUser
        self._table = "users"
        self._store = store

    async def get(self, keys: Sequence[int]) -> str:
        found = None
        for key in keys:
            found = await self._one(key)
        return found.email if found is not None else ""

    async def page(self, rows: int) -> str:
        names = ", ".join(self._entity.__struct_fields__)
        found = await self._store.fetch_all(f"SELECT {names} FROM {self._table} ORDER BY id LIMIT ?", (rows,))  # noqa: S608 (names of our own)
        return self._made(found)[-1].email

    async def _one(self, key: int) -> PlainUser | None:
        names = ", ".join(self._entity.__struct_fields__)
        row = await self._store.fetch_one(f"SELECT {names} FROM {self._table} WHERE id = ?", (key,))  # noqa: S608
        return self._made([row])[0] if row is not None else None

    def _made(self, rows: list[Row]) -> list[PlainUser]:
        hints = typing.get_type_hints(self._entity)
        made: list[PlainUser] = []
        for row in rows:
            values: dict[str, Any] = {}
            for name, value in zip(self._entity.__struct_fields__, row, strict=True):
                if hints[name] is dt.datetime and isinstance(value, int):
                    values[name] = _EPOCH + value * _MICROSECOND
                else:
                    values[name] = value
            made.append(self._entity(**values))
        return made


class Still:
    """A store that answers every question with the same row at once: what is left is what a DAO does itself."""

    name = "still"
    dialect = "sqlite"

    def __init__(self, row: Row) -> None:
        self._row = row

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        return self._row

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return [self._row]

    async def write(self, unit: Unit[R]) -> R:
        raise NotImplementedError

    async def read(self, unit: Unit[R]) -> R:
        raise NotImplementedError

    async def migrate(self, owner: str, migrations: Sequence[Migration]) -> int:
        raise NotImplementedError

    async def check(self) -> None:
        """It is always there."""

    async def close(self) -> None:
        """Nothing to close."""
