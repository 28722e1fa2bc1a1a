"""The registry's file: the rules of `keyspace`, as transactions on a SQLite database that several processes share.

Synchronous on purpose: `local.py` calls it from its own thread. One object is one connection.

`synchronous=normal`: in WAL mode a commit then does not wait for the disk, and a power cut can lose the last commits
but not damage the file. That suits this file: what it says is who is alive, and after a power cut nobody is. The kill
of a process loses nothing at all.
"""

from __future__ import annotations

import random
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, TypeVar

from dougong.errors import Error, Unavailable
from dougong.registry._protocol import Change, ChangeKind, Compacted, KeyValue, Lease, Listing
from dougong.registry.keys import prefix_end
from dougong.registry.keyspace import future_revision, key_exists, lease_not_found

T = TypeVar("T")

SCHEMA_VERSION = 1
BUSY_S_MAX = 2.0
"""How long a transaction waits for another process's. Theirs take well under a millisecond."""
OPEN_S_MAX = 10.0
CHANGES_MAX = 1000
"""Changes read at a time; a watcher further behind comes back for more."""

_SCHEMA = """
create table if not exists registry (
    id integer primary key check (id = 1),
    identity text not null, boot text not null, revision integer not null, compacted integer not null);
create table if not exists lease (id integer primary key, ttl_us integer not null, deadline_us integer not null);
create table if not exists entry (
    key text primary key, value blob not null, create_revision integer not null, mod_revision integer not null,
    lease integer not null) without rowid;
create index if not exists entry_by_lease on entry (lease) where lease <> 0;
create table if not exists history (
    revision integer not null, key text not null, kind text not null, value blob not null,
    primary key (revision, key)) without rowid;
"""

# A deadline further away than the TTL was set by a boot whose monotonic clock stood higher: overdue too.
_OVERDUE = "(deadline_us <= ? or deadline_us > ? + ttl_us)"


class Glance(NamedTuple):
    """What a poller wants to know."""

    revision: int
    next_deadline_us: int | None


class Span(NamedTuple):
    """A stretch of history under a prefix, one group per revision, complete up to and including `through`."""

    groups: list[tuple[Change, ...]]
    through: int


def boot_id() -> str:
    """Names this run of the machine; empty where the system does not say."""
    if sys.platform == "linux":
        with suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


