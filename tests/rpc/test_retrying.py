"""What must not happen to a call on its way: answers repeated, time overrun, copies that speak, clients that stay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.rpc.conftest import Lab, closed_gate, until
from tests.rpc.example import Answer, Ask, Example
from tests.rpc.test_policy import mesh

from dougong.contract import batched, rpc
from dougong.errors import DeadlineExceeded, Error, Overloaded, Unavailable
from dougong.registry import Instance
from dougong.rpc import call_scope, close_client, why


class Refusing(Example, package="test.v1", name="test.v1.Example"):
    """Answers every call with one error."""

    def __init__(self, error: Error) -> None:
        super().__init__()
        self.error = error

    @rpc(idempotent=True)
    async def get(self, request: Ask) -> Answer:
        self.entered += 1
        raise self.error

    @batched(max_batch=10, idempotent=True)
    async def look(  # pyright: ignore[reportIncompatibleVariableOverride]  # a descriptor that knows its class
        self, requests: Sequence[Ask]
    ) -> Sequence[Answer | Error]:
        self.entered += 1
        raise self.error


def retrying(retries: str) -> str:
    return f"""
  http:
  - retries: {{{retries}}}
    route: [{{destination: {{host: example}}}}]
"""


async def test_a_method_whose_own_callee_was_late_is_not_called_again(lab: Lab) -> None:
    late = Refusing(DeadlineExceeded("the callee did not answer", code="deadline_exceeded"))
    remote = lab.call((await lab.serve(late)).address)
    with pytest.raises(DeadlineExceeded, match="the callee"):
        await remote.get(Ask())
    assert late.entered == 1, "it answered, with time left: that is no loss"


async def test_an_overloaded_instance_is_asked_again_only_if_its_route_says_so(lab: Lab) -> None:
    busy = Refusing(Overloaded("too much", code="server_busy"))
    address = (await lab.serve(busy)).address
    with pytest.raises(Overloaded):
        await lab.call(address).get(Ask())
    assert busy.entered == 1
    policy = mesh("", retrying("attempts: 2, retryOn: resource-exhausted, backoff: 1ms"))
    with pytest.raises(Overloaded):
        await lab.call(address, mesh=policy).get(Ask())
    assert busy.entered == 4


async def test_a_back_off_does_not_outlast_the_call(lab: Lab) -> None:
    sick = Refusing(Unavailable("out of order", code="sick"))
    policy = mesh("", retrying("attempts: 9, retryOn: unavailable, backoff: 1000s"))
    remote = lab.call((await lab.serve(sick)).address, mesh=policy)
    async with asyncio.timeout(60):
        with call_scope(timeout_s=1.0), pytest.raises(Unavailable) as caught:
            await remote.get(Ask())
        with call_scope(timeout_s=1.0):
            (outcome,) = await remote.look.many([Ask()])
    assert caught.value.code == "sick"
    assert isinstance(outcome, Unavailable)
    assert outcome.code == "sick"
    assert policy.clusters[0].limits.retries.under_way == 0


async def test_a_delay_does_not_outlast_the_callers_time(lab: Lab) -> None:
    service = """
  http:
  - fault: {delay: {fixedDelay: 1000s, percentage: {value: 100}}}
    route: [{destination: {host: example}}]
"""
    remote = lab.call((await lab.serve(Example())).address, mesh=mesh("", service))
    for call in (remote.get, remote.look):
        async with asyncio.timeout(2):  # the caller has 50 ms, the method three seconds
            with call_scope(timeout_s=0.05), pytest.raises(DeadlineExceeded):
                await call(Ask())


async def test_a_mirror_that_cannot_be_reached_harms_nobody(lab: Lab) -> None:
    service = """
  http:
  - route: [{destination: {host: example}}]
    mirrors: [{destination: {host: example, subset: nowhere}}]
"""
    example = Example()
    remote = lab.call((await lab.serve(example)).address, mesh=mesh("", service))
    assert (await remote.get(Ask(text="here"))).text == "here"
    (outcome,) = await remote.look.many([Ask(text="here")])
    assert isinstance(outcome, Answer)


async def test_nobody_is_told_of_the_mirrored_copy(lab: Lab) -> None:
    service = """
  http:
  - route: [{destination: {host: example}}]
    mirrors: [{destination: {host: gone}}]
"""
    example = Example()
    address = (await lab.serve(example)).address
    remote = lab.call(address, mesh=mesh("", service), patience_s=0.2)
    with why() as record:
        await remote.look(Ask())
        await asyncio.sleep(0.5)
    assert (record.endpoint, record.attempts) == (address, 1)


async def test_a_closed_client_opens_nothing_more(lab: Lab) -> None:
    example = Example()
    remote = lab.call((await lab.serve(example)).address, mesh=mesh())
    await close_client(remote)
    with pytest.raises(Unavailable) as caught:
        await remote.get(Ask())
    assert caught.value.code == "closed"
    (outcome,) = await remote.look.many([Ask()])
    assert isinstance(outcome, Unavailable)
    assert example.entered == 0


class Moving:
    """A resolver whose instances the test changes."""

    def __init__(self, *addresses: str) -> None:
        self.listed = self.of(addresses)

    def of(self, addresses: Sequence[str]) -> tuple[Instance, ...]:
        return tuple(Instance(service="test.v1.Example", address=address) for address in addresses)

    def instances(self) -> tuple[Instance, ...]:
        return self.listed

    def probe_failed(self, address: str) -> None:
        """They stay."""


async def test_closing_breaks_off_calls_to_those_no_longer_listed(grpc_lab: Lab) -> None:
    old, new = Example("old"), Example("new")
    addresses = [(await grpc_lab.serve(service)).address for service in (old, new)]
    resolver = Moving(addresses[0])
    remote = grpc_lab.call(resolver)
    with closed_gate(old):
        call = asyncio.create_task(remote.change(Ask()))
        await until(lambda: old.entered)
        resolver.listed = resolver.of(addresses[1:])
        assert (await remote.change(Ask())).text == "new"
        async with asyncio.timeout(2):  # the call itself has three seconds
            await close_client(remote)
            with pytest.raises(Unavailable):
                await call
