"""Tables as typed objects: `DAO[T, ID]` over an `Entity`.

For services whose tables are mostly read and written row by row. The one idea: *the SQL of an entity is worked out
once, not once per call*. SQLAlchemy Core renders the text when a shape of statement is first needed; after that a call
is a dictionary lookup, the driver, and a constructor called by position.

    class User(Entity, table="users", version="version", unique={"users_email": ["email"]}):
        id: int
        email: str
        version: int = 1

    users: DAO[User, int] = DAO(User, store)
    await users.create(User(1, "ada@example.org"))
    page = await users.find({"email": starts_with("ada")}, order=["-id"], limit=20)
    user = await users.update(msgspec.structs.replace(page.items[0], email="ada@example.com"))

Types flow: `get` takes the key's type and returns `User | None`. Times (aware), dates, decimals, UUIDs, enums and JSON
(lists, dicts, Structs) are stored the same way on every engine. Pages go by keyset, updates by version, a `Conflict`
names the unique index that was hit.

It does not: map relations, track changes, create tables at run time (`create_table_sql` drafts a migration), or hide
SQL: joins and aggregates are written as SQL and run through `store` or `tx`.
"""

from dougong.dao._dao import DAO
from dougong.dao._entity import Entity
from dougong.dao._page import Page
from dougong.dao._statements import create_table_sql
from dougong.dao._where import (
    Condition,
    Where,
    above,
    at_least,
    at_most,
    below,
    differs_from,
    one_of,
    starts_with,
)

__all__ = [
    "DAO",
    "Condition",
    "Entity",
    "Page",
    "Where",
    "above",
    "at_least",
    "at_most",
    "below",
    "create_table_sql",
    "differs_from",
    "one_of",
    "starts_with",
]
