"""Real servers (databases, Redis), for experiments and tests: started on a folder of their own, stopped by process id.

Never the machine's own server, and never its ports. What is not installed is `NotShown`.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from io import BufferedWriter
from pathlib import Path

import psutil

from dougong.evidence.claim import NotShown

__all__ = ["QUOTED", "SERVERS", "Engine", "MariaDB", "PostgreSQL", "Redis", "Server", "free_port"]

PASSWORD = "s3cret/p@ss"  # noqa: S105 (a throw-away server's; with characters that a URL has to quote)
QUOTED = "s3cret%2Fp%40ss"
READY_S = 120.0


class Engine:
    """One engine on an empty folder, with `buffer_mb` of memory for what it keeps there, started.

    `start` after `kill` or `stop` finds what was synced before.
    """

    engine = ""

    def __init__(self, folder: Path, *, buffer_mb: int = 32) -> None:
        self.folder = folder
        self._buffer_mb = buffer_mb
        self.data = self.folder / "data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._user = ""
        if os.geteuid() == 0:  # PostgreSQL refuses root; what suits it suits MariaDB
            for name in ("postgres", "mysql", "nobody"):
                with contextlib.suppress(KeyError):
                    account = pwd.getpwnam(name)
                    self._user = name
                    os.chown(self.folder, account.pw_uid, account.pw_gid)
                    break
        self._install()

    @property
    def pid(self) -> int:
        """Of its process, which must be up."""
        assert self._process is not None, f"{self.engine} is not running"
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers."""
        log = (self.folder / "log").open("ab")
        with log:
            self._process = self._spawn(self._command(), log)
        until = time.monotonic() + READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self.engine} does not start:\n{(self.folder / 'log').read_text()[-4000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an operator would."""
        self._end(self._stop_signal)

    def pause(self) -> None:
        """As a machine that hangs would: connections stay, nobody answers."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        until = time.monotonic() + READY_S
        while server.status() != psutil.STATUS_STOPPED and time.monotonic() < until:  # on a busy machine not at once
            time.sleep(0.001)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, how: signal.Signals) -> None:
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        for process in (server, *server.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(how)

    def remove(self) -> None:
        """Stop it and take its folder away."""
        self.stop()  # not kill: PostgreSQL then takes back what it has outside of the folder
        shutil.rmtree(self.folder, ignore_errors=True)

    _stop_signal = signal.SIGTERM

    def _install(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(60)

    def _run(self, command: list[str]) -> str:
        user, group, groups = self._account()
        done = subprocess.run(  # noqa: S603 (a program we looked up ourselves)
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            cwd=self.folder,
            user=user,
            group=group,
            extra_groups=groups,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def _spawn(self, command: list[str], log: BufferedWriter) -> subprocess.Popen[bytes]:
        user, group, groups = self._account()
        return subprocess.Popen(  # noqa: S603 (same)
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            user=user,
            group=group,
            extra_groups=groups,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (one call into the kernel)
        )

    def _account(self) -> tuple[str | None, int | None, list[int] | None]:
        if not self._user:
            return None, None, None
        return self._user, pwd.getpwnam(self._user).pw_gid, []


class Server(Engine):
    """A server of databases."""

    _options = ""

    def __init__(self, folder: Path, *, buffer_mb: int = 32) -> None:
        self._free: list[str] = []
        self._numbers = itertools.count(1)
        super().__init__(folder, buffer_mb=buffer_mb)

    @contextlib.contextmanager
    def database(self, *, tcp: bool = False) -> Generator[str]:
        """The URL of a fresh database, gone afterwards; over the socket, or over loopback with a password."""
        if self._free:
            name = self._free.pop()
        else:
            name = f"test_{next(self._numbers)}"
            self.sql(f"CREATE DATABASE {name}{self._options}")
        try:
            yield self.url(name, tcp=tcp)
        finally:
            if self._process is None:
                self.start()
            self._empty(name)
            self._free.append(name)

    def url(self, database: str, *, tcp: bool = False) -> str:
        raise NotImplementedError

    def sql(self, statement: str) -> str:
        """Run a statement as an administrator, outside of what is tested."""
        raise NotImplementedError

    def _empty(self, database: str) -> None:
        raise NotImplementedError


class MariaDB(Server):
    engine = "mariadb"
    _options = " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

    def _install(self) -> None:
        self._server = _find("mariadbd", "mysqld")
        self._client = _find("mariadb", "mysql")
        install = _find("mariadb-install-db", "mysql_install_db")
        self._socket = self.folder / "sock"
        self._run([
            install, "--no-defaults", f"--datadir={self.data}", f"--tmpdir={self.folder}",
            "--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M",
            "--innodb-buffer-pool-size=16M",
        ])  # fmt: skip
        self.start()
        self.sql(f"CREATE USER dougong@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO dougong@'%'")

    def _command(self) -> list[str]:
        return [
            self._server, "--no-defaults", f"--datadir={self.data}", f"--tmpdir={self.folder}",
            f"--socket={self._socket}", "--bind-address=127.0.0.1", f"--port={self.port}",
            f"--pid-file={self.folder / 'pid'}",
            f"--innodb-buffer-pool-size={self._buffer_mb}M", f"--innodb-log-file-size={self._buffer_mb}M",
            "--key-buffer-size=1M", "--performance-schema=off", "--max-connections=100",
            "--innodb-flush-log-at-trx-commit=1", "--skip-name-resolve",
        ]  # fmt: skip

    def _answers(self) -> bool:
        done = subprocess.run(  # noqa: S603 (same)
            [self._client, "--no-defaults", f"--socket={self._socket}", "-uroot", "-e", "SELECT 1"],
            capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode == 0

    def sql(self, statement: str) -> str:
        return self._run([self._client, "--no-defaults", f"--socket={self._socket}", "-uroot", "-N", "-e", statement])

    def _empty(self, database: str) -> None:
        # A connection that somebody forgot would hold up the drop for as long as it has locks.
        self.sql(f"SET lock_wait_timeout = 10; DROP DATABASE {database}; CREATE DATABASE {database}{self._options}")

    def url(self, database: str, *, tcp: bool = False) -> str:
        if tcp:
            return f"mysql://dougong:{QUOTED}@127.0.0.1:{self.port}/{database}"
        return f"mysql://root@localhost/{database}?unix_socket={self._socket}"


class PostgreSQL(Server):
    engine = "postgresql"
    _stop_signal = signal.SIGINT  # fast: does not wait for clients

    def _empty(self, database: str) -> None:
        self.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")  # noqa: S608 (our own name)
        # Quicker than a new database: that copies and syncs hundreds of files.
        self.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public", database)

    def _install(self) -> None:
        self._server = _find("postgres")
        self._run([
            _find("initdb"), "-D", str(self.data), "-U", "postgres", "--auth-local=trust",
            "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync",
        ])  # fmt: skip
        self.start()
        self.sql(f"CREATE ROLE dougong LOGIN SUPERUSER PASSWORD '{PASSWORD}'")

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder,
            "shared_buffers": f"{self._buffer_mb}MB", "max_connections": 100, "max_wal_size": "256MB",
            "autovacuum": "off", "dynamic_shared_memory_type": "mmap",
        }  # fmt: skip
        return [self._server, "-D", str(self.data), *(f"--{name}={value}" for name, value in settings.items())]

    def _answers(self) -> bool:
        import psycopg

        try:
            self.sql("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def sql(self, statement: str, database: str = "postgres") -> str:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return "" if cursor.description is None else "\n".join(str(row[0]) for row in cursor.fetchall())

    def url(self, database: str, *, tcp: bool = False) -> str:
        if tcp:
            return f"postgresql://dougong:{QUOTED}@127.0.0.1:{self.port}/{database}"
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self.port}"


class Redis(Engine):
    """Keeps `buffer_mb` in memory and nothing on disk; `options` are further ones of redis-server's."""

    engine = "redis"

    def __init__(self, folder: Path, *, buffer_mb: int = 32, options: Sequence[str] = ()) -> None:
        self._more = options
        super().__init__(folder, buffer_mb=buffer_mb)

    def url(self, database: int = 0) -> str:
        return f"redis://:{QUOTED}@127.0.0.1:{self.port}/{database}"

    def _install(self) -> None:
        self._server = _find("redis-server")
        self.start()

    def _command(self) -> list[str]:
        return [
            self._server, "--bind", "127.0.0.1", "--port", str(self.port), "--requirepass", PASSWORD,
            "--dir", str(self.folder), "--save", "", "--appendonly", "no", "--daemonize", "no",
            "--maxmemory", f"{self._buffer_mb}mb", "--maxmemory-policy", "noeviction", *self._more,
        ]  # fmt: skip

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(f"AUTH {PASSWORD}\r\nPING\r\n".encode())
                reply = b""
                while not reply.endswith(b"\r\n+PONG\r\n"):
                    got = connection.recv(1024)
                    if not got:
                        return False
                    reply += got
                return True
        except OSError:
            return False


SERVERS: dict[str, type[Server]] = {"mysql": MariaDB, "postgresql": PostgreSQL}
"""By dialect."""


def _die_with_parent() -> None:
    """In the child: who is killed leaves no server behind (Linux; elsewhere it does)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; the parent is the thread that started it


def _find(*names: str) -> str:
    """A server's program: Debian keeps some outside of PATH."""
    places = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/usr/local/sbin"]
    places += [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    for name in names:
        found = shutil.which(name, path=os.pathsep.join(places))
        if found is not None:
            return found
    raise NotShown(f"{names[0]} is not installed")


def free_port() -> int:
    """A port that nobody has, and that the system gives to nobody who asks for any (those are above 32767)."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", 20_000 + secrets.randbelow(12_000)))
            port: int = probe.getsockname()[1]
            return port
