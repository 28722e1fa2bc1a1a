"""The README's table of claims: written from reports, never by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dougong.errors import Invalid
from dougong.evidence.report import Report

__all__ = ["claims_table", "write_claims"]

_BEGIN, _END = "<!-- claims -->", "<!-- /claims -->"
_VERDICTS = {True: "holds", False: "**does not hold**", None: "not shown here"}


def claims_table(reports: Sequence[Report]) -> str:
    """A Markdown table, one row a claim, with where and when it was measured below it."""
    lines = ["| claim | measured | verdict |", "| --- | --- | --- |"]
    for r in reports:
        why = f": {r.why}" if r.holds is False else ""
        lines.append(f"| `{r.claim}`: {r.title} | {r.result or r.why} | {_VERDICTS[r.holds]}{why} |")
    wheres: dict[str, list[str]] = {}
    for r in reports:
        where = (
            f"measured {r.started[:10]} at commit `{r.commit[:12]}` on {r.machine.cores} cores ({r.machine.cpu}), "
            f"{r.machine.memory_gib} GiB, {r.machine.python}"
        )
        wheres.setdefault(where, []).append(f"`{r.claim}`")
    said = "; ".join(f"{', '.join(names)} {where}" for where, names in wheres.items())
    return "\n".join([*lines, "", said + "."])


def write_claims(readme: Path, reports: Sequence[Report]) -> None:
    """Put the table between the marks in `readme`. Raises `Invalid` naming the file if the marks are not there."""
    text = readme.read_text()
    head, begin, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not begin or not end:
        raise Invalid(f"{readme} has no place for the claims: put {_BEGIN} and {_END} where the table belongs")
    readme.write_text(f"{head}{_BEGIN}\n{claims_table(reports)}\n{_END}{tail}")
