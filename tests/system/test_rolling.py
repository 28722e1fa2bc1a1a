"""Under load, with real etcd: instances restarted one by one, the registry's leader killed, an instance gone bad.

No order may fail and the books have to agree. The instance that answers 503 is ejected by every caller and comes back.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests import engines
from tests.app.conftest import ENVIRONMENT
from tests.system.conftest import READY_S, SYSTEM_FILE, free_port
from tests.system.sick import FILE_VARIABLE

from dougong.app import Process, ProcessState, Supervisor, load_system
from dougong.evidence import RushOptions, rush
from dougong.evidence.etcd_cluster import EtcdCluster
from shop.proof import rush as order_rush

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("shop"), pytest.mark.asyncio(loop_scope="module")]

RATE = 1000
INSTANCES = 3
SICK_S = 12
PATIENCE_S = 60.0
POLICY = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: everybody}
spec:
  host: "*.default.svc.cluster.local"
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 50}
"""


@pytest.fixture(scope="module")
def own_etcd() -> Iterator[EtcdCluster]:
    made = engines.make_etcd()
    yield made
    made.remove()


class Rolling:
    """The shop with three instances of orders on etcd."""

    def __init__(self, supervisor: Supervisor, sick: Path, etcd: EtcdCluster, lines: list[str]) -> None:
        self.supervisor = supervisor
        self.sick = sick
        self.etcd = etcd
        self.lines = lines

    def count(self, what: str) -> int:
        """Batches that an instance served or refused so far."""
        file = self.sick.with_name(f"{self.sick.name}.{what}")
        return file.stat().st_size if file.exists() else 0

    @property
    def orders(self) -> list[Process]:
        return [process for process in self.supervisor.processes if process.app == "orders"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rolling(own_etcd: EtcdCluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rolling]:
    folder = tmp_path_factory.mktemp("rolling")
    (folder / "policy").mkdir()
    (folder / "policy" / "everybody.yaml").write_text(POLICY)
    text = re.sub(r'"127\.0\.0\.1:808\d"', lambda _: f'"127.0.0.1:{free_port()}"', SYSTEM_FILE.read_text())
    text = text.replace('"shop.orders:app"', f'"tests.system.sick:app"\ninstances = {INSTANCES}')
    text = text.replace("canaries = 1", "canaries = 0").replace('["deploy/policy"]', '["policy"]')
    file, sick, lines = folder / "system.toml", folder / "sick", list[str]()
    file.write_text(f'registry = "{own_etcd.url()}"\n{text}')
    supervisor = Supervisor(
        load_system(file),
        file,
        folder / "data",
        environment={**ENVIRONMENT, FILE_VARIABLE: str(sick), "DOUGONG_LEASE_S": "10"},
        on_line=lambda name, line: lines.append(f"{name}: {line}"),
    )
    await supervisor.start(ready_s=READY_S)
    try:
        yield Rolling(supervisor, sick, own_etcd, lines)
    finally:
        await supervisor.stop()


async def restart(process: Process) -> None:
    """As a deployment does: told to stop, it drains and ends; another takes its place."""
    before = process.restarts
    os.kill(process.pid, signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        while process.restarts == before or process.state is not ProcessState.SERVING:
            await asyncio.sleep(0.05)


async def rushed(rolling: Rolling, seconds: float, *, retry: bool, seed: int) -> None:
    options = RushOptions(
        rate=RATE,
        seconds=seconds,
        transport="grpc",
        keys=retry,
        retry=retry,
        check=True,
        seed=seed,
        data=str(rolling.supervisor.data),
    )
    result = await rush(order_rush, options)
    shown = "\n".join(rolling.lines[-60:])
    failed = {code: n for code, n in result.report.refused.items() if code != "insufficient_stock"}
    assert failed == {}, f"{failed}\n{shown}"
    assert result.discrepancies == (), f"{result.discrepancies}\n{shown}"
    assert result.report.acknowledged > RATE, result.report


async def test_a_rolling_restart_and_a_new_leader_of_the_registry_fail_no_order(rolling: Rolling) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(rushed(rolling, 16, retry=False, seed=1))
        await asyncio.sleep(2)
        leader = rolling.etcd.leader()
        for number, process in enumerate(rolling.orders):
            await restart(process)
            if number == 0:
                await asyncio.to_thread(leader.kill)
    await asyncio.to_thread(leader.start)
    assert [process.restarts for process in rolling.orders] == [1] * INSTANCES
    assert [process.last_exit for process in rolling.orders] == [0] * INSTANCES, "each of them ended in good order"


async def test_an_instance_that_answers_503_is_ejected_and_comes_back(rolling: Rolling) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(rushed(rolling, SICK_S + 12, retry=True, seed=2))
        await asyncio.sleep(3)
        rolling.sick.write_text("1")
        await asyncio.sleep(SICK_S)
        rolling.sick.unlink()
        refused, served, others = rolling.count("1.refused"), rolling.count("1.served"), rolling.count("0.served")
        async with asyncio.timeout(PATIENCE_S):
            while rolling.count("1.served") == served:
                await asyncio.sleep(0.1)
    assert 0 < refused < others / 20, "it was tried now and then, and left alone otherwise"
