"""Policy files on the way of real calls: who is ejected, what is refused, where a route sends a call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import cast

import grpc.aio
import msgspec
import pytest
from tests.rpc.conftest import Lab, closed_gate, until
from tests.rpc.example import Answer, Ask, Example

from dougong.contract import batched, rpc
from dougong.errors import DeadlineExceeded, Error, Forbidden, NotFound, Overloaded, Unavailable
from dougong.mesh import Colouring, Mesh, Mode, RequestHeaders, RetryPolicy
from dougong.mesh.istio import read_policies
from dougong.mesh.routing import HeaderOps
from dougong.registry import Instance
from dougong.rpc import Transport, baggage, call_scope, client, close_client, current_baggage, grpc_aio
from dougong.rpc._stream_time import StreamTime
from dougong.rpc._transport import Lost, Metadata, Stream, connect_failed

RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: example}
spec:
  host: example
"""
SERVICE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: example}
spec:
  hosts: [example]
"""
SUBSETS = """
  subsets:
  - {name: stable, labels: {version: stable}}
  - {name: canary, labels: {version: canary}}
"""


def mesh(rule: str = "", service: str = "", mode: Mode = Mode.ENHANCED) -> Mesh:
    files = {"rule.yaml": RULE + rule} | ({"service.yaml": SERVICE + service} if service else {})
    return Mesh(read_policies(files), mode=mode)


def outlier(interval: str = "10s", base: str = "30s", percent: int = 100) -> str:
    return f"""
  trafficPolicy:
    outlierDetection: {{consecutive5xxErrors: 5, interval: {interval}, baseEjectionTime: {base},
                        maxEjectionPercent: {percent}}}
"""


def limits(http: str) -> str:
    return f"""
  trafficPolicy:
    connectionPool: {{http: {{{http}}}}}
