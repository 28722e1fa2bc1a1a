"""The README does what it says: its example serves, its curl lines end with a delivered order."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType

import aiohttp
import pytest
import pytest_asyncio
import structlog
from tests.docs.pages import ROOT, blocks
from tests.system.conftest import READY_S, SYSTEM_FILE, free_port, system_on

from dougong.app import RunSettings, Supervisor, run_apps
from dougong.telemetry import close_tracing, configure_tracing, recorder

README = ROOT / "README.md"
PRINTED_ADDRESS = "127.0.0.1:8080"


def only(language: str) -> str:
    (code,) = (block.code for block in blocks(README) if block.language == language)
    return code


@pytest.fixture
def telemetry_restored() -> Iterator[None]:
    """`run_apps` configures the process, which here is the tests'."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    close_tracing()
    configure_tracing("test")
    recorder().clear()


@pytest.fixture
def example(tmp_path: Path) -> Iterator[ModuleType]:
    """The README's example as a module."""
    file = tmp_path / "readme_example.py"
    file.write_text(only("python"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("readme_example", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme_example"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["readme_example"]


@pytest.mark.usefixtures("telemetry_restored")
async def test_the_example_is_served_over_http(example: ModuleType, tmp_path: Path) -> None:
    port, stop = free_port(), asyncio.Event()
    settings = RunSettings(data=str(tmp_path / "data"), http=f"127.0.0.1:{port}", log_level="error")
    running = asyncio.create_task(run_apps([example.app], settings, stop=stop))
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            while True:
                try:
                    async with http.get(f"{url}/v1/stock/lamp") as answer:
                        assert answer.status == 200
                        assert await answer.json() == {"sku": "lamp", "available": 42}
                    break
                except aiohttp.ClientConnectionError:
                    assert not running.done(), running.result()
                    await asyncio.sleep(0.02)
            async with http.get(f"{url}/openapi.json") as answer:
                document = await answer.json()
            assert document["paths"]["/v1/stock/{sku}"]["get"]["summary"] == "Stock of one SKU now."
    finally:
        stop.set()
        await asyncio.wait_for(running, 60)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop_port(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    """A shop of its own: the README registers a fixed name."""
    port, lines = free_port(), list[str]()
    data = tmp_path_factory.mktemp("readme-shop")
    supervisor = Supervisor(system_on(port), SYSTEM_FILE, data, on_line=lambda name, line: lines.append(line))
    try:
        await supervisor.start(ready_s=READY_S)
    except BaseException as error:
        error.add_note("\n".join(lines[-50:]))
        raise
    yield port
    await supervisor.stop()


def patient(script: str) -> str:
    """The script as printed, its last call repeated until the order is there: nobody promises how soon that is."""
    last = script.strip().splitlines()[-1]
    pause, _, call = last.partition("; ")
    assert re.fullmatch(r"sleep \d+", pause), last
    return f"""set -eu
{script}
echo
for attempt in $(seq 600); do
    answer=$({call})
    case $answer in *'"delivered"'*) break ;; esac
    sleep 0.2
done
echo "$answer"
"""


@pytest.mark.processes
@pytest.mark.xdist_group("shop")
@pytest.mark.asyncio(loop_scope="session")
async def test_the_curl_lines_end_with_a_delivered_order(shop_port: int, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    assert shutil.which("curl") is not None, "the README's lines need curl"
    printed = only("sh")
    assert printed.count(PRINTED_ADDRESS) == printed.count("curl") == 4
    script = patient(printed.replace(PRINTED_ADDRESS, f"127.0.0.1:{shop_port}"))
    process = await asyncio.create_subprocess_exec(
        bash,
        "-c",
        script,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(240):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    registered, *_, delivered = [line for line in out.decode().splitlines() if line]
    profile, _ = json.JSONDecoder().raw_decode(registered)  # curl ends no line: more may follow
    order = json.loads(delivered)
    assert profile["email"] == "ada@example.org"
    assert order["state"] == "delivered"
    assert order["lines"] == [{"sku": "sku-0001", "quantity": 2}]
