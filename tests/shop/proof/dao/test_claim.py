"""The claim about entities measures what it says, and finds out who reads something else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dougong.dao import create_tables
from dougong.evidence import Claim, Setting, Threshold
from dougong.store import open_store
from shop.proof.dao.claim import DaoExperiment, Read, dao, dao_mariadb, fill
from shop.proof.dao.contestants import Ours
from shop.proof.dao.tables import User


def _setting(folder: Path) -> Setting:
    return Setting(quick=True, pairs=1, seed=1, workdir=folder, say=lambda _: None)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that the server's own user can reach, too."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_it_claims_what_was_promised() -> None:
    both = {
        Threshold("ratio.mapping", at_most=0.73),
        Threshold("ours.to_driver", at_most=1.5),
        Threshold("ratio.to_session_together", at_least=10),
    }
    assert set(dao.thresholds) == both | {Threshold("ratio.to_session", at_least=10)}
    assert set(dao_mariadb.thresholds) == both


@pytest.mark.parametrize("each", [dao, dao_mariadb])
async def test_all_contestants_read_the_same_rows(
    each: Claim, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def once(_: DaoExperiment, *reads: Read) -> list[float]:
        for read in reads:
            await read([5, 7])
        return [1.0] * len(reads)

    monkeypatch.setattr(DaoExperiment, "_fastest_of_us", once)
    async with each.experiment(_setting(open_folder)) as experiment:
        baseline, ours = await experiment.baseline(0), await experiment.ours(0)
        assert await experiment.verify() == []
    assert {ratio.baseline for ratio in each.ratios.values()} <= set(baseline)
    assert {ratio.ours for ratio in each.ratios.values()} <= set(ours)
    assert each.table.format(baseline=baseline, ours=ours)
    assert not (open_folder / "data").exists()
    assert not (open_folder / "mariadb").exists()


class _Forgetful(Ours):
    async def get(self, keys: Sequence[int]) -> str:
        return ""


async def test_who_reads_something_else_refutes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unmeasured(_: DaoExperiment, *reads: Read) -> list[float]:
        return [1.0] * len(reads)

    monkeypatch.setattr(DaoExperiment, "_fastest_of_us", unmeasured)
    store = await open_store(f"sqlite:///{tmp_path}/users.db")
    await store.migrate("proof", [create_tables(1, "users", User)])
    await fill(store)
    experiment = DaoExperiment(_setting(tmp_path), {"driver": Ours(store)}, _Forgetful(store))
    await experiment.ours(0)
    assert await experiment.verify() == ["get read '' as the e-mail of user 7"]
    await store.close()
