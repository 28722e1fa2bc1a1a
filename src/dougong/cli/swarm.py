"""`dougong swarm`: many client sessions against a gateway of this machine, all asked whether they live."""

from __future__ import annotations

import asyncio
import time

import msgspec
from rich.console import Console
from rich.table import Table

from dougong.cli.parameters import Json
from dougong.errors import Invalid
from dougong.evidence import Connected, Counted, SwarmOptions, Timed, quantiles_of, swarm_of

__all__ = ["swarm"]

_SECONDS_MAX = 24 * 3600.0
_CHECK_PER_S = 20_000.0


async def swarm(
    *targets: str,
    sessions: int = 1000,
    per_s: float = 2000.0,
    seconds: float = 10.0,
    path: str = "/live?user={number}",
    header: tuple[str, ...] = (),
    processes: int = 0,
    rate: float = 0.0,
    method: str = "echo",
    bytes: int = 32,  # noqa: A002 (the option's name)
    json: Json = False,
) -> int:
    """Open client sessions to a gateway, hold them, and ask each whether it lives. Exit code 1 when one does not.

    Parameters
    ----------
    targets
        Where, on this machine's loopback: 127.0.0.1:8700, one or several.
    sessions
        How many, 2,000,000 at most.
    per_s
        Connections begun a second.
    seconds
        How long to hold them; Ctrl-C ends it sooner.
    path
        What is asked for; {number} is the session's.
    header
        `Name: value`, sent with every handshake.
    processes
        As many as descriptors demand, if left out.
    rate
        Calls a second while they are held, on schedule whether or not answers come.
    method
        What is called.
    bytes
        Of text that each call carries.
    """
    if not 0 <= seconds <= _SECONDS_MAX:
        raise Invalid(f"seconds is 0 to {_SECONDS_MAX:,.0f}", code="invalid_option")
    options = SwarmOptions(
        targets=list(targets), sessions=sessions, per_s=per_s, path=path, headers=_headers(header), processes=processes
    )
    console = Console(stderr=True, quiet=json)
    async with swarm_of(options) as started:
        console.print(f"connecting {sessions:,} from {len(started.pids) - 1} processes", style="dim")
        connected = await started.connect()
        end = time.monotonic() + seconds
        calls = await started.call(method, bytes_=bytes, seconds=seconds, rate=rate) if rate > 0 else None
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        alive = await started.check(_CHECK_PER_S)
        counted, held = await started.counted(), await started.report()
    held.seconds = connected.seconds
    if json:
        told = {"sessions": held, "alive": alive.answered, "round_trip": quantiles_of(alive)}
        told |= {"messages": counted.messages, "delivery": quantiles_of(counted)}
        if calls is not None:
            told |= {"calls": {"sent": calls.sent, "answered": calls.answered, "latency": quantiles_of(calls)}}
        print(msgspec.json.encode(told).decode())
    else:
        _print(Console(), options, held, alive, counted, calls)
    return 0 if alive.answered == sessions else 1


def _headers(texts: tuple[str, ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise Invalid(f"header {text!r} is not of the form Name: value", code="invalid_option")
        headers[name.strip()] = value.strip()
    return headers


def _print(
    console: Console, options: SwarmOptions, held: Connected, alive: Timed, counted: Counted, calls: Timed | None
) -> None:
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("asked for", f"{options.sessions:,}", "")
    table.add_row("alive", f"{alive.answered:,}", "answered a ping at the end")
    per_s = held.open / held.seconds if held.seconds else 0.0
    table.add_row("set up", f"{per_s:,.0f}", f"a second, all in {held.seconds:.1f} s")
    table.add_row("pings", f"{held.pings:,}", "of the gateway, answered")
    for why, count in sorted(held.refused.items(), key=lambda item: -item[1]):
        table.add_row("refused", f"{count:,}", why)
    for why, count in sorted(held.lost.items(), key=lambda item: -item[1]):
        table.add_row("lost", f"{count:,}", why)
    _latency(table, "ping", alive)
    if calls is not None:
        table.add_row("calls", f"{calls.answered:,}", f"of {calls.sent:,}; {calls.per_s:,.0f} a second")
        _latency(table, "call", calls)
    for topic, count in sorted(counted.messages.items(), key=lambda item: -item[1])[:10]:
        table.add_row("messages", f"{count:,}", topic)
    if counted.latency:
        _latency(table, "message", counted)
    console.print(table)


def _latency(table: Table, name: str, of: Timed | Counted) -> None:
    latency = quantiles_of(of)
    table.add_row(f"{name} P50", f"{latency.p50_ms:,.1f} ms", "")
    table.add_row(f"{name} P99", f"{latency.p99_ms:,.1f} ms", f"at most {latency.max_ms:,.1f} ms")
