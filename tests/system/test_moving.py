"""A bucket of users moves while orders are placed: nothing is refused for it, and the books agree."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.system.conftest import SYSTEM_FILE, free_port, system_on

from dougong.app import Supervisor
from dougong.evidence import RushOptions, rush
from dougong.shard import Mover, embedded_layout, open_sharded_store, verify
from shop.proof import rush as order_rush

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("shop")]


async def test_buckets_of_users_move_under_load(tmp_path: Path) -> None:
    supervisor = Supervisor(system_on(free_port()), SYSTEM_FILE, tmp_path, on_line=lambda name, line: None)
    await supervisor.start()
    buckets = random.SystemRandom().sample([bucket for bucket in range(128) if bucket % 4 != 2], 3)
    try:
        options = RushOptions(
            rate=300, seconds=6, transport="grpc", keys=True, retry=True, check=True, data=str(tmp_path)
        )
        async with asyncio.TaskGroup() as group:
            rushing = group.create_task(rush(order_rush, options))
            await asyncio.sleep(1.0)
            users = await open_sharded_store(embedded_layout(tmp_path, "users"), create=False)
            mover = Mover(users)
            for bucket in buckets:
                await mover.move(bucket, "db-2")
        result = rushing.result()
        assert result.discrepancies == (), buckets
        assert dict(result.report.refused) == {}, buckets
        assert result.report.acknowledged == result.report.offered > 0
        await users.refresh()
        assert {users.map.places[bucket].shard for bucket in buckets} == {"db-2"}
        assert await verify(users) == []
        await users.close()
        with closing(sqlite3.connect(tmp_path / "users.db-2.db")) as database:
            (branches,) = database.execute(
                f"SELECT count(*) FROM dougong_fence WHERE transaction_id % 128 IN ({', '.join(map(str, buckets))})"
            ).fetchone()
        assert branches > 0
    finally:
        await supervisor.stop()
