"""Baggage goes through every hop with the call it belongs to, also where calls of different colours ride together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rpc.conftest import Lab
from tests.rpc.example import Answer, Ask, Example

from dougong.contract import Service, batched, rpc
from dougong.errors import Error, Invalid
from dougong.mesh import BAGGAGE_MAX, accepted_baggage
from dougong.rpc import baggage, current_baggage


class Telling(Service, name="test.v1.Example"):
    """Answers what it was given to carry; or asks the next one to."""

    def __init__(self, following: Example | None = None) -> None:
        self.following = following
        self.batches: list[tuple[str, int]] = []

    @rpc()
    async def get(self, request: Ask) -> Answer:
        if self.following is not None:
            return await self.following.get(request)
        return Answer(text=current_baggage())

    @batched(max_batch=100)
    async def look(self, requests: Sequence[Ask]) -> Sequence[Answer | Error]:
        self.batches.append((current_baggage(), len(requests)))
        if self.following is not None:
            return await self.following.look.many(requests)
        return [Answer(text=current_baggage(), number=request.number) for request in requests]


async def two_hops(lab: Lab) -> tuple[Example, Telling]:
    last = Telling()
    last_server = await lab.serve(last)
    first = await lab.serve(Telling(lab.call(last_server.address)))
    return lab.call(first.address), last


async def test_it_passes_two_hops_plainly_and_in_batches(lab: Lab) -> None:
    remote, _ = await two_hops(lab)
    with baggage(colour="green"):
        assert (await remote.get(Ask())).text == "colour=green"
        assert (await remote.look(Ask())).text == "colour=green"
    assert (await remote.get(Ask())).text == ""
    assert (await remote.look(Ask())).text == ""


async def test_colours_do_not_run_in_a_batch(lab: Lab) -> None:
    remote, last = await two_hops(lab)

    async def look(colour: str, number: int) -> Answer:
        if not colour:
            return await remote.look(Ask(number=number))
        with baggage(colour=colour):
            return await remote.look(Ask(number=number))

    colours = ["", "green", "blue"] * 20
    answers = await asyncio.gather(*(look(colour, number) for number, colour in enumerate(colours)))
    assert [answer.text for answer in answers] == [colour and f"colour={colour}" for colour in colours]
    assert [answer.number for answer in answers] == list(range(60))
    assert sum(count for _, count in last.batches) == 60
    assert max(count for _, count in last.batches) > 1, "those of one colour still ride together"


def test_entries_are_added_replaced_and_bounded() -> None:
    with baggage(colour="green"), baggage(user="ü 1", colour="blue"):
        assert current_baggage() == "user=%C3%BC%201,colour=blue"
        with baggage("a=1;ttl=3, b=2"):
            assert current_baggage() == "a=1;ttl=3, b=2"
            with baggage(b="3"):
                assert current_baggage() == "a=1;ttl=3,b=3", "what belongs to others stays as it came"
        with baggage(""):
            assert current_baggage() == ""
        with pytest.raises(Invalid), baggage(**{f"k{number}": "" for number in range(200)}):
            pass
        with pytest.raises(Invalid) as caught, baggage(big="x" * BAGGAGE_MAX):
            pass
        assert caught.value.code == "bad_baggage"
        with pytest.raises(Invalid), baggage(**{"a,b": "1"}):
            pass
    assert current_baggage() == ""


@given(st.text(max_size=50), st.text(max_size=50))
def test_whatever_a_value_holds_it_stays_one_entry(first: str, second: str) -> None:
    with baggage(a=first.encode(errors="ignore").decode(), b=second.encode(errors="ignore").decode()):
        assert accepted_baggage(current_baggage()) == current_baggage()
        assert [member.partition("=")[0] for member in current_baggage().split(",")] == ["a", "b"]


@pytest.mark.parametrize("header", ["x" * (BAGGAGE_MAX + 1), "a=ü", "a=1\r\nb: 2", "a=\x00"])
def test_what_cannot_be_carried_is_left_behind(header: str) -> None:
    assert accepted_baggage(header) == ""
