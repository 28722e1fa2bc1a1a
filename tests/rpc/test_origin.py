"""Where a call entered the system: told on by the system's own processes, believed of nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rpc.conftest import Lab
from tests.rpc.example import Answer, Ask, Example

from dougong.contract import Service, rpc
from dougong.rpc import Caller, Origin, call_scope, current_origin
from dougong.rpc._origin import origin_of, write_origin

SYSTEM, ANN = Caller("edge", system=True), Caller("ann", session="7")
FAR = Origin("203.0.113.9", "42")


class Telling(Service, name="test.v1.Example"):
    """Answers where the call came from."""

    @rpc()
    async def get(self, request: Ask) -> Answer:
        origin = current_origin()
        return Answer(text=origin.address, owner=origin.session)

    @rpc()
    async def change(self, request: Ask) -> Answer:
        with call_scope():
            return await self.get(request)


async def asked(lab: Lab, caller: Caller, *, method: str = "get") -> Origin:
    server = await lab.serve(Telling(), authenticator=lambda _: caller)
    remote: Example = lab.call(server.address)
    with call_scope(origin=FAR):
        answer = await getattr(remote, method)(Ask())
    return Origin(answer.text, answer.owner)


async def test_the_systems_own_processes_tell_it_on(lab: Lab) -> None:
    assert await asked(lab, SYSTEM) == FAR
    assert current_origin() == Origin()


async def test_a_stranger_is_not_believed_but_for_the_own_token(lab: Lab) -> None:
    assert await asked(lab, ANN) == Origin(session="7")


async def test_a_call_made_anew_comes_from_nowhere(lab: Lab) -> None:
    assert await asked(lab, SYSTEM, method="change") == Origin()


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_it_says_arrives_as_plain_ascii(address: str, session: str) -> None:
    written = write_origin(Origin(address, session))
    assert written.isascii()
    assert all(33 <= ord(character) < 127 for character in written)
    assert origin_of(SYSTEM, written) == Origin(address, session)
    assert origin_of(None, written) == Origin()


@pytest.mark.parametrize("written", ["", ";", "%zz;%", "x" * 2000, "a;b;c"])
def test_nonsense_is_no_error(written: str) -> None:
    assert isinstance(origin_of(SYSTEM, written), Origin)
