"""RE2's syntax: what is understood means what it means elsewhere, the rest is refused, and time is linear."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Invalid
from dougong.mesh import patterns
from dougong.mesh.patterns import Pattern, compile_pattern

LETTERS = st.sampled_from("abA1_ \n.-é")
PLAIN = "a b A 1 é . \\. \\d \\w \\s \\D \\W \\S \\n \\x61 ^ $"
CLASSES = "[ab] [^ab] [a-zA] [-a] [a-] [\\d_] [^\\w] [\\]a] []a] [^]a]"
FLAGGED = "(?i:a) (?i:[^a]) (?s:.)"
ATOMS = st.sampled_from(f"{PLAIN} {CLASSES} {FLAGGED}".split())


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = inner.map("({})".format) | inner.map("(?:{})".format) | inner.map("(?P<n>{})".format)
    repeated = st.tuples(
        group | ATOMS, st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "*?", "+?", "??", "{0}"])
    ).map("".join)
    return (
        repeated
        | st.lists(inner, min_size=2, max_size=3).map("".join)
        | st.lists(inner, min_size=2, max_size=3).map("|".join).map("(?:{})".format)
    )


PATTERNS = st.recursive(ATOMS, grown, max_leaves=6)


@given(PATTERNS, st.text(LETTERS, max_size=6))
def test_it_means_what_it_means_to_python(pattern: str, text: str) -> None:
    """Python's own `re` as the oracle, ASCII classes as in RE2, `$` only at the very end."""
    try:
        expected = re.compile(pattern.replace("$", r"\Z").replace("(?P<n>", "("), re.ASCII)
    except re.error:
        return  # Python refuses the repeat of an anchor
    if any(repeat in pattern for repeat in ("^*", "$*", "^+", "$+", "^?", "$?", "^{", "$" + "{")):
        return  # it means nothing, and Python and RE2 may differ about that
    assert compile_pattern(pattern).matches(text) == bool(expected.fullmatch(text))


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("a|b", "b", True),
        ("ab", "abc", False),
        ("", "", None),
        ("^a$", "a", True),
        (r"\Aa\z", "a", True),
        ("a^b", "ab", False),
        ("(?i)ABC", "abc", True),
        ("(?i:a)B", "Ab", False),
        ("(a(?i)b)c", "aBc", True),
        ("(a(?i)b)c", "aBC", False),
        ("(?i-i:a)", "A", False),
        ("x{,3}", "x{,3}", True),
        ("x{a", "x{a", True),
        ("a{0}b", "b", True),
        (r"\x{1F600}", "😀", True),
        (r"^(.*?;)?(user=ada)(;.*)?$", "theme=dark;user=ada;x=1", True),
        (r"^(.*?;)?(user=ada)(;.*)?$", "user=adam", False),
        (".", "\n", False),
        ("(?s).", "\n", True),
        ("(?<n>a)", "a", True),
    ],
)
def test_by_example(pattern: str, text: str, matches: bool | None) -> None:
    if matches is None:
        with pytest.raises(Invalid):
            compile_pattern(pattern)
    else:
        assert compile_pattern(pattern).matches(text) is matches


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        (r"(a)\1", r"the reference back \1"),
        ("a(?=b)", "look-ahead"),
        ("a(?!b)", "look-ahead"),
        ("(?<=a)b", "look-behind"),
        ("(?<!a)b", "look-behind"),
        ("(?>a)", "atomic"),
        ("(?(1)a)", "condition"),
        ("a*+", "a repeat of a repeat"),
        ("+a", "nothing to repeat"),
        ("a|*", "nothing to repeat"),
        ("a" * 1025, "1025 characters"),
        ("(" * 60 + "a" + ")" * 60, "nest more than 50"),
        (r"\x{110000}", "no character"),
        (r"\xZZ", "hexadecimal"),
        ("(?Pa)", "flag"),
        ("(?P<a", "name does not end"),
        ("((a{100}){100}){100}", "5000 steps"),
    ],
)
def test_what_is_refused_is_named(pattern: str, told: str) -> None:
    with pytest.raises(Invalid) as raised:
        compile_pattern(pattern)
    assert raised.value.code == "bad_regex"
    assert told in raised.value.message


def test_one_step_for_each_character_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's `re` needs about 2 ** 5000 steps here; there are few sets of ways, and each is worked out once."""
    steps: list[str] = []
    step = Pattern._step

    def counted(self: Pattern, state: patterns._State, char: str) -> patterns._State:
        steps.append(char)
        return step(self, state, char)

    monkeypatch.setattr(Pattern, "_step", counted)
    assert not compile_pattern("(a+)+b").matches("a" * 5000)
    assert len(steps) <= 3


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_REMEMBERED_MAX", 8)
    pattern = compile_pattern("(.*a.{3}|b)*")
    texts = [format(number, "010b").replace("0", "a").replace("1", "c") for number in range(256)]
    oracle = re.compile("(?:.*a.{3}|b)*")
    for text in texts:
        assert pattern.matches(text) == bool(oracle.fullmatch(text))
        assert pattern._remembered <= 8


@pytest.mark.fuzz
@given(st.text(st.sampled_from("ab()[]{}|*+?^$\\.,:-<>P=!i01 dwx"), max_size=30), st.text(max_size=10))
def test_no_pattern_does_harm(pattern: str, text: str) -> None:
    with contextlib.suppress(Invalid):
        assert compile_pattern(pattern).matches(text) in {True, False}
