"""Refresh tokens: what a client keeps, and what of it a database may know.

A token names its session, and with that the bucket; it proves by the *family*, which stays the same for the whole
session, that it was issued by us at some time, and by the *secret*, which changes at each use, that it is the last one.
Databases hold SHA-256 of both: these are 128 and 256 random bits, so no slow hash is needed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

import msgspec

from dougong.errors import Unauthenticated

__all__ = ["FAMILY_BYTES", "SALT_BYTES", "SECRET_BYTES", "RefreshToken", "hashed", "matches", "read_token"]

FAMILY_BYTES = 16
SECRET_BYTES = 32
SALT_BYTES = 32
_ID_BYTES = 8
_MARK = "rt1."
"""So that people and scanners of leaked secrets know what it is."""
_LENGTH = len(_MARK) + (_ID_BYTES + FAMILY_BYTES + SECRET_BYTES) * 4 // 3 + 1  # 56 bytes: base64 without its padding


class RefreshToken(msgspec.Struct, frozen=True):
    """One token, taken apart."""

    session_id: int
    family: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"RefreshToken({self.session_id})"  # it gets into logs and assertions; the rest must not

    def written(self) -> str:
        """As the client gets it."""
        raw = self.session_id.to_bytes(_ID_BYTES, "big") + self.family + self.secret
        return _MARK + base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")

    def next(self, salt: bytes) -> RefreshToken:
        """The token that follows this one: told by this one and the salt together, by neither alone."""
        return RefreshToken(self.session_id, self.family, hmac.digest(salt, self.secret, "sha256"))


def read_token(text: str) -> RefreshToken:
    """What a client sent, if it has the form of a token. `Unauthenticated` (`refresh_token_invalid`)."""
    if len(text) == _LENGTH and text.startswith(_MARK) and text.isascii():
        try:
            raw = base64.b64decode(text[len(_MARK) :] + "=", altchars=b"-_", validate=True)
        except binascii.Error:
            raise invalid_token() from None
        token = RefreshToken(
            int.from_bytes(raw[:_ID_BYTES], "big"),
            raw[_ID_BYTES : _ID_BYTES + FAMILY_BYTES],
            raw[_ID_BYTES + FAMILY_BYTES :],
        )
        if token.session_id < 1 << 63 and token.written() == text:  # one spelling each
            return token
    raise invalid_token()


def invalid_token() -> Unauthenticated:
    return Unauthenticated("the refresh token is not valid: log in", code="refresh_token_invalid")


def hashed(part: bytes) -> str:
    """What is stored of a family or a secret."""
    return hashlib.sha256(part).hexdigest()


def matches(part: bytes, stored: str) -> bool:
    """Whether that is the hash of this, in a time that does not tell how nearly."""
    return hmac.compare_digest(hashed(part), stored)
