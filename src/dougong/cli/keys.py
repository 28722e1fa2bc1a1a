"""`dougong keys`: which keys sign tokens and are believed, and how another takes their place while the system runs.

Works on the files in the data directory; running processes follow them. Private keys are never shown.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path

import cyclopts
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dougong.app import (
    KEYS_KEEP_S,
    KEYS_WAIT_S,
    KeyInfo,
    default_system,
    load_system,
    retire_key,
    rotate_keys,
    show_keys,
)
from dougong.cli.parameters import Json
from dougong.errors import Invalid, NotFound

__all__ = ["keys"]

keys = cyclopts.App(name="keys", help="Look at the keys that sign tokens, and change them.")

_WIDTH = 110
_SECONDS_MAX = 366 * 86400.0


@keys.command
def show(*, data: Path | None = None, json: Json = False) -> int:
    """The keys that are believed, and which of them signs. Exit code 1 when none can sign.

    Parameters
    ----------
    data
        Data directory of the system.
    """
    found, fault = show_keys(_directory(data))
    if json:
        print(msgspec.json.encode({"keys": found, "fault": fault}).decode())
        return int(bool(fault))
    _print(found)
    if fault:
        Console().print(escape(fault))
    return int(bool(fault))


@keys.command
async def rotate(
    *, keep: float = KEYS_KEEP_S, wait: float = KEYS_WAIT_S, data: Path | None = None, json: Json = False
) -> None:
    """Have a new key sign. Tokens of the one before are believed until they have expired; retired keys are removed.

    Parameters
    ----------
    keep
        Seconds that the old key's tokens are believed yet: at least what the longest of them lives.
    wait
        Seconds in which all processes learn of the new key before it signs. More than 10 where its files take time to
        reach them.
    data
        Data directory of the system.
    """
    directory = _directory(data)
    kid = await rotate_keys(directory, keep_s=_seconds("keep", keep), wait_s=_seconds("wait", wait), sleep=_sleep(json))
    _done(directory, {"signing": kid}, f"{kid} signs now", json)


@keys.command
async def retire(
    kid: str,
    *,
    now: bool = False,
    keep: float = KEYS_KEEP_S,
    wait: float = KEYS_WAIT_S,
    data: Path | None = None,
    json: Json = False,
) -> None:
    """End a key. With --now its tokens are refused within seconds: for a key that leaked. Their owners log in again.

    Parameters
    ----------
    kid
        Its id.
    now
        Do not wait until its tokens have expired. If it signs, another one takes its place first.
    keep
        Seconds that its tokens are believed yet, without --now.
    wait
        Seconds in which all processes learn of a new key before it signs, when one is needed.
    data
        Data directory of the system.
    """
    directory = _directory(data)
    await retire_key(
        directory, kid, now=now, keep_s=_seconds("keep", keep), wait_s=_seconds("wait", wait), sleep=_sleep(json)
    )
    _done(directory, {"retired": kid}, f"{kid} is not believed any more" if now else f"{kid} has an end", json)


def _sleep(json: bool) -> Callable[[float], Awaitable[None]]:
    """Ten seconds without a word look like a command that hangs."""

    async def tell(seconds: float) -> None:
        Console().print(f"a new key is published; it signs in {seconds:g} s", style="dim")
        await asyncio.sleep(seconds)

    return asyncio.sleep if json else tell


def _directory(data: Path | None) -> Path:
    directory = (data if data is not None else Path("var") / load_system(default_system()).name) / "keys"
    if not directory.is_dir():
        raise NotFound(
            f"there are no keys in {directory}; 'dougong up' makes them, or name the system's directory with --data",
            code="no_system",
        )
    return directory


def _seconds(name: str, value: float) -> float:
    if not 0 <= value <= _SECONDS_MAX:
        raise Invalid(f"--{name} must be 0 to {_SECONDS_MAX:,.0f} seconds, not {value:g}", code="bad_seconds")
    return value


def _done(directory: Path, what: dict[str, str], words: str, json: bool) -> None:
    found, _ = show_keys(directory)
    if json:
        print(msgspec.json.encode({**what, "keys": found}).decode())
        return
    Console().print(escape(words))
    _print(found)


def _print(found: list[KeyInfo]) -> None:
    table = Table("key", "state", "created", "believed until", box=None)
    for key in found:
        table.add_row(escape(key.kid), key.state.value, _time(key.created_us), _time(key.retires_us))
    console = Console()
    console.width = max(console.width, _WIDTH)  # half an id is of no use to anybody
    console.print(table)


def _time(us: int) -> str:
    return dt.datetime.fromtimestamp(us / 1e6, dt.UTC).strftime("%Y-%m-%d %H:%M:%S") if us else "–"
