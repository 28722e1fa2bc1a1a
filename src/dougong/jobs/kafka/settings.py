"""How the log is used."""

from __future__ import annotations

import logging

import msgspec

from dougong.errors import Invalid

__all__ = ["KafkaQueueSettings", "client_log"]

client_log = logging.getLogger("dougong.jobs.kafka")
"""What librdkafka says of itself; it would write to standard error."""
client_log.setLevel(logging.ERROR)
_SESSION_S_MAX = 300.0
"""librdkafka: no longer than what it allows between two polls (`max.poll.interval.ms`)."""


class KafkaQueueSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds, except where it says otherwise. One log belongs to one database: choose a prefix for each."""

    prefix: str = "dougong.jobs."
    """Of topics (one for each queue) and, without its last dot, the name of the group that reads them."""
    partitions: int = 4
    """Of a topic that is created; each is read by one process at a time."""
    replicas: int = -1
    """Likewise; -1 is what the broker's `default.replication.factor` says."""
    instance: str = ""
    """Static membership: a name of this process that it has again after a restart, so that nothing moves meanwhile."""
    session_s: float = 45.0
    """A process that was not heard of for so long loses its partitions. A thread speaks, however busy the loop is."""
    held_max: int = 4000
    """Jobs read ahead and not yet taken."""
    commit_every_s: float = 1.0
    put_s: float = 30.0
    """How long a put may take until it has failed."""
    answer_s: float = 15.0
    """How long the broker may take to answer anything else."""
    join_s: float = 10.0
    """How long to wait for partitions before working without them (the database's jobs are there anyway)."""
    own_s: float = 1.0
    """How long a turn waits for what this process itself has put: it is there at once, as it would be with a table."""
    purge_every_s: float = 60.0
    """How often what is settled is deleted from the log."""
    options: dict[str, str | int | float | bool] = {}
    """Further ones of librdkafka: `security.protocol`, `sasl.*`, `ssl.*`."""

    def __post_init__(self) -> None:
        if not (
            1 <= self.partitions <= 1000
            and 1 <= self.held_max <= 10_000
            and min(self.session_s, self.put_s, self.answer_s, self.join_s) > 0
            and self.session_s <= _SESSION_S_MAX
            and min(self.commit_every_s, self.own_s, self.purge_every_s) >= 0
            and 0 < len(self.prefix) <= 100
        ):
            said = {name: value for name, value in msgspec.structs.asdict(self).items() if name != "options"}  # secrets
            raise Invalid(
                f"{said} cannot be: 1 to 1000 partitions, 1 to 10,000 held_max, a "
                f"prefix of 1 to 100 characters, times greater than 0, session_s of at most {_SESSION_S_MAX:g}",
                code="bad_settings",
            )

    @property
    def group(self) -> str:
        """Who reads."""
        return self.prefix.rstrip(".")

    def topic(self, queue: str) -> str:
        """Of a queue."""
        return self.prefix + queue
