"""A world: nodes, their disks and clocks, the network between them, and what goes wrong, all from one seed."""

from __future__ import annotations

import asyncio
import gc
import random
import traceback
from collections.abc import Callable, Collection, Coroutine, MutableMapping
from typing import Any, TypeVar

import structlog

from dougong.simulation import weather
from dougong.simulation.clocks import NodeClock
from dougong.simulation.disk import Database
from dougong.simulation.faults import Chaos, Faults
from dougong.simulation.history import History
from dougong.simulation.loop import VirtualLoop
from dougong.simulation.network import Network
from dougong.simulation.node import Node, Process

__all__ = ["World"]

R = TypeVar("R")

_FAILURES_MAX = 20


class World:
    """`World(seed).run(story(...))`.

    - `chaos`: what goes wrong, until `heal`. By default nothing does. `vary`: each seed has its own version of it.
    - `only`: keys of the faults that may strike; the others are left out (see `shrink`).
    - `logs`: put what is logged into the trace, too.
    - `callbacks_max`, `virtual_s_max`: a world that goes on for longer is `Stuck`.

    Two worlds with the same seed and the same story have the same trace, line for line, on any machine of one Python
    version, as long as the story draws its random numbers and its time from the world.
    """

    def __init__(
        self,
        seed: int,
        *,
        chaos: Chaos | None = None,
        vary: bool = False,
        only: Collection[str] | None = None,
        logs: bool = False,
        callbacks_max: int = 2_000_000,
        virtual_s_max: float = 100_000.0,
    ) -> None:
        self.seed = seed
        chaos = chaos if chaos is not None else Chaos()
        self.chaos = chaos.varied(self.stream("chaos")) if vary else chaos
        self.random = self.stream("story")
        """For the story's own choices."""
        self.loop = VirtualLoop(self.stream("order"), callbacks_max=callbacks_max, virtual_s_max=virtual_s_max)
        self.loop.on_error = self.failed
        self.faults = Faults(self.stream, self.loop.time, self.note, only)
        self.history = History(self.loop.time, self.note)
        self.network = Network(self.loop, self.chaos, self.faults, self.note)
        self.failures: list[str] = []
        """Bugs that showed by themselves: exceptions nobody caught."""
        self._logs = logs
        self._nodes: dict[str, Node] = {}
        self._databases: dict[str, Database] = {}
        self._used: dict[str, set[str]] = {}
        self._lines: list[tuple[float, int, str, str]] = []
        self._weather: list[asyncio.Task[None]] = []
        self._over = False

    @property
    def now_s(self) -> float:
        """Seconds since the world began, as no clock in it knows them."""
        return self.loop.time()

    def stream(self, name: str) -> random.Random:
        """Random numbers of this seed for one purpose: drawing more of them moves nothing else."""
        return random.Random(f"{self.seed}/{name}")

    def node(self, name: str, *, crashes: bool = True) -> Node:
        """The node of that name, made when first asked for; `crashes`: whether chaos kills its processes."""
        node = self._nodes.get(name)
        if node is None:
            draw, chaos = self.stream(f"clock {name}"), self.chaos
            clock = NodeClock(
                self.loop.time,
                skew_s=draw.choice((0.0, 1.0)) * draw.uniform(-1.0, 1.0) * chaos.clock_skew_s,
                drift=draw.uniform(-1.0, 1.0) * chaos.clock_drift,
            )
            node = Node(self, name, clock, self.stream(f"node {name}"))
            self._nodes[name] = node
            self._weather += weather.over_node(self, node, crashes=crashes)
        return node

    @property
    def nodes(self) -> list[Node]:
        """All there are, in the order in which they were made."""
        return list(self._nodes.values())

    def database(self, name: str, *, synced: bool = True) -> Database:
        """The database of that name, made when first asked for.

        `synced` False: commits are acknowledged before they are synced, and a crash of a process that uses it loses
        those that were not yet.
        """
        database = self._databases.get(name)
        if database is None:
            source = self.faults.source(f"disk {name}", name)
            database = self._databases[name] = Database(name, self.chaos, source, self.note, synced=synced)
            self._weather += weather.over_disk(self, database)
        return database

    def heal(self) -> None:
        """From now on nothing goes wrong: everybody hears everybody, disks work, who was killed is started again."""
        self.faults.healed = True
        for task in self._weather:
            task.cancel()
        self.network.heal()
        for database in self._databases.values():
            database.gone = False
        for node in self._nodes.values():
            if node.process is not None:
                node.process.fuse = -1
                node.go_on()
            elif node.started:
                node.restart()
        self.note("world", "healed")

    def note(self, where: str, text: str) -> None:
        """Write a line into the trace."""
        if not self._over:
            self._lines.append((self.loop.time(), self.loop.callbacks, where, text))

    def trace(self) -> str:
        """What happened: seconds, callbacks run until then, who, what."""
        return "".join(f"{at_s:13.6f} {count:8} {where:<14} {text}\n" for at_s, count, where, text in self._lines)

    def later(self, delay_s: float, callback: Callable[[], object]) -> None:
        """Call back after a while, on nobody's behalf."""
        self.loop.later(delay_s, callback)

    def spawn(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """A task of the world's own, which no crash ends."""
        return self.loop.create_world_task(work)

    def run(self, main: Coroutine[Any, Any, R]) -> R:
        """Let the world begin, and end when `main` does: what still runs then is thrown away, as in a crash.

        `Stuck` when it does not come to an end. Databases and history can be read afterwards.
        """
        collecting, state = gc.isenabled(), random.getstate()
        gc.disable()  # nothing may run because memory happens to be freed
        random.seed(f"{self.seed}/unseeded")
        logging = structlog.get_config()
        structlog.configure(
            processors=[self._log], wrapper_class=structlog.make_filtering_bound_logger(20 if self._logs else 50)
        )
        try:
            return self.loop.run_until_complete(main)
        finally:
            self._over = self.history.sealed = True
            for node in self._nodes.values():
                if node.process is not None:
                    node.process.alive = False
            self.loop.close()
            structlog.configure(**logging)
            random.setstate(state)
            if collecting:
                gc.enable()

    def failed(self, what: str, error: BaseException) -> None:
        """An exception that nobody caught."""
        lines = "".join(traceback.format_exception(error))
        self.note("world", f"{what}: {error!r}")
        if len(self.failures) < _FAILURES_MAX:
            self.failures.append(f"{what}: {error!r}\n{lines}")

    def process_died(self, process: Process) -> None:
        for name in sorted(self._used.get(process.name, ())):
            self._databases[name].power_lost()

    def uses(self, process: Process, database: str) -> Database:
        """A process opens a database."""
        self._used.setdefault(process.name, set()).add(database)
        return self.database(database)

    def _log(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        owner = self.loop.owner
        words = [f"{key}={value}" for key, value in event.items() if isinstance(value, str | int | float)]
        self.note(owner.name if isinstance(owner, Process) else "world", "log " + " ".join(sorted(words)))
        raise structlog.DropEvent
