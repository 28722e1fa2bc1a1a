"""A store on a fresh file, and a way to run a program that gets killed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dougong.store import Migration, _group, _server_group, open_store
from dougong.store.sqlite import SqliteStore

SCHEMA = [
    Migration(
        1,
        "things",
        """
        CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT UNIQUE, amount INTEGER CHECK (amount >= 0));
        CREATE TABLE parts (id INTEGER PRIMARY KEY, thing INTEGER REFERENCES things DEFERRABLE INITIALLY DEFERRED);
        """,
    )
]


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are counted in this room, so a slow machine must not split them."""
    for module in (_group, _server_group):
        monkeypatch.setattr(module, "GROUP_S_MAX", 60.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await open_store(f"sqlite:///{tmp_path}/things.db")
    assert isinstance(opened, SqliteStore)
    await opened.migrate("things", SCHEMA)
    yield opened
    await opened.close()
