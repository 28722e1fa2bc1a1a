"""Logs: one output for all, the ids of the span they were written in, and nothing that makes a log call fail."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from typing import Any

import pytest

from dougong.config import Secret
from dougong.errors import Invalid
from dougong.telemetry import configure_logging, get_logger, span

pytestmark = pytest.mark.usefixtures("logging_restored")

log = get_logger("dougong.test")  # as modules do: before anything is configured


class Output(io.StringIO):
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def out() -> Output:
    out = Output()
    configure_logging("orders", json=True, stream=out)
    return out


def test_a_line_says_when_how_bad_who_and_what(out: Output) -> None:
    log.warning("stock is low", sku="SKU-1", left=2)
    (line,) = out.lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "app": "orders",
        "logger": "dougong.test",
        "event": "stock is low",
        "sku": "SKU-1",
        "left": 2,
    }


def test_lines_carry_the_ids_of_their_span(out: Output) -> None:
    with span("x") as current:
        log.info("ours")
        logging.getLogger("a.library").info("theirs")
    log.info("outside")
    ours, theirs, outside = out.lines()
    for line in (ours, theirs):
        assert (line["trace_id"], line["span_id"]) == (current.trace_id, current.span_id)
    assert "trace_id" not in outside


def test_the_standard_librarys_logs_look_the_same(out: Output) -> None:
    logging.getLogger("a.library").error("cannot reach %s", "it")
    (line,) = out.lines()
    assert (line["app"], line["logger"], line["level"]) == ("orders", "a.library", "error")
    assert line["event"] == "cannot reach it"


def test_warnings_are_logged(out: Output) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = out.lines()
    assert line["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in line["event"]


def test_the_level_holds_for_both(out: Output) -> None:
    configure_logging("orders", json=True, level="error", stream=out)
    log.warning("no")
    logging.getLogger("a.library").warning("no")
    log.error("yes")
    logging.getLogger("a.library").error("yes")
    assert [line["event"] for line in out.lines()] == ["yes", "yes"]


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(Invalid, match="'loud' is unknown; use one of debug, info"):
        configure_logging("orders", json=True, level="loud")


def test_configured_again_it_replaces_and_does_not_double(out: Output) -> None:
    log.info("first")
    other = Output()
    configure_logging("stock", json=True, level="debug", stream=other)
    log.debug("second")
    logging.getLogger("a.library").debug("third")
    assert [line["event"] for line in out.lines()] == ["first"]
    assert [(line["app"], line["event"]) for line in other.lines()] == [("stock", "second"), ("stock", "third")]


def test_exceptions_are_told_without_local_variables(out: Output) -> None:
    password = "hush"
    try:
        raise RuntimeError("no")
    except RuntimeError:
        log.exception("failed")
        logging.getLogger("a.library").exception("failed")
    for line in out.lines():
        assert "RuntimeError: no" in line["exception"]
        assert "Traceback" in line["exception"]
        assert password not in line["exception"]
    out.truncate(0)
    configure_logging("orders", json=False, stream=out)
    try:
        raise RuntimeError("no")
    except RuntimeError:
        log.exception("failed")
    assert "RuntimeError: no" in out.getvalue()
    assert password not in out.getvalue()


@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_not_shown(as_json: bool) -> None:
    out = Output()
    configure_logging("orders", json=as_json, stream=out)
    log.info("connecting", password=Secret("hush"), nested={"password": Secret("hush")})
    assert "connecting" in out.getvalue()
    assert "***" in out.getvalue()
    assert "hush" not in out.getvalue()


@pytest.mark.parametrize(
    "value", ["\udcff", {"\udcff": 1}, {(1, 2): 3}, {1.5: object()}, object(), b"\xff", float("nan")]
)
def test_nothing_one_can_log_makes_the_call_fail(out: Output, value: object) -> None:
    log.info("odd", value=value)
    (line,) = out.lines()
    assert line["event"] == "odd"
    assert "value" in line


def test_a_line_is_one_line(out: Output) -> None:
    log.info('two\nlines", "level": "forged', value="a\nb")
    (line,) = out.lines()
    assert line["level"] == "info"


def test_for_people(out: Output) -> None:
    configure_logging("orders", json=False, stream=out)
    log.info("order placed", order="o-1")
    assert "order placed" in out.getvalue()
    assert "order=o-1" in out.getvalue()
    assert "\x1b" not in out.getvalue()  # no colours into a pipe


def test_before_anything_is_configured_a_traceback_shows_no_values() -> None:
    code = """
from dougong.telemetry import get_logger
def pay(password):
    raise ValueError("no")
try:
    pay("hunter" + "2")
except ValueError:
    get_logger("shop").exception("payment failed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "payment failed" in done.stderr
    assert "ValueError: no" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
