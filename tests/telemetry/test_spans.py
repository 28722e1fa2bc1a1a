"""Spans: who is whose parent, what is recorded, and what must not be kept."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Conflict, Invalid
from dougong.telemetry import (
    Span,
    configure_tracing,
    continue_trace,
    current_trace,
    recorder,
    span,
    traceparent,
)
from dougong.telemetry import (
    render_prometheus as render,
)

REMOTE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REMOTE_UNSAMPLED = REMOTE[:-2] + "00"


def only() -> Span:
    (kept,) = recorder().spans()
    return kept


def test_outside_of_spans_there_is_no_trace() -> None:
    assert current_trace() is None
    assert traceparent() == ""


def test_a_span_is_recorded_with_name_attributes_and_times() -> None:
    with span("orders.place", items=3) as current:
        assert recorder().spans() == []
        assert current.duration_us == 0
        current.set("db.response.returned_rows", 2)
    kept = only()
    assert kept is current
    assert (kept.name, kept.error, kept.failed, kept.parent_id) == ("orders.place", "", False, "")
    assert kept.attributes == {"items": 3, "db.response.returned_rows": 2}
    assert kept.start_us > 1_700_000_000_000_000
    assert kept.duration_us >= 0
    assert len(kept.trace_id) == 32
    assert len(kept.span_id) == 16
    assert "orders.place" in repr(kept)


def test_an_attribute_may_be_called_name() -> None:
    with span("x", name="y"):
        pass
    assert only().attributes == {"name": "y"}


def test_inner_spans_are_children_and_the_outer_is_current_again_afterwards() -> None:
    with span("outer") as outer:
        before = current_trace()
        with span("inner") as inner:
            assert traceparent() == f"00-{outer.trace_id}-{inner.span_id}-01"
        assert current_trace() == before
    assert inner.parent_id == outer.span_id
    assert inner.trace_id == outer.trace_id
    assert [kept.name for kept in recorder().spans()] == ["inner", "outer"]
    assert current_trace() is None


def test_spans_side_by_side_start_traces_of_their_own() -> None:
    with span("a") as first:
        pass
    with span("b") as second:
        pass
    assert first.trace_id != second.trace_id
    assert recorder().spans(second.trace_id) == [second]


def test_an_error_is_noted_and_goes_on() -> None:
    with pytest.raises(Conflict), span("x"):
        raise Conflict("2 left", code="insufficient_stock")
    assert only().failed
    assert only().error == "insufficient_stock: 2 left"


def test_foreign_errors_are_named_and_cut_to_a_bearable_length() -> None:
    with pytest.raises(KeyError), span("x"):
        raise KeyError("k" * 10_000)
    assert only().error.startswith("KeyError: 'kkk")
    assert len(only().error) == 500


def test_an_error_that_cannot_be_printed_is_still_the_error_that_arrives() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(Broken), span("x"):
        raise Broken
    assert only().error == "Broken"


def test_a_span_can_fail_without_an_exception_leaving_it() -> None:
    configure_tracing("test", ratio=0.0)
    with span("x") as current:
        current.fail(Invalid("bad", code="bad_item"))
    assert only().error == "bad_item: bad"


# ------------------------------------------------------------------------------------------------------------ sampling


def test_with_ratio_zero_only_errors_are_recorded() -> None:
    configure_tracing("test", ratio=0.0)
    with span("fine"):
        assert traceparent().endswith("-00")
    with pytest.raises(ValueError, match="no"), span("outer"), span("inner"):
        raise ValueError("no")
    assert [kept.name for kept in recorder().spans()] == ["inner", "outer"]
    assert not any(kept.sampled for kept in recorder().spans())


async def test_cancellation_is_noted_but_not_worth_keeping_an_unsampled_span() -> None:
    async def work(name: str) -> None:
        with span(name):
            await asyncio.Event().wait()

    for ratio, name in ((0.0, "unsampled"), (1.0, "sampled")):
        configure_tracing("test", ratio=ratio)
        task = asyncio.create_task(work(name))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (only().name, only().error, only().failed) == ("sampled", "CancelledError", False)


@given(st.floats(0, 1))
def test_the_decision_follows_from_the_trace_id_so_all_processes_agree(ratio: float) -> None:
    configure_tracing("test", ratio=ratio)
    for _ in range(20):
        with span("x") as current:
            pass
        # OpenTelemetry's rule: the low 56 bits are the randomness, kept at or above the rejection threshold.
        assert current.sampled == (int(current.trace_id[-14:], 16) >= round((1 - ratio) * 2**56))


def test_the_ratio_is_kept() -> None:
    configure_tracing("test", ratio=0.25)
    sampled = 0
    for _ in range(4000):
        with span("x") as current:
            sampled += current.sampled
    assert 800 < sampled < 1200  # 7 standard deviations either side


def test_inner_spans_do_not_decide_again() -> None:
    with span("outer"):
        configure_tracing("test", ratio=0.0)
        with span("inner") as inner:
            pass
    assert inner.sampled


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_outside_of_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(Invalid, match="ratio") as caught:
        configure_tracing("test", ratio=ratio)
    assert caught.value.code == "bad_ratio"


# --------------------------------------------------------------------------------------------------- other processes


def test_a_remote_trace_is_continued() -> None:
    with continue_trace(REMOTE):
        remote = current_trace()
        assert remote is not None
        assert traceparent() == REMOTE
        with span("here") as here:
            pass
    assert (here.trace_id, here.parent_id) == (remote.trace_id, remote.span_id)
    assert current_trace() is None


@pytest.mark.parametrize(("header", "recorded"), [(REMOTE, 1), (REMOTE_UNSAMPLED, 0)])
def test_the_remote_decision_holds_whatever_the_ratio_here(header: str, recorded: int) -> None:
    configure_tracing("test", ratio=0.5)
    with continue_trace(header), span("here"):
        pass
    assert len(recorder()) == recorded


@pytest.mark.parametrize("text", ["", "nonsense", REMOTE + "-more"])
def test_invalid_text_starts_a_new_trace_even_inside_another(text: str) -> None:
    with span("outer") as outer:
        with continue_trace(text):
            assert current_trace() is None
            assert traceparent() == ""
            with span("inner") as inner:
                pass
        assert traceparent().split("-")[1] == outer.trace_id
    assert inner.trace_id != outer.trace_id
    assert inner.parent_id == ""


# ------------------------------------------------------------------------------------------------------------- tasks


async def test_tasks_started_in_a_span_belong_to_it_and_do_not_disturb_each_other() -> None:
    async def work(name: str) -> str:
        with span(name) as current:
            await asyncio.sleep(0)
            assert traceparent().split("-")[2] == current.span_id
        return current.parent_id

    with span("outer") as outer:
        parents = await asyncio.gather(*(work(f"task-{number}") for number in range(5)))
    assert parents == [outer.span_id] * 5


async def test_a_generator_closed_by_somebody_else_does_no_harm() -> None:
    async def stream() -> AsyncIterator[int]:
        with span("stream"):
            yield 1

    iterator = stream()
    # Entered in a task with a context of its own, closed in this one: resetting the variable here is impossible.
    assert await asyncio.create_task(anext(iterator)) == 1  # type: ignore[arg-type]
    with span("mine") as mine:
        await iterator.aclose()  # type: ignore[attr-defined]
        assert traceparent().split("-")[2] == mine.span_id
    assert [kept.name for kept in recorder().spans()] == ["stream", "mine"]


# ------------------------------------------------------------------------------------------------------------ bounds


def test_the_ring_keeps_the_newest() -> None:
    configure_tracing("test", ring=3)
    recorded = recorder().recorded
    for number in range(5):
        with span(f"s{number}"):
            pass
    assert [kept.name for kept in recorder().spans()] == ["s2", "s3", "s4"]
    assert recorder().recorded == recorded + 5
    assert recorder().limit == 3
    assert f"\ndougong_spans_recorded_total {recorded + 5}\n" in render()


def test_a_smaller_ring_keeps_the_newest_of_what_is_there() -> None:
    for number in range(5):
        with span(f"s{number}"):
            pass
    configure_tracing("test", ring=2)
    assert [kept.name for kept in recorder().spans()] == ["s3", "s4"]
    with pytest.raises(Invalid, match="at least 1"):
        configure_tracing("test", ring=0)


def test_a_recorded_span_does_not_hold_on_to_its_ancestors() -> None:
    with span("outer"), span("inner") as inner:
        pass
    assert not [held for held in gc.get_referents(inner) if isinstance(held, Span)]
    assert inner._token is None


def test_a_span_is_entered_once() -> None:
    used = span("x")
    with used:
        pass
    with pytest.raises(AssertionError):
        used.__exit__(None, None, None)


def test_ids_do_not_repeat_when_somebody_seeds_the_global_generator() -> None:
    ids = set()
    for _ in range(3):
        random.seed(1)
        with span("x") as current:
            ids.add(current.trace_id)
    assert len(ids) == 3
