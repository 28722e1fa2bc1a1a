"""The routing table against a model that remembers everything, in every order of events."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dougong.registry import (
    Change,
    ChangeKind,
    Instance,
    InstanceState,
    KeyValue,
    Listing,
    RoutingTable,
    instance_key,
)
from dougong.registry.routing import MASS_COUNT_MIN, MASS_SHARE, SUSPECT_S

SERVICE = "shop.v1.Orders"
PORTS = st.integers(0, 6)
STATES = st.sampled_from([InstanceState.SERVING] * 3 + [InstanceState.STARTING, InstanceState.TERMINATING])


def address(port: int) -> str:
    return f"10.0.0.1:{port:05}"


class Table(RuleBasedStateMachine):
    """`truth` is what the registry holds. The table may know more (suspects), never less, and must say why."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.revision = 1
        self.truth: dict[int, Instance] = {}
        self.table = RoutingTable(SERVICE)
        self.told = True
        self.proven_dead: set[str] = set()
        self.epochs: dict[str, int] = {}
        self.table.apply_listing(self._listing(), self.now)

    # ----------------------------------------------------------------------------------------------------------- rules

    @rule(port=PORTS, state=STATES, name=st.integers(0, 2), epoch=st.integers(0, 3), weight=st.sampled_from([0, 100]))
    def put(self, port: int, state: InstanceState, name: int, epoch: int, weight: int) -> None:
        instance = Instance(SERVICE, address(port), id=f"orders-{name}", state=state, epoch=epoch, weight=weight)
        self.revision += 1
        self.truth[port] = instance
        changes = [Change(ChangeKind.PUT, instance_key(instance), self.revision, msgspec.json.encode(instance))]
        self._apply(changes)

    @rule(ports=st.sets(PORTS, min_size=1))
    def vanish(self, ports: set[int]) -> None:
        gone = sorted(ports & set(self.truth))
        if not gone:
            return
        self.revision += 1
        known = len(tuple(self.table.entries)) - self.table.suspected
        relied = [p for p in gone if address(p) in {i.address for i in self.table.serving}]
        before = {i.address for i in self.table.serving}
        for port in gone:
            del self.truth[port]
        self._apply([Change(ChangeKind.DELETE, self._key(port), self.revision) for port in gone])
        after = {i.address for i in self.table.serving}
        if self.told and len(relied) >= MASS_COUNT_MIN and len(relied) > MASS_SHARE * known:
            lost = before - after
            assert lost <= self.proven_dead, "a mass went without proof"

    @rule()
    def relist(self) -> None:
        self.table.apply_listing(self._listing(), self.now)
        self.told = True

    @rule()
    def lose_touch(self) -> None:
        before = self.table.serving
        self.table.unreachable()
        assert self.table.stale
        assert self.table.serving is before
        self.told = False

    @rule(seconds=st.sampled_from([0.1, 5.0, SUSPECT_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.told:
            self.table.settle(self.now)

    @rule(port=PORTS, dead=st.booleans())
    def probe(self, port: int, dead: bool) -> None:
        if address(port) in self.table:
            (self.proven_dead.add if dead else self.proven_dead.discard)(address(port))
        before, version = self.table.serving, self.table.version
        self.table.set_dead(address(port), dead)
        if self.table.serving != before:
            assert self.table.version > version

    @rule(port=PORTS)
    def call_fails(self, port: int) -> None:
        suspect = address(port) in self.table.suspects
        assert self.table.probe_failed(address(port)) == suspect

    # ------------------------------------------------------------------------------------------------------ invariants

    @invariant()
    def sorted_and_consistent(self) -> None:
        table = self.table
        assert [i.address for i in table.serving] == sorted(i.address for i in table.serving)
        assert [i.address for i in table.instances] == sorted(i.address for i in table.instances)
        assert table.size == len(table.instances)
        assert table.dead == sum(entry.dead for entry in table.entries)
        assert all(i in table.instances for i in table.serving)
        self.proven_dead &= {i.address for i in table.instances}

    @invariant()
    def nobody_leaving_starting_weightless_or_fenced_is_served(self) -> None:
        for instance in self.table.serving:
            assert instance.state is InstanceState.SERVING
            assert instance.weight > 0
            assert not self.table.fences.fenced(instance)
            assert not 0 < instance.epoch < self.epochs.get(instance.id, 0)

    @invariant()
    def never_empty_while_somebody_lives(self) -> None:
        """Who is registered, serving, not over and not proven dead is served; and the dead only if nobody else is."""
        if not self.told:
            return
        wanted = {
            entry.instance.address
            for entry in self.table.entries
            if entry.instance.state is InstanceState.SERVING
            and entry.instance.weight > 0
            and not entry.dead
            and not self.table.fences.fenced(entry.instance)
        }
        served = {i.address for i in self.table.serving}
        assert wanted <= served
        if wanted:
            assert served == wanted

    @invariant()
    def it_knows_whom_the_registry_knows(self) -> None:
        if self.told:
            known = {i.address for i in self.table.instances}
            assert {address(port) for port in self.truth} <= known
            assert known - {address(port) for port in self.truth} == set(self.table.suspects)

    # ---------------------------------------------------------------------------------------------------------- inside

    def _apply(self, changes: list[Change]) -> None:
        if not self.told:
            return  # the watch is broken; a listing brings it
        self.table.apply_changes(changes, self.now)
        self._remember()

    def _remember(self) -> None:
        for instance in self.table.instances:
            if instance.epoch:
                self.epochs[instance.id] = max(self.epochs.get(instance.id, 0), instance.epoch)

    def _listing(self) -> Listing:
        items = [
            KeyValue(self._key(port), msgspec.json.encode(instance), 1, self.revision)
            for port, instance in sorted(self.truth.items())
        ]
        return Listing(tuple(items), self.revision)

    @staticmethod
    def _key(port: int) -> str:
        return f"/services/{SERVICE}/{address(port)}"


TestTable = Table.TestCase
