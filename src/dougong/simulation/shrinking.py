"""From a story that fails after a hundred faults to the few that matter.

Delta debugging (Zeller, "Yesterday, my program worked", 1999) over the faults that struck: leave a part of them out,
tell the story again, keep what still fails. The remaining faults may come at other times than in the first telling,
since a world with fewer faults goes another way; each result is a story that was really told and really failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dougong.simulation.story import Story, Telling, tell

__all__ = ["fewest", "shrink"]


def shrink(
    story: Story,
    failed: Telling,
    *,
    without: str = "",
    tellings_max: int = 300,
    progress: Callable[[int, int], object] | None = None,
) -> Telling:
    """The telling with the fewest faults that was found to fail still, with its trace. `progress(tellings, faults)`."""
    best = failed

    def fails(keys: Sequence[str]) -> bool:
        nonlocal best
        told = tell(story, failed.seed, without=without, only=keys, traced=True)
        if told.violations and (len(told.faults) < len(best.faults) or not best.trace):
            best = told
        return bool(told.violations)

    keys = [fault.key for fault in failed.faults]
    fewest(keys, fails, tests_max=tellings_max, progress=progress)
    # Halving assumes that faults add up. Where they hide each other, one alone may do, and then it is the best story.
    for tellings, key in enumerate(reversed(keys[-tellings_max:]), 1):
        if len(best.faults) <= 1:
            break
        if progress is not None:
            progress(tellings, len(best.faults))
        fails([key])
    return best


def fewest(
    items: Sequence[str],
    fails: Callable[[Sequence[str]], bool],
    *,
    tests_max: int = 300,
    progress: Callable[[int, int], object] | None = None,
) -> list[str]:
    """A part of `items` of which `fails` holds and of which nothing can be left out, as far as `tests_max` tests tell.

    `fails(items)` is taken for granted.
    """
    tests = 0
    left = list(items)

    def test(part: Sequence[str]) -> bool:
        nonlocal tests
        tests += 1
        if progress is not None:
            progress(tests, len(left))
        return fails(part)

    if test([]):
        return []
    parts = 2
    while len(left) > 1 and tests < tests_max:
        size = -(-len(left) // parts)
        pieces = [left[start : start + size] for start in range(0, len(left), size)]
        for i, piece in enumerate(pieces):
            if tests >= tests_max:
                return left
            if test(piece):
                left, parts = piece, 2
                break
            rest = [item for j, other in enumerate(pieces) if j != i for item in other]
            if len(pieces) > 2 and tests < tests_max and test(rest):
                left, parts = rest, max(parts - 1, 2)
                break
        else:
            if parts >= len(left):
                break
            parts = min(parts * 2, len(left))
    return left
