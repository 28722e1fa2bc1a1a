"""Values as people read them on a console, and documents as programs do."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from dougong.cli.output import shown
from dougong.errors import Invalid

__all__ = ["cell", "check_limit", "console", "print_document", "print_fields", "some", "when"]

_WIDTH = 160
"""Of tables that go into a file or a pipe: ids and addresses are of no use cut off."""
_SOME = 20


def console() -> Console:
    made = Console()
    return made if made.is_terminal else Console(width=_WIDTH)


def print_document(document: object) -> None:
    print(msgspec.json.encode(document).decode())


def print_fields(fields: Mapping[str, object]) -> None:
    """One thing, a line for each of its fields; those called `…_us` are times."""
    table = Table(box=None, show_header=False)
    for name, value in fields.items():
        table.add_row(name, shown(when(value) if name.endswith("_us") and isinstance(value, int) else cell(value)))
    console().print(table)


def cell(value: object) -> str:
    if isinstance(value, tuple):
        value = ", ".join(map(str, value))
    return str(value) if value not in ("", None) else "–"


def when(us: int) -> str:
    return dt.datetime.fromtimestamp(us / 1e6, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def some(ids: Sequence[str | int]) -> str:
    return ", ".join(map(str, ids[:_SOME])) + (f" and {len(ids) - _SOME} more" if len(ids) > _SOME else "")


def check_limit(limit: int, most: int) -> None:
    """How many rows are asked for. Raises `Invalid` (`bad_limit`)."""
    if not 1 <= limit <= most:
        raise Invalid(f"--limit must be 1 to {most:,}, not {limit}", code="bad_limit")
