"""A call's origin as it travels beside the message: `ADDRESS;SESSION`, the session percent-encoded."""

from __future__ import annotations

from urllib.parse import quote, unquote

from dougong.rpc._context import Caller, Origin

__all__ = ["origin_of", "write_origin"]

_NOWHERE = Origin()
_TEXT_MAX = 1024


def write_origin(origin: Origin) -> str:
    """Plain ASCII without spaces, as metadata has to be; empty when nothing is known."""
    if origin == _NOWHERE:
        return ""
    return f"{quote(origin.address, safe=':')};{quote(origin.session, safe='')}"


def origin_of(caller: Caller | None, written: str) -> Origin:
    """What a server believes: one of us tells where the call came from; anybody else is where it comes from."""
    if caller is None:
        return _NOWHERE
    if not caller.system:
        return Origin(session=caller.session)
    if not written or len(written) > _TEXT_MAX:
        return _NOWHERE
    address, _, session = written.partition(";")
    return Origin(unquote(address), unquote(session))
