"""Frames: many requests, and for each its reply or its own error."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.samples import INT64, TEXT, Line, Order, Orders, PlaceOrder, State

from dougong.contract import BatchReply, BatchRequest, batch_codec, codec, describe
from dougong.errors import FAMILIES, Conflict, Error, Internal, Invalid, NotFound, Overloaded

PLACE, GET = describe(Orders).methods[:2]
frames = batch_codec(PLACE)

requests = st.lists(st.builds(PlaceOrder, user_id=TEXT, lines=st.lists(st.builds(Line, sku=TEXT, quantity=INT64))))
orders = st.builds(
    Order,
    order_id=TEXT,
    state=st.sampled_from(State),
    lines=st.lists(st.builds(Line, sku=TEXT, quantity=INT64), max_size=2),
    attributes=st.dictionaries(TEXT, TEXT, max_size=2),
)


@st.composite
def errors(draw: st.DrawFn) -> Error:
    kind = draw(st.sampled_from(sorted(FAMILIES.values(), key=lambda kind: kind.family)))
    retry_after_ms = draw(st.none() | st.integers(1, 10**6))
    error = kind(
        draw(TEXT),
        code=draw(st.text("abc_", min_size=1)),
        retry_after_s=None if retry_after_ms is None else retry_after_ms / 1000,
    )
    error.fields.update(draw(st.dictionaries(TEXT, TEXT, max_size=3)))
    return error


@given(requests, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.booleans())
def test_requests_come_through(items: list[PlaceOrder], batch: int, timeout_ms: int, traced: bool) -> None:
    traceparents = [f"00-{index}" for index in range(len(items))] if traced else []
    frame = frames.decode_request(frames.encode_request(batch, timeout_ms, items, traceparents))
    assert (frame.batch, frame.timeout_ms, frame.requests) == (batch, timeout_ms, items)
    assert frame.traceparents == traceparents


@given(st.lists(orders | errors(), max_size=8), st.integers(0, 1000))
def test_outcomes_come_through_with_their_places(outcomes: list[Order | Error], start: int) -> None:
    frame = frames.decode_reply(frames.encode_reply(7, outcomes, start))
    assert frame.batch == 7
    assert sorted(index for index, _ in frame.outcomes) == list(range(start, start + len(outcomes)))
    for index, outcome in frame.outcomes:
        sent = outcomes[index - start]
        assert outcome == sent
        if isinstance(sent, Error):
            assert isinstance(outcome, Error)
            assert outcome.retry_after_s == sent.retry_after_s


def test_values_in_errors_arrive_as_text() -> None:
    sent = Conflict("3 left", code="insufficient_stock", available=3, sku="kettle", final=True)
    ((_, received),) = frames.decode_reply(frames.encode_reply(1, [sent])).outcomes
    assert isinstance(received, Conflict)
    assert received.fields == {"available": "3", "sku": "kettle", "final": "True"}


def test_an_error_gets_through_whatever_its_text() -> None:
    sent = Internal("half a pair: \ud800", path="\udc80")
    ((_, received),) = frames.decode_reply(frames.encode_reply(1, [sent])).outcomes
    assert isinstance(received, Internal)
    assert received.message == "half a pair: ?"


def test_a_wait_is_rounded_to_milliseconds() -> None:
    """1.001 × 1000 is a little less than 1001."""
    ((_, received),) = frames.decode_reply(frames.encode_reply(1, [Overloaded("", retry_after_s=1.001)])).outcomes
    assert isinstance(received, Overloaded)
    assert received.retry_after_s == 1.001


def test_a_long_wait_is_capped_not_refused() -> None:
    ((_, received),) = frames.decode_reply(frames.encode_reply(1, [Overloaded("", retry_after_s=1e12)])).outcomes
    assert isinstance(received, Overloaded)
    assert received.retry_after_s == (2**32 - 1) / 1000


def test_an_unreadable_item_spoils_only_itself() -> None:
    """A newer peer knows a state that this contract does not: field 2 of the second reply is 99."""
    order = Order(order_id="1", state=State.PLACED, lines=[])
    newer = codec(Order).encode(order).replace(b"\x10\x01", b"\x10\x63")
    data = frames.encode_reply(3, [order]) + _reply(newer, 1) + frames.encode_reply(3, [NotFound("gone")], 2)
    outcomes = dict(frames.decode_reply(data).outcomes)
    assert (outcomes[0], outcomes[2]) == (order, NotFound("gone"))
    assert isinstance(outcomes[1], Invalid)
    assert outcomes[1].message == "state has the unknown value 99; one of placed, delivered is known"


def _reply(data: bytes, index: int) -> bytes:
    return b"\x10" + bytes([index]) + b"\x1a" + bytes([len(data)]) + data


def test_an_unreadable_request_is_an_error_in_its_place() -> None:
    too_many = codec(PlaceOrder).encode(PlaceOrder(lines=[Line(sku="", quantity=0)] * 101))
    good = PlaceOrder(lines=[Line(sku="a", quantity=1)])
    data = frames.encode_request(1, 5, [good]) + b"\x22" + bytes([0x80 | len(too_many) & 0x7F, len(too_many) >> 7])
    frame = frames.decode_request(data + too_many)
    assert frame.requests[0] == good
    assert isinstance(frame.requests[1], Invalid)
    assert frame.requests[1].fields == {"field": "lines"}


def test_values_that_cannot_travel_are_named_with_their_place() -> None:
    items = [PlaceOrder(lines=[Line(sku="a", quantity=1)]), PlaceOrder(lines=[Line(sku="a", quantity=2**63)])]
    with pytest.raises(Invalid, match=r"requests\[1\].lines\[0\].quantity does not fit 64 bits"):
        frames.encode_request(1, 1, items)
    with pytest.raises(Invalid, match=r"replies\[5\].lines\[0\].quantity does not fit 64 bits"):
        frames.encode_reply(1, [NotFound(""), Order(order_id="", state=State.PLACED, lines=items[1].lines)], start=4)


def test_frames_that_contradict_themselves() -> None:
    with pytest.raises(Invalid, match="1 traceparents for 0 requests") as caught:
        frames.decode_request(b"\x1a\x01x")
    assert caught.value.code == "malformed"
    with pytest.raises(Invalid, match="1 indexes for 0 replies") as caught:
        frames.decode_reply(b"\x10\x01")
    assert caught.value.code == "malformed"


def test_only_batched_methods_have_frames() -> None:
    with pytest.raises(TypeError, match=r"sample.v1.Orders.get is not batched: declare it with @batched"):
        batch_codec(GET)


def test_frames_are_built_once() -> None:
    assert batch_codec(PLACE) is frames


@pytest.mark.fuzz
@given(st.binary(max_size=100), st.booleans())
def test_arbitrary_bytes_are_a_frame_or_invalid(data: bytes, whole: bool) -> None:
    good = b"" if whole else frames.encode_request(1, 1, [PlaceOrder(lines=[Line(sku="a", quantity=1)])])
    for decode in (frames.decode_request, frames.decode_reply):
        with contextlib.suppress(Invalid):
            decode(good + data)


@pytest.mark.parametrize("frame_of", [lambda e: BatchRequest(1, 0, [e], []), lambda e: BatchReply(1, [(0, e)])])
def test_an_error_raised_where_its_frame_is_held_keeps_nothing_alive(
    frame_of: Callable[[Error], BatchRequest | BatchReply],
) -> None:
    class Marker:
        pass

    def receive() -> weakref.ref[Marker]:
        marker = Marker()
        error = NotFound("gone")
        frame = frame_of(error)
        with contextlib.suppress(NotFound):
            raise error  # its traceback holds this function's variables, and so the frame that holds it
        assert frame is not None
        return weakref.ref(marker)

    kept = receive()
    gc.collect()
    assert kept() is None
