"""Telemetry is the process's: each test here gets it fresh and leaves it as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from dougong.telemetry import close_tracing, configure_tracing, recorder


@pytest.fixture(autouse=True)
def fresh_tracing() -> Iterator[None]:
    configure_tracing("test")
    recorder().clear()
    yield
    close_tracing()
    configure_tracing("test")
    recorder().clear()


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
