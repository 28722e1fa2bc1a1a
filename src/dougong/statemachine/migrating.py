"""What an instance written under an older definition is under this one."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from dougong.statemachine._protocol import Instance, Key
from dougong.statemachine.table import Table

__all__ = ["brought_forward"]

K = TypeVar("K", bound=Key)


def brought_forward(table: Table, row: Instance[K], now_us: int) -> Instance[K] | None:
    """The instance under the table's definition; None when it is there already, or nothing says what it would be.

    A renamed state counts as a transition. A deadline that was running goes on; one that is new begins now.
    """
    if row.definition > table.version:
        return None
    state = table.migrated(row.state, row.definition)
    if state is None:
        return None
    due_us = table.due_us(state, now_us)
    if due_us is not None and row.due_us is not None:
        due_us = row.due_us
    if (state, table.version, due_us) == (row.state, row.definition, row.due_us):
        return None
    version = row.version + (state != row.state)
    return msgspec.structs.replace(row, state=state, version=version, definition=table.version, due_us=due_us)
