"""Two instances of everything on shared databases; full disks, files that cannot be written, participants that hang."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from tests.system.conftest import SYSTEM_FILE, Shop, free_port, system_on

from dougong.app import ProcessState, Supervisor
from dougong.evidence import RushOptions, rush
from shop.proof import audit
from shop.proof import rush as order_rush

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("shop"), pytest.mark.asyncio(loop_scope="module")]

DISK_MB = 160
LINES = {"lines": [{"sku": "sku-0003", "quantity": 1}]}


def mountable() -> bool:
    """Whether this user may mount a small disk (root in most containers)."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
        return tried.returncode == 0 and subprocess.run(["umount", folder], check=True).returncode == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Shop, Path]]:
    """A shop with two instances of every app, on a small disk where that is allowed."""
    data, port, lines = tmp_path_factory.mktemp("pair"), free_port(), list[str]()
    small = mountable()
    if small:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(data)], check=True)
    system = system_on(port)
    apps = {name: msgspec.structs.replace(app, instances=2) for name, app in system.apps.items()}
    supervisor = Supervisor(
        msgspec.structs.replace(system, apps=apps),
        SYSTEM_FILE,
        data,
        on_line=lambda name, line: lines.append(f"{name}: {line}"),
    )
    try:
        await supervisor.start(ready_s=60.0)
        async with aiohttp.ClientSession() as http:
            yield Shop(supervisor, f"http://127.0.0.1:{port}", http, lines), data
    except BaseException as error:
        error.add_note("\n".join(lines[-50:]))
        raise
    finally:
        await supervisor.stop()
        if small:
            subprocess.run(["umount", str(data)], check=True)


async def place(shop: Shop, token: str, key: str) -> tuple[int, dict[str, object]]:
    return await shop.call("POST", "/v1/orders", LINES, token=token, headers={"Idempotency-Key": key})


async def until_placed(shop: Shop, token: str, key: str) -> dict[str, object]:
    """Ask with the same key until it is placed, as after a fault before it; the deadline only ends what never would."""
    async with asyncio.timeout(60):
        while True:
            status, answer = await place(shop, token, key)
            if status == 200:
                return answer
            assert status == 503, answer
            await asyncio.sleep(0.1)


def pids(shop: Shop) -> dict[str, int]:
    return {process.name: process.pid for process in shop.supervisor.processes}


async def test_two_instances_of_everything_carry_load_and_the_books_agree(pair: tuple[Shop, Path]) -> None:
    _, data = pair
    options = RushOptions(rate=500, seconds=2, transport="grpc", keys=True, retry=True, check=True, data=str(data))
    result = await rush(order_rush, options)
    assert result.discrepancies == ()
    assert result.report.acknowledged > 0


async def test_one_key_on_two_edges_and_two_orders_is_one_order(pair: tuple[Shop, Path]) -> None:
    shop, data = pair
    token = await shop.customer("twice")
    edges = [f"http://{p.http}" for p in shop.supervisor.processes if p.name.startswith("edge")]
    assert len(edges) == 2
    key = uuid.uuid4().hex

    async def ask(url: str) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        async with shop.http.post(f"{url}/v1/orders", json=LINES, headers=headers) as answer:
            return answer.status, await answer.text()

    answers = await asyncio.gather(*(ask(edges[n % 2]) for n in range(20)))
    assert len(set(answers)) == 1, set(answers)
    assert answers[0][0] == 200
    assert await audit(data) == []


@contextmanager
def full(shop: Shop, data: Path) -> Generator[None]:
    """Nothing more can be written: the disk is full, or (without the right to mount one) files may not grow."""
    if os.path.ismount(data):
        filler = data / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        try:
            yield
        finally:
            filler.unlink()
        return
    with stunted(*pids(shop).values()):
        yield


