"""Statements with `?` for servers that mark parameters otherwise: read once, remembered.

A question mark inside text, a quoted name or a comment is none of ours. The same reading finds what a unit must not
send (two statements at once) and the `VALUES (...)` of an INSERT, so that many rows can travel in one statement.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from dougong.errors import Internal

__all__ = ["Rows", "Statement", "Statements", "split"]

_KEPT_MAX = 4096  # statements; more means that somebody builds SQL from values

_MYSQL = re.compile(
    r"""(?P<skip>'(?:[^'\\]|''|\\.)*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|--(?=\s|\Z)[^\n]*|\#[^\n]*|/\*.*?\*/)"""
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_$]*)|(?P<sign>[?;(),%])",
    re.DOTALL,
)
_POSTGRESQL = re.compile(
    r"""(?P<skip>\b[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/"""
    r"|\$(?P<tag>[A-Za-z_][A-Za-z0-9_]*|)\$.*?\$(?P=tag)\$)"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_$]*)|(?P<sign>[?;(),%])",
    re.DOTALL,
)
_SCANNERS = {"mysql": _MYSQL, "postgresql": _POSTGRESQL}


class Rows(NamedTuple):
    """An INSERT taken apart: `head`, one `(...)` per row with parameters between its pieces, `tail`."""

    head: str
    pieces: tuple[str, ...]
    tail: str


class Statement(NamedTuple):
    """A statement as the driver takes it."""

    text: str
    marks: int
    rows: Rows | None
    """How to send many rows at once, if that means the same as sending them one by one."""


class Statements:
    """Translates and remembers, for one dialect. `%s` for MySQL's driver, `$1` for PostgreSQL's."""

    def __init__(self, dialect: str) -> None:
        self._scanner = _SCANNERS[dialect]
        self._numbered = dialect == "postgresql"
        self._known: dict[str, Statement] = {}
        self._many: dict[tuple[str, int], str] = {}

    def get(self, sql: str) -> Statement:
        """`Internal` (code `bad_sql`) for more than one statement."""
        known = self._known.get(sql)
        if known is None:
            if len(self._known) >= _KEPT_MAX:
                self._known.clear()
                self._many.clear()
            known = self._known[sql] = self._read(sql)
        return known

    def many(self, sql: str, count: int) -> str:
        """One statement for `count` rows; only for statements with `rows`."""
        text = self._many.get((sql, count))
        if text is None:
            rows = self.get(sql).rows
            assert rows is not None
            mark = self._marks()
            groups = []
            for _ in range(count):
                group = rows.pieces[0]
                for piece in rows.pieces[1:]:
                    group += mark() + piece
                groups.append(group)
            text = self._many[sql, count] = rows.head + ", ".join(groups) + rows.tail
        return text

    def _marks(self) -> Callable[[], str]:
        if not self._numbered:
            return lambda: "%s"
        number = 0

        def mark() -> str:
            nonlocal number
            number += 1
            return f"${number}"

        return mark

    def _read(self, sql: str) -> Statement:
        mark = self._marks()
        out: list[str] = []
        marks = depth = at = 0
        first = ""
        # The VALUES group: where it begins and ends in `out`, and the marks in it.
        values = start = end = -1
        inside: list[int] = []
        spoiled = ended = False
        for match in self._scanner.finditer(sql):
            out.append(self._literal(sql[at : match.start()]))
            at = match.end()
            sign = match[0]
            if match["skip"] is not None:
                out.append(self._literal(sign))
                continue
            if ended:
                raise Internal("one statement at a time, please", code="bad_sql", sql=sql)
            if match["word"] is not None:
                word = sign.upper()
                first = first or word
                if word in ("VALUES", "VALUE") and depth == 0 and values < 0:
                    values = len(out)
                elif end >= 0 and (word == "RETURNING" or (word == "UPDATE" and self._numbered)):
                    spoiled = True  # DO UPDATE refuses the same key twice in one statement; RETURNING wants its rows
                out.append(sign)
            elif sign == "?":
                marks += 1
                if start >= 0 and end < 0:
                    inside.append(len(out))
                else:
                    spoiled = True
                out.append(mark())
            elif sign == ";":
                ended = True
            else:
                out.append("%%" if sign == "%" and not self._numbered else sign)
                if sign == "(":
                    depth += 1
                    if depth == 1 and values >= 0 and start < 0:
                        start = len(out) - 1
                elif sign == ")":
                    depth -= 1
                    if depth == 0 and start >= 0 and end < 0:
                        end = len(out)
                elif sign == "," and depth == 0 and end >= 0 and not "".join(out[end:-1]).strip():
                    spoiled = True  # a second group of values
        out.append(self._literal(sql[at:]))
        rows = None
        if first in ("INSERT", "REPLACE") and end >= 0 and inside and not spoiled:
            pieces, since = [], start
            for position in inside:
                pieces.append("".join(out[since:position]))
                since = position + 1
            pieces.append("".join(out[since:end]))
            rows = Rows("".join(out[:start]), tuple(pieces), "".join(out[end:]))
        return Statement("".join(out), marks, rows)

    def _literal(self, text: str) -> str:
        return text if self._numbered else text.replace("%", "%%")


def split(sql: str, dialect: str) -> list[str]:
    """The single statements of a script, comments before them included."""
    found: list[str] = []
    since, empty = 0, True
    for match in _SCANNERS[dialect].finditer(sql):
        if match[0] == ";":
            if not empty:
                found.append(sql[since : match.start()].strip())
            since, empty = match.end(), True
        elif match["skip"] is None or not match[0].startswith(("--", "/*", "#")):
            empty = False
    if not empty:
        found.append(sql[since:].strip())
    return found
