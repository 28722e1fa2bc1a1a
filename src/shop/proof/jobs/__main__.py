"""`python -m shop.proof.jobs enqueue|work|work-kafka|consume|schedule …`: one process of an experiment; answers are
lines of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import sys

import msgspec
import uvloop

from shop.proof.jobs.enqueuing import Order, enqueuer


async def _enqueue(system: str) -> None:
    async with enqueuer(system) as enqueue:
        while line := await asyncio.to_thread(sys.stdin.readline):
            enqueued = await enqueue(msgspec.json.decode(line, type=Order))
            print(msgspec.json.encode(enqueued).decode(), flush=True)


def main(role: str, *arguments: str) -> None:
    """Run one role until stdin ends, or for ever."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 1000)  # as long-lived processes do: full collections would show as latency
    match role:
        case "enqueue":
            uvloop.run(_enqueue(arguments[0]))
        case "work":
            from shop.proof.jobs.our_jobs import work

            uvloop.run(work(int(arguments[0])))
        case "work-kafka":
            from shop.proof.jobs.kafka_jobs import work_kafka

            uvloop.run(work_kafka())
        case "consume":
            from shop.proof.jobs.plain_consumer import consume

            consume(uneven=arguments[0] == "uneven")
        case "schedule":
            from shop.proof.jobs.scheduling import schedule

            uvloop.run(schedule(int(arguments[0])))
        case _:
            sys.exit(f"there is no role {role!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
