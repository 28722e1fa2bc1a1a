"""A system of real processes: restarted, stopped in order, and gone when their supervisor is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import msgspec
import pytest
from tests.app.conftest import ENVIRONMENT, FRONT, GREETER, PATIENCE_S, Tried, alive, running, trying, until
from tests.app.sample import Greeter, Hello

from dougong.app import Process, ProcessState, read_log_line
from dougong.app import _home as home_module
from dougong.app._home import home_of
from dougong.errors import Conflict, NotFound, Unavailable
from dougong.evidence.engines import free_port
from dougong.registry import Discovery, Instance, Listing, instance_key, open_registry
from dougong.rpc import client, close_client

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("supervisor")]

SETTINGS = "[apps.greeter.settings]\n"


def serving_again(process: Process, restarts: int) -> bool:
    return process.restarts >= restarts and process.state is ProcessState.SERVING


async def test_while_nobody_starts_the_registry_is_left_in_peace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, GREETER) as it:
        listed: list[str] = []
        listing = it.supervisor.registry.list

        async def counted(prefix: str) -> Listing:
            listed.append(prefix)
            return await listing(prefix)

        await asyncio.sleep(0.1)  # a look that was under way
        monkeypatch.setattr(it.supervisor.registry, "list", counted)
        await asyncio.sleep(0.5)
        assert not listed
        (greeter,) = it.supervisor.processes
        os.kill(greeter.pid, signal.SIGKILL)
        await until(lambda: serving_again(greeter, 1))
        assert listed


async def test_two_instances_serve_a_killed_one_comes_back_and_all_stop_in_reverse(tmp_path: Path) -> None:
    apps = f"{GREETER}instances = 2\n{FRONT.format(port=free_port())}"
    async with running(tmp_path, apps, data="da ta#1%2F") as it:
        supervisor = it.supervisor
        one, two, front = supervisor.processes
        assert [p.name for p in supervisor.processes] == ["greeter-0", "greeter-1", "front"]
        assert stat.S_IMODE((supervisor.data / "keys" / "system.token").stat().st_mode) == 0o600
        discovery = Discovery(supervisor.registry)
        caller = client(Greeter, await discovery.resolve("sample.v1.Greeter"))
        answered: set[int] = set()
        async with asyncio.timeout(PATIENCE_S):
            while answered != {one.pid, two.pid}:
                answered.add((await caller.hello(Hello(name="bo"))).pid)

        killed, other = one.pid, two.pid
        os.kill(killed, signal.SIGKILL)
        await until(lambda: serving_again(one, 1))
        assert one.pid != killed
        assert one.last_exit == -signal.SIGKILL
        assert (two.pid, two.restarts, front.restarts) == (other, 0, 0)
        assert it.said("ended with signal SIGKILL; starts again at once")
        pids = {
            msgspec.json.decode(item.value, type=Instance).metadata["pid"]
            for item in (await supervisor.registry.list("/services/")).items
        }
        assert pids == {str(p.pid) for p in supervisor.processes}  # the dead one was taken out at once

        with pytest.raises(Conflict, match=rf"already up on .*da ta#1%2F \(process {os.getpid()}\)"):
            await trying(tmp_path, apps, data="da ta#1%2F").supervisor.start()
        with pytest.raises(NotFound, match="no process 'grater'; there are greeter-0"):
            supervisor.find("grater")
        assert supervisor.find("front") is front
        await close_client(caller)
        await discovery.close()
        running_pids = [p.pid for p in supervisor.processes]
        it.states.clear()
    stops = [name for name, state in it.states if state is ProcessState.STOPPED]
    assert stops == ["front", "greeter-1", "greeter-0"]
    assert [p.last_exit for p in supervisor.processes] == [0, 0, 0]
    assert not any(map(alive, running_pids))


async def test_one_that_keeps_dying_is_started_later_each_time(tmp_path: Path) -> None:
    async with running(tmp_path, GREETER) as it:
        (process,) = it.supervisor.processes
        for restart in (1, 2, 3):
            os.kill(process.pid, signal.SIGKILL)
            await until(lambda n=restart: serving_again(process, n))  # type: ignore[misc]
    said = [line.partition("; ")[2] for _, line in it.lines if line.startswith("ended with")]
    assert said == ["starts again at once", "starts again in 0.1 s", "starts again in 0.2 s"]


async def start_fails(it: Tried, ready_s: float = 60.0) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        await it.supervisor.start(ready_s=ready_s)
    assert all(p.state is ProcessState.STOPPED for p in it.supervisor.processes)
    assert caught.value.code == "does_not_start"
    return caught.value


async def test_an_app_that_never_starts_is_named_with_what_it_said(tmp_path: Path) -> None:
    it = trying(tmp_path, f'{GREETER}{SETTINGS}fail = "the \\u001b[2J well is dry"\n')
    error = await start_fails(it)
    assert "greeter ended 3 times while starting, last with exit code 1" in error.message
    assert "RuntimeError: the \\x1b[2J well is dry" in error.message
    await trying(tmp_path, GREETER).supervisor.stop()  # one that never started has nothing to stop


@pytest.mark.parametrize(
    ("apps", "said"),
    [
        ('[apps.greeter]\ntarget = "tests.app.sample:nobody"\n', "no App called 'nobody'"),
        ('[apps.grater]\ntarget = "tests.app.sample:greeter"\n', "call both the same"),
        (f"{GREETER}{SETTINGS}volume = 11\n", "volume"),
    ],
)
async def test_what_a_restart_cannot_heal_is_told_after_the_first(tmp_path: Path, apps: str, said: str) -> None:
    error = await start_fails(trying(tmp_path, apps))
    assert "ended once while starting, last with exit code 78" in error.message
    assert said in error.message


async def test_one_that_is_not_ready_in_time_is_named(tmp_path: Path) -> None:
    error = await start_fails(trying(tmp_path, f'{GREETER}{SETTINGS}gate = "{tmp_path}/gate"\n'), ready_s=0.1)
    assert "not ready after 0 s: greeter" in error.message


async def test_stopping_while_starting_leaves_nothing_behind(tmp_path: Path) -> None:
    it = trying(tmp_path, f'{GREETER}{SETTINGS}gate = "{tmp_path}/gate"\n')
    starting = asyncio.create_task(it.supervisor.start())
    waiting = tmp_path / "gate.waiting"
    await until(lambda: waiting.exists() and waiting.read_text())
    pid = it.supervisor.processes[0].pid
    assert str(pid) == waiting.read_text()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert starting.cancelled()
    assert not alive(pid)
    assert it.supervisor.processes[0].last_exit == 0  # it gave up its start by itself
    async with running(tmp_path, GREETER):  # and the directory is free
        pass


async def test_cancelled_before_a_process_is_known_none_is_left(tmp_path: Path) -> None:
    it = trying(tmp_path, f"{GREETER}instances = 3\n")
    before = children()
    for turns in range(12):
        it.states.clear()
        starting = asyncio.create_task(it.supervisor.start())
        while not it.states:
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        assert all(p.child is None and p.state is ProcessState.STOPPED for p in it.supervisor.processes)
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children() - before]
    assert not [command for command in commands if b"dougong.app" in command]


def children() -> set[str]:
    """Processes of this one; a shop that other tests share may be among them."""
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


async def test_a_taken_port_names_who_wants_it(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        it = trying(tmp_path, FRONT.format(port=port))
        with pytest.raises(Conflict, match=rf"front wants 127\.0\.0\.1:{port}.*\[apps\.front\] in .*system\.toml"):
            await it.supervisor.start()
    assert it.states == []


async def test_two_that_want_the_same_port_are_told_before_anything_starts(tmp_path: Path) -> None:
    port = free_port()
    apps = FRONT.format(port=port) + FRONT.format(port=port - 1).replace("front]", "other]") + "instances = 2\n"
    with pytest.raises(Conflict, match=f"front and other-1 both want 127.0.0.1:{port}"):
        await trying(tmp_path, apps).supervisor.start()


async def test_a_data_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(Unavailable, match=r"data directory .*/data cannot be used.*--data"):
        await trying(tmp_path, GREETER).supervisor.start()


async def test_one_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    async with running(tmp_path, f"{GREETER}{SETTINGS}stubborn = true\n", drain_s=0.1) as it:
        pid = it.supervisor.processes[0].pid
        await until(lambda: ("greeter", "stays") in it.lines)  # it serves a little before its background work begins
    assert not alive(pid)
    assert it.said("did not stop within 2 s; killed")


async def test_what_a_process_leaves_behind_neither_holds_up_its_restart_nor_lives_on(tmp_path: Path) -> None:
    async with running(tmp_path, f"{GREETER}{SETTINGS}leave = true\n") as it:
        (process,) = it.supervisor.processes
        left = int(next(line for _, line in it.lines if line.startswith("left")).split()[1])
        assert alive(left)
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: serving_again(process, 1))
        assert not alive(left)


async def test_after_a_kill_of_everything_the_dead_are_forgotten_at_the_next_start(tmp_path: Path) -> None:
    async with running(tmp_path, GREETER):
        pass
    ended = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await ended.wait()
    registry = await open_registry(f"local://{tmp_path}/data/registry.db")
    marks = {"pid": str(ended.pid), "home": home_of(tmp_path / "data")}
    ghost = Instance("sample.v1.Greeter", "127.0.0.1:9", app="greeter", metadata=marks)
    elsewhere = msgspec.structs.replace(ghost, address="127.0.0.1:10", metadata={**marks, "home": "another machine"})
    for instance in (ghost, elsewhere):
        lease = await registry.grant(3600.0)
        await registry.put(instance_key(instance), msgspec.json.encode(instance), lease=lease.id)
    await registry.put("/services/strange", b"not an instance", lease=(await registry.grant(3600.0)).id)
    await registry.close()
    async with running(tmp_path, GREETER) as it:
        keys = [item.key for item in (await it.supervisor.registry.list("/services/")).items]
        assert instance_key(ghost) not in keys
        assert "/services/strange" in keys  # what is not ours stays
        assert instance_key(elsewhere) in keys  # its process id means nothing here


SUPERVISE = """
import asyncio, sys
from pathlib import Path
from dougong.app import Supervisor, load_system

