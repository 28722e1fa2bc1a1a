"""Question marks that are parameters, and those that are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Internal
from dougong.store._chunks import PACKET_BYTES_MAX, by_size, by_twos
from dougong.store._placeholders import Statements, split
from dougong.store._server_url import redacted

MYSQL, POSTGRESQL = Statements("mysql"), Statements("postgresql")


@pytest.mark.parametrize(
    ("sql", "mysql", "postgresql"),
    [
        ("SELECT ?", "SELECT %s", "SELECT $1"),
        ("SELECT ?, ? FROM t WHERE a = ?", "SELECT %s, %s FROM t WHERE a = %s", "SELECT $1, $2 FROM t WHERE a = $3"),
        ("SELECT '?', ?", "SELECT '?', %s", "SELECT '?', $1"),
        ("SELECT 'it''s ?', ?", "SELECT 'it''s ?', %s", "SELECT 'it''s ?', $1"),
        ('SELECT "a?", ?', 'SELECT "a?", %s', 'SELECT "a?", $1'),
        ("SELECT ? -- ?\n, ?", "SELECT %s -- ?\n, %s", "SELECT $1 -- ?\n, $2"),
        ("SELECT /* ? */ ?", "SELECT /* ? */ %s", "SELECT /* ? */ $1"),
        ("SELECT 7 % ? -- 100%", "SELECT 7 %% %s -- 100%%", "SELECT 7 % $1 -- 100%"),
        ("SELECT '50%', ?;", "SELECT '50%%', %s", "SELECT '50%', $1"),
    ],
)
def test_parameters_are_marked_as_drivers_want_it(sql: str, mysql: str, postgresql: str) -> None:
    assert MYSQL.get(sql).text == mysql
    assert POSTGRESQL.get(sql).text == postgresql
    assert MYSQL.get(sql).marks == POSTGRESQL.get(sql).marks == mysql.count("%s")


def test_each_has_its_own_way_to_quote() -> None:
    assert MYSQL.get(r"SELECT 'a\'?', ?, `b?` # ?").text == r"SELECT 'a\'?', %s, `b?` # ?"
    assert MYSQL.get("SELECT 5--?").text == "SELECT 5--%s"  # minus minus, not a comment
    assert POSTGRESQL.get(r"SELECT 'a\', ?").text == r"SELECT 'a\', $1"
    assert POSTGRESQL.get(r"SELECT E'a\'?', ?").text == r"SELECT E'a\'?', $1"
    assert POSTGRESQL.get("SELECT $x$ ? ' $x$, $$ ? $$, ?").text == "SELECT $x$ ? ' $x$, $$ ? $$, $1"


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "SELECT 1; COMMIT", "SELECT ';'; x", "SELECT 1; /* */ ;x"])
def test_one_statement_at_a_time(sql: str) -> None:
    for statements in (MYSQL, POSTGRESQL):
        with pytest.raises(Internal, match="one statement"):
            statements.get(sql)


@pytest.mark.parametrize(
    ("sql", "two"),
    [
        ("INSERT INTO t (a, b) VALUES (?, ?)", "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4)"),
        (
            "insert into t values (?, 1, lower(?)) -- x",
            "insert into t values ($1, 1, lower($2)), ($3, 1, lower($4)) -- x",
        ),
        ("INSERT INTO t VALUES (?) ON CONFLICT DO NOTHING", "INSERT INTO t VALUES ($1), ($2) ON CONFLICT DO NOTHING"),
    ],
)
def test_rows_travel_together(sql: str, two: str) -> None:
    assert POSTGRESQL.many(sql, 2) == two
    assert POSTGRESQL.many(sql, 1) == POSTGRESQL.get(sql).text


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET a = ? WHERE b = ?",
        "INSERT INTO t SELECT ?",
        "INSERT INTO t (a) SELECT a FROM u WHERE b IN (VALUES (?))",
        "INSERT INTO t VALUES (1)",
        "INSERT INTO t VALUES (?), (?)",
        "INSERT INTO t VALUES (?), (1)",
        "INSERT INTO t VALUES (?) RETURNING a",
        "INSERT INTO t VALUES (?) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
        "INSERT INTO t VALUES (?) ON CONFLICT (a) DO NOTHING RETURNING ?",
    ],
)
def test_rows_that_must_not(sql: str) -> None:
    assert POSTGRESQL.get(sql).rows is None


def test_mysql_updates_row_by_row_within_one_statement() -> None:
    sql = "INSERT INTO t (a, b) VALUES (?, ?) ON DUPLICATE KEY UPDATE b = VALUES(b), c = c + 1"
    assert MYSQL.many(sql, 2) == sql.replace("(?, ?)", "(%s, %s), (%s, %s)")
    assert MYSQL.get(sql.replace("c + 1", "c + ?")).rows is None


_text = st.text(st.sampled_from("ab?%'\"-/*; \n"), max_size=12)


@given(st.lists(st.one_of(_text.map(lambda text: "'" + text.replace("'", "''") + "'"), st.just("?")), max_size=8))
def test_text_is_never_touched(pieces: list[str]) -> None:
    sql = "SELECT " + ", ".join(pieces)
    marks = iter(range(1, 100))
    assert POSTGRESQL.get(sql).text == "SELECT " + ", ".join(f"${next(marks)}" if p == "?" else p for p in pieces)
    assert MYSQL.get(sql).text % tuple("?" * pieces.count("?")) == sql


def test_scripts_are_split() -> None:
    script = "-- a; b\nCREATE TABLE a (b TEXT DEFAULT ';');\nCREATE FUNCTION f() AS $$ x; y $$; ;; /* ; */\nSELECT 1"
    assert [piece.split()[-1] for piece in split(script, "postgresql")] == ["';')", "$$", "1"]
    assert split("-- nothing", "postgresql") == split(" ; ", "postgresql") == []


@given(st.integers(0, 5000), st.integers(1, 40))
def test_chunks_are_few_sizes_and_lose_nothing(count: int, marks: int) -> None:
    rows = [(i,) for i in range(count)]
    parts = list(by_twos(rows, marks))
    assert [row for part in parts for row in part] == rows
    assert all(len(part).bit_count() == 1 and len(part) * marks <= 16_384 for part in parts)
    assert len(parts) <= count // (16_384 // marks // 2 + 1) + 14


def test_large_values_travel_in_several_packets() -> None:
    rows = [(i, b"x" * (1 << 20)) for i in range(20)]
    parts = list(by_size(rows))
    assert [row for part in parts for row in part] == rows
    assert all(len(part) << 20 <= PACKET_BYTES_MAX for part in parts)
    assert [len(part) for part in by_size([(b"x" * (9 << 20),)] * 2)] == [1, 1]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mysql://user:s3cret@host/db", "mysql://user:***@host/db"),
        ("mysql://user:s3@cret@host/db", "mysql://user:***@host/db"),
        ("mysql://user:s3/cret@host/db", "mysql://user:***@host/db"),
        ("mysql://:s3cret@host/db", "mysql://:***@host/db"),
        ("mysql://user@host/db", "mysql://user@host/db"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("nonsense", "nonsense"),
    ],
)
def test_passwords_are_taken_out(url: str, shown: str) -> None:
    assert redacted(url) == shown
