"""What waits for a peer that reads too slowly, and what becomes of it when there is too much.

A connection that keeps up has none of this: what is sent goes to the kernel at once. The first write that blocks makes
an `Outbox`, and the last byte written takes it away again. What may wait is bounded in bytes and in time, and each
topic says what is to give way.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum, StrEnum

__all__ = ["Outbox", "Slow", "Verdict"]


class Slow(StrEnum):
    """What to do for a topic when a member does not keep up."""

    CLOSE = "close"
    """End the connection: who misses one message of this topic might as well miss all."""
    DROP_OLDEST = "drop_oldest"
    """Forget the topic's oldest messages that wait."""
    LATEST = "latest"
    """Only the last value counts: a message that waits is replaced by the next one, from the first on. When other
    topics leave no room for it, the client is told to ask."""
    RESUME = "resume"
    """Forget what waits of this topic and say so: the client asks for what it missed by its offset."""


class Verdict(IntEnum):
    KEPT = 0
    DROPPED = 1
    """Something of the topic was forgotten."""
    CLOSE = 2
    """Too much: end the connection."""
    RESUME = 3
    """The topic's messages were forgotten; tell the client to ask for them."""


class Outbox:
    """Frames that wait, in order. `size` is in bytes; a frame that was written in part counts in full."""

    __slots__ = ("_frames", "_written", "dropped", "since", "size")

    def __init__(self, now: int) -> None:
        self._frames: deque[tuple[bytes, str | None]] = deque()
        self._written = 0
        """Bytes of the first frame that the kernel has: it cannot be forgotten any more."""
        self.size = 0
        self.since = now
        """The tick since which the peer has read nothing."""
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: bytes, topic: str | None, slow: Slow, bytes_max: int, *, written: int = 0) -> Verdict:
        """Have a frame wait; of the first, `written` bytes are with the kernel already.

        One that was begun is kept whatever the bound: the peer would take what follows for its rest.
        """
        verdict = Verdict.KEPT
        if slow is Slow.LATEST and topic is not None and self._forget(topic, len(self._frames)):
            verdict = Verdict.DROPPED
        over = self.size + len(frame) - bytes_max
        if over > 0 and not written:
            if slow is Slow.CLOSE or topic is None:
                return Verdict.CLOSE
            if slow is Slow.RESUME:
                self._forget(topic, len(self._frames))
                return Verdict.RESUME
            while self.size + len(frame) > bytes_max:
                if not self._forget(topic, 1):  # others' frames fill it: then this one gives way
                    self.dropped += 1
                    # Of a value that counts until the next, who has the one before must know.
                    return Verdict.RESUME if slow is Slow.LATEST else Verdict.DROPPED
                verdict = Verdict.DROPPED
        if not self._frames:
            self._written = written
        self._frames.append((frame, topic))
        self.size += len(frame)
        return verdict

    def head(self) -> list[bytes | memoryview]:
        """What to write next, for one gathering write."""
        parts: list[bytes | memoryview] = []
        for number, (frame, _) in enumerate(self._frames):
            if number == 64:
                break
            parts.append(memoryview(frame)[self._written :] if number == 0 and self._written else frame)
        return parts

    def wrote(self, count: int, now: int) -> bool:
        """So many bytes went to the kernel; whether nothing waits any more."""
        if count:
            self.since = now
        count += self._written
        while self._frames and count >= len(self._frames[0][0]):
            frame, _ = self._frames.popleft()
            count -= len(frame)
            self.size -= len(frame)
        self._written = count
        return not self._frames

    def _forget(self, topic: str, most: int) -> int:
        """Take out the oldest frames of a topic, but never one that was begun; how many."""
        begun = 1 if self._written else 0
        found = 0
        kept: deque[tuple[bytes, str | None]] = deque()
        for number, item in enumerate(self._frames):
            if found < most and number >= begun and item[1] == topic:
                found += 1
                self.size -= len(item[0])
            else:
                kept.append(item)
        if found:
            self._frames = kept
            self.dropped += found
        return found