async def main():
    path = Path(sys.argv[1])
    supervisor = Supervisor(load_system(path), path, path.parent / "data", on_line=lambda n, l: None)
    await supervisor.start()
    print(*(p.pid for p in supervisor.processes), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_a_killed_supervisors_processes_go_too(tmp_path: Path) -> None:
    path = tmp_path / "system.toml"
    path.write_text(f'name = "sample"\n{GREETER}instances = 2\n')
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SUPERVISE,
        str(path),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
    )
    assert supervisor.stdout is not None
    pids = list(map(int, (await supervisor.stdout.readline()).split()))
    assert len(pids) == 2
    assert all(map(alive, pids))
    supervisor.kill()
    await supervisor.wait()
    await until(lambda: not any(map(alive, pids)))
    async with running(tmp_path, GREETER):  # and the directory is free
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_a_process_whose_supervisor_is_gone_already_does_not_start(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dougong.app",
        "tests.app.sample:greeter",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            **os.environ,
            **ENVIRONMENT,
            "DOUGONG_DATA": str(tmp_path),
            "DOUGONG_SUPERVISOR": "1",
            "DOUGONG_LOG_JSON": "1",
        },
    )
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert "no_supervisor" in read_log_line(output.decode().strip()).event


async def test_settings_meant_for_one_process_do_not_reach_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_PORT", "1")
    monkeypatch.setenv("DOUGONG_HTTP", "127.0.0.1:1")
    monkeypatch.setenv("DOUGONG_REGISTRY", "memory://")
    async with running(tmp_path, GREETER) as it:
        assert it.supervisor.processes[0].address.rpartition(":")[2] != "1"


def test_machines_of_one_image_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = home_of(tmp_path)
    assert home_of(tmp_path) == here
    assert home_of(tmp_path / "other") != here
    monkeypatch.setattr(home_module, "boot_id", lambda: "another")
    assert home_of(tmp_path) != here
