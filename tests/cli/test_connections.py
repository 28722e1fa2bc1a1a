"""`dougong connections`, as somebody types it, of a running app with a gateway, and with clients that stay."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from tests.app.conftest import PATIENCE_S, running, until
from tests.cli.conftest import Command, Here

from dougong.errors import Forbidden
from dougong.evidence.engines import free_port
from dougong.gateway import ClientSettings, LiveClient, Pauses, Told


@pytest.fixture
def ran(here: Here) -> Here:
    """Run `dougong connections …`."""
    return partial(here, "connections")


@pytest.mark.processes
@pytest.mark.xdist_group("supervisor")
async def test_who_is_connected_is_shown_kicked_and_sent_elsewhere(tmp_path: Path, ran: Here) -> None:
    port = free_port()
    table = f'[apps.live]\ntarget = "tests.app.sample:live"\nlive = "127.0.0.1:{port}"\n'
    quick = ClientSettings(pauses=Pauses(first_s=0.05, max_s=0.2))
    async with asyncio.timeout(2 * PATIENCE_S), running(tmp_path, table) as it, aiohttp.ClientSession() as http:
        process = it.supervisor.find("live")
        base = f"http://{process.http}"
        async with http.get(f"{base}/page.html") as answer:
            assert (answer.status, await answer.text()) == (200, "<!doctype html><title>Live</title>")
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        async with http.get(f"{base}/page.html", headers={"If-None-Match": answer.headers["etag"]}) as again:
            assert again.status == 304
        tokens = {}
        for name in ("bo", "al"):
            async with http.get(f"{base}/v1/ticket/{name}") as answer:
                tokens[name] = str((await answer.json())["token"])

        async def token_of_bo(renew: bool) -> str:
            return tokens["bo"]

        async def token_of_al(renew: bool) -> str:
            return tokens["al"]

        here = ("--data", tmp_path / "data")
        url = f"ws://127.0.0.1:{port}/live"
        async with (
            LiveClient(url, token=token_of_bo, settings=quick) as bo,
            LiveClient(url, token=token_of_al, settings=quick) as al,
        ):
            news = await bo.subscribe("user:bo")
            await al.wait_connected()
            code, out, _ = await ran("ls", *here, "--json")
            (page,) = json.loads(out)
            assert (code, page["total"], page["gateway"]) == (0, 2, f"127.0.0.1:{port}")
            numbers = {c["user"]: c["id"] for c in page["connections"]}
            assert sorted(numbers) == ["al", "bo"]
            _, out, _ = await ran("ls", *here, "--user", "bo")
            assert "bo" in out
            assert " al " not in out
            assert f"2 connections at {page['instance']}" in out
            _, out, _ = await ran("show", numbers["al"], *here, "--json")
            shown = json.loads(out)
            assert (shown["user"], shown["ip"], shown["instance"]) == ("al", "127.0.0.1", page["instance"])

            assert (await ran("kick", "--user", "al", "--reason", "enough", *here))[:2] == (0, "1 connections ended\n")
            with pytest.raises(Forbidden, match="enough"):
                await al.subscribe("user:al")
            assert (await ran("kick", "--user", "al", *here))[0] == 1  # none is left
            code, _, err = await ran("kick", numbers["al"], *here)
            assert (code, "unknown_connection" in err) == (1, True)

            before = process.pid
            code, out, _ = await ran("drain", page["instance"], *here, "--json")
            told = json.loads(out.splitlines()[-1])  # above it, what the client here logs
            assert (code, told) == (0, {"id": page["instance"], "connections": 1, "left": 0})
            await until(lambda: bo.connections >= 2)  # the supervisor started another, and the client found it
            async for told in news:
                if isinstance(told, Told) and int(told.data) != before:
                    break


def test_nobody_there_to_ask(dougong: Command, tmp_path: Path) -> None:
    ran = dougong("connections", "ls", "--data", tmp_path)
    assert ran.code == 1
    assert "no system has been up" in ran.err
    assert dougong("connections", "kick", "--data", tmp_path).code == 1


def test_the_doctor_says_what_is_the_least(dougong: Command) -> None:
    told = dougong("connections", "doctor", "--json").json
    numbers = [limit["connections"] for limit in told["limits"] if limit["connections"]]
    assert told["connections"] == min(numbers)
    few = dougong("connections", "doctor", "--processes", 1, "--json").json
    assert few["connections"] <= told["connections"]
    assert "limited by" in dougong("connections", "doctor").out
