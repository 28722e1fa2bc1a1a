"""A crew: what its processes answer, and that the end of one is told at once, by name."""

from __future__ import annotations

import os
import signal
import socket
import time

import psutil
import pytest

from dougong.errors import Internal
from dougong.evidence import Crew

pytestmark = pytest.mark.processes
LONG_S = 60.0


def work(number: int, its: socket.socket) -> None:
    """Answers each line with its number; does worse when told so."""
    while line := its.recv(1 << 16):
        match line.strip():
            case b"leave" if number == 1:
                return
            case b"break" if number == 1:
                os._exit(7)
            case b"be silent" | b"leave" | b"break":
                pass
            case _:
                its.sendall(b"%d\n" % number)


def test_each_answers_and_none_outlives_it() -> None:
    crew = Crew(3, work)
    try:
        assert crew.ask(b"who?", LONG_S) == [b"0", b"1", b"2"]
        assert crew.ask_each([b"a", b"b", b"c"], LONG_S) == [b"0", b"1", b"2"]
    finally:
        pids = list(crew.pids)
        crew.stop()
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.parametrize(("told", "how"), [(b"leave", "ended with exit code 0"), (b"break", "ended with exit code 7")])
def test_who_ends_is_named_while_the_others_are_silent(told: bytes, how: str) -> None:
    crew = Crew(3, work)
    try:
        second = crew.pids[1]
        with pytest.raises(Internal, match=rf"process 2 of 3 \(pid {second}\) {how}"):
            crew.ask(told, 10 * LONG_S)  # the first never answers: it is not waited for
    finally:
        crew.stop()


def test_who_is_killed_is_named() -> None:
    crew = Crew(3, work)
    try:
        os.kill(crew.pids[2], signal.SIGKILL)
        with pytest.raises(Internal, match=r"process 3 of 3 \(pid \d+\) was killed by SIGKILL"):
            crew.ask(b"be silent", 10 * LONG_S)
    finally:
        crew.stop()


def test_who_says_nothing_is_counted_and_a_frozen_one_ends_too() -> None:
    crew = Crew(2, work)
    pids = list(crew.pids)
    try:
        os.kill(pids[1], signal.SIGSTOP)
        with pytest.raises(Internal, match=r"1 of 2 processes did not answer .* process 2 of 2"):
            crew.ask(b"who?", 2.0)
    finally:
        start = time.monotonic()
        crew.stop()
    assert time.monotonic() - start < LONG_S
    assert not any(map(psutil.pid_exists, pids))
