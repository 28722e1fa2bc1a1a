"""Faults are gathered, so that one start tells all there is to repair."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dougong.config.layers import Path, show_path
from dougong.errors import Invalid

__all__ = ["Problem", "refuse"]

_SHOWN_MAX = 20


class Problem(msgspec.Struct, frozen=True):
    path: Path
    """Empty when the fault is not about one setting."""
    code: str
    text: str
    where: str
    """File, variable or other place of the fault; empty when it is nowhere, as for a missing setting."""
    expected: str = ""

    def __str__(self) -> str:
        name = show_path(self.path)
        told = f"{name}: {self.text}" if name else self.text
        return told if not self.where or self.where in told else f"{told}, set by {self.where}"


def refuse(problems: Sequence[Problem]) -> Invalid:
    """One error for all; code and fields are those of the first."""
    first = problems[0]
    lines = [str(problem) for problem in problems[:_SHOWN_MAX]]
    if len(problems) > _SHOWN_MAX:
        lines.append(f"and {len(problems) - _SHOWN_MAX} more")
    error = Invalid("\n".join(lines), code=first.code)
    fields = {"path": show_path(first.path), "where": first.where, "expected": first.expected}
    error.fields.update({name: value for name, value in fields.items() if value})
    return error
