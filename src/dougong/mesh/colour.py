"""Traffic colouring: a call that was marked at the front door stays marked through every hop behind it.

A canary rule matches a header, say `x-dougong-colour: canary`. The first service sees it; the service it calls would
not, as nobody copies headers. So the headers that rules look at are folded into the call's baggage, which telemetry
passes on anyway, and become headers again on each call that goes out: the whole path takes the canary's side.

    colouring = Colouring(policies.matched_headers())
    baggage = colouring.received(headers_of_the_call_being_served)
    headers = colouring.onward(baggage, headers_of_the_call_to_make)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dougong.mesh.baggage import HEADER, Member, merge_baggage, parse_baggage, write_baggage

__all__ = ["COLOUR_HEADER", "Colouring"]

COLOUR_HEADER = "x-dougong-colour"
_VALUE_MAX = 256
_NEVER = frozenset(
    [
        "authorization",
        "baggage",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "proxy-authorization",
        "set-cookie",
        "te",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "user-agent",
    ]
)
"""A rule may look at them, but they belong to one hop, or are secret."""


class Colouring:
    """Which headers are carried: `x-dougong-colour`, and those given, less what must not leave its hop."""

    __slots__ = ("keys",)

    def __init__(self, headers: Iterable[str] = ()) -> None:
        names = dict.fromkeys([COLOUR_HEADER, *sorted(name.lower() for name in headers)])
        self.keys = tuple(name for name in names if name not in _NEVER and not name.startswith((":", "grpc-")))

    def received(self, headers: Mapping[str, str]) -> dict[str, Member]:
        """The baggage of a call that came in. A header that is there goes before the baggage's word for it."""
        inherited = parse_baggage(headers[HEADER]) if HEADER in headers else {}
        own = {key: Member(headers[key]) for key in self.keys if _fits(headers.get(key))}
        return merge_baggage(inherited, own)

    def carried(self, headers: Mapping[str, str]) -> str:
        """The baggage, as text, of a call that came in with these headers."""
        return write_baggage(self.received(headers))

    def headers(self, baggage: str) -> dict[str, str]:
        """The headers that a call with this baggage counts as having."""
        carried = parse_baggage(baggage)
        return {key: carried[key].value for key in self.keys if key in carried and _fits(carried[key].value)}

    def onward(self, baggage: Mapping[str, Member], headers: Mapping[str, str]) -> dict[str, str]:
        """The headers of a call to make, coloured. What the caller sets itself, header or baggage, is left as it is."""
        mine = self.received(headers)
        if not baggage and not mine:
            return dict(headers)
        carried = merge_baggage(baggage, mine)
        done = dict(headers)
        for key in self.keys:
            member = carried.get(key)
            if member is not None and _fits(member.value):
                done.setdefault(key, member.value)
        coloured = {key: carried[key] for key in self.keys if key in carried}
        if written := write_baggage(merge_baggage(carried, coloured)):
            done[HEADER] = written
        return done


def _fits(value: str | None) -> bool:
    """What a header can hold: printable ASCII, not much of it."""
    return value is not None and 0 < len(value) <= _VALUE_MAX and value.isascii() and value.isprintable()
