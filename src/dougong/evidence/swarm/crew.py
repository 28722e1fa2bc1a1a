"""Processes forked from one after everything is imported: what they never write to exists once.

Sixty processes that import the same thing hold it sixty times; forked after the import, with the collector told to
leave it alone, they share it. Each is spoken to in lines, through a socket of its own, and ends when that is closed:
none outlives the one that forked it.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from dougong.errors import Internal

__all__ = ["Crew"]

_LINE_BYTES_MAX = 1 << 24
_ENDS_S = 5.0


class Crew:
    """`Crew(count, work)` forks; `work(number, socket)` is what each does. Only before any thread or loop runs."""

    def __init__(self, count: int, work: Callable[[int, socket.socket], None]) -> None:
        self._sockets: list[socket.socket] = []
        self._rest = [b""] * count
        self._count = count
        self._ended: set[int] = set()
        """Whom nobody has to wait for any more."""
        self.pids: list[int] = []
        gc.collect()
        gc.freeze()
        sys.stdout.flush()
        for number in range(count):
            mine, its = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                mine.close()
                for other in self._sockets:
                    other.close()  # else nobody's end would ever be the last
                _be(number, its, work)
            its.close()
            self._sockets.append(mine)
            self.pids.append(pid)

    def ask(self, line: bytes, timeout_s: float) -> list[bytes]:
        """Tell all the same, and hear what each answers."""
        return self.ask_each([line] * len(self._sockets), timeout_s)

    def ask_each(self, lines: Sequence[bytes], timeout_s: float) -> list[bytes]:
        """Tell each its line, and hear what each answers. `Internal` (`crew_failed`) when one ends, or takes longer."""
        for one, line in zip(self._sockets, lines, strict=True):
            try:
                one.sendall(line + b"\n")
            except OSError:
                raise self._gone(self._sockets.index(one)) from None
        return self.hear(timeout_s)

    def hear(self, timeout_s: float) -> list[bytes]:
        """The next line of each. Whoever ends is told at once, whatever the others still do."""
        give_up = time.monotonic() + timeout_s
        lines: list[bytes | None] = [self._next(number) for number in range(len(self._sockets))]
        with selectors.DefaultSelector() as ready:
            for number, line in enumerate(lines):
                if line is None:
                    ready.register(self._sockets[number], selectors.EVENT_READ, number)
            while ready.get_map():
                events = ready.select(max(0.0, give_up - time.monotonic()))
                if not events:
                    silent = sorted(key.data for key in ready.get_map().values())
                    raise Internal(
                        f"{len(silent)} of {self._count} processes did not answer within {timeout_s:.0f} s, first "
                        f"{self._name(silent[0])}",
                        code="crew_failed",
                    )
                for key, _ in events:
                    self._read(key.data)
                    lines[key.data] = self._next(key.data)
                    if lines[key.data] is not None:
                        ready.unregister(key.fileobj)
        return [line for line in lines if line is not None]

    def stop(self) -> None:
        """End all, and wait until they are gone."""
        for one in self._sockets:
            one.close()
        give_up = time.monotonic() + _ENDS_S
        for number, pid in enumerate(self.pids):
            if number not in self._ended:
                _reap(pid, give_up)
        self._sockets.clear()
        self.pids.clear()

    def _next(self, number: int) -> bytes | None:
        """Its next line, when all of it is here."""
        line, found, rest = self._rest[number].partition(b"\n")
        if found:
            self._rest[number] = rest
            return line
        if len(line) > _LINE_BYTES_MAX:
            raise Internal(f"{self._name(number)} says a line without end", code="crew_failed")
        return None

    def _read(self, number: int) -> None:
        try:
            data = self._sockets[number].recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            raise self._gone(number)
        self._rest[number] += data

    def _gone(self, number: int) -> Internal:
        """How it ended; it may be about to."""
        self._ended.add(number)
        code = _reap(self.pids[number], time.monotonic() + _ENDS_S)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Internal(f"{self._name(number)} {how}; stderr may say why", code="crew_failed")

    def _name(self, number: int) -> str:
        return f"process {number + 1} of {self._count} (pid {self.pids[number]})"


def _be(number: int, its: socket.socket, work: Callable[[int, socket.socket], None]) -> None:
    """The forked process, which never returns into its parent's frames."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it says when it ends
        work(number, its)
        code = 0
    except (BrokenPipeError, ConnectionResetError):
        pass  # whoever asked is gone, and says why himself
    except BaseException:  # noqa: BLE001 (nothing of it may reach what the parent would have done next)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _reap(pid: int, give_up: float) -> int:
    """Wait until it is gone, and kill it when that takes too long; its exit code, or minus the signal."""
    while True:
        gone, status = os.waitpid(pid, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > give_up:
            os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.01)
