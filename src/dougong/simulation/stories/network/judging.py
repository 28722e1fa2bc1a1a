"""Who judges: what each client was told by the registry, what it sent where, and what really happened.

The table under test is never asked whether a call was right. What the registry said is written down on its way to the
client, and read here in the plainest way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from dougong.mesh import Cluster, EjectionEvent
from dougong.mesh.statistics import Action
from dougong.registry import Change, ChangeKind, Instance, InstanceState, Listing, Resolver, read_instance
from dougong.registry.health import HealthRules
from dougong.registry.probing import PROBE_S
from dougong.registry.routing import MASS_COUNT_MIN, MASS_SHARE, RoutingTable
from dougong.simulation.node import Process
from dougong.simulation.world import World

__all__ = ["Heard", "Judge", "Life"]

_RULES = HealthRules()
NOTICED_S = _RULES.again_s + _RULES.jitter_s + PROBE_S
"""From the first failed call to a dead instance until its client's table has dropped it: the doubt waits for a rest
after an acquittal and for the jitter, the probe has its deadline."""
FRAME_S = 0.25
"""A batch may have to open a stream between being sent on its way and going out."""
FOUND_MAX = 20
_NONE = (0, 0.0)


class Life:
    """One process that serves."""

    def __init__(self, process: Process, instance: Instance) -> None:
        self.process = process
        self.instance = instance
        self.leaving = False
        self.gone = False
        """It left in good order."""
        self.failing = False

    @property
    def name(self) -> str:
        return f"{self.instance.id}.{self.instance.epoch}@{self.instance.address}"

    @property
    def serves(self) -> bool:
        return self.process.alive and not self.leaving


class Told(msgspec.Struct):
    """The last word on an address."""

    instance: Instance
    at_s: float
    deleted: str = ""
    """How the registry lost it: `alone`, `with many`; empty while it has it."""


class Judge:
    """Of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.found: list[str] = []
        self.lives: dict[str, Life] = {}
        """By address, the last one there."""
        self.executed: Counter[int] = Counter()
        self.by: dict[int, set[str]] = {}
        self.seen: Counter[str] = Counter()
        """What happened, for whoever asks whether the story tells of it."""

    def wrong(self, who: str, what: str) -> None:
        if len(self.found) < FOUND_MAX:
            self.found.append(f"{self.world.now_s:.3f} s, {who}: {what}")
            self.world.note(who, f"WRONG {what}")

    def executes(self, number: int, life: Life) -> None:
        """An instance does what a call asks for."""
        self.executed[number] += 1
        self.by.setdefault(number, set()).add(life.name)

    def ejects(self, who: str, event: EjectionEvent, cluster: Cluster) -> None:
        """Envoy's rule: with this one, no more than the percentage of all hosts, rounded in nobody's favour."""
        self.seen[f"{event.action.value.lower()}ed"] += 1
        policy = cluster.policy.outlier
        if event.action is not Action.EJECT or policy is None:
            return
        out, hosts = sum(host.ejected for host in cluster.hosts), len(cluster.hosts)
        if 100.0 * out / hosts > min(100, policy.max_ejection_percent):
            self.wrong(who, f"{out} of {hosts} hosts are ejected, at most {policy.max_ejection_percent} % may be")


