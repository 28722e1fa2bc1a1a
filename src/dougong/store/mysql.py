"""MySQL and MariaDB through asyncmy: binary protocol, prepared statements, many rows per round trip."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Sequence
from decimal import Decimal
from types import NoneType
from typing import Any

import asyncmy
from asyncmy import errors
from asyncmy.constants import CLIENT

from dougong.errors import Conflict, Error, Internal, Invalid, Unavailable
from dougong.store._chunks import by_size, by_twos
from dougong.store._link import Link, Verdict
from dougong.store._numbers import plain_number
from dougong.store._placeholders import Statements
from dougong.store._protocol import Migration, Row, Value
from dougong.store._server_migrate import migrate_stepwise
from dougong.store._server_url import ServerOptions
from dougong.store._tx import NOT_YOURS

__all__ = ["MySQLEngine"]

PREPARED_MAX = 512  # per connection; the server's limit is 16,382 for all
_SESSION = (
    # Text in '...', names in "...", || joins: one way to write SQL for all engines. Bad values are refused, not bent.
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,ANSI_QUOTES,"
    "PIPES_AS_CONCAT', innodb_lock_wait_timeout = {lock_s}, lock_wait_timeout = {lock_s}, time_zone = '+00:00', "
    "sql_notes = 0 /*M! , max_statement_time = {statement_s}, idle_transaction_timeout = {idle_s} */; "
    # Groups take turns, so gaps need no locks; readers see one state with REPEATABLE READ.
    "SET SESSION TRANSACTION ISOLATION LEVEL {isolation}"
)
_NO_SUCH_TABLE = 1146
_TURN = "SELECT one FROM dougong_turn WHERE one = 1"
_LOST = frozenset({0, 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 1928, 3169, 4031})
"""Errors of a connection that is over; those from 2000 to 2999 are the driver's own, and say so, too."""
_UNAVAILABLE = {
    1021: ("disk_full", "the disk is full; free space, writes go on then"),
    1114: ("disk_full", "the disk (or the table's size limit) is full; free space, writes go on then"),
    1030: ("io_error", "the storage engine refused; look into the server's log"),
    1026: ("io_error", "the server cannot write; look into its log"),
    1040: ("too_many_connections", "it takes no more connections; raise max_connections, or lower readers in the URL"),
    1203: ("too_many_connections", "this user has too many connections; raise the limit, or lower readers in the URL"),
    1205: ("locked", "another connection holds a lock; see SHOW PROCESSLIST"),
    1290: ("read_only", "the server is read-only; point to the primary"),
    1836: ("read_only", "the server is read-only; point to the primary"),
    1037: ("out_of_memory", "the server has no memory left for it"),
    1041: ("out_of_memory", "the server has no memory left for it"),
    1969: ("statement_timeout", "ask for less at once, or raise statement_timeout_s in its URL"),
    3024: ("statement_timeout", "ask for less at once, or raise statement_timeout_s in its URL"),
    1044: ("access_denied", "this user has no right to it; GRANT it"),
    1045: ("access_denied", "user or password is wrong"),
    1698: ("access_denied", "user or password is wrong"),
    1049: ("database_missing", "there is no such database on the server; CREATE DATABASE it"),
    1194: ("corrupt", "a table is damaged; CHECK TABLE it, or restore a backup"),
    1712: ("corrupt", "an index is damaged; CHECK TABLE its table, or restore a backup"),
}
_CONSTRAINTS = {
    1022: ("unique_violated", r"key '([^']*)'$"),
    1062: ("unique_violated", r"for key '([^']*)'$"),
    1586: ("unique_violated", r"for key '([^']*)'$"),
    1216: ("foreign_key_violated", r"CONSTRAINT [`\"]([^`\"]*)[`\"] FOREIGN"),
    1217: ("foreign_key_violated", r"CONSTRAINT [`\"]([^`\"]*)[`\"] FOREIGN"),
    1451: ("foreign_key_violated", r"CONSTRAINT [`\"]([^`\"]*)[`\"] FOREIGN"),
    1452: ("foreign_key_violated", r"CONSTRAINT [`\"]([^`\"]*)[`\"] FOREIGN"),
    3819: ("check_violated", r"constraint '([^']*)'"),
    4025: ("check_violated", r"CONSTRAINT [`\"]([^`\"]*)[`\"] failed"),
    1048: ("null_violated", r"Column '([^']*)'"),
    1364: ("null_violated", r"Field '([^']*)'"),
    1644: ("trigger_refused", r"(.*)"),
}
_OUT_OF_RANGE = frozenset({1153, 1264, 1265, 1292, 1365, 1366, 1406, 1367, 1690, 3140})
# Columns whose values the driver makes into objects: numbers with a point, and times.
_DECIMALS, _TIMES = frozenset({0, 246}), frozenset({7, 10, 11, 12, 13, 14})


