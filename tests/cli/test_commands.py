"""Every command: its help, its exit codes, its one JSON document, and errors of one line."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
from tests.app.conftest import ENVIRONMENT
from tests.cli.conftest import Command, as_process

from dougong.app import registry_url
from dougong.registry import Instance, open_registry
from dougong.registry import instance_key as key_of

COMMANDS = ["contract", "doctor", "keys", "machine", "prove", "run", "rush", "services", "tx", "up"]


def test_help_names_every_command(dougong: Command) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        ran = dougong(*arguments)
        assert ran.code == 0
        for command in COMMANDS:
            assert f" {command} " in ran.out


@pytest.mark.parametrize(
    "command",
    [
        *COMMANDS,
        "services ls",
        "services watch",
        "services why",
        "services drain",
        "keys show",
        "keys rotate",
        "keys retire",
        "tx list",
        "tx show",
        "tx retry",
        "tx cancel",
        "contract check",
        "contract generate",
        "machine diagram",
        "machine schema",
    ],
)
def test_each_command_explains_itself_and_its_parameters(dougong: Command, command: str) -> None:
    ran = dougong(*command.split(), "--help")
    assert ran.code == 0
    assert f"dougong {command}" in ran.out
    for line in ran.out.splitlines():
        if line.startswith("│") and "--" in line:
            assert len(line.strip("│ ").split("  ", 1)) == 2, f"a parameter without a word of explanation: {line}"


def test_version(dougong: Command) -> None:
    assert dougong("--version").out.strip() == version("dougong")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "frobnicate"),
        (["services", "--jason"], "--jason"),
        (["tx", "show", "seven"], "seven"),
        (["tx", "show"], "requires an argument"),
        (["rush", "--transport", "pigeon"], "pigeon"),
        (["rush", "--rate", "fast"], "fast"),
        (["up", "a.toml", "b.toml"], "b.toml"),
    ],
)
def test_wrong_usage_is_named_with_exit_code_2(dougong: Command, arguments: list[str], said: str) -> None:
    ran = dougong(*arguments)
    assert ran.code == 2
    assert said in ran.out + ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["services"], "no_system"),
        (["tx", "list"], "no_system"),
        (["keys", "show"], "no_system"),
        (["keys", "rotate"], "no_system"),
        (["rush"], "no_system"),
        (["prove", "nothing"], "not_declared"),
        (["run"], "no_app"),
        (["run", "shop"], "module:attribute"),
        (["run", "no.such:app"], "app_not_found"),
        (["up", "nowhere.toml"], "system_not_found"),
        (["up", "--console", "8600"], "bad_address"),
        (["up", "--profile", "nowhere"], "unknown_profile"),
        (["services", "why", "a.v1.B"], "no_system"),
        (["services", "drain", "a"], "no_system"),
    ],
)
def test_an_error_is_one_line_with_exit_code_1(
    dougong: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = dougong(*arguments)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("dougong: ")
    assert ran.err.count("\n") == 1
    assert said in ran.err
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_as_a_process_it_is_the_same(tmp_path: Path) -> None:
    ran = as_process("services", cwd=tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("dougong: no_system: no system has been up on var/shop")


def test_services_as_the_registry_has_them(dougong: Command, tmp_path: Path) -> None:
    data = tmp_path / "da ta#1"
    data.mkdir()
    instance = Instance("shop.v1.Orders", "127.0.0.1:4711", app="orders", id="orders-0-12")

    async def register() -> None:
        registry = await open_registry(registry_url(data))
        await registry.put(key_of(instance), msgspec.json.encode(instance))
        await registry.close()

    asyncio.run(register())
    ran = dougong("services", "--data", data, "--json")
    (row,) = ran.json["instances"]
    assert row.items() >= msgspec.to_builtins(instance).items()
    assert (row["health"], row["lease"], row["registered"]) == ("dead", 0, row["revision"])
    assert ran.json["revision"] >= 1
    table = dougong("services", "--data", data).out
    for word in ("shop.v1.Orders", "127.0.0.1:4711", "serving", "orders-0-12", "1 instances"):
        assert word in table


def test_doctor_looks_at_everything_and_names_what_to_do(dougong: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = {f["what"]: f for f in dougong("doctor", "--json").json}
    for what in (
        "Python",
        "cores",
        "memory",
        "file descriptors",
        "disk",
        "etcd",
        "Kafka",
        "port for status page",
        "address for others",
    ):
        assert findings[what]["state"] in ("ok", "note", "bad")
    assert all(f["remedy"] for f in findings.values() if f["state"] == "bad")
    text = dougong("doctor").out
    assert all(what in text for what in findings)
    monkeypatch.setenv("DOUGONG_ADVERTISE", "0.0.0.0")
    ran = dougong("doctor", "--json")
    assert (ran.code, {f["what"]: f["state"] for f in ran.json}["address for others"]) == (1, "bad")


def test_doctor_looks_at_the_ports_of_the_system_here(
    dougong: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        Path("system.toml").write_text(f'name = "x"\n[apps.desk]\ntarget = "m:a"\nhttp = "{address}"\n')
        findings = {f["what"]: f for f in dougong("doctor", "--json").json}
    assert findings["port for desk"]["state"] == "note"
    assert findings["port for desk"]["found"] == f"{address} is taken"
    Path("system.toml").write_text("name =")
    ran = dougong("doctor", "--json")
    assert ran.code == 1
    assert {f["what"]: f["state"] for f in ran.json}["system file"] == "bad"


def test_claims_are_listed(dougong: Command) -> None:
    ran = dougong("prove")
    assert ran.code == 0
    assert "orders" in ran.out


def test_contracts_and_locks_agree(dougong: Command) -> None:
    ran = dougong("contract", "check")
    assert (ran.code, ran.out) == (0, "contracts and locks agree\n")


@pytest.mark.processes
@pytest.mark.xdist_group("supervisor")
async def test_run_serves_what_is_here_until_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text('from dougong.app import App\n\napp = App("mine")\n')
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("dougong")), "run", "mine:app", "--data", "data", "--log-json"),
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        line = msgspec.json.decode(await process.stderr.readline())
        assert (line["event"], line["app"]) == ("serving", "mine")
        process.send_signal(2)
        rest = (await process.stderr.read()).decode()
        assert await process.wait() == 0
    assert [msgspec.json.decode(text)["event"] for text in rest.splitlines()] == ["stopping"]


def declare(folder: Path, group: str, entry: str) -> None:
    """A project on the path that declares something."""
    info = folder / "project-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: project\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")


@pytest.mark.parametrize(("command", "group"), [("prove", "dougong.claims"), ("simulate", "dougong.simulations")])
def test_one_that_cannot_be_loaded_keeps_no_other_from_being_listed(
    dougong: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, group: str
) -> None:
    declare(tmp_path, group, "broken = no_such_module:broken")
    monkeypatch.syspath_prepend(tmp_path)
    listed = dougong(command)
    assert listed.code == 0
    assert "broken" in listed.out
    assert "not here: entry point 'broken'" in listed.out
    assert "ids " in listed.out
    assert dougong(command, "broken").code == 1


NOISY = """
from contextlib import asynccontextmanager

