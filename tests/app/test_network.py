"""How processes talk: in the clear on one machine only, unless somebody says so by name."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.app.conftest import PATIENCE_S
from tests.app.sample import Greeter, Hello
from tests.app.test_run import Twice, instances, serving
from tests.rpc.certificates import Authority

from dougong.app import App, RunSettings, load_run_settings, network_probe, network_transport, run_apps
from dougong.errors import Invalid, Unavailable
from dougong.registry import Discovery
from dougong.rpc import client, close_client


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "shop.example", "[::]"])
async def test_another_address_than_loopback_needs_tls(host: str, tmp_path: Path) -> None:
    settings = RunSettings(data=str(tmp_path), host=host)
    with pytest.raises(Invalid, match="DOUGONG_TLS_CA") as caught:
        await run_apps([App("greeter", services=[Greeter])], settings, stop=asyncio.Event())
    assert caught.value.code == "insecure_network"


async def test_or_that_somebody_says_so(tmp_path: Path) -> None:
    settings = RunSettings(data=str(tmp_path), host="0.0.0.0", advertise="shop.example", insecure_network=True)
    async with serving(settings, App("greeter", services=[Greeter])) as it:
        (greeter,) = await instances(it.registry, "sample.v1.Greeter")
        host, _, port = greeter.address.rpartition(":")
        assert host == "shop.example", "nobody is sent to 0.0.0.0"
        assert int(port), "the port is the one it listens on"


def test_one_file_of_three_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_TLS_CA", "ca.pem")
    with pytest.raises(Invalid, match="DOUGONG_TLS_CERTIFICATE, DOUGONG_TLS_KEY") as caught:
        network_transport(load_run_settings())
    assert caught.value.code == "tls_incomplete"


async def test_processes_with_certificates_talk_and_others_do_not(tmp_path: Path) -> None:
    files = Authority(tmp_path).sign("process")
    settings = RunSettings(data=str(tmp_path), tls_ca=files.ca, tls_certificate=files.certificate, tls_key=files.key)
    async with serving(settings, App("greeter", services=[Greeter]), App("twice", services=[Twice])) as it:
        (twice,) = await instances(it.registry, "sample.v1.Twice")
        ours = client(Twice, twice.address, transport=network_transport(settings))
        plain = client(Twice, twice.address, patience_s=0.1)
        async with asyncio.timeout(PATIENCE_S):
            answer = await ours.hello(Hello(name="bo"))
            assert answer.text == "hello bo, hello bo", "the app called the other one over TLS"
            assert answer.pid == os.getpid()
            with pytest.raises(Unavailable) as caught:
                await plain.hello(Hello(name="bo"))
        assert caught.value.code == "tls_refused"
        await close_client(ours)
        await close_client(plain)


async def test_who_is_doubted_is_asked_over_tls(tmp_path: Path) -> None:
    files = Authority(tmp_path).sign("process")
    settings = RunSettings(data=str(tmp_path), tls_ca=files.ca, tls_certificate=files.certificate, tls_key=files.key)
    async with serving(settings, App("greeter", services=[Greeter])) as it:
        (greeter,) = await instances(it.registry, "sample.v1.Greeter")
        discovery = Discovery(it.registry, probe=network_probe(settings, timeout_s=PATIENCE_S), probe_s=PATIENCE_S)
        resolver = await discovery.resolve("sample.v1.Greeter")
        await discovery.ask_all(resolver)
        (standing,) = resolver.why().called
        assert (standing.address, standing.health) == (greeter.address, "alive")
        await discovery.close()


async def test_nothing_is_sent_to_another_machine_in_the_clear_unless_somebody_says_so(tmp_path: Path) -> None:
    settings = RunSettings(data=str(tmp_path), host="0.0.0.0", advertise="shop.example", insecure_network=True)
    async with serving(settings, App("greeter", services=[Greeter])) as it:
        (greeter,) = await instances(it.registry, "sample.v1.Greeter")
        address = greeter.address.replace("shop.example", "0.0.0.0")  # which is not loopback by name
        token = (tmp_path / "keys" / "system.token").read_text().strip()
        told = client(Greeter, address, token=token, transport=network_transport(settings))
        assert (await told.hello(Hello(name="bo"))).text == "hello bo"
        careful = client(Greeter, address, token=token, transport=network_transport(RunSettings()))
        with pytest.raises(Unavailable, match="DOUGONG_INSECURE_NETWORK") as caught:
            await careful.hello(Hello(name="bo"))
        assert caught.value.code == "insecure_network"
        await close_client(told)
        await close_client(careful)
