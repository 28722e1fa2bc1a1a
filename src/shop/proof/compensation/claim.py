"""The claim about triggers: three ways to tell a decision, what each costs in delay, and what each survives."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from dougong.evidence import Claim, Figures, Setting, Threshold
from dougong.tcc import Triggers
from shop.proof.compensation.faults import crash_callers, crash_participant, disturb_nothing, look, put_right
from shop.proof.compensation.till import SETTINGS, TillOptions
from shop.proof.compensation.tills import Till, together
from shop.proof.compensation.watch import Settled
from shop.proof.tcc.stand import Stand, stand

__all__ = ["TRIGGERS", "CompensationExperiment", "compensation"]

TRIGGERS: Mapping[str, Triggers] = {
    "call": Triggers(call=True, message=False, scan=False),
    "message": Triggers(call=False, message=True, scan=False),
    "scan": Triggers(call=False, message=False, scan=True),
    "all": Triggers(),
}
_CALLER, _PARTICIPANT, _QUEUE = "caller_crash", "participant_crash", "queue_loss"
_SURVIVES = (
    ("baseline", "call", (_PARTICIPANT,)),
    ("ours", "message", (_CALLER, _PARTICIPANT)),
    ("ours", "scan", (_CALLER, _PARTICIPANT, _QUEUE)),
    ("ours", "all", (_CALLER, _PARTICIPANT, _QUEUE)),
)


class CompensationExperiment:
    """Each measurement on a shelf of its own, whose books have to add up in the end."""

    def __init__(self, data: Path, *, transactions: int, bound_s: float) -> None:
        self._data = data
        self._transactions = transactions
        self._bound_s = bound_s
        self._numbers = itertools.count(1)
        self._problems: list[str] = []

    async def baseline(self, pair: int) -> Figures:
        return await self.faults(["call"])

    async def ours(self, pair: int) -> Figures:
        # The call's delay is measured here: what is compared with it has the same shelf and the same seconds.
        figures = await self.delays(list(TRIGGERS))
        if {"all_delay_ms", "call_delay_ms"} <= figures.keys():
            figures["all_to_call"] = figures["all_delay_ms"] / figures["call_delay_ms"]
        return figures | await self.faults(["message", "scan", "all"])

    async def verify(self) -> Sequence[str]:
        return self._problems

    async def delays(self, names: Sequence[str]) -> dict[str, float]:
        """What these cost when nothing happens."""
        figures: dict[str, float] = {}
        async with self._stand() as (shelf, children):
            tills = await self._tills(shelf, names, children)
            for name, found in (await disturb_nothing(shelf, tills, bound_s=self._bound_s)).items():
                if found.unsettled:
                    self._problems.append(f"{name} left {found.unsettled} unsettled without any fault")
                if found.delays_s:
                    figures[f"{name}_delay_ms"] = found.median_s * 1e3
                    figures[f"{name}_delay_max_ms"] = found.longest_s * 1e3
            await self._check(shelf, tills, [])
        return figures

    async def faults(self, names: Sequence[str]) -> dict[str, float]:
        """What these survive. Some tills' callers crash, and as many again lose their queue as well.

        While it is seen what becomes of them, another shelf crashes under other tills: that is mostly waiting, too.
        """
        figures: dict[str, float] = {}
        async with self._stand() as (shelf, children):
            doubled = {f"{fault} {name}": name for name in names for fault in (_CALLER, _QUEUE)}
            tills = await self._tills(shelf, doubled, children)
            await together(*(till.start_successor() for till in tills.values()))
            await crash_callers(shelf, tills, losers=[key for key in doubled if key.startswith(_QUEUE)])

            async def see() -> None:
                found = await look(shelf, tills, bound_s=self._bound_s)
                for key, name in doubled.items():
                    self._note(figures, name, key.split()[0], found[key])
                await self._check(shelf, tills, [tills[key] for key in doubled if found[key].unsettled])

            await together(see(), self._participant(names, figures))
        return figures

    async def _participant(self, names: Sequence[str], figures: dict[str, float]) -> None:
        async with self._stand() as (shelf, children):
            tills = await self._tills(shelf, names, children)
            found, figures["shelf_away_s"] = await crash_participant(shelf, tills, bound_s=self._bound_s)
            for name in names:
                self._note(figures, name, _PARTICIPANT, found[name])
            await self._check(shelf, tills, [tills[name] for name in names if found[name].unsettled])

    def _note(self, figures: dict[str, float], name: str, fault: str, found: Settled) -> None:
        figures[f"{name}_unsettled_after_{fault}"] = found.unsettled
        if not found.unsettled:
            figures[f"{name}_settled_s_after_{fault}"] = found.longest_s
        elif any(name == other and fault in faults for _, other, faults in _SURVIVES):
            self._problems.append(f"{name} left {found.unsettled} of {self._transactions} unsettled after {fault}")

    async def _check(self, shelf: Stand, tills: Mapping[str, Till], left: Sequence[Till]) -> None:
        """Nothing is lost that a trigger did not see: all three settle it, and everything is sold exactly once."""
        self._problems += await put_right(shelf, left)
        shelf.acknowledged += sum(len(till.acknowledged) for till in tills.values())
        self._problems += [f"books: {problem}" for problem in await shelf.problems()]

    @asynccontextmanager
    async def _stand(self) -> AsyncGenerator[tuple[Stand, AsyncExitStack]]:
        url = f"sqlite:///{self._data}/shelf-{next(self._numbers)}.db"
        async with stand(url) as shelf, AsyncExitStack() as children:
            yield shelf, children

    async def _tills(self, shelf: Stand, names: Iterable[str], children: AsyncExitStack) -> dict[str, Till]:
        """A till for each name, its last word saying which triggers it has."""
        tills: dict[str, Till] = {}
        for name in names:
            number = next(self._numbers)
            options = TillOptions(
                database=f"sqlite:///{self._data}/till-{number}.db",
                shelf=shelf.address,
                initiator=f"till-{number}",
                triggers=TRIGGERS[name.split()[-1]],
            )
            first = number * 1_000_000
            tills[name] = Till(options, range(first, first + self._transactions), children)
        await together(*(till.start() for till in tills.values()))
        return tills


@asynccontextmanager
async def _experiment(setting: Setting) -> AsyncGenerator[CompensationExperiment]:
    data = setting.workdir / "data"  # a temporary directory may be in memory, where nothing is durable
    data.mkdir()
    try:
        yield CompensationExperiment(
            data, transactions=50 if setting.quick else 200, bound_s=3.0 if setting.quick else 15.0
        )
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _cell(side: str, name: str, fault: str) -> str:
    left = f"{{{side}[{name}_unsettled_after_{fault}]:.0f}} left"
    if any(name == other and fault in faults for _, other, faults in _SURVIVES):
        return f"{left}, {{{side}[{name}_settled_s_after_{fault}]:.1f}} s"
    return left


def _row(side: str, name: str, title: str) -> str:
    cells = (_cell(side, name, fault) for fault in (_CALLER, _PARTICIPANT, _QUEUE))
    return f"| {title} | {{ours[{name}_delay_ms]:,.1f}} ms | {' | '.join(cells)} |"


_TABLE = "\n".join(
    [
        "| trigger | no fault | caller crashes | participant crashes | caller crashes, its queue is lost |",
        "| --- | ---: | --- | --- | --- |",
        _row("baseline", "call", "call alone"),
        _row("ours", "message", "message alone"),
        _row("ours", "scan", "scan alone"),
        _row("ours", "all", "all three"),
        "",
        (
            "No fault: median from the acknowledgement until the participant's own database shows it confirmed. With a "
            "fault: how many are still unsettled when the time to look is over, and else how long after its "
            "acknowledgement the last one was settled. The participant was away for {ours[shelf_away_s]:.1f} s."
        ),
    ]
)

compensation = Claim(
    name="compensation",
    title="Three triggers, and what each of them survives",
    situation=(
        "A decision is made, its customer told, and then the other service is called. If the process dies between the "
        "two, nobody is left who knows that there was somebody to call: stock stays frozen for ever."
    ),
    task=(
        "Whatever dies (the process that decided, the participant, the queue), everything acknowledged is settled, "
        "without a person and without giving up the delay of a direct call."
    ),
    action=(
        "Three triggers over one idempotent claim: a call at once, a message written with the decision, a scan of the "
        "log. Each alone and all together confirm held transactions while real processes are killed; what counts is "
        "what the participant's own database shows. The defaults are divided by three to five: a message waits "
        f"{SETTINGS.message_delay_s} s for the call, the scan takes over after a lease of {SETTINGS.lease_s:.0f} s. "
        "What is left unsettled is then given to all three triggers, and the books are added up: nothing frozen, "
        "everything acknowledged sold once."
    ),
    result=(
        "With all three, {ours[all_unsettled_after_caller_crash]:.0f} are left unsettled when the caller crashes "
        "(settled within {ours[all_settled_s_after_caller_crash]:.1f} s), "
        "{ours[all_unsettled_after_participant_crash]:.0f} when the participant does, and "
        "{ours[all_unsettled_after_queue_loss]:.0f} when the queue is lost as well "
        "({ours[all_settled_s_after_queue_loss]:.1f} s), at {ours[all_delay_ms]:.1f} ms without a fault, "
        "{ours[all_to_call]:.2f} × the call's. The call alone ({ours[call_delay_ms]:.1f} ms) leaves "
        "{baseline[call_unsettled_after_caller_crash]:.0f} when its caller crashes. The message alone "
        "({ours[message_delay_ms]:.1f} ms) survives that, and leaves {ours[message_unsettled_after_queue_loss]:.0f} "
        "when its queue is lost. The scan alone survives everything, and takes {ours[scan_delay_ms]:,.0f} ms always."
    ),
    table=_TABLE,
    experiment=_experiment,
    thresholds=(
        *(
            Threshold(f"{side}.{name}_unsettled_after_{fault}", at_most=0)
            for side, name, faults in _SURVIVES
            for fault in faults
        ),
        # What is said to be lost has to be seen lost: else the faults did not happen, and the zeros mean nothing.
        Threshold(f"baseline.call_unsettled_after_{_CALLER}", at_least=1),
        Threshold(f"ours.message_unsettled_after_{_QUEUE}", at_least=1),
        Threshold("ours.all_to_call", at_most=1.25),
    ),
    pairs_quick=1,
)
