"""A secret shows itself to nobody who did not ask by name."""

from __future__ import annotations

import copy
import json
import pickle
import traceback

import msgspec
import pytest

from dougong.config import Secret, load
from dougong.errors import Invalid


class Settings(msgspec.Struct, frozen=True):
    password: Secret = Secret("hush")
    port: int = 1


def test_it_shows_stars() -> None:
    secret = Secret("hush")
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r:>20}", "%s" % secret, repr(Settings()), repr([secret])]  # noqa: UP031
    assert not [text for text in shown if "hush" in text]
    assert secret.reveal() == "hush"


def test_it_is_not_passed_on_by_code_that_expects_text() -> None:
    with pytest.raises(TypeError):
        "".join([Secret("hush")])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        json.dumps(Secret("hush"))
    with pytest.raises(TypeError):
        msgspec.json.encode(Settings())
    with pytest.raises(TypeError, match="in the open"):
        pickle.dumps(Secret("hush"))


def test_it_compares_and_copies() -> None:
    secret = Secret("hush")
    assert secret == Secret("hush") != Secret("other")
    assert secret != "hush"
    assert len({secret, Secret("hush")}) == 1
    assert copy.deepcopy(secret) is copy.copy(secret) is secret
    assert secret
    assert not Secret("")
    assert Secret("\udcff") != Secret("x")  # bytes of an environment that are no UTF-8


def test_errors_about_it_do_not_tell_it() -> None:
    environ = {"DOUGONG_PASSWORD": "hush", "DOUGONG_PORT": "x"}
    with pytest.raises(Invalid) as caught:
        load(Settings, environ=environ)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("value", [["hush"], {"hush": 1}, 7])
def test_a_secret_of_the_wrong_kind_is_refused_without_telling(value: object) -> None:
    with pytest.raises(Invalid, match="password: expected text") as caught:
        load(Settings, environ={}, overrides={"password": value})
    assert "hush" not in str(caught.value)


def test_lists_and_dicts_may_hold_secrets() -> None:
    class Many(msgspec.Struct):
        keys: list[Secret] = []
        by_name: dict[str, Secret | None] = {}

    loaded = load(
        Many, environ={"DOUGONG_KEYS": '["a"]', "DOUGONG_KEYS__1": "b"}, overrides={"by_name": {"x": "c", "y": None}}
    )
    assert [secret.reveal() for secret in loaded.value.keys] == ["a", "b"]
    assert loaded.value.by_name == {"x": Secret("c"), "y": None}


def test_an_optional_secret_knows_null_from_empty() -> None:
    class Maybe(msgspec.Struct):
        key: Secret | None = Secret("default")

    assert load(Maybe, environ={"DOUGONG_KEY": "null"}).value.key is None
    assert load(Maybe, environ={"DOUGONG_KEY": ""}).value.key == Secret("")
