"""Keys: made once whoever comes first, for their owner only, and never accepted when they are not whole."""

from __future__ import annotations

import multiprocessing
import stat
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from dougong.app import ensure_secrets, read_secrets
from dougong.clock import ManualClock
from dougong.errors import Unauthenticated, Unavailable

FILES = ["signing.pem", "system.token", "verifying.json"]


def test_they_are_made_once_for_their_owner_only(tmp_path: Path) -> None:
    keys = tmp_path / "deep" / "keys"
    ensure_secrets(keys)
    assert sorted(path.name for path in keys.iterdir()) == FILES
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    for path in keys.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    ensure_secrets(keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_what_is_missing_is_made_from_what_is_there(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    before = (tmp_path / "verifying.json").read_bytes()
    (tmp_path / "verifying.json").unlink()
    ensure_secrets(tmp_path)
    assert (tmp_path / "verifying.json").read_bytes() == before


def test_a_token_signed_with_them_is_accepted_and_another_systems_is_not(tmp_path: Path) -> None:
    clock = ManualClock()
    for name in ("a", "b"):
        ensure_secrets(tmp_path / name)
    mine, other = read_secrets(tmp_path / "a", "shop"), read_secrets(tmp_path / "b", "shop")
    token = mine.issuer(clock).issue("ada")
    assert mine.authenticator(clock)(f"Bearer {token}").subject == "ada"
    with pytest.raises(Unauthenticated):
        other.authenticator(clock)(f"Bearer {token}")
    assert mine.authenticator(clock)(f"Bearer {mine.system_token}").system
    with pytest.raises(Unauthenticated):
        other.authenticator(clock)(f"Bearer {mine.system_token}")


def make(directory: Path, barrier: Barrier) -> None:
    barrier.wait()
    ensure_secrets(directory)


def test_processes_that_race_end_up_with_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    racers = [context.Process(target=make, args=(tmp_path / "keys", barrier)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == FILES  # no temporary file stays
    secrets = read_secrets(tmp_path / "keys", "shop")
    clock = ManualClock()
    token = secrets.issuer(clock).issue("ada")  # private and public half fit
    assert secrets.authenticator(clock)(f"Bearer {token}").subject == "ada"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_empty_file_is_named(tmp_path: Path, name: str) -> None:
    ensure_secrets(tmp_path)
    (tmp_path / name).write_text("")
    with pytest.raises(Unavailable, match=f"{name} is empty"):
        read_secrets(tmp_path, "shop")
    (tmp_path / name).unlink()
    with pytest.raises(Unavailable, match=f"{name} is missing"):
        read_secrets(tmp_path, "shop")


def test_a_damaged_key_list_is_named(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    (tmp_path / "verifying.json").write_text('["no"')
    with pytest.raises(Unavailable, match=r"verifying\.json is not JSON .* remove it"):
        read_secrets(tmp_path, "shop")


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(Unavailable, match="keys cannot be kept in"):
        ensure_secrets(tmp_path / "keys")


def test_they_do_not_show_in_logs(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    secrets = read_secrets(tmp_path, "shop")
    assert secrets.system_token not in f"{secrets!r} {secrets}"
