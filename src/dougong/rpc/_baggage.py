"""What travels with a call through every hop and is looked at by whoever wants: W3C baggage, as the text it is.

Whoever decides by it (a canary's colour, say) reads it, as `dougong.mesh` does; here it is only kept for the calls made
in a task. With none set, nothing is carried and nothing is done.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from dougong.errors import Invalid
from dougong.mesh import BAGGAGE_MAX, accepted_baggage, extend_baggage

__all__ = ["baggage", "current_baggage", "enter_baggage"]

_baggage: ContextVar[str] = ContextVar("dougong_baggage", default="")

current_baggage = _baggage.get
"""`key=value,key=value` of the call that runs now; empty for none."""
enter_baggage = _baggage.set
"""For the rest of the current task."""


@contextmanager
def baggage(header: str | None = None, /, **entries: str) -> Generator[None]:
    """Give the calls made in the block more to carry: `with baggage(colour="green"): ...`.

    With `header`, that text (as it came with an HTTP request, say) takes the place of what was carried. Of two entries
    with the same key the last one stays. Raises `Invalid` (`bad_baggage`) over 8192 bytes, or for a key that is none.
    """
    carried = _baggage.get() if header is None else header
    if carried and accepted_baggage(carried) != carried:
        raise Invalid(
            f"baggage of {len(carried)} bytes: at most {BAGGAGE_MAX}, in plain ASCII, are carried", code="bad_baggage"
        )
    token = _baggage.set(extend_baggage(carried, entries) if entries else carried)
    try:
        yield
    finally:
        _baggage.reset(token)