"""


class Sick(Example, package="test.v1", name="test.v1.Example"):
    """Answers 503 for as long as it is sick."""

    def __init__(self, name: str = "sick") -> None:
        super().__init__(name)
        self.sick = True

    @rpc(idempotent=True)
    async def get(self, request: Ask) -> Answer:
        self.entered += 1
        if self.sick:
            raise Unavailable("out of order", code="sick")
        return Answer(text=self.name)

    @batched(max_batch=10, idempotent=True)
    async def look(  # pyright: ignore[reportIncompatibleVariableOverride]  # a descriptor that knows its class
        self, requests: Sequence[Ask]
    ) -> Sequence[Answer | Error]:
        self.batches.append(len(requests))
        return [Unavailable("out of order", code="sick") if self.sick else Answer(text=self.name) for _ in requests]


class Versions:
    """A resolver of instances by version."""

    def __init__(self, **addresses: str) -> None:
        self._instances = tuple(
            Instance(service="test.v1.Example", address=address, version=version, app=version)
            for version, address in addresses.items()
        )

    def instances(self) -> tuple[Instance, ...]:
        return self._instances

    def probe_failed(self, address: str) -> None:
        """They stay."""


async def statuses(remote: Example, count: int) -> list[str]:
    found: list[str] = []
    for _ in range(count):
        try:
            found.append((await remote.get(Ask(text="well"))).text)
        except Unavailable as error:
            found.append(error.code)
    return found


async def test_an_instance_that_answers_503_is_ejected_and_comes_back(lab: Lab) -> None:
    sick, well = Sick(), Example()
    policy = mesh(outlier(interval="200ms", base="200ms", percent=50))
    remote = lab.call([(await lab.serve(sick)).address, (await lab.serve(well)).address], mesh=policy)
    found = await statuses(remote, 60)
    assert found.count("sick") == 5, "five in a row, and no call more"
    (cluster,) = policy.clusters
    assert cluster.statistics()[f"cluster.{cluster.name}.outlier_detection.ejections_active"] == 1
    sick.sick = False
    async with asyncio.timeout(60):
        while (await remote.get(Ask(text="well"))).text != "sick":
            await asyncio.sleep(0.01)
    assert cluster.outlier_counters.ejections_active == 0
    done = [(event.action.value, event.type) for event in cluster.log.events if event.enforced or not event.type]
    assert done == [("EJECT", "CONSECUTIVE_5XX"), ("UNEJECT", None)], "a gateway failure is seen, and not acted on"


async def test_envoy_does_not_look_into_trailers(lab: Lab) -> None:
    sick = Sick()
    policy = mesh(outlier(), mode=Mode.PARITY)
    remote = lab.call([(await lab.serve(sick)).address], mesh=policy)
    assert await statuses(remote, 12) == ["sick"] * 12
    assert policy.clusters[0].outlier_counters.ejections_detected_consecutive_5xx == 0


async def test_items_of_batches_count_too(lab: Lab) -> None:
    sick, well = Sick(), Example()
    policy = mesh(outlier(percent=50))
    remote = lab.call([(await lab.serve(sick)).address, (await lab.serve(well)).address], mesh=policy)
    for _ in range(30):
        await remote.look.many([Ask(text="well")] * 5)
    assert sick.batches == [5], "one batch of five failures is five in a row"
    assert sum(well.batches) == 145


async def test_streams_that_break_count_as_failures(lab: Lab) -> None:
    class Breaking(Example, package="test.v1", name="test.v1.Example"):
        @rpc()
        def down(self, request: Ask) -> AsyncIterator[Answer]:
            async def answers() -> AsyncIterator[Answer]:
                self.entered += 1
                if request.number:
                    raise Unavailable("out of order", code="sick")
                yield Answer()

            return answers()

    sick, well = Breaking(), Example()
    policy = mesh(outlier(percent=50))
    remote = lab.call([(await lab.serve(sick)).address, (await lab.serve(well)).address], mesh=policy)
    for _ in range(40):
        with contextlib.suppress(Unavailable):
            _ = [answer async for answer in remote.down(Ask(number=1))]
    assert sick.entered == 5, "five in a row, and no stream more"


async def test_with_everybody_ejected_calls_fail_at_once(lab: Lab) -> None:
    policy = mesh(outlier())
    remote = lab.call([(await lab.serve(Sick())).address], mesh=policy)
    assert await statuses(remote, 7) == ["sick"] * 5 + ["no_healthy_host"] * 2
    (outcome,) = await remote.look.many([Ask()])
    assert isinstance(outcome, Unavailable)
    assert outcome.code == "no_healthy_host"


async def test_requests_under_way_are_bounded(lab: Lab) -> None:
    example = Example()
    policy = mesh(limits("http2MaxRequests: 2"))
    remote = lab.call((await lab.serve(example)).address, mesh=policy)
    with closed_gate(example):
        under_way = [asyncio.create_task(remote.get(Ask())) for _ in range(2)]
        await until(lambda: example.entered == 2)
        with pytest.raises(Overloaded) as caught:
            await remote.get(Ask())
        assert caught.value.code == "max_requests"
    await asyncio.gather(*under_way)
    assert (await remote.get(Ask(text="again"))).text == "again"
    assert policy.clusters[0].counters.upstream_rq_active_overflow == 1


async def test_a_refused_retry_does_not_say_that_nothing_was_done() -> None:
    """Found by the story `network`: `max_requests` in the place of an unknown outcome."""
    policy = mesh(limits("http2MaxRequests: 1"))
    unknown = Unavailable("it broke: outcome unknown", code="connection_lost")

    class Breaking:
        """And somebody else takes the place of the call that broke."""

        async def unary(self, *call: object) -> bytes:
            policy.clusters[0].limits.requests += 1
            raise Lost(unknown, started=True)

        async def close(self) -> None:
            """Nothing is open."""

    transport = cast("Transport", type("Wires", (), {"connect": lambda self, address: Breaking()})())
    remote = client(Example, "here:1", transport=transport, mesh=policy)
    with pytest.raises(Unavailable) as caught:
        await remote.get(Ask())
    assert caught.value is unknown
    counters = policy.clusters[0].counters
    assert (counters.upstream_rq_total, counters.upstream_rq_active_overflow) == (1, 1)
    await close_client(remote)


async def test_calls_that_wait_for_a_connection_are_bounded(lab: Lab) -> None:
    example = Example()
    rule = "http1MaxPendingRequests: 1, maxConcurrentStreams: 1"
    policy = mesh(limits(rule).replace("connectionPool: {", "connectionPool: {tcp: {maxConnections: 1}, "))
    remote = lab.call((await lab.serve(example)).address, mesh=policy)
    await remote.get(Ask())
    with closed_gate(example):
        tasks = [asyncio.create_task(remote.get(Ask(text=str(n)))) for n in range(5)]
        await until(lambda: sum(task.done() for task in tasks) == 3)
        codes = [error.code for task in tasks if task.done() and isinstance(error := task.exception(), Error)]
        assert codes == ["max_pending"] * 3
    assert sorted([(await task).text for task in tasks if not task.done() or not task.exception()]) == ["0", "1"]
    counters = policy.clusters[0].counters
    assert (counters.upstream_rq_pending_overflow, counters.upstream_cx_overflow) == (3, 1)


async def test_connections_that_carried_what_they_may_are_counted(lab: Lab) -> None:
    policy = mesh(limits("maxRequestsPerConnection: 2"))
    remote = lab.call((await lab.serve(Example())).address, mesh=policy)
    for number in range(5):
        await (remote.get(Ask()) if number % 2 else remote.look.many([Ask()]))
    counters = policy.clusters[0].counters
    assert (counters.upstream_cx_total, counters.upstream_cx_max_requests) == (3, 2)


async def test_a_retry_budget_is_kept(lab: Lab) -> None:
    sick = Sick()
    rule = """
  trafficPolicy:
    retryBudget: {percent: 20, minRetryConcurrency: 1}
