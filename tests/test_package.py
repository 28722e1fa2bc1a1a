"""A program pays only for the rooms it uses."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, dougong.errors, dougong.clock, dougong.config
print([name for name in ("grpc", "sqlalchemy", "rich", "uvicorn") if name in sys.modules])
"""


def test_using_one_room_does_not_load_the_others() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
