"""Crontab files: every line is understood or refused with its number and a reason."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dougong.errors import Invalid
from dougong.jobs import Cron, Misfire, Overlap, read_crontab, run_command

SYSTEM = r"""# /etc/crontab: the whole system's
SHELL=/bin/bash
PATH = /usr/local/bin:/usr/bin:/bin
MAILTO="ops@example.org"
LOGNAME=mallory

17 *	* * *	root	cd / && run-parts --report /etc/cron.hourly
CRON_TZ = America/New_York
30 2 * * mon-fri backup /opt/backup --day=$(date +\%F) %line one%line two\% more
@reboot root warm-up
@daily nobody tidy
0 0 30 2 * root never
60 * * * * root late
* * * * * root
* * * * backup
CRON_TZ=Mars/Olympus
0 12 * * * ../etc id
*/5 * * * * www-data   php /srv/cron.php   # not a comment
"""


def test_a_system_crontab() -> None:
    tab = read_crontab(SYSTEM, users=True, zone="Europe/Berlin", name="/etc/crontab")
    assert [
        (line.line, line.kind.value, line.report) for line in tab.lines if line.kind not in {"blank", "schedule"}
    ] == [
        (2, "setting", "the commands below run in /bin/bash"),
        (3, "setting", "in the environment of the commands below"),
        (4, "setting", "no mail is sent: what a command prints is kept with its job"),
        (5, "refused", "LOGNAME cannot be set; it is the user's that runs the command"),
        (8, "setting", "the lines below are in the zone America/New_York"),
        (10, "refused", "@reboot is no time: run it where the app starts"),
        (12, "refused", "day-of-month, position 5: no day-of-month 30 month 2 day-of-week * ever comes"),
        (13, "refused", "minute, position 1: 60 is not 0 to 59"),
        (14, "refused", "a command is missing"),
        (15, "refused", "day-of-week, position 9: 'BACKUP' is no value: 0 to 7 or SUN to SAT"),
        (16, "refused", "time zone 'Mars/Olympus' is not known; IANA names are, such as Europe/Berlin or UTC"),
        (17, "refused", "a user is missing between the times and the command: '../etc id'"),
    ]
    found = [(schedule.when, run_command.arguments(schedule.call.payload)) for schedule in tab.schedules]
    assert [(when, given["user"], given["command"], given["stdin"]) for when, given in found] == [
        (Cron("17 *\t* * *", "Europe/Berlin"), "root", "cd / && run-parts --report /etc/cron.hourly", ""),
        (
            Cron("30 2 * * mon-fri", "America/New_York"),
            "backup",
            "/opt/backup --day=$(date +%F) ",
            "line one\nline two% more\n",
        ),
        (Cron("@daily", "America/New_York"), "nobody", "tidy", ""),
        (Cron("*/5 * * * *", "America/New_York"), "www-data", "php /srv/cron.php   # not a comment", ""),
    ]
    assert {(given["shell"], str(given["environment"])) for _, given in found} == {
        ("/bin/bash", "{'PATH': '/usr/local/bin:/usr/bin:/bin'}")
    }
    one = tab.schedules[1]
    assert (one.misfire, one.overlap, one.note) == (Misfire.SKIP, Overlap.PARALLEL, "/etc/crontab, line 9")


def test_a_users_crontab_and_names_that_do_not_depend_on_where_a_line_stands() -> None:
    first = read_crontab("* * * * * echo a\n0 0 * * * echo b\n* * * * * echo a")
    moved = read_crontab("# new\n0 0 * * * echo b\n* * * * * echo a\r\n* * * * * echo a\n")
    names = [schedule.name for schedule in first.schedules]
    assert len(set(names)) == 3
    assert sorted(names) == sorted(schedule.name for schedule in moved.schedules)
    assert names[2] == f"{names[0]}-2"
    assert first.refused == moved.refused == []


def test_a_file_without_end_is_refused() -> None:
    for text in ("#" * (1 << 20) + "\n", "\n" * 20_000):
        with pytest.raises(Invalid) as refused:
            read_crontab(text)
        assert refused.value.code == "crontab_too_large"
    long = read_crontab("* * * * * echo " + "x" * 5000)
    assert [line.report for line in long.refused] == ["the line has 5,015 characters; 4,096 at most"]


_line = st.one_of(
    st.text(max_size=60),
    st.builds(
        "{} {} {}".format,
        st.sampled_from(["* * * * *", "@daily", "0 0 30 2 *", "@reboot", "1-5/2 * L * 1#2", "CRON_TZ=", "A = "]),
        st.sampled_from(["root", "UTC", "", "'x"]),
        st.text(alphabet="ab%\\ '\"\t=#", max_size=12),
    ),
)


@pytest.mark.fuzz
@given(st.lists(_line, max_size=6).map("\n".join), st.booleans())
@example("* * * * * \\%\\", False)
@example("* * * * * %", False)
@example("A='", False)
@example("* * * * * \ud800", False)
def test_every_line_is_understood_or_refused(text: str, users: bool) -> None:
    tab = read_crontab(text, users=users)
    lines = text.split("\n")
    assert [line.line for line in tab.lines] == list(range(1, len(lines) + (lines[-1] != "")))
    names = [schedule.name for schedule in tab.schedules]
    assert len(set(names)) == len(names)
    for line in tab.lines:
        assert (line.schedule is not None) is (line.kind == "schedule")
        assert bool(line.report) is (line.kind != "blank")
