"""The table of claims in a README: no figure stands there that a run did not produce."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dougong.errors import Invalid
from dougong.evidence.report import Report

__all__ = ["write_claims"]

BEGIN, END = "<!-- claims -->", "<!-- /claims -->"
_HEADER = ["| claim | result | measured |", "| --- | --- | --- |"]
_VERDICTS = {True: "holds", False: "**does not hold**", None: "not shown"}


def write_claims(path: Path, reports: Sequence[Report]) -> None:
    """Write the reports' lines between the marks; lines of claims that were not run now stay as they are.

    Raises `Invalid` when the file has no marks.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise Invalid(f"{path} has no place for the table of claims: add {BEGIN} and {END}", code="no_place_for_claims")
    lines = {_name(line): line for line in table.splitlines() if line.startswith("| `")}
    lines |= {report.claim: _line(report) for report in reports}
    body = "\n".join([*_HEADER, *(lines[name] for name in sorted(lines))])
    path.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", encoding="utf-8")


def _name(line: str) -> str:
    return line.split("`")[1]


def _line(report: Report) -> str:
    m = report.machine
    result = (report.result or report.why).replace("|", "\\|").replace("\n", " ")
    if report.holds is False:
        result += f" But {report.why}."
    measured = f"{report.started[:10]}, {m.cores} cores {m.cpu}, {report.commit.removesuffix('+changes')[:12]}"
    if report.commit.endswith("+changes"):
        measured += " with changes"
    return f"| `{report.claim}` {_VERDICTS[report.holds]} | {result} | {measured} |"
