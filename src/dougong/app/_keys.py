"""Which keys are believed and until when: the contents of `verifying.json`, and the rules by which it changes.

A key's life: it is *published* while others learn of it, then it *signs*, then it is *retiring* until the last of its
tokens has expired, then it is *retired*. Which one signs is no field here: it is the one whose private half is in
`signing.pem`, so that the two files cannot contradict each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from dougong.rpc import JwtIssuer, key_thumbprint

__all__ = [
    "KEYS_MAX",
    "KeyState",
    "Keys",
    "PublicKey",
    "believed",
    "decode_keys",
    "encode_keys",
    "ended",
    "new_key",
    "same_key",
    "state_of",
]

KEYS_MAX = 32
"""Rotating each minute while keys retire after an hour would let the file grow for an hour."""


class KeyState(StrEnum):
    """Where a key stands."""

    PUBLISHED = "published"
    """Believed, but signs nothing: a rotation is under way, or was broken off."""
    SIGNING = "signing"
    RETIRING = "retiring"
    """Signs nothing any more; its tokens are believed until they have all expired."""
    RETIRED = "retired"
    """Not believed any more; the next rotation removes it."""


class PublicKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """What others need to know of a key."""

    pem: str
    created_us: int = 0
    """0 when nobody wrote it down."""
    retires_us: int = 0
    """Believed until then; 0 for no end."""


Keys = dict[str, PublicKey]
_decoder = msgspec.json.Decoder(dict[str, str | PublicKey])


def decode_keys(content: bytes | str) -> Keys:
    """Key id → key. Its PEM alone will do as well. Raises `msgspec.MsgspecError`."""
    found = _decoder.decode(content)
    return {kid: PublicKey(key) if isinstance(key, str) else key for kid, key in found.items()}


def encode_keys(keys: Mapping[str, PublicKey]) -> str:
    """The file's content, a line per key."""
    return msgspec.json.format(msgspec.json.encode(keys), indent=1).decode() + "\n"


def new_key() -> tuple[str, str]:
    """A private key and its id. No id looks like an option of a command."""
    while True:
        private = JwtIssuer.new_private_key()
        kid = key_thumbprint(private)
        if not kid.startswith("-"):
            return private, kid


def same_key(private: str, keys: Mapping[str, PublicKey]) -> str:
    """The id under which the public half of `private` is listed; "" when it is not. Raises `Invalid` for no key."""
    print_ = key_thumbprint(private)
    return next((kid for kid, key in keys.items() if key_thumbprint(key.pem) == print_), "")


def state_of(kid: str, keys: Mapping[str, PublicKey], signing: str, now_us: int) -> KeyState:
    """Where one of `keys` stands."""
    if kid == signing:
        return KeyState.SIGNING
    retires_us = keys[kid].retires_us
    if not retires_us:
        return KeyState.PUBLISHED
    return KeyState.RETIRING if now_us < retires_us else KeyState.RETIRED


def believed(keys: Mapping[str, PublicKey], now_us: int) -> dict[str, str]:
    """Key id → PEM of those whose tokens are good now."""
    return {kid: key.pem for kid, key in keys.items() if not key.retires_us or now_us < key.retires_us}


def ended(keys: Mapping[str, PublicKey], signing: str, now_us: int, until_us: int) -> Keys:
    """`keys` as they should be when `signing` signs: it without an end, all others with one, retired ones gone.

    What a broken-off rotation left without an end gets it here: it may have signed, so it is believed as long as any.
    """
    left: Keys = {}
    for kid, key in keys.items():
        if kid == signing:
            left[kid] = msgspec.structs.replace(key, retires_us=0)
        elif not key.retires_us:
            left[kid] = msgspec.structs.replace(key, retires_us=until_us)
        elif now_us < key.retires_us:
            left[kid] = key
    return left
