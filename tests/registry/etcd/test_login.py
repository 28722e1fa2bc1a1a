"""User and password, tokens that run out, TLS: on clusters of one member of their own."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests import engines

from dougong.errors import Forbidden, Unauthenticated, Unavailable
from dougong.evidence.engines import PASSWORD, QUOTED
from dougong.evidence.etcd_cluster import EtcdCluster, EtcdFiles
from dougong.registry import Registry, open_registry
from dougong.registry.etcd import EtcdRegistry, EtcdSettings
from dougong.registry.etcd.cluster import Cluster

pytestmark = pytest.mark.xdist_group("etcd")


@pytest.fixture(scope="module")
def guarded() -> Iterator[EtcdCluster]:
    """Asks who we are: `me` may read and write under /mine, and a token lives for a second."""
    cluster = engines.make_etcd(members=1, options=["--auth-token-ttl", "1"])
    try:
        cluster.ctl("user", "add", f"root:{PASSWORD}")
        cluster.ctl("user", "grant-role", "root", "root")
        cluster.ctl("role", "add", "mine")
        cluster.ctl("role", "grant-permission", "mine", "--prefix=true", "readwrite", "/mine/")
        cluster.ctl("user", "add", f"me:{PASSWORD}")
        cluster.ctl("user", "grant-role", "me", "mine")
        cluster.ctl("auth", "enable")
        yield cluster
    finally:
        cluster.remove()


async def expired(registry: Registry) -> None:
    """Let the token run out, or lose it: etcd forgets it a second or two after its last use."""
    await asyncio.sleep(3.0)


def mine(cluster: EtcdCluster) -> str:
    return cluster.url("namespace=/mine&timeout_s=60", login=f"me:{QUOTED}")


async def test_calls_go_on_when_the_token_ran_out(guarded: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = await open_registry(mine(guarded))
    assert isinstance(registry, EtcdRegistry)
    await registry.put("/a", b"1")
    first = registry._cluster.token
    await expired(registry)
    revision = await registry.put("/a", b"2")
    assert registry._cluster.token not in {"", first}
    watch = registry.watch("/", revision)
    assert (await anext(watch))[0].value == b"2"
    # The ablation: who does not log in again is out for good.
    await expired(registry)

    async def never(self: Cluster, refused: str | None = None) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(Cluster, "login", never)
    with pytest.raises(Unauthenticated, match="registry_login"):
        await registry.put("/a", b"3")
    await registry.close()


async def test_a_watch_opened_with_a_token_that_ran_out(guarded: EtcdCluster) -> None:
    registry = await open_registry(mine(guarded))
    revision = await registry.put("/a", b"1")
    await expired(registry)
    assert (await anext(registry.watch("/", revision)))[0].value == b"1"
    await registry.close()


async def test_a_token_dies_with_the_process_that_gave_it(guarded: EtcdCluster) -> None:
    registry = await open_registry(mine(guarded))
    revision = await registry.put("/a", b"1")
    watch = registry.watch("/", revision)
    await anext(watch)
    guarded.kill()
    guarded.start()
    revision = await registry.put("/a", b"2")
    assert (await anext(watch))[0].revision == revision
    await registry.close()


async def test_strangers_and_trespassers(guarded: EtcdCluster) -> None:
    for login in ("", "me:wrong", f"you:{QUOTED}"):
        with pytest.raises(Unauthenticated, match="registry_login") as raised:
            await open_registry(guarded.url("namespace=/mine", login=login))
        assert "wrong" not in repr(raised.value)
    trespasser = EtcdRegistry(EtcdSettings.parse(guarded.url("namespace=/theirs", login=f"me:{QUOTED}")))
    for call in (trespasser.put("/a", b""), trespasser.list("/"), trespasser.open()):
        with pytest.raises(Forbidden, match="registry_forbidden") as refused:
            await call
        assert PASSWORD not in repr(refused.value)
    with pytest.raises(Forbidden, match="registry_forbidden"):
        await anext(trespasser.watch("/", 1))
    await trespasser.close()


async def test_a_login_where_nobody_asks_for_one(cluster: EtcdCluster) -> None:
    registry = await open_registry(cluster.url("namespace=/nobody", login=f"me:{QUOTED}"))
    await registry.put("/a", b"")
    assert await registry.delete("/a")
    await registry.close()


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = self._write(f"{name}.pem", self._sign(self._name, self._key, authority=True))

    def issue(self, name: str) -> EtcdFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        cert = self._write(f"{name}.pem", self._sign(subject, key, authority=False))
        return EtcdFiles(self.file, cert, self._write(f"{name}.key", secret))

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> bytes:
        now = dt.datetime.now(dt.UTC)
        local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(local, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


async def test_tls_and_who_is_kept_out(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path / "other", "other")
    cluster = engines.make_etcd(members=1, tls=authority.issue("member"))
    try:
        registry = await open_registry(cluster.url("namespace=/tls"))
        revision = await registry.put("/a", b"1")
        assert (await anext(registry.watch("/", revision)))[0].value == b"1"
        await registry.close()
        stranger = other.issue("stranger")
        hosts = ",".join(cluster.addresses)
        for files in (
            f"ca={authority.file}",  # no certificate of our own
            f"ca={authority.file}&cert={stranger.cert}&key={stranger.key}",  # one that they do not trust
            f"ca={other.file}&cert={tmp_path / 'member.pem'}&key={tmp_path / 'member.key'}",  # we do not trust theirs
        ):
            with pytest.raises(Unavailable, match="registry_unreachable"):
                await open_registry(f"etcds://{hosts}?timeout_s=0.6&{files}")
        with pytest.raises(Unavailable, match="registry_unreachable"):
            await open_registry(f"etcd://{hosts}?timeout_s=0.6")
    finally:
        cluster.remove()
