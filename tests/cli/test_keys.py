"""`dougong keys`: shown, rotated and retired, on files alone; private keys never leave them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.conftest import Command

from dougong.app import ensure_secrets, read_secrets
from dougong.app._keys import decode_keys


@pytest.fixture
def data(tmp_path: Path) -> Path:
    ensure_secrets(tmp_path / "keys")
    return tmp_path


def test_shown_rotated_shown(dougong: Command, data: Path) -> None:
    (first,) = dougong("keys", "show", "--data", data, "--json").json["keys"]
    assert (first["state"], first["retires_us"]) == ("signing", 0)
    rotated = dougong("keys", "rotate", "--wait", 0, "--keep", 60, "--data", data, "--json")
    assert rotated.code == 0
    assert {key["kid"]: key["state"] for key in rotated.json["keys"]} == {
        first["kid"]: "retiring",
        rotated.json["signing"]: "signing",
    }
    shown = dougong("keys", "show", "--data", data)
    assert shown.code == 0
    assert first["kid"] in shown.out, "whole, so that it can be copied"
    assert "retiring" in shown.out


def test_retired_at_once(dougong: Command, data: Path) -> None:
    (first,) = dougong("keys", "show", "--data", data, "--json").json["keys"]
    kid = first["kid"]
    refused = dougong("keys", "retire", kid, "--data", data)
    assert (refused.code, refused.err.startswith("dougong: key_signs: ")) == (1, True)
    retired = dougong("keys", "retire", kid, "--now", "--wait", 0, "--data", data)
    assert retired.code == 0
    assert f"{kid} is not believed any more" in retired.out
    (left,) = dougong("keys", "show", "--data", data, "--json").json["keys"]
    assert left["kid"] != kid


def test_nothing_private_is_shown(dougong: Command, data: Path) -> None:
    secrets = [read_secrets(data / "keys", "shop").signing_key]
    said = ""
    for arguments in (["show"], ["rotate", "--wait", "0"], ["show", "--json"], ["rotate", "--wait", "0", "--json"]):
        ran = dougong("keys", *arguments, "--data", data)
        said += ran.out + ran.err
        secrets.append(read_secrets(data / "keys", "shop").signing_key)
    for secret in secrets:
        assert secret.splitlines()[1] not in said


def test_one_that_cannot_sign_is_told(dougong: Command, data: Path) -> None:
    (data / "keys" / "signing.pem").write_text("gone")
    for json in ([], ["--json"]):
        shown = dougong("keys", "show", "--data", data, *json)
        assert shown.code == 1
        assert "keys rotate" in shown.out
    assert dougong("keys", "rotate", "--wait", 0, "--data", data).code == 0
    assert dougong("keys", "show", "--data", data).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rotate", "--keep", "-1"], "bad_seconds"),
        (["rotate", "--wait", "nan"], "bad_seconds"),
        (["retire", "nobody"], "unknown_key"),
    ],
)
def test_what_cannot_be_done_is_one_line(dougong: Command, data: Path, arguments: list[str], said: str) -> None:
    ran = dougong("keys", *arguments, "--data", data)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert said in ran.err


def test_killed_while_it_waits_it_is_simply_started_again(dougong: Command, data: Path) -> None:
    path = data / "keys" / "verifying.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "dougong", "keys", "rotate", "--wait", "600", "--data", str(data)]
    )
    try:
        deadline = time.monotonic() + 60
        while len(decode_keys(path.read_bytes())) < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        busy = dougong("keys", "rotate", "--data", data)
        assert busy.code == 1
        assert f"process {process.pid}" in busy.err
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    read_secrets(data / "keys", "shop")  # a process that starts now does
    found = dougong("keys", "rotate", "--wait", 0, "--data", data, "--json").json
    assert sorted(key["state"] for key in found["keys"]) == ["retiring", "retiring", "signing"]
