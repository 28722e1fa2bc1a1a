"""From one machine to many: the change that the registry's page shows, made to its example and run on a real etcd."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import engines
from tests.docs.pages import ROOT, blocks
from tests.docs.test_examples import run, stripped

PAGE = ROOT / "docs" / "rooms" / "registry.md"


@pytest.mark.xdist_group("etcd")
def test_from_local_to_etcd_is_a_change_of_three_lines(tmp_path: Path) -> None:
    example = next(block for block in blocks(PAGE) if block.language == "python")
    (change,) = (block.code.splitlines() for block in blocks(PAGE) if block.language == "diff")
    assert len(change) == 3
    removed = [line[1:] for line in change if line.startswith("-")]
    (added,) = (line[1:] for line in change if line.startswith("+"))
    assert set(removed) <= set(example.code.splitlines())
    hosts = ",".join(engines.etcd().addresses)
    added = added.replace("etcd-1:2379,etcd-2:2379,etcd-3:2379", hosts)
    assert hosts in added
    code = example.code.replace(removed[0] + "\n", "").replace(removed[1], added)
    assert stripped(run(code, tmp_path)) == stripped(example.prints or "")
