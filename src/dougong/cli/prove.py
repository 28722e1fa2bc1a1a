"""`dougong prove`: rerun the experiments behind the claims, here and now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from dougong.errors import Invalid
from dougong.evidence import Claim, Report, find_claims, write_claims
from dougong.evidence import prove as run_proof

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
        Directory for reports and raw data.
    readme
        Write the table of claims into this file, between its marks; claims that are not measured now stay.
    json
        One JSON object a claim instead of a report.
    """
    claims = find_claims()
    if not name and not all_:
        _list(claims)
        return 0
    if name and name not in claims:
        raise Invalid(f"there is no claim {name!r}; there are: {', '.join(claims) or 'none'}", code="unknown_claim")
    console = Console(stderr=True)
    reports: list[Report] = []
    for claim in claims.values() if all_ else [claims[name]]:
        with console.status(f"{claim.name}: starting") as status:
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


def _list(claims: dict[str, Claim]) -> None:
    table = Table("claim", "what", "holds if", box=None)
    for claim in claims.values():
        table.add_row(claim.name, claim.title, ", ".join(f"{t.figure} {t}" for t in claim.thresholds))
    console = Console()
    console.print(table)
    console.print("measure one: dougong prove NAME [--quick]", style="dim")
