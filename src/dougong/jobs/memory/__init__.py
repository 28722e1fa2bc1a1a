"""A queue in one process's memory: `queue` keeps the protocol, `table` makes the moves, `rows` is what is kept."""

from dougong.jobs.memory.queue import MemoryQueue

__all__ = ["MemoryQueue"]
