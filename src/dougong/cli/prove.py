"""`dougong prove`: rerun the experiments behind the claims, here and now."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from dougong.errors import Invalid
from dougong.evidence import Report, check_place, claim_names, find_claim, write_claims
from dougong.evidence import prove as run_proof
from dougong.telemetry import configure_logging

__all__ = ["prove"]


async def prove(
    name: str = "",
    *,
    quick: bool = False,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    seed: int = 1,
    out: Path = Path("var/evidence"),
    readme: Path | None = None,
    json: bool = False,
) -> int:
    """Measure baseline and ours side by side and say whether the claim holds. Exit code 1 when one does not.

    Parameters
    ----------
    name
        Which claim; without one, the claims are listed.
    quick
        Under 30 s each: fewer and shorter runs, wider intervals.
    all_
        Every claim.
    seed
        Of everything random.
    out
        Directory for reports and raw data; `prove.log` in it is what was logged meanwhile.
    readme
        Write the table of claims into this file, between its marks; claims that are not measured now stay.
    json
        One JSON object a claim instead of a report.
    """
    if not name and not all_:
        _list()
        return 0
    if readme is not None:
        check_place(readme)  # now, and not after an hour of measuring
    claims = [find_claim(each) for each in (claim_names() if all_ else [name])]
    console = Console(stderr=True)
    reports: list[Report] = []
    for claim in claims:
        with _logs_in(out / "prove.log"), console.status(f"{claim.name}: starting") as status:
            report = await run_proof(
                claim,
                quick=quick,
                seed=seed,
                workdir=out,
                progress=lambda p, c=claim, s=status: s.update(f"{c.name}: {p.done} of {p.total} runs · {p.text}"),  # type: ignore[misc]
            )
        reports.append(report)
        if json:
            print(report.to_json())
        else:
            Console().print(Markdown(report.to_markdown()))
            Console().print(f"kept in {report.kept}", style="dim", highlight=False)
    if readme is not None:
        write_claims(readme, reports)
    return int(any(report.holds is False for report in reports))


@contextmanager
def _logs_in(file: Path) -> Generator[None]:
    """What is broken on purpose complains, and a person who waits for figures need not read it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        log = file.open("a")
    except OSError as error:
        raise Invalid(f"nothing can be kept in {file.parent}: {error.strerror}; see --out", code="bad_out") from error
    with log:
        configure_logging("prove", json=False, stream=log)
        try:
            yield
        finally:
            configure_logging("prove", json=False)


def _list() -> None:
    table = Table("claim", "what", "holds if", box=None)
    for name in claim_names():
        try:
            claim = find_claim(name)
        except Invalid as error:  # no reason to keep the others from being shown
            table.add_row(name, escape(f"not here: {error.message}"), "")
        else:
            table.add_row(name, claim.title, ", ".join(f"{t.figure} {t}" for t in claim.thresholds))
    console = Console()
    console.print(table)
    console.print("measure one: dougong prove NAME [--quick]", style="dim")
