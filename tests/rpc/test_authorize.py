"""Who may call what, and for whom."""

from __future__ import annotations

import asyncio

import pytest
from tests.rpc.conftest import Lab
from tests.rpc.example import Answer, Ask, Example

from dougong.contract import describe
from dougong.errors import Forbidden, Unauthenticated
from dougong.rpc import Caller, authorize, bind_subject, call_scope, current_caller, identify

METHODS = {method.attribute: method for method in describe(Example).methods}
ANNA = Caller("anna")
ADMIN = Caller("root", ("admin",))
CLERK = Caller("carl", ("clerk",))
SYSTEM = Caller("system", (), system=True)


@pytest.mark.parametrize(
    ("method", "caller", "refusal"),
    [
        ("hello", None, None),
        ("get", None, Unauthenticated),
        ("get", ANNA, None),
        ("secret", None, Unauthenticated),
        ("secret", ADMIN, Forbidden),
        ("secret", SYSTEM, None),
        ("administer", ANNA, Forbidden),
        ("administer", ADMIN, None),
        ("administer", CLERK, None),
        ("administer", SYSTEM, None),
    ],
)
def test_authorize(method: str, caller: Caller | None, refusal: type[Exception] | None) -> None:
    if refusal is None:
        authorize(METHODS[method], caller)
    else:
        with pytest.raises(refusal):
            authorize(METHODS[method], caller)


@pytest.mark.parametrize(
    ("caller", "named", "bound"),
    [
        (ANNA, "", "anna"),
        (ANNA, "anna", "anna"),
        (ANNA, "otto", None),
        (ADMIN, "otto", None),
        (CLERK, "otto", "otto"),
        (CLERK, "", "carl"),
        (SYSTEM, "otto", "otto"),
        (None, "", ""),
        (None, "otto", None),
    ],
)
def test_bind_subject(caller: Caller | None, named: str, bound: str | None) -> None:
    if bound is None:
        with pytest.raises(Forbidden):
            bind_subject(METHODS["administer"], Ask(owner=named), caller)
    else:
        assert bind_subject(METHODS["administer"], Ask(owner=named), caller).owner == bound


def test_a_stale_token_does_not_keep_anybody_from_a_public_method() -> None:
    def nobody(header: str) -> Caller:
        raise Unauthenticated("stale")

    assert identify(METHODS["hello"], "Bearer stale", nobody) is None
    with pytest.raises(Unauthenticated):
        identify(METHODS["get"], "Bearer stale", nobody)


def test_scopes_only_shorten() -> None:
    async def scenario() -> None:
        from dougong.rpc import remaining_s

        assert current_caller() is None
        assert remaining_s() is None
        with call_scope(caller=ANNA, timeout_s=10):
            with call_scope(caller=CLERK, timeout_s=100):
                assert current_caller() == CLERK
                left = remaining_s()
                assert left is not None
                assert left <= 10
            assert current_caller() == ANNA
        assert current_caller() is None

    asyncio.run(scenario())


async def test_identity_over_the_wire(lab: Lab) -> None:
    def by_name(header: str) -> Caller:
        if not header:
            raise Unauthenticated("no token", code="token_missing")
        return Caller(header.removeprefix("Bearer "))

    service = Example()
    server = await lab.serve(service, authenticator=by_name)
    anna = lab.call(server.address, token="anna")
    assert (await anna.get(Ask())).owner == "anna"
    with pytest.raises(Forbidden):
        await anna.get(Ask(owner="otto"))
    with pytest.raises(Forbidden):
        await anna.secret(Ask())
    mine, theirs = await anna.place.many([Ask(), Ask(owner="otto")])
    assert isinstance(mine, Answer)
    assert mine.owner == "anna"
    assert isinstance(theirs, Forbidden)
    assert service.callers[-1] == Caller("anna"), "the stream's caller holds in the method"
    with pytest.raises(Unauthenticated):
        await lab.call(server.address).get(Ask())
    # A caller's own identity is never passed on by a client made with another token.
    with call_scope(caller=Caller("otto")):
        assert (await anna.get(Ask())).owner == "anna"
