"""A network of our own that can be cut, for experiments and tests: hosts behind a switch, each a network namespace.

A partition is not a crash: nobody resets a connection, packets just do not arrive. Loopback cannot show that, since
what is local always arrives. Here each side of a cut sends to a hardware address that nobody has, so that a packet is
lost as it is behind a broken switch: without a word to whoever sent it. Nothing of this leaves the machine, and nothing
but `ip` (iproute2) and root is needed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import subprocess
from pathlib import Path

from dougong.evidence.claim import NotShown

__all__ = ["Network"]

_SHARED = "dougong-net"
_NOBODY = "02:00:00:00:00:ff"
_numbers = itertools.count(1)


class Network:
    """`here` is the address of this process and of all others outside; `hosts` are those of the namespaces.

    Raises `NotShown` where network namespaces are not to be had.
    """

    def __init__(self, hosts: int) -> None:
        if shutil.which("ip") is None or shutil.which("nsenter") is None:
            raise NotShown("ip (iproute2) and nsenter (util-linux) are not installed")
        if os.geteuid() != 0:
            raise NotShown("network namespaces need root")
        _sweep()
        self._name = f"{_SHARED}-{os.getpid()}-{next(_numbers)}"
        self._link = f"dg{secrets.token_hex(4)}"
        subnet = _free_subnet()
        self.here, *more = (f"{subnet}.{number}" for number in range(1, hosts + 2))
        self.hosts = tuple(more)
        self._everybody = (self.here, *self.hosts)
        try:
            self._build()
        except BaseException:
            self.remove()
            raise

    def command(self, host: str) -> list[str]:
        """What to put before a command so that it runs there. No proxy can be reached from there, so none is asked."""
        inside = f"--net=/run/netns/{self._namespace(self._everybody.index(host))}"
        return ["nsenter", inside, "env", "no_proxy=*", "NO_PROXY=*"]

    def cut(self, one: str, *others: str) -> None:
        """From now on nothing arrives, in either direction, between `one` and each of `others`."""
        for other in others:
            self._aim(one, other, lost=True)
            self._aim(other, one, lost=True)

    def heal(self) -> None:
        """Everything arrives again."""
        for one, other in itertools.permutations(self._everybody, 2):
            self._aim(one, other, lost=False)

    def remove(self) -> None:
        """Take it away; what runs on its hosts must have ended."""
        for command in [
            f"link del {self._link}",
            *(f"netns del {self._namespace(index)}" for index in range(len(self._everybody))),
        ]:
            with contextlib.suppress(RuntimeError):
                _ip(command)

    def _build(self) -> None:
        """Namespace 0 is the switch; our own link leads into it from outside.

        A switch outside would be filtered by the machine's firewall where that filters bridges (Docker sees to that).
        """
        names = [self._namespace(index) for index in range(len(self._everybody))]
        try:
            _ip(*(f"netns add {name}" for name in names))
        except RuntimeError as error:
            raise NotShown(f"this system allows no network namespaces: {error}") from None
        switch = names[0]
        try:
            _ip("link add switch type bridge", "link set switch up", within=switch)
            _ip(f"link add {self._link} address {_hardware(0)} type veth peer name port0 netns {switch}")
        except RuntimeError as error:
            raise NotShown(f"this system has no bridges or virtual links: {error}") from None
        for index, name in enumerate(names[1:], 1):
            _ip(f"link add port{index} type veth peer name wire address {_hardware(index)} netns {name}", within=switch)
            _ip(f"address add {self._everybody[index]}/24 dev wire", "link set lo up", "link set wire up", within=name)
        ports = [f"port{index}" for index in range(len(names))]
        _ip(*(f"link set {port} master switch up" for port in ports), within=switch)
        _ip(f"address add {self.here}/24 dev {self._link}", f"link set {self._link} up")
        self.heal()

    def _aim(self, sender: str, receiver: str, *, lost: bool) -> None:
        index = self._everybody.index(sender)
        address = _NOBODY if lost else _hardware(self._everybody.index(receiver))
        device, within = ("wire", self._namespace(index)) if index else (self._link, "")
        _ip(f"neighbour replace {receiver} lladdr {address} nud permanent dev {device}", within=within)

    def _namespace(self, index: int) -> str:
        return f"{self._name}-{index}"


def _ip(*commands: str, within: str = "") -> str:
    place = ["-n", within] if within else []
    done = subprocess.run(  # noqa: S603 (the system's own `ip`)
        [shutil.which("ip") or "ip", *place, "-batch", "-"],
        input="\n".join(commands) + "\n", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"ip {'; '.join(commands)}: {done.stderr.strip()}")
    return done.stdout


def _hardware(index: int) -> str:
    return f"02:00:00:00:00:{index + 1:02x}"


def _free_subnet() -> str:
    """Of those that are set apart for tests of networks (RFC 2544), one that this machine does not use."""
    routes = _ip("route show table all")
    while True:
        subnet = f"198.{18 + secrets.randbelow(2)}.{secrets.randbelow(256)}"
        if f"{subnet}." not in routes:
            return subnet


def _sweep() -> None:
    """Take away what killed processes left: no namespace ends by itself."""
    for path in Path("/run/netns").glob(f"{_SHARED}-*"):
        owner = path.name.removeprefix(f"{_SHARED}-").partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(RuntimeError):
                _ip(f"netns del {path.name}")
