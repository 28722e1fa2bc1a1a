"""Log lines as a person reads them, whatever a process prints."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.app import LogLine, printable, read_log_line


def test_a_line_of_our_own_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    line = read_log_line(
        '{"time":"2026-01-02T03:04:05.123456Z","level":"warning","app":"orders","logger":"dougong.store",'
        '"event":"slow","held_ms":64,"unit":"seed it","where":null,"trace_id":"abc","span_id":"def"}'
    )
    assert (line.level, line.event) == ("warning", "slow")
    assert line.time.endswith(":04:05") or line.time.count(":") == 2  # the hour is the reader's
    assert line.fields == {"held_ms": "64", "unit": '"seed it"', "where": "null", "trace_id": "abc"}
    assert str(line) == 'warning: slow held_ms=64 unit="seed it" where=null trace_id=abc'


@pytest.mark.parametrize(
    "text", ["", "hello", "{", "{}", "[1]", '{"event":"x"}', '{"event":1,"message":2}', "null", "Traceback (most"]
)
def test_anything_else_stays_as_it_is(text: str) -> None:
    assert read_log_line(text) == LogLine(text)
    assert str(read_log_line(text)) == text


def test_a_traceback_becomes_lines_of_its_own() -> None:
    text = json.dumps({"event": "failed", "level": "error", "exception": "Traceback:\n  File x\nRuntimeError: no"})
    line = read_log_line(text)
    assert line.details == ("Traceback:", "  File x", "RuntimeError: no")
    assert str(line).count("\n") == 3


def test_what_a_client_sent_cannot_move_the_cursor() -> None:
    text = json.dumps({"event": "login \x1b[2J", "level": "info", "name": "a\r\nb \x07"})
    line = read_log_line(text)
    assert line.event == "login \\x1b[2J"
    assert line.fields == {"name": '"a\\r\\nb \\u0007"'}
    assert read_log_line("plain \x1b[31m").event == "plain \\x1b[31m"


@given(st.text())
def test_printable_is(text: str) -> None:
    assert all(c.isprintable() or c == "\t" for c in printable(text))
    if text.isprintable():
        assert printable(text) == text


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5)))
def test_no_document_is_too_odd(document: dict[str, object]) -> None:
    for extra in ({}, {"event": "x", "level": "info"}):
        line = read_log_line(json.dumps({**document, **extra}))
        assert all(c.isprintable() or c in "\t\n" for c in str(line))


@given(st.text() | st.binary().map(lambda data: data.decode(errors="replace")))
def test_no_text_is_too_odd(text: str) -> None:
    assert isinstance(str(read_log_line(text)), str)
