"""What is replayed against a real Envoy: who answers what, and waits, under which policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from tests.mesh.upstreams import Answer

from dougong.mesh.policy import OutlierPolicy

__all__ = ["OUTLIER_VECTORS", "RATE_TICK_S", "SLOW_TICK_S", "TICK_S", "Calls", "OutlierVector", "Ticks"]

TICK_S = 1.0
"""Of vectors with waits. A wait ends a fifth of it after a tick, so durations are compared far from their limits."""
SLOW_TICK_S = 2.0
RATE_TICK_S = 8.0
"""Long enough for all calls of a bucket."""
NEVER_S = 60.0


class Calls(msgspec.Struct, frozen=True):
    """`count` calls one after the other; a host answers what it is told here, in order, and then 200."""

    count: int
    answers: Mapping[int, Sequence[Answer]] = {}
    short: bool = False
    """With little time."""


class Ticks(msgspec.Struct, frozen=True):
    """A wait until so many intervals have ended, and a fifth of one more."""

    count: int


class OutlierVector(msgspec.Struct, frozen=True):
    name: str
    hosts: int
    policy: OutlierPolicy
    steps: tuple[Calls | Ticks, ...]
    dead: tuple[int, ...] = ()
    """Hosts with nobody there."""
    grpc: bool = False
    rates: bool = False
    """What counts is in which interval a call fell."""
    seen: dict[str, int] = {}
    """What Envoy is known to say in the end."""
    intervals: tuple[int, ...] = ()
    """How many of them each ejection is known to last."""

    @property
    def timed(self) -> bool:
        return self.rates or any(isinstance(step, Ticks) for step in self.steps)


def _policy(max_ejection_percent: int = 100, **more: float) -> OutlierPolicy:
    base = {"interval_s": NEVER_S, "base_ejection_s": NEVER_S}
    return msgspec.convert({**base, **more, "max_ejection_percent": max_ejection_percent}, OutlierPolicy)


def _all(hosts: int, answers: Sequence[Answer]) -> dict[int, list[Answer]]:
    return {host: list(answers) for host in range(hosts)}


def _everybody_fails() -> list[OutlierVector]:
    made: list[OutlierVector] = []
    for hosts, percents in {
        1: (10, 99, 100),
        2: (10, 49, 50, 99, 100),
        3: (10, 33, 34, 67, 100),
        5: (10, 20, 39, 40, 60, 100),
        10: (5, 10, 25, 50, 100),
    }.items():
        for percent in percents:
            calls = max(20, hosts * 12)
            made.append(
                OutlierVector(
                    f"all-fail-{hosts}-hosts-{percent}",
                    hosts,
                    _policy(percent),
                    (Calls(calls, _all(hosts, [500] * calls)),),
                )
            )
    return made


_KNOWN = [
    OutlierVector(
        "known-2-hosts-10",
        2,
        _policy(10),
        (Calls(40, _all(2, [500] * 40)),),
        seen={
            "outlier_detection.ejections_active": 0,
            "outlier_detection.ejections_detected_consecutive_5xx": 8,
            "outlier_detection.ejections_overflow": 8,
        },
    ),
    OutlierVector(
        "known-2-hosts-50",
        2,
        _policy(50),
        (Calls(40, _all(2, [500] * 40)),),
        seen={"outlier_detection.ejections_active": 1},
    ),
    OutlierVector(
        "known-3-hosts-67",
        3,
        _policy(67),
        (Calls(60, _all(3, [500] * 60)),),
        seen={"outlier_detection.ejections_active": 2},
    ),
    OutlierVector(
        "known-back-off",
        2,
        _policy(50, interval_s=SLOW_TICK_S, base_ejection_s=1.0, consecutive_5xx=2),
        (
            Calls(4, {0: [500] * 4}),
            Ticks(1),  # 1.9 s
            Calls(4, {0: [500] * 4}),
            Ticks(2),
            Calls(4, {0: [500] * 4}),
            Ticks(2),
            Calls(4, {0: [500] * 4}),
            Ticks(3),
            Calls(4, {0: [500] * 4}),
            Ticks(3),
        ),
        seen={
            "outlier_detection.ejections_active": 0,
            "outlier_detection.ejections_enforced_consecutive_5xx": 5,
        },
        intervals=(1, 2, 2, 3, 3),
    ),
]

_GATEWAY = [
    OutlierVector("always-eject-one", 3, _policy(10, always_eject_one=True), (Calls(30, _all(3, [500] * 30)),)),
    OutlierVector("always-eject-one-of-one", 1, _policy(0, always_eject_one=True), (Calls(8, _all(1, [500] * 8)),)),
    OutlierVector("none-may-be-out", 3, _policy(0), (Calls(30, _all(3, [500] * 30)),)),
    OutlierVector("gateway-detected-only", 2, _policy(consecutive_5xx=0), (Calls(24, {0: [503] * 24}),)),
    OutlierVector(
        "gateway-enforced", 2, _policy(consecutive_5xx=0, enforce_gateway=True), (Calls(24, {0: [502] * 24}),)
    ),
    OutlierVector(
        "gateway-before-5xx",
        2,
        _policy(consecutive_5xx=5, consecutive_gateway=3, enforce_gateway=True),
        (Calls(20, {0: [503] * 20}),),
    ),
    OutlierVector(
        "gateway-and-5xx-at-once",
        2,
        _policy(consecutive_5xx=4, consecutive_gateway=4, enforce_gateway=True),
        (Calls(20, {0: [504] * 20}),),
    ),
    OutlierVector(
        "gateway-detected-then-5xx",
        2,
        _policy(consecutive_5xx=5, consecutive_gateway=3),
        (Calls(20, {0: [503] * 20}),),
    ),
    OutlierVector(
        "another-5xx-resets-gateway",
        2,
        _policy(consecutive_5xx=0, consecutive_gateway=3, enforce_gateway=True),
        (Calls(24, {0: [502, 503, 500, 502, 504, 501, 502, 503, 504, 502, 502, 502]}),),
    ),
    OutlierVector(
        "gateway-counts-as-5xx", 2, _policy(consecutive_gateway=0), (Calls(20, {0: [500, 502, 503, 504, 501] * 2}),)
    ),
    OutlierVector("a-good-one-resets", 2, _policy(), (Calls(40, {0: [500, 500, 500, 500, 200] * 4}),)),
    OutlierVector("a-404-is-good", 2, _policy(), (Calls(40, {0: [500, 500, 500, 500, 404] * 4}),)),
    OutlierVector("a-599-is-not", 2, _policy(3), (Calls(20, {0: [599, 505, 511] * 4}),)),
    OutlierVector("one-in-a-row-is-enough", 4, _policy(consecutive_5xx=1), (Calls(20, {1: [500], 3: [503]}),)),
    OutlierVector(
        "nothing-is-detected", 2, _policy(consecutive_5xx=0, consecutive_gateway=0), (Calls(30, {0: [503] * 30}),)
    ),
    OutlierVector("count-after-overflow-starts-anew", 2, _policy(10), (Calls(30, {0: [500] * 7 + [200] + [500] * 7}),)),
    OutlierVector("one-of-five-others-good", 5, _policy(20), (Calls(60, {2: [500] * 6}), Calls(30, {4: [500] * 10}))),
]

_LOCAL = [
    OutlierVector("dead-host", 2, _policy(), (Calls(20),), dead=(0,)),
    OutlierVector("dead-host-gateway", 2, _policy(consecutive_5xx=0, enforce_gateway=True), (Calls(20),), dead=(0,)),
    OutlierVector(
        "dead-host-split",
        2,
        _policy(split_local_origin=True, consecutive_local_origin=3),
        (Calls(20),),
        dead=(0,),
    ),
    OutlierVector(
        "dead-hosts-split-at-34",
        3,
        _policy(34, split_local_origin=True, consecutive_local_origin=2),
        (Calls(20),),
        dead=(0, 2),
    ),
    OutlierVector(
        "split-not-detected", 2, _policy(split_local_origin=True, consecutive_local_origin=0), (Calls(20),), dead=(0,)
    ),
    OutlierVector(
        "dead-and-failing-split",
        3,
        _policy(split_local_origin=True, consecutive_local_origin=2),
        (Calls(30, {1: [500] * 10}),),
        dead=(0,),
    ),
    OutlierVector("timeouts", 2, _policy(consecutive_5xx=2), (Calls(8, {0: ["hang"] * 8}, short=True),)),
    OutlierVector(
        "timeouts-are-gateway-errors",
        2,
        _policy(consecutive_5xx=0, consecutive_gateway=3, enforce_gateway=True),
        (Calls(10, {0: ["hang"] * 8}, short=True),),
    ),
    OutlierVector(
        "timeouts-split-each-connects",
        2,
        _policy(split_local_origin=True, consecutive_local_origin=2),
        (Calls(10, {0: ["hang"] * 8}, short=True),),
    ),
    OutlierVector(
        "timeouts-split-one-is-enough",
        2,
        _policy(split_local_origin=True, consecutive_local_origin=1),
        (Calls(10, {0: ["hang"] * 8}, short=True),),
    ),
    OutlierVector("resets", 2, _policy(consecutive_5xx=3), (Calls(12, {0: ["reset"] * 8}),)),
    OutlierVector(
        "resets-are-gateway-errors",
        2,
        _policy(consecutive_5xx=0, consecutive_gateway=3, enforce_gateway=True),
        (Calls(12, {0: ["reset"] * 8}),),
    ),
    OutlierVector(
        "resets-split",
        2,
        _policy(split_local_origin=True, consecutive_local_origin=1),
        (Calls(12, {0: ["reset"] * 8}),),
    ),
    OutlierVector(
        "resets-and-answers", 2, _policy(consecutive_5xx=3), (Calls(12, {0: ["reset", 500, "reset", "reset"]}),)
    ),
]

_PANIC = [
    OutlierVector(
        f"panic-{threshold}-at-{failing}-of-{hosts}",
        hosts,
        _policy(100, min_health_percent=threshold, consecutive_5xx=2),
        (Calls(hosts * 4, {host: [500] * 3 for host in range(failing)}), Calls(12)),
    )
    for hosts, failing, threshold in (
        (2, 1, 50),
        (2, 1, 51),
        (2, 2, 0),
        (2, 2, 1),
        (3, 2, 34),
        (3, 2, 33),
        (4, 1, 80),
        (4, 1, 100),
        (4, 2, 60),
        (5, 4, 50),
        (10, 3, 80),
        (10, 2, 90),
    )
]


def _timed(max_ejection_percent: int = 100, **more: float) -> OutlierPolicy:
    return _policy(max_ejection_percent, **{"interval_s": TICK_S, "consecutive_5xx": 2, **more})


_FAIL = Calls(4, {0: [500] * 4})
# Whether Envoy lessens the back-off at the very next tick after a return, or at the one after it, is a matter of
# microseconds: it stamps the return a moment after the tick. No vector asks for that tick.

_TIME = [
    OutlierVector(
        "back-off", 2, _timed(50, base_ejection_s=TICK_S), (_FAIL, Ticks(2), _FAIL, Ticks(3), _FAIL, Ticks(4))
    ),
    OutlierVector(
        "back-off-shrinks",
        2,
        _timed(base_ejection_s=TICK_S),
        (_FAIL, Ticks(2), _FAIL, Ticks(3), Ticks(3), _FAIL, Ticks(3)),
    ),
    OutlierVector(
        "back-off-is-capped",
        2,
        _timed(base_ejection_s=TICK_S, max_ejection_s=TICK_S * 1.5),
        (_FAIL, Ticks(2), _FAIL, Ticks(3), _FAIL, Ticks(3), _FAIL, Ticks(3)),
    ),
    OutlierVector(
        "counters-start-anew",
        2,
        _timed(consecutive_5xx=3, consecutive_gateway=5, base_ejection_s=TICK_S / 2, enforce_gateway=True),
        (Calls(8, {0: [503] * 4}), Ticks(3), Calls(6, {0: [503] * 2}), Calls(4), Calls(8, {0: [503] * 4}), Ticks(2)),
    ),
    OutlierVector(
        "back-in-order",
        3,
        _timed(base_ejection_s=TICK_S),
        (
            Calls(6, {0: [500] * 2}),
            Ticks(1),
            Calls(6, {1: [500] * 2}),
            Ticks(1),
            Calls(6),
            Ticks(1),
            Calls(6),
            Ticks(1),
        ),
    ),
    OutlierVector(
        "room-again-after-one-is-back",
        2,
        _timed(50, base_ejection_s=TICK_S),
        (
            Calls(4, {0: [500] * 2}),
            Calls(6, {1: [500] * 4}),
            Ticks(2),
            Calls(8, {1: [500] * 4}),
            Ticks(2),
        ),
    ),
    OutlierVector(
        "all-out-then-back",
        2,
        _timed(base_ejection_s=TICK_S / 2),
        (Calls(8, _all(2, [500] * 4)), Ticks(3), Calls(6), Ticks(1)),
    ),
    OutlierVector(
        "panic-ends",
        2,
        _timed(base_ejection_s=TICK_S / 2, min_health_percent=60),
        (Calls(6, {0: [500] * 2}), Calls(6), Ticks(2), Calls(6)),
    ),
    OutlierVector(
        "split-back-off",
        2,
        _timed(split_local_origin=True, consecutive_local_origin=2, base_ejection_s=TICK_S / 2),
        (Calls(6), Ticks(1), Calls(6), Ticks(2)),
        dead=(0,),
    ),
]


def _rates(
    name: str, hosts: int, bad: dict[int, int], per_host: int = 110, max_ejection_percent: int = 100, **more: float
) -> OutlierVector:
    """`bad`: of each hundred answers of a host, so many are 500, one good between every few."""
    policy = _policy(max_ejection_percent, **more, interval_s=RATE_TICK_S, consecutive_5xx=0, consecutive_gateway=0)
    answers: dict[int, list[Answer]] = {
        host: [500 if i * share // 100 != (i + 1) * share // 100 else 200 for i in range(per_host)]
        for host, share in bad.items()
    }
    return OutlierVector(name, hosts, policy, (Ticks(0), Calls(hosts * per_host, answers), Ticks(1)), rates=True)


_RATES = [
    _rates("success-rate", 6, {2: 50}, success_rate=True),
    _rates("success-rate-all-alike", 5, dict.fromkeys(range(5), 50), success_rate=True),
    _rates("success-rate-detected-only", 6, {2: 50}),
    _rates("success-rate-four-hosts", 4, {2: 50}, success_rate=True),
    _rates("success-rate-too-few-calls", 6, {2: 50}, 99, success_rate=True),
    _rates("success-rate-overflow", 6, {2: 80}, success_rate=True, max_ejection_percent=10),
    _rates("failure-percentage-85", 5, {1: 85}, 60, failure_percentage=True),
    _rates("failure-percentage-80", 5, {1: 80}, 60, failure_percentage=True),
    _rates("failure-percentage-detected-only", 5, {1: 100}, 55),
    _rates("failure-percentage-too-few-calls", 5, {1: 100}, 49, failure_percentage=True),
    _rates("failure-percentage-four-hosts", 4, {1: 100}, 60, failure_percentage=True),
    _rates("both-rates", 6, {3: 100}, success_rate=True, failure_percentage=True),
]

_GRPC = [
    OutlierVector(f"grpc-{name}", 1, _policy(consecutive_5xx=3), (Calls(8, {0: [answer] * 8}),), grpc=True)
    for name, answer in (
        ("in-trailers-is-not-seen", "grpc:14"),
        ("unknown", "grpc!2"),
        ("internal", "grpc!13"),
        ("data-loss", "grpc!15"),
        ("unimplemented", "grpc!12"),
        ("unavailable", "grpc!14"),
        ("deadline-exceeded", "grpc!4"),
        ("resource-exhausted", "grpc!8"),
        ("aborted", "grpc!10"),
        ("cancelled", "grpc!1"),
        ("not-found", "grpc!5"),
    )
]

OUTLIER_VECTORS = [*_KNOWN, *_everybody_fails(), *_GATEWAY, *_LOCAL, *_PANIC, *_TIME, *_RATES, *_GRPC]
