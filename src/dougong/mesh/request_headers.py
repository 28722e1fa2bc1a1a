"""What a route does to the headers of a call that goes out from this process.

A call has no headers of its own but its credential and its baggage, and its colours are in the latter: rules see them
as headers, so a rule may change them as such. Everything else that a rule sets goes along as metadata.

    rule = RequestHeaders(decision.request, mesh.colouring)
    headers = rule.apply({"authorization": "Bearer ...", "baggage": "x-dougong-colour=green"})
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from dougong.mesh.baggage import HEADER, Member, parse_baggage, write_baggage
from dougong.mesh.colour import Colouring
from dougong.mesh.routing import HeaderOps, apply_headers

__all__ = ["VARIABLE", "RequestHeaders", "why_not_sent"]

_NAME = re.compile(r"[0-9a-z_.-]+\Z")
VARIABLE = re.compile(r"%[A-Z_]+[^%]*%")
"""Of Envoy's, which nobody works out here."""
_VALUE = re.compile(r"[\x20-\x7e]*\Z")
_GRPCS_OWN = frozenset(
    ["connection", "content-length", "content-type", "host", "te", "transfer-encoding", "upgrade", "user-agent"]
)
_OURS = frozenset(["traceparent", "tracestate", "x-dougong-origin"])


def why_not_sent(name: str, value: str = "") -> str:
    """Why a call cannot be made with this header, or without it; empty where it can. `name` is lower case."""
    if name in _GRPCS_OWN or name.startswith((":", "grpc-")):
        return f"{name} belongs to gRPC, which sets it itself"
    if name in _OURS:
        return f"{name} says where a call comes from, which no policy may change"
    if name.endswith("-bin"):
        return f"{name} would hold bytes"
    if not _NAME.match(name) or not _VALUE.match(value):
        return f"{name} is nothing that gRPC takes for metadata"
    return ""


class RequestHeaders:
    """The operations of one route, less those that cannot be done."""

    __slots__ = ("_colouring", "_operations")

    def __init__(self, operations: Sequence[HeaderOps], colouring: Colouring) -> None:
        self._operations = tuple(_sent(ops) for ops in operations)
        self._colouring = colouring

    def apply(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers to send for those that the call has; what is done to a colour is done to its baggage."""
        colours = self._colouring.headers(headers.get(HEADER, ""))
        done = apply_headers({**colours, **headers}, self._operations)
        changed = {key: done.pop(key, None) for key in self._colouring.keys}
        changed = {key: value for key, value in changed.items() if value != colours.get(key)}
        if changed:
            members = parse_baggage(done.pop(HEADER, ""))
            for key, value in changed.items():
                members.pop(key, None)
                if value is not None:
                    members[key] = Member(value)
            if written := write_baggage(members):
                done[HEADER] = written
        return done


def _sent(ops: HeaderOps) -> HeaderOps:
    return HeaderOps(_values(ops.set), _values(ops.add), tuple(name for name in ops.remove if not why_not_sent(name)))


def _values(values: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """As Envoy reads them: a percent sign is written twice, and what stands between two is a variable."""
    return tuple(
        (name, value.replace("%%", "%"))
        for name, value in values
        if not why_not_sent(name, value) and not VARIABLE.search(value)
    )
