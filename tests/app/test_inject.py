"""Dependencies by type: what is built, in which order, how it is let go, and what is said when it cannot be."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from dougong.app._inject import Injector

if TYPE_CHECKING:
    from fractions import Fraction


class Engine: ...


class Wheels: ...


class Radio: ...


class Car:
    def __init__(self, engine: Engine, wheels: Wheels, radio: Radio | None = None, colour: str = "red") -> None:
        self.engine, self.wheels, self.radio, self.colour = engine, wheels, radio, colour


async def nothing(_: type) -> None:
    return None


async def test_parameters_are_found_by_type_and_made_once() -> None:
    made: list[str] = []

    def engine() -> Engine:
        made.append("engine")
        return Engine()

    async def wheels(engine: Engine) -> Wheels:
        made.append("wheels")
        return Wheels()

    async with AsyncExitStack() as stack:
        injector = Injector(stack, nothing)
        injector.add_provider(wheels)
        injector.add_provider(engine)
        first, second = await injector.build(Car), await injector.build(Car)
    assert made == ["engine", "wheels"]
    assert first is not second
    assert (first.engine, first.wheels) == (second.engine, second.wheels)
    assert (first.radio, first.colour) == (None, "red")


async def test_a_default_is_replaced_when_somebody_provides_the_type() -> None:
    class Tuned:
        def __init__(self, engine: Engine = Engine()) -> None:  # noqa: B008
            self.engine = engine

    async with AsyncExitStack() as stack:
        injector = Injector(stack, nothing)
        mine = Engine()
        injector.add(Engine, mine)
        assert (await injector.build(Tuned)).engine is mine


async def test_what_nobody_provides_is_named_with_who_asked_and_what_to_do() -> None:
    async with AsyncExitStack() as stack:
        injector = Injector(stack, nothing)
        injector.add(Engine, Engine())
        with pytest.raises(TypeError, match=r"Car asks for Wheels, which nothing provides: add a provider"):
            await injector.build(Car)


async def test_the_fallback_is_asked_last_and_once() -> None:
    asked: list[type] = []

    async def fallback(kind: type) -> object:
        asked.append(kind)
        return Wheels()

    async with AsyncExitStack() as stack:
        injector = Injector(stack, fallback)
        injector.add(Engine, Engine())
        assert (await injector.build(Car)).wheels is (await injector.build(Car)).wheels
    assert asked == [Wheels]


async def test_a_circle_is_shown_whole() -> None:
    def engine(wheels: Wheels) -> Engine:
        return Engine()

    def wheels(radio: Radio) -> Wheels:
        return Wheels()

    def radio(engine: Engine) -> Radio:
        return Radio()

    async with AsyncExitStack() as stack:
        injector = Injector(stack, nothing)
        for provider in (engine, wheels, radio):
            injector.add_provider(provider)
        for _ in range(2):  # the first failure leaves nothing half-built behind
            with pytest.raises(TypeError, match="in a circle: Engine → Wheels → Radio → Engine"):
                await injector.build(Car)


async def test_classes_may_ask_for_each_other_in_any_order() -> None:
    class Front:
        def __init__(self, back: Back) -> None:
            self.back = back

    class Back: ...

    Front.__init__.__annotations__["back"] = Back
    async with AsyncExitStack() as stack:
        injector = Injector(stack, nothing)
        injector.add_class(Front)
        injector.add_class(Back)
        front = await injector.get(Front, "test")
        assert isinstance(front, Front)
        assert front.back is await injector.get(Back, "test")


def providers(order: list[str]) -> list[Callable[..., object]]:
    async def engine() -> AsyncIterator[Engine]:
        order.append("engine")
        yield Engine()
        order.append("engine gone")

    async def wheels(engine: Engine) -> AsyncGenerator[Wheels]:
        order.append("wheels")
        yield Wheels()
        order.append("wheels gone")

    return [wheels, engine]


async def test_generators_are_cleaned_up_last_made_first() -> None:
    order: list[str] = []
    async with AsyncExitStack() as stack:
        injector = Injector(stack, nothing)
        for provider in providers(order):
            injector.add_provider(provider)
        await injector.build(Car)
        assert order == ["engine", "wheels"]
    assert order == ["engine", "wheels", "wheels gone", "engine gone"]


async def radio_of(*made_by: Callable[..., object]) -> None:
    async with AsyncExitStack() as stack:
        injector = Injector(stack, nothing)
        for provider in made_by:
            injector.add_provider(provider)
        await injector.get(Radio, "test")


async def test_generators_are_cleaned_up_after_a_failure_too() -> None:
    order: list[str] = []

    def fails(wheels: Wheels) -> Radio:
        raise RuntimeError("no reception")

    with pytest.raises(RuntimeError, match="no reception"):
        await radio_of(*providers(order), fails)
    assert order[-2:] == ["wheels gone", "engine gone"]


async def test_a_generator_yields_exactly_once() -> None:
    async def none() -> AsyncIterator[Engine]:
        for engine in tuple[Engine, ...]():
            yield engine

    async def twice() -> AsyncIterator[Radio]:
        yield Radio()
        yield Radio()

    async with AsyncExitStack() as stack:
        injector = Injector(stack, nothing)
        injector.add_provider(none)
        with pytest.raises(TypeError, match="none ended without yielding"):
            await injector.get(Engine, "test")
    with pytest.raises(TypeError, match="twice yields more than once"):
        await radio_of(twice)


def unannotated(engine) -> Wheels:  # type: ignore[no-untyped-def]
    return Wheels()


def returns_nothing_named(engine: Engine):  # type: ignore[no-untyped-def]
    return Wheels()


def returns_a_list() -> list[Engine]:
    return []


def hidden(number: Fraction) -> Wheels:
    return Wheels()


@pytest.mark.parametrize("provider", [returns_nothing_named, returns_a_list])
def test_a_provider_says_what_it_makes(provider: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="must annotate its return with a class"):
        Injector(AsyncExitStack(), nothing).add_provider(provider)


def test_an_annotation_that_is_not_there_at_run_time_is_named() -> None:
    with pytest.raises(TypeError, match=r"hidden: its annotation 'Fraction' is not there .* TYPE_CHECKING"):
        Injector(AsyncExitStack(), nothing).add_provider(hidden)


def test_two_providers_for_one_type_are_refused() -> None:
    injector = Injector(AsyncExitStack(), nothing)

    def one() -> Engine:
        return Engine()

    def two() -> Engine:
        return Engine()

    injector.add_provider(one)
    with pytest.raises(TypeError, match="two providers for Engine"):
        injector.add_provider(two)


async def test_a_parameter_without_a_class_is_named() -> None:
    async with AsyncExitStack() as stack:
        injector = Injector(stack, nothing)
        with pytest.raises(TypeError, match="unannotated: parameter 'engine' needs a class"):
            await injector.build(unannotated)