"""
    service = """
  http:
  - retries: {attempts: 3, retryOn: unavailable}
    route: [{destination: {host: example}}]
"""
    policy = mesh(rule, service)
    remote = lab.call((await lab.serve(sick)).address, mesh=policy)
    outcomes = await asyncio.gather(*(remote.get(Ask()) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    (cluster,) = policy.clusters
    assert cluster.counters.upstream_rq_retry_overflow >= 20 - cluster.counters.upstream_rq_retry
    assert 20 < sick.entered < 40, "far from three retries for each of twenty"
    assert cluster.limits.retries.under_way == 0


async def test_subsets_by_weight_and_the_version_of_an_instance(lab: Lab) -> None:
    stable, canary = Example("stable"), Example("canary")
    listed = Versions(stable=(await lab.serve(stable)).address, canary=(await lab.serve(canary)).address)
    service = """
  http:
  - route:
    - {destination: {host: example, subset: stable}, weight: 100}
    - {destination: {host: example, subset: canary}, weight: 0}
"""
    remote = lab.call(listed, mesh=mesh(SUBSETS, service))
    assert [(await remote.change(Ask())).text for _ in range(10)] == ["stable"] * 10
    await remote.place.many([Ask(text=str(n)) for n in range(30)])
    assert (len(stable.items), len(canary.items)) == (40, 0)


async def test_a_streams_time_runs_from_its_last_request_on(lab: Lab) -> None:
    class Slow(Example, package="test.v1", name="test.v1.Example"):
        """Answers each request but the first, and after the last of them says nothing more."""

        @rpc()
        async def both(self, requests: AsyncIterator[Ask]) -> AsyncIterator[Answer]:
            async for request in requests:
                if request.number:
                    yield Answer(number=request.number)
            await self._pass()

    async def unhurried(count: int) -> AsyncIterator[Ask]:
        for number in range(count):
            yield Ask(number=number)
            await asyncio.sleep(0.15)

    example, loop = Slow(), asyncio.get_running_loop()
    example.gate.clear()
    address = (await lab.serve(example)).address
    answered: dict[str, list[int]] = {}
    for times, count, code in (
        ("timeout: 500ms", 3, "route_timeout"),
        ("retries: {attempts: 3, perTryTimeout: 200ms, retryOn: unavailable}", 1, "try_timeout"),
        ("timeout: 500ms, retries: {attempts: 3, perTryTimeout: 200ms, retryOn: unavailable}", 3, "route_timeout"),
    ):
        policy = mesh(outlier(), f"  http: [{{route: [{{destination: {{host: example}}}}], {times}}}]")
        remote = lab.call(address, mesh=policy)
        began, got = loop.time(), answered.setdefault(times, [])

        async def listen(remote: Example, count: int, got: list[int]) -> None:
            async for answer in remote.both(unhurried(count)):
                got.append(answer.number)  # noqa: PERF401 (some come before it fails)

        with pytest.raises(DeadlineExceeded) as caught:
            await listen(remote, count, got)
        assert caught.value.code == code
        assert loop.time() - began >= count * 0.15 + (0.5 if code == "route_timeout" else 0.2) - 0.01
        (cluster,) = policy.clusters
        assert cluster.limits.requests == 0
    assert list(answered.values()) == [[1, 2], [], [1, 2]], "whoever answers in between has answered"
    await until(lambda: example.cancelled == 3, 60.0)


async def test_which_time_is_over_does_not_hang_on_a_tick() -> None:
    """uvloop rounds to milliseconds: it wakes us before the time is quite over."""

    class Silent:
        cancelled = 0

        async def receive(self) -> bytes | None:
            await asyncio.get_running_loop().create_future()
            return None

        def cancel(self) -> None:
            self.cancelled += 1

    async def code_of(timeout_s: float, per_try_s: float) -> str:
        stream = Silent()
        time = StreamTime("/a", timeout_s, per_try_s)
        time.sent()
        with pytest.raises(DeadlineExceeded) as caught:
            await time.receive(cast("Stream", stream))
        assert (stream.cancelled, time.over) == (1, True)
        return caught.value.code

    for _ in range(20):
        limits = ((0.0104, 0.0), (0.0104, 1000.0), (0.0, 0.0104), (1000.0, 0.0104))
        codes = await asyncio.gather(*(code_of(*limit) for limit in limits))
        assert codes == ["route_timeout", "route_timeout", "try_timeout", "try_timeout"]


async def test_streams_are_opened_so_often_as_their_route_allows() -> None:
    tried = 0

    class Nobody:
        async def stream(self, *call: object) -> Stream:
            nonlocal tried
            tried += 1
            raise connect_failed("here:1", "refused")

        async def close(self) -> None:
            """Nothing is open."""

    transport = cast("Transport", type("Wires", (), {"connect": lambda self, address: Nobody()})())
    for retries, tries in (("{attempts: 0}", 1), ("{attempts: 2, retryOn: connect-failure}", 3)):
        service = f"  http: [{{route: [{{destination: {{host: example}}}}], retries: {retries}}}]"
        remote = client(Example, "here:1", transport=transport, mesh=mesh(service=service))
        tried = 0
        with pytest.raises(Unavailable) as caught:
            _ = [answer async for answer in remote.down(Ask())]
        assert (caught.value.code, tried) == ("connect_failed", tries)
        await close_client(remote)


async def test_a_route_dresses_every_kind_of_call(grpc_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, dict[str, str]]] = []
    read = grpc_aio._metadata

    def reading(context: grpc.aio.ServicerContext[bytes, bytes]) -> Metadata:
        pairs = {key: str(value) for key, value in context.invocation_metadata() or ()}
        seen.append((pairs.get("x-from", ""), pairs))
        return read(context)

    monkeypatch.setattr(grpc_aio, "_metadata", reading)
    service = """
  http:
  - headers:
      request:
        set: {x-from: books, x-dougong-colour: canary}
        add: {x-seen: 100%%, user-agent: refused, x-when: '%START_TIME%'}
        remove: [authorization]
    route: [{destination: {host: example}, headers: {request: {add: {x-seen: twice}}}}]
