"""Who gets what is published: topics and their members, at a few bytes each.

Most topics of a large gateway have one member (a user's own), and most members one topic. So a topic's only member
stands in the table itself, and a member's only topic in the member; sets appear when there is more than one, and a
crowd in parts when there are too many to be told in one turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from dougong.gateway.crowd import Crowd

__all__ = ["Member", "Topics"]


class Member(Protocol):
    """What can subscribe."""

    topics: str | set[str] | None
    """Kept by `Topics`."""


M = TypeVar("M", bound=Member)


class Topics(Generic[M]):
    """Topics of one process; of each, at most `part` members are told in one turn.

    >>> class Someone:
    ...     topics = None
    >>> topics, one = Topics[Someone](), Someone()
    >>> topics.subscribe(one, "user:7"), topics.subscribe(one, "user:7")
    (True, False)
    >>> [member is one for member in topics.members("user:7")]
    [True]
    """

    def __init__(self, part: int = 1000) -> None:
        self._part = part
        self._members: dict[str, M | set[M] | Crowd[M]] = {}
        self.subscriptions = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def subscribe(self, member: M, topic: str) -> bool:
        """False when it had done so."""
        has = member.topics
        if has is None:
            member.topics = topic
        elif isinstance(has, set):
            if topic in has:
                return False
            has.add(topic)
        elif has == topic:
            return False
        else:
            member.topics = {has, topic}
        there = self._members.get(topic)
        if there is None:
            self._members[topic] = member
        elif isinstance(there, Crowd):
            there.add(member)
        else:
            few = there if isinstance(there, set) else {there}
            if len(few) < self._part:
                few.add(member)
                self._members[topic] = few
            else:
                self._members[topic] = crowd = Crowd(few, self._part)
                crowd.add(member)
        self.subscriptions += 1
        return True

    def unsubscribe(self, member: M, topic: str) -> bool:
        """False when it had not subscribed."""
        has = member.topics
        if isinstance(has, set):
            if topic not in has:
                return False
            has.remove(topic)
            if len(has) == 1:
                (member.topics,) = has
        elif has == topic:
            member.topics = None
        else:
            return False
        self._take_out(member, topic)
        return True

    def drop(self, member: M) -> None:
        """Unsubscribe from everything."""
        has, member.topics = member.topics, None
        if has is None:
            return
        for topic in has if isinstance(has, set) else (has,):
            self._take_out(member, topic)

    def members(self, topic: str) -> tuple[M, ...]:
        """In no order; a copy, since sending may drop some of them."""
        there = self._members.get(topic)
        if there is None:
            return ()
        return tuple(there) if isinstance(there, (set, Crowd)) else (there,)

    def crowd(self, topic: str) -> Crowd[M] | None:
        """The members when there are, or were, more than are told in one turn."""
        there = self._members.get(topic)
        return there if isinstance(there, Crowd) else None

    def count(self, topic: str) -> int:
        there = self._members.get(topic)
        return 0 if there is None else len(there) if isinstance(there, (set, Crowd)) else 1

    def _take_out(self, member: M, topic: str) -> None:
        there = self._members[topic]
        self.subscriptions -= 1
        if isinstance(there, set):
            there.remove(member)
            if len(there) == 1:
                (self._members[topic],) = there
            return
        if isinstance(there, Crowd):
            there.remove(member)
            if there.parts:
                return
        del self._members[topic]
