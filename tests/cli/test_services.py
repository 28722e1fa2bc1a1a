"""`dougong services`, as somebody types it: with real servers behind the registry, and with trouble in it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.app.conftest import ENVIRONMENT, GREETER, PATIENCE_S, running, until
from tests.app.sample import Greeter
from tests.cli.conftest import Command, Here

from dougong.app import registry_url
from dougong.cli import application
from dougong.evidence.engines import free_port
from dougong.registry import Instance, InstanceState, Registry, instance_key, open_registry
from dougong.rpc import Server

SERVICE = "sample.v1.Greeter"


@pytest.fixture
def ran(here: Here) -> Here:
    """Run `dougong services …`."""
    return partial(here, "services")


async def as_process(*arguments: object) -> tuple[int, str, str]:
    """The same as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dougong", "services", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Place:
    """A data directory with a registry in it, and one server."""

    def __init__(self, data: Path, registry: Registry, address: str, ran: Here) -> None:
        self._ran = ran
        self.data = data
        self.registry = registry
        self.address = address

    async def put(self, *instances: Instance, lease: int = 0) -> None:
        for instance in instances:
            await self.registry.put(instance_key(instance), msgspec.json.encode(instance), lease=lease)

    async def json(self, *arguments: object) -> Any:
        code, out, err = await self._ran(*arguments, "--data", self.data, "--json")
        assert err == ""
        return code, json.loads(out)


@pytest.fixture
async def place(tmp_path: Path, ran: Here) -> AsyncIterator[Place]:
    registry = await open_registry(registry_url(tmp_path))
    server = Server([Greeter.__new__(Greeter)])  # only its health is asked
    address = await server.start()
    yield Place(tmp_path, registry, address, ran)
    await server.stop()
    await registry.close()


def at(address: str, **fields: object) -> Instance:
    return msgspec.structs.replace(Instance(SERVICE, address, app="greeter"), **fields)


async def test_ls_shows_who_answers_with_lease_and_revisions(place: Place, ran: Here) -> None:
    lease = (await place.registry.grant(60.0)).id
    await place.put(at(place.address, id="greeter-0-1", version="3", zone="a"), lease=lease)
    dead = at(f"127.0.0.1:{free_port()}", id="greeter-1-2", state=InstanceState.STARTING)
    await place.put(dead, Instance("other.v1.X", place.address))
    await place.registry.put(f"/services/{SERVICE}/nonsense", b"{")
    code, document = await place.json("ls", SERVICE)
    assert code == 0
    rows = {row["id"]: row for row in document["instances"]}
    assert set(rows) == {"greeter-0-1", "greeter-1-2"}
    one = rows["greeter-0-1"]
    assert (one["health"], one["lease"], one["version"], one["zone"]) == ("alive", lease, "3", "a")
    assert one["registered"] == one["revision"]
    assert (rows["greeter-1-2"]["health"], rows["greeter-1-2"]["state"]) == ("dead", "starting")
    assert [entry["key"] for entry in document["invalid"]] == [f"/services/{SERVICE}/nonsense"]
    _, text, _ = await ran("--data", place.data)
    for word in ("other.v1.X", "greeter-1-2", "alive", "dead", "ignored: ", "3 instances at revision"):
        assert word in text
    _, unasked = await place.json("ls", "--no-probe")
    assert {row["health"] for row in unasked["instances"]} == {"unasked"}


async def test_why_tells_who_is_called_and_who_not(place: Place, ran: Here) -> None:
    dead = f"127.0.0.1:{free_port()}"
    await place.put(
        at(place.address, id="a"),
        at(dead, id="b"),
        at("127.0.0.1:1", id="c", state=InstanceState.TERMINATING),
    )
    code, found = await place.json("why", SERVICE, dead)
    assert code == 0
    assert [(s["id"], s["reason"]) for s in found["called"]] == [("a", "serves")]
    assert {s["id"]: s["reason"] for s in found["excluded"]} == {"b": "answers no probe", "c": "is leaving"}
    assert (found["chosen"]["id"], found["source"], found["stale"]) == ("b", "registry", False)
    _, text, _ = await ran("why", SERVICE, dead, "--data", place.data)
    assert f"{dead} is not called: answers no probe" in text
    code, _, err = await ran("why", SERVICE, "127.0.0.1:2", "--data", place.data)
    assert (code, "unknown_instance" in err) == (1, True)


async def test_what_others_wrote_does_not_reach_the_terminal_as_it_is(place: Place, ran: Here) -> None:
    await place.put(at(place.address, id="\x1b]0;mine\x07", version="\x1b[2J"))
    await place.registry.put(f"/services/{SERVICE}/\x1b[31m", b"{")
    for command in (["ls"], ["why", SERVICE, place.address], ["watch", SERVICE, "--count", "1"]):
        running = asyncio.ensure_future(ran(*command, "--data", place.data))
        if command[0] == "watch":
            await asyncio.sleep(1.0)
            await place.put(at(place.address, id="\x1b]0;mine\x07", weight=1))
        code, text, _ = await running
        assert code == 0
        assert "\\x1b]0;mine" in text
        assert "\x1b" not in text


async def test_what_is_logged_is_no_part_of_the_answer(place: Place) -> None:
    await place.put(at(place.address))
    await place.registry.put(f"/services/{SERVICE}/nonsense", b"{")
    code, out, err = await as_process("why", SERVICE, "--json", "--data", place.data)
    assert (code, "nonsense" in err) == (0, True), err
    assert json.loads(out)["called"]


