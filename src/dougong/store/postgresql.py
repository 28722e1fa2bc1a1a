"""PostgreSQL through psycopg 3: binary values, prepared statements, many rows per statement or pipelined."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.adapt import Buffer, Loader
from psycopg.types.numeric import Int8BinaryDumper

from dougong.errors import Conflict, Error, Internal, Invalid, Unavailable
from dougong.store._chunks import by_size, by_twos
from dougong.store._link import Link, Verdict
from dougong.store._numbers import plain_number
from dougong.store._placeholders import Statements
from dougong.store._protocol import Migration, Row, Value
from dougong.store._server_migrate import migrate_at_once
from dougong.store._server_url import ServerOptions
from dougong.store._tx import NOT_YOURS

__all__ = ["PostgreSQLEngine"]

P = TypeVar("P")
R = TypeVar("R")

PREPARED_MAX = 512  # per connection
TURN = 0x646F7567  # "doug": the advisory lock that writers of one database take in turn
_UNAVAILABLE = {
    "53100": ("disk_full", "the disk is full; free space, writes go on then"),
    "53200": ("out_of_memory", "the server has no memory left for it"),
    "53300": ("too_many_connections", "raise max_connections, or lower readers in the URL"),
    "55P03": ("locked", "another connection holds a lock; see pg_stat_activity"),
    "57014": ("statement_timeout", "ask for less at once, or raise statement_timeout_s in its URL"),
    "58030": ("io_error", "the disk refused; look into the server's log"),
    "58P01": ("io_error", "a file is missing; look into the server's log"),
    "XX001": ("corrupt", "its content is damaged; restore a backup"),
    "XX002": ("corrupt", "an index is damaged; REINDEX it, or restore a backup"),
    "42501": ("access_denied", "this user has no right to it; GRANT it"),
}
_CONSTRAINTS = {
    "23502": "null_violated",
    "23503": "foreign_key_violated",
    "23505": "unique_violated",
    "23514": "check_violated",
    "23P01": "exclusion_violated",
    "P0001": "trigger_refused",
}
_LOST = ("08", "25P03", "57P01", "57P02", "57P03", "57P05")
_STALE_PLAN = "cached plan must not change result type"


class PostgreSQLLink:
    """One connection."""

    last_sql = ""

    def __init__(self, connection: psycopg.AsyncConnection[Row], statements: Statements) -> None:
        self.guarded = False
        self._connection = connection
        self._pgconn = connection.pgconn
        self._control = connection.cursor()
        self._cursor = connection.cursor(binary=True)
        self._statements = statements
        self._marked = False

    @property
    def usable(self) -> bool:
        return not self._connection.closed and self._pgconn.pipeline_status == pq.PipelineStatus.OFF

    @property
    def failed(self) -> bool:
        return self._pgconn.transaction_status == pq.TransactionStatus.INERROR

    async def control(self, sql: str) -> None:
        self._marked = False
        # Not prepared: the driver forgets all prepared statements after a ROLLBACK that was.
        await self._control.execute(sql.encode(), prepare=False)

    async def execute(self, sql: str, parameters: Sequence[Value]) -> int:
        if self.guarded:
            return await self._guard(self._execute, sql, parameters)
        return await self._execute(sql, parameters)

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> int:
        if self.guarded:
            return await self._guard(self._execute_many, sql, rows)
        return await self._execute_many(sql, rows)

    async def fetch(self, sql: str, parameters: Sequence[Value]) -> list[Row]:
        if self.guarded:
            return await self._guard(self._fetch, sql, parameters)
        return await self._fetch(sql, parameters)

    def abort(self) -> None:
        self._pgconn.finish()

    async def _execute(self, sql: str, parameters: Sequence[Value]) -> int:
        cursor = self._cursor
        await cursor.execute(self._text(sql, parameters), parameters)
        return 0 if cursor.statusmessage is None or cursor.statusmessage[:6] == "SELECT" else max(cursor.rowcount, 0)

    def _text(self, sql: str, parameters: Sequence[Value]) -> bytes:
        statement = self._statements.get(sql)
        if len(parameters) != statement.marks:  # the server's word for it would be that the protocol is violated
            raise TypeError(f"{len(parameters)} values for {statement.marks} question marks")
        return statement.text.encode()

    async def _execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> int:
        cursor, statement = self._cursor, self._statements.get(sql)
        changed = 0
        for row in rows:
            if len(row) != statement.marks:
                self._text(sql, row)
        if statement.rows is not None:
            for part in by_twos(rows, statement.marks):
                text = self._statements.many(sql, len(part))
                await cursor.execute(text.encode(), [value for row in part for value in row], prepare=True)
                changed += cursor.rowcount
            return changed
        for part in by_size(rows):
            await cursor.executemany(statement.text.encode(), part)
            changed += max(cursor.rowcount, 0)
        return changed

    async def _fetch(self, sql: str, parameters: Sequence[Value]) -> list[Row]:
        cursor = self._cursor
        await cursor.execute(self._text(sql, parameters), parameters)
        return await cursor.fetchall() if cursor.description is not None else []

    async def _guard(self, call: Callable[[str, P], Awaitable[R]], sql: str, parameters: P) -> R:
        await self._control.execute(
            b"RELEASE SAVEPOINT statement; SAVEPOINT statement" if self._marked else b"SAVEPOINT statement",
            prepare=False,
        )
        self._marked = True
        try:
            return await call(sql, parameters)
        except BaseException:
            if self.failed:
                await self._control.execute(b"ROLLBACK TO SAVEPOINT statement", prepare=False)
            raise


class PostgreSQLEngine:
    """One database on a PostgreSQL server."""

    begin = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_advisory_xact_lock({TURN}, 1)"
    begin_snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    refused = (NOT_YOURS - {"PRAGMA", "ATTACH", "DETACH"}) | frozenset(
        "START ABORT SET RESET DISCARD PREPARE EXECUTE DEALLOCATE LISTEN UNLISTEN COPY CALL CLUSTER CHECKPOINT".split()  # noqa: SIM905
    )

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._statements = Statements("postgresql")

    async def connect(self, *, reads_only: bool = False) -> Link:
        options = self.options
        settings = {
            # For this session, whatever the server's default: acknowledged means synced.
            "synchronous_commit": "on" if options.durability == "full" else "off",
            "statement_timeout": f"{options.statement_timeout_s * 1000:.0f}",
            # A process that stopped in mid-unit must not keep the turn for ever.
            "idle_in_transaction_session_timeout": f"{options.statement_timeout_s * 1000:.0f}",
            "lock_timeout": f"{options.lock_timeout_s * 1000:.0f}",
            "default_transaction_read_only": "on" if reads_only else "off",
            # A plan made when a table was empty reads all of it when it is full: plan for the table as it is.
            "plan_cache_mode": "force_custom_plan",
            "timezone": "UTC",
            "application_name": "dougong",
        }
        connection = await psycopg.AsyncConnection.connect(
            host=options.socket or options.host,
            port=options.port,
            user=options.user or None,
            password=options.password.reveal() or None,
            dbname=options.database,
            connect_timeout=max(2, round(options.connect_timeout_s)),
            options=" ".join(f"-c {name}={value}" for name, value in settings.items()),
            autocommit=True,
            cursor_factory=psycopg.AsyncRawCursor,
            sslmode="verify-full" if options.tls_ca else None,
            sslrootcert=options.tls_ca or None,
        )
        connection.prepared_max = PREPARED_MAX
        connection.prepare_threshold = 2
        _adapt(connection)
        link = PostgreSQLLink(connection, self._statements)
        try:
            if not reads_only and options.durability == "full":
                await self._check_durability(link)
        except BaseException:
            link.abort()
            raise
        return link

    async def prepare(self, link: Link) -> None:
        pass  # an advisory lock needs no table

    async def migrate(self, link: Link, owner: str, migrations: Sequence[Migration], now_us: int) -> int:
        return await migrate_at_once(link, self, owner, migrations, now_us)

    def judge(self, error: BaseException, sql: str = "") -> Verdict:
        if isinstance(error, Error):
            return Verdict(error)
        where = self.options.where
        if not isinstance(error, psycopg.Error | OSError):
            return Verdict(_ours(error, where, sql))
        state = getattr(error, "sqlstate", None) or ""
        text = str(error).partition("\n")[0].strip() or type(error).__name__
        if state.startswith(_LOST) or (not state and isinstance(error, OSError | psycopg.OperationalError)):
            fault = Unavailable(
                f"database {where}: {text}; check that the server runs, it is tried again",
                code="connection_lost",
                retry_after_s=1.0,
            )
            return Verdict(fault, lost=True)
        if not state:
            return Verdict(_ours(error, where, sql))
        if state == "0A000" and _STALE_PLAN in text:  # somebody changed a table under our prepared statements
            fault = Unavailable(f"database {where}: {text}", code="schema_changed", retry_after_s=0.1)
            return Verdict(fault, lost=True, again=True)
        if state in ("40001", "40P01"):
            return Verdict(Unavailable(f"database {where}: {text}", code="deadlock", retry_after_s=0.1), again=True)
        if state == "25006":
            return Verdict(self._read_only(text, sql))
        if state in _UNAVAILABLE:
            code, remedy = _UNAVAILABLE[state]
            return Verdict(Unavailable(f"database {where}: {text}: {remedy}", code=code, retry_after_s=1.0))
        if state.startswith("23") or state == "P0001":
            assert isinstance(error, psycopg.Error)
            return Verdict(_constraint(error, state, text, where), deferred=True)
        if state.startswith("22") or state in ("54000", "42804"):
            return Verdict(Invalid(f"database {where} cannot hold a value: {text}", code="out_of_range", sql=sql))
        return Verdict(Internal(f"database {where}: {state}: {text} in {sql!r}", code="bad_sql", sql=sql))

    def _read_only(self, text: str, sql: str) -> Error:
        if "read-only transaction" in text and sql:
            return Internal(f"database {self.options.where}: {text}", code="read_only_handle", sql=sql)
        return Unavailable(
            f"database {self.options.where}: {text}: point to the primary", code="read_only", retry_after_s=1.0
        )

    async def _check_durability(self, link: Link) -> None:
        rows = await link.fetch("SHOW fsync", ())
        if rows != [("on",)]:
            raise Invalid(
                f"database {self.options.where} does not sync at all, so it may lose what it acknowledged: set fsync=on"
                " on the server, or accept it with ?durability=relaxed in the URL",
                code="not_durable",
            )


def _constraint(error: psycopg.Error, state: str, text: str, where: str) -> Error:
    code = _CONSTRAINTS.get(state, "constraint_violated")
    constraint = error.diag.constraint_name or ""
    if code == "null_violated":
        constraint = f"{error.diag.table_name}.{error.diag.column_name}"
        return Invalid(f"{where}: {text}", code=code, constraint=constraint)
    return Conflict(f"{where}: {text}", code=code, constraint=constraint)


def _ours(error: BaseException, where: str, sql: str) -> Error:
    """What the driver says before anything is sent."""
    if isinstance(error, psycopg.DataError | ValueError | OverflowError | UnicodeError):
        return Invalid(f"database {where} cannot hold a value: {error}", code="out_of_range", sql=sql)
    return Internal(f"database {where}: {type(error).__name__}: {error} in {sql!r}", code="bad_sql", sql=sql)


# Values as a database holds them: whole numbers are always bigint, whatever size they happen to have, so that a
# statement is prepared once; what is neither number, text nor bytes comes as text.


def _adapt(connection: psycopg.AsyncConnection[Row]) -> None:
    adapters = connection.adapters
    adapters.register_dumper(int, Int8BinaryDumper)
    for name, loader in _LOADERS.items():
        adapters.register_loader(name, loader)


def _as(name: str, convert: Callable[[Any], Value]) -> type[Loader]:
    """A loader that makes a plain value of what psycopg's own would give."""
    inner = psycopg.adapters.get_loader(psycopg.adapters.types[name].oid, pq.Format.BINARY)
    assert inner is not None
    make = inner

    class Plain(Loader):
        format = pq.Format.BINARY

        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._load = make(oid, context).load

        def load(self, data: Buffer) -> Value:
            return convert(self._load(data))

    return Plain


class _Json(Loader):
    format = pq.Format.BINARY

    def load(self, data: Buffer) -> str:
        return bytes(data).decode()


class _Jsonb(Loader):
    format = pq.Format.BINARY

    def load(self, data: Buffer) -> str:
        return bytes(data[1:]).decode()  # the first byte is the format's version


_LOADERS: dict[str, type[Loader]] = {
    "numeric": _as("numeric", plain_number),
    "json": _Json,
    "jsonb": _Jsonb,
    **{name: _as(name, str) for name in ("date", "time", "timetz", "timestamp", "timestamptz", "interval", "uuid")},
}
