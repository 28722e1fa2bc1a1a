"""Shell commands as jobs: what they print is kept, how they end counts, nothing of them stays behind."""

from __future__ import annotations

import asyncio
import os
import pwd
from pathlib import Path

import pytest

from dougong.errors import DeadlineExceeded, Internal, Invalid
from dougong.jobs import CommandResult, run_command


async def test_what_it_prints_and_reads_and_sees(tmp_path: Path) -> None:
    done = await run_command(
        'cat; echo "$A $PATH $SHELL" >&2; pwd; exit 0', "in\n", {"A": "b", "HOME": str(tmp_path)}, timeout_s=60
    )
    assert done == CommandResult(0, f"in\nb /usr/bin:/bin /bin/sh\n{tmp_path}\n")
    assert os.environ["PATH"] != "/usr/bin:/bin" or "PYTEST_CURRENT_TEST" not in (await run_command("env")).output


async def test_what_it_does_not_read_harms_nobody() -> None:
    assert (await run_command("exec <&-; echo done", "x" * 1_000_000)).output == "done\n"


async def test_a_lot_of_output_is_cut_in_the_middle() -> None:
    done = await run_command("echo begin; head -c 300000 /dev/zero | tr '\\0' x; echo end")
    assert done.output.startswith("begin\nxxx")
    assert done.output.endswith("xxxend\n")
    assert done.cut_bytes == 300_000 + 6 + 4 - 16 * 1024
    assert f"[... {done.cut_bytes:,} bytes left out ...]" in done.output


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("echo no; exit 3", "the command ended with exit status 3; it printed: no"),
        ("kill -9 $$", "the command ended with signal 9; it printed nothing"),
        ("/no/such/program", "exit status 127"),
    ],
)
async def test_another_end_than_zero_fails_it(command: str, why: str) -> None:
    with pytest.raises(Internal, match=why) as failed:
        await run_command(command)
    assert failed.value.code == "command_failed"


async def test_a_shell_that_is_not_there() -> None:
    with pytest.raises(Internal, match="cannot be started"):
        await run_command("true", shell="/no/such/shell")


async def test_time_out_and_cancellation_end_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"echo $$ >> {pids}; sh -c 'echo $$ >> {pids}; exec sleep 600' & wait"
    with pytest.raises(DeadlineExceeded, match="ended after 1 s"):
        await run_command(command, timeout_s=1)
    await _gone(pids)
    for wait_s in (0.0, 0.0, 0.001, 0.001, 0.2):  # the first ones are cancelled before they are known to have begun
        pids.unlink()
        running = asyncio.ensure_future(run_command(command))
        async with asyncio.timeout(60):
            while not (pids.exists() and len(pids.read_text().split()) == 2):
                await asyncio.sleep(wait_s)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await _gone(pids)


async def _gone(pids: Path) -> None:
    async with asyncio.timeout(60):
        for pid in pids.read_text().split():
            while _runs(int(pid)):
                await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_what_it_leaves_running_does_not_hold_it_up() -> None:
    done = await run_command("sleep 600 & echo $!")
    os.kill(int(done.output), 9)


async def test_as_whom_it_runs() -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert (await run_command("id -un", user=me)).output == f"{me}\n"
    with pytest.raises(Invalid, match="there is no user nobody-such"):
        await run_command("true", user="nobody-such")
    if os.geteuid() == 0:
        assert (await run_command("id -un; echo $LOGNAME", user="nobody")).output == "nobody\nnobody\n"
    else:
        with pytest.raises(Invalid, match="this worker is uid"):
            await run_command("true", user="root")
