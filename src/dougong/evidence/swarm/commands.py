"""What a swarm's processes are told, how it is split among them, and how what they answer is added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from dougong.evidence.latency import Latencies
from dougong.evidence.swarm.options import CONNECT_TIMES, Connected, Counted, SwarmOptions, Timed
from dougong.evidence.swarm.sessions import Sessions

__all__ = ["Abort", "Answer", "Call", "Check", "Command", "Connect", "Count", "Hold", "Mute", "Report", "merged"]

Answer: TypeAlias = Connected | Counted | Timed


class _Told(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    def split(self, processes: int) -> list[_Told]:
        """What each process is told: all the same, unless it is a number to be shared."""
        return [self] * processes

    def lasts_s(self, options: SwarmOptions) -> float:
        """Beyond which patience begins."""
        return 0.0


class Connect(_Told, frozen=True, kw_only=True):
    def lasts_s(self, options: SwarmOptions) -> float:
        return CONNECT_TIMES * options.sessions / options.per_s


class Report(_Told, frozen=True, kw_only=True):
    pass


class Count(_Told, frozen=True, kw_only=True):
    pass


class Abort(_Told, frozen=True, kw_only=True):
    pass


class Hold(_Told, frozen=True, kw_only=True):
    seconds: float

    def lasts_s(self, options: SwarmOptions) -> float:
        return self.seconds


class Check(_Told, frozen=True, kw_only=True):
    per_s: float

    def split(self, processes: int) -> list[_Told]:
        return [Check(per_s=self.per_s / processes)] * processes

    def lasts_s(self, options: SwarmOptions) -> float:
        return options.sessions / self.per_s


class Mute(_Told, frozen=True, kw_only=True):
    count: int

    def split(self, processes: int) -> list[_Told]:
        return [Mute(count=part) for part in _parts(self.count, processes)]


class Call(_Told, frozen=True, kw_only=True):
    method: str
    bytes: int
    seconds: float
    rate: float
    in_flight: int
    """Sessions."""
    each: int
    """Calls that each of them has under way."""

    def split(self, processes: int) -> list[_Told]:
        parts = _parts(self.in_flight, processes)
        return [msgspec.structs.replace(self, rate=self.rate / processes, in_flight=part) for part in parts]

    def lasts_s(self, options: SwarmOptions) -> float:
        return self.seconds


Command: TypeAlias = Connect | Report | Count | Abort | Hold | Check | Mute | Call


def answer_of(command: Command, sessions: Sessions) -> Answer:
    """Have one process do it."""
    match command:
        case Connect():
            return sessions.connect()
        case Report():
            return sessions.report()
        case Count():
            return sessions.counted()
        case Abort():
            return sessions.abort()
        case Hold():
            return sessions.hold(command.seconds)
        case Check():
            return sessions.check(command.per_s)
        case Mute():
            return sessions.mute(command.count)
        case Call():
            return sessions.call(
                command.method, command.bytes, command.seconds, command.rate, command.in_flight, command.each
            )


def merged(command: Command, lines: Sequence[bytes]) -> bytes:
    """One answer of all."""
    match command:
        case Count():
            return msgspec.json.encode(_counted([msgspec.json.decode(line, type=Counted) for line in lines]))
        case Check() | Call():
            return msgspec.json.encode(_timed([msgspec.json.decode(line, type=Timed) for line in lines]))
        case _:
            return msgspec.json.encode(_connected([msgspec.json.decode(line, type=Connected) for line in lines]))


def _connected(parts: Sequence[Connected]) -> Connected:
    return Connected(
        open=sum(one.open for one in parts),
        refused=_added([one.refused for one in parts]),
        lost=_added([one.lost for one in parts]),
        muted=sum(one.muted for one in parts),
        muted_lost=sum(one.muted_lost for one in parts),
        seconds=max(one.seconds for one in parts),
        pings=sum(one.pings for one in parts),
        cpu_s=sum(one.cpu_s for one in parts),
    )


def _timed(parts: Sequence[Timed]) -> Timed:
    return Timed(
        sent=sum(one.sent for one in parts),
        answered=sum(one.answered for one in parts),
        failed=sum(one.failed for one in parts),
        seconds=max(one.seconds for one in parts),
        lag_ms=max(one.lag_ms for one in parts),
        cpu_s=sum(one.cpu_s for one in parts),
        latency=_buckets([one.latency for one in parts]),
    )


def _counted(parts: Sequence[Counted]) -> Counted:
    return Counted(
        messages=_added([one.messages for one in parts]),
        first_us=min((one.first_us for one in parts if one.first_us), default=0),
        last_us=max(one.last_us for one in parts),
        latency=_buckets([one.latency for one in parts]),
    )


def _added(parts: Sequence[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def _buckets(parts: Sequence[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    total = Latencies()
    for part in parts:
        total.add_buckets(part)
    return total.buckets()


def _parts(count: int, processes: int) -> list[int]:
    return [count // processes + (n < count % processes) for n in range(processes)]
