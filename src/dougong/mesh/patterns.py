"""Regular expressions of policy files: RE2's syntax and RE2's promise, that matching takes time linear in the text.

Python's `re` backtracks, so that a pattern such as `(a+)+b` takes for ever on a header somebody sends. Thompson (1968):
all ways to go on are followed at once, one step per character; the sets of ways are remembered as they turn up (a lazy
DFA), within a bound. What RE2 does not have (look-around, references back) or what is not done here is refused by name.
"""

from __future__ import annotations

from dougong.errors import Invalid
from dougong.mesh._pattern_program import Assertion, Chars, Split
from dougong.mesh._pattern_syntax import TOO_LARGE, Parser

__all__ = ["Pattern", "compile_pattern"]

_LENGTH_MAX = 1024
"""As Istio: Envoy bounds RE2's program, Istio the text."""
_REMEMBERED_MAX = 1024


class _State:
    """One set of ways to go on, and where each character leads that was seen here."""

    __slots__ = ("accepting", "first", "following", "ways")

    def __init__(self, ways: frozenset[int], *, first: bool, accepting: bool) -> None:
        self.ways = ways
        self.first = first
        """Nothing was read yet."""
        self.accepting = accepting
        """The text may end here."""
        self.following: dict[str, _State] = {}


class Pattern:
    """A compiled pattern. Matching remembers what it has seen, and is not safe between threads."""

    __slots__ = ("_begin", "_end", "_program", "_remembered", "_start", "_states", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        parser = Parser(text)
        self._start, self._end = parser.parse()
        self._program = parser.program
        self._forget()

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        state = self._begin
        for char in text:
            following = state.following.get(char)
            if following is None:
                following = self._step(state, char)
            if not following.ways:
                return False
            state = following
        return state.accepting

    def _forget(self) -> None:
        self._states: dict[frozenset[int], _State] = {}
        self._remembered = 0
        ways = frozenset((self._start,))
        accepting = self._end in self._closure(ways, at_start=True, at_end=True)
        self._begin = _State(ways, first=True, accepting=accepting)

    def _step(self, state: _State, char: str) -> _State:
        if self._remembered >= _REMEMBERED_MAX:
            self._forget()
        found: set[int] = set()
        for at in self._closure(state.ways, at_start=state.first, at_end=False):
            instruction = self._program[at]
            if isinstance(instruction, Chars) and instruction.holds(char):
                found.add(instruction.following)
        ways = frozenset(found)
        following = self._states.get(ways)
        if following is None:
            accepting = self._end in self._closure(ways, at_start=False, at_end=True)
            following = self._states[ways] = _State(ways, first=False, accepting=accepting)
        state.following[char] = following
        self._remembered += 1
        return following

    def _closure(self, ways: frozenset[int], *, at_start: bool, at_end: bool) -> set[int]:
        """Everywhere one gets without reading a character."""
        seen: set[int] = set()
        waiting = list(ways)
        while waiting:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            instruction = self._program[at]
            if isinstance(instruction, Split):
                waiting += instruction.following
            elif isinstance(instruction, Assertion) and (at_end if instruction.end else at_start):
                waiting.append(instruction.following)
        return seen


def compile_pattern(text: str) -> Pattern:
    """Raises `Invalid` (`bad_regex`) with what is wrong and where."""
    if not text:
        raise Invalid("an empty pattern matches only nothing: write exact, or leave the match out", code="bad_regex")
    if len(text) > _LENGTH_MAX:
        raise Invalid(f"{len(text)} characters, and at most {_LENGTH_MAX} are allowed", code="bad_regex")
    try:
        return Pattern(text)
    except RecursionError:
        raise Invalid(TOO_LARGE, code="bad_regex") from None
