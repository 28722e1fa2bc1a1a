"""The coordinator's process: it holds transactions, confirms them when it is told to, and says so once that is durable.

Lines in, lines out:

    (started)        → ready                 everything is imported, nothing is touched
    open             → opened                the coordinator runs, on the log that is there
    hold FIRST N     → held                  so many transactions from that id on
    confirm FIRST N  → confirmed NANOSECONDS the monotonic time of the acknowledgement
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

import msgspec

from dougong.errors import Internal, Invalid
from dougong.mesh import BreakerPolicy
from dougong.rpc import client, close_client
from dougong.store import open_store
from dougong.tcc import Coordinator, CoordinatorSettings, NewTransaction, RetrySchedule, Triggers, participant_service
from shop.proof.tcc.shelf import SKUS, Shelf, Take

__all__ = ["SETTINGS", "TillOptions", "till"]

SETTINGS = CoordinatorSettings(
    try_timeout_s=1.0,
    grace_s=0.5,
    settle_timeout_s=1.0,
    retry=RetrySchedule(base_s=0.025, cap_s=7.5),
    breaker=BreakerPolicy(open_s=0.25, open_s_max=4.0),
    message_delay_s=0.5,
    message_retry=RetrySchedule(base_s=0.25, cap_s=15.0, attempts=12),
    lease_s=2.0,
    scan_every_s=0.1,
)
"""The defaults divided by three to five, so that who waits for whom is as it is and an experiment takes seconds."""

_HOLD_S = 3600.0


class TillOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a till is."""

    database: str
    """Of its log."""
    shelf: str
    """Address of the participant."""
    initiator: str
    triggers: Triggers


async def till(options: TillOptions, say: Callable[[str], None]) -> None:
    """Obey the lines on stdin until they end. `Invalid` (`bad_command`) for one that makes no sense."""
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    say("ready")
    line = (await lines.readline()).decode().strip()
    if not line:
        return
    if line != "open":
        raise _senseless(line)
    store = await open_store(options.database, name="log")
    shelf = client(participant_service(Shelf), options.shelf)
    coordinator = Coordinator(
        store,
        initiator=options.initiator,
        participants={Shelf.service: shelf},
        settings=msgspec.structs.replace(SETTINGS, triggers=options.triggers),
    )
    await coordinator.start()
    try:
        say("opened")
        while line := (await lines.readline()).decode().strip():
            say(await _obey(coordinator, line))
    finally:
        await coordinator.stop()
        await close_client(shelf)
        await store.close()
        transport.close()


async def _obey(coordinator: Coordinator, line: str) -> str:
    match line.split():
        case ["hold", first, count] if first.isdecimal() and count.isdecimal():
            ids = range(int(first), int(first) + int(count))
            outcomes = await coordinator.hold(
                [NewTransaction(i, {Shelf.service: Take(i % SKUS, 1)}) for i in ids], expires_s=_HOLD_S
            )
            refused = [outcome for outcome in outcomes if not outcome.accepted]
            if refused:
                raise Internal(f"{len(refused)} of {count} were not held: {refused[0].message}", code="not_held")
            return "held"
        case ["confirm", first, count] if first.isdecimal() and count.isdecimal():
            await coordinator.confirm(range(int(first), int(first) + int(count)))
            return f"confirmed {time.monotonic_ns()}"
        case _:
            raise _senseless(line)


def _senseless(line: str) -> Invalid:
    return Invalid(
        f"{line!r} is no command here; there are: open (once, first), hold FIRST COUNT, confirm FIRST COUNT",
        code="bad_command",
    )
