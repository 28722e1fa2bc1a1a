"""The one place where SQLite's errors become ours: what happened, to which file, and what to do about it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from dougong.errors import Conflict, Error, Internal, Invalid, Unavailable

__all__ = ["needs_reopening", "translate"]

# Primary result codes (https://sqlite.org/rescode.html); sqlite3 has names for them from 3.11 on.
_UNAVAILABLE = {
    sqlite3.SQLITE_FULL: (
        "disk_full",
        "the disk (or the database's size limit) is full; free space, writes go on then",
    ),
    sqlite3.SQLITE_READONLY: ("read_only", "the file or its directory cannot be written; give this user the rights"),
    sqlite3.SQLITE_BUSY: ("locked", "another process holds its lock; see who has the file open (fuser, lsof)"),
    sqlite3.SQLITE_LOCKED: ("locked", "another connection holds its lock; see who has the file open (fuser, lsof)"),
    sqlite3.SQLITE_CORRUPT: (
        "corrupt",
        "its content is damaged; restore a backup, or save what `.recover` still reads",
    ),
    sqlite3.SQLITE_NOTADB: ("corrupt", "this is no SQLite database; point to the right file or restore a backup"),
    sqlite3.SQLITE_CANTOPEN: ("cannot_open", "it cannot be opened; check that it exists and who may read it"),
    sqlite3.SQLITE_PERM: ("cannot_open", "it cannot be opened; check that it exists and who may read it"),
    sqlite3.SQLITE_IOERR: ("io_error", "the disk refused; check the machine's log, file size limits and free space"),
    sqlite3.SQLITE_PROTOCOL: ("locked", "other processes keep taking its lock; see who has the file open"),
    sqlite3.SQLITE_NOMEM: ("out_of_memory", "the machine has no memory left for it"),
}
_CONSTRAINTS = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: "unique_violated",
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: "unique_violated",
    sqlite3.SQLITE_CONSTRAINT_ROWID: "unique_violated",
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: "foreign_key_violated",
    sqlite3.SQLITE_CONSTRAINT_CHECK: "check_violated",
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: "null_violated",
    sqlite3.SQLITE_CONSTRAINT_TRIGGER: "trigger_refused",
}
# No space for the -shm file's next page: SQLite reports it as an I/O error, the cause and the remedy are a full disk's.
_FULL_IN_DISGUISE = (sqlite3.SQLITE_IOERR_SHMSIZE,)
# After these a connection may hold on to what it saw when it was opened (rights, a moved file); a new one looks again.
_STALE = (
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CANTOPEN,
)


def _primary(error: BaseException) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else 0


def is_busy(error: BaseException) -> bool:
    """Another connection holds the lock: waiting may help."""
    return _primary(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def needs_reopening(error: BaseException) -> bool:
    """The connection that raised this must not be used again."""
    return _primary(error) in _STALE


def is_deferred_violation(error: BaseException) -> bool:
    """A constraint that was checked only at commit: somebody in the group broke it, nobody knows who."""
    return _primary(error) == sqlite3.SQLITE_CONSTRAINT


def translate(error: Exception, path: Path, sql: str = "") -> Error:
    """The `Error` for what the driver raised; ours pass through."""
    if isinstance(error, Error):
        return error
    where = str(path)
    code = getattr(error, "sqlite_errorcode", 0)
    primary = _primary(error)
    if code in _FULL_IN_DISGUISE:
        primary = sqlite3.SQLITE_FULL
    if primary in _UNAVAILABLE:
        name, remedy = _UNAVAILABLE[primary]
        detail = getattr(error, "sqlite_errorname", "")
        return Unavailable(f"database {where}: {error} ({detail}): {remedy}", code=name, retry_after_s=1.0, path=where)
    if primary == sqlite3.SQLITE_CONSTRAINT:
        return _constraint(error, code, where)
    if primary in (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH) or isinstance(error, OverflowError):
        return Invalid(f"database {where} cannot hold a value: {error}", code="out_of_range", sql=sql)
    return Internal(f"database {where}: {type(error).__name__}: {error} in {sql!r}", code="bad_sql", sql=sql)


def _constraint(error: Exception, code: int, where: str) -> Error:
    """`UNIQUE constraint failed: users.email` → Conflict(code="unique_violated", constraint="users.email").

    SQLite names a unique constraint by its columns (an index over expressions by its name) and a check by its own name.
    """
    kind = _CONSTRAINTS.get(code, "constraint_violated")
    _, _, constraint = str(error).partition(" constraint failed: ")
    constraint = constraint.removeprefix("index ").strip("'")
    message = f"{where}: {error}"
    if kind == "null_violated":
        return Invalid(message, code=kind, constraint=constraint)
    return Conflict(message, code=kind, constraint=constraint)
