"""One tree of errors, sorted by what the caller should do about them.

A family answers one question: *what now?* Fix the request (`Invalid`), log in (`Unauthenticated`), ask for rights
(`Forbidden`), look elsewhere (`NotFound`), read again and decide (`Conflict`), back off (`Overloaded`), try another
instance or later (`Unavailable`), stop waiting (`DeadlineExceeded`), or report it (`Internal`).

Every error carries a stable `code` for machines (`insufficient_stock`), a message for people that says what, where and
the remedy, and `fields` with the values in question. gRPC status and HTTP status follow from the family, so that one
error looks the same over every transport. Adapters map foreign exceptions into this tree in one place each.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "FAMILIES",
    "Conflict",
    "DeadlineExceeded",
    "Error",
    "Forbidden",
    "Internal",
    "Invalid",
    "NotFound",
    "Overloaded",
    "Unauthenticated",
    "Unavailable",
    "error_from",
]

Scalar = str | int | float | bool


class Error(Exception):
    """Base of everything Dougong raises on purpose.

    `code` is stable, snake_case and part of the public contract; `message` may be reworded at any time.
    `retry_after_s` is a hint in seconds, or None. `fields` holds scalars only, so that every transport can carry them.
    """

    family: ClassVar[str] = "internal"
    grpc_status: ClassVar[int] = 13
    http_status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after_s: float | None = None,
        **fields: Scalar,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else self.family
        self.retry_after_s = retry_after_s
        self.fields: dict[str, Scalar] = fields

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, code={self.code!r}, fields={self.fields!r})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, Error)
        return (self.code, self.message, self.fields) == (other.code, other.message, other.fields)

    __hash__ = Exception.__hash__


class Invalid(Error):
    """The request is wrong and will stay wrong: fix it."""

    family = "invalid"
    grpc_status = 3  # INVALID_ARGUMENT
    http_status = 400


class Unauthenticated(Error):
    """Nobody is known to be calling: log in and send a valid token."""

    family = "unauthenticated"
    grpc_status = 16
    http_status = 401


class Forbidden(Error):
    """The caller is known and may not do this."""

    family = "forbidden"
    grpc_status = 7  # PERMISSION_DENIED
    http_status = 403


class NotFound(Error):
    """What was named does not exist."""

    family = "not_found"
    grpc_status = 5
    http_status = 404


class Conflict(Error):
    """The state changed, or does not allow it: read again, then decide."""

    family = "conflict"
    grpc_status = 10  # ABORTED
    http_status = 409


class Overloaded(Error):
    """A queue or a limit is full: back off for `retry_after_s`, then try again."""

    family = "overloaded"
    grpc_status = 8  # RESOURCE_EXHAUSTED
    http_status = 429


class Unavailable(Error):
    """It cannot be served here and now: try another instance, or later."""

    family = "unavailable"
    grpc_status = 14
    http_status = 503


class DeadlineExceeded(Error):
    """Time ran out. The outcome is unknown: repeat only what is idempotent."""

    family = "deadline_exceeded"
    grpc_status = 4
    http_status = 504


class Internal(Error):
    """A fault of ours: report it with the trace id."""

    family = "internal"
    grpc_status = 13
    http_status = 500


FAMILIES: dict[str, type[Error]] = {
    kind.family: kind
    for kind in (
        Invalid,
        Unauthenticated,
        Forbidden,
        NotFound,
        Conflict,
        Overloaded,
        Unavailable,
        DeadlineExceeded,
        Internal,
    )
}
"""The families by name, as they travel."""


def error_from(
    family: str, code: str, message: str, fields: dict[str, Scalar], retry_after_s: float | None = None
) -> Error:
    """Rebuild an error that came over a wire. An unknown family becomes `Internal`, never a crash."""
    kind = FAMILIES.get(family, Internal)
    error = kind(message, code=code or kind.family, retry_after_s=retry_after_s)
    error.fields.update(fields)
    return error
