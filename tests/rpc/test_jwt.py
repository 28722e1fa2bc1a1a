"""Tokens: what is believed, and every way of not being believed."""

from __future__ import annotations

import base64
import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from dougong.clock import ManualClock
from dougong.errors import Invalid, Unauthenticated
from dougong.rpc import Caller, JwtAuthenticator, JwtIssuer

KEY = JwtIssuer.new_private_key()
CLOCK = ManualClock()


def issuer(key: str = KEY, kid: str = "k1", issuer: str = "shop", audience: str = "api") -> JwtIssuer:
    return JwtIssuer(key, kid, issuer=issuer, audience=audience, ttl_s=60, clock=CLOCK)


def authenticator(clock: ManualClock = CLOCK, **options: Any) -> JwtAuthenticator:
    return JwtAuthenticator(issuer().public_keys, "shop", "api", "s3cret", leeway_s=0, clock=clock, **options)


def refused(authenticate: JwtAuthenticator, header: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        authenticate(header)
    assert "s3cret" not in str(caught.value)
    return caught.value.code


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_a_good_token_is_believed_until_it_expires() -> None:
    clock = ManualClock()
    token = JwtIssuer(KEY, "k1", issuer="shop", audience="api", ttl_s=60, clock=clock).issue("u-1", ["admin"])
    authenticate = authenticator(clock)
    assert authenticate(f"Bearer {token}") == Caller("u-1", ("admin",))
    assert authenticate(f"bearer  {token}") == Caller("u-1", ("admin",))
    clock.advance(59)
    assert authenticate(f"Bearer {token}") == Caller("u-1", ("admin",))
    clock.advance(2)
    assert refused(authenticate, f"Bearer {token}") == "token_expired", "also from the cache"
    assert refused(authenticator(clock), f"Bearer {token}") == "token_expired"


def test_the_system_knows_itself() -> None:
    assert authenticator()("Bearer s3cret") == Caller("system", (), system=True)
    assert refused(authenticator(), "Bearer s3cre") == "token_malformed"
    unset = JwtAuthenticator(issuer().public_keys, "shop", "api")
    assert refused(unset, "Bearer ") == "token_missing", "an empty secret lets nobody in"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic dTpw", "s3cret"])
def test_no_token(header: str) -> None:
    assert refused(authenticator(), header) == "token_missing"


def test_unsigned_and_otherwise_signed_tokens() -> None:
    token = issuer().issue("u-1")
    _, claims, _ = token.split(".")
    none = part({"alg": "none", "kid": "k1"})
    assert refused(authenticator(), f"Bearer {none}.{claims}.") in {"token_algorithm", "token_malformed"}
    # The classic confusion: the public key, which everybody has, used as the secret of an HMAC.
    public = issuer().public_keys["k1"].encode()
    head = part({"alg": "HS256", "kid": "k1"})
    signed = base64.urlsafe_b64encode(hmac.digest(public, f"{head}.{claims}".encode(), sha256)).decode().rstrip("=")
    assert refused(authenticator(), f"Bearer {head}.{claims}.{signed}") == "token_algorithm"


def test_forged_tokens() -> None:
    token = issuer().issue("u-1")
    head, claims, signature = token.split(".")
    other = json.loads(base64.urlsafe_b64decode(claims + "=="))
    other["sub"] = "u-2"
    assert refused(authenticator(), f"Bearer {head}.{part(other)}.{signature}") == "token_forged"
    mine = JwtIssuer.new_private_key()
    assert refused(authenticator(), f"Bearer {issuer(mine).issue('u-1')}") == "token_forged", "known kid, other key"
    assert refused(authenticator(), f"Bearer {issuer(mine, 'k9').issue('u-1')}") == "token_unknown_key"
    anonymous = part({"alg": "EdDSA"})
    assert refused(authenticator(), f"Bearer {anonymous}.{claims}.{signature}") in {
        "token_unknown_key",
        "token_forged",
        "token_malformed",
    }


def test_tokens_for_somewhere_else() -> None:
    assert refused(authenticator(), f"Bearer {issuer(issuer='other').issue('u-1')}") == "token_invalid"
    assert refused(authenticator(), f"Bearer {issuer(audience='other').issue('u-1')}") == "token_invalid"
    assert refused(authenticator(), f"Bearer {issuer().issue('')}") == "token_invalid"
    assert refused(authenticator(), f"Bearer {issuer().issue('u-1', ttl_s=-5)}") == "token_expired"


@given(st.text(max_size=200) | st.builds(".".join, st.lists(st.text("abcAB-_=.{}", max_size=40), max_size=5)))
def test_whatever_comes_is_answered(text: str) -> None:
    with pytest.raises(Unauthenticated):
        authenticator()(f"Bearer {text}")


def test_huge_tokens_are_not_parsed() -> None:
    assert refused(authenticator(), "Bearer " + "a" * 100_000) == "token_malformed"


def test_the_cache_is_bounded() -> None:
    authenticate = authenticator(cache_size=3)
    for number in range(10):
        authenticate("Bearer " + issuer().issue(f"u-{number}"))
    assert len(authenticate._cache) == 3


def test_keys_rotate() -> None:
    new = JwtIssuer.new_private_key()
    both = {**issuer().public_keys, **issuer(new, "k2").public_keys}
    authenticate = JwtAuthenticator(both, "shop", "api", clock=CLOCK)
    assert authenticate(f"Bearer {issuer().issue('u-1')}").subject == "u-1"
    assert authenticate(f"Bearer {issuer(new, 'k2').issue('u-1')}").subject == "u-1"


def test_keys_that_are_none() -> None:
    with pytest.raises(Invalid):
        JwtIssuer("no pem", "k", issuer="shop", audience="api")
    with pytest.raises(Invalid):
        JwtIssuer(issuer().public_keys["k1"], "k", issuer="shop", audience="api")
    with pytest.raises(Invalid):
        JwtAuthenticator({"k": "no pem"}, "shop", "api")
    jwk = OKPKey.generate_key("Ed25519").as_dict(private=True)
    token = JwtIssuer(jwk, "j", issuer="shop", audience="api").issue("u-1")  # type: ignore[arg-type]
    keys = JwtIssuer(jwk, "j", issuer="shop", audience="api").public_keys  # type: ignore[arg-type]
    assert JwtAuthenticator(keys, "shop", "api")(f"Bearer {token}").subject == "u-1"
