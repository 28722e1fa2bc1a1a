"""The claim about transactions: try, confirm and cancel in batches, as durable as one row lock at a time."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager

from dougong.evidence import Claim, Figures, MariaDB, NotShown, Ratio, Server, Setting, Threshold
from shop.proof.tcc.shelf import SKUS
from shop.proof.tcc.stand import row_lock, stand

__all__ = ["tcc", "tcc_mariadb"]

_BATCH = 250
_RUNS = 4
_CLIENTS = 64
"""Of a coordinator without group commit: so many transactions at once, one commit each."""


class _TccExperiment:
    """A shelf and its loads; each measurement on a fresh database, so that none runs on a larger one.

    `fresh` gives the URL of one. On a server, what locks rows can do so on many connections, and does.
    """

    def __init__(self, setting: Setting, fresh: Callable[[str], str], *, group_commit_baseline: bool) -> None:
        self._fresh = fresh
        self._group_commit_baseline = group_commit_baseline
        self._seconds = 1.5 if setting.quick else 5.0
        self._problems: list[str] = []

    async def baseline(self, pair: int) -> Figures:
        locked = await row_lock(self._fresh("naive"), seconds=self._seconds, skus=1)
        if not self._group_commit_baseline:
            return {"row_lock_per_s": locked}
        async with stand(self._fresh("shelf"), group_max=1) as shelf:
            single = await shelf.load(
                self._fresh("log"), seconds=self._seconds, batch=1, runs=_CLIENTS, skus=SKUS, group_max=1
            )
            self._problems += await shelf.problems()
        return {"row_lock_per_s": locked, "no_group_commit_per_s": single.acknowledged_per_s}

    async def ours(self, pair: int) -> Figures:
        figures: dict[str, float] = {}
        loads = [("spread", SKUS), ("hot", 1)]
        for name, skus in loads if pair % 2 == 0 else reversed(loads):  # who goes first changes from pair to pair
            async with stand(self._fresh("shelf")) as shelf:
                result = await shelf.load(
                    self._fresh("log"), seconds=self._seconds, batch=_BATCH, runs=_RUNS, skus=skus
                )
                self._problems += await shelf.problems()
            figures |= {
                f"{name}_per_s": result.acknowledged_per_s,
                f"{name}_settled_per_s": result.acknowledged / result.settled_s,
                f"{name}_p50_ms": result.p50_ms,
                f"{name}_p99_ms": result.p99_ms,
                f"{name}_memory_mb": max(result.memory_mb),
            }
        return {**figures, "hot_to_spread": figures["hot_per_s"] / figures["spread_per_s"]}

    async def verify(self) -> Sequence[str]:
        return [f"books: {problem}" for problem in self._problems]


@asynccontextmanager
async def _on_sqlite(setting: Setting) -> AsyncGenerator[_TccExperiment]:
    data = setting.workdir / "data"  # a temporary directory may be in memory, where nothing is durable
    data.mkdir()
    numbers = itertools.count(1)
    try:
        yield _TccExperiment(
            setting, lambda name: f"sqlite:///{data}/{name}-{next(numbers)}.db", group_commit_baseline=True
        )
    finally:
        shutil.rmtree(data, ignore_errors=True)


@asynccontextmanager
async def _on_mariadb(setting: Setting) -> AsyncGenerator[_TccExperiment]:
    if importlib.util.find_spec("asyncmy") is None:
        raise NotShown("the driver is missing; pip install 'dougong[mysql]'")
    folder = setting.workdir / "mariadb"
    folder.mkdir()
    setting.say("starting MariaDB")
    server: Server | None = None
    try:
        server = await asyncio.to_thread(MariaDB, folder.absolute(), buffer_mb=512)
        with ExitStack() as databases:
            yield _TccExperiment(
                setting, lambda _: databases.enter_context(server.database()), group_commit_baseline=False
            )
    finally:
        if server is not None:
            server.remove()
        shutil.rmtree(folder, ignore_errors=True)


tcc = Claim(
    name="tcc",
    title="Transactions over two services at the pace of batches",
    situation=(
        "Stock is taken order by order: a transaction locks the row, changes it, and waits for the disk. An item that "
        "everybody wants is sold one at a time, and a coordinator that commits each transaction for itself waits for "
        "the disk four times an order."
    ),
    task=(
        "Try and confirm 60,000 orders a second on two cores, the log in one process and the stock in another, each "
        "commit synced, 99 of 100 acknowledged within 30 ms, and no slower when all want the same item."
    ),
    action=(
        "Runs of transactions travel as columns over one gRPC stream; a participant decides a batch in memory from the "
        "state it read once, and writes fence rows and one delta per SKU in one local transaction; what is in flight "
        "together shares a commit. Then the books are added up: nothing frozen, everything acknowledged sold once."
    ),
    result=(
        "{ours[spread_per_s]:,.0f} transactions/s over a thousand SKUs, {ours[hot_per_s]:,.0f}/s on a single one "
        "({ours[hot_to_spread]:.2f} × as many), P99 {ours[spread_p99_ms]:.0f} ms; one row lock per order "
        "{baseline[row_lock_per_s]:,.0f}/s ({ratio[row_lock]:.0f} × fewer), a coordinator without group commit "
        "{baseline[no_group_commit_per_s]:,.0f}/s ({ratio[group_commit]:.0f} × fewer)."
    ),
    experiment=_on_sqlite,
    ratios={
        "row_lock": Ratio("hot_per_s", "row_lock_per_s"),
        "group_commit": Ratio("spread_per_s", "no_group_commit_per_s"),
    },
    thresholds=(
        Threshold("ours.spread_per_s", at_least=60_000),
        Threshold("ours.hot_per_s", at_least=60_000),
        Threshold("ours.hot_to_spread", at_least=1.0),
        Threshold("ours.spread_p99_ms", at_most=30),
        Threshold("ours.hot_p99_ms", at_most=30),
        Threshold("ratio.row_lock", at_least=5),
        Threshold("ratio.group_commit", at_least=10),
    ),
)

tcc_mariadb = Claim(
    name="tcc-mariadb",
    title="The same transactions on MariaDB",
    situation=(
        "Sixteen connections take stock order by order, each in a transaction that locks the row and awaits the disk."
    ),
    task="Try and confirm 15,000 orders a second, log and stock each in a database of one MariaDB server.",
    action=(
        "The same coordinator and participant, with another database's address; batches, one writer per database, and "
        "few round trips a batch. The server syncs each commit (`innodb_flush_log_at_trx_commit = 1`)."
    ),
    result=(
        "{ours[spread_per_s]:,.0f} transactions/s over a thousand SKUs, {ours[hot_per_s]:,.0f}/s on a single one, "
        "P99 {ours[spread_p99_ms]:.0f} ms; one row lock per order {baseline[row_lock_per_s]:,.0f}/s, "
        "{ratio[row_lock]:.0f} × fewer."
    ),
    experiment=_on_mariadb,
    ratios={"row_lock": Ratio("hot_per_s", "row_lock_per_s")},
    thresholds=(
        Threshold("ours.spread_per_s", at_least=15_000),
        Threshold("ours.hot_per_s", at_least=15_000),
        Threshold("ratio.row_lock", at_least=3),
    ),
    pairs_quick=1,
)
