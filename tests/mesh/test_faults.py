"""Faults on purpose: shares, and that delay and abort are independent."""

from __future__ import annotations

from collections import Counter
from random import Random

from dougong.mesh.faults import NOTHING, Abort, Fault, decide, drawn, grpc_status_of

ABORT = Abort(http_status=503)


def test_nothing_happens_without_a_fault_or_a_share() -> None:
    random = Random(1)
    assert decide(None, random) is NOTHING
    assert decide(Fault(1.0, 0.0, ABORT, 0.0), random) is NOTHING
    assert decide(Fault(0.0, 100.0, None, 100.0), random) is NOTHING


def test_all_calls_at_a_hundred_percent() -> None:
    injected = decide(Fault(2.0, 100.0, ABORT, 100.0), Random(1))
    assert (injected.delay_s, injected.abort) == (2.0, ABORT)


def test_delay_and_abort_are_drawn_each_for_itself() -> None:
    fault, random = Fault(2.0, 50.0, ABORT, 20.0), Random(9)
    seen: Counter[tuple[bool, bool]] = Counter()
    for _ in range(10_000):
        injected = decide(fault, random)
        seen[injected.delay_s > 0, injected.abort is not None] += 1
    assert 4800 < seen[True, True] + seen[True, False] < 5200
    assert 900 < seen[True, True] < 1100
    assert 900 < seen[False, True] < 1100


def test_shares_are_whole_millionths_cut_off() -> None:
    random = Random(1)
    assert not any(drawn(0.00009, random) for _ in range(1000))
    assert all(drawn(100.0, random) for _ in range(1000))
    assert 40 < sum(drawn(0.1, random) for _ in range(60_000)) < 85


def test_a_seed_replays_the_faults() -> None:
    def run(seed: int) -> list[float]:
        random = Random(seed)
        return [decide(Fault(1.0, 50.0), random).delay_s for _ in range(50)]

    assert run(3) == run(3) != run(4)


def test_what_an_rpc_sees_of_http() -> None:
    """https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md"""
    table = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14, 500: 2, 301: 2, 200: 2}
    assert {status: grpc_status_of(status) for status in table} == table
    assert Abort(http_status=404).seen_as == 12
    assert Abort(grpc_status=5).seen_as == 5
