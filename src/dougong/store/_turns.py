"""Taking turns at writing when several processes share one SQLite file.

SQLite's lock has no queue: a busy process that begins again right after its commit wins every time, and a waiting one
may starve. So whoever finds the lock taken polls for it off the loop, and only for so long.
"""

from __future__ import annotations

import sqlite3
import time

from dougong.store._faults import is_busy

__all__ = ["begin", "begin_patiently"]

BEGIN = "BEGIN IMMEDIATE"


def begin(connection: sqlite3.Connection) -> bool:
    """Take the write lock if it is free; whether it was."""
    try:
        connection.execute(BEGIN)
    except sqlite3.Error as error:
        if is_busy(error):
            return False
        raise
    return True


def begin_patiently(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Take the write lock, waiting for whoever has it; blocks, so never on the loop."""
    until = time.monotonic() + timeout_s
    pause_s = 0.0002
    while True:
        try:
            connection.execute(BEGIN)
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() > until:
                raise
        else:
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.005)
