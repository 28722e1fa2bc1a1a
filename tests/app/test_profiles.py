"""One file, several places: a profile says what is different there, and nothing in the code asks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.app.conftest import ENVIRONMENT, GREETER, PATIENCE_S

from dougong.app import (
    RunSettings,
    Supervisor,
    configured_registry_url,
    load_app,
    load_system,
    read_note,
    run_apps,
)
from dougong.errors import Invalid
from dougong.registry import open_registry

TEXT = """
name = "x"

[apps.a]
target = "m:a"
instances = 1

[apps.a.settings]
currency = "EUR"
limits = { orders = 5, items = 7 }
peers = ["one", "two"]

[apps.b]
target = "m:b"

[profiles.cluster]
registry = "local:///run/elsewhere/registry.db"

[profiles.cluster.apps.a]
instances = 3

[profiles.cluster.apps.a.settings]
limits = { orders = 50 }
peers = ["three"]

[profiles.plain]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "system.toml"
    path.write_text(text)
    return path


def test_without_a_profile_the_file_is_what_it_says(tmp_path: Path) -> None:
    system = load_system(written(tmp_path, TEXT))
    assert (system.profile, system.registry, system.apps["a"].instances) == ("", "", 1)
    same = load_system(written(tmp_path, TEXT), profile="plain")
    assert msgspec.structs.replace(same, profile="") == system


def test_a_profile_is_laid_over_field_by_field(tmp_path: Path) -> None:
    system = load_system(written(tmp_path, TEXT), profile="cluster")
    assert (system.profile, system.registry) == ("cluster", "local:///run/elsewhere/registry.db")
    assert (system.apps["a"].target, system.apps["a"].instances) == ("m:a", 3)
    assert system.apps["a"].settings == {
        "currency": "EUR",
        "limits": {"orders": 50, "items": 7},
        "peers": ["three"],  # lists are values and replace as a whole
    }
    assert system.apps["b"].instances == 1
    assert list(system.apps) == ["a", "b"]  # the order of start stays


def test_the_environment_stays_on_top(tmp_path: Path) -> None:
    system = load_system(written(tmp_path, TEXT), profile="cluster")
    assert configured_registry_url(system, {}) == "local:///run/elsewhere/registry.db"
    assert configured_registry_url(system, {"DOUGONG_REGISTRY": "local:///x"}) == "local:///x"
    assert configured_registry_url(None, {}) == ""


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("clutser", "did you mean 'cluster'"),
        ("zzz", "there are cluster, plain"),
    ],
)
def test_an_unknown_profile_names_what_there_is(tmp_path: Path, profile: str, said: str) -> None:
    with pytest.raises(Invalid, match=said) as caught:
        load_system(written(tmp_path, TEXT), profile=profile)
    assert caught.value.code == "unknown_profile"


def test_a_file_without_profiles_says_how_to_add_one(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"add \[profiles\.cluster\]"):
        load_system(written(tmp_path, 'name = "x"\n[apps.a]\ntarget = "m:a"'), profile="cluster")


@pytest.mark.parametrize(
    ("addition", "said"),
    [
        ("[profiles.c]\nregistri = 'x'", "registri"),
        ("[profiles.c.apps.q]\ninstances = 2", "profiles.c: apps.q: the system has no such app; there are a, b"),
        ("[profiles.c.apps.a]\ninstances = 0", "profiles.c: apps.a.instances must be 1 to 64"),
        ("[profiles.c.apps.a]\ninstances = 'two'", r"profiles.c: .*instances"),
        ("[profiles.c.apps.a]\ninstanzes = 2", r"profiles.c: .*instanzes"),
        ("[profiles.c]\nregistry = 'memory://'", "profiles.c: registry 'memory://'"),
        ("[profiles.c]\nregistry = 5", "registry"),
        ("[profiles.'']\nregistry = 'local:///x'", "profiles.'': a name must be letters"),
        ("profiles = 5", "profiles"),
    ],
)
def test_a_fault_in_any_profile_is_named_whichever_is_asked_for(tmp_path: Path, addition: str, said: str) -> None:
    text = f"{addition}\n{TEXT.partition('[profiles')[0]}" if addition == "profiles = 5" else f"{TEXT}\n{addition}"
    path = written(tmp_path, text)
    with pytest.raises(Invalid, match=said) as caught:
        load_system(path, profile="plain")
    assert str(path) in caught.value.message


def test_a_file_does_not_choose_its_own_profile(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="--profile"):
        load_system(written(tmp_path, 'profile = "plain"\n' + TEXT))


async def test_a_profile_without_a_system_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="of which system file"):
        await run_apps([load_app("tests.app.sample:greeter")], RunSettings(data=str(tmp_path), profile="cluster"))


@pytest.mark.processes
@pytest.mark.xdist_group("supervisor")
async def test_a_system_under_a_profile_meets_in_the_registry_it_names(tmp_path: Path) -> None:
    url = f"local://{tmp_path}/elsewhere.db"
    path = written(tmp_path, f'name = "sample"\n{GREETER}[profiles.cluster]\nregistry = "{url}"\n')
    lines: list[str] = []
    supervisor = Supervisor(
        load_system(path, profile="cluster"),
        path,
        tmp_path / "data",
        on_line=lambda name, line: lines.append(f"{name}: {line}"),
        environment=ENVIRONMENT,
    )
    assert supervisor.registry_url == url
    try:
        async with asyncio.timeout(PATIENCE_S):
            await supervisor.start(ready_s=PATIENCE_S)
        registry = await open_registry(url)
        keys = [item.key for item in (await registry.list("/services/")).items]
        await registry.close()
        assert any(key.startswith("/services/sample.v1.Greeter/") for key in keys)
        assert not (tmp_path / "data" / "registry.db").exists()
        note = read_note(tmp_path / "data")
        assert note is not None
        assert (note.system, note.profile) == (str(path), "cluster")
    except BaseException as error:
        error.add_note("\n".join(lines[-40:]))
        raise
    finally:
        await supervisor.stop()
