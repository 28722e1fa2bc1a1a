"""What a failed attempt means: try elsewhere, log in again, or tell the caller. All of etcd's wording stands here.

etcd answers errors as a gRPC status with a fixed text. The status alone does not decide: INVALID_ARGUMENT is a wrong
password as well as a missing one, UNAVAILABLE says nothing about whether a write was carried out.
"""

from __future__ import annotations

from enum import Enum, auto

from dougong.errors import Error, Forbidden, Internal, Invalid, Overloaded, Unauthenticated, Unavailable


class Next(Enum):
    """What to do about it."""

    ELSEWHERE = auto()
    """Ask another endpoint."""
    LOGIN = auto()
    """The token is not, or no longer, accepted: get a new one."""
    GIVE_UP = auto()
    """The cluster has understood and refuses."""


class Failed(Exception):
    """One attempt at one endpoint."""

    def __init__(self, status: str, text: str, endpoint: str, *, sent: bool = True) -> None:
        super().__init__(f"{endpoint}: {status} {text}")
        self.status = status
        self.text = text
        self.endpoint = endpoint
        self.sent = sent
        """False when it surely never reached the cluster."""

    @property
    def next(self) -> Next:
        if any(text in self.text for text in _LOGIN):
            return Next.LOGIN
        return Next.ELSEWHERE if self.status in _ELSEWHERE else Next.GIVE_UP

    @property
    def about_rights(self) -> bool:
        """Whether a new token may help."""
        return self.next is Next.LOGIN or self.status == "PERMISSION_DENIED"

    @property
    def unknown(self) -> bool:
        """Whether a write may have been carried out all the same."""
        return self.sent and self.next is Next.ELSEWHERE

    def error(self) -> Error:
        """For the caller, when this was the last word."""
        text = self.text
        if self.next is Next.ELSEWHERE:
            return Unavailable(f"etcd at {self.endpoint}: {text}", code="registry_unreachable", endpoint=self.endpoint)
        if "permission denied" in text or self.status == "PERMISSION_DENIED":
            return Forbidden(
                "etcd: this user may not do that here; grant a role with readwrite on the namespace's prefix",
                code="registry_forbidden",
            )
        if "authentication failed" in text:
            return Unauthenticated("etcd refuses user and password; check both in the URL", code="registry_login")
        if self.next is Next.LOGIN:
            return Unauthenticated(
                "etcd asks who we are; put user=…&password_env=… into the URL, or a client certificate",
                code="registry_login",
            )
        if "database space exceeded" in text:
            return Unavailable(
                "etcd is full and takes no writes; compact, defragment, then `etcdctl alarm disarm`",
                code="registry_full",
            )
        if self.status == "RESOURCE_EXHAUSTED":
            return Overloaded(f"etcd at {self.endpoint}: {text}", code="registry_busy", retry_after_s=0.5)
        if self.status in {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE", "NOT_FOUND"}:
            return Invalid(f"etcd refuses: {text}", code="registry_refused")
        return Internal(f"etcd at {self.endpoint}: {self.status} {text}", code="registry_failed")


# INTERNAL is what gRPC says itself of a connection that broke under a stream.
_ELSEWHERE = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "ABORTED", "INTERNAL"}
# Tokens live 300 s, die with the process that issued them, and age when users or roles change.
# Who was let in without one, before authentication was switched on, has none.
_LOGIN = ("invalid auth token", "revision of auth store is old", "user name is empty")

NO_AUTH = "authentication is not enabled"
LEASE_EXISTS = "lease already exists"
NO_LEASE = "requested lease not found"
COMPACTED = "required revision has been compacted"
FUTURE = "required revision is a future revision"