from dougong.evidence import Claim, Threshold
from dougong.telemetry import get_logger


class Experiment:
    async def ours(self, pair):
        get_logger("noisy").warning("what was broken on purpose")
        return {"figure": 1.0}

    async def baseline(self, pair):
        return {"figure": 1.0}

    async def verify(self):
        return []


@asynccontextmanager
async def open_experiment(setting):
    yield Experiment()


claim = Claim(
    name="noisy", title="Noisy", situation="", task="", action="", result="it complained",
    experiment=open_experiment, thresholds=(Threshold("ours.figure", at_least=1),),
)
"""


def test_what_is_logged_while_a_claim_is_measured_stands_in_a_file(
    dougong: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noisy_claim.py").write_text(NOISY)
    declare(tmp_path, "dougong.claims", "noisy = noisy_claim:claim")
    monkeypatch.syspath_prepend(tmp_path)
    ran = dougong("prove", "noisy", "--quick", "--out", tmp_path / "out")
    assert "it complained" in ran.out
    assert "on purpose" not in ran.out + ran.err
    assert "what was broken on purpose" in (tmp_path / "out" / "prove.log").read_text()


@pytest.mark.parametrize(
    ("option", "file", "said"),
    [
        ("--out", "taken/out", "bad_out"),
        ("--readme", "nowhere.md", "bad_readme"),
        ("--readme", "taken", "bad_readme"),
    ],
)
def test_what_cannot_be_kept_is_said_before_anything_is_measured(
    dougong: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, file: str, said: str
) -> None:
    (tmp_path / "noisy_claim.py").write_text(NOISY)
    (tmp_path / "taken").write_text("a file, without marks")
    declare(tmp_path, "dougong.claims", "noisy = noisy_claim:claim")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    ran = dougong("prove", "noisy", option, file)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"dougong: {said}: ")
    assert file.partition("/")[0] in ran.err
