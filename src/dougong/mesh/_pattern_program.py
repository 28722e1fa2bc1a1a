"""What a pattern becomes: small steps that read one character, go on in several places, or ask where they are."""

from __future__ import annotations

__all__ = ["CLASSES", "LAST", "Assertion", "Chars", "Ranges", "Split", "Step", "folded", "others"]

LAST = 0x10FFFF
Ranges = tuple[tuple[int, int], ...]

_DIGITS: Ranges = ((48, 57),)
_WORDS: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACES: Ranges = ((9, 10), (12, 13), (32, 32))
CLASSES = {"d": _DIGITS, "w": _WORDS, "s": _SPACES}


class Chars:
    """Reads one character that is in the ranges."""

    __slots__ = ("_fold", "_ranges", "following")

    def __init__(self, ranges: Ranges, fold: bool) -> None:
        self._ranges = ranges
        self._fold = fold
        self.following = 0

    def holds(self, char: str) -> bool:
        forms = {char, char.lower(), char.upper()} if self._fold else {char}
        return any(len(form) == 1 and low <= ord(form) <= high for form in forms for low, high in self._ranges)


class Split:
    """Goes on in several places at once."""

    __slots__ = ("following",)

    def __init__(self, *following: int) -> None:
        self.following = list(following)


class Assertion:
    """Goes on at the start (or the end) of the text only."""

    __slots__ = ("end", "following")

    def __init__(self, end: bool) -> None:
        self.end = end
        self.following = 0


Step = Chars | Split | Assertion


def others(ranges: Ranges) -> Ranges:
    """Every character that is in none of them."""
    found: list[tuple[int, int]] = []
    at = 0
    for low, high in sorted(ranges):
        if at < low:
            found.append((at, low - 1))
        at = max(at, high + 1)
    if at <= LAST:
        found.append((at, LAST))
    return tuple(found)


def folded(ranges: list[tuple[int, int]]) -> Ranges:
    """With both cases of ASCII letters, before a class is turned round."""
    found = list(ranges)
    for low, high in ranges:
        for first, last, shift in ((65, 90, 32), (97, 122, -32)):
            begin, end = max(low, first), min(high, last)
            if begin <= end:
                found.append((begin + shift, end + shift))
    return tuple(found)
