"""At which address others call a process: never at one that means each caller's own machine."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from pathlib import Path

import psutil
import pytest
from tests.app.sample import Greeter, Hello
from tests.app.test_run import instances, serving

from dougong.app import App, RunSettings, run_apps
from dougong.app import _advertise as inside
from dougong.errors import Invalid
from dougong.rpc import client, close_client

TOWN = {4: "10.1.2.3", 6: "fd00::2"}


def grpc(host: str, advertise: str = "", port: int = 0, town: dict[int, str] = TOWN) -> str:
    settings = RunSettings(host=host, advertise=advertise, port=port)
    return inside.advertised_grpc(settings, f"{inside.bracketed(host)}:{port or 7001}", lambda v: town.get(v, ""))


@pytest.mark.parametrize(
    ("host", "advertise", "port", "called_at"),
    [
        ("127.0.0.1", "", 0, "127.0.0.1:7001"),
        ("::1", "", 0, "[::1]:7001"),
        ("0.0.0.0", "", 0, "10.1.2.3:7001"),
        ("::", "", 0, "[fd00::2]:7001"),
        ("[::]", "", 0, "[fd00::2]:7001"),
        ("0.0.0.0", "shop.example", 0, "shop.example:7001"),
        ("0.0.0.0", "fd00::9", 0, "[fd00::9]:7001"),
        ("0.0.0.0", "[fd00::9]", 0, "[fd00::9]:7001"),
        ("0.0.0.0", "[fd00::9]:80", 7001, "[fd00::9]:80"),
        ("127.0.0.1", "10.9.9.9:443", 7001, "10.9.9.9:443"),
    ],
)
def test_where_it_is_called(host: str, advertise: str, port: int, called_at: str) -> None:
    assert grpc(host, advertise, port) == called_at


def test_all_addresses_of_ipv6_are_those_of_ipv4_too() -> None:
    assert grpc("::", town={4: "10.1.2.3"}) == "10.1.2.3:7001"
    with pytest.raises(Invalid, match="no_address"):
        grpc("0.0.0.0", town={6: "fd00::2"})


@pytest.mark.parametrize(
    ("advertise", "port", "says"),
    [
        ("0.0.0.0", 0, "every address"),
        ("[::]:7001", 7001, "every address"),
        ("10.1.2.3:7001", 0, "DOUGONG_PORT"),
        ("10.1.2.3:0", 7001, "its port is none"),
        ("10.1.2.3:seven", 7001, "its port is none"),
        ("10.1.2.3:70000", 7001, "its port is none"),
        ("http://10.1.2.3", 0, "its port is none"),
        ("a/b", 0, "neither a name nor an address"),
    ],
)
def test_what_nobody_could_call_is_refused(advertise: str, port: int, says: str) -> None:
    with pytest.raises(Invalid, match="bad_advertise") as caught:
        grpc("0.0.0.0", advertise, port)
    assert says in caught.value.message


async def test_a_process_that_nobody_could_call_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_way_out(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", no_way_out)
    monkeypatch.setattr(psutil, "net_if_addrs", dict)
    settings = RunSettings(data=str(tmp_path), host="0.0.0.0", insecure_network=True)
    with pytest.raises(Invalid, match="DOUGONG_ADVERTISE") as caught:
        await run_apps([App("greeter", services=[Greeter])], settings, stop=asyncio.Event())
    assert caught.value.code == "no_address"


@pytest.mark.parametrize("version", [4, 6])
def test_a_machine_has_an_address_of_its_own_or_none(version: int) -> None:
    if found := inside.machine_address(version):
        address = ipaddress.ip_address(found)
        assert address.version == version
        assert not any((address.is_unspecified, address.is_loopback, address.is_link_local))
        with socket.socket({4: socket.AF_INET, 6: socket.AF_INET6}[version]) as ours:
            ours.bind((found, 0))  # which only an address of this machine lets us do


async def test_a_process_on_every_address_of_ipv6_is_called(tmp_path: Path) -> None:
    settings = RunSettings(data=str(tmp_path), host="::", advertise="127.0.0.1", http="[::]:0", insecure_network=True)
    async with serving(settings, App("greeter", services=[Greeter])) as it:
        (greeter,) = await instances(it.registry, "sample.v1.Greeter")
        assert greeter.address.startswith("127.0.0.1:")
        assert greeter.metadata["http"].startswith("127.0.0.1:")
        caller = client(Greeter, greeter.address, token=(tmp_path / "keys" / "system.token").read_text().strip())
        assert (await caller.hello(Hello(name="bo"))).text == "hello bo"
        await close_client(caller)
