"""What a swarm is asked to do, within which bounds, and what it answers."""

from __future__ import annotations

import ipaddress
import math
import resource

import msgspec

from dougong.errors import Invalid

__all__ = ["Connected", "Counted", "Share", "SwarmOptions", "Timed", "shares"]

SESSIONS_MAX = 2_000_000
PER_ADDRESS = 5000
"""Sessions that come from one loopback address; each has some 28,000 ports."""
CONNECT_TIMES = 10
"""A gateway that is slower than the pace asked for may take so many times as long."""
_SPARE_DESCRIPTORS = 100


class SwarmOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    targets: list[str]
    """`127.0.0.1:8700`, one or several; session n goes to the one at n modulo their number."""
    sessions: int
    path: str = "/live?user={number}"
    """What is asked for; `{number}` is the session's, from `first` on."""
    headers: dict[str, str] = {}
    """Sent with each handshake."""
    first: int = 0
    per_s: float = 5000.0
    """Connections begun a second, of all processes together."""
    patience_s: float = 60.0
    """How long to wait for the next handshake to be answered, and for the last answers to a check or to calls."""
    processes: int = 0
    """0: as few as descriptors allow, but two when there are over 1,000 sessions."""

    def __post_init__(self) -> None:
        if not 0 < self.sessions <= SESSIONS_MAX:
            raise _wrong(f"a swarm has 1 to {SESSIONS_MAX:,} sessions")
        if not 0 < self.per_s <= 1e6 or not 0 < self.patience_s <= 3600 or not 0 <= self.processes <= 256:
            raise _wrong("per_s is 1 to 1,000,000, patience_s up to 3,600, processes up to 256")
        if not self.targets:
            raise _wrong("a swarm needs a target, e.g. 127.0.0.1:8700")
        for target in self.targets:
            read_target(target)
        text = self.path + "".join(f"{name}{value}" for name, value in self.headers.items())
        if not self.path.startswith("/") or not text.isprintable():
            raise _wrong("path begins with /, and neither it nor headers have control characters")


class Connected(msgspec.Struct, kw_only=True):
    """After connecting, and at any time later."""

    open: int = 0
    refused: dict[str, int] = {}
    """The last time: by what was answered, or what the kernel said."""
    lost: dict[str, int] = {}
    """Sessions that were open and are not any more, by how they ended."""
    muted: int = 0
    """Open ones that answer nothing any more."""
    muted_lost: int = 0
    seconds: float = 0.0
    """What connecting took, all times together."""
    pings: int = 0
    """That were answered."""
    cpu_s: float = 0.0


class Timed(msgspec.Struct, kw_only=True):
    """Answers to pings or calls."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    """Calls that were refused, or answered by something else."""
    seconds: float = 0.0
    lag_ms: float = 0.0
    """How much later than due the generator sent, on average."""
    cpu_s: float = 0.0
    latency: list[tuple[int, int]] = []
    """(µs, how often)"""

    @property
    def per_s(self) -> float:
        return self.answered / self.seconds if self.seconds else 0.0


class Counted(msgspec.Struct, kw_only=True):
    """Published messages that came since last asked."""

    messages: dict[str, int] = {}
    """By topic."""
    first_us: int = 0
    last_us: int = 0
    """When the first and the last came, by the machine's monotonic clock."""
    latency: list[tuple[int, int]] = []
    """From `at_us` in their data until they were read."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does of it."""

    options: SwarmOptions
    numbers: tuple[int, int, int]
    """range(first, end, step) of session numbers."""
    process: int
    per_s: float


def shares(options: SwarmOptions) -> list[Share]:
    """Split the sessions over processes. Raises `Invalid` (`too_many_sessions`) when descriptors do not suffice."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = hard - _SPARE_DESCRIPTORS
    count = options.processes or max(math.ceil(options.sessions / each), 2 if options.sessions > 1000 else 1)
    count = min(count, options.sessions)
    if math.ceil(options.sessions / count) > each:
        raise Invalid(
            f"{options.sessions:,} sessions do not fit in {count} processes of {hard:,} descriptors; allow more",
            code="too_many_sessions",
        )
    end = options.first + options.sessions
    return [
        Share(options=options, numbers=(options.first + n, end, count), process=n, per_s=options.per_s / count)
        for n in range(count)
    ]


def address_of(process: int, nth: int) -> str:
    """Where the nth session of a process comes from."""
    place = process * 4 + min(nth // PER_ADDRESS, 3)  # 20,000 descriptors a process
    return f"127.77.{place // 250}.{place % 250 + 1}"


def read_target(text: str) -> tuple[str, int]:
    """Host and port. Raises `Invalid` unless it is this machine's loopback: a swarm is no weapon."""
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.IPv4Address("127.0.0.1" if host == "localhost" else host)
        if not address.is_loopback or not 0 < int(port) < 65536:
            raise ValueError
    except ValueError:
        raise _wrong(f"target {text!r} is not an address of this machine's loopback, e.g. 127.0.0.1:8700") from None
    return str(address), int(port)


def _wrong(text: str) -> Invalid:
    return Invalid(text, code="invalid_option")
