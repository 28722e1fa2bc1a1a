"""RE2's syntax, as far as it is done here, to a program of small steps for `patterns`."""

from __future__ import annotations

from typing import NoReturn

from dougong.errors import Invalid
from dougong.mesh._pattern_program import CLASSES, LAST, Assertion, Chars, Ranges, Split, Step, folded, others

__all__ = ["TOO_LARGE", "Parser"]

_STEPS_MAX = 5_000
_REPEAT_MAX = 1000
"""RE2's own."""
_NESTING_MAX = 50
TOO_LARGE = f"the pattern takes more than {_STEPS_MAX} steps: repeat less, or nest less"
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_NAMED = {
    "b": r"the word boundary \b",
    "B": r"the word boundary \B",
    "C": r"the single byte \C",
    "p": r"the Unicode class \p",
    "P": r"the Unicode class \P",
    "Q": r"the quotation \Q",
    "Z": r"\Z, which RE2 writes \z and",
    "k": r"the reference back \k",
    "g": r"the reference back \g",
}
_GROUPS = {
    "=": "look-ahead (?=",
    "!": "look-ahead (?!",
    "<=": "look-behind (?<=",
    "<!": "look-behind (?<!",
    ">": "the atomic group (?>",
    "#": "the comment (?#",
    "(": "the condition (?(",
    "P=": "the reference back (?P=",
    "P>": "the recursion (?P>",
}


_Part = tuple[int, int]
"""Where it begins, and the empty step it ends with."""


