"""`dougong simulate`: tell a story in simulated worlds, seed after seed, and say which seed finds something."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from contextlib import aclosing
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dougong.errors import Invalid
from dougong.simulation import Story, Telling, find_story, run_seeds, run_shrink, run_traced, story_names

__all__ = ["simulate"]

_SEEDS = 2**32
_VIOLATIONS_SHOWN = 20
_SAY_EVERY_S = 10.0
"""Where nobody watches a live line: in a log."""


async def simulate(
    name: str = "",
    *,
    seeds: int = 1000,
    first_seed: int | None = None,
    seed: int | None = None,
    workers: int = 2,
    without: str = "",
    shrink: Annotated[bool, Parameter(negative="--no-shrink")] = True,
    logs: bool = True,
    json: bool = False,
) -> int:
    """Run a whole system in simulated worlds under every fault. Exit code 1 when a seed finds a violation.

    Parameters
    ----------
    name
        Which story; without one, the stories are listed.
    seeds
        How many to tell.
    first_seed
        The first; random if it is not given.
    seed
        Tell only this one, and print what happened in it line by line.
    workers
        Processes that tell.
    without
        Take this safeguard away: some seed should find that out.
    shrink
        Look for the fewest faults with which the first failing seed fails still.
    logs
        With --seed: what the system logs is part of what is printed.
    json
        One JSON document instead of text; with --seed, the trace is in it.
    """
    if not name:
        _list(json=json)
        return 0
    story = find_story(name)
    if without and without not in story.safeguards:
        raise Invalid(
            f"story {name} has no safeguard {without!r}; it has: {', '.join(story.safeguards) or 'none'}",
            code="unknown_safeguard",
        )
    if seeds < 1 or not 1 <= workers <= 64:
        raise Invalid("--seeds must be 1 or more, --workers 1 to 64", code="bad_number")
    if seed is not None:
        return await _one(story, seed, without=without, logs=logs, json=json)
    if first_seed is None:
        first_seed = secrets.randbelow(_SEEDS)
    return await _many(story, first_seed, seeds, workers=workers, without=without, shrink=shrink, json=json)


async def _one(story: Story, seed: int, *, without: str, logs: bool, json: bool) -> int:
    told, difference = await run_traced(story, seed, without=without, logs=logs)
    if json:
        print(msgspec.json.encode({"story": story.name, "without": without, "telling": told}).decode())
        return int(bool(told.violations))
    sys.stdout.write(told.trace)
    sys.stdout.flush()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if difference:
        console.print(f"[bold red]told twice, this seed is two stories[/]; they part here:\n{escape(difference)}")
    _violations(console, told)
    return int(bool(told.violations or difference))


async def _many(
    story: Story, first_seed: int, seeds: int, *, workers: int, without: str, shrink: bool, json: bool
) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    last = first_seed + seeds - 1
    told = faults = failed_seeds = 0
    first: Telling | None = None
    started, said = time.monotonic(), 0.0
    doing = f"{story.name}{f' without {without}' if without else ''}"
    try:
        with console.status(f"{doing}: seeds {first_seed} to {last}") as status:
            async with aclosing(run_seeds(story, first_seed, seeds, workers=workers, without=without)) as chunks:
                async for chunk in chunks:
                    told += chunk.told
                    faults += chunk.faults
                    failed_seeds += len(chunk.failed)
                    for failed in chunk.failed:
                        if first is None or failed.seed < first.seed:
                            first = failed
                    now = time.monotonic()
                    rate = told / max(now - started, 0.001)
                    line = f"{doing}: {told:,} of {seeds:,} seeds · {faults:,} faults · {rate:,.0f} seeds/s"
                    status.update(line)
                    if not console.is_terminal and now - said > _SAY_EVERY_S:
                        said = now
                        console.print(line)
                    if first is not None:
                        break
    except asyncio.CancelledError:
        console.print(f"stopped after {told:,} of {seeds:,} seeds from {first_seed} on; nothing was found in them")
        raise
    least: Telling | None = None
    if first is not None and shrink:
        with console.status(f"{doing}: seed {first.seed} fails; looking for the fewest faults"):
            least = await run_shrink(story, first, without=without)
    took_s = time.monotonic() - started
    if json:
        document = {
            "story": story.name,
            "without": without,
            "first_seed": first_seed,
            "seeds": told,
            "faults": faults,
            "seconds": round(took_s, 3),
            "failed": first,
            "fewest_faults": least,
            "replay": _replay(story, first.seed, without) if first is not None else None,
        }
        print(msgspec.json.encode(document).decode())
    elif first is None:
        Console(highlight=False, soft_wrap=True).print(
            f"{doing}: nothing found in {told:,} seeds from {first_seed} on "
            f"({faults:,} faults, {took_s:.0f} s, {told / max(took_s, 0.001):,.0f} seeds/s)"
        )
    else:
        _report(story, first, least, without)
    return int(first is not None)


def _report(story: Story, first: Telling, least: Telling | None, without: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold red]seed {first.seed} of {story.name} fails[/] ({len(first.faults)} faults)")
    _violations(console, first)
    if least is not None:
        console.print(f"\nwith the fewest faults found, {len(least.faults)} of them, it still does:")
        for fault in least.faults:
            console.print(f"  {escape(str(fault))}")
        _violations(console, least)
    console.print(f"\ntell it again: [bold]{escape(_replay(story, first.seed, without))}[/]")


def _violations(console: Console, told: Telling) -> None:
    if not told.violations:
        console.print(f"seed {told.seed}: nothing wrong")
    for violation in told.violations[:_VIOLATIONS_SHOWN]:
        console.print(f"  [red]✗[/] {escape(violation)}")
    if len(told.violations) > _VIOLATIONS_SHOWN:
        console.print(f"  … and {len(told.violations) - _VIOLATIONS_SHOWN} more")


def _replay(story: Story, seed: int, without: str) -> str:
    return f"dougong simulate {story.name} --seed {seed}" + (f" --without {without}" if without else "")


def _list(*, json: bool) -> None:
    stories: dict[str, Story] = {}
    unfit: dict[str, str] = {}
    for name in story_names():
        try:
            stories[name] = find_story(name)
        except Invalid as error:  # no reason to keep the others from being shown
            unfit[name] = error.message
    if json:
        plain = [{"name": s.name, "title": s.title, "safeguards": dict(s.safeguards)} for s in stories.values()]
        print(msgspec.json.encode(plain).decode())
        return
    table = Table("story", "what", "safeguards (--without)", box=None)
    for story in stories.values():
        table.add_row(story.name, story.title, "\n".join(f"{name}: {what}" for name, what in story.safeguards.items()))
    for name, why in unfit.items():
        table.add_row(name, escape(f"not here: {why}"), "")
    console = Console()
    console.print(table if table.row_count else "no story is declared under the entry point group dougong.simulations")
    console.print("tell one: dougong simulate NAME [--seeds N]", style="dim")
