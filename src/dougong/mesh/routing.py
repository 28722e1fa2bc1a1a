"""Where a call goes: the rules of a `VirtualService` as a pure function of what is called, with which headers.

The first rule that matches decides. Everything that can be known beforehand is worked out when the rules are compiled,
so that a call under a rule without conditions costs one attribute look-up.

For RPC the URI is the method's path (`/shop.v1.Orders/Place`), headers are metadata, the HTTP method is POST, and there
is no query.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from random import Random

import msgspec

from dougong.mesh.faults import Fault, drawn
from dougong.mesh.patterns import compile_pattern
from dougong.mesh.retrying import DEFAULT_RETRIES, RetryPolicy

__all__ = [
    "Call",
    "CallMatch",
    "Decision",
    "Destination",
    "DirectAnswer",
    "HeaderOps",
    "MatchKind",
    "Mirror",
    "Routes",
    "Rule",
    "Target",
    "TextMatch",
    "apply_headers",
    "mirrors_of",
]


class Call(msgspec.Struct):
    """What routing sees of a call. Header names are lower case, several values joined by a comma."""

    path: str
    headers: Mapping[str, str] = {}
    authority: str = ""
    port: int = 0
    method: str = "POST"
    scheme: str = "http"


class MatchKind(StrEnum):
    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"
    """RE2, of the whole value."""
    PRESENT = "present"


class TextMatch(msgspec.Struct, frozen=True):
    kind: MatchKind
    value: str = ""
    ignore_case: bool = False
    """Of exact and prefix."""


class CallMatch(msgspec.Struct, frozen=True):
    """All conditions that are set must hold."""

    uri: TextMatch | None = None
    authority: TextMatch | None = None
    method: TextMatch | None = None
    scheme: TextMatch | None = None
    headers: tuple[tuple[str, TextMatch], ...] = ()
    without_headers: tuple[tuple[str, TextMatch], ...] = ()
    port: int = 0


class HeaderOps(msgspec.Struct, frozen=True):
    """Removed first, then set, then added to what is there."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


class Destination(msgspec.Struct, frozen=True):
    host: str
    """In full."""
    subset: str = ""
    port: int = 0
    """0: the one that was called."""


class Target(msgspec.Struct, frozen=True):
    destination: Destination
    weight: int = 100
    request: HeaderOps | None = None
    response: HeaderOps | None = None


class Mirror(msgspec.Struct, frozen=True):
    destination: Destination
    percent: float = 100.0


class DirectAnswer(msgspec.Struct, frozen=True):
    """Nobody is called."""

    http_status: int
    body: str = ""


class Rule(msgspec.Struct, frozen=True):
    """No matches: everything. No targets: `answer`."""

    targets: tuple[Target, ...] = ()
    matches: tuple[CallMatch, ...] = ()
    name: str = ""
    timeout_s: float = 0.0
    """Of the whole call, retries included; 0: none of its own."""
    retries: RetryPolicy | None = DEFAULT_RETRIES
    request: HeaderOps | None = None
    response: HeaderOps | None = None
    fault: Fault | None = None
    mirrors: tuple[Mirror, ...] = ()
    answer: DirectAnswer | None = None


class Decision(msgspec.Struct, frozen=True):
    """What is to happen with a call; the same object for every call that goes the same way."""

    destination: Destination | None
    """None: see `answer`."""
    rule: str = ""
    timeout_s: float = 0.0
    retries: RetryPolicy | None = DEFAULT_RETRIES
    request: tuple[HeaderOps, ...] = ()
    response: tuple[HeaderOps, ...] = ()
    fault: Fault | None = None
    mirrors: tuple[Mirror, ...] = ()
    answer: DirectAnswer | None = None


class Routes:
    """Rules, compiled. Randomness is passed in, so a seed replays the choices."""

    __slots__ = ("_compiled", "_only", "rules")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._compiled = [_Compiled(rule) for rule in self.rules]
        first = self._compiled[0] if self._compiled else None
        self._only = first.decisions[0] if first is not None and first.holds is None and not first.bounds else None

    def route(self, call: Call, random: Random) -> Decision | None:
        """The first rule that matches, or None when none does: Envoy answers 404 then."""
        if self._only is not None:
            return self._only
        for rule in self._compiled:
            if rule.holds is None or rule.holds(call):
                if not rule.bounds:
                    return rule.decisions[0]
                return rule.decisions[bisect_right(rule.bounds, random.random() * rule.bounds[-1])]
        return None