"""
    carried: list[str] = []

    class Telling(Example, package="test.v1", name="test.v1.Example"):
        @rpc(idempotent=True)
        async def get(self, request: Ask) -> Answer:
            return Answer(text=current_baggage())

        @batched(max_batch=10, idempotent=True)
        async def look(  # pyright: ignore[reportIncompatibleVariableOverride]  # a descriptor that knows its class
            self, requests: Sequence[Ask]
        ) -> Sequence[Answer | Error]:
            return [Answer(text=current_baggage()) for _ in requests]

        @rpc()
        def down(self, request: Ask) -> AsyncIterator[Answer]:
            async def answers() -> AsyncIterator[Answer]:
                yield Answer(text=current_baggage())

            return answers()

    policy = mesh(service=service)
    warned = " ".join(str(warning) for warning in policy.policies.warnings)
    assert "user-agent belongs to gRPC" in warned
    assert "'%START_TIME%' has a variable" in warned
    remote = grpc_lab.call((await grpc_lab.serve(Telling())).address, mesh=policy, token="secret")
    with baggage(tenant="b"):
        carried.append((await remote.get(Ask())).text)
        carried.append((await remote.look(Ask())).text)
        carried += [answer.text async for answer in remote.down(Ask())]
    assert carried == ["tenant=b,x-dougong-colour=canary"] * 3
    dressed = [pairs for source, pairs in seen if source == "books"]
    assert len(dressed) == 3
    for pairs in dressed:
        assert pairs["x-seen"] == "100%,twice"
        assert not {"authorization", "x-when"} & set(pairs)
        assert "refused" not in pairs["user-agent"]


def test_what_is_done_to_a_colour_is_done_to_the_baggage() -> None:
    def dressed(baggage: str, **operations: object) -> dict[str, str]:
        ops = msgspec.convert(operations, HeaderOps)
        return RequestHeaders([ops], Colouring()).apply({"baggage": baggage} if baggage else {})

    red, plain = "a=1,x-dougong-colour=red", "a=1"
    assert dressed(red, remove=["x-dougong-colour"]) == {"baggage": plain}
    assert dressed(red, set=[("x-dougong-colour", "blue")]) == {"baggage": "a=1,x-dougong-colour=blue"}
    assert dressed("", add=[("x-dougong-colour", "blue")]) == {"baggage": "x-dougong-colour=blue"}
    assert dressed(red, remove=["baggage"]) == {}
    assert dressed(red, set=[("x-other", "1"), ("grpc-timeout", "1H"), ("x-dougong-origin", "me")]) == {
        "baggage": red,
        "x-other": "1",
    }


async def test_a_colour_goes_its_way_call_by_call(lab: Lab) -> None:
    stable, canary = Example("stable"), Example("canary")
    listed = Versions(stable=(await lab.serve(stable)).address, canary=(await lab.serve(canary)).address)
    service = """
  http:
  - match: [{headers: {x-dougong-colour: {exact: canary}}}]
    route: [{destination: {host: example, subset: canary}}]
  - route: [{destination: {host: example, subset: stable}}]
