"""A crontab file, read into schedules of `run_command`, with a report of what was understood line by line.

The meaning is Debian's, crontab(5): comments only as whole lines, `NAME = value` for the lines below it, five fields or
`@daily`, a user where the file is a system's, and a command in which the first `%` begins what it reads on standard
input. `CRON_TZ` (cronie's) names the zone of the lines below it. What cannot be had is refused with the reason, and
nothing is guessed.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Sequence

import msgspec

from dougong.errors import Error, Invalid
from dougong.jobs.command import run_command
from dougong.jobs.schedules.declare import Schedule
from dougong.jobs.schedules.dst import Dst
from dougong.jobs.schedules.misfire import Misfire
from dougong.jobs.schedules.overlap import Overlap
from dougong.jobs.schedules.times import Cron

__all__ = ["CRONTAB_BYTES_MAX", "Crontab", "CrontabLine", "LineKind", "read_crontab"]

CRONTAB_BYTES_MAX = 1 << 20
_LINE_CHARS_MAX = 4096
_LINES_MAX = 10_000
_SETTINGS_MAX = 100

_SETTING = re.compile(r"""(?P<quote>["']?)(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P=quote)[ \t]*=[ \t]*(?P<value>.*)""")
_FIELDS = re.compile(r"(?P<cron>@\S+|\S+(?:[ \t]+\S+){4})(?:[ \t]+(?P<rest>.*))?")
_USER = re.compile(r"(?P<user>\S+)(?:[ \t]+(?P<rest>.*))?")
_USER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?")
_SLUG = re.compile(r"[^a-z0-9]+")


class LineKind(enum.StrEnum):
    SCHEDULE = "schedule"
    SETTING = "setting"
    BLANK = "blank"
    """Nothing, or a comment."""
    REFUSED = "refused"


class CrontabLine(msgspec.Struct, frozen=True):
    """A line, and what was made of it."""

    line: int
    """From 1."""
    kind: LineKind
    text: str
    report: str = ""
    """What was understood, or why it was not; for people."""
    schedule: Schedule | None = None


class Crontab(msgspec.Struct, frozen=True):
    """A whole file."""

    lines: tuple[CrontabLine, ...]

    @property
    def schedules(self) -> list[Schedule]:
        return [line.schedule for line in self.lines if line.schedule is not None]

    @property
    def refused(self) -> list[CrontabLine]:
        return [line for line in self.lines if line.kind is LineKind.REFUSED]


def read_crontab(
    text: str,
    *,
    users: bool = False,
    zone: str = "UTC",
    name: str = "crontab",
    timeout_s: float = 3600.0,
) -> Crontab:
    """Read a file. It never fails because of a line: see `Crontab.refused`.

    `users`: lines name a user before the command, as in /etc/crontab and /etc/cron.d. `zone` is what the machine's
    clock showed. `name` begins the schedules' names and stands in their notes. Raises `Invalid` (`crontab_too_large`).

    >>> tab = read_crontab("CRON_TZ = Europe/Berlin\\n30 2 * * 1-5 backup --all\\n@reboot warm\\n")
    >>> [schedule.when for schedule in tab.schedules]
    [Cron(text='30 2 * * 1-5', zone='Europe/Berlin', dst=<Dst.ONCE: 'once'>)]
    >>> [(line.line, line.report) for line in tab.refused]
    [(3, '@reboot is no time: run it where the app starts')]
    """
    lines = text.split("\n")
    if len(text) > CRONTAB_BYTES_MAX or len(lines) > _LINES_MAX:
        raise Invalid(
            f"crontab {name}: {len(text):,} characters in {len(lines):,} lines; at most "
            f"{CRONTAB_BYTES_MAX:,} in {_LINES_MAX:,}",
            code="crontab_too_large",
        )
    if lines[-1] == "":
        lines.pop()
    reader = _Reader(users=users, zone=zone, name=name, timeout_s=timeout_s)
    return Crontab(tuple(reader.read(number, line) for number, line in enumerate(lines, 1)))


class _Reader:
    def __init__(self, *, users: bool, zone: str, name: str, timeout_s: float) -> None:
        self._users = users
        self._zone = zone
        self._name = name
        self._timeout_s = timeout_s
        self._settings: dict[str, str] = {}
        self._names: set[str] = set()

    def read(self, number: int, line: str) -> CrontabLine:
        stripped = line.strip(" \t\r")
        if not stripped or stripped.startswith("#"):
            return CrontabLine(number, LineKind.BLANK, line[:_LINE_CHARS_MAX])
        try:
            kind, report, schedule = self._read(number, stripped)
        except Error as error:
            reason = error.fields.get("reason")
            field, position = error.fields.get("field"), error.fields.get("position")
            where = f"{field}, position {position}: " if reason and field != "text" else ""
            return CrontabLine(
                number,
                LineKind.REFUSED,
                line[:_LINE_CHARS_MAX],
                f"{where}{reason}" if reason else error.message,
            )
        return CrontabLine(number, kind, line, report, schedule)

    def _read(self, number: int, line: str) -> tuple[LineKind, str, Schedule | None]:
        if len(line) > _LINE_CHARS_MAX:
            raise _refused(f"the line has {len(line):,} characters; {_LINE_CHARS_MAX:,} at most")
        if any(char != "\t" and (ord(char) < 32 or ord(char) == 127) for char in line):
            raise _refused("the line has a control character")
        setting = _SETTING.fullmatch(line)
        if setting is not None:
            return LineKind.SETTING, self._set(setting["name"], setting["value"]), None
        schedule = self._entry(number, line)
        return LineKind.SCHEDULE, f"{schedule.name}: in the zone {self._zone}", schedule

    def _set(self, name: str, value: str) -> str:
        value = value.rstrip(" \t")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        if name == "CRON_TZ":
            Cron("@daily", value)  # is there such a zone?
            self._zone = value
            return f"the lines below are in the zone {value}"
        if name in {"LOGNAME", "USER"}:
            raise _refused(f"{name} cannot be set; it is the user's that runs the command")
        if name not in self._settings and len(self._settings) >= _SETTINGS_MAX:
            raise _refused(f"more than {_SETTINGS_MAX} settings")
        self._settings[name] = value
        return {
            "MAILTO": "no mail is sent: what a command prints is kept with its job",
            "MAILFROM": "no mail is sent: what a command prints is kept with its job",
            "TZ": "what the commands below see; the zone of their times is CRON_TZ's",
            "SHELL": f"the commands below run in {value}",
        }.get(name, "in the environment of the commands below")

    def _entry(self, number: int, line: str) -> Schedule:
        fields = _FIELDS.fullmatch(line)
        if fields is None:
            raise _refused("no setting, and not five fields and a command")
        cron = Cron(fields["cron"], self._zone, Dst.ONCE)
        rest, user = fields["rest"] or "", ""
        if self._users:
            named = _USER.fullmatch(rest)
            if named is None or _USER_NAME.fullmatch(named["user"]) is None:
                raise _refused(f"a user is missing between the times and the command: {rest[:40]!r}")
            user, rest = named["user"], named["rest"] or ""
        command, stdin = _split_percent(rest)
        if not command.strip():
            raise _refused("a command is missing")
        environment = {
            key: value for key, value in self._settings.items() if key not in {"SHELL", "MAILTO", "MAILFROM"}
        }
        call = run_command.call(
            command,
            stdin,
            environment,
            self._settings.get("SHELL", "/bin/sh"),
            user,
            self._timeout_s,
        )
        return Schedule(
            self._take_name((cron.text, cron.zone, user, command, stdin), command),
            cron,
            call,
            misfire=Misfire.SKIP,  # as cron does
            overlap=Overlap.PARALLEL,
            note=f"{self._name}, line {number}",
        )

    def _take_name(self, parts: Sequence[str], command: str) -> str:
        """From what the line says and not from where it stands, so that moving lines changes no schedule."""
        word = command.split(maxsplit=1)[0].rpartition("/")[2].lower()
        slug = _SLUG.sub("-", word).strip("-")[:20] or "command"
        digest = hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()[:8]
        base = f"{self._name[:60]}/{slug}-{digest}"
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}-{count}"
        self._names.add(name)
        return name


def _split_percent(command: str) -> tuple[str, str]:
    r"""The command and its standard input: after the first `%` that has no `\` before it, where each further one is a
    new line.
    """
    parts: list[list[str]] = [[]]
    at = 0
    while at < len(command):
        if command.startswith("\\%", at):
            parts[-1].append("%")
            at += 2
            continue
        if command[at] == "%":
            parts.append([])
        else:
            parts[-1].append(command[at])
        at += 1
    first, *lines = ["".join(part) for part in parts]
    return first, "".join(f"{line}\n" for line in lines)


def _refused(reason: str) -> Invalid:
    return Invalid(reason, code="bad_crontab_line")
