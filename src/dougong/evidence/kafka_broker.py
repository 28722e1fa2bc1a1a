"""A real Kafka broker, for experiments and tests: one process that is its own controller (KRaft), on loopback.

Debian has no Kafka. Its jars come from the repository that Maven is set up for on this machine; `kafka_broker.txt`
beside this file says which, and what they must hash to. They are fetched once (about 45 MB) and kept for this user.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import uuid
from pathlib import Path

from dougong.evidence.claim import NotShown
from dougong.evidence.engines import Engine, _find, free_port

__all__ = ["KafkaBroker", "fetch_jars"]

_LIST = Path(__file__).with_name("kafka_broker.txt")
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_FETCH_S = 600.0

_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
group.min.session.timeout.ms=500
num.network.threads=2
num.io.threads=2
background.threads=2
log.segment.bytes=16777216
"""


class KafkaBroker(Engine):
    """One broker on an empty folder, started. It keeps what it acknowledged when it is killed, not when power fails."""

    engine = "kafka"

    def __init__(self, folder: Path, *, buffer_mb: int = 256) -> None:
        self._controller_port = free_port()
        super().__init__(folder, buffer_mb=buffer_mb)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _account(self) -> tuple[None, None, None]:
        return None, None, None  # as ourselves, whose folder this is

    def _install(self) -> None:
        self._java = _find("java")
        self._jars = fetch_jars()
        settings = self.folder / "server.properties"
        settings.write_text(_SETTINGS.format(port=self.port, controller=self._controller_port, data=self.data))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        self._run([
            *self._virtual_machine(64), "kafka.tools.StorageTool", "format", "--standalone", "-t", cluster,
            "-c", str(settings),
        ])  # fmt: skip
        self.start()

    def _command(self) -> list[str]:
        return [*self._virtual_machine(self._buffer_mb), "kafka.Kafka", str(self.folder / "server.properties")]

    def _virtual_machine(self, heap_mb: int) -> list[str]:
        # Compiling less and collecting on one thread start sooner and leave the cores to who is measured.
        return [
            self._java, f"-Xmx{heap_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{self._jars}/*",
        ]  # fmt: skip

    def _answers(self) -> bool:
        """It takes requests, and its own controller has let it (until then it is fenced and leads no partition)."""
        with (
            contextlib.suppress(OSError, struct.error),
            socket.create_connection(("127.0.0.1", self.port), timeout=2.0) as connection,
        ):
            # Metadata of no topic (request 3, version 1): how many brokers there are.
            body = struct.pack(">hhih0si", 3, 1, 1, 0, b"", 0)
            connection.sendall(struct.pack(">i", len(body)) + body)
            with connection.makefile("rb") as answer:
                _size, _correlation, brokers = struct.unpack(">iii", answer.read(12))
                return bool(brokers > 0)
        return False


def fetch_jars() -> Path:
    """The folder that holds them; fetched when it does not. `NotShown` when that cannot be had here."""
    listed = _LIST.read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dougong"
    jars = cache / f"kafka-{hashlib.sha256(listed).hexdigest()[:16]}"
    if jars.is_dir():
        return jars
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Maven's own folder takes one writer
        if not jars.is_dir():
            fetched = Path(tempfile.mkdtemp(prefix="kafka-", dir=cache))
            try:
                _fetch(fetched, dict(line.split() for line in listed.decode().splitlines() if line[:1] != "#"))
                fetched.rename(jars)
            finally:
                shutil.rmtree(fetched, ignore_errors=True)
    return jars


def _fetch(folder: Path, listed: dict[str, str]) -> None:
    """Exactly what is listed, nothing that it would pull in besides, and only with the bytes that are expected."""
    maven = _find("mvn")
    with tempfile.TemporaryDirectory() as project:
        (Path(project) / "pom.xml").write_text(_project(list(listed)))
        done = subprocess.run(  # noqa: S603 (a program we looked up ourselves)
            [maven, "-B", "-q", _COPY, f"-DoutputDirectory={folder}", "-Dmdep.prependGroupId=true"],
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
            timeout=_FETCH_S,
        )
    if done.returncode != 0:
        raise NotShown(f"mvn could not fetch Kafka: {(done.stdout + done.stderr)[-500:]}")
    for coordinates, expected in listed.items():
        group, artifact, version = coordinates.split(":")
        jar = folder / f"{group}.{artifact}-{version}.jar"
        if hashlib.sha256(jar.read_bytes()).hexdigest() != expected:
            raise RuntimeError(f"{coordinates} is not what {_LIST.name} says it is: its SHA-256 is another")


def _project(coordinates: list[str]) -> str:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions></dependency>"
        for group, artifact, version in (each.split(":") for each in coordinates)
    )
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>dougong</groupId><artifactId>kafka</artifactId>"
        f"<version>1</version><packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>"
    )
