"""System files: what a good one says, and what is said about a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.app import AppSpec, configured_database_url, default_system, load_run_settings, load_system
from dougong.errors import Error, Invalid, NotFound

APP = '[apps.a]\ntarget = "m:a"\n'


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "system.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_apps_stand_in_their_order_with_everything_said_about_them(tmp_path: Path) -> None:
    system = load_system(
        written(
            tmp_path,
            'name = "my-shop"\n[apps.z]\ntarget = "m:z"\n[apps.a]\ntarget = "m:a"\ninstances = 3\n'
            'http = "127.0.0.1:8080"\nnice = 5\n[apps.a.settings]\ncurrency = "EUR"\n',
        )
    )
    assert system.name == "my-shop"
    assert list(system.apps.items()) == [
        ("z", AppSpec(target="m:z")),
        ("a", AppSpec("m:a", instances=3, http="127.0.0.1:8080", nice=5, settings={"currency": "EUR"})),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "name"),
        ("name = ", "end of document"),
        (b'name = "\xff"', "not UTF-8"),
        ('name = "x"', "apps"),
        ('name = "x"\n[apps]', "no apps in it"),
        (f'name = "../x"\n{APP}', "must be letters, digits"),
        (f'name = ""\n{APP}', "must be letters, digits"),
        (f"name = 5\n{APP}", "name"),
        (f'name = "x"\ncolour = "red"\n{APP}', "colour"),
        (f'name = "x"\n{APP}http = "8080"', "not host:port"),
        (f'name = "x"\n{APP}http = "127.0.0.1:http"', "not host:port"),
        (f'name = "x"\n{APP}http = "127.0.0.1:65536"', "not host:port"),
        (f'name = "x"\n{APP}http = ":8080"', "not host:port"),
        (f'name = "x"\n{APP}http = "127.0.0.1:65535"\ninstances = 2', "past 65535"),
        (f'name = "x"\n{APP}live = "8080"', "apps.a.live: '8080' is not host:port"),
        (f'name = "x"\n{APP}http = "h:80"\nlive = "h:80"', "apps.a.live: port 80 is its front's"),
        (f'name = "x"\n{APP}http = "h:80"\nlive = "h:81"\ninstances = 2', "ports 80 to 81 are its fronts'"),
        (f'name = "x"\n{APP}instances = 0', "1 to 64"),
        (f'name = "x"\n{APP}instances = 65', "1 to 64"),
        (f'name = "x"\n{APP}instances = "two"', "instances"),
        (f'name = "x"\n{APP}nice = -1', "0 to 19"),
        (f'name = "x"\n{APP}port = 5', "port"),
        ('name = "x"\n[apps.a]\ntarget = "m"', "module:attribute"),
        (f'name = "x"\n{APP}database = "orders.db"', "apps.a.database: 'orders.db'"),
        (f'name = "x"\n{APP}database = "mysql://u:s3cret@h"', r"mysql://u:\*\*\*@h'"),
        ('name = "x"\n[apps.a]\ninstances = 1', "target"),
        ('name = "x"\n[apps."../a"]\ntarget = "m:a"', "must be an identifier"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(Invalid, match=said) as caught:
        load_system(path)
    assert str(path) in caught.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere\.toml: No such file"):
        load_system(tmp_path / "nowhere.toml")
    with pytest.raises(NotFound, match="Is a directory"):
        load_system(tmp_path)


@given(st.text())
def test_no_text_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.toml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    with pytest.raises(Error) as caught:  # no such text is a system by chance
        load_system(path)
    assert str(path) in caught.value.message


def test_the_file_here_goes_before_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_system(default_system()).name == "shop"
    written(tmp_path, f'name = "mine"\n{APP}')
    assert load_system(default_system()).name == "mine"


def test_a_database_may_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment outranks the file, so that a password need not stand in it."""
    url = "postgresql://user@db.example/orders"
    system = load_system(written(tmp_path, f'name = "x"\n{APP}database = "{url}"\n[apps.b]\ntarget = "m:b"\n'))
    assert configured_database_url("a", system, {}) == url
    assert configured_database_url("b", system, {}) == configured_database_url("a", None, {}) == ""
    outside = {"DOUGONG_DATABASE_A": "mysql://user:password@db.example/a", "DOUGONG_DATABASE_B": ""}
    assert configured_database_url("a", system, outside) == configured_database_url("a", None, outside)
    assert configured_database_url("a", system, outside).startswith("mysql:")
    assert configured_database_url("b", system, outside) == ""
    monkeypatch.setenv("DOUGONG_DATABASE_A", url)
    load_run_settings({})  # such variables are nothing that a process should not know