class RegistryFile:
    """One connection to the file. `now_us` is the machine-wide monotonic clock in microseconds."""

    def __init__(self, path: Path, now_us: Callable[[], int], *, history_revisions_max: int, boot: str) -> None:
        self._path = path
        self._now_us = now_us
        self._history_max = history_revisions_max
        self._db, self.identity = _open(path, boot)
        self._inode = _inode(path)

    def replaced(self) -> bool:
        """Whether the path now leads elsewhere: somebody removed the file under us."""
        return _inode(self._path) != self._inode

    def close(self) -> None:
        self._db.close()

    def grant(self, ttl_s: float) -> Lease:
        def step(now_us: int) -> Lease:
            # Random, so that an id from a file since removed never means somebody else's lease in the new one.
            lease = secrets.randbits(62) + 1
            ttl_us = max(1, round(ttl_s * 1e6))
            self._db.execute("insert into lease values (?, ?, ?)", (lease, ttl_us, now_us + ttl_us))
            return Lease(id=lease, ttl_s=ttl_us / 1e6)

        return self._write(step)

    def keep_alive(self, lease: int) -> float:
        def step(now_us: int) -> float:
            row = self._db.execute(
                "update lease set deadline_us = ? + ttl_us where id = ? returning ttl_us", (now_us, lease)
            ).fetchall()
            return float(row[0][0]) / 1e6 if row else 0.0

        return self._write(step)

    def revoke(self, lease: int) -> None:
        self._write(lambda _: self._end(lease))

    def expire(self) -> None:
        """End overdue leases; every other write does so as well."""
        self._write(lambda _: None)

    def put(self, key: str, value: bytes, lease: int) -> int:
        return self._write(lambda _: self._put(key, value, lease))

    def create(self, key: str, value: bytes, lease: int) -> int:
        def step(_: int) -> int:
            row = self._db.execute("select create_revision from entry where key = ?", (key,)).fetchone()
            if row is not None:
                raise key_exists(key, row[0])
            return self._put(key, value, lease)

        return self._write(step)

    def delete(self, key: str) -> bool:
        def step(_: int) -> bool:
            if self._db.execute("delete from entry where key = ?", (key,)).rowcount == 0:
                return False
            self._record([Change(ChangeKind.DELETE, key, self._revision() + 1)])
            return True

        return self._write(step)

    def list(self, prefix: str) -> Listing:
        with self._transaction("deferred"):
            overdue = self._overdue(self._now_us())
            if not overdue:
                return self._list(prefix)
        return self._write(lambda _: self._list(prefix))

    def changes(self, prefix: str, from_revision: int) -> Span:
        with self._transaction("deferred"):
            revision, compacted = self._db.execute("select revision, compacted from registry").fetchone()
            if from_revision <= compacted:
                raise Compacted(from_revision, compacted)
            where, bounds = _under(prefix)
            rows = self._db.execute(
                f"select kind, key, revision, value from history where revision >= ? and {where} "  # noqa: S608
                "order by revision, key limit ?",
                (from_revision, *bounds, CHANGES_MAX),
            ).fetchall()
            if len(rows) == CHANGES_MAX:  # the last revision may be cut: read exactly it once more, whole
                revision = rows[-1][2]
                rows = [row for row in rows if row[2] < revision] + self._db.execute(
                    f"select kind, key, revision, value from history where revision = ? and {where} order by key",  # noqa: S608
                    (revision, *bounds),
                ).fetchall()
        changes = [Change(ChangeKind(kind), key, at, value) for kind, key, at, value in rows]
        return Span([tuple(group) for _, group in groupby(changes, attrgetter("revision"))], revision)

    def compact(self, revision: int) -> None:
        def step(_: int) -> None:
            current = self._revision()
            if revision > current:
                raise future_revision(revision, current)
            self._compact(revision)

        self._write(step)

    def _list(self, prefix: str) -> Listing:
        where, bounds = _under(prefix)
        rows = self._db.execute(
            f"select key, value, create_revision, mod_revision, lease from entry where {where} order by key",  # noqa: S608
            bounds,
        ).fetchall()
        return Listing(items=tuple(KeyValue(*row) for row in rows), revision=self._revision())

    def _put(self, key: str, value: bytes, lease: int) -> int:
        if lease and self._db.execute("select 1 from lease where id = ?", (lease,)).fetchone() is None:
            raise lease_not_found(lease, key)
        revision = self._revision() + 1
        self._db.execute(
            "insert into entry values (?, ?, ?, ?, ?) on conflict (key) do update set "
            "value = excluded.value, mod_revision = excluded.mod_revision, lease = excluded.lease",
            (key, value, revision, revision, lease),
        )
        self._record([Change(ChangeKind.PUT, key, revision, value)])
        return revision

    def _end(self, lease: int) -> None:
        self._db.execute("delete from lease where id = ?", (lease,))
        keys = self._db.execute("delete from entry where lease = ? and lease <> 0 returning key", (lease,)).fetchall()
        revision = self._revision() + 1
        self._record([Change(ChangeKind.DELETE, key, revision) for (key,) in keys])

    def _revision(self) -> int:
        return int(self._db.execute("select revision from registry").fetchone()[0])

    def _record(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        revision = changes[0].revision
        self._db.executemany(
            "insert into history values (?, ?, ?, ?)",
            [(revision, change.key, change.kind.value, change.value) for change in changes],
        )
        self._db.execute("update registry set revision = ?", (revision,))
        (compacted,) = self._db.execute("select compacted from registry").fetchone()
        if revision - compacted > self._history_max:
            self._compact(revision - self._history_max // 2)

    def _compact(self, revision: int) -> None:
        self._db.execute("update registry set compacted = max(compacted, ?)", (revision,))
        self._db.execute("delete from history where revision <= ?", (revision,))

    def _overdue(self, now_us: int) -> Sequence[int]:
        rows = self._db.execute(f"select id from lease where {_OVERDUE} order by deadline_us, id", (now_us, now_us))  # noqa: S608
        return [lease for (lease,) in rows.fetchall()]

    def _write(self, step: Callable[[int], T]) -> T:
        """Run `step` in a transaction, after one that ends overdue leases: a step that raises must not bring them back.

        The time is taken once the lock is held: a lease is judged when its fate can be written down.
        """
        with self._transaction("immediate"):
            now_us = self._now_us()
            overdue = self._overdue(now_us)
            for lease in overdue:
                self._end(lease)
            if not overdue:
                return step(now_us)
        with self._transaction("immediate"):
            return step(now_us)

    @contextmanager
    def _transaction(self, kind: str) -> Generator[None]:
        with mapped(self._path):
            self._db.execute(f"begin {kind}")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise


class Peeker:
    """A second connection that only looks, quickly enough to be called on the loop: it never waits for a lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with mapped(path):
            uri = f"{path.absolute().as_uri()}?mode=rw"  # never create: an empty file would shadow the real one
            self._db = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
            self._db.execute("pragma query_only = on")
        self._version = -1

    def look(self) -> Glance | None:
        """The news, or None when nothing was committed since the last look, or when the file is locked right now."""
        try:
            (version,) = self._db.execute("pragma data_version").fetchone()
            if version == self._version:
                return None
            revision, deadline_us = self._db.execute(
                "select revision, (select min(deadline_us) from lease) from registry"
            ).fetchone()
        except sqlite3.OperationalError as error:
            if _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                return None
            raise map_error(error, self._path) from error
        except sqlite3.DatabaseError as error:
            raise map_error(error, self._path) from error
        self._version = version
        return Glance(revision, deadline_us)

    def close(self) -> None:
        self._db.close()


def _under(prefix: str) -> tuple[str, tuple[str, ...]]:
    end = prefix_end(prefix)
    return ("key >= ?", (prefix,)) if end is None else ("key >= ? and key < ?", (prefix, end))


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open(path: Path, boot: str) -> tuple[sqlite3.Connection, str]:
    """Connect and create what is missing. Several processes may do so at once.

    The switch to WAL takes the file for itself and reports busy without waiting, whatever the timeout; hence the loop.
    """
    give_up = time.monotonic() + OPEN_S_MAX
    while True:
        try:
            with mapped(path):
                return _connect(path, boot)
        except Unavailable as error:
            if error.code != "locked" or time.monotonic() > give_up:
                raise
        time.sleep(random.uniform(0.002, 0.02))


def _connect(path: Path, boot: str) -> tuple[sqlite3.Connection, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=BUSY_S_MAX, isolation_level=None, check_same_thread=False)
    try:
        (mode,) = db.execute("pragma journal_mode = wal").fetchone()
        if mode != "wal":
            raise Unavailable(
                f"registry file {path} cannot be shared between processes here (journal mode {mode!r}): "
                "put it on a local disk",
                code="no_shared_memory",
                path=str(path),
            )
        db.execute("pragma synchronous = normal")
        db.execute("pragma journal_size_limit = 4194304")
        db.execute("begin immediate")
        (version,) = db.execute("pragma user_version").fetchone()
        if version not in {0, SCHEMA_VERSION}:
            raise Unavailable(
                f"registry file {path} has format {version}, this program writes {SCHEMA_VERSION}: "
                "stop everything that uses it and delete it",
                code="other_format",
                path=str(path),
            )
        if version == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute("insert into registry values (1, ?, ?, 0, 0)", (secrets.token_hex(8), boot))
            db.execute(f"pragma user_version = {SCHEMA_VERSION}")
        identity, last_boot = db.execute("select identity, boot from registry").fetchone()
        if last_boot != boot:
            # Nobody of an earlier boot is alive, and its monotonic clock means nothing to ours.
            db.execute("update registry set boot = ?", (boot,))
            db.execute("update lease set deadline_us = -1")
        db.execute("commit")
    except BaseException:
        db.close()
        raise
    return db, identity


@contextmanager
def mapped(path: Path) -> Generator[None]:
    """Turn what SQLite and the file system raise into this project's errors."""
    try:
        yield
    except Error:
        raise
    except (sqlite3.Error, OSError) as error:
        raise map_error(error, path) from error


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the family of an extended code


def map_error(error: sqlite3.Error | OSError, path: Path) -> Unavailable:
    code, remedy = {
        sqlite3.SQLITE_BUSY: ("locked", "another process holds it; is one stopped in the middle of a write?"),
        sqlite3.SQLITE_LOCKED: ("locked", "another process holds it; is one stopped in the middle of a write?"),
        sqlite3.SQLITE_FULL: ("disk_full", "free some space"),
        sqlite3.SQLITE_READONLY: ("read_only", "make the file and its directory writable"),
        sqlite3.SQLITE_CANTOPEN: ("cannot_open", "make the directory exist and writable"),
        sqlite3.SQLITE_CORRUPT: ("corrupt", "stop everything that uses it and delete it"),
        sqlite3.SQLITE_NOTADB: ("corrupt", "stop everything that uses it and delete it"),
    }.get(_code(error), ("unavailable", "see the reason given"))
    return Unavailable(f"registry file {path}: {error}; {remedy}", code=code, path=str(path))


__all__ = ["CHANGES_MAX", "Glance", "Peeker", "RegistryFile", "Span", "boot_id", "map_error", "mapped"]
