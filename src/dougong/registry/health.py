"""Who answers: doubt, proof and the way back, per address. Plain code, time passed in.

Nobody is probed without a reason. A failed call, or a registry that suddenly lost an instance, is a *doubt*; a probe
that fails then is the *proof*: the address is dead and gets no calls until a probe succeeds. So a crashed instance
costs the calls that found it, one probe, and nothing while it is away but a probe now and then.
"""

from __future__ import annotations

import random as random_module
from enum import StrEnum

__all__ = ["DOUBTS_MAX", "Health", "HealthBook", "HealthRules"]

import msgspec

DOUBTS_MAX = 10_000


class Health(StrEnum):
    ALIVE = "alive"
    """Nothing is held against it."""
    DOUBTED = "doubted"
    """A reason to ask, and no answer yet: it still gets calls."""
    DEAD = "dead"
    """It did not answer a probe."""


class HealthRules(msgspec.Struct, frozen=True):
    fall: int = 1
    """Failed probes in a row until a doubted one is dead. The doubt itself was the first sign."""
    rise: int = 1
    """Successful probes in a row until a dead one is back."""
    again_s: float = 0.1
    """Between probes whose outcome is not yet clear, and between an acquittal and the next probe."""
    backoff_min_s: float = 0.2
    backoff_max_s: float = 5.0
    """Between probes of a dead one; doubles from the minimum."""
    jitter_s: float = 0.05
    """All who lost an instance at once ask at different moments."""


class _Record:
    __slots__ = ("acquitted_at", "again", "asking", "backoff_s", "due", "health", "in_a_row", "not_before", "since")

    def __init__(self, since: float, due: float, backoff_s: float, not_before: float = 0.0) -> None:
        self.health = Health.DOUBTED
        self.since = since
        self.due = due
        self.not_before = not_before
        """A doubt may bring `due` forward, though not before this."""
        self.again = False
        """It was doubted while it was being asked: an answer from before that says nothing."""
        self.backoff_s = backoff_s
        self.in_a_row = 0
        self.asking = False
        self.acquitted_at: float | None = None


class HealthBook:
    """Addresses that somebody doubted. Bounded: with 10,000 doubts open, further ones are not taken up."""

    def __init__(self, rules: HealthRules | None = None, random: random_module.Random | None = None) -> None:
        self._rules = rules if rules is not None else HealthRules()
        self._random = random if random is not None else random_module.Random()
        self._records: dict[str, _Record] = {}

    def health(self, address: str) -> Health:
        record = self._records.get(address)
        return Health.ALIVE if record is None or record.acquitted_at is not None else record.health

    def __len__(self) -> int:
        return len(self._records)

    def doubt(self, address: str, now: float, *, after_s: float = 0.0) -> None:
        """There is a reason to ask, in `after_s` or a little later; of several doubts the first that is due counts."""
        rules = self._rules
        record = self._records.get(address)
        if record is None and len(self._records) >= DOUBTS_MAX:
            self._forget_acquitted(now)
            if len(self._records) >= DOUBTS_MAX:
                return
        due = now + after_s + self._random.uniform(0.0, rules.jitter_s)
        if record is None:
            self._records[address] = _Record(now, due, rules.backoff_min_s)
        elif record.acquitted_at is not None:
            rested = record.acquitted_at + rules.again_s
            self._records[address] = _Record(now, max(due, rested), rules.backoff_min_s, rested)
        elif record.health is Health.DOUBTED:
            if record.asking:
                record.again = True
            else:
                record.due = min(record.due, max(due, record.not_before))

    def due(self, now: float, at_most: int) -> list[str]:
        """Addresses to probe now, the longest overdue first; each must be answered by `answered` or `unclear`."""
        ready = [
            (record.due, address)
            for address, record in self._records.items()
            if not record.asking and record.acquitted_at is None and record.due <= now
        ]
        chosen = [address for _, address in sorted(ready)[:at_most]]
        for address in chosen:
            self._records[address].asking = True
        return chosen

    def next_due(self) -> float | None:
        """When somebody is to be probed next; None when nobody is."""
        return min((r.due for r in self._records.values() if not r.asking and r.acquitted_at is None), default=None)

    def answered(self, address: str, alive: bool, now: float, *, asked_at: float | None = None) -> bool:
        """What a probe that began at `asked_at` (now) found out; whether the address died or came back by it."""
        record = self._records.get(address)
        # A sign of life came meanwhile, or nobody knows the address any more; or it was doubted anew since, and the
        # answer is about who was there before.
        if record is None or (now if asked_at is None else asked_at) < record.since:
            return False
        record.asking = False
        again, record.again = record.again, False
        before = record.health
        rules = self._rules
        wanted = rules.rise if before is Health.DEAD else rules.fall
        if before is Health.DOUBTED and alive:
            if again:
                record.in_a_row = 0
                record.due = record.not_before = now + rules.again_s
                return False
            record.acquitted_at = now
            return False
        if alive == (before is Health.DOUBTED):  # no news about a dead one
            record.in_a_row = 0
            record.backoff_s = min(rules.backoff_max_s, record.backoff_s * 2)
            record.due = now + record.backoff_s * self._random.uniform(0.75, 1.0)
            return False
        record.in_a_row += 1
        if record.in_a_row < wanted:
            record.due = record.not_before = now + rules.again_s
            return False
        record.in_a_row = 0
        if alive:
            record.health = Health.ALIVE
            record.acquitted_at = now
        else:
            record.health = Health.DEAD
            record.since = now
            record.due = now + record.backoff_s * self._random.uniform(0.75, 1.0)
        return True

    def unclear(self, address: str, now: float) -> None:
        """The probe could not tell, by its own fault: ask again."""
        record = self._records.get(address)
        if record is not None:
            record.asking = record.again = False
            record.due = now + self._rules.backoff_min_s

    def forget(self, address: str) -> bool:
        """A sign of life, or nobody knows it any more; whether it was dead until now."""
        record = self._records.pop(address, None)
        return record is not None and record.health is Health.DEAD

    def _forget_acquitted(self, now: float) -> None:
        for address, record in list(self._records.items()):
            if record.acquitted_at is not None and record.acquitted_at + self._rules.again_s <= now:
                del self._records[address]
