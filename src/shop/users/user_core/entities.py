"""Rows of the user centre."""

from __future__ import annotations

from dougong.dao import Entity

__all__ = ["User", "Wallet"]


class User(Entity, table="users"):
    """An account. `id % 128` is its bucket."""

    id: int
    email: str
    """Lower case; one in all databases."""
    name: str
    password_hash: str
    role: str
    created_us: int


class Wallet(Entity, table="wallets", key="user_id"):
    """Money in minor units, in the bucket of its user: available + frozen + spent = deposited."""

    user_id: int
    currency: str
    available: int
    frozen: int = 0
    spent: int = 0
    deposited: int = 0
