"""For every app that takes users' tokens: hear of sessions that ended, so that their tokens are refused there too.

    app = App("edge", front=[Users], prepare=[learn_ended_sessions], background=[follow_ended_sessions])

While users does not answer, nothing new is heard: who logged out then is believed until the access token expires.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict

from dougong.errors import Error
from dougong.rpc import EndedSessions, call_scope
from dougong.telemetry import counter, get_logger
from shop.users._contract import EndedSince, FeedMark
from shop.users._service import Users

__all__ = ["EndedReader", "follow_ended_sessions", "learn_ended_sessions"]

log = get_logger(__name__)
_failures = counter("shop_ended_follow_failures_total", "Times users was asked for ended sessions in vain.")

EVERY_S = 1.0
_FEEDS_MAX = 64
_PATIENCE_S = 1.0


class EndedReader:
    """Reads the lists of all processes of users, whichever answers, each from where it was left."""

    def __init__(self, users: Users, ended: EndedSessions) -> None:
        self._users = users
        self._ended = ended
        self._marks: OrderedDict[str, int] = OrderedDict()

    async def read(self) -> int:
        """What is new now; how many items it was. Raises what the call raises."""
        read = 0
        while True:
            marks = tuple(FeedMark(feed=feed, position=position) for feed, position in self._marks.items())
            page = await self._users.ended_sessions(EndedSince(marks=marks))
            for item in page.items:
                self._ended.end(item.session_id, item.until_us)
            read += len(page.items)
            self._marks[page.mark.feed] = page.mark.position
            self._marks.move_to_end(page.mark.feed)
            if len(self._marks) > _FEEDS_MAX:
                self._marks.popitem(last=False)  # of a process that ended long ago, or else it is read anew
            if not page.more:
                return read


async def learn_ended_sessions(users: Users, ended: EndedSessions) -> None:
    """Before serving: all there is to know, if users answers; else serve without, and follow as soon as it does.

    At a cold start users is not there yet, and nobody has logged out: that must not hold up the others.
    Following complains when users stays away.
    """
    try:
        with call_scope(timeout_s=_PATIENCE_S):
            await EndedReader(users, ended).read()
    except Error as error:
        log.info("ended sessions are not known yet", error=str(error))


async def follow_ended_sessions(users: Users, ended: EndedSessions) -> None:
    """While serving: once a second, and not all processes in step."""
    reader = EndedReader(users, ended)
    failing = False
    while True:
        try:
            await reader.read()
            failing = False
        except Error as error:
            _failures.inc()
            if not failing:
                log.warning("ended sessions are not heard of; tokens live until they expire", error=str(error))
            failing = True
        await asyncio.sleep(EVERY_S * random.uniform(0.5, 1.5))  # spreads load, keeps no secret
