"""The cluster that tests and experiments hurt."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import engines

from dougong.evidence import NotShown
from dougong.evidence.etcd_cluster import EtcdCluster

pytestmark = pytest.mark.xdist_group("etcd")


def test_one_leads_and_another_when_it_is_gone() -> None:
    cluster = engines.etcd()
    leader = cluster.leader()
    others = [member for member in cluster.members if member is not leader]
    while any(member.leads() for member in others):  # a new election came in between; the next one asked is right
        leader = cluster.leader()
        others = [member for member in cluster.members if member is not leader]
    leader.kill()
    assert not leader.running
    assert not leader.leads()
    assert cluster.leader() is not leader
    cluster.heal()
    assert all(member.running for member in cluster.members)
    assert cluster.ctl("endpoint", "health").count("is healthy") in {0, 3}  # some versions tell it on standard error


def test_the_url_says_where_and_who() -> None:
    cluster = engines.etcd()
    hosts = ",".join(cluster.addresses)
    assert cluster.url() == f"etcd://{hosts}"
    assert cluster.url("namespace=/a", login="me:pw") == f"etcd://me:pw@{hosts}?namespace=/a"


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("dougong.evidence.engines.shutil.which", lambda *_, **__: None)
    with pytest.raises(NotShown, match="etcdctl is not installed"):
        EtcdCluster(tmp_path)