class _StalePlan(Exception):
    """A prepared statement knows an older state of its tables.

    MariaDB counts a trigger as made when its CREATE began, in hundredths of a second. A statement that was prepared
    since then (while the CREATE waited for the table) is not prepared anew when its table had a trigger before: it
    fires the new one without having opened what that writes to, and fails with "no such table" each time it runs.
    """


class MySQLLink:
    """One connection."""

    last_sql = ""
    guarded = False
    failed = False  # a failed statement is undone alone

    def __init__(self, connection: Any, statements: Statements) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._statements = statements

    @property
    def usable(self) -> bool:
        return self._connection.connected and not self._connection._stream_broken

    async def control(self, sql: str) -> None:
        await self._cursor.execute(sql)
        while await self._cursor.nextset():
            pass

    async def execute(self, sql: str, parameters: Sequence[Value]) -> int:
        cursor, text = self._cursor, self._statements.get(sql).text
        try:
            await cursor.execute(text, _tuple(parameters))
        except errors.ProgrammingError as error:
            self._look_at_plan(error, text)
            raise
        return 0 if cursor.description is not None else int(cursor.rowcount)

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> int:
        cursor, statement = self._cursor, self._statements.get(sql)
        changed = 0
        if len(rows) == 1:
            return await self.execute(sql, rows[0])
        text = statement.text
        try:
            if self._connection._bulk_supported and _uniform(rows):
                for part in by_size(rows):
                    await cursor.executemany(text, list(map(_tuple, part)))
                    changed += int(cursor.rowcount)
            elif statement.rows is not None:
                for part in by_twos(rows, statement.marks):
                    text = self._statements.many(sql, len(part))
                    await cursor.execute(text, [value for row in part for value in row])
                    changed += int(cursor.rowcount)
            else:
                for row in rows:
                    await cursor.execute(text, _tuple(row))
                    changed += int(cursor.rowcount)
        except errors.ProgrammingError as error:
            self._look_at_plan(error, text)
            raise
        return changed

    async def fetch(self, sql: str, parameters: Sequence[Value]) -> list[Row]:
        cursor, text = self._cursor, self._statements.get(sql).text
        try:
            await cursor.execute(text, _tuple(parameters))
        except errors.ProgrammingError as error:
            self._look_at_plan(error, text)
            raise
        rows = await cursor.fetchall()
        description = cursor.description
        if rows and any(column[1] in _DECIMALS or column[1] in _TIMES for column in description):
            return [tuple(map(_plain, row)) for row in rows]
        return list(rows)

    def _look_at_plan(self, error: errors.ProgrammingError, text: str) -> None:
        """`_StalePlan` when the statement was prepared: then its tables were there."""
        if error.args[0] == _NO_SUCH_TABLE and text in self._connection._stmt_cache:
            raise _StalePlan(error.args[1]) from error

    def abort(self) -> None:
        self._connection.close()


