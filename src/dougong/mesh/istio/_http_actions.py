"""What a rule of a `VirtualService` does besides choosing a destination."""

from __future__ import annotations

import http
import re
from collections.abc import Callable

from dougong.mesh.faults import Abort, Fault
from dougong.mesh.istio._fields import Table
from dougong.mesh.request_headers import VARIABLE, why_not_sent
from dougong.mesh.retrying import DEFAULT_RETRIES, RETRY_CONDITIONS, RetryPolicy
from dougong.mesh.routing import Destination, HeaderOps, Mirror

__all__ = ["GRPC_STATUSES", "read_fault", "read_headers", "read_mirrors", "read_retries"]

GRPC_STATUSES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
_HEADER_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+\Z")
_AUTHORITY = frozenset([":authority", "host", "authority"])
_ATTEMPTS_MAX = 2**31 - 1
_HTTP_STATUSES = frozenset(status.value for status in http.HTTPStatus)


def read_retries(route: Table) -> RetryPolicy | None:
    """None: not tried again. Nothing said: Istio's two."""
    retries = route.table("retries")
    if retries is None:
        return DEFAULT_RETRIES
    with retries:
        attempts = retries.whole("attempts", high=_ATTEMPTS_MAX)
        per_try_s = retries.duration("perTryTimeout")
        conditions, statuses = _read_conditions(retries)
        others = retries.flag("retryIgnorePreviousHosts", default=DEFAULT_RETRIES.other_hosts_first)
        remote = retries.flag("retryRemoteLocalities")
        backoff_s = retries.duration("backoff", default=DEFAULT_RETRIES.backoff_s)
        if not attempts:
            for name in ("perTryTimeout", "retryOn", "retryRemoteLocalities"):
                if name in retries:
                    retries.fault(
                        name, "contradiction", "attempts is 0, so nothing is tried again: set it, or remove this"
                    )
            return None
    return RetryPolicy(attempts, per_try_s, conditions, statuses, others, remote, backoff_s)


def _read_conditions(retries: Table) -> tuple[frozenset[str], frozenset[int]]:
    written = retries.text("retryOn")
    if not written:
        return DEFAULT_RETRIES.conditions, DEFAULT_RETRIES.statuses
    conditions: set[str] = set()
    statuses: set[int] = set()
    if " " in written:
        retries.warn("retryOn", "refused_by_istio", "has spaces, at which Istio refuses the file: write commas only")
    for part in (part.strip() for part in written.split(",")):
        if len(part) == 3 and part.isascii() and part.isdigit() and int(part) in _HTTP_STATUSES:
            statuses.add(int(part))
        elif part in RETRY_CONDITIONS:
            conditions.add(part)
        elif part:
            known = ", ".join(sorted(RETRY_CONDITIONS))
            retries.fault(
                "retryOn", "unknown_value", f"{part[:40]!r} is no condition; there are {known}, and HTTP statuses"
            )
    if statuses:
        conditions.add("retriable-status-codes")
    return frozenset(conditions), frozenset(statuses)


def read_fault(route: Table) -> Fault | None:
    fault = route.table("fault")
    if fault is None:
        return None
    with fault:
        if "delay" not in fault and "abort" not in fault:
            fault.fault("", "missing_field", "says nothing: set delay, abort or both")
        delay_s, delay_percent = _read_delay(fault)
        abort, abort_percent = _read_abort(fault)
    return Fault(delay_s, delay_percent, abort, abort_percent)


def _read_delay(fault: Table) -> tuple[float, float]:
    delay = fault.table("delay")
    if delay is None:
        return 0.0, 0.0
    with delay:
        fixed_s = delay.duration("fixedDelay")
        if delay.node("exponentialDelay") is not None:
            delay.fault("exponentialDelay", "unknown_value", "is not implemented by Istio either: write fixedDelay")
        elif "fixedDelay" not in delay:
            delay.fault("", "missing_field", "has no fixedDelay")
        old = delay.percent("percent")
        if old:
            delay.warn("percent", "deprecated_field", "is deprecated: write percentage with value")
        return fixed_s, _read_share(delay, otherwise=float(old))


