"""`dougong rush`: load on the running system, live progress, a latency table, and the books at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dougong.cli.data import data_directory
from dougong.cli.parameters import Json
from dougong.evidence import LoadReport, RushOptions, RushResult, find_rush, rush_names
from dougong.evidence import rush as run_rush

__all__ = ["rush"]

_DISCREPANCIES_SHOWN = 20


async def rush(
    scenario: str = "",
    *,
    rate: float = 1000.0,
    seconds: float = 10.0,
    transport: Literal["grpc", "http"] = "grpc",
    schedule: Literal["poisson", "fixed", "closed"] = "poisson",
    connections: int = 16,
    batch: int = 200,
    zipf: float = 1.0,
    orders: Path | None = None,
    keys: bool = False,
    retry: bool = False,
    check: bool = False,
    seed: int = 1,
    data: Path | None = None,
    url: str = "",
    journal: Path | None = None,
    json: Json = False,
) -> int:
    """Drive an open-loop rush of requests at the running system. Exit code 1 when the books do not agree.

    Parameters
    ----------
    scenario
        Which rush; the only one there is, if left out.
    rate
        Requests a second.
    seconds
        How long.
    transport
        `grpc` sends batches on bidirectional streams, `http` one by one.
    schedule
        `poisson` and `fixed` send on schedule whatever the system does; `closed` waits for answers.
    connections
        HTTP connections; batches under way with the closed schedule.
    batch
        At most so many requests in a batch.
    zipf
        How uneven the demand is; 0 is even.
    orders
        CSV file of requests to send instead of made up ones.
    keys
        Send an idempotency key with each request.
    retry
        Repeat what has no known outcome under its key until it has one.
    check
        Afterwards, compare all databases with what was acknowledged.
    seed
        Of everything random.
    data
        Data directory of the running system.
    url
        Of the system's HTTP front; found in its registry if left out.
    journal
        File to keep the outcomes in.
    """
    options = RushOptions(
        rate=rate,
        seconds=seconds,
        transport=transport,
        schedule=schedule,
        connections=connections,
        batch=batch,
        zipf_s=zipf,
        orders_file=str(orders or ""),
        keys=keys,
        retry=retry,
        check=check,
        seed=seed,
        data=str(data_directory(data)),
        http_url=url,
        journal=str(journal or ""),
    )
    what = find_rush(scenario or next(iter(rush_names()), ""))
    if json:
        result = await run_rush(what, options)
        print(result.to_json())
        return 0 if result.clean else 1
    console = Console()
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        result = await run_rush(what, options, progress=lambda report: live.update(_progress(report, options)))
    _print(console, result)
    return 0 if result.clean else 1


def _progress(report: LoadReport, options: RushOptions) -> Table:
    table = Table(box=None)
    for column in ("offered", "acknowledged", "a second", "refused", "P50 ms", "P99 ms"):
        table.add_column(column, justify="right", min_width=9)
    table.add_row(
        f"{report.offered:,}",
        f"{report.acknowledged:,}",
        f"{report.acknowledged_per_s:,.0f}",
        f"{sum(report.refused.values()):,}",
        f"{report.latency.p50_ms:.1f}",
        f"{report.latency.p99_ms:.1f}",
    )
    table.caption = f"{min(report.seconds, options.seconds):.0f} of {options.seconds:.0f} s"
    return table


def _print(console: Console, result: RushResult) -> None:
    report = result.report
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("offered", f"{report.offered:,}", f"in {report.seconds:.1f} s")
    table.add_row("acknowledged", f"{report.acknowledged:,}", f"{report.acknowledged_per_s:,.0f} a second")
    for code, count in sorted(report.refused.items(), key=lambda item: -item[1]):
        table.add_row("refused", f"{count:,}", code)
    if report.dropped:
        table.add_row("not sent", f"{report.dropped:,}", "too many outstanding")
    if result.unknown:
        table.add_row("unknown", f"{result.unknown:,}", "no answer that says what became of them")
    for name in ("p50", "p90", "p99", "p999", "max"):
        latency, service = getattr(report.latency, f"{name}_ms"), getattr(report.service, f"{name}_ms")
        label = {"p999": "P99.9", "max": "maximum"}.get(name, name.upper())
        table.add_row(label, f"{latency:,.1f} ms", f"{service:,.1f} ms from the moment it was sent")
    table.add_row("generator", f"{report.lag_ms:.2f} ms", "behind schedule on average")
    console.print(table)
    if report.void:
        console.print(f"This run does not count: {report.void}", style="bold red")
    if result.discrepancies is None:
        return
    if not result.discrepancies:
        console.print(f"Books: 0 discrepancies (settled and checked in {result.check_s:.1f} s)", style="bold green")
        return
    console.print(f"Books: {len(result.discrepancies):,} discrepancies", style="bold red")
    for discrepancy in result.discrepancies[:_DISCREPANCIES_SHOWN]:
        console.print(f"  {discrepancy.kind}: {discrepancy.what}", style="red", markup=False)
