"""`dougong jobs import-crontab`: a crontab's lines become schedules of a running app."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from dougong.cli.desks import DESKS, DesksAt, opened_desks, opened_schedules, with_job
from dougong.cli.output import shown
from dougong.cli.parameters import Json
from dougong.cli.showing import console, print_document
from dougong.errors import Conflict, Invalid, NotFound
from dougong.jobs import AddSchedule, Cron, Crontab, CrontabLine, LineKind, Schedule, read_crontab, run_command

__all__ = ["import_crontab"]


async def import_crontab(
    file: Path,
    /,
    *,
    users: bool = False,
    zone: str = "UTC",
    skip_refused: bool = False,
    dry_run: bool = False,
    at: DesksAt = DESKS,
    json: Json = False,
) -> int:
    """Read a crontab, say line by line what was understood, and add its lines to an app as schedules of shell commands.

    The app has to name `run_command` among its jobs. Nothing is added while a line is refused. Repeated, it leaves what
    is there alone. Exit code 1 when a line was refused.

    Parameters
    ----------
    file
        As `crontab -l` prints it.
    users
        Lines name a user before the command, as in /etc/crontab.
    zone
        What the machine's clock shows: Europe/Berlin.
    skip_refused
        Add the other lines all the same.
    dry_run
        Only say what was understood.
    """
    tab = read_crontab(_read(file), users=users, zone=zone, name=file.name)
    wanted = [] if dry_run or (tab.refused and not skip_refused) else tab.schedules
    app, added = await _add(wanted, at) if wanted else ("", set[str]())
    if json:
        lines = [_plain(line, added) for line in tab.lines if line.kind is not LineKind.BLANK]
        print_document({"app": app, "added": len(added), "refused": len(tab.refused), "lines": lines})
    else:
        _tell(tab, app, added, dry_run=dry_run)
    return int(bool(tab.refused))


async def _add(schedules: list[Schedule], at: DesksAt) -> tuple[str, set[str]]:
    async with opened_desks(at) as desks:
        try:
            app = await with_job(desks, run_command.name)
        except NotFound:
            raise NotFound(
                f"no app knows the job {run_command.name}, which runs commands: add it to the jobs of one",
                code="unknown_job",
            ) from None
    added: set[str] = set()
    async with opened_schedules(at) as found:
        for schedule in schedules:
            assert isinstance(schedule.when, Cron), "a crontab has nothing else"
            try:
                await found[app].add(
                    AddSchedule(
                        name=schedule.name,
                        cron=schedule.when.text,
                        zone=schedule.when.zone,
                        dst=schedule.when.dst,
                        job=schedule.call.job,
                        arguments=schedule.call.payload.decode(),
                        misfire=schedule.misfire,
                        overlap=schedule.overlap,
                        note=schedule.note,
                    )
                )
            except Conflict:  # by an earlier import
                continue
            added.add(schedule.name)
    return app, added


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"crontab {file}: {error.strerror}", code="crontab_not_found") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"crontab {file} is not UTF-8 text: {error}", code="bad_crontab") from error


def _plain(line: CrontabLine, added: set[str]) -> dict[str, object]:
    name = line.schedule.name if line.schedule is not None else None
    return {
        "line": line.line,
        "kind": line.kind.value,
        "text": line.text,
        "report": line.report,
        "schedule": name,
        "added": name in added,
    }


def _tell(tab: Crontab, app: str, added: set[str], *, dry_run: bool) -> None:
    table = Table("line", "", "text", "report", "schedule", box=None)
    for line in tab.lines:
        if line.kind is not LineKind.BLANK:
            name = line.schedule.name if line.schedule is not None else ""
            table.add_row(*map(shown, (str(line.line), line.kind.value, line.text, line.report, name)))
    out = console()
    out.print(table)
    there = len(tab.schedules) - len(added)
    if dry_run:
        out.print(f"{len(tab.schedules)} would be added, {len(tab.refused)} refused")
    elif app:
        out.print(shown(f"{len(added)} added to {app}, {there} there already, {len(tab.refused)} refused"))
    elif tab.refused:
        out.print(f"nothing was added: {len(tab.refused)} lines are refused; change them, or pass --skip-refused")
