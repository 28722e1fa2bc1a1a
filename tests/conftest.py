"""What every test shares: uvloop, hypothesis profiles, and the rule that nothing is skipped silently in CI."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop
from _pytest.nodeid import coerce_node_id
from hypothesis import HealthCheck, settings

# Before gRPC is imported: its fork handlers restart its threads in children that only want to start a server, and now
# and then such a child dies of them first. Nobody uses gRPC in a forked child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from tests import engines

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")

# No deadlines: tests assert order and counts, never wall-clock speed.
_quiet = (HealthCheck.too_slow,)
settings.register_profile("dev", deadline=None, max_examples=50, print_blob=True, suppress_health_check=_quiet)
settings.register_profile("ci", deadline=None, max_examples=200, print_blob=True, suppress_health_check=_quiet)
settings.register_profile("nightly", deadline=None, max_examples=20_000, print_blob=True, suppress_health_check=_quiet)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if IN_CI else "dev"))


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], uvloop.Loop]]:
    """Tests run on the loop that production runs on."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write golden files anew; then read what changed")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one group run in one process. xdist 3.8 says which is whose by writing ids anew, where pytest looks for
    them no more since 9.2: unless they are put where it does, no group holds together."""
    for item in items:
        grouped = vars(item).get("_nodeid")
        if grouped is not None:
            item._id = coerce_node_id(grouped)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything a test needs is installed first, so a skip means that something was not exercised."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and in CI a skip is a failure: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for whole modules (`pytest.importorskip`)."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and in CI a skip is a failure: {_reason(report.longrepr)}"
    return report


def _reason(longrepr: Any) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A failure can be replayed: say how. Simulations have seeds of their own, which are told in any case."""
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, [])]
    seeds = sorted(str(value) for report in reports for name, value in report.user_properties if name == "seeds")
    if seeds:
        terminalreporter.write_line(f"simulated seeds: {', '.join(seeds)}")
    seed = config.getoption("randomly_seed", None)
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"same order and random numbers: make test ARGS='--randomly-seed={seed}'")


@pytest.fixture(params=engines.DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    """Every engine in turn."""
    return str(request.param)


@pytest.fixture
def fresh_url(dialect: str, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """URLs of fresh databases on that engine; they are gone after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(engines.database_url(dialect, tmp_path))


def pytest_sessionfinish() -> None:
    """Database servers that tests of this worker started."""
    engines.stop_all()
