"""`dougong jobs` against an app that runs as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.app.conftest import ENVIRONMENT, PATIENCE_S
from tests.cli.conftest import Command, Ran

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("cli-jobs")]

Jobs = Callable[..., Ran]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where an app with jobs runs."""
    directory = tmp_path_factory.mktemp("jobs")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DOUGONG_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "dougong.app", "tests.app.jobbing:app"],
        env={**environment, **ENVIRONMENT, "DOUGONG_DATA": str(directory), "DOUGONG_LOG_LEVEL": "error"},
    )
    yield directory
    process.terminate()
    assert process.wait(PATIENCE_S) == 0


@pytest.fixture
def jobs(dougong: Command, data: Path) -> Jobs:
    """Run `dougong jobs …` on it, once it serves."""

    def run(*arguments: object) -> Ran:
        return dougong("jobs", *arguments, "--data", data)

    give_up = time.monotonic() + PATIENCE_S
    while run("queues", "--json").code and time.monotonic() < give_up:
        time.sleep(0.05)
    return run


def test_run_show_and_list(jobs: Jobs) -> None:
    ended = jobs("run", "look_up", '{"sku":"lamp"}', "--wait", 60, "--json").json
    assert (ended["app"], ended["state"], ended["result"]) == ("jobbing", "done", "42")
    assert isinstance(ended["id"], str)
    assert jobs("show", ended["id"], "--json").json == ended
    text = jobs("show", ended["id"]).out
    assert "look_up" in text
    listed = jobs("ls", "--job", "look_up", "--since", "1h", "--json").json
    assert ended["id"] in [job["id"] for job in listed]
    assert ended["id"] in jobs("ls", "--state", "done").out
    assert jobs("ls", "--job", "look_up", "--until", "2020-01-01", "--json").json == []
    enqueued = jobs("run", "look_up", '{"sku":"lamp"}', "--key", "k1", "--delay-s", 3600, "--json").json
    assert enqueued["new"] is True
    assert jobs("run", "look_up", '{"sku":"lamp"}', "--key", "k1").out == f"was there: jobbing {enqueued['id']}\n"
    assert jobs("cancel", enqueued["id"], "--json").json["changed"] == [{"app": "jobbing", "id": enqueued["id"]}]


def test_dead_ones_are_seen_and_run_again(jobs: Jobs) -> None:
    ran = jobs("run", "note", '{"text":"bad"}', "--wait", 60, "--json")
    assert (ran.code, ran.json["state"], ran.json["attempts"]) == (1, "dead", 2)
    id_ = ran.json["id"]
    (dead,) = [job for job in jobs("dead", "--error", "bad paper", "--json").json if job["id"] == id_]
    assert "ValueError: bad paper" in dead["error"]
    assert "bad paper" in jobs("dead").out
    assert jobs("pause", "notes", "--json").json["paused"] is True
    again = jobs("retry", id_, "77", "--json")
    assert (again.code, "there is no job with the id 77" in again.err) == (1, True)  # none is touched
    assert jobs("retry", "--job", "note", "--state", "dead", "--json").json["changed"] == [
        {"app": "jobbing", "id": id_}
    ]
    left = jobs("retry", id_)
    assert (left.code, left.out) == (1, f"0 wait to run again\n1 neither dead nor cancelled, left alone: {id_}\n")
    assert "1 cancelled, or asked to end" in jobs("cancel", "--queue", "notes", "--state", "waiting").out
    assert jobs("resume", "notes", "--json").json["paused"] is False


def test_a_queue_is_resized_while_it_works(jobs: Jobs, tmp_path: Path) -> None:
    resized = jobs("resize", "slow", 1, "--json").json
    assert (resized["queue"], resized["concurrency"]) == ("slow", 1)
    for _ in range(3):
        jobs("run", "hold", f'{{"open_when":"{tmp_path / "gate"}"}}')

    def running() -> int:
        return next(int(queue["running"]) for queue in jobs("queues", "--json").json if queue["queue"] == "slow")

    assert jobs("resize", "slow", 100).code == 0
    give_up = time.monotonic() + PATIENCE_S
    while running() < 3 and time.monotonic() < give_up:
        time.sleep(0.05)
    assert running() == 3
    assert "100" in jobs("queues").out
    (tmp_path / "gate").touch()
    assert jobs("resize", "slow", "--json").json["concurrency"] is None


