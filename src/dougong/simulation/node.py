"""Nodes and the processes on them: a node stays, with its disk and its clock; a process dies with all its memory."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from dougong.errors import Error
from dougong.rpc import Transport
from dougong.simulation.clocks import NodeClock
from dougong.store import Store

if TYPE_CHECKING:
    from dougong.simulation.world import World

__all__ = ["Main", "Node", "Process", "ProcessDied"]


class ProcessDied(BaseException):
    """Raised to code of a dead process that tries to reach the world: it was thrown away and does not know."""


class Process:
    """One life of a node. Everything it reaches the world by goes through here, and ends with it."""

    def __init__(self, node: Node, number: int) -> None:
        self.node = node
        self.number = number
        """Which life of its node this is, from 1."""
        self.alive = True
        self.fuse = -1
        self.still: list[Any] | None = None
        self.tasks: list[asyncio.Task[Any]] = []
        self._transport: Transport | None = None

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def clock(self) -> NodeClock:
        """The node's."""
        return self.node.clock

    @property
    def random(self) -> random.Random:
        """The node's own random numbers. Use no others: unseeded ones make a story that cannot be told again."""
        return self.node.random

    @property
    def transport(self) -> Transport:
        """The network, for `rpc.Server` and `rpc.client`."""
        if self._transport is None:
            self._transport = self.node.world.network.transport(self)
        return self._transport

    def store(self, name: str = "") -> Store:
        """The database of that name, by default the node's own. Several nodes may use one."""
        return self.node.world.uses(self, name or self.name).store(self)

    def note(self, text: str) -> None:
        """Write a line into the trace."""
        if self.alive:
            self.node.world.note(self.name, text)

    def now_us(self) -> int:
        return self.node.clock.now_us()

    def check(self) -> None:
        """Raise `ProcessDied` if this process is dead."""
        if not self.alive:
            raise ProcessDied(self.name)

    def burn_out(self) -> None:
        self.node.crash()


Main = Callable[[Process], Coroutine[Any, Any, object]]
"""What a node runs. The process lives on when it returns, as a server does, until it crashes or is stopped."""


class Node:
    """A machine. Made by `World.node`."""

    def __init__(self, world: World, name: str, clock: NodeClock, random_: random.Random) -> None:
        self.world = world
        self.name = name
        self.clock = clock
        self.random = random_
        self.process: Process | None = None
        """The one that runs now."""
        self._main: Main | None = None
        self._lives = 0

    @property
    def up(self) -> bool:
        """Whether a process runs."""
        return self.process is not None

    @property
    def started(self) -> bool:
        """Whether a process is meant to run."""
        return self._main is not None

    def start(self, main: Main) -> Process:
        """Run `main(process)`. One that raises an `Error` (a full disk at the start) has died, and is started again
        after a moment; any other exception is a bug, and one of the world's violations."""
        self._main = main
        return self.restart()

    def restart(self) -> Process:
        """Run what ran before."""
        assert self._main is not None, f"node {self.name} was never started"
        assert self.process is None, f"node {self.name} runs already"
        self._lives += 1
        process = self.process = Process(self, self._lives)
        self.world.note(self.name, f"process {self._lives} starts")
        task = self.world.loop.create_task(self._main(process), context=contextvars.Context(), owner=process)
        task.add_done_callback(lambda task: self._ended(process, task))
        return process

    def crash(self, *, after_callbacks: int = 0) -> None:
        """Kill the process: at once, or when so many more callbacks of it have run, which may be between any two."""
        process = self.process
        if process is None:
            return
        if after_callbacks:
            process.fuse = after_callbacks
            return
        self.world.note(self.name, f"process {process.number} is killed")
        self._end(process)

    def stand_still(self) -> None:
        """The process does nothing until `go_on`, and does not know: as after SIGSTOP, or on a machine that swaps."""
        process = self.process
        if process is not None and process.still is None:
            process.still = []

    def go_on(self) -> None:
        """It wakes."""
        if self.process is not None:
            self.world.loop.go_on(self.process)

    def stop(self) -> None:
        """End the process for good, as `crash` does, and leave the node alone."""
        self._main = None
        if self.process is not None:
            self.crash()

    def _end(self, process: Process) -> None:
        process.alive = False
        self.process = None
        self.world.loop.bury(process)
        self.world.network.process_died(process)
        self.world.process_died(process)

    def _ended(self, process: Process, task: asyncio.Task[object]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None or not process.alive:
            return
        if not isinstance(error, Error):
            self.world.failed(f"{self.name}: its process died", error)
            return
        self.world.note(self.name, f"process {process.number} dies: {error}")
        self._end(process)
        self.world.later(0.1 + self.random.random(), self._again)

    def _again(self) -> None:
        if self.process is None and self._main is not None:
            self.restart()
