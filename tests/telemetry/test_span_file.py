"""Spans on disk: complete lines, bounded size, and a disk that fails hurts nobody."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dougong.telemetry import close_tracing, configure_tracing, recorder, span
from dougong.telemetry.span_file import SpanFile


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_spans_arrive_complete_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "spans.jsonl"
    configure_tracing("orders", file=path)
    with span("outer") as current:
        with span("inner", items=3):
            pass
        current.fail(ValueError("no"))
    close_tracing()
    inner, outer = lines(path)
    assert inner == {
        "service": "orders",
        "trace_id": outer["trace_id"],
        "span_id": inner["span_id"],
        "parent_id": outer["span_id"],
        "name": "inner",
        "start_us": inner["start_us"],
        "duration_us": inner["duration_us"],
        "error": "",
        "attributes": {"items": 3},
    }
    assert (outer["error"], outer["parent_id"]) == ("ValueError: no", "")


def test_a_later_process_appends(tmp_path: Path) -> None:
    for _ in range(2):
        configure_tracing("orders", file=tmp_path / "spans.jsonl")
        with span("x"):
            pass
        close_tracing()
    assert len(lines(tmp_path / "spans.jsonl")) == 2


def test_the_file_is_turned_over_so_that_two_of_bounded_size_remain(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    file = SpanFile(path, service="t", bytes_max=30_000)
    for number in range(1000):
        with span("x", number=number) as current:
            pass
        file.write(current)
    file.close()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["spans.jsonl", "spans.jsonl.1"]
    part = 100 * 300  # what one write may overshoot by
    assert all(entry.stat().st_size <= 30_000 + part for entry in tmp_path.iterdir())
    numbers = [line["attributes"]["number"] for name in (".1", "") for line in lines(Path(str(path) + name))]
    assert numbers == list(range(numbers[0], 1000))
    assert file.dropped == 0


def test_text_without_utf8_form_is_written_escaped(tmp_path: Path) -> None:
    configure_tracing("orders", file=tmp_path / "spans.jsonl")
    with span("x", path="\udcff"):
        pass
    close_tracing()
    (line,) = lines(tmp_path / "spans.jsonl")
    assert line["attributes"] == {"path": r"'\udcff'"}


def test_a_full_queue_drops_and_counts_and_the_ring_still_has_all(tmp_path: Path) -> None:
    file = SpanFile(tmp_path / "spans.jsonl", service="t", bytes_max=1 << 20, queue_max=5)
    recorder().file = file
    # Faster than the thread's quarter second by far; were it to wake in between, fewer would be dropped.
    for _ in range(100):
        with span("x"):
            pass
    close_tracing()
    written = len(lines(tmp_path / "spans.jsonl"))
    assert file.dropped > 0
    assert written + file.dropped == 100
    assert len(recorder()) == 100


def test_a_disk_that_cannot_be_written_costs_spans_only(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file where a directory should be")
    configure_tracing("orders", file=tmp_path / "occupied" / "spans.jsonl")
    file = recorder().file
    assert file is not None
    for _ in range(150):
        with span("x"):
            pass
    close_tracing()
    assert file.dropped == 150
    assert len(recorder()) == 150


def test_writing_goes_on_when_the_disk_is_back_and_a_torn_line_stays_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spans.jsonl"
    # Driven by hand, on this thread, so that the moments of failure are exact.
    monkeypatch.setattr("threading.Thread.start", lambda self: None)
    file = SpanFile(path, service="t", bytes_max=1 << 20)
    real = os.write

    def full_disk(descriptor: int, data: memoryview) -> int:
        if full:
            raise OSError(28, "No space left on device")
        full.append(True)
        return real(descriptor, data[:40])

    full: list[bool] = []
    for attempt in range(3):
        with span(f"s{attempt}") as current:
            pass
        file.write(current)
        monkeypatch.setattr(os, "write", full_disk if attempt < 2 else real)
        file._flush()
    file._shut()
    torn, whole = path.read_text().splitlines()
    assert len(torn) == 40
    assert json.loads(whole)["name"] == "s2"
    assert file.dropped == 2
