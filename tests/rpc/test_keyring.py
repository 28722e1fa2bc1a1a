"""The ring of keys: replaced as a whole or not at all, looked for when an unknown one is named, shown as JWK set."""

from __future__ import annotations

import msgspec
import pytest
from joserfc.jwk import KeySet

from dougong.clock import ManualClock
from dougong.errors import Invalid, Unauthenticated
from dougong.rpc import JwtAuthenticator, JwtIssuer, KeyRing, key_thumbprint


def issuer(kid: str, clock: ManualClock) -> JwtIssuer:
    return JwtIssuer(JwtIssuer.new_private_key(), kid, issuer="shop", audience="shop", clock=clock)


def test_keys_change_under_an_authenticator_and_an_issuer() -> None:
    clock = ManualClock()
    one, private = issuer("one", clock), JwtIssuer.new_private_key()
    ring = KeyRing(one.public_keys, clock=clock)
    authenticate = JwtAuthenticator(ring, "shop", "shop", clock=clock)
    old = f"Bearer {one.issue('ada')}"
    assert authenticate(old).subject == "ada"
    one.use(private, "two")
    new = f"Bearer {one.issue('ada')}"
    with pytest.raises(Unauthenticated):
        authenticate(new)
    ring.replace(one.public_keys)
    assert authenticate(new).subject == "ada"
    with pytest.raises(Unauthenticated) as caught:
        authenticate(old)
    assert caught.value.code == "token_unknown_key"


def test_what_is_no_key_changes_nothing() -> None:
    clock = ManualClock()
    one = issuer("one", clock)
    ring = KeyRing(one.public_keys, clock=clock)
    before = ring.jwks
    with pytest.raises(Invalid, match="'two'"):
        ring.replace({"two": "no key"})
    with pytest.raises(Invalid):
        one.use("no key", "two")
    with pytest.raises(Invalid):
        one.use(one.public_keys["one"], "two")
    assert ring.jwks == before
    assert JwtAuthenticator(ring, "shop", "shop", clock=clock)(f"Bearer {one.issue('ada')}").subject == "ada"


def test_an_unknown_key_is_looked_for_now_and_then() -> None:
    clock = ManualClock()
    looks: list[float] = []
    one, two = issuer("one", clock), issuer("two", clock)
    ring = KeyRing(one.public_keys, look=lambda: looks.append(clock.monotonic()), clock=clock)
    for _ in range(100):
        assert ring.find("two") is None
        assert ring.find("one") is not None
        clock.advance(0.01)
    assert 9 <= len(looks) <= 11
    found = KeyRing(one.public_keys, look=lambda: found.replace({**one.public_keys, **two.public_keys}), clock=clock)
    assert found.find("two") is not None


def test_it_is_shown_as_a_jwk_set_of_public_keys() -> None:
    clock = ManualClock()
    one, two = issuer("one", clock), issuer("two", clock)
    ring = KeyRing({**one.public_keys, **two.public_keys})
    document = msgspec.json.decode(ring.jwks)
    assert [key["kid"] for key in document["keys"]] == ["one", "two"]
    for key in document["keys"]:
        assert set(key) == {"alg", "crv", "kid", "kty", "use", "x"}
    assert len(KeySet.import_key_set(document).keys) == 2
    elsewhere = JwtAuthenticator({key["kid"]: key for key in document["keys"]}, "shop", "shop", clock=clock)
    assert elsewhere(f"Bearer {two.issue('ada')}").subject == "ada"


def test_a_private_key_among_them_stays_private() -> None:
    private = JwtIssuer.new_private_key()
    (jwk,) = msgspec.json.decode(KeyRing({"one": private}).jwks)["keys"]
    assert "d" not in jwk


def test_the_thumbprint_is_that_of_the_standard() -> None:
    # RFC 8037, appendix A.3
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert key_thumbprint(jwk) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    private = JwtIssuer.new_private_key()
    (public,) = JwtIssuer(private, "k", issuer="shop", audience="shop").public_keys.values()
    assert key_thumbprint(private) == key_thumbprint(public)
