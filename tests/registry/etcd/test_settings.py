"""What an etcd URL may say, and that nothing repeats a password."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Invalid
from dougong.registry import open_registry
from dougong.registry.etcd import EtcdSettings

SECRET = "s3cret/p@ss"


def parse(url: str) -> EtcdSettings:
    return EtcdSettings.parse(url, {"ETCD_PASSWORD": SECRET})


def test_the_least_and_the_most() -> None:
    assert parse("etcd://one") == EtcdSettings(endpoints=("one:2379",))
    assert parse(
        "etcd://one:1,[::1]:2,[fe80::1]/?attempt_s=0.1&timeout_s=2&silence_s=3&namespace=/a%20b"
    ) == EtcdSettings(
        endpoints=("one:1", "[::1]:2", "[fe80::1]:2379"), attempt_s=0.1, timeout_s=2, silence_s=3, namespace="/a b"
    )


def test_three_ways_to_say_who_we_are() -> None:
    assert (user := parse("etcds://me:s3cret%2Fp%40ss@one")).password == SECRET
    assert user == parse("etcds://me@one?password_env=ETCD_PASSWORD")
    assert user == parse("etcds://one?user=me&password_env=ETCD_PASSWORD")


def test_tls_by_scheme_or_by_files() -> None:
    assert parse("etcds://one").tls
    assert parse("etcd://one?ca=/ca.pem").tls
    settings = parse("etcd://one?cert=/c.pem&key=/k.pem")
    assert (settings.tls, settings.cert, settings.key) == (True, "/c.pem", "/k.pem")
    assert not parse("etcd://one").tls


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://one", "scheme 'http'"),
        ("etcd://", "endpoint 1 "),
        ("etcd://one,", "endpoint 2 "),
        ("etcd://one:http", "endpoint 1 has no valid port"),
        ("etcd://one:70000", "endpoint 1 has no valid port"),
        ("etcd://::1:2379", "endpoint 1 is not host:port"),
        ("etcd://one,one:2379", "must differ"),
        ("etcd://one/prefix", "namespace="),
        ("etcd://one?timeout=3", "'timeout' is unknown; there are attempt_s, ca,"),
        ("etcd://one?user=a&user=b", "'user' stands there twice"),
        ("etcd://a:b@one?user=c", "user stands there twice"),
        ("etcd://a:b@one?password_env=ETCD_PASSWORD", "password stands there twice"),
        ("etcd://one?user=a", "go together"),
        ("etcd://:b@one", "go together"),
        ("etcd://a@one?password_env=NOT_SET", "'NOT_SET'"),
        ("etcd://one?cert=/c.pem", "cert and key go together"),
        ("etcd://one?timeout_s=soon", "timeout_s 'soon'"),
        ("etcd://one?attempt_s=0", "attempt_s '0'"),
        ("etcd://one?silence_s=nan", "silence_s 'nan'"),
        ("etcd://one?namespace=%00", "namespace contains NUL"),
        ("etcd://[one", "cannot be taken apart"),
    ],
)
def test_what_is_wrong_is_said(url: str, says: str) -> None:
    with pytest.raises(Invalid, match="registry_url") as raised:
        parse(url)
    assert says in raised.value.message


HERE = "127.0.0.1,localhost:1,[::1]:2"


@pytest.mark.parametrize("login", [f"me:hidden@{HERE},shop.example", f"me:hidden@10.1.2.3,{HERE}"])
async def test_a_password_goes_to_another_machine_over_tls_only(login: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid, match="etcds://") as refused:
        await open_registry(f"etcd://{login}")
    assert refused.value.code == "insecure_network"
    assert "hidden" not in repr(refused.value) + str(refused.value)
    for allowed in (f"etcds://{login}", f"etcd://{login}?ca=/ca.pem", f"etcd://me:hidden@{HERE}"):
        assert EtcdSettings.parse(allowed, {}).password == "hidden"
    assert EtcdSettings.parse(f"etcd://{login}", {}, insecure_network=True).password == "hidden"
    assert EtcdSettings.parse(f"etcd://{login}", {"DOUGONG_INSECURE_NETWORK": "true"}).password == "hidden"
    for value, code in (("false", "insecure_network"), ("hidden", "registry_url")):
        with pytest.raises(Invalid, match=code) as refused:
            EtcdSettings.parse(f"etcd://{login}", {"DOUGONG_INSECURE_NETWORK": value})
        assert "hidden" not in str(refused.value)


async def test_a_mistyped_scheme_does_not_give_the_password_away() -> None:
    with pytest.raises(Invalid, match="registry_url") as raised:
        await open_registry("etc://me:hidden@one")
    assert "hidden" not in repr(raised.value)


async def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(Invalid, match="registry_tls") as raised:
        await open_registry("etcds://127.0.0.1:1?ca=/nowhere/ca.pem")
    assert "ca=/nowhere/ca.pem" in raised.value.message


@pytest.mark.fuzz
@given(st.text(max_size=60))
def test_whatever_is_written_it_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(Invalid):
        assert parse(f"etcd://{text}").endpoints


@given(st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=20), st.booleans())
def test_no_password_is_repeated(piece: str, quoted: bool) -> None:
    secret = f"hidden{piece}hidden"
    said = secret if not quoted else "".join(f"%{byte:02x}" for byte in secret.encode())
    try:
        told = repr(parse(f"etcd://user:{said}@one?user_=1"))
    except Invalid as error:
        told = repr(error) + str(error)
    assert "hidden" not in told
    settings = EtcdSettings(endpoints=("one:1",), user="me", password=secret)
    assert "hidden" not in repr(settings) + repr(list(settings.__rich_repr__()))


def test_only_who_opens_one_pays_for_grpc() -> None:
    code = "import sys, dougong.registry; sys.exit('grpc' in sys.modules or 'dougong.registry.etcd' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
