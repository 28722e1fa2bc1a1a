"""The public keys that tokens are checked with. They change while the process runs: whoever follows them says so here.

The ring is memory only. A token that names an unknown key may be a new key's first or a stranger's invention; only
whoever keeps the keys can tell, so they are asked to look, but not by every stranger anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from joserfc import errors as jose
from joserfc.jwk import OKPKey

from dougong.clock import Clock, SystemClock
from dougong.errors import Invalid

__all__ = ["ALGORITHM", "KeyRing", "KeySource", "key_thumbprint", "okp"]

ALGORITHM = "EdDSA"

_LOOK_EVERY_S = 0.1
"""A look at an unchanged file is one `stat`, some microseconds: so often, a flood of invented keys costs nothing, and
the first token of a key that was put there without notice waits no longer."""

KeySource = str | bytes | Mapping[str, str]
"""An Ed25519 key as PEM text or JWK."""


class KeyRing:
    """Key id → public key. `look` is called when an unknown one is named; it calls `replace` if there is news."""

    def __init__(
        self,
        keys: Mapping[str, KeySource],
        *,
        look: Callable[[], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self._look = look
        self._looked: float | None = None
        self._sources: dict[str, KeySource] = {}
        self._keys: dict[str, OKPKey] = {}
        self._jwks = b""
        self.replace(keys)

    @property
    def jwks(self) -> bytes:
        """The keys as a JWK set (RFC 7517), JSON, for whoever checks our tokens elsewhere."""
        return self._jwks

    def replace(self, keys: Mapping[str, KeySource]) -> None:
        """Believe these and no others from now on. Raises `Invalid` and changes nothing when one of them is no key."""
        fresh = {
            kid: self._keys[kid] if self._sources.get(kid) == source else okp(source, kid)
            for kid, source in keys.items()
        }
        public = [key.as_dict(private=False) for key in fresh.values()]
        self._sources, self._keys = dict(keys), fresh
        self._jwks = msgspec.json.encode({"keys": public})

    def find(self, kid: str) -> OKPKey | None:
        """The key of that id, looked for if it is not known."""
        key = self._keys.get(kid)
        if key is None and self._look is not None:
            now = self._clock.monotonic()
            if self._looked is None or now - self._looked >= _LOOK_EVERY_S:
                self._looked = now
                self._look()
                key = self._keys.get(kid)
        return key

    def holds(self, kid: str, key: OKPKey) -> bool:
        """Whether a key that was found once is still believed, and still the same."""
        return self._keys.get(kid) is key


def key_thumbprint(key: KeySource) -> str:
    """RFC 7638: an id that follows from the key, the same for its public and its private half."""
    return okp(key, "any").thumbprint()


def okp(key: KeySource, kid: str) -> OKPKey:
    """The key for the JOSE library. Raises `Invalid` naming `kid`."""
    try:
        if isinstance(key, str | bytes):
            return OKPKey.import_key(key, {"kid": kid, "alg": ALGORITHM, "use": "sig"})
        return OKPKey.import_key({**key, "kid": kid}, {"alg": ALGORITHM, "use": "sig"})
    except (jose.JoseError, ValueError, TypeError) as error:
        raise Invalid(f"key {kid!r} is not an Ed25519 key in PEM or JWK form", code="key_invalid", kid=kid) from error
