"""Who is calling, from a signed token: EdDSA and nothing else.

The algorithm is pinned on our side and never taken from the token, which is what makes `alg=none` and key-confusion
forgeries pointless. A token that was believed is remembered until it expires: verifying costs 100 µs, remembering 1.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from secrets import token_urlsafe
from typing import cast

from joserfc import errors as jose
from joserfc import jwt
from joserfc.jwk import GuestProtocol, OKPKey
from joserfc.jws import JWSRegistry

from dougong.clock import Clock, SystemClock
from dougong.errors import Invalid, Unauthenticated
from dougong.rpc._context import Caller
from dougong.rpc.ended import EndedSessions
from dougong.rpc.keyring import ALGORITHM, KeyRing, KeySource, okp

__all__ = ["JwtAuthenticator", "JwtIssuer"]

Claim = str | int | float | bool | list[str]

_Believed = tuple[Caller, float, str, OKPKey]
"""Who, until when (Unix time), and the key that said so under its id."""


class _Pinned(JWSRegistry):
    """One algorithm. RFC 9864 renames EdDSA to Ed25519, of which joserfc warns on every use; verifiers everywhere know
    the old name, many only that, so it stays."""

    def get_alg(self, name: str):  # type: ignore[no-untyped-def]  # its return type is not public
        if name != ALGORITHM:
            raise jose.UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")
        return self.algorithms[name]


_REGISTRY = _Pinned(algorithms=[ALGORITHM])


class JwtIssuer:
    """Signs tokens with one Ed25519 key at a time.

    `private_key` is PEM text or a JWK. Rotation: authenticators get the new public key first (`KeyRing.replace`), then
    the issuer the new private one (`use`), then, after the longest `ttl_s`, the old key is taken away.
    """

    def __init__(
        self,
        private_key: KeySource,
        kid: str,
        *,
        issuer: str,
        audience: str,
        ttl_s: float = 3600.0,
        clock: Clock | None = None,
    ) -> None:
        self.use(private_key, kid)
        self._issuer = issuer
        self._audience = audience
        self._ttl_s = ttl_s
        self._clock = clock if clock is not None else SystemClock()

    @staticmethod
    def new_private_key() -> str:
        """A fresh Ed25519 private key as PEM text."""
        pem = OKPKey.generate_key("Ed25519").as_pem(private=True)
        return pem.decode()

    @property
    def public_keys(self) -> dict[str, str]:
        """What authenticators need: key id → PEM of the public key."""
        return {self._kid: self._key.as_pem(private=False).decode()}

    def use(self, private_key: KeySource, kid: str) -> None:
        """Sign with this key from now on. Raises `Invalid` and changes nothing when it cannot sign."""
        key = okp(private_key, kid)
        if not key.is_private:
            raise Invalid("the issuer's key is a public key; it signs with the private one", code="key_invalid")
        self._key, self._kid = key, kid

    def issue(self, subject: str, roles: Iterable[str] = (), *, session: str = "", ttl_s: float | None = None) -> str:
        """A token for `subject`, good for `ttl_s` from now, or until its `session`, if it has one, ends."""
        now = self._clock.now_us() / 1e6
        claims: dict[str, Claim] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "roles": list(roles),
            "iat": int(now),
            "exp": int(now + (self._ttl_s if ttl_s is None else ttl_s)),
            "jti": token_urlsafe(9),
        }
        if session:
            claims["sid"] = session
        return jwt.encode({"alg": ALGORITHM, "kid": self._kid}, claims, self._key, registry=_REGISTRY)


class JwtAuthenticator:
    """Believes tokens signed by one of `keys` (key id → public PEM or JWK) for this issuer and audience.

    A `KeyRing` in their place may change later; several authenticators may have the same one. Tokens of a key that is
    taken away are refused at once, believed before or not.

    `system_token` is a shared secret by which the system's own processes know each other. Everything else is refused
    as `Unauthenticated`, by code: `token_missing`, `token_malformed`, `token_algorithm`, `token_unknown_key`,
    `token_forged`, `token_expired`, `token_ended` (its session is one of `ended`), `token_invalid`.
    """

    def __init__(
        self,
        keys: Mapping[str, KeySource] | KeyRing,
        issuer: str,
        audience: str,
        system_token: str = "",
        *,
        system_subject: str = "system",
        leeway_s: float = 5.0,
        cache_size: int = 10_000,
        ended: EndedSessions | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._ended = ended if ended is not None else EndedSessions(clock)
        self._ring = keys if isinstance(keys, KeyRing) else KeyRing(keys)
        self._issuer = issuer
        self._audience = audience
        self._system_token = system_token.encode()
        self._system = Caller(system_subject, (), system=True)
        self._leeway_s = leeway_s
        self._cache_size = cache_size
        self._cache: OrderedDict[str, _Believed] = OrderedDict()
        self._clock = clock if clock is not None else SystemClock()

    def __call__(self, authorization: str) -> Caller:
        now = self._clock.now_us() / 1e6
        known = self._cache.get(authorization)
        if known is not None:
            caller, expires, kid, key = known
            if now < expires and self._ring.holds(kid, key) and caller.session not in self._ended:
                self._cache.move_to_end(authorization)
                return caller
            del self._cache[authorization]
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if not token or scheme.lower() != "bearer":
            raise Unauthenticated("no token: send 'Authorization: Bearer TOKEN'", code="token_missing")
        if self._system_token and hmac.compare_digest(token.encode("utf-8", "replace"), self._system_token):
            return self._system
        self._cache[authorization] = believed = self._verify(token, now)
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return believed[0]

    def _verify(self, token: str, now: float) -> _Believed:
        try:
            kid, key, claims = self._decode(token)
        except (jose.UnsupportedAlgorithmError, jose.MissingAlgorithmError, jose.ConflictAlgorithmError) as error:
            raise Unauthenticated(f"tokens are signed with {ALGORITHM} here", code="token_algorithm") from error
        except (jose.InvalidKeyIdError, jose.MissingKeyError) as error:
            raise Unauthenticated("the token is signed by a key not known here", code="token_unknown_key") from error
        except jose.BadSignatureError as error:
            raise Unauthenticated("the token's signature is wrong", code="token_forged") from error
        except (jose.JoseError, ValueError, TypeError, KeyError) as error:
            # Whatever else a hostile token provokes in the parser, the answer is the same.
            raise Unauthenticated("the token cannot be read", code="token_malformed") from error
        subject, roles, expires = claims.get("sub"), claims.get("roles", []), claims.get("exp")
        session = claims.get("sid", "")
        if not isinstance(expires, int | float) or isinstance(expires, bool):
            raise Unauthenticated("the token has no expiry", code="token_invalid")
        if not now < expires + self._leeway_s:  # said this way round, NaN has expired too
            raise Unauthenticated("the token has expired: log in again", code="token_expired")
        not_before = claims.get("nbf", 0)
        if not isinstance(not_before, int | float) or now < not_before - self._leeway_s:
            raise Unauthenticated("the token is not valid yet", code="token_invalid")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if claims.get("iss") != self._issuer or self._audience not in audiences:
            raise Unauthenticated("the token was issued for somewhere else", code="token_invalid")
        if not isinstance(subject, str) or not subject:
            raise Unauthenticated("the token names no subject", code="token_invalid")
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            raise Unauthenticated("the token's roles are not a list of names", code="token_invalid")
        if not isinstance(session, str):
            raise Unauthenticated("the token's session is not a name", code="token_invalid")
        if session in self._ended:
            raise Unauthenticated("the token's session has ended: log in again", code="token_ended")
        return Caller(subject, tuple(cast("list[str]", roles)), session=session), expires + self._leeway_s, kid, key

    def _decode(self, token: str) -> tuple[str, OKPKey, dict[str, object]]:
        if len(token) > 8192:
            raise ValueError("longer than any token of ours")
        used: list[tuple[str, OKPKey]] = []

        def named(token: GuestProtocol) -> OKPKey:
            kid = token.headers().get("kid")
            if not isinstance(kid, str) or (key := self._ring.find(kid)) is None:
                raise jose.InvalidKeyIdError
            used.append((kid, key))
            return key

        decoded = jwt.decode(token, named, registry=_REGISTRY)
        return *used[0], cast("dict[str, object]", decoded.claims)
