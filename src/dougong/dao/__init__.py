"""Tables as typed objects: `DAO[T, ID]` over an `Entity`.

For services whose tables are mostly read and written row by row. The one idea: *the SQL of an entity is worked out
once, not once per call*. The text is written when a shape of statement is first needed; after that a call
is a dictionary lookup, the driver, and a constructor called by position.

    class User(Entity, table="users", version="version", unique={"users_email": ["email"]}):
        id: int
        email: str
        version: int = 1

    users = DAO(User, store)
    await users.create(User(1, "ada@example.org"))
    page = await users.find(column(User.email).starts_with("ada"), order=[column(User.id).descending], limit=20)
    user = await users.update(msgspec.structs.replace(page.items[0], email="ada@example.com"))

Types flow: `get` takes the key's type and returns `User | None`, and a column is compared with its field's type only.
Times (aware), dates, decimals, UUIDs, enums and JSON (lists, dicts, Structs) are stored the same way on every engine.
Pages go by keyset, updates by version, a `Conflict` names the unique index that was hit.

A DAO works on one `Store`, and unchanged on a sharded one (`Divided`): many databases that divide the keys.

SQLAlchemy (14 MB) writes `create_table_sql`, and comes into no process that does not ask for one.

It does not: map relations, track changes, alter tables (`create_tables` makes the first migration), or hide SQL: joins
and aggregates are written as SQL and run through `store` or `tx`.
"""

from dougong.dao._create import create_table_sql, create_tables
from dougong.dao._dao import DAO
from dougong.dao._databases import Databases, Divided
from dougong.dao._entity import Entity
from dougong.dao._page import Page
from dougong.dao._where import ColumnOf, Condition, Order, column

__all__ = [
    "DAO",
    "ColumnOf",
    "Condition",
    "Databases",
    "Divided",
    "Entity",
    "Order",
    "Page",
    "column",
    "create_table_sql",
    "create_tables",
]
