"""Where a watch stands: what it has seen for sure, and what to ask for next. No I/O.

Only whole revisions count. A stream may break anywhere, at the next endpoint the watch goes on behind the last revision
it has seen whole, and what comes twice is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from operator import attrgetter

from dougong.registry._protocol import Change, Compacted
from dougong.registry.etcd.failures import Failed
from dougong.registry.etcd.messages import Event, Watched

_NO_WATCH = -1


class Reopen(Exception):
    """The watch was opened a revision too late to notice a compaction: open it again, at once."""


class Position:
    """`following` is the revision that comes next; `name` turns etcd's key into ours, or None for a stranger's."""

    def __init__(self, following: int, name: Callable[[bytes], str | None]) -> None:
        self.following = following
        self._name = name
        self._cluster = 0
        self._opened_at = 0
        self._fragments: list[Event] = []

    def open(self, revision: int) -> int:
        """From where to watch, with the store known to be at `revision` at least.

        etcd lets a watch start at the very revision that was compacted, and then leaves out what was deleted in it.
        So where history is wanted, ask for one revision more: etcd then refuses. Where none is wanted, do not: that
        makes etcd start with a look back, 0.1 s later.
        """
        self._fragments.clear()
        self._opened_at = self.following if self.following > revision else max(1, self.following - 1)
        return self._opened_at

    def feed(self, reply: Watched) -> list[tuple[Change, ...]]:
        """Take a response; the changes that are new, one group per revision.

        Raises `Compacted`, `Reopen`, or `Failed` when etcd ends the watch for another reason.
        """
        if reply.canceled:
            if reply.compact_revision:
                raise Compacted(self.following, reply.compact_revision)
            raise Failed(_status(reply.cancel_reason), reply.cancel_reason or "watch canceled by the server", "watch")
        if self._cluster not in {0, reply.cluster}:
            raise Compacted(self.following, self.following)  # another store: its revisions are not ours
        self._cluster = reply.cluster
        if reply.created:
            if self._opened_at == self.following and self.following <= reply.revision and self.following > 1:
                raise Reopen
            return []
        self._fragments.extend(reply.events)
        if reply.fragment:
            return []
        events, self._fragments = self._fragments, []
        groups: list[tuple[Change, ...]] = []
        for revision, group in groupby(events, attrgetter("revision")):
            if revision < self.following:
                continue
            changes = [
                Change(event.kind, name, revision, event.value)
                for event in group
                if (name := self._name(event.key)) is not None
            ]
            if changes:
                groups.append(tuple(sorted(changes, key=attrgetter("key"))))
            self.following = revision + 1
        if not events and reply.watch_id != _NO_WATCH:
            # Its own progress, sent when it has caught up. An answer to a request (-1) is not: in etcd before 3.5.8
            # that may run ahead of events still to come.
            self.following = max(self.following, reply.revision + 1)
        return groups


def _status(reason: str) -> str:
    return "PERMISSION_DENIED" if "permission denied" in reason else "UNAVAILABLE"
