"""The network that tests and experiments cut."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import engines

from dougong.evidence import NotShown
from dougong.evidence.network import Network

LISTEN = "import socket, sys; s = socket.create_server((sys.argv[1], 7)); print(flush=True); s.accept()[0].recv(1)"


@pytest.fixture
def network() -> Iterator[Network]:
    made = engines.make_network(2)
    yield made
    made.remove()


CONNECT = """
import socket, sys
for host in sys.argv[1:]:
    try: socket.create_connection((host, 9), timeout=0.2)
    except OSError as error: print(type(error).__name__)
"""


def ask(network: Network, asking: str, *asked: str) -> list[str]:
    """How attempts to connect to a port where nobody listens end: only packets that arrive are refused."""
    place = [] if asking == network.here else network.command(asking)
    return subprocess.check_output([*place, sys.executable, "-S", "-c", CONNECT, *asked], text=True).split()


def test_what_is_cut_off_hears_nothing_and_is_refused_nothing(network: Network) -> None:
    one, two = network.hosts
    assert ask(network, one, two) == ["ConnectionRefusedError"]
    network.cut(one, two)
    assert ask(network, one, two, network.here) == ["TimeoutError", "ConnectionRefusedError"]
    assert ask(network, two, one) == ["TimeoutError"]
    assert ask(network, network.here, one, two) == ["ConnectionRefusedError"] * 2
    network.heal()
    assert ask(network, one, two) == ["ConnectionRefusedError"]


def test_a_connection_outlives_the_cut(network: Network) -> None:
    """As in life: what was said meanwhile arrives late."""
    host = network.hosts[0]
    command = [*network.command(host), sys.executable, "-S", "-c", LISTEN, host]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        with socket.create_connection((host, 7), timeout=60) as connection:
            network.cut(network.here, host)
            connection.sendall(b"x")
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(0.3)
            network.heal()
            assert server.wait(60) == 0


def test_nothing_is_left_of_it() -> None:
    network = engines.make_network(1)
    name, link = network._name, network._link
    assert list(Path("/run/netns").glob(f"{name}-*"))
    assert Path(f"/sys/class/net/{link}").exists()
    network.remove()
    assert not list(Path("/run/netns").glob(f"{name}-*"))
    assert not Path(f"/sys/class/net/{link}").exists()


def test_what_a_killed_run_left_is_taken_away(network: Network) -> None:
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    left = f"dougong-net-{gone.pid}-1-0"
    subprocess.check_call(["ip", "netns", "add", left])
    engines.make_network(1).remove()
    assert not Path("/run/netns", left).exists()
    assert list(Path("/run/netns").glob(f"{network._name}-*"))  # ours, in use


@pytest.mark.parametrize(
    ("what", "value", "said"),
    [("shutil.which", None, "iproute2"), ("os.geteuid", 1000, "root")],
)
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, what: str, value: object, said: str) -> None:
    monkeypatch.setattr("dougong.evidence.network.shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(f"dougong.evidence.network.{what}", lambda *_: value)
    with pytest.raises(NotShown, match=said):
        Network(1)
