"""A story: what happens in a world, and what must be true of it. One seed tells it once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from dougong.declared import Kind
from dougong.errors import Invalid
from dougong.simulation.faults import Chaos, Fault
from dougong.simulation.loop import Stuck
from dougong.simulation.world import World

__all__ = ["Story", "Telling", "find_story", "story_names", "tell"]

_STORIES = Kind("dougong.simulations", "story")

Tell = Callable[[World, str], Coroutine[Any, Any, Sequence[str]]]
"""`async def tell(world, without)`: what is wrong in the end. `without` is the safeguard left out, or empty."""


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """Declared in a module, named under the entry point group `dougong.simulations`, told by `dougong simulate`."""

    name: str
    title: str
    tell: Tell
    chaos: Chaos = Chaos()
    vary: bool = True
    """Whether each seed leaves some kinds of faults out and has more of others."""
    safeguards: Mapping[str, str] = {}
    """What can be taken away, and what it is: without it some seed must find something."""
    callbacks_max: int = 2_000_000
    virtual_s_max: float = 100_000.0


class Telling(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one seed."""

    seed: int
    violations: Sequence[str]
    faults: Sequence[Fault]
    """Those that struck, in order."""
    callbacks: int
    virtual_s: float
    trace: str = ""


def tell(
    story: Story,
    seed: int,
    *,
    without: str = "",
    only: Collection[str] | None = None,
    traced: bool = False,
    logs: bool = False,
) -> Telling:
    """Tell a story once. `only`: keys of the faults that may strike; `traced`: with the trace, `logs` in it too.

    Takes the calling thread, which must not run a loop of its own meanwhile.
    """
    if without and without not in story.safeguards:
        raise Invalid(
            f"story {story.name} has no safeguard {without!r}; it has: {', '.join(story.safeguards) or 'none'}",
            code="unknown_safeguard",
        )
    world = World(
        seed,
        chaos=story.chaos,
        vary=story.vary,
        only=only,
        logs=logs,
        callbacks_max=story.callbacks_max,
        virtual_s_max=story.virtual_s_max,
    )
    try:
        violations = [*world.run(story.tell(world, without))]
    except Stuck as stuck:
        violations = [str(stuck)]
    except AssertionError as error:
        violations = [f"assertion failed: {error}"]
    return Telling(
        seed=seed,
        violations=[*violations, *world.failures],
        faults=tuple(world.faults.happened),
        callbacks=world.loop.callbacks,
        virtual_s=world.now_s,
        trace=world.trace() if traced else "",
    )


def story_names() -> list[str]:
    """All that are declared."""
    return _STORIES.names()


def find_story(name: str) -> Story:
    """The one that is declared under `name`. Raises `Invalid` as `Kind.load` does."""
    return _STORIES.find(name, Story)
