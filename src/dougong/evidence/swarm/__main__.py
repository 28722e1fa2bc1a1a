"""`python -m dougong.evidence.swarm`: options in a line on standard input, then commands; an answer in a line each.

It forks the processes that hold the sessions, hands every command to all of them, and adds up what they answer. At the
end of its input all of them end.
"""

from __future__ import annotations

import resource
import socket
import sys

import msgspec

from dougong.errors import Internal
from dougong.evidence.swarm.commands import Command, answer_of, merged
from dougong.evidence.swarm.crew import Crew
from dougong.evidence.swarm.options import Share, SwarmOptions, shares
from dougong.evidence.swarm.sessions import Sessions


def main() -> None:
    """Until the input ends."""
    options = msgspec.json.decode(sys.stdin.readline(), type=SwarmOptions)
    parts = shares(options)
    crew = Crew(len(parts), lambda number, its: _hold(parts[number], its))
    try:
        _say(msgspec.json.encode(crew.pids))
        for line in sys.stdin:
            command = msgspec.json.decode(line, type=Command)
            commands = command.split(len(parts))
            patience_s = command.lasts_s(options) + 2 * options.patience_s + 30.0
            lines = [msgspec.json.encode(one) for one in commands]
            _say(merged(command, crew.ask_each(lines, patience_s)))
    except Internal as error:
        sys.exit(f"swarm: {error}")
    except BrokenPipeError:
        sys.stdout = None  # whoever asked is gone; nothing is to be flushed to him
    finally:
        crew.stop()


def _hold(share: Share, its: socket.socket) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sessions, rest = Sessions(share), b""
    while True:
        sessions.serve_until(its.fileno())
        data = its.recv(1 << 16)
        if not data:
            sessions.abort()  # a million closed in good order would be TIME_WAIT for a minute
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            command = msgspec.json.decode(line, type=Command)
            its.sendall(msgspec.json.encode(answer_of(command, sessions)) + b"\n")


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
