"""May this caller do this, and on whose behalf? Pure rules over a method's declaration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import msgspec

from dougong.contract import Message, Method
from dougong.errors import Forbidden, Unauthenticated
from dougong.rpc._context import Caller

__all__ = ["Authenticator", "authorize", "bind_subject", "identify", "trust_everyone"]

M = TypeVar("M", bound=Message)

Authenticator = Callable[[str], Caller]
"""From the value of an Authorization header ("" when there is none) to a caller; raises `Unauthenticated`."""


def trust_everyone(authorization: str) -> Caller:
    """An authenticator that believes everybody is the system itself. For tests and for tools on one machine."""
    del authorization
    return Caller("anyone", (), system=True)


def identify(method: Method, authorization: str, authenticator: Authenticator | None) -> Caller | None:
    """Who calls, checked against what the method asks for: authentication and authorization in one step.

    On a public method a stale token does not matter (else nobody with an expired one could log in again): the caller
    is then nobody. Without an authenticator every caller is nobody, so that only public methods can be reached.
    """
    caller: Caller | None = None
    if authenticator is not None:
        if not method.public:
            caller = authenticator(authorization)
        elif authorization:
            try:
                caller = authenticator(authorization)
            except Unauthenticated:
                caller = None
    authorize(method, caller)
    return caller


def authorize(method: Method, caller: Caller | None) -> None:
    """Raise unless `caller` may call `method`: `Unauthenticated` for nobody, `Forbidden` for the wrong somebody."""
    if method.public:
        return
    if caller is None:
        raise Unauthenticated(
            f"{method.service}.{method.name} needs a caller: send 'Authorization: Bearer TOKEN'", code="token_missing"
        )
    if caller.system:
        return
    if method.internal:
        raise Forbidden(f"{method.service}.{method.name} is only for the system itself", code="internal_method")
    if method.roles and not any(role in method.roles for role in caller.roles):
        raise Forbidden(
            f"{method.service}.{method.name} needs one of the roles {', '.join(method.roles)}",
            code="role_missing",
            subject=caller.subject,
        )


def bind_subject(method: Method, request: M, caller: Caller | None) -> M:
    """The request with its `Subject` field filled in, or `Forbidden` when it names somebody the caller is not.

    Empty: the caller's own subject. Another's: allowed to the system and to the roles in `on_behalf` only.
    """
    bind = subject_binder(method, caller)
    return request if bind is None else cast("M", bind(request))


def subject_binder(method: Method, caller: Caller | None) -> Callable[[Message], Message] | None:
    """`bind_subject` for many requests of one caller; None when there is nothing to do."""
    field = method.subject_field
    if not field:
        return None
    own = "" if caller is None else caller.subject
    for_anybody = caller is not None and (caller.system or any(role in method.on_behalf for role in caller.roles))
    replace = msgspec.structs.replace

    def bind(request: Message) -> Message:
        named = getattr(request, field)
        if not named:
            return replace(request, **{field: own}) if own else request
        if for_anybody or named == own:
            return request
        if not own:  # an anonymous caller of a public method speaks for nobody
            raise Forbidden(f"{field} names {named!r}, but nobody is logged in", code="not_your_subject", field=field)
        raise Forbidden(
            f"{field} names another subject than the token's; leave it empty to act for yourself",
            code="not_your_subject",
            field=field,
        )

    return bind