"""
    remote = lab.call(listed, mesh=mesh(SUBSETS, service))

    async def coloured(colour: str) -> tuple[str, str]:
        with baggage(f"x-dougong-colour={colour}"):
            await remote.place(Ask(text=colour))
            return colour, (await remote.change(Ask(text=colour))).text

    colours = ["canary", "stable", "green"] * 5
    answers = await asyncio.gather(*(coloured(colour) for colour in colours))
    assert set(answers) == {("canary", "canary"), ("stable", "stable"), ("green", "stable")}
    assert set(canary.items) == {"canary"}, "plain calls and batches alike"
    assert len(canary.items) == 10
    assert len(stable.items) == 20


async def test_an_unmatched_call_is_not_found(lab: Lab) -> None:
    service = """
  http:
  - match: [{uri: {exact: /test.v1.Example/Get}}]
    route: [{destination: {host: example}}]
"""
    remote = lab.call((await lab.serve(Example())).address, mesh=mesh("", service))
    assert (await remote.get(Ask(text="here"))).text == "here"
    with pytest.raises(NotFound) as caught:
        await remote.change(Ask())
    assert caught.value.code == "no_route"
    (outcome,) = await remote.place.many([Ask()])
    assert isinstance(outcome, NotFound)


async def test_faults_are_injected(lab: Lab) -> None:
    example = Example()
    service = """
  http:
  - match: [{uri: {exact: /test.v1.Example/Change}}]
    fault: {abort: {httpStatus: 403, percentage: {value: 100}}}
    route: [{destination: {host: example}}]
  - match: [{uri: {exact: /test.v1.Example/Get}}]
    fault: {delay: {fixedDelay: 5s, percentage: {value: 100}}}
    timeout: 0.05s
    route: [{destination: {host: example}}]
  - fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
    route: [{destination: {host: example}}]
"""
    remote = lab.call((await lab.serve(example)).address, mesh=mesh("", service))
    with pytest.raises(Forbidden) as caught:
        await remote.change(Ask())
    assert caught.value.code == "answered_by_route"
    with pytest.raises(DeadlineExceeded) as late:
        await remote.get(Ask())
    assert late.value.code == "fault_delay"
    assert all(isinstance(outcome, Unavailable) for outcome in await remote.place.many([Ask(), Ask()]))
    assert example.entered == 0


async def test_a_routes_timeout_shortens_a_call(lab: Lab) -> None:
    example = Example()
    service = """
  http:
  - timeout: 0.1s
    route: [{destination: {host: example}}]
