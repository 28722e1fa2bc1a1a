"""`dougong up` as somebody at a terminal has it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from tests.app.conftest import ENVIRONMENT, FRONT, GREETER, PATIENCE_S, alive, until

from dougong.evidence.engines import free_port

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("supervisor")]

READY = "Ctrl-C stops"
LINE = re.compile(r"\d\d:\d\d:\d\d (greeter|front|up)( *) (       |debug  |info   |warning|error  ) .+")


class Up:
    """A running `dougong up`; what it printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    async def until(self, condition: Callable[[], object]) -> None:
        await until(lambda: condition() or self.process.returncode is not None)
        assert condition(), f"ended with {self.process.returncode}"

    async def ends(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            code = await self.process.wait()
            await self._reader
        return code

    @property
    def pids(self) -> list[int]:
        return [int(found[1]) for line in self.lines if (found := re.search(r"serving  pid=(\d+)", line))]

    @property
    def status(self) -> str:
        return next(line.split("status: ")[1] for line in self.lines if "status: " in line)


def system(tmp_path: Path, apps: str) -> Path:
    path = tmp_path / "system.toml"
    path.write_text(f'name = "sample"\n{apps}')
    return path


@asynccontextmanager
async def up(path: Path, *flags: str) -> AsyncGenerator[Up]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dougong", "up", str(path), "--data", str(path.parent / "data")),
        *(flags if "--console" in flags else ("--console", "127.0.0.1:0", *flags)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **ENVIRONMENT},
    )
    it = Up(process)
    try:
        yield it
    except BaseException as error:
        error.add_note("\n".join(it.lines[-60:]))
        raise
    finally:
        if process.returncode is None:
            process.kill()  # its processes go with it
        await it.ends()


async def test_it_names_the_pages_that_an_app_shows(tmp_path: Path) -> None:
    port = free_port()
    table = f'[apps.live]\ntarget = "tests.app.sample:live"\nhttp = "127.0.0.1:{port}"\n'
    async with up(system(tmp_path, table)) as it:
        await it.until(lambda: it.said(READY))
        assert it.said(f"live: http://127.0.0.1:{port}/page.html")


async def test_it_tells_where_things_are_survives_a_kill_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    port = free_port()
    path = system(tmp_path, GREETER + FRONT.format(port=port))
    async with up(path) as it:
        await it.until(lambda: it.said(READY))
        assert it.said(f"front: http://127.0.0.1:{port}  (documentation: http://127.0.0.1:{port}/docs)")
        assert it.said(f"dougong services --data {tmp_path}/data")
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/v1/hello/bo") as answer:
                assert (await answer.json())["text"] == "hello bo"
            async with http.get(f"{it.status}/api/status") as answer:
                assert [p["state"] for p in (await answer.json())["processes"]] == ["serving", "serving"]

        async with up(path) as second:  # the same data: told at once, and the first is not disturbed
            assert await second.ends() == 1
            assert second.said(f"already up on {tmp_path}/data (process {it.process.pid})")
            assert second.said("another directory with --data")

        victim = int(next(found[1] for line in it.lines if (found := re.search(r"kill -9 (\d+)", line))))
        os.kill(victim, signal.SIGKILL)  # as it says itself
        await it.until(lambda: it.said("greeter        ended with signal SIGKILL") or it.said("ended with signal"))
        await it.until(lambda: it.said("serves again (restart 1"))
        pids = it.pids

        it.process.send_signal(signal.SIGINT)
        assert await it.ends() == 0
    assert it.said("stopping in order; Ctrl-C again stops at once")
    order = [line.split()[1] for line in it.lines if line.endswith("stopping")]
    assert order == ["front", "greeter"]
    assert "stopped" in it.lines[-1]
    assert not any(map(alive, pids))
    for line in it.lines:
        assert LINE.fullmatch(line), line  # time, process, level, event, fields; nothing else, no colours in a pipe


async def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    async with up(system(tmp_path, f"{GREETER}[apps.greeter.settings]\nstubborn = true\n")) as it:
        await it.until(lambda: it.said(READY))
        it.process.send_signal(signal.SIGINT)
        it.process.send_signal(signal.SIGINT)  # passed on twice by a wrapper: still the first
        await it.until(lambda: it.said("no"))  # told to stop, it refuses
        while not it.said("stopping at once"):
            it.process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.1)
        assert await it.ends() == 0
    assert it.said("stopped")
    assert not it.said("did not stop within")
    assert not any(map(alive, it.pids))


async def test_ctrl_c_while_starting(tmp_path: Path) -> None:
    async with up(system(tmp_path, f'{GREETER}[apps.greeter.settings]\ngate = "{tmp_path}/gate"\n')) as it:
        waiting = tmp_path / "gate.waiting"
        await it.until(lambda: waiting.exists() and waiting.read_text())
        it.process.send_signal(signal.SIGINT)
        assert await it.ends() == 130
    assert not alive(int(waiting.read_text()))
    assert it.said("stopped while starting")


@pytest.mark.parametrize(("flag", "who"), [("front", "front"), ("--console", "the status page")])
async def test_a_taken_port_names_who_wants_it(tmp_path: Path, flag: str, who: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        path = system(tmp_path, FRONT.format(port=taken if flag == "front" else free_port()))
        async with up(path, *(("--console", f"127.0.0.1:{taken}") if flag == "--console" else ())) as it:
            assert await it.ends() == 1
    assert len(it.lines) == 1
    assert (
        f"dougong: port_taken: {who} wants 127.0.0.1:{taken}: Address already in use by process {os.getpid()}"
        in (it.lines[0])
    )
    assert ("--console" if flag == "--console" else f"http of [apps.front] in {path}") in it.lines[0]


async def test_what_never_starts_is_told_last(tmp_path: Path) -> None:
    path = system(tmp_path, f'{GREETER}[apps.greeter.settings]\nfail = "the well is dry"\n')
    async with up(path, "--quiet") as it:
        assert await it.ends() == 1
    verdict = next(i for i, line in enumerate(it.lines) if line.startswith("dougong: does_not_start: greeter ended 3"))
    assert any("RuntimeError: the well is dry" in line for line in it.lines[verdict:])
    assert any("│ RuntimeError: the well is dry" in line for line in it.lines[:verdict])  # in its process's column
    assert not it.said(" info ")  # quiet


async def test_when_nobody_reads_any_more_it_stops_in_order(tmp_path: Path) -> None:
    read, write = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dougong", "up", str(system(tmp_path, GREETER)), "--data", str(tmp_path / "data")),
        *("--console", "127.0.0.1:0"),
        stdout=write,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
    )
    os.close(write)
    os.close(read)  # `dougong up | head`, and head is done
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() in (0, 130)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
