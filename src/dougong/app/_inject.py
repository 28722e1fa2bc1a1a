"""Dependencies by constructor: a parameter's type says what is wanted, nothing else is configured.

`Injector` knows ready-made values by type and recipes (providers) by return type. A provider is a function whose
parameters are injected in turn; it may be plain, async, or an async generator that yields once and cleans up after.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

__all__ = ["Injector", "Provider"]

Provider = Callable[..., object]
Fallback = Callable[[type], Awaitable[object | None]]


class Injector:
    """Builds objects from their type hints; each provider runs at most once.

    `fallback(kind)` may answer for types nobody registered (service clients), or return None.
    """

    def __init__(self, stack: AsyncExitStack, fallback: Fallback) -> None:
        self._stack = stack
        self._fallback = fallback
        self._values: dict[type, object] = {}
        self._providers: dict[type, Provider] = {}
        self._building: list[type] = []

    def add(self, kind: type, value: object) -> None:
        """Answer requests for `kind` with this value."""
        self._values[kind] = value

    def add_provider(self, provider: Provider) -> None:
        """Answer requests for the provider's return type by calling it."""
        kind = _return_type(provider)
        if kind in self._providers:
            raise TypeError(f"two providers for {kind.__qualname__}: keep one")
        self._providers[kind] = provider

    def add_class(self, kind: type) -> None:
        """Answer requests for `kind` by building it, once, when it is first asked for."""
        self._providers[kind] = kind

    async def get(self, kind: type, where: str) -> object:
        """The object for a type. `where` says who asked, for the error message."""
        if kind in self._values:
            return self._values[kind]
        provider = self._providers.get(kind)
        if provider is None:
            value = await self._fallback(kind)
            if value is None:
                raise TypeError(
                    f"{where} asks for {kind.__qualname__}, which nothing provides: "
                    f"add a provider with that return type to App(provide=[...])"
                )
        else:
            if kind in self._building:
                circle = " → ".join(k.__qualname__ for k in [*self._building, kind])
                raise TypeError(f"providers need each other in a circle: {circle}")
            self._building.append(kind)
            try:
                value = await self._run(provider)
            finally:
                self._building.pop()
        self._values[kind] = value
        return value

    async def build(self, factory: Callable[..., object]) -> Any:
        """Call a class or function with its parameters injected; parameters with defaults may stay unfilled."""
        return factory(**await self._arguments(factory))

    async def _run(self, provider: Provider) -> object:
        made = provider(**await self._arguments(provider))
        if inspect.isasyncgen(made):
            return await self._stack.enter_async_context(_once(made))
        if inspect.isawaitable(made):
            return await made
        return made

    async def _arguments(self, factory: Callable[..., object]) -> dict[str, object]:
        where = getattr(factory, "__qualname__", repr(factory))
        target = factory.__init__ if inspect.isclass(factory) else factory
        if target is object.__init__:
            return {}
        hints = _hints(target, where)
        arguments: dict[str, object] = {}
        for name, parameter in inspect.signature(factory).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            kind = hints.get(name)
            if parameter.default is not parameter.empty and (kind not in self._values and kind not in self._providers):
                continue
            if not isinstance(kind, type):
                raise TypeError(f"{where}: parameter {name!r} needs a class as annotation to be injected, not {kind!r}")
            arguments[name] = await self.get(kind, where)
        return arguments


def _return_type(provider: Provider) -> type:
    hint = _hints(provider, f"provider {getattr(provider, '__qualname__', provider)}").get("return")
    if typing.get_origin(hint) in (AsyncIterator, AsyncGenerator) or (
        typing.get_origin(hint) is not None and typing.get_args(hint) and inspect.isasyncgenfunction(provider)
    ):
        hint = typing.get_args(hint)[0]
    if not isinstance(hint, type):
        raise TypeError(f"provider {provider!r} must annotate its return with a class, not {hint!r}")
    return hint


def _hints(target: Callable[..., object], where: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target)
    except NameError as error:
        raise TypeError(
            f"{where}: its annotation {error.name!r} is not there at run time; "
            f"import it outside `if TYPE_CHECKING` and define it at module level"
        ) from error


@asynccontextmanager
async def _once(generator: AsyncGenerator[object, Any]) -> AsyncGenerator[object]:
    name = getattr(generator, "__qualname__", repr(generator))
    try:
        value = await anext(generator)
    except StopAsyncIteration:
        raise TypeError(f"provider {name} ended without yielding anything") from None
    try:
        yield value
    finally:
        async for _ in generator:
            await generator.aclose()
            raise TypeError(f"provider {name} yields more than once")