"""
    remote = lab.call((await lab.serve(example)).address, mesh=mesh("", service))
    with closed_gate(example):
        with pytest.raises(DeadlineExceeded):
            await remote.get(Ask())
        (outcome,) = await remote.look.many([Ask()])
        assert isinstance(outcome, DeadlineExceeded)


async def test_mirrored_calls_are_copies_nobody_waits_for(lab: Lab) -> None:
    stable, canary = Example("stable"), Example("canary")
    listed = Versions(stable=(await lab.serve(stable)).address, canary=(await lab.serve(canary)).address)
    service = """
  http:
  - route: [{destination: {host: example, subset: stable}}]
    mirrors: [{destination: {host: example, subset: canary}}]
"""
    remote = lab.call(listed, mesh=mesh(SUBSETS, service))
    with closed_gate(canary):
        assert (await remote.change(Ask(text="one"))).text == "stable"
        await remote.place.many([Ask(text="two")])
    await until(lambda: sorted(canary.items) == ["one", "two"])
    assert stable.items == ["one", "two"]


async def test_a_routes_retries_repeat_what_is_idempotent(lab: Lab) -> None:
    sick = Sick()
    service = """
  http:
  - retries: {attempts: 3, retryOn: unavailable}
    route: [{destination: {host: example}}]
"""
    remote = lab.call((await lab.serve(sick)).address, mesh=mesh("", service))
    with pytest.raises(Unavailable):
        await remote.get(Ask())
    assert sick.entered == 4, "the call, and three retries"


async def test_connections_are_counted_under_envoys_names(grpc_lab: Lab) -> None:
    example = Example()
    policy = mesh(limits("maxRequestsPerConnection: 1"))
    server = await grpc_lab.serve(example)
    remote = grpc_lab.call(server.address, mesh=policy)
    for _ in range(3):
        await remote.get(Ask())
    (cluster,) = policy.clusters
    counted = cluster.statistics()
    assert counted[f"cluster.{cluster.name}.upstream_cx_total"] == 3
    await until(lambda: cluster.limits.connections == 0)
    with closed_gate(example):
        call = asyncio.create_task(remote.get(Ask()))
        await until(lambda: example.entered == 4)
        assert cluster.statistics()[f"cluster.{cluster.name}.upstream_cx_active"] == 1
    await call
    await server.stop(0)
    with call_scope(timeout_s=0.3), pytest.raises(Unavailable):
        await remote.get(Ask())
    assert cluster.counters.upstream_cx_connect_fail > 0
    await close_client(remote)
    assert cluster.limits.connections == 0


async def test_no_retry_is_waited_for_beyond_the_calls_own_time(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the story `network`: a back-off that went past the deadline, and a call that was sent after it."""

    def late(self: RetryPolicy, retry: int, random: Random) -> float:
        return 60.0

    monkeypatch.setattr(RetryPolicy, "wait_s", late)
    sick = Sick()
    service = """
  http:
  - retries: {attempts: 3, retryOn: "unavailable,connect-failure"}
    route: [{destination: {host: example}}]
"""
    remote = lab.call((await lab.serve(sick)).address, mesh=mesh("", service))
    with pytest.raises(Unavailable) as caught:
        await remote.get(Ask())
    assert caught.value.code == "sick"
    assert sick.entered == 1
    nobody = lab.call("127.0.0.1:9", mesh=mesh("", service), patience_s=0.1)
    (outcome,) = await nobody.place.many([Ask()])
    assert isinstance(outcome, Unavailable)
    assert outcome.code == "connect_failed"


async def test_a_try_that_takes_too_long_is_made_elsewhere(lab: Lab) -> None:
    hung, well = Example("hung"), Example("well")
    service = """
  http:
  - retries: {attempts: 3, perTryTimeout: 0.1s, retryOn: "reset,5xx"}
    route: [{destination: {host: example}}]
"""
    remote = lab.call([(await lab.serve(hung)).address, (await lab.serve(well)).address], mesh=mesh("", service))
    with closed_gate(hung):
        for number in range(5):
            assert (await remote.get(Ask(text=str(number)))).text == str(number)
            (outcome,) = await remote.look.many([Ask(text=str(number))])
            assert isinstance(outcome, Answer)
    assert well.finished >= 5


async def test_connections_retire_after_so_many_requests(lab: Lab) -> None:
    example = Example()
    policy = mesh(limits("maxRequestsPerConnection: 5"))
    remote = lab.call((await lab.serve(example)).address, mesh=policy)
    for number in range(23):
        assert (await remote.get(Ask(number=number))).number == number
    assert example.finished == 23
