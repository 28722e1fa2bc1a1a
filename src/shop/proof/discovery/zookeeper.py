"""Three ZooKeeper servers on loopback, from Debian's package, with the timings of its documentation."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from dougong.evidence import Engine, NotShown, free_port

__all__ = ["JAR", "ZooKeeper", "ZooKeeperCluster"]

JAR = Path("/usr/share/java/zookeeper.jar")
_HEAP_MB = 1000
"""What upstream's scripts start it with."""
_READY_S = 60.0
_SETTINGS = """\
tickTime=2000
initLimit=10
syncLimit=5
dataDir={data}
clientPort={port}
clientPortAddress=127.0.0.1
admin.enableServer=false
4lw.commands.whitelist=srvr
maxClientCnxns=0
{servers}
"""


class ZooKeeper(Engine):
    """One server."""

    engine = "zookeeper"

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.peer = f"server.{number}=127.0.0.1:{free_port()}:{free_port()}"
        folder.mkdir(parents=True)
        super().__init__(folder)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def configure(self, servers: Sequence[str]) -> None:
        self.data.mkdir()
        (self.data / "myid").write_text(str(self.number))
        self._settings.write_text(_SETTINGS.format(data=self.data, port=self.port, servers="\n".join(servers)))

    def leads(self) -> bool:
        return "Mode: leader" in self._ask()

    def launch(self) -> None:
        """Start without waiting: alone it answers nothing."""
        with (self.folder / "log").open("ab") as log:
            self._process = self._spawn(self._command(), log)

    def wait(self) -> None:
        """Until it leads or follows."""
        until = time.monotonic() + _READY_S
        while not self._answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"ZooKeeper does not start:\n{(self.folder / 'log').read_text()[-4000:]}")
            time.sleep(0.05)

    @property
    def _settings(self) -> Path:
        return self.folder / "zoo.cfg"

    def _account(self) -> tuple[None, None, None]:
        return None, None, None  # as ourselves, whose folder this is

    def _install(self) -> None:
        self._java = shutil.which("java") or ""
        if not self._java:
            raise NotShown("Java is not installed (ZooKeeper needs it)")
        if not JAR.exists():
            raise NotShown("Debian's package zookeeper is not installed")

    def _command(self) -> list[str]:
        return [
            self._java, f"-Xmx{_HEAP_MB}m", "-Dzookeeper.jmx.log4j.disable=true", "-cp", str(JAR),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(self._settings),
        ]  # fmt: skip

    def _answers(self) -> bool:
        answer = self._ask()
        return "Mode: leader" in answer or "Mode: follower" in answer

    def _ask(self) -> str:
        answer = b""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=2.0) as connection,
        ):
            connection.sendall(b"srvr")
            while got := connection.recv(4096):
                answer += got
        return answer.decode()


class ZooKeeperCluster:
    """An ensemble on an empty folder, started."""

    def __init__(self, folder: Path, members: int = 3) -> None:
        self.folder = folder
        self.members = tuple(ZooKeeper(folder / f"member{number}", number) for number in range(1, members + 1))
        for member in self.members:
            member.configure([other.peer for other in self.members])
        try:
            for member in self.members:
                member.launch()
            for member in self.members:
                member.wait()
        except BaseException:
            self.kill()
            raise

    @property
    def hosts(self) -> str:
        return ",".join(member.address for member in self.members)

    def leader(self) -> ZooKeeper:
        """Who leads; waits for an election to end."""
        until = time.monotonic() + _READY_S
        while time.monotonic() < until:
            for member in self.members:
                if member.leads():
                    return member
            time.sleep(0.05)
        raise RuntimeError(f"ZooKeeper in {self.folder} elects no leader")

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def remove(self) -> None:
        """Stop it and take its folder away."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
