"""The README's table of claims: written from reports, never by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dougong.errors import Invalid
from dougong.evidence.report import Report

__all__ = ["check_place", "claims_table", "write_claims"]

_BEGIN, _END = "<!-- claims -->", "<!-- /claims -->"
_VERDICTS = {True: "holds", False: "**does not hold**", None: "not shown here"}
_HEAD = ("| claim | measured | verdict | when, of which sources |", "| --- | --- | --- | --- |")


def claims_table(reports: Sequence[Report], before: str = "") -> str:
    """A Markdown table, one row a claim: what was measured, the verdict, when, and the tree of the sources (`tree_of`).

    The machines are named below it. Claims of the table `before` that are not among `reports` stay as they are.
    """
    rows, machines = _read(before)
    for r in reports:
        why = f": {r.why}" if r.holds is False else ""
        when = f"{r.started[:10]} `{_short(r)}`"
        rows[r.claim] = f"| `{r.claim}`: {r.title} | {r.result or r.why} | {_VERDICTS[r.holds]}{why} | {when} |"
        m = r.machine
        machines[r.claim] = f"on {m.cores} cores ({m.cpu}), {m.memory_gib} GiB, {m.python}"
    names: dict[str, list[str]] = {}
    for claim in sorted(rows):
        names.setdefault(machines.get(claim, "elsewhere"), []).append(f"`{claim}`")
    said = "; ".join(f"{', '.join(claims)} measured {machine}" for machine, claims in names.items())
    return "\n".join([*_HEAD, *(rows[claim] for claim in sorted(rows)), "", said + "."])


def _short(report: Report) -> str:
    """The tree, so that a reader can see whether these are the sources he has; outside git what stands for it."""
    top, _, tree = report.tree.partition(":")
    return f"{top}:{tree[:12]}" if tree else report.commit[:12]


def _read(table: str) -> tuple[dict[str, str], dict[str, str]]:
    """Of a table made here: claim → row, and claim → the machine it was measured on."""
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `([^`]+)`: .*\|$", table, re.MULTILINE)}
    *_, last = table.strip().split("\n")
    machines: dict[str, str] = {}
    for part in last.removesuffix(".").split("; "):
        claims, measured, machine = part.partition(" measured ")
        if measured:
            machines |= dict.fromkeys(re.findall(r"`([^`]+)`", claims), machine)
    return rows, machines


def check_place(readme: Path) -> tuple[str, str, str]:
    """What stands before the claims, between their marks, and after them.

    Raises `Invalid` naming the file if it cannot be read or written, or the marks are not there.
    """
    try:
        with readme.open("r+") as file:
            text = file.read()
    except OSError as error:
        raise Invalid(f"{readme} cannot take the table of claims: {error.strerror}", code="bad_readme") from error
    head, begin, rest = text.partition(_BEGIN)
    before, end, tail = rest.partition(_END)
    if not begin or not end:
        raise Invalid(
            f"{readme} has no place for the claims: put {_BEGIN} and {_END} where the table belongs", code="bad_readme"
        )
    return head, before, tail


def write_claims(readme: Path, reports: Sequence[Report]) -> None:
    """Put the claims between the marks in `readme`; those that are there already and were not measured again stay.

    Raises `Invalid` as `check_place` does.
    """
    head, before, tail = check_place(readme)
    readme.write_text(f"{head}{_BEGIN}\n{claims_table(reports, before)}\n{_END}{tail}")
