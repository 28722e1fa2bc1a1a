"""The decisions of a pool, in every order: who gets which connection, and when it has to be asked whether it lives."""

from __future__ import annotations

from functools import partial

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.store.test_server_group import ScriptedLink, Server

from dougong.store._link import Link
from dougong.store._pooling import Pooling, PoolPolicy, Slot, Step, Waiter, lifetime_s

POLICY = PoolPolicy(size=3, waiting_max=4, fresh_s=0.5, life_s=100.0, idle_s=30.0)
PATIENCE_S = 60.0
SERVER = Server()


class Callers(RuleBasedStateMachine):
    """Callers come, wait, get places, use connections and give them back; the model keeps the books beside the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pooling(POLICY, lambda: 0.5)
        self.now = 0.0
        self.line: list[Waiter] = []
        self.woken: list[Waiter] = []
        self.opening = 0
        self.checking: list[Slot] = []
        self.lent: list[Slot] = []
        self.born: dict[Slot, float] = {}
        self.closed_links: list[Slot] = []
        self.closed = False

    # A caller comes

    @rule()
    def take(self) -> None:
        step, slot = self.pool.take(self.now)
        if step is Step.WAIT:
            assert self.busy == POLICY.size, "who waits waits for a reason"
            waiter = Waiter(self.now + PATIENCE_S, lambda: None)
            waiter.wake = partial(self._woken, waiter)
            if self.pool.queue(waiter):
                self.line.append(waiter)
            else:
                assert len(self.line) == POLICY.waiting_max
        else:
            assert not self.line, "nobody overtakes"
            self._picked(step, slot)

    def _woken(self, waiter: Waiter) -> None:
        assert waiter is self.line.pop(0), "in order"
        if waiter.has_place:
            self.woken.append(waiter)
        else:
            assert self.now >= waiter.until

    @precondition(lambda self: self.woken)
    @rule()
    def go_on(self) -> None:
        self.woken.pop(0)
        self._picked(*self.pool.pick(self.now))

    @precondition(lambda self: self.line or self.woken)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.line + self.woken))
        if waiter.has_place:
            self.woken.remove(waiter)
        else:
            self.line.remove(waiter)
        self.pool.withdraw(waiter)

    def _picked(self, step: Step, slot: Slot | None) -> None:
        while step is Step.CLOSE:
            assert slot is not None
            assert self.now >= slot.until
            self._closes(slot)
            step, slot = self.pool.pick(self.now)
        if slot is None:
            assert step is Step.OPEN
            self.opening += 1
            return
        assert slot not in [*self.lent, *self.checking, *self.closed_links], "nobody else has it"
        assert self.now < slot.until
        if step is Step.USE:
            assert self.now - slot.since <= POLICY.fresh_s, "only what was lent just now goes unchecked"
            self._lends(slot)
        else:
            assert step is Step.CHECK
            assert self.now - slot.since > POLICY.fresh_s
            self.checking.append(slot)

    # What was picked is made ready

    @precondition(lambda self: self.opening)
    @rule(works=st.booleans())
    def opened(self, works: bool) -> None:
        self.opening -= 1
        if works:
            link: Link = ScriptedLink(SERVER)
            slot = self.pool.add(link, self.now)
            self.born[slot] = self.now
            self._lends(slot)
        else:
            self.pool.leave()

    @precondition(lambda self: self.checking)
    @rule(lives=st.booleans())
    def checked(self, lives: bool) -> None:
        slot = self.checking.pop(0)
        if lives:
            self._lends(slot)
        else:
            self._closes(slot)
            self._picked(*self.pool.pick(self.now))

    # It comes back

    @precondition(lambda self: self.lent)
    @rule(sound=st.booleans(), data=st.data())
    def put(self, sound: bool, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.lent))
        self.lent.remove(slot)
        kept = self.pool.put(slot, sound=sound)
        assert kept == (sound and not self.closed)
        if not kept:
            self._closes(slot)

    # Time

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 10.0, 29.0, 50.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        next_ = self.pool.expire(self.now)
        assert next_ == (self.line[0].until if self.line else None)
        assert all(waiter.until > self.now for waiter in self.line)

    @rule()
    def reap(self) -> None:
        for slot in self.pool.reap(self.now):
            assert self.now >= slot.until or self.now - slot.since >= POLICY.idle_s
            self._closes(slot)
        for slot in self.pool.idle:
            assert self.now < slot.until
            assert self.now - slot.since < POLICY.idle_s

    @precondition(lambda self: not self.closed)
    @rule(really=st.sampled_from([False] * 9 + [True]))
    def close(self, really: bool) -> None:
        if really:
            self.closed = True
            for slot in self.pool.close():
                self._closes(slot)

    def _lends(self, slot: Slot) -> None:
        slot.since = self.now
        self.lent.append(slot)

    def _closes(self, slot: Slot) -> None:
        assert slot not in [*self.lent, *self.checking, *self.closed_links], "one closes it, and only once"
        self.closed_links.append(slot)

    @property
    def busy(self) -> int:
        return self.opening + len(self.checking) + len(self.lent) + len(self.woken)

    @invariant()
    def places_are_neither_lost_nor_made(self) -> None:
        assert self.pool.in_use == self.busy <= POLICY.size
        assert self.pool.waiting == len(self.line) <= POLICY.waiting_max
        assert not self.line or self.pool.free == 0, "nobody waits beside a free place"

    @invariant()
    def connections_are_no_more_than_places_and_none_is_lost(self) -> None:
        idle = self.pool.idle
        assert len({*idle, *self.lent, *self.checking}) == len(idle) + len(self.lent) + len(self.checking)
        known = {*idle, *self.lent, *self.checking, *self.closed_links}
        assert known == set(self.born)
        assert len(idle) + self.opening + len(self.lent) + len(self.checking) <= POLICY.size
        assert not (self.closed and idle)


TestCallers = Callers.TestCase
TestCallers.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


def test_those_opened_together_are_not_replaced_together() -> None:
    assert lifetime_s(POLICY, lambda: 0.0) == pytest.approx(97.5)
    assert lifetime_s(POLICY, lambda: 0.5) == pytest.approx(100.0)
    assert lifetime_s(POLICY, lambda: 1.0) == pytest.approx(102.5)


def test_the_connection_used_last_is_used_first() -> None:
    pool = Pooling(POLICY, lambda: 0.5)
    slots = [pool.add(ScriptedLink(SERVER), 0.0) for _ in range(3) if pool.take(0.0)]
    for slot in slots:
        assert pool.put(slot, sound=True)
    assert pool.take(0.1) == (Step.USE, slots[2]), "the others sink until they are reaped"
