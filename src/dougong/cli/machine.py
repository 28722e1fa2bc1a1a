"""`dougong machine`: look at a state machine's declaration."""

from __future__ import annotations

import importlib

import cyclopts

from dougong.errors import Invalid
from dougong.statemachine import Machine

__all__ = ["machine"]

machine = cyclopts.App(name="machine", help="Look at a state machine's declaration.")


@machine.command
def diagram(target: str, *, svg: bool = False) -> None:
    """Draw a machine: its states, events and deadlines.

    Parameters
    ----------
    target
        The class, as `module:Class`.
    svg
        An SVG picture instead of Mermaid text.
    """
    found = _load(target)
    print(found.svg() if svg else found.mermaid(), end="")


@machine.command
def schema(target: str, *, dialect: str = "sqlite") -> None:
    """Print what the machine needs in the user's own table: columns and index, for a migration.

    Parameters
    ----------
    target
        The class, as `module:Class`.
    dialect
        sqlite, mysql or postgresql.
    """
    print(_load(target).schema_sql(dialect))


def _load(target: str) -> type[Machine[int] | Machine[str]]:
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise Invalid(f"{target!r} is not of the form module:Class", code="bad_target")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise Invalid(f"{target!r}: no module named {error.name!r}", code="machine_not_found") from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Machine) and hasattr(found, "declaration")):
        raise Invalid(f"{target!r}: {module_name} has no Machine called {name!r}", code="machine_not_found")
    return found