async def test_why_of_nobody_is_exit_code_1(place: Place, ran: Here) -> None:
    await place.put(at(place.address, state=InstanceState.STARTING))
    code, found = await place.json("why", SERVICE)
    assert (code, found["called"]) == (1, [])
    assert "nobody would be called" in (await ran("why", SERVICE, "--data", place.data))[1]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("sample.v1.Greter", "did you mean sample.v1.Greeter?"),
        ("greeter", "did you mean sample.v1.Greeter?"),
        ("qqqq", "there are sample.v1.Greeter"),
    ],
)
def test_an_unknown_service_names_the_near_ones(dougong: Command, tmp_path: Path, asked: str, said: str) -> None:
    async def register() -> None:
        registry = await open_registry(registry_url(tmp_path))
        await registry.put(instance_key(at("127.0.0.1:1")), msgspec.json.encode(at("127.0.0.1:1")))
        await registry.close()

    asyncio.run(register())
    for command in (["ls", asked], ["why", asked]):
        done = dougong("services", *command, "--data", tmp_path)
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert "unknown_service" in done.err
        assert said in done.err


async def test_watch_tells_changes_line_by_line(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    await place.put(at(place.address, id="a"))
    capsys.readouterr()
    said: list[str] = []
    watching = asyncio.create_task(
        application().run_async(
            ["services", "watch", SERVICE, "--json", "--count", "3", "--data", str(place.data)],
            result_action="return_value",
        )
    )

    def heard() -> list[str]:
        said.extend(capsys.readouterr().out.splitlines())
        return said

    await until(heard)
    await place.put(at(place.address, id="a", state=InstanceState.TERMINATING))
    await place.registry.delete(instance_key(at(place.address)))
    await place.registry.put(f"/services/{SERVICE}/x", b"nonsense")
    async with asyncio.timeout(PATIENCE_S):
        await watching
    lines = [json.loads(line) for line in heard()]
    assert [line["change"] for line in lines] == ["serving", "terminating", "gone", "invalid"]
    assert lines[0]["instance"]["id"] == "a"
    assert [line["revision"] for line in lines] == sorted(line["revision"] for line in lines)


async def test_drain_of_one_that_does_not_listen_is_exit_code_1(place: Place, ran: Here) -> None:
    await place.put(at(place.address, id="a"))
    code, document = await place.json("drain", "a", "--wait", "0.2")
    assert (code, document) == (1, {"id": "a", "services": [SERVICE], "asked": True, "gone": False})
    code, _, err = await ran("drain", "b", "--data", place.data)
    assert (code, "there are a (" in err) == (1, True)
    code, _, err = await ran("drain", "a", "--wait", "-1", "--data", place.data)
    assert (code, "bad_seconds" in err) == (1, True)
    assert (await ran("drain", "a", "--data", place.data))[1] == "a was asked to leave\n"


async def test_the_registry_may_be_named_by_url_and_by_the_environment(
    place: Place, ran: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.put(at(place.address, id="a"))
    url = registry_url(place.data)
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    monkeypatch.chdir(nowhere)
    assert "1 instances" in (await ran("--registry", url))[1]
    code, _, err = await ran("--registry", "telnet://x")
    assert (code, "registry_url" in err) == (1, True)
    assert "no_system" in (await ran("ls"))[2]
    monkeypatch.setenv("DOUGONG_REGISTRY", url)
    assert "1 instances" in (await ran("ls"))[1]


async def test_the_registry_may_be_named_by_a_profile(
    place: Place, ran: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.put(at(place.address, id="a"))
    here = tmp_path / "here"
    here.mkdir()
    profile = f'[profiles.cluster]\nregistry = "{registry_url(place.data)}"\n'
    (here / "system.toml").write_text(f'name = "sample"\n{GREETER}{profile}')
    monkeypatch.chdir(here)
    assert "1 instances" in (await ran("--profile", "cluster"))[1]
    code, _, err = await ran("--profile", "clustre")
    assert (code, "did you mean 'cluster'?" in err) == (1, True)


@pytest.mark.processes
@pytest.mark.xdist_group("supervisor")
async def test_a_drained_instance_leaves_and_its_supervisor_starts_another(tmp_path: Path) -> None:
    async with running(tmp_path, GREETER) as it:
        process = it.supervisor.processes[0]
        before = process.pid
        data = tmp_path / "data"
        code, out, _ = await as_process(
            *("drain", process.address, "--wait", "30", "--reason", "new version", "--data", data)
        )
        assert code == 0
        assert re.fullmatch(rf"greeter-0-{before}-[0-9a-f]{{8}} has left\n", out)
        await until(lambda: process.pid not in (0, before))
        assert it.said("asked to drain")
        assert it.said("new version")
        assert it.said("ended with exit code 0")  # it was not killed: it finished and went


async def test_watch_for_people(place: Place, ran: Here) -> None:
    await place.put(at(place.address, id="greeter-0-1"))

    async def later() -> None:
        await asyncio.sleep(0.2)
        await place.registry.delete(instance_key(at(place.address)))

    changing = asyncio.create_task(later())
    code, out, _ = await ran("watch", "--count", "1", "--data", place.data)
    await changing
    assert code == 0
    assert [line.split()[2:] for line in out.splitlines()] == [
        ["serving", SERVICE, place.address, "greeter-0-1"],
        ["gone", SERVICE, place.address, "greeter-0-1"],
    ]


@pytest.mark.parametrize("command", [["ls"], ["why", SERVICE], ["watch"], ["drain", "a"]])
async def test_a_registry_file_that_is_corrupt_is_named(ran: Here, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "registry.db").write_bytes(b"this was a database once" * 500)
    code, out, err = await ran(*command, "--data", tmp_path)
    assert (code, out) == (1, "")
    assert "corrupt" in err
    assert str(tmp_path) in err