def test_schedules(jobs: Jobs) -> None:
    (one,) = [one for one in jobs("schedules", "--json").json if one["declared"]]
    assert (one["schedule" if "schedule" in one else "name"], one["status"], one["job"]) == ("yearly", "active", "note")
    assert "yearly" in jobs("schedules", "ls").out
    fired = jobs("schedules", "run", "yearly", "--json").json
    assert len(fired["jobs"]) == 1
    shown = jobs("schedules", "show", "yearly", "--json").json
    assert fired["jobs"] in [occurrence["jobs"] for occurrence in shown["occurrences"]]
    assert shown["upcoming"][0]["why"] == "every 3.1536e+07 s"
    assert jobs("schedules", "pause", "yearly", "--json").json["status"] == "paused"
    assert jobs("schedules", "resume", "yearly", "--json").json["status"] == "active"
    period = ("--since", "1970-12-01", "--until", "1972-02-01", "--json")
    assert jobs("schedules", "backfill", "yearly", *period).json == {"app": "jobbing", "fired": 2, "already": 0}
    assert jobs("schedules", "backfill", "yearly", *period).json == {"app": "jobbing", "fired": 0, "already": 2}
    missing = jobs("schedules", "pause", "yearli")
    assert (missing.code, "did you mean yearly?" in missing.err) == (1, True)


def test_a_crontab_becomes_schedules(jobs: Jobs, tmp_path: Path) -> None:
    file = tmp_path / "tab"
    file.write_text("# nightly\nCRON_TZ=Europe/Berlin\n30 2 * * * echo hello\n@reboot warm\n")
    refused = jobs("import-crontab", file)
    assert refused.code == 1
    for word in ("@reboot is no time", "nothing was added: 1 lines are refused"):
        assert word in refused.out
    assert "1 would be added, 1 refused" in jobs("import-crontab", file, "--dry-run").out
    done = jobs("import-crontab", file, "--skip-refused", "--json").json
    assert (done["app"], done["added"], done["refused"]) == ("jobbing", 1, 1)
    (name,) = [line["schedule"] for line in done["lines"] if line["added"]]
    assert "0 added to jobbing, 1 there already, 1 refused" in jobs("import-crontab", file, "--skip-refused").out
    shown = jobs("schedules", "show", name, "--json").json
    assert (shown["when"], shown["declared"], shown["job"]) == ("30 2 * * * Europe/Berlin", False, "run_command")
    fired = jobs("schedules", "run", name, "--json").json["jobs"][0]
    give_up = time.monotonic() + PATIENCE_S
    while jobs("show", fired, "--json").json["state"] != "done" and time.monotonic() < give_up:
        time.sleep(0.05)
    assert "hello" in jobs("show", fired, "--json").json["result"]
    assert jobs("schedules", "remove", name).out == f"removed: jobbing {name}\n"
    kept = jobs("schedules", "remove", "yearly")
    assert (kept.code, "declared in code" in kept.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "lookup", "{}"], "there is no job 'lookup': did you mean look_up?"),
        (["run", "look_up", '{"sku":1}'], "Expected `str`, got `int` - at `$.sku`"),
        (["run", "look_up", "sku=1"], "job look_up: JSON is malformed"),
        (["run", "look_up", "--priority", "10"], "--priority must be 0 (first) to 9 (last)"),
        (["show", "abc"], "'abc' is no id of a job"),
        (["show", "99999"], "there is no job with the id 99999"),
        (["ls", "--state", "lost"], "there is no state 'lost'; there are: waiting, blocked"),
        (["ls", "--since", "noon"], "neither a time, e.g. 2026-01-31T12:00, nor so long ago"),
        (["ls", "--limit", "0"], "--limit must be 1 to 1,000"),
        (["ls", "--app", "jobbin"], "app 'jobbin' is not running, so it cannot be asked: did you mean jobbing?"),
        (["cancel"], "say which jobs to cancel: ids, or a filter"),
        (["pause", "note"], "there is no queue 'note': did you mean notes?"),
        (["resize", "slow", "0"], "concurrency must be 1 to 10,000, not 0; to stop a queue: dougong jobs pause slow"),
        (["import-crontab", "/nowhere/tab"], "crontab /nowhere/tab: No such file"),
        (["dead", "--state", "done"], "leave --state out"),
    ],
)
def test_what_cannot_be_done_is_named(jobs: Jobs, arguments: list[str], said: str) -> None:
    ran = jobs(*arguments)
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err


def test_a_worker_of_an_app_without_jobs_says_so(dougong: Command, tmp_path: Path) -> None:
    assert "app tickets has no jobs to work on" in dougong("work", "tests.app.sample:tickets", "--data", tmp_path).err


def test_nothing_runs(dougong: Command, tmp_path: Path) -> None:
    assert "no system has been up" in dougong("jobs", "ls", "--data", tmp_path).err
