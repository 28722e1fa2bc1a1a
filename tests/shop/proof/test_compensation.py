"""The claim about triggers can be shown, and can be refuted: what is not settled is counted."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import msgspec
import pytest

from dougong.errors import Internal, Invalid
from dougong.evidence import Threshold
from dougong.store import Migration, open_store
from dougong.tcc import Coordinator, CoordinatorSettings
from shop.proof.compensation import till as till_module
from shop.proof.compensation.__main__ import main
from shop.proof.compensation.claim import TRIGGERS, CompensationExperiment, compensation
from shop.proof.compensation.faults import crash_callers, look, put_right
from shop.proof.compensation.till import SETTINGS, TillOptions
from shop.proof.compensation.tills import GROUP, Till, together
from shop.proof.compensation.watch import Settled, settled, watch
from shop.proof.tcc.child import child
from shop.proof.tcc.stand import stand

FENCE = "CREATE TABLE dougong_fence (transaction_id BIGINT PRIMARY KEY, state SMALLINT NOT NULL)"


def options(folder: Path, shelf: str = "127.0.0.1:1", trigger: str = "call") -> TillOptions:
    return TillOptions(f"sqlite:///{folder}/till.db", shelf, "till", TRIGGERS[trigger])


def test_it_claims_that_all_three_survive_what_each_alone_does_not() -> None:
    claimed = set(compensation.thresholds)
    for fault in ("caller_crash", "participant_crash", "queue_loss"):
        assert Threshold(f"ours.all_unsettled_after_{fault}", at_most=0) in claimed
        assert Threshold(f"ours.scan_unsettled_after_{fault}", at_most=0) in claimed
    assert Threshold("ours.message_unsettled_after_caller_crash", at_most=0) in claimed
    assert Threshold("ours.message_unsettled_after_queue_loss", at_least=1) in claimed
    assert Threshold("baseline.call_unsettled_after_caller_crash", at_least=1) in claimed


def test_who_waits_for_whom_is_as_in_the_defaults() -> None:
    """Call before message before scan, and nobody takes over what is still being tried."""
    for s in (SETTINGS, CoordinatorSettings()):
        assert s.scan_every_s < s.grace_s <= s.message_delay_s < s.try_timeout_s + s.grace_s < s.lease_s
        assert s.breaker.open_s <= s.message_delay_s
        assert s.settle_timeout_s <= s.lease_s


@pytest.mark.processes
@pytest.mark.xdist_group("compensation")
async def test_a_call_dies_with_its_caller_and_what_it_left_is_counted_and_put_right(tmp_path: Path) -> None:
    count = 8 * GROUP
    async with stand(f"sqlite:///{tmp_path}/shelf.db") as shelf, AsyncExitStack() as children:
        till = Till(options(tmp_path, shelf.address), range(1, 1 + count), children)
        await together(till.start(), till.start_successor())
        await crash_callers(shelf, {"call": till})
        found = (await look(shelf, {"call": till}, bound_s=0.2))["call"]
        assert 0 < found.unsettled <= count
        assert found.unsettled + len(found.delays_s) == len(till.acknowledged) == count
        assert await put_right(shelf, [till]) == []
        shelf.acknowledged = count
        assert await shelf.problems() == []
        shelf.acknowledged = count + 1
        assert await shelf.problems() == [f"{count} were sold, {count + 1} acknowledged"]


@pytest.mark.processes
@pytest.mark.xdist_group("compensation")
async def test_a_message_survives_its_caller_unless_it_is_lost_itself(tmp_path: Path) -> None:
    count = 8 * GROUP
    async with stand(f"sqlite:///{tmp_path}/shelf.db") as shelf, AsyncExitStack() as children:
        till = Till(options(tmp_path, shelf.address, "message"), range(1, 1 + count), children)
        await together(till.start(), till.start_successor())
        await crash_callers(shelf, {"message": till})
        found = (await look(shelf, {"message": till}, bound_s=30.0))["message"]
        assert (found.unsettled, len(found.delays_s)) == (0, count)
        assert min(found.delays_s) > 0
        assert await till.lose_messages() <= count / GROUP
        assert await till.lose_messages() == 0


@pytest.mark.parametrize("shown", [[], [(1, 2), (3, 1), (4, 3), (9, 2)], [(1, 2), (2, 2), (3, 2)]])
async def test_only_what_the_shelf_shows_as_confirmed_counts(shown: list[tuple[int, int]], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shelf.db"
    store = await open_store(url)
    await store.migrate("test", [Migration(1, "fence", FENCE)])
    await store.write(lambda tx: tx.execute_many("INSERT INTO dougong_fence VALUES (?, ?)", shown))
    await store.close()
    seen = await watch(url, [range(1, 3), range(3, 4)], bound_s=0.0, every_s=0.0)
    confirmed = [i for i, state in shown if state == 2 and i < 9]
    assert sorted(seen) == confirmed
    found = settled(dict.fromkeys((1, 2, 3), 0.0), seen)
    assert found.unsettled == 3 - len(confirmed)
    assert found.delays_s == [seen[i] for i in confirmed]


async def test_one_run_that_leaves_something_refutes_whatever_the_medians_say(tmp_path: Path) -> None:
    experiment = CompensationExperiment(tmp_path, transactions=200, bound_s=1.0)
    figures: dict[str, float] = {}
    experiment._note(figures, "scan", "queue_loss", Settled([1.0, 2.0], 0))
    experiment._note(figures, "message", "queue_loss", Settled([], 200))  # that is known
    assert await experiment.verify() == []
    experiment._note(figures, "all", "queue_loss", Settled([0.1], 3))
    assert await experiment.verify() == ["all left 3 of 200 unsettled after queue_loss"]
    assert figures == {
        "scan_unsettled_after_queue_loss": 0,
        "scan_settled_s_after_queue_loss": 2.0,
        "message_unsettled_after_queue_loss": 200,
        "all_unsettled_after_queue_loss": 3,
    }


def test_the_table_and_the_result_name_only_what_is_measured() -> None:
    def measured(*names: str) -> dict[str, float]:
        faults = ("caller_crash", "participant_crash", "queue_loss")
        figures = {f"{n}_{what}_after_{f}": 1.0 for n in names for what in ("unsettled", "settled_s") for f in faults}
        return figures | {"shelf_away_s": 1.0}

    ours, baseline = measured("message", "scan", "all"), measured("call")
    ours |= {f"{name}_delay_ms": 2.0 for name in TRIGGERS} | {"all_to_call": 1.0}
    del ours["message_settled_s_after_queue_loss"], baseline["call_settled_s_after_caller_crash"]
    table = compensation.table.format(ours=ours, baseline=baseline).splitlines()
    assert len({line.count("|") for line in table[:6]}) == 1
    assert table[2] == "| call alone | 2.0 ms | 1 left | 1 left, 1.0 s | 1 left |"
    assert "1.00 × the call's" in compensation.result.format(ours=ours, baseline=baseline)


@pytest.mark.parametrize("line", ["open", "sell 1 1", "hold", "hold 1", "hold one 1", "confirm -1 1", "confirm 1 1 1"])
async def test_a_till_refuses_what_makes_no_sense(line: str) -> None:
    with pytest.raises(Invalid, match="is no command here") as refused:
        await till_module._obey(cast(Coordinator, None), line)
    assert refused.value.code == "bad_command"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("{}",),
        ("not json",),
        ("{}", "{}"),
        ('{"database":"x","shelf":"x","initiator":"x","triggers":{"bell":true}}',),
    ],
)
def test_a_till_without_proper_options_says_what_is_wanted(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="options as JSON"):
        main(*arguments)


@pytest.mark.processes
async def test_a_process_that_ends_or_says_nothing_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    text = msgspec.json.encode(options(tmp_path)).decode()
    async with child("shop.proof.compensation", text) as process:
        assert await process.hear(30.0) == "ready"
        with pytest.raises(Internal, match=r"said nothing within 0\.01 s"):
            await process.hear(0.01)
        await process.tell("confirm 1 1")
        with pytest.raises(Internal, match="ended with exit code 1") as ended:
            await process.hear(30.0)
        assert ended.value.code == "stand_failed"
        await process.kill()  # long gone: nothing happens


async def test_of_what_is_done_together_the_first_failure_is_raised() -> None:
    async def fail() -> None:
        raise Internal("no shelf", code="stand_failed")

    with pytest.raises(Internal, match="no shelf"):
        await together(fail(), fail())
