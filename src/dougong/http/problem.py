"""Errors as people and programs see them: RFC 9457 problem details, `application/problem+json`.

The status, the stable `code` and the `fields` come from the error tree; HTTP adds the headers that go with some
statuses (`WWW-Authenticate`, `Retry-After`, `Allow`). Refusals only HTTP knows (415, 413, 405, 408, 431) are here too.
"""

from __future__ import annotations

import math
from typing import ClassVar

import msgspec

from dougong.errors import Error, Internal, Invalid, NotFound, Scalar

__all__ = [
    "PROBLEM_JSON",
    "BodyTimeout",
    "FieldFault",
    "HeadersTooLarge",
    "MethodNotAllowed",
    "NoSuchRoute",
    "Problem",
    "TooLarge",
    "UnsupportedMediaType",
    "problem",
]

PROBLEM_JSON = b"application/problem+json"

_TITLES = {
    "invalid": "The request is wrong",
    "unauthenticated": "Who is calling is not known",
    "forbidden": "Not allowed",
    "not_found": "Not found",
    "conflict": "The state does not allow it",
    "overloaded": "Too much at once",
    "unavailable": "Not available now",
    "deadline_exceeded": "Time ran out",
    "internal": "A fault of ours",
}


class TooLarge(Invalid):
    """The body is larger than the server takes."""

    http_status: ClassVar[int] = 413


class UnsupportedMediaType(Invalid):
    """The body is not JSON, or is compressed."""

    http_status: ClassVar[int] = 415


class BodyTimeout(Invalid):
    """The body did not arrive in time."""

    http_status: ClassVar[int] = 408


class HeadersTooLarge(Invalid):
    """The request's head is larger than the server takes."""

    http_status: ClassVar[int] = 431


class NoSuchRoute(NotFound):
    """No method has this path."""


class MethodNotAllowed(Invalid):
    """The path exists, the verb does not. `allow` is the `Allow` header's value."""

    http_status: ClassVar[int] = 405

    def __init__(self, verb: str, allow: str) -> None:
        super().__init__(f"{verb} is not possible here; allowed: {allow}", code="method_not_allowed", allow=allow)


class FieldFault(msgspec.Struct, frozen=True, rename={"source": "in"}):
    """What is wrong with one field of the request."""

    field: str
    """Path from the top of the message, e.g. `lines[2].quantity`; for a header its name."""
    reason: str
    source: str = ""
    """`body`, `query`, `path` or `header`; in JSON the key is `in`."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON shape of an error."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    request_id: str
    trace_id: str = ""
    fields: dict[str, Scalar] = {}
    errors: tuple[FieldFault, ...] = ()
    retry_after_s: float | None = None


_encode = msgspec.json.Encoder().encode


def problem(
    error: Error, *, request_id: str, trace_id: str = "", realm: str = "dougong"
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body for an error.

    An `Internal` error's own words stay in the log: they may name files, SQL or hosts.
    """
    status = error.http_status
    headers = [(b"content-type", PROBLEM_JSON)]
    detail, fields = error.message, error.fields
    if isinstance(error, Internal):
        detail, fields = f"something broke on our side; report it with request id {request_id}", {}
    retry_after_s = error.retry_after_s
    if status == 401:
        headers.append((b"www-authenticate", _challenge(error, realm)))
    elif status in {429, 503}:
        if retry_after_s is None:
            retry_after_s = 1.0
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(retry_after_s))))
    elif isinstance(error, MethodNotAllowed):
        headers.append((b"allow", str(fields["allow"]).encode("ascii")))
    elif status in {408, 413}:
        headers.append((b"connection", b"close"))  # the rest of the body is not worth reading
    body = Problem(
        type=f"urn:dougong:error:{error.code}",
        title=_TITLES.get(error.family, _TITLES["internal"]),
        status=status,
        detail=detail,
        code=error.code,
        instance=f"urn:dougong:request:{request_id}",
        request_id=request_id,
        trace_id=trace_id,
        fields={name: value for name, value in fields.items() if name not in {"reason", "source"}},
        errors=_faults(fields, detail),
        retry_after_s=retry_after_s,
    )
    return status, headers, _encode(body)


def _faults(fields: dict[str, Scalar], detail: str) -> tuple[FieldFault, ...]:
    if "field" not in fields:
        return ()
    return (FieldFault(str(fields["field"]), str(fields.get("reason", detail)), str(fields.get("source", ""))),)


def _challenge(error: Error, realm: str) -> bytes:
    """RFC 6750: without a token the bare scheme; with a refused one, why."""
    challenge = f'Bearer realm="{realm}"'
    if error.code.startswith("token_") and error.code != "token_missing":
        challenge += f', error="invalid_token", error_description="{error.code}"'
    return challenge.encode("ascii", "replace")
