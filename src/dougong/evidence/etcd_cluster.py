"""A real etcd cluster, for experiments and tests: each member can die or hang alone, and on a network be cut off."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dougong.evidence.engines import READY_S, Engine, _find, free_port
from dougong.evidence.network import Network

__all__ = ["EtcdCluster", "EtcdFiles", "EtcdMember"]


class EtcdFiles(msgspec.Struct, frozen=True):
    """For TLS: the authority, and a certificate with its key that serves members and clients alike."""

    ca: Path
    cert: Path
    key: Path


class EtcdMember(Engine):
    """One member. What it is asked about it answers on a port of its own, in plain text: `health`, `metrics`."""

    engine = "etcd"

    def __init__(
        self, folder: Path, name: str, options: Sequence[str], tls: EtcdFiles | None, host: str, within: Sequence[str]
    ) -> None:
        self.name = name
        self.host = host
        self._within = within
        self.peer_url = f"http://{host}:{free_port()}"
        self.peers = f"{name}={self.peer_url}"
        self._watched_port = free_port()
        self._more = options
        self._tls = tls
        folder.mkdir(parents=True)
        super().__init__(folder)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        """Started and not stopped; it may be paused."""
        return self._process is not None

    def launch(self) -> None:
        """Start without waiting: alone it answers nothing, a cluster needs most of its members."""
        with (self.folder / "log").open("ab") as log:
            self._process = self._spawn(self._command(), log)

    def start(self) -> None:
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Until it answers, which it does when the cluster has a leader."""
        until = time.monotonic() + READY_S
        while not self._answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self.name} does not start:\n{(self.folder / 'log').read_text()[-4000:]}")
            time.sleep(0.02)

    def leads(self) -> bool:
        """Whether it believes to be the leader; a member that does not answer does not lead."""
        return "\netcd_server_is_leader 1\n" in self._ask("/metrics")

    def _account(self) -> tuple[None, None, None]:
        return None, None, None  # as ourselves, whose folders these are: etcd does not mind being root

    def _install(self) -> None:
        self._server = _find("etcd")

    def _command(self) -> list[str]:
        client = f"{'https' if self._tls else 'http'}://{self.address}"
        tls = [] if self._tls is None else [
            "--cert-file", str(self._tls.cert), "--key-file", str(self._tls.key),
            "--trusted-ca-file", str(self._tls.ca), "--client-cert-auth",
        ]  # fmt: skip
        return [
            *self._within, self._server, "--name", self.name, "--data-dir", str(self.data),
            "--logger", "zap", "--log-level", "warn",
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
            "--listen-metrics-urls", f"http://{self.host}:{self._watched_port}",
            "--initial-cluster", self.peers, "--initial-cluster-state", "new", *tls, *self._more,
        ]  # fmt: skip

    def _answers(self) -> bool:
        return '"health":"true"' in self._ask("/health")

    def _ask(self, path: str) -> str:
        connection = http.client.HTTPConnection(self.host, self._watched_port, timeout=2.0)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        return ""


class EtcdCluster:
    """A cluster on an empty folder, started, on loopback or on the hosts of a `network`.

    The timings are etcd's defaults unless given.
    """

    def __init__(
        self,
        folder: Path,
        *,
        members: int = 3,
        heartbeat_ms: int = 100,
        election_ms: int = 1000,
        tls: EtcdFiles | None = None,
        options: Sequence[str] = (),
        network: Network | None = None,
    ) -> None:
        self.folder = folder
        self._tls = tls
        self._ctl = _find("etcdctl")
        options = ["--heartbeat-interval", str(heartbeat_ms), "--election-timeout", str(election_ms), *options]
        hosts = ["127.0.0.1"] * members if network is None else network.hosts[:members]
        self.members = tuple(
            EtcdMember(
                folder / f"member{number}",
                f"member{number}",
                options,
                tls,
                host,
                network.command(host) if network else (),
            )
            for number, host in enumerate(hosts)
        )
        peers = ",".join(member.peers for member in self.members)
        for member in self.members:
            member.peers = peers
        try:
            self.start()
        except BaseException:
            self.kill()
            raise

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(member.address for member in self.members)

    def url(self, query: str = "", *, login: str = "") -> str:
        """For `open_registry`; `login` is `user:password`, quoted."""
        scheme, options = "etcd", [query] if query else []
        if self._tls is not None:
            options += [f"ca={self._tls.ca}", f"cert={self._tls.cert}", f"key={self._tls.key}"]
            scheme = "etcds"
        hosts = ",".join(self.addresses)
        return f"{scheme}://{login + '@' if login else ''}{hosts}" + ("?" + "&".join(options) if options else "")

    def start(self) -> None:
        """All members, which are expected to be down."""
        for member in self.members:
            member.launch()
        for member in self.members:
            member.wait()

    def heal(self) -> None:
        """All members run, those that were killed or paused as well."""
        for member in self.members:
            if member.running:
                member.resume()
            else:
                member.launch()
        for member in self.members:
            member.wait()

    def leader(self) -> EtcdMember:
        """Who leads; waits for an election to end. None of the members may be paused."""
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            for member in self.members:
                if member.leads():
                    return member
            time.sleep(0.02)
        raise RuntimeError(f"etcd in {self.folder} elects no leader")

    def ctl(self, *arguments: str) -> str:
        """Run `etcdctl`, outside of what is tested."""
        options = [f"--endpoints={','.join(self.addresses)}"]
        if self._tls is not None:
            options += [f"--cacert={self._tls.ca}", f"--cert={self._tls.cert}", f"--key={self._tls.key}"]
        return self.members[0]._run(["/usr/bin/env", "ETCDCTL_API=3", self._ctl, *options, *arguments])

    def kill(self) -> None:
        """All at once, as a power cut would."""
        for member in self.members:
            member.kill()

    def remove(self) -> None:
        """Stop it and take its folder away."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
