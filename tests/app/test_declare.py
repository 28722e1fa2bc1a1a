"""What an `App` refuses when it is declared, and how one is found by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.app.sample import Greeter, greeter

from dougong.app import App, load_app
from dougong.contract import Message, Service, rpc
from dougong.errors import Invalid
from dougong.tcc import Participant


class Nothing(Message): ...


class Holds(Participant[Nothing], service="sample.v1.Holds", payload=Nothing): ...


class Broken(Service, package="sample.v1"):
    @rpc()
    async def nothing(self, request: int) -> Nothing:
        raise NotImplementedError


@pytest.mark.parametrize("name", ["", "a-b", "a.b", "../a", "1a", "a b"])
def test_a_name_is_an_identifier(name: str) -> None:
    with pytest.raises(TypeError, match="must be an identifier"):
        App(name)


def test_participants_need_a_database() -> None:
    with pytest.raises(TypeError, match="needs a database: pass migrations="):
        App("holder", participants=[Holds])


def test_a_service_is_named_once() -> None:
    with pytest.raises(TypeError, match=r"app 'a' serves sample\.v1\.Greeter twice"):
        App("a", services=[Greeter, Greeter])


@pytest.mark.parametrize("where", ["services", "front"])
def test_a_service_that_cannot_be_served_is_found_at_once(where: str) -> None:
    with pytest.raises(TypeError, match="Broken"):
        App("a", **{where: [Broken]})  # type: ignore[arg-type]


def test_an_app_is_found_by_module_and_attribute() -> None:
    app = load_app("tests.app.sample:greeter")
    assert (app.name, app.service_names) == (greeter.name, ("sample.v1.Greeter",))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shop.orders", "not of the form 'module:attribute'"),
        (":app", "not of the form"),
        ("shop.orders:", "not of the form"),
        ("no.such.module:app", "no module named 'no'"),
        ("tests.app.sample:nothing", "tests.app.sample has no App called 'nothing'"),
        ("tests.app.sample:Greeter", "tests.app.sample has no App called 'Greeter'"),
    ],
)
def test_a_target_that_is_not_there_is_named(target: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        load_app(target)


def test_what_an_app_itself_misses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Invalid, match="'needs_more:app': no module named 'not_installed'"):
        load_app("needs_more:app")
    sys.modules.pop("needs_more", None)
