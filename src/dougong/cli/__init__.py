"""The `dougong` command: one file per command, each a thin layer over a room's public API.

Commands print for people by default and one JSON document with `--json`. Errors are one line on standard error and exit
code 1; wrong usage is exit code 2.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import cyclopts
import structlog
import uvloop

from dougong.errors import Error

__all__ = ["main"]


def application() -> cyclopts.App:
    """All commands. Each module is imported only when the command line is built, so that `dougong run` stays small."""
    from dougong.cli import (
        connections,
        contract,
        doctor,
        jobs,
        keys,
        machine,
        mesh,
        prove,
        run,
        rush,
        services,
        shards,
        simulate,
        swarm,
        tx,
        up,
        work,
    )

    app = cyclopts.App(
        name="dougong",
        help="Turns a Python CRUD service into a distributed system that holds under load, and proves it.",
        version_flags=["--version"],
    )
    app.command(up.up)
    app.command(connections.connections)
    app.command(contract.contract)
    app.command(jobs.jobs)
    app.command(keys.keys)
    app.command(machine.machine)
    app.command(mesh.mesh)
    app.command(run.run)
    app.command(work.work)
    app.command(rush.rush)
    app.command(prove.prove)
    app.command(simulate.simulate)
    app.command(services.services)
    app.command(shards.shards)
    app.command(swarm.swarm)
    app.command(tx.tx)
    app.command(doctor.doctor)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    # Children are started by fork and exec: gRPC's fork handlers have nothing to keep alive in them, and now and then
    # one of them kills a child before it has become what it was to be.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: `dougong run mine:app` finds what is here
    # Standard output is for the answer: with --json it is one document, whatever there is to log.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(application().run_async(arguments, result_action="return_value"))
    except Error as error:
        print(f"dougong: {_shown(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)


def _shown(error: Error) -> str:
    """Errors name what others wrote, which must not move the reader's cursor."""
    from dougong.app import printable  # here, so that `--help` needs no app

    return "\n".join(map(printable, str(error).split("\n")))
