"""Taking turns at writing when several processes share one SQLite file.

SQLite's write lock has no queue: a busy process that begins again right after its commit wins nearly every time, and a
waiting one starves. So there is a turnstile before it, a lock on a file of its own (`orders.db-turn`): whoever wants
the write lock holds the turnstile while getting it. A process that just committed finds it taken by the one that
waits, and queues behind it. The kernel frees the turnstile when its holder dies.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from pathlib import Path

from dougong.store._faults import is_busy

__all__ = ["Turnstile"]

BEGIN = "BEGIN IMMEDIATE"
PAUSE_S = 0.0002
"""Between two looks: a commit takes about so long. The same for everybody, else whoever waits longest looks least."""


class Turnstile:
    """One process's way to the write lock of one database."""

    def __init__(self, database: Path) -> None:
        # Not the database file itself: closing any descriptor of that would drop SQLite's own locks (POSIX).
        try:
            self._file = os.open(f"{database}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            self._file = -1  # a full or read-only disk: SQLite will say so in better words

    def begin(self, connection: sqlite3.Connection) -> bool:
        """Begin to write if nobody else does or waits to; whether that was so. Takes microseconds."""
        if not self._enter():
            return False
        try:
            connection.execute(BEGIN)
        except sqlite3.Error as error:
            if is_busy(error):
                return False
            raise
        finally:
            self._leave()
        return True

    def begin_patiently(self, connection: sqlite3.Connection, timeout_s: float) -> None:
        """Begin to write, in turn; SQLite's "database is locked" after `timeout_s`. Blocks, so never on the loop."""
        until = time.monotonic() + timeout_s
        while not self._enter():
            if time.monotonic() > until:
                connection.execute(
                    BEGIN
                )  # says what there is to say; or it is free, and only who holds the turnstile hangs
                return
            time.sleep(PAUSE_S)
        try:
            while True:
                try:
                    connection.execute(BEGIN)
                except sqlite3.Error as error:
                    if not is_busy(error) or time.monotonic() > until:
                        raise
                else:
                    return
                time.sleep(PAUSE_S)
        finally:
            self._leave()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _enter(self) -> bool:
        if self._file < 0:
            return True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without flock: no turns, only SQLite's own lock
        return True

    def _leave(self) -> None:
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)
