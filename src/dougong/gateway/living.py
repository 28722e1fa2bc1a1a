"""Which processes are there, by what each says of itself now and then.

A process that was killed says nothing, not even that it is gone, so silence has to be enough; but who hears nobody may
be the one who is cut off. So others are measured by what one hears of oneself, by the same way that theirs comes: who
was silent while I was heard is gone, and who does not hear himself knows nothing.

Ticks are passed in, and nothing else comes from outside.
"""

from __future__ import annotations

from dougong.gateway.connection import NEVER

__all__ = ["Living"]


class Living:
    """As one process (`me`) hears it. Each says that it is there at least thrice a `term`."""

    def __init__(self, me: str, term: int) -> None:
        self._me = me
        self._term = term
        self._heard: dict[str, int] = {}
        """Ticks, by process."""
        self._since = NEVER
        """The tick since which it hears itself, without a break."""

    def heard(self, process: str, now: int) -> None:
        """It said something."""
        if process == self._me:
            last = self._heard.get(process)
            if last is None or now - last > self._term // 2:
                self._since = now
        self._heard[process] = now

    def there(self) -> frozenset[str] | None:
        """All that live; None when it has not listened for long enough to say so."""
        last = self._heard.get(self._me)
        if last is None or last - self._since <= self._term:
            return None
        for process in [one for one, at in self._heard.items() if last - at > self._term]:
            del self._heard[process]
        return frozenset(self._heard)
