"""A value that must not be read over anybody's shoulder."""

from __future__ import annotations

import hmac
from typing import NoReturn

__all__ = ["Secret"]


class Secret:
    """Text that shows itself only when asked by name: `secret.reveal()`.

    Not a `str`: formatting, logging, JSON and tracebacks get `***`, and code that would pass it on unaware fails.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (text.encode("utf-8", "surrogateescape") for text in (self._text, other._text))
        return hmac.compare_digest(mine, theirs)  # takes as long for a near miss as for a far one

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: that would write it out in the open; pass secret.reveal() on purpose")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Secret:
        return self
