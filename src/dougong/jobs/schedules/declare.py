"""A schedule: what is enqueued, when, and what becomes of fires that are late or meet an unfinished job."""

from __future__ import annotations

import zlib

import msgspec

from dougong.errors import Invalid
from dougong.jobs._protocol import NewJob
from dougong.jobs.schedules.misfire import Misfire
from dougong.jobs.schedules.overlap import Overlap
from dougong.jobs.schedules.times import SECOND_US, When

__all__ = ["NAME_CHARS_MAX", "SHARDS_MAX", "Schedule", "decode", "encode"]

NAME_CHARS_MAX = 100
SHARDS_MAX = 1000


class Schedule(msgspec.Struct, frozen=True):
    """`Schedule("sweep", Cron("*/5 * * * *"), sweep.call())`. Raises `Invalid` (`bad_schedule`)."""

    name: str
    """Stable: the same name in the next release is the same schedule, with its history and its pause."""
    when: When
    call: NewJob
    """What every fire enqueues, as `Job.call` makes it. A job finds the time of its fire in `current_job().fire_us`."""
    misfire: Misfire = Misfire.CATCH_UP
    catch_up_s: float = 3600.0
    """The window of `Misfire.CATCH_UP`."""
    overlap: Overlap = Overlap.QUEUE
    start_us: int | None = None
    """No fire before it."""
    end_us: int | None = None
    """No fire from then on."""
    jitter_s: float = 0.0
    """The job is due up to so long after the fire, by a number drawn from name and fire: what fires at midnight
    everywhere need not start everywhere at once."""
    shards: int = 1
    """Each fire enqueues so many jobs, with `index` and `total`."""
    note: str = ""
    """For people: where it comes from."""

    def __post_init__(self) -> None:
        wrong = self._wrong()
        if wrong:
            raise Invalid(f"schedule {self.name[:NAME_CHARS_MAX]!r}: {wrong}", code="bad_schedule", schedule=self.name)

    def _wrong(self) -> str:
        if not 0 < len(self.name) <= NAME_CHARS_MAX or not self.name.isprintable():
            return f"its name must have 1 to {NAME_CHARS_MAX} printable characters"
        if self.call.key is not None:
            return "its job has an idempotency key, so that all fires would be one job; leave it out"
        if self.call.due_us is not None or self.call.fire_us is not None:
            return "its job has a time of its own; the schedule gives it one"
        if self.call.index or self.call.total != 1 or self.call.group is not None:
            return "its job has a shard or a group of its own; the schedule gives these"
        if not 0 <= self.catch_up_s < 1e9:
            return f"catch_up_s {self.catch_up_s} must be 0 or more"
        if not 0 <= self.jitter_s <= 86_400:
            return f"jitter_s {self.jitter_s} must be 0 to 86,400"
        if not 1 <= self.shards <= SHARDS_MAX:
            return f"shards {self.shards} must be 1 to {SHARDS_MAX}"
        if self.shards > 1 and self.call.unique is not None:
            return "its job is unique, so that all shards would be one job"
        if self.start_us is not None and self.end_us is not None and self.start_us >= self.end_us:
            return "it ends before it starts"
        return ""

    def after_us(self, at_us: int) -> int | None:
        """The first fire later than that, within its bounds."""
        if self.start_us is not None:
            at_us = max(at_us, self.start_us - 1)
        fire_us = self.when.after_us(at_us)
        return None if fire_us is None or (self.end_us is not None and fire_us >= self.end_us) else fire_us

    def same_times(self, other: Schedule) -> bool:
        """Whether both fire at the same times."""
        return (self.when, self.start_us, self.end_us) == (other.when, other.start_us, other.end_us)

    def jobs(self, fire_us: int, trace: str, *, in_order: bool) -> list[NewJob]:
        """What a fire enqueues. `in_order`: after those of earlier fires."""
        call = self.call
        order = call.order
        if in_order and order is None and self.shards == 1:
            order = f"schedule:{zlib.crc32(self.name.encode()):08x}:{self.name}"[:NAME_CHARS_MAX]
        made = msgspec.structs.replace(
            call,
            due_us=fire_us + self._jitter_us(fire_us),
            fire_us=fire_us,
            schedule=self.name,
            trace=trace,
            order=order,
        )
        if self.shards == 1:
            return [made]
        return [msgspec.structs.replace(made, index=index, total=self.shards) for index in range(self.shards)]

    def _jitter_us(self, fire_us: int) -> int:
        share = zlib.crc32(f"{self.name}@{fire_us}".encode()) / (1 << 32)
        return int(self.jitter_s * SECOND_US * share)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Schedule)


def encode(schedule: Schedule) -> str:
    """As stored: without the trace of whoever declared it, so that the same declaration is the same text."""
    call = msgspec.structs.replace(schedule.call, trace="")
    return _encoder.encode(msgspec.structs.replace(schedule, call=call)).decode()


def decode(text: str) -> Schedule:
    """Raises `Invalid` (`bad_schedule`), also for what a newer version wrote."""
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise Invalid(f"a stored schedule cannot be read: {error}", code="bad_schedule") from None
