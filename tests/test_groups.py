"""Tests of one `xdist_group` run in one process: they would be in each other's way, or share what is dear to start."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("ours")
def test_the_group_is_part_of_the_id_by_which_tests_are_shared_out(request: pytest.FixtureRequest) -> None:
    assert request.node.nodeid.endswith("@ours") == ("PYTEST_XDIST_WORKER" in os.environ)