class MySQLEngine:
    """One database on a MySQL or MariaDB server."""

    begin = f"START TRANSACTION; {_TURN} FOR UPDATE"
    begin_snapshot = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
    # DDL, locks and rights commit what came before them, in the middle of a unit.
    refused = NOT_YOURS | frozenset(
        "START XA SET USE LOCK UNLOCK CREATE ALTER DROP RENAME TRUNCATE GRANT REVOKE ANALYZE OPTIMIZE REPAIR CHECK"  # noqa: SIM905
        " FLUSH RESET INSTALL UNINSTALL LOAD KILL SHUTDOWN PREPARE EXECUTE DEALLOCATE CALL HANDLER CHANGE".split()
    )

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._statements = Statements("mysql")

    async def connect(self, *, reads_only: bool = False) -> Link:
        options = self.options
        connection = await asyncmy.connect(
            host=options.host or "localhost",
            port=options.port,
            user=options.user,
            password=options.password.reveal(),
            database=options.database,
            unix_socket=options.socket or None,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=math.ceil(options.connect_timeout_s),
            client_flag=CLIENT.FOUND_ROWS,  # an UPDATE's count is of rows found, as everywhere else
            ssl=ssl.create_default_context(cafile=options.tls_ca) if options.tls_ca else None,
            stmt_cache_size=PREPARED_MAX,
        )
        link = MySQLLink(connection, self._statements)
        try:
            await link.control(
                _SESSION.format(
                    lock_s=max(1, round(options.lock_timeout_s)),
                    statement_s=f"{options.statement_timeout_s:.3f}",
                    # A process that stopped in mid-unit must not keep the turn for ever.
                    idle_s=max(1, round(options.statement_timeout_s)),
                    isolation="REPEATABLE READ, READ ONLY" if reads_only else "READ COMMITTED",
                )
            )
            if not reads_only:
                await self._check_durability(link)
        except BaseException:
            link.abort()
            raise
        return link

    async def prepare(self, link: Link) -> None:
        (row,) = await link.fetch("SELECT @@character_set_database", ())
        if row[0] != "utf8mb4":
            raise Invalid(
                f"database {self.options.where} keeps text as {row[0]!r}, which has no room for all of Unicode: ALTER"
                f" DATABASE {self.options.database} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, before there are tables",
                code="not_unicode",
            )
        try:
            if await link.fetch(_TURN, ()):
                return
        except errors.ProgrammingError as error:
            if error.args[0] != _NO_SUCH_TABLE:
                raise
        await link.control(
            "CREATE TABLE IF NOT EXISTS dougong_turn (one TINYINT NOT NULL PRIMARY KEY) ENGINE = InnoDB; "
            "INSERT IGNORE INTO dougong_turn VALUES (1)"
        )

    async def migrate(self, link: Link, owner: str, migrations: Sequence[Migration], now_us: int) -> int:
        return await migrate_stepwise(link, self, owner, migrations, now_us)

    def judge(self, error: BaseException, sql: str = "") -> Verdict:
        if isinstance(error, Error):
            return Verdict(error)
        where = self.options.where
        number, text = 0, str(error)
        if isinstance(error, _StalePlan):
            fault = Unavailable(f"database {where}: {text}", code="schema_changed", retry_after_s=0.1)
            return Verdict(fault, lost=True, again=True)
        if isinstance(error, errors.MySQLError) and len(error.args) == 2:
            number, text = error.args
        elif not isinstance(error, errors.MySQLError | OSError):
            return Verdict(_ours(error, where, sql))
        if number == 1213:  # deadlock: the server has undone the transaction
            return Verdict(Unavailable(f"database {where}: {text}", code="deadlock", retry_after_s=0.1), again=True)
        if number in _LOST or 2000 <= number < 3000:
            fault = Unavailable(
                f"database {where}: {text or 'the connection broke'}; check that the server runs, it is tried again",
                code="connection_lost",
                retry_after_s=1.0,
            )
            return Verdict(fault, lost=True)
        if number in _UNAVAILABLE:
            code, remedy = _UNAVAILABLE[number]
            return Verdict(Unavailable(f"database {where}: {text}: {remedy}", code=code, retry_after_s=1.0))
        if number == 1792:
            return Verdict(Internal(f"database {where}: {text}", code="read_only_handle", sql=sql))
        if number in _CONSTRAINTS:
            return Verdict(_constraint(number, text, where))
        if number in _OUT_OF_RANGE:
            return Verdict(Invalid(f"database {where} cannot hold a value: {text}", code="out_of_range", sql=sql))
        return Verdict(Internal(f"database {where}: error {number}: {text} in {sql!r}", code="bad_sql", sql=sql))

    async def _check_durability(self, link: Link) -> None:
        if self.options.durability != "full":
            return
        (row,) = await link.fetch("SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog", ())
        flush, binlog, sync = row
        wrong = ["innodb_flush_log_at_trx_commit"] if flush != 1 else []
        wrong += ["sync_binlog"] if binlog and sync != 1 else []
        if wrong:
            raise Invalid(
                f"database {self.options.where} does not sync every commit, so it may lose what it acknowledged: set"
                f" {' and '.join(f'{name}=1' for name in wrong)} on the server, or accept it with"
                " ?durability=relaxed in the URL",
                code="not_durable",
            )


def _constraint(number: int, text: str, where: str) -> Error:
    """`Duplicate entry '7' for key 'name'` → `unique_violated` with constraint="name", without the values."""
    code, pattern = _CONSTRAINTS[number]
    match = re.search(pattern, text)
    constraint = match[1] if match is not None else ""
    what = text if code == "trigger_refused" else f"{code.replace('_', ' ')}: {constraint}"
    message = f"{where}: {what}"
    if code == "null_violated":
        return Invalid(message, code=code, constraint=constraint)
    return Conflict(message, code=code, constraint=constraint)


def _ours(error: BaseException, where: str, sql: str) -> Error:
    """What the driver says before anything is sent."""
    if isinstance(error, ValueError | OverflowError | UnicodeError):
        return Invalid(f"database {where} cannot hold a value: {error}", code="out_of_range", sql=sql)
    return Internal(f"database {where}: {type(error).__name__}: {error} in {sql!r}", code="bad_sql", sql=sql)


def _tuple(parameters: Sequence[Value]) -> tuple[Value, ...]:
    return parameters if type(parameters) is tuple else tuple(parameters)


def _uniform(rows: Sequence[Sequence[Value]]) -> bool:
    """Whether each column has values of one type, as MariaDB's bulk protocol wants it."""
    try:
        columns = list(zip(*rows, strict=True))
    except ValueError:
        return False
    return bool(columns) and all(len(set(map(type, column)) - {NoneType}) == 1 for column in columns)


def _plain(value: object) -> Value:
    """Numbers with a point as the other engines give them; times as text."""
    if isinstance(value, Decimal):
        return plain_number(value)
    return value if value is None or isinstance(value, int | float | str | bytes) else str(value)
