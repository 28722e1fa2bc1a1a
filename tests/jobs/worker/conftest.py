"""Logging is the process's: who configures it in a test puts it back."""

from tests.telemetry.conftest import logging_restored

__all__ = ["logging_restored"]
