"""Ctrl-C while a unit runs: it is meant for the process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dougong.errors import Unavailable
from dougong.store import Tx, open_store


def test_an_interrupt_ends_the_process_and_no_neighbour_is_told_of_it(tmp_path: Path) -> None:
    told: list[object] = []

    async def main() -> None:
        store = await open_store(f"sqlite:///{tmp_path}/a.db")

        async def first(tx: Tx) -> None:
            await tx.execute("CREATE TABLE t (n INTEGER)")

        async def interrupted(tx: Tx) -> None:
            raise KeyboardInterrupt

        try:
            told.extend(await asyncio.gather(store.write(first), store.write(interrupted), return_exceptions=True))
            await asyncio.sleep(60)
        finally:
            await store.close()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert [type(outcome) for outcome in told] in ([], [type(None), Unavailable])