@contextmanager
def stunted(*processes: int) -> Generator[None]:
    """Files of these processes may not grow, nor be written at all: every write of theirs fails."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in processes}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


async def test_on_a_full_disk_orders_are_refused_by_name_and_taken_again_when_there_is_space(
    pair: tuple[Shop, Path],
) -> None:
    shop, data = pair
    token = await shop.token("user-3@shop.example")  # whose money does not run out first
    await until_placed(shop, token, "before")
    running = pids(shop)
    refused: list[str] = []
    with full(shop, data):
        for n in range(10_000):  # write-ahead logs that grew earlier have room for some more
            status, problem = await place(shop, token, f"during-{n}")
            if status == 200:
                continue
            assert status == 503, problem
            assert problem["code"] in ("disk_full", "io_error", "participant_unavailable"), problem
            if problem["code"] != "participant_unavailable":
                assert "orders.db" in str(problem["detail"])
            refused.append(f"during-{n}")
            if len(refused) == 20:
                break
        assert len(refused) == 20
        status, _ = await shop.call("GET", "/v1/stock/sku-0003")
        assert status == 200  # what needs no disk goes on
    assert (await until_placed(shop, token, refused[0]))["state"] == "confirmed"
    assert pids(shop) == running
    assert await audit(data) == []


@pytest.mark.parametrize("app", ["inventory", "users", "orders", "fulfilment"])
async def test_one_app_that_cannot_write_under_load_loses_nothing(pair: tuple[Shop, Path], app: str) -> None:
    shop, data = pair
    running = pids(shop)
    options = RushOptions(rate=300, seconds=3, transport="grpc", keys=True, retry=True, check=True, data=str(data))
    async with asyncio.TaskGroup() as group:
        rushing = group.create_task(rush(order_rush, options))
        await asyncio.sleep(1.0)
        with stunted(*(pid for name, pid in running.items() if name.startswith(app))):
            await asyncio.sleep(0.7)
    result = rushing.result()
    assert result.discrepancies == ()
    assert result.report.acknowledged > 0
    assert pids(shop) == running


async def test_a_participant_that_hangs_is_said_to_be_away_and_nothing_is_half_done(pair: tuple[Shop, Path]) -> None:
    shop, data = pair
    token = await shop.customer("patient")
    await until_placed(shop, token, "before")
    hung = [process.pid for process in shop.supervisor.processes if process.name.startswith("users")]
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    try:
        status, problem = await place(shop, token, "during")
    finally:
        for pid in hung:
            os.kill(pid, signal.SIGCONT)
    assert (status, problem["code"]) == (503, "participant_unavailable"), problem
    assert "WalletHolds" in str(problem["detail"])
    await until_placed(shop, token, "during")
    assert await audit(data) == []
    _, wallet = await shop.call("GET", "/v1/wallet", token=token)
    assert wallet["frozen"] == 0


@contextmanager
def unwritable(path: Path) -> Generator[None]:
    """Root writes whatever the mode says, but not to a read-only mount."""
    if os.geteuid() != 0:
        mode = path.stat().st_mode
        path.chmod(0o444)
        yield
        path.chmod(mode)
        return
    if not mountable():
        pytest.skip("root without the right to mount: no file is unwritable to it")
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(path)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


async def test_a_database_that_cannot_be_written_is_named_and_used_again_when_it_can(pair: tuple[Shop, Path]) -> None:
    shop, data = pair
    token = await shop.customer("readonly")
    victims = [process for process in shop.supervisor.processes if process.name.startswith("orders")]
    with unwritable(data / "orders.db"):
        for process in victims:
            os.kill(process.pid, signal.SIGKILL)
        seen = len(shop.lines)
        async with asyncio.timeout(60):
            while not any("read_only" in line and "orders.db" in line for line in shop.lines[seen:]):
                status, problem = await place(shop, token, "during")  # or nobody writes at all
                assert status == 503, problem
                await asyncio.sleep(0.05)
    await until_placed(shop, token, "during")
    async with asyncio.timeout(60):
        while any(process.state is not ProcessState.SERVING for process in victims):
            await asyncio.sleep(0.05)
    assert await audit(data) == []
