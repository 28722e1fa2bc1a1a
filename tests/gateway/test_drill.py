"""A deploy, small: all workers of a gateway are replaced under load, by real processes with real clients."""

from __future__ import annotations

import msgspec
import pytest

from shop.proof.drill import Plan, run_drill

pytestmark = pytest.mark.processes
SMALL = Plan(sessions=20, messages_per_s=100, workers=2, drain_s=4.0, reconnect_s=0.5, connect_per_s=100)


async def test_every_message_comes_once_and_in_its_turn_and_clients_come_again_at_the_pace_that_was_set() -> None:
    run = await run_drill(SMALL)
    assert (run.missing, run.again, run.astray, run.gaps) == (0, 0, 0, 0)
    assert (run.sessions, run.ended, run.unpublished) == (20, 0, 0)
    assert run.published > 20
    assert run.returns >= 20  # each worker's clients were asked to go
    assert run.restart_s >= 20 / 2 / SMALL.pace_per_s  # a slow machine takes longer; nothing makes it faster


async def test_without_history_messages_are_lost() -> None:
    run = await run_drill(msgspec.structs.replace(SMALL, messages_per_s=500, drain_s=0.01, reconnect_s=1.0, keep=False))
    assert run.missing > 0
    assert run.astray > 0
    assert run.sessions == 20
