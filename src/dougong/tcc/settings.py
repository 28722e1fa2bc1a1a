"""What can be set about a coordinator."""

from __future__ import annotations

import msgspec

from dougong.mesh import BreakerPolicy
from dougong.tcc.transaction import RetrySchedule

__all__ = ["CoordinatorSettings", "Triggers"]


class Triggers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What makes participants hear of a decision. All end in the same queues, and telling twice changes nothing."""

    call: bool = True
    """At once, by the process that decided: the fastest, and gone with the process."""
    message: bool = True
    """By a message written with the decision, again and again until it is done, then a dead letter."""
    scan: bool = True
    """By looking through the log for what is overdue, now and then. Without it nobody cancels what a crash left
    undecided, or a hold whose time is over."""


class CoordinatorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds and patience. Seconds."""

    try_timeout_s: float = 3.0
    """A participant that has not answered by then counts as unavailable, and the transaction is cancelled."""
    grace_s: float = 1.0
    """On top of that, before anybody else may take an undecided transaction over."""
    settle_timeout_s: float = 5.0
    settle_gather_s: float = 0.05
    """How long confirms and cancels gather after each call to a participant, unless they fill one: nobody waits for
    them, and few calls cost less than many. After a quiet time the first goes at once."""
    retry: RetrySchedule = RetrySchedule()
    breaker: BreakerPolicy = BreakerPolicy()
    """When a participant that does not answer is left alone, and its transactions are refused at once."""
    triggers: Triggers = Triggers()
    message_delay_s: float = 2.0
    """How long a message waits for the call to make it needless; with `triggers.call` off it does not wait."""
    message_retry: RetrySchedule = RetrySchedule(base_s=1.0, cap_s=60.0, attempts=12)
    lease_s: float = 10.0
    """How long a claimed transaction is left to whoever claimed it."""
    scan_every_s: float = 0.5
    retention_s: float = 3600.0
    """How long after its beginning a finished transaction can still be run again and give its original outcome; an id
    must not be run again later than that. Clocks of coordinators that share a log differ by less than a minute."""
    forget_every_s: float = 60.0
    drain_s: float = 2.0
    max_batch: int = 1000
    """Transactions in one call to a participant."""
    calls_in_flight: int = 3
    """Per participant, for Try and again for confirm and cancel."""
    unfinished_max: int = 100_000
    """Over so many, runs are refused with `Overloaded`. Held transactions do not count."""
    hold_s_max: float = 86_400.0
    """The longest hold. One that ends later than that from now was made by a clock that went wrong: it is over."""