class Parser:
    """Recursive descent over one pattern; `program` is what comes of it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._fold = False
        self._dot_all = False
        self._depth = 0
        self.program: list[Step] = []

    def parse(self) -> _Part:
        part = self._either()
        if self._at < len(self._text):
            self._refuse("a ) without its (: write \\) for the character")
        return part

    def _refuse(self, what: str) -> NoReturn:
        raise Invalid(f"{what} (at character {self._at + 1} of {self._text[:60]!r})", code="bad_regex", at=self._at + 1)

    def _not_done(self, what: str) -> NoReturn:
        self._refuse(f"{what} is not understood: match by prefix, classes and | instead")

    def _add(self, step: Step) -> int:
        if len(self.program) >= _STEPS_MAX:
            raise Invalid(TOO_LARGE, code="bad_regex")
        self.program.append(step)
        return len(self.program) - 1

    def _empty(self) -> _Part:
        at = self._add(Split())
        return at, at

    def _join(self, end: int, beginning: int) -> None:
        step = self.program[end]
        assert isinstance(step, Split)
        step.following.append(beginning)

    def _peek(self, count: int = 1) -> str:
        return self._text[self._at : self._at + count]

    def _either(self) -> _Part:
        flags = self._fold, self._dot_all
        branches = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._sequence())
        self._fold, self._dot_all = flags
        if len(branches) == 1:
            return branches[0]
        start, end = self._add(Split(*(begin for begin, _ in branches))), self._add(Split())
        for _, finish in branches:
            self._join(finish, end)
        return start, end

    def _sequence(self) -> _Part:
        start, end = self._empty()
        while (char := self._peek()) and char not in "|)":
            begin = self._at
            part = self._atom()
            if part is None:
                continue
            first, last = self._repeated(part, begin)
            self._join(end, first)
            end = last
        return start, end

    def _repeated(self, part: _Part, begin: int) -> _Part:
        """Counted repeats are written out: the atom is parsed again for each."""
        after = self._at
        bounds = self._bounds()
        if bounds is None:
            return part
        resume = self._at
        if self._bounds() is not None:
            self._at = after
            self._refuse("a repeat of a repeat: put the inner one in ( )")
        least, most = bounds
        start, end = self._empty()
        for count in range(max(least, 1 if most is None else most)):
            if count:
                self._at = begin
                again = self._atom()
                assert again is not None
                part = again
            first, last = part
            self._join(end, first)
            following = self._add(Split())
            self._join(last, following)
            if count >= least:
                self._join(end, following)
            if most is None and count == max(least, 1) - 1:
                self._join(last, first)
            end = following
        self._at = resume
        return start, end

    def _bounds(self) -> tuple[int, int | None] | None:
        char = self._peek()
        found: tuple[int, int | None] | None = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(char)
        if found is not None:
            self._at += 1
        elif char == "{":
            found = self._counted()
        if found is not None and self._peek() == "?":
            self._at += 1  # as few as possible, which is the same when all of the text must match
        return found

    def _counted(self) -> tuple[int, int | None] | None:
        """`{2}`, `{2,}`, `{2,5}`; anything else is the character { itself, as in RE2."""
        close = self._text.find("}", self._at)
        low, comma, high = self._text[self._at + 1 : close].partition(",") if close > 0 else ("", "", "")
        if not _is_count(low) or (high and not _is_count(high)):
            return None
        least, most = int(low), int(high) if high else None if comma else int(low)
        if least > _REPEAT_MAX or (most or 0) > _REPEAT_MAX or (most is not None and most < least):
            self._refuse(f"a repeat is from 0 to {_REPEAT_MAX}, the smaller number first")
        self._at = close + 1
        return least, most

    def _atom(self) -> _Part | None:
        char = self._peek()
        if char in {"*", "+", "?"}:
            self._refuse(f"nothing to repeat before {char}: write \\{char} for the character")
        self._at += 1
        match char:
            case "(":
                return self._group()
            case "[":
                return self._chars(self._class())
            case ".":
                return self._chars(((0, LAST),) if self._dot_all else ((0, 9), (11, LAST)), fold=False)
            case "^" | "$":
                return self._assertion(end=char == "$")
            case "\\":
                return self._escape()
            case _:
                return self._chars(((ord(char), ord(char)),))

    def _chars(self, ranges: Ranges, *, fold: bool | None = None) -> _Part:
        step = Chars(ranges, self._fold if fold is None else fold)
        at, end = self._add(step), self._add(Split())
        step.following = end
        return at, end

    def _assertion(self, *, end: bool) -> _Part:
        step = Assertion(end)
        at, finish = self._add(step), self._add(Split())
        step.following = finish
        return at, finish

    def _group(self) -> _Part | None:
        opened = self._at - 1
        flags = self._fold, self._dot_all
        if self._peek() == "?":
            self._at += 1
            for mark, what in _GROUPS.items():
                if self._peek(len(mark)) == mark:
                    self._not_done(what)
            if self._peek(2) == "P<" or self._peek() == "<":
                close = self._text.find(">", self._at)
                if close < 0:
                    self._refuse("the group's name does not end: write (?P<name>...)")
                self._at = close + 1
            elif self._flags():
                return None
        self._depth += 1
        if self._depth > _NESTING_MAX:
            self._refuse(f"groups nest more than {_NESTING_MAX} deep")
        part = self._either()
        self._depth -= 1
        self._fold, self._dot_all = flags
        if self._peek() != ")":
            self._at = opened
            self._refuse("a ( without its ): write \\( for the character")
        self._at += 1
        return part

    def _flags(self) -> bool:
        """After `(?`: up to `:`, or to `)` when the flags are for what follows (then there is no group)."""
        on = True
        while True:
            char = self._peek()
            self._at += 1
            match char:
                case "-":
                    on = False
                case "i":
                    self._fold = on
                case "s":
                    self._dot_all = on
                case ":":
                    return False
                case ")":
                    return True
                case _:
                    self._at -= 1
                    self._not_done(f"the flag {char!r}")

    def _escape(self) -> _Part:
        char = self._peek()
        if char.lower() in CLASSES and char:
            self._at += 1
            ranges = CLASSES[char.lower()]
            return self._chars(ranges if char.islower() else others(ranges), fold=False)
        if char in {"A", "z"}:
            self._at += 1
            return self._assertion(end=char == "z")
        code = self._escaped()
        return self._chars(((code, code),))

    def _escaped(self) -> int:
        """The character after a backslash."""
        char = self._peek()
        if not char:
            self._refuse("a \\ with nothing after it: write \\\\ for the character")
        if char in _NAMED:
            self._not_done(_NAMED[char])
        if char in "123456789":
            self._not_done(f"the reference back \\{char}")
        self._at += 1
        if char in _CONTROLS:
            return ord(_CONTROLS[char])
        if char == "x":
            return self._hexadecimal()
        if char.isalnum():
            self._at -= 1
            self._not_done(f"the escape \\{char}")
        return ord(char)

    def _hexadecimal(self) -> int:
        digits = self._peek(2)
        if digits.startswith("{"):
            close = self._text.find("}", self._at)
            digits = self._text[self._at + 1 : close] if close > 0 else ""
            self._at = close
        self._at += 1 if self._text[self._at : self._at + 1] == "}" else 2
        if not digits or len(digits) > 6 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            self._refuse("\\x wants two hexadecimal digits, or any in braces")
        code = int(digits, 16)
        if code > LAST:
            self._refuse("\\x names no character")
        return code

    def _class(self) -> Ranges:
        opened = self._at - 1
        negated = self._peek() == "^"
        self._at += negated
        ranges: list[tuple[int, int]] = []
        first = True
        while first or self._peek() != "]":
            first = False
            if not self._peek():
                self._at = opened
                self._refuse("a [ without its ]: write \\[ for the character")
            if self._peek(2) == "[:":
                self._not_done("the class [:name:]")
            if self._peek() == "\\" and self._text[self._at + 1 : self._at + 2].lower() in CLASSES:
                char = self._text[self._at + 1 : self._at + 2]
                if char:
                    self._at += 2
                    ranges += CLASSES[char] if char.islower() else others(CLASSES[char.lower()])
                    continue
            low = self._class_char()
            high = low
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in {"]", ""}:
                self._at += 1
                high = self._class_char()
                if high < low:
                    self._refuse("a range whose end comes before its beginning")
            ranges.append((low, high))
        self._at += 1
        found = folded(ranges) if self._fold else tuple(ranges)
        return others(found) if negated else found

    def _class_char(self) -> int:
        char = self._peek()
        self._at += 1
        return self._escaped() if char == "\\" else ord(char)


def _is_count(text: str) -> bool:
    return 0 < len(text) <= 5 and text.isascii() and text.isdigit()