class _Compiled:
    __slots__ = ("bounds", "decisions", "holds")

    def __init__(self, rule: Rule) -> None:
        self.holds = _any(tuple(_holds(match) for match in rule.matches))
        targets = rule.targets if len(rule.targets) == 1 else tuple(t for t in rule.targets if t.weight > 0)
        self.decisions = tuple(_decision(rule, target, len(rule.targets) == 1) for target in targets)
        if not targets:
            self.decisions = (_decision(rule, None, True),)
        self.bounds: tuple[int, ...] = ()
        if len(targets) > 1:
            self.bounds = tuple(accumulate(target.weight for target in targets))


def _decision(rule: Rule, target: Target | None, alone: bool) -> Decision:
    request = (rule.request, target.request if target is not None else None)
    response = (rule.response, target.response if target is not None else None)
    return Decision(
        destination=target.destination if target is not None else None,
        rule=rule.name,
        timeout_s=rule.timeout_s,
        retries=rule.retries,
        request=_joined(*request) if alone else _apart(*request),
        response=_joined(*response) if alone else _apart(*response),
        fault=rule.fault,
        mirrors=rule.mirrors,
        answer=rule.answer,
    )


def _joined(rule: HeaderOps | None, own: HeaderOps | None) -> tuple[HeaderOps, ...]:
    """Istio appends a lone destination's operations to the rule's; Envoy then removes, sets and adds over both."""
    if rule is None or own is None:
        return _apart(rule, own)
    return (HeaderOps((*rule.set, *own.set), (*rule.add, *own.add), (*rule.remove, *own.remove)),)


def _apart(rule: HeaderOps | None, own: HeaderOps | None) -> tuple[HeaderOps, ...]:
    """One of several destinations: Envoy does its operations first, so that the rule has the last word."""
    return tuple(ops for ops in (own, rule) if ops is not None)


def _any(tests: tuple[Callable[[Call], bool], ...]) -> Callable[[Call], bool] | None:
    if len(tests) < 2:
        return tests[0] if tests else None
    return lambda call: any(test(call) for test in tests)


def _holds(match: CallMatch) -> Callable[[Call], bool]:
    tests: list[Callable[[Call], bool]] = []
    if match.port:
        port = match.port
        tests.append(lambda call: call.port == port)
    if match.method is not None:
        of_method = _text_test(match.method)
        tests.append(lambda call: of_method(call.method))
    if match.scheme is not None:
        of_scheme = _text_test(match.scheme)
        tests.append(lambda call: of_scheme(call.scheme))
    if match.authority is not None:
        of_authority = _text_test(match.authority)
        tests.append(lambda call: of_authority(call.authority))
    if match.uri is not None:
        of_uri = _text_test(match.uri)
        tests.append(lambda call: of_uri(call.path))
    tests += [_header_test(name, text) for name, text in match.headers]
    tests += [_header_absence(name, text) for name, text in match.without_headers]
    if len(tests) == 1:
        return tests[0]
    every = tuple(tests)
    return lambda call: all(test(call) for test in every)


def _text_test(match: TextMatch) -> Callable[[str], bool]:
    wanted = match.value.lower() if match.ignore_case else match.value
    if match.kind is MatchKind.PRESENT:
        return lambda _text: True
    if match.kind is MatchKind.REGEX:
        pattern = compile_pattern(match.value)
        return pattern.matches
    if match.kind is MatchKind.EXACT:
        return (lambda text: text.lower() == wanted) if match.ignore_case else (lambda text: text == wanted)
    return (
        (lambda text: text.lower().startswith(wanted)) if match.ignore_case else (lambda text: text.startswith(wanted))
    )


def _header_test(name: str, match: TextMatch) -> Callable[[Call], bool]:
    test = _text_test(match)

    def holds(call: Call) -> bool:
        value = call.headers.get(name)
        return value is not None and test(value)

    return holds


def _header_absence(name: str, match: TextMatch) -> Callable[[Call], bool]:
    """Istio has Envoy take a missing header for an empty one here, unless presence itself is asked."""
    test = _text_test(match)
    if match.kind is MatchKind.PRESENT:
        return lambda call: name not in call.headers
    return lambda call: not test(call.headers.get(name, ""))


def apply_headers(headers: Mapping[str, str], operations: Sequence[HeaderOps]) -> dict[str, str]:
    """The headers after the operations; what is added to a header that is there follows a comma."""
    done = dict(headers)
    for ops in operations:
        for name in ops.remove:
            done.pop(name, None)
        done.update(ops.set)
        for name, value in ops.add:
            done[name] = f"{done[name]},{value}" if name in done else value
    return done


def mirrors_of(decision: Decision, random: Random) -> tuple[Destination, ...]:
    """Who gets a copy of this call, whose answer nobody waits for."""
    if not decision.mirrors:
        return ()
    return tuple(mirror.destination for mirror in decision.mirrors if drawn(mirror.percent, random))
