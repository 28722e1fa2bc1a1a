"""What `dougong up` prints: the merged lines of all processes, and its own words between them."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from dougong.app import LogLine, printable, read_log_line

__all__ = ["LogStream", "Output", "shown"]

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan")
_LEVELS = {"debug": "dim", "info": "dim", "warning": "yellow", "error": "bold red", "critical": "bold red"}
_OWN = "up"


def shown(text: str) -> str:
    """Text from elsewhere for a console: without markup, and without what moves the reader's cursor."""
    return escape(printable(text))


class Output:
    """Lines as `time  process  level  event  fields`, a colour for each app; tracebacks keep to their process's column.

    `quiet` leaves out what is below a warning. `gone` is called when nobody reads any more: the pipe is closed.
    """

    def __init__(self, processes: Sequence[tuple[str, str]], *, quiet: bool, gone: Callable[[], None]) -> None:
        """`processes`: (name, app)."""
        apps = list(dict.fromkeys(app for _, app in processes))
        self._colours = {name: _COLOURS[apps.index(app) % len(_COLOURS)] for name, app in processes}
        self._quiet = quiet
        self._width = max(map(len, [_OWN, *self._colours]))
        self._console = _Console(gone)

    def line(self, process: str, text: str) -> None:
        """A line that a process printed, or the supervisor's about it."""
        line = read_log_line(text)
        if self._quiet and line.level in ("debug", "info"):
            return
        self._print(process, line)

    def say(self, text: str) -> None:
        """Words of `up` itself."""
        self._print(_OWN, LogLine(text))

    def _print(self, process: str, line: LogLine) -> None:
        style = self._colours.get(process, "bold")
        name = (f"{process:<{self._width}} ", style)
        text = Text.assemble((f"{line.time or time.strftime('%H:%M:%S')} ", "dim"), name)
        text.append(f"{line.level:<7} ", _LEVELS.get(line.level, ""))
        text.append(line.event, "bold" if line.level in ("warning", "error", "critical") else "")
        for field, value in line.fields.items():
            text.append(f"  {field}=", "dim")
            text.append(value)
        for detail in line.details:
            text.append(f"\n{'':8} ")
            text.append(*name)
            text.append(f"{'':7} │ ", "dim")
            text.append(detail)
        self._console.print(text)


class LogStream(io.TextIOBase):
    """Where the logs of `up` itself go: between the others."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line:
                self._output.line(_OWN, line)
        return len(text)


class _Console(Console):
    """A console that outlives its reader: `dougong up | head` stops in order too."""

    def __init__(self, gone: Callable[[], None]) -> None:
        super().__init__(highlight=False, soft_wrap=True)
        self._gone = gone

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes there
        self._gone()