class Heard:
    """What one client knows from the registry, and what of it may be held against its calls."""

    def __init__(self, judge: Judge, who: str) -> None:
        self._judge = judge
        self.who = who
        self.told: dict[str, Told] = {}
        self.epochs: dict[str, tuple[int, float]] = {}
        """By id: the highest, and when it was heard of."""
        self.refuted: dict[str, float] = {}
        """Addresses that did not answer a probe, and when."""
        self.noticed: dict[Life, float] = {}
        """The dead, since a call failed or the registry lost them."""
        self._table: RoutingTable | None = None
        self._known: frozenset[str] = frozenset()

    def follow(self, resolver: Resolver) -> None:
        """Look at its table whenever it may have changed."""
        self._table, publish = resolver._table, resolver.publish

        def published() -> None:
            self._published()
            publish()

        resolver.publish = published  # type: ignore[method-assign]

    # What the registry says

    def restored(self, instances: Sequence[Instance]) -> None:
        """An earlier process of this client was told of them."""
        self._judge.seen["restored"] += 1
        for instance in instances:
            self._put(instance)

    def listed(self, prefix: str, listing: Listing) -> None:
        there = {item.key.removeprefix(prefix): read_instance(item.key, item.value) for item in listing.items}
        for instance in there.values():
            self._put(instance)
        self._lost([address for address in self.told if address not in there])

    def changed(self, prefix: str, changes: Sequence[Change]) -> None:
        gone: list[str] = []
        for change in changes:
            if change.kind is ChangeKind.PUT:
                self._put(read_instance(change.key, change.value))
            else:
                gone.append(change.key.removeprefix(prefix))
        self._lost(gone)

    def _put(self, instance: Instance) -> None:
        told = self.told.get(instance.address)
        if told is not None and not told.deleted and 0 < instance.epoch < told.instance.epoch:
            return  # written late by who was there before
        if told is None or told.instance != instance or told.deleted:
            self.told[instance.address] = Told(instance, self._judge.world.now_s)
            if told is None or told.deleted or told.instance.id != instance.id:
                self.refuted.pop(instance.address, None)
                life = self._judge.lives.get(instance.address)
                if life is not None:  # that it died since it wrote this, the next call finds out
                    self.noticed.pop(life, None)
        if instance.epoch > self.epochs.get(instance.id, _NONE)[0]:
            self.epochs[instance.id] = instance.epoch, self._judge.world.now_s

    def _lost(self, gone: Sequence[str]) -> None:
        now = self._judge.world.now_s
        there = [told for told in self.told.values() if not told.deleted]
        lost = [told for address in gone if (told := self.told.get(address)) is not None and not told.deleted]
        served = [told for told in lost if self._serves(told.instance)]
        many = len(served) >= MASS_COUNT_MIN and len(served) > MASS_SHARE * len(there)
        for told in lost:
            told.deleted = "with many" if many else "alone"
            told.at_s = now
            life = self._judge.lives.get(told.instance.address)
            if life is not None and not life.process.alive:
                self.noticed.setdefault(life, now)
        if lost:
            self._judge.seen["lost with many" if many else "lost alone"] += len(lost)

    def _serves(self, instance: Instance) -> bool:
        return instance.state is InstanceState.SERVING and not self._fenced(instance)

    def _fenced(self, instance: Instance) -> bool:
        return 0 < instance.epoch < self.epochs.get(instance.id, _NONE)[0]

    # What the client does

    def sends(self, address: str, *, grace_s: float = 0.0) -> None:
        """A call goes out to `address` now."""
        judge, now, table = self._judge, self._judge.world.now_s, self._table
        told = self.told.get(address)
        assert table is not None
        if told is None:
            self.wrong(f"called {address}, which the registry never named")
            return
        instance = told.instance
        if now - told.at_s > grace_s and instance.state is InstanceState.TERMINATING:
            self.wrong(f"called {address}, which said that it leaves")
        if self._fenced(instance):
            newer, since = self.epochs[instance.id]
            if now - since > grace_s:
                self.wrong(f"called {address} of epoch {instance.epoch}, and {instance.id} is at {newer}")
        life = judge.lives.get(address)
        hope = all(entry.dead for entry in table.entries if self._serves(entry.instance))
        if life is not None and not life.process.alive and not hope:
            noticed = self.noticed.get(life)
            if noticed is not None and now - noticed > NOTICED_S + grace_s:
                self.wrong(f"called {address} {now - noticed:.3f} s after it was known to be dead")
        elif address not in table and not grace_s:
            self.wrong(f"called {address}, which its table does not know")

    def wrong(self, what: str) -> None:
        """The client does what it should not."""
        self._judge.wrong(self.who, what)

    def failed(self, address: str) -> None:
        """A call found nobody, or broke."""
        life = self._judge.lives.get(address)
        if life is not None and not life.process.alive and life not in self.noticed:
            self.noticed[life] = self._judge.world.now_s
            self._judge.seen["crash noticed"] += 1

    def probed(self, address: str, alive: bool) -> None:
        self._judge.seen["probe alive" if alive else "probe dead"] += 1
        if alive:
            self.refuted.pop(address, None)
        else:
            self.refuted[address] = self._judge.world.now_s

    def _published(self) -> None:
        """The table may have changed: who was dropped, was dropped for a reason; and it is not empty without one."""
        table = self._table
        assert table is not None
        known = frozenset(instance.address for instance in table.instances)
        for address in sorted(self._known - known):
            told = self.told[address]
            if not told.deleted:
                self.wrong(f"dropped {address}, which the registry has")
            elif self._serves(told.instance) and address not in self.refuted:
                if told.deleted == "with many":
                    self.wrong(f"dropped {address}, which was lost with many others, without a proof")
                elif not table.serving:
                    self.wrong(f"dropped {address}, the last one, without a proof")
        self._known = known
        if not table.serving:
            left = [a for a in sorted(known) if self._serves(self.told[a].instance)]
            if left:
                self.wrong(f"calls nobody although it knows {', '.join(left)}")
