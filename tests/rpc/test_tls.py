"""Mutual TLS: who gets in, what everybody else is told, and certificates that change while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.rpc.certificates import Authority
from tests.rpc.example import Ask, Example

from dougong.errors import Error, Unavailable
from dougong.rpc import GrpcTransport, Server, TlsSettings, client, close_client, trust_everyone


class Pair:
    """A server and its clients, each with its own files."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.clients: list[Example] = []

    async def serve(self, tls: TlsSettings | None) -> str:
        server = Server([Example()], authenticator=trust_everyone, transport=GrpcTransport(tls=tls))
        self.servers.append(server)
        return await server.start("127.0.0.1:0")

    def call(self, address: str, tls: TlsSettings | None) -> Example:
        made = client(Example, address, transport=GrpcTransport(tls=tls), patience_s=0.1)
        self.clients.append(made)
        return made

    async def close(self) -> None:
        for made in self.clients:
            await close_client(made)
        for server in self.servers:
            await server.stop(0)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    yield pair
    await pair.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def refusal(pair: Pair, server: TlsSettings | None, caller: TlsSettings | None) -> Error:
    remote = pair.call(await pair.serve(server), caller)
    with pytest.raises(Unavailable) as caught:
        await remote.get(Ask())
    (outcome,) = await remote.look.many([Ask()])
    assert isinstance(outcome, Unavailable)
    assert outcome.code == caught.value.code, "batches are told the same"
    return caught.value


async def test_both_sides_show_who_they_are(pair: Pair, authority: Authority) -> None:
    remote = pair.call(await pair.serve(authority.sign("server")), authority.sign("client"))
    assert (await remote.get(Ask(text="sealed"))).text == "sealed"
    assert (await remote.look(Ask(text="too"))).text == "too"


async def test_a_server_of_another_authority(pair: Pair, authority: Authority) -> None:
    files = authority.sign("client")
    other = Authority(authority.folder, "other")
    files = msgspec.structs.replace(files, ca=str(other.path))
    error = await refusal(pair, authority.sign("server"), files)
    assert error.code == "tls_untrusted"
    assert files.ca in error.message


async def test_an_expired_server(pair: Pair, authority: Authority) -> None:
    error = await refusal(pair, authority.sign("server", days=-1), authority.sign("client"))
    assert error.code == "tls_expired"


async def test_a_server_of_another_name(pair: Pair, authority: Authority) -> None:
    server = authority.sign("server", host="elsewhere", address="")
    error = await refusal(pair, server, authority.sign("client"))
    assert error.code == "tls_wrong_name"
    named = msgspec.structs.replace(authority.sign("client"), server_name="elsewhere")
    remote = pair.call(await pair.serve(server), named)
    assert (await remote.get(Ask(text="by name"))).text == "by name"


async def test_a_client_of_another_authority(pair: Pair, authority: Authority) -> None:
    stranger = msgspec.structs.replace(Authority(authority.folder, "other").sign("client"), ca=str(authority.path))
    error = await refusal(pair, authority.sign("server"), stranger)
    assert error.code == "tls_refused"
    assert "CN=other" in error.message


async def test_an_expired_client(pair: Pair, authority: Authority) -> None:
    error = await refusal(pair, authority.sign("server"), authority.sign("client", days=-1))
    assert error.code == "tls_refused"
    assert "expired" in error.message


async def test_one_side_without_tls(pair: Pair, authority: Authority) -> None:
    assert (await refusal(pair, authority.sign("server"), None)).code == "tls_refused"
    assert (await refusal(pair, None, authority.sign("client"))).code == "tls_plaintext"


async def test_files_that_are_missing_or_nonsense(pair: Pair, authority: Authority) -> None:
    good = authority.sign("server")
    address = await pair.serve(good)
    for broken in (
        msgspec.structs.replace(good, key=good.key + ".missing"),
        msgspec.structs.replace(good, certificate=good.key),
    ):
        with pytest.raises(Unavailable) as caught:
            await pair.serve(broken)
        assert caught.value.code == "tls_files"
        with pytest.raises(Unavailable) as caught:
            await pair.call(address, broken).get(Ask())
        assert caught.value.code == "tls_files"


async def test_new_certificates_take_effect_and_break_nothing(pair: Pair, authority: Authority) -> None:
    """The whole authority is replaced under a running server: old connections stay, new ones use the new files."""
    server_files, client_files = authority.sign("server"), authority.sign("client")
    address = await pair.serve(server_files)
    old = pair.call(address, client_files)
    await old.look(Ask())
    (authority.folder / "client.old.pem").write_bytes(Path(client_files.certificate).read_bytes())
    (authority.folder / "client.old.key").write_bytes(Path(client_files.key).read_bytes())
    replaced = Authority(authority.folder)  # the same file names
    replaced.sign("server")
    replaced.sign("client")
    assert (await old.look(Ask(text="still open"))).text == "still open"
    new = pair.call(address, client_files)
    assert (await new.get(Ask(text="new"))).text == "new"
    outdated = TlsSettings(
        ca=client_files.ca,
        certificate=str(authority.folder / "client.old.pem"),
        key=str(authority.folder / "client.old.key"),
    )
    with pytest.raises(Unavailable) as caught:
        await pair.call(address, outdated).get(Ask())
    assert caught.value.code == "tls_refused"


async def test_half_replaced_files_leave_the_old_ones_in_use(pair: Pair, authority: Authority) -> None:
    files = authority.sign("server")
    address = await pair.serve(files)
    await asyncio.to_thread(Path(files.certificate).write_bytes, b"half a certif")
    assert (await pair.call(address, authority.sign("client")).get(Ask(text="in"))).text == "in"


async def test_a_certificate_that_came_before_its_key_waits_for_it(pair: Pair, authority: Authority) -> None:
    files = authority.sign("server")
    address = await pair.serve(files)
    key = Path(files.key).read_bytes()
    authority.sign("server")
    late = Path(files.key).read_bytes()
    Path(files.key).write_bytes(key)
    client_files = authority.sign("client")
    assert (await pair.call(address, client_files).get(Ask(text="in"))).text == "in"
    Path(files.key).write_bytes(late)
    assert (await pair.call(address, client_files).get(Ask(text="on"))).text == "on"


async def test_a_key_that_is_anothers_is_named(pair: Pair, authority: Authority) -> None:
    files = authority.sign("server")
    another = msgspec.structs.replace(files, key=authority.sign("another").key)
    with pytest.raises(Unavailable, match="does not belong to") as caught:
        await pair.serve(another)
    assert (caught.value.code, caught.value.fields["file"]) == ("tls_files", another.key)
    Path(another.key).write_bytes(b"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n")
    with pytest.raises(Unavailable, match="not a private key") as caught:
        await pair.serve(another)
    assert "hunter2" not in repr(caught.value)