def _read_abort(fault: Table) -> tuple[Abort | None, float]:
    abort = fault.table("abort")
    if abort is None:
        return None, 0.0
    with abort:
        chosen = abort.one_of("httpStatus", "grpcStatus", "http2Error")
        status = abort.whole("httpStatus", low=200, high=599)
        name = abort.choice("grpcStatus", GRPC_STATUSES, default="OK")
        if abort.node("http2Error") is not None:
            abort.fault(
                "http2Error", "unknown_value", "is not implemented by Istio either: write httpStatus or grpcStatus"
            )
        share = _read_share(abort, otherwise=0.0)
        if not chosen:
            abort.warn("", "no_effect", "aborts nothing: set httpStatus or grpcStatus")
            return None, 0.0
    return Abort(status, 0 if status else GRPC_STATUSES.index(name)), share


def _read_share(holder: Table, *, otherwise: float) -> float:
    """Istio injects nothing where no percentage is given."""
    percentage = holder.table("percentage")
    if percentage is None:
        if not otherwise:
            holder.warn("", "no_effect", "has no percentage, so it happens to no call: add percentage with value")
        return otherwise
    with percentage:
        share = percentage.number("value", high=100.0)
        if "value" not in percentage:
            percentage.warn("", "no_effect", "has no value, so it happens to no call")
    return share


def read_mirrors(route: Table, read: Callable[[Table], Destination]) -> tuple[Mirror, ...]:
    found: list[Mirror] = []
    route.one_of("mirror", "mirrors")
    share = 100.0
    for old in ("mirrorPercent", "mirror_percent"):
        share = float(route.percent(old, default=int(share)))
        if old in route:
            route.warn(old, "deprecated_field", "is deprecated: write mirrorPercentage with value")
    percentage = route.table("mirrorPercentage")
    if percentage is not None:
        with percentage:
            share = percentage.number("value", high=100.0)
    mirror = route.table("mirror")
    if mirror is not None:
        found.append(Mirror(read(mirror), share))
    for entry in route.tables("mirrors"):
        with entry:
            destination = entry.table("destination", required=True)
            own = entry.table("percentage")
            share = 100.0
            if own is not None:
                with own:
                    share = own.number("value", high=100.0)
            if destination is not None:
                found.append(Mirror(read(destination), share))
    return tuple(found)


def read_headers(holder: Table) -> tuple[HeaderOps | None, HeaderOps | None]:
    headers = holder.table("headers")
    if headers is None:
        return None, None
    with headers:
        return _read_operations(headers, "request"), _read_operations(headers, "response")


def _read_operations(headers: Table, side: str) -> HeaderOps | None:
    operations = headers.table(side)
    if operations is None:
        return None
    with operations:
        ops = HeaderOps(
            set=_read_values(operations, "set", side),
            add=_read_values(operations, "add", side),
            remove=tuple(name.lower() for name in operations.texts("remove")),
        )
        for name in ops.remove:
            if not _HEADER_NAME.match(name) or name in _AUTHORITY:
                operations.fault("remove", "bad_header", f"{name[:60]!r} cannot be removed")
    if ops == HeaderOps():
        return None
    if side == "response":
        reason = "who calls in this process is shown no headers of an answer: a sidecar applies it"
        headers.warn(side, "not_enforced", reason)
        return ops
    reasons = [why_not_sent(name, value) for name, value in (*ops.set, *ops.add)]
    reasons += [why_not_sent(name) for name in ops.remove]
    for reason in dict.fromkeys(filter(None, reasons)):
        headers.warn(side, "not_enforced", f"{reason}: a sidecar applies it, calls of this process do not")
    return ops


def _read_values(operations: Table, field: str, side: str) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for name, value in sorted(operations.labels(field).items()):
        lowered = name.lower()
        if lowered in _AUTHORITY and side == "request":
            lowered = ":authority"
        elif not _HEADER_NAME.match(name):
            operations.fault(field, "bad_header", f"{name[:60]!r} is no header name")
            continue
        if VARIABLE.search(value):
            operations.warn(
                field,
                "unsupported_value",
                f"{name}: {value[:40]!r} has a variable of Envoy's: not sent by calls of this process",
            )
        found.append((lowered, value))
    return tuple(found)
