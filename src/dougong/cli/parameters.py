"""Parameters that mean the same in every command. Nothing else is imported here: `dougong swarm` forks what it has."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

__all__ = ["Json", "Name"]

Json = Annotated[bool, Parameter(help="One JSON document instead of a table or words.")]
Name = Annotated[str, Parameter(help="Its name.")]
