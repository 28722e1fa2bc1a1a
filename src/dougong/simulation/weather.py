"""What goes wrong by itself, from the first moment until the world is healed: crashes, partitions, disks, clocks."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dougong.simulation.disk import Database
    from dougong.simulation.node import Node
    from dougong.simulation.world import World

__all__ = ["over_disk", "over_node"]

_FUSE_MAX = 60
"""A process is killed within so many callbacks of the moment drawn, or when `_FUSE_S` are over."""
_FUSE_S = 0.3


def over_node(world: World, node: Node, *, crashes: bool) -> list[asyncio.Task[None]]:
    """The tasks that trouble one node, and its ways to the nodes made before it."""
    chaos = world.chaos
    tasks: list[asyncio.Task[None]] = []
    if crashes and chaos.crash_every_s:
        tasks.append(world.spawn(_crashes(world, node)))
    if crashes and chaos.still_every_s:
        tasks.append(world.spawn(_stands_still(world, node)))
    if chaos.clock_jump_every_s:
        tasks.append(world.spawn(_jumps(world, node)))
    if chaos.partition_every_s:
        tasks += [world.spawn(_partitions(world, node, other)) for other in world.nodes if other is not node]
    return tasks


def over_disk(world: World, database: Database) -> list[asyncio.Task[None]]:
    """The tasks that trouble one disk."""
    return [world.spawn(_outages(world, database))] if world.chaos.disk_gone_every_s else []


async def _crashes(world: World, node: Node) -> None:
    source = world.faults.source(f"crash {node.name}", node.name)
    draw = source.random
    while True:
        wait_s, fuse, down_s = _some(draw, world.chaos.crash_every_s), draw.randint(1, _FUSE_MAX), draw.random()
        await asyncio.sleep(wait_s)
        process = node.process
        if process is None or not source.allow(f"killed within {fuse} callbacks"):
            continue
        node.crash(after_callbacks=fuse)
        await asyncio.sleep(_FUSE_S)
        if process.alive:  # it had not so much to do
            node.crash()
        await asyncio.sleep(down_s * 2 * world.chaos.down_s)
        if node.process is None and node.started:
            node.restart()


async def _stands_still(world: World, node: Node) -> None:
    source = world.faults.source(f"still {node.name}", node.name)
    draw = source.random
    while True:
        wait_s, for_s = _some(draw, world.chaos.still_every_s), draw.random() * 2 * world.chaos.still_s
        await asyncio.sleep(wait_s)
        process = node.process
        if process is not None and source.allow(f"stands still for {for_s:.3f} s"):
            node.stand_still()
            await asyncio.sleep(for_s)
            if node.process is process:
                node.go_on()
        else:
            await asyncio.sleep(for_s)


async def _partitions(world: World, node: Node, other: Node) -> None:
    source = world.faults.source(f"partition {other.name}|{node.name}", f"{other.name}|{node.name}")
    draw = source.random
    while True:
        wait_s, for_s = _some(draw, world.chaos.partition_every_s), draw.random() * 2 * world.chaos.partition_s
        await asyncio.sleep(wait_s)
        if source.allow(f"partition for {for_s:.3f} s"):
            world.network.cut(node.name, other.name)
            await asyncio.sleep(for_s)
            world.network.join(node.name, other.name)
        else:
            await asyncio.sleep(for_s)


async def _jumps(world: World, node: Node) -> None:
    source = world.faults.source(f"clock {node.name}", node.name)
    draw = source.random
    while True:
        wait_s, by_s = _some(draw, world.chaos.clock_jump_every_s), draw.uniform(-1, 1) * world.chaos.clock_jump_s
        await asyncio.sleep(wait_s)
        if source.allow(f"wall clock set by {by_s:+.3f} s"):
            node.clock.jump(by_s)


async def _outages(world: World, database: Database) -> None:
    source = world.faults.source(f"outage {database.name}", database.name)
    draw = source.random
    while True:
        wait_s, for_s = _some(draw, world.chaos.disk_gone_every_s), draw.random() * 2 * world.chaos.disk_gone_s
        await asyncio.sleep(wait_s)
        if source.allow(f"disk gone for {for_s:.3f} s"):
            database.gone = True
            await asyncio.sleep(for_s)
            database.gone = False
        else:
            await asyncio.sleep(for_s)


def _some(draw: random.Random, mean_s: float) -> float:
    return draw.expovariate(1.0 / mean_s)
