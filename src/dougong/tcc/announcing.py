"""What a message about decided transactions looks like, for who puts, delivers, and looks at them."""

from __future__ import annotations

import msgspec

from dougong.store import Message

__all__ = ["QUEUE", "ids_of"]

QUEUE = "dougong.tcc"
"""The name of the queue in the initiator's database."""

_ids = msgspec.json.Decoder(list[int]).decode


def ids_of(message: Message) -> list[int]:
    """The transactions a message is about."""
    return _ids(message.body)
