"""The user, as an entity and as a plain Struct. Annotations here are types, not text: reading them is cheapest so."""

import datetime as dt

import msgspec

from dougong.dao import Entity

__all__ = ["PlainUser", "User"]


class User(Entity, table="users", version="version", unique={"users_email": ["email"]}):
    """Five columns, one of which is stored as something else."""

    id: int
    email: str
    name: str
    joined: dt.datetime
    version: int = 1


class PlainUser(msgspec.Struct, frozen=True):
    """The same without a table, for who finds everything out at each call."""

    id: int
    email: str
    name: str
    joined: dt.datetime
    version: int = 1
