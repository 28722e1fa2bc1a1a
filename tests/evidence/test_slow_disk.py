"""The slow disk that tests and experiments put under a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests import engines

from dougong.evidence import NotShown
from dougong.evidence.slow_disk import slow_syncs

SYNC_S = 0.2
PROGRAM = """
import os, sys, threading, time
file = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
ticks = 0
def tick():
    global ticks
    while True:
        time.sleep(0.001)
        ticks += 1
threading.Thread(target=tick, daemon=True).start()
print(flush=True)
for _ in sys.stdin:
    begun, before = time.monotonic(), ticks
    os.write(file, b"x")
    os.fdatasync(file)
    print(time.monotonic() - begun, ticks - before, flush=True)
"""


def test_only_syncs_take_longer(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", PROGRAM, str(tmp_path / "file")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        begin, answers = program.stdin, program.stdout
        assert begin is not None
        assert answers is not None
        answers.readline()

        def sync() -> tuple[float, float]:
            print(file=begin, flush=True)
            took_s, ticks = answers.readline().split()
            return float(took_s), float(ticks)

        with engines.slow_disk([program.pid], SYNC_S):
            took_s, ticks = sync()
            assert took_s >= SYNC_S
            assert ticks > 1  # other threads go on
        sync()  # and afterwards it goes on
        begin.close()
    assert program.returncode == 0


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.evidence.slow_disk.shutil.which", lambda *_: None)
    with pytest.raises(NotShown, match="strace is not installed"), slow_syncs([os.getpid()], 1):
        pass


def test_nobody_to_trace_is_said() -> None:
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    with pytest.raises(NotShown, match="trace"), slow_syncs([gone.pid], 1):
        pass
