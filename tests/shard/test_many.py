"""128 schemas on one real server: the largest layout there is."""

from __future__ import annotations

from contextlib import ExitStack

from tests import engines
from tests.shard.conftest import Open, add

from dougong.shard import BUCKETS, Layout, Query, ShardedTable, ask, verify


async def test_a_schema_for_each_bucket(routers: Open) -> None:
    server = engines.server("mysql")
    server.sql("SET GLOBAL max_connections = 400")
    with ExitStack() as stack:
        urls = [stack.enter_context(server.database()) for _ in range(BUCKETS + 1)]
        layout = Layout("users", urls[-1], {f"db-{number}": url for number, url in enumerate(urls[:-1])})
        sharded = await routers(layout)
        for id_ in range(BUCKETS):
            await add(sharded, id_ * (BUCKETS + 1), f"user {id_:03}")
        assert await verify(sharded) == []
        query = Query(table=ShardedTable("users"), select=("name",), order=("-name",), limit=3)
        answer = await ask(sharded, query, scatter=True)
        assert answer.rows == [("user 127",), ("user 126",), ("user 125",)]
        assert (await ask(sharded, query, scatter=True, after=answer.after)).rows[0] == ("user 124",)
        count = Query(table=ShardedTable("users"), select=("count(*)",))
        assert (await ask(sharded, count, scatter=True)).rows == [(BUCKETS,)]
        assert len({place.shard for place in sharded.map.places}) == BUCKETS
        await sharded.close()
