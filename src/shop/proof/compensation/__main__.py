"""`python -m shop.proof.compensation OPTIONS`: one till, that obeys lines on its stdin."""

from __future__ import annotations

import sys

import msgspec
import uvloop

from dougong.errors import Error
from dougong.telemetry import configure_logging
from shop.proof.compensation.till import TillOptions, till


def main(*arguments: str) -> None:
    """Run a till until its stdin ends."""
    try:
        (text,) = arguments
        options = msgspec.json.decode(text, type=TillOptions)
    except ValueError as error:  # msgspec's are ValueErrors, too
        sys.exit(f"one argument is wanted, a till's options as JSON: {error}")
    configure_logging("till", json=False, level="error", stream=sys.stderr)  # that a participant is away is the plan
    try:
        uvloop.run(till(options, lambda line: print(line, flush=True)))
    except Error as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
