"""gRPC's asyncio objects must not die in a forked child.

The last one to go stops gRPC's polling thread and waits for it, again and again; in a child there is no such thread, so
it waits for ever. A collection of garbage between fork and exec is enough, and uvloop runs Python code there for each
process it starts. Who starts it waits for the exec: his whole event loop stands still. It is rare, and happens to those
who threw channels away just before.
"""

from __future__ import annotations

import gc
import os

__all__ = ["guard_forks"]


class _Guard:
    """Nothing is collected from just before a fork until the child has put what it inherited out of reach."""

    def __init__(self) -> None:
        self._paused = False

    def before(self) -> None:
        if gc.isenabled():
            self._paused = True
            gc.disable()

    def in_parent(self) -> None:
        if self._paused:
            self._paused = False
            gc.enable()

    def in_child(self) -> None:
        gc.freeze()
        self.in_parent()


_guard: _Guard | None = None


def guard_forks() -> None:
    """For this process and its children, from now on. Again does nothing."""
    global _guard  # hooks cannot be taken back, so there is one to a process
    if _guard is None:
        _guard = _Guard()
        os.register_at_fork(before=_guard.before, after_in_parent=_guard.in_parent, after_in_child=_guard.in_child)
