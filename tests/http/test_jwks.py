"""The keys that tokens are checked with, for those who check them elsewhere."""

from __future__ import annotations

import msgspec
import pytest
from tests.http.desk import Desk, ask, authenticate, front

from dougong.contract import Message, Service, rpc
from dougong.http import HttpFront
from dougong.rpc import JwtIssuer, KeyRing

PATH = "/.well-known/jwks.json"


def public(kid: str) -> dict[str, str]:
    return JwtIssuer(JwtIssuer.new_private_key(), kid, issuer="shop", audience="shop").public_keys


async def test_they_are_a_jwk_set_that_follows_the_ring() -> None:
    one, two = public("one"), public("two")
    ring = KeyRing(one)
    app = front(keys=ring)
    answer = await ask(app, "GET", PATH, token="")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/jwk-set+json"
    assert answer.headers["cache-control"] == "public, max-age=5"
    assert answer.headers["x-content-type-options"] == "nosniff"
    (key,) = msgspec.json.decode(answer.body)["keys"]
    assert (key["kid"], key["alg"], key["kty"], key["crv"], key["use"]) == ("one", "EdDSA", "OKP", "Ed25519", "sig")
    assert "d" not in key
    ring.replace({**one, **two})
    answer = await ask(app, "GET", PATH, token="")
    assert [key["kid"] for key in msgspec.json.decode(answer.body)["keys"]] == ["one", "two"]
    ring.replace(two)
    answer = await ask(app, "GET", PATH, token="")
    assert [key["kid"] for key in msgspec.json.decode(answer.body)["keys"]] == ["two"]


async def test_they_are_only_read() -> None:
    app = front(keys=KeyRing(public("one")))
    assert (await ask(app, "POST", PATH, {})).status == 405
    head = await ask(app, "HEAD", PATH, token="")
    assert (head.status, head.body) == (200, b"")


async def test_without_a_ring_there_are_none() -> None:
    assert (await ask(front(), "GET", PATH, token="")).status == 404


class Take(Message):
    pass


class Rival(Service, package="test.v1"):
    @rpc(http="GET /.well-known/jwks.json", public=True)
    async def keys(self, request: Take) -> Take:
        """Take the path."""
        return request


def test_the_path_cannot_be_taken() -> None:
    with pytest.raises(TypeError, match="jwks"):
        HttpFront([(Desk, Desk()), (Rival, Rival())], authenticator=authenticate, keys=KeyRing(public("one")))
