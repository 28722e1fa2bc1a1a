"""The package's own door: names for a first service, loaded when asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dougong


def test_every_exported_name_is_there() -> None:
    for name in dougong.__all__:
        assert getattr(dougong, name).__module__.startswith("dougong.")
    assert dir(dougong) == sorted(dougong.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = dougong.nonsense  # type: ignore[attr-defined]


def test_using_one_room_does_not_load_the_others() -> None:
    code = "import sys, dougong.errors, dougong.clock; print([m for m in ('grpc', 'sqlalchemy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    assert done.stdout.strip() == "[]"
