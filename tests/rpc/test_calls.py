"""Every shape of call, over both transports: results, errors, limits, identity, time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.rpc.conftest import Lab, closed_gate, until
from tests.rpc.example import Answer, Ask, Example

from dougong.contract import batch_codec, describe
from dougong.errors import (
    FAMILIES,
    DeadlineExceeded,
    Error,
    Internal,
    Invalid,
    NotFound,
    Overloaded,
    Unauthenticated,
)
from dougong.rpc import Caller, Metadata, call_scope, client, close_client
from dougong.telemetry import current_trace, span

METHODS = {method.attribute: method for method in describe(Example).methods}


async def numbers(count: int) -> AsyncIterator[Ask]:
    for number in range(count):
        yield Ask(number=number)


async def test_all_shapes(lab: Lab) -> None:
    server = await lab.serve(Example())
    remote = lab.call(server.address)
    assert await remote.get(Ask(text="kettle", number=3)) == Answer(text="kettle", number=3, owner="anyone")
    assert [answer.number async for answer in remote.down(Ask(number=4))] == [0, 1, 2, 3]
    assert (await remote.up(numbers(5))).number == 10
    assert [answer.number async for answer in remote.both(numbers(3))] == [0, 2, 4]
    assert (await remote.place(Ask(text="one"))).text == "one"
    assert await remote.place.many([]) == []


async def test_a_client_is_of_the_services_class_and_needs_nothing_of_its_making(lab: Lab) -> None:
    remote = lab.call("127.0.0.1:1")
    assert isinstance(remote, Example)
    assert describe(type(remote)).name == "test.v1.Example"
    await remote.start()
    await remote.stop()
    await close_client(remote)
    await close_client(remote)
    with pytest.raises(Invalid):
        await close_client(Example())


@pytest.mark.parametrize("family", sorted(FAMILIES))
async def test_errors_come_back_as_they_were(lab: Lab, family: str) -> None:
    remote = lab.call((await lab.serve(Example())).address)
    with pytest.raises(FAMILIES[family]) as caught:
        await remote.fail(Ask(text=family))
    error = caught.value
    assert type(error) is FAMILIES[family]
    assert (error.code, error.message, error.fields) == ("its_code", "what, where, remedy", {"sku": "kettle"})
    assert error.retry_after_s == 1.5


async def test_an_accident_tells_nothing_of_our_insides(lab: Lab) -> None:
    remote = lab.call((await lab.serve(Example())).address)
    with pytest.raises(Internal) as caught:
        await remote.fail(Ask())
    assert "detail" not in str(caught.value)
    with pytest.raises(Internal) as caught:
        await remote.wrong(Ask())
    assert caught.value.code == "not_encodable"
    outcome = (await remote.place.many([Ask(text="raise")]))[0]
    assert isinstance(outcome, Internal)
    assert "detail" not in str(outcome)


async def test_errors_in_streams(lab: Lab) -> None:
    remote = lab.call((await lab.serve(Example())).address)
    answers = remote.down(Ask(number=2, text="fail"))
    assert [(await anext(answers)).number for _ in range(2)] == [0, 1]
    with pytest.raises(NotFound) as caught:
        await anext(answers)
    assert caught.value.code == "no_more"
    with pytest.raises(Invalid):
        await remote.up(asked async for asked in _wrong())

    async def breaks() -> AsyncIterator[Ask]:
        yield Ask()
        raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        [_ async for _ in remote.both(breaks())]


async def _wrong() -> AsyncIterator[Ask]:
    yield Ask(number=1)
    yield Ask(number=-1)


async def test_what_is_wrong_with_one_item_fails_that_item(lab: Lab) -> None:
    service = Example()
    remote = lab.call((await lab.serve(service)).address)
    with pytest.raises(Invalid) as caught:
        await remote.get(Ask(number=-1))
    assert caught.value.code == "invalid_field"
    asked = [Ask(text="a"), Ask(number=-1), Ask(text="refuse", number=7), Ask(text="wrong"), Ask(text="b")]
    outcomes = await remote.place.many(asked)
    assert [getattr(outcome, "code", "ok") for outcome in outcomes] == [
        "ok",
        "invalid_field",
        "refused",
        "not_encodable",
        "ok",
    ]
    assert service.items == ["a", "refuse", "wrong", "b"], "the invalid one never reached the method"
    with pytest.raises(Invalid):
        await remote.place(Ask(text="refuse"))
    # A number no wire can carry spoils nobody else's call that rides in the same frame.
    bad, good = await asyncio.gather(
        remote.place.many([Ask(number=2**70), Ask(text="x")]), remote.place.many([Ask(text="y")])
    )
    assert [type(outcome).__name__ for outcome in [*bad, *good]] == ["Invalid", "Answer", "Answer"]
    short = (await remote.place.many([Ask(text="short")]))[0]
    assert isinstance(short, Internal)


async def test_lists_are_cut_into_batches_and_come_back_in_order(lab: Lab) -> None:
    service = Example()
    remote = lab.call((await lab.serve(service)).address)
    outcomes = await remote.place.many([Ask(number=number) for number in range(95)])
    assert [outcome.number for outcome in outcomes if isinstance(outcome, Answer)] == list(range(95))
    assert max(service.batches) == 10


async def test_concurrent_calls_ride_together(lab: Lab) -> None:
    service = Example()
    remote = lab.call((await lab.serve(service)).address, frames_per_stream=1)
    with closed_gate(service):
        first = asyncio.create_task(remote.place(Ask(text="first")))
        await until(lambda: service.entered == 1)
        rest = [asyncio.create_task(remote.place(Ask(text=str(i)))) for i in range(8)]
        await asyncio.sleep(0)
    await asyncio.gather(first, *rest)
    assert service.batches == [1, 8]


async def test_single_unary_calls_are_merged_on_the_server_but_never_across_callers(grpc_lab: Lab) -> None:
    """Clients in other languages call the plain form; the method still gets lists."""
    service = Example()
    server = await grpc_lab.serve(service, authenticator=lambda header: Caller(header or "nobody"))
    connection = grpc_lab.transport.connect(server.address)
    path, data = METHODS["place"].path, b""
    calls = [connection.unary(path, data, Metadata(authorization=name), 5) for name in ["anna"] * 4 + ["otto"] * 4]
    assert len(await asyncio.gather(*calls)) == 8
    assert sum(service.batches) == 8
    assert set(service.callers) == {Caller("anna"), Caller("otto")}
    await connection.close()


async def test_a_frame_over_the_limit_is_refused_whole_and_the_stream_goes_on(lab: Lab) -> None:
    service = Example()
    server = await lab.serve(service)
    frames = batch_codec(METHODS["place"])
    connection = lab.transport.connect(server.address)
    stream = await connection.stream(METHODS["place"].batch_path, Metadata(), None)
    await stream.send(frames.encode_request(7, 1000, [Ask()] * 10_000))
    reply = frames.decode_reply(await stream.receive() or b"")
    assert reply.batch == 7
    ((index, error),) = reply.outcomes
    assert index == 0xFFFF_FFFF
    assert isinstance(error, Invalid)
    assert error.code == "batch_too_large"
    assert service.batches == []
    await stream.send(frames.encode_request(8, 1000, [Ask(text="ok")]))
    reply = frames.decode_reply(await stream.receive() or b"")
    assert reply.batch == 8
    await stream.send(b"\xff\xff\xff\xff")
    with pytest.raises(Invalid) as caught:
        await stream.receive()
    assert caught.value.code == "malformed"
    await connection.close()


async def test_a_stream_with_its_window_full_is_not_read_further(lab: Lab) -> None:
    service = Example()
    server = await lab.serve(service, frames_per_stream=3)
    frames = batch_codec(METHODS["place"])
    connection = lab.transport.connect(server.address)
    stream = await connection.stream(METHODS["place"].batch_path, Metadata(), None)
    with closed_gate(service):
        for number in range(1, 9):
            await stream.send(frames.encode_request(number, 5000, [Ask(text=str(number))]))
        await until(lambda: service.entered == 3)
        await asyncio.sleep(0.05)
        assert service.entered == 3
    seen = {frames.decode_reply(await stream.receive() or b"").batch for _ in range(8)}
    assert seen == set(range(1, 9))
    await connection.close()


async def test_messages_over_the_limit_are_refused_in_both_directions(lab: Lab) -> None:
    server = await lab.serve(Example(), max_message_bytes=10_000)
    remote = lab.call(server.address)
    with pytest.raises(Invalid) as caught:
        await remote.get(Ask(text="x" * 20_000))
    assert caught.value.code == "message_too_large"
    with pytest.raises(Error) as answered:
        await remote.blob(Ask(number=20_000))
    assert answered.value.code == "message_too_large"
    assert (await remote.blob(Ask(number=9_000))).text == "x" * 9_000, "the connection is none the worse"
    # Replies of a batch that do not fit into one message come in several.
    outcomes = await remote.echo.many([Ask(text="y", number=2_000) for _ in range(50)])
    assert [len(outcome.text) for outcome in outcomes if isinstance(outcome, Answer)] == [2_000] * 50
    (outcome,) = await remote.echo.many([Ask(text="y", number=20_000)])
    assert isinstance(outcome, Internal)


async def test_a_client_cuts_frames_by_bytes_too(grpc_lab: Lab) -> None:
    service = Example()
    server = await grpc_lab.serve(service)
    remote = client(Example, server.address, max_message_bytes=10_000)
    try:
        outcomes = await remote.echo.many([Ask(text="z" * 3_000) for _ in range(20)] + [Ask(text="z" * 30_000)])
        assert sum(isinstance(outcome, Answer) for outcome in outcomes) == 20
        last = outcomes[-1]
        assert isinstance(last, Invalid)
        assert last.code == "message_too_large"
        assert max(service.batches) <= 3
    finally:
        await close_client(remote)


async def test_the_deadline_travels_and_shrinks(lab: Lab) -> None:
    remote = lab.call((await lab.serve(Example())).address)
    # gRPC rounds the timeout up on its way.
    assert 2000 < (await remote.budget(Ask())).number <= 3100, "the method's own"
    with call_scope(timeout_s=0.5):
        assert 200 < (await remote.budget(Ask())).number <= 600, "the caller's"
    with call_scope(timeout_s=0.0), pytest.raises(DeadlineExceeded):
        await remote.budget(Ask())


async def test_deadlines_pass_locally_and_stop_the_other_side(lab: Lab) -> None:
    service = Example()
    remote = lab.call((await lab.serve(service)).address)
    with closed_gate(service):
        with call_scope(timeout_s=0.1), pytest.raises(DeadlineExceeded):
            await remote.get(Ask())
        await until(lambda: service.cancelled == 1)
        with call_scope(timeout_s=0.1):
            outcomes = await remote.place.many([Ask(), Ask()])
        assert all(isinstance(outcome, DeadlineExceeded) for outcome in outcomes)
        await until(lambda: service.cancelled == 2)
        with call_scope(timeout_s=0.1), pytest.raises(DeadlineExceeded):
            [_ async for _ in remote.down(Ask(number=2, text="pause"))]
    assert (await remote.get(Ask(text="again"))).text == "again"


async def test_cancelling_a_call_cancels_the_method(lab: Lab) -> None:
    service = Example()
    remote = lab.call((await lab.serve(service)).address)
    with closed_gate(service):
        call = asyncio.create_task(remote.get(Ask()))
        await until(lambda: service.entered == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: service.cancelled == 1)


async def test_leaving_a_stream_early_closes_it(lab: Lab) -> None:
    service = Example()
    remote = lab.call((await lab.serve(service)).address)
    answers = remote.down(Ask(number=1_000_000))
    async for answer in answers:
        if answer.number == 3:
            break
    await answers.aclose()  # type: ignore[attr-defined]
    await until(lambda: service.items == ["closed"])


async def test_cancelling_a_batched_caller_leaves_its_neighbours_alone(lab: Lab) -> None:
    service = Example()
    remote = lab.call((await lab.serve(service)).address)
    with closed_gate(service):
        calls = [asyncio.create_task(remote.place(Ask(text=str(i)))) for i in range(3)]
        await until(lambda: service.entered == 1)
        calls[1].cancel()
    assert (await calls[0]).text == "0"
    assert (await calls[2]).text == "2"
    assert (await remote.place(Ask(text="next"))).text == "next"


async def test_a_busy_server_says_so_at_once(lab: Lab) -> None:
    service = Example()
    server = await lab.serve(service, max_in_flight=2)
    remote = lab.call(server.address)
    with closed_gate(service):
        calls = [asyncio.create_task(remote.get(Ask())) for _ in range(2)]
        await until(lambda: server.in_flight == 2)
        with pytest.raises(Overloaded) as caught:
            await remote.get(Ask())
        assert caught.value.code == "server_busy"
        assert caught.value.retry_after_s
        outcomes = await remote.place.many([Ask(), Ask()])
        assert {type(outcome) for outcome in outcomes} == {Overloaded}
    await asyncio.gather(*calls)
    assert server.in_flight == 0


async def test_a_busy_client_says_so_at_once(lab: Lab) -> None:
    service = Example()
    remote = lab.call((await lab.serve(service)).address, max_in_flight=1)
    with closed_gate(service):
        call = asyncio.create_task(remote.get(Ask()))
        await until(lambda: service.entered == 1)
        with pytest.raises(Overloaded) as caught:
            await remote.get(Ask())
        assert caught.value.code == "client_busy"
    await call


async def test_one_trace_across_the_call(lab: Lab) -> None:
    remote = lab.call((await lab.serve(Example())).address)
    with span("outside"):
        trace = current_trace()
        assert trace is not None
        assert (await remote.budget(Ask())).text == trace.trace_id


async def test_without_an_authenticator_only_public_methods_can_be_reached(lab: Lab) -> None:
    remote = lab.call((await lab.serve(Example(), authenticator=None)).address, token="whatever")
    assert (await remote.hello(Ask())).text == "nobody"
    with pytest.raises(Unauthenticated):
        await remote.get(Ask())
    outcomes = await remote.place.many([Ask(), Ask()])
    assert {type(outcome) for outcome in outcomes} == {Unauthenticated}
