"""Apps in this process: built, served, found through the registry, and let go in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import aiohttp
import msgspec
import pytest
from tests.app.conftest import PATIENCE_S
from tests.app.sample import Greeter, Greeting, Hello

from dougong.app import (
    App,
    GetStatus,
    RunSettings,
    Status,
    configured_layouts,
    load_run_settings,
    load_system,
    read_secrets,
    registry_url,
    run_apps,
    shards_layout,
)
from dougong.app._home import home_of
from dougong.contract import Service, rpc
from dougong.errors import Forbidden, Invalid, Unauthenticated
from dougong.evidence.engines import free_port
from dougong.registry import (
    Discovery,
    DrainRequest,
    FileSnapshots,
    Instance,
    InstanceState,
    Registry,
    Snapshot,
    ask_to_drain,
    open_registry,
)
from dougong.rpc import Server, client, close_client, trust_everyone
from dougong.shard import ShardedStore
from dougong.store import Store, open_store

ODD_PATH = "da ta#1%2F?x=y"  # a data directory is a path, not a piece of URL


@dataclass
class Serving:
    registry: Registry
    stop: asyncio.Event
    task: asyncio.Task[None]


@asynccontextmanager
async def serving(settings: RunSettings, *apps: App) -> AsyncGenerator[Serving]:
    """Run apps until the block ends, or it says stop; it begins once all are in the registry."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_apps(apps, settings, stop=stop))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not (Path(settings.data) / "registry.db").exists() and not task.done():
                await asyncio.sleep(0.01)
            registry = await open_registry(registry_url(Path(settings.data)))
            while len(await instances(registry, "apps.")) < len(apps) and not task.done():
                await asyncio.sleep(0.01)
        try:
            yield Serving(registry, stop, task)
        finally:
            await registry.close()
    finally:
        stop.set()
        await task


async def instances(registry: Registry, prefix: str) -> list[Instance]:
    listing = await registry.list(f"/services/{prefix}")
    return [msgspec.json.decode(item.value, type=Instance) for item in listing.items]


class Twice(Service, package="sample.v1"):
    """Greets twice, with another app's help."""

    def __init__(self, greeter: Greeter) -> None:
        self._greeter = greeter

    @rpc(http="GET /v1/twice/{name}", public=True)
    async def hello(self, request: Hello) -> Greeting:
        """Say hello twice."""
        once = await self._greeter.hello(request)
        return Greeting(text=f"{once.text}, {once.text}", pid=os.getpid())


async def test_what_an_instance_is_stands_in_the_registry_and_what_it_knew_on_disk(tmp_path: Path) -> None:
    settings = RunSettings(data=str(tmp_path), zone="eu-1", version="7", weight=50, epoch=3, instance=2)
    async with serving(settings, App("greeter", services=[Greeter]), App("edge", front=[Twice, Greeter])) as it:
        found = {i.service: i for i in await instances(it.registry, "")}["sample.v1.Greeter"]
        assert (found.zone, found.version, found.weight, found.epoch) == ("eu-1", "7", 50, 3)
        assert found.id == "greeter-2"  # borne by one process after the other
        kept = FileSnapshots(tmp_path / "routes")
        async with asyncio.timeout(PATIENCE_S):
            while (snapshot := await kept.load("sample.v1.Greeter")) is None or not snapshot.instances:
                await asyncio.sleep(0.05)
        assert [i.address for i in snapshot.instances] == [found.address]


async def test_asked_to_drain_a_process_stops_in_order(tmp_path: Path) -> None:
    settings = RunSettings(data=str(tmp_path))
    async with serving(settings, App("greeter", services=[Greeter])) as it:
        (one,) = [i for i in await instances(it.registry, "") if i.service == "sample.v1.Greeter"]
        await ask_to_drain(it.registry, DrainRequest(one.id))
        async with asyncio.timeout(PATIENCE_S):
            while await instances(it.registry, ""):
                await asyncio.sleep(0.02)


async def test_two_processes_never_have_the_same_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in containers
    settings = RunSettings(data=str(tmp_path))
    async with serving(settings, App("greeter", services=[Greeter])) as one, serving(settings, App("greeter")):
        async with asyncio.timeout(PATIENCE_S):
            while len(found := await instances(one.registry, "apps.greeter/")) < 2:
                await asyncio.sleep(0.02)
        assert len({i.id for i in found}) == 2


async def test_two_apps_in_one_process_find_each_other(tmp_path: Path) -> None:
    port = free_port()
    settings = RunSettings(data=str(tmp_path / ODD_PATH), http=f"127.0.0.1:{port}")
    apps = App("greeter", services=[Greeter]), App("twice", services=[Twice]), App("edge", front=[Twice])
    async with serving(settings, *apps) as it, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        async with http.get("/v1/twice/bo") as answer:  # the app with the front has the address
            assert (await answer.json())["text"] == "hello bo, hello bo"
        found = {i.service: i for i in await instances(it.registry, "")}
        assert set(found) == {"apps.greeter", "apps.twice", "apps.edge", "sample.v1.Greeter", "sample.v1.Twice"}
        assert all(i.state is InstanceState.SERVING for i in found.values())
        assert found["apps.edge"].metadata == {
            "pid": str(os.getpid()),
            "http": f"127.0.0.1:{port}",
            "instance": "0",
            "home": home_of(Path(settings.data)),
        }
        async with http.get(f"http://{found['apps.twice'].metadata['http']}/readyz") as answer:
            assert answer.status == 200


async def test_all_of_one_process_may_use_a_registry_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    settings = RunSettings(data=str(tmp_path), http=f"127.0.0.1:{port}", registry="memory://")
    stop = asyncio.Event()
    running = asyncio.create_task(run_apps([App("greeter", services=[Greeter], front=[Greeter])], settings, stop=stop))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http, asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with http.get("/v1/hello/bo") as answer:
                    assert (await answer.json())["text"] == "hello bo"
                    break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)
    stop.set()
    await running
    assert not (tmp_path / "registry.db").exists()


async def test_it_starts_from_what_it_last_knew_while_the_registry_is_down(tmp_path: Path) -> None:
    greeter = Server([Greeter()], authenticator=trust_everyone)
    known = Instance("sample.v1.Greeter", await greeter.start())
    await FileSnapshots(tmp_path / "routes").save(Snapshot(known.service, 7, 1, (known,)))
    port = free_port()
    nobody = f"etcd://127.0.0.1:{free_port()}?timeout_s=0.2"
    settings = RunSettings(data=str(tmp_path), http=f"127.0.0.1:{port}", registry=nobody)
    stop = asyncio.Event()
    running = asyncio.create_task(run_apps([App("twice", services=[Twice], front=[Twice])], settings, stop=stop))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http, asyncio.timeout(PATIENCE_S):
        while not running.done():
            try:
                async with http.get("/v1/twice/bo") as answer:
                    assert (await answer.json())["text"] == "hello bo, hello bo"
                    break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)
    stop.set()
    await running
    await greeter.stop()


async def test_work_that_fails_ends_the_process_with_its_error(tmp_path: Path) -> None:
    ended: list[str] = []

    async def fails() -> None:
        raise RuntimeError("the disk is on fire")

    async def goes_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("goes_on")

    async def is_done() -> None:
        """Work may end well; the process goes on."""

    async def engine() -> AsyncIterator[msgspec.Struct]:
        yield msgspec.Struct()
        ended.append("provider")

    async def uses(it: msgspec.Struct) -> None:
        await asyncio.Event().wait()

    app = App("worker", services=[Greeter], provide=[engine], background=[is_done, goes_on, uses, fails])
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        await run_apps([app], RunSettings(data=str(tmp_path)), stop=asyncio.Event())
    assert ended == ["goes_on", "provider"]
    registry = await open_registry(registry_url(tmp_path))
    assert await instances(registry, "") == []
    await registry.close()


class Slow(Service, package="sample.v1"):
    """Answers when it is let."""

    made: ClassVar[list[Slow]] = []

    def __init__(self) -> None:
        self.begun, self.let, self.stopped = asyncio.Event(), asyncio.Event(), False
        self.made.append(self)

    async def stop(self) -> None:
        self.stopped = True

    @rpc(timeout_s=60.0, public=True)
    async def hello(self, request: Hello) -> Greeting:
        """Wait, then say hello."""
        self.begun.set()
        await self.let.wait()
        return Greeting(text="at last", pid=0)


async def test_stopping_says_goodbye_first_and_finishes_what_was_accepted(tmp_path: Path) -> None:
    settings = RunSettings(data=str(tmp_path), drain_s=PATIENCE_S)
    async with serving(settings, App("slow", services=[Slow])) as it:
        registry, running = it.registry, it.task
        slow = Slow.made.pop()
        discovery = Discovery(registry)
        caller = client(Slow, await discovery.resolve("sample.v1.Slow"))
        asking = asyncio.create_task(caller.hello(Hello(name="bo")))
        async with asyncio.timeout(PATIENCE_S):
            await slow.begun.wait()
            it.stop.set()
            while [i.state for i in await instances(registry, "sample.v1.Slow")] != [InstanceState.TERMINATING]:
                await asyncio.sleep(0.01)
            assert (running.done(), slow.stopped) == (False, False)
            slow.let.set()
            assert (await asking).text == "at last"
            await running
        assert slow.stopped is True
        assert await instances(registry, "") == []
        await close_client(caller)
        await discovery.close()


async def test_stopping_while_starting_gives_up_and_cleans_up(tmp_path: Path) -> None:
    stop, order = asyncio.Event(), list[str]()

    async def opened() -> AsyncIterator[msgspec.Struct]:
        order.append("opened")
        yield msgspec.Struct()
        order.append("closed")

    async def never_ready(it: msgspec.Struct) -> None:
        stop.set()
        await asyncio.Event().wait()

    async def work() -> None:
        order.append("worked")

    app = App("late", provide=[opened], prepare=[never_ready], background=[work])
    async with asyncio.timeout(PATIENCE_S):
        await run_apps([app], RunSettings(data=str(tmp_path)), stop=stop)
    assert order == ["opened", "closed"]


async def test_a_timeout_of_the_apps_own_is_its_own(tmp_path: Path) -> None:
    async def impatient() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await run_apps([App("a", prepare=[impatient])], RunSettings(data=str(tmp_path)), stop=asyncio.Event())


async def test_services_of_one_app_may_ask_for_each_other_in_any_order(tmp_path: Path) -> None:
    async with serving(RunSettings(data=str(tmp_path)), App("both", services=[Twice, Greeter])) as it:
        discovery = Discovery(it.registry)
        caller = client(Twice, await discovery.resolve("sample.v1.Twice"))
        assert (await caller.hello(Hello(name="bo"))).text == "hello bo, hello bo"
        await close_client(caller)
        await discovery.close()


async def test_the_systems_own_methods_are_closed_to_others(tmp_path: Path) -> None:
    async with serving(RunSettings(data=str(tmp_path)), App("greeter", services=[Greeter])) as it:
        (found,) = await instances(it.registry, "apps.greeter")
        stranger = client(Status, [found.address])
        with pytest.raises((Unauthenticated, Forbidden)):
            await stranger.get_status(GetStatus())
        friend = client(Status, [found.address], token=read_secrets(tmp_path / "keys", "dougong").system_token)
        assert (await friend.get_status(GetStatus())).app == "greeter"
        await close_client(stranger)
        await close_client(friend)


class Colours(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shade: str = "red"
    depth: int = 1


async def settings_of(tmp_path: Path, text: str, name: str = "painter") -> Colours:
    system = tmp_path / "system.toml"
    system.write_text(f'name = "sample"\n[apps.{name}]\ntarget = "m:a"\n[apps.{name}.settings]\n{text}')
    seen: list[Colours] = []
    stop = asyncio.Event()

    async def look(colours: Colours) -> None:
        seen.append(colours)
        stop.set()

    app = App("painter", settings=Colours, prepare=[look])
    await run_apps([app], RunSettings(data=str(tmp_path), system=str(system)), stop=stop)
    return seen[0]


async def test_an_apps_settings_come_from_its_system_file_then_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await settings_of(tmp_path, 'shade = "blue"') == Colours("blue", 1)
    monkeypatch.setenv("DOUGONG_APP_PAINTER_DEPTH", "7")
    assert await settings_of(tmp_path, 'shade = "blue"') == Colours("blue", 7)


async def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"\[apps\.painter\.settings\]"):
        await settings_of(tmp_path, 'tone = "high"')


async def test_an_app_under_another_name_than_its_own_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"no \[apps\.painter\].*call both the same"):
        await settings_of(tmp_path, 'shade = "blue"', name="decorator")


GREETER, FRONT, OTHER = App("greeter"), App("front", front=[Greeter]), App("other", front=[Greeter])


@pytest.mark.parametrize(
    ("apps", "settings", "said"),
    [
        ([], RunSettings(), "no app to run"),
        ([GREETER, App("greeter")], RunSettings(), "different names"),
        ([GREETER, FRONT], RunSettings(port=5), "port 5 is one, the apps are 2"),
        ([FRONT, OTHER], RunSettings(http="127.0.0.1:5"), "several apps have a front"),
    ],
)
async def test_what_cannot_go_together_is_refused(apps: Sequence[App], settings: RunSettings, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        await run_apps(apps, settings, stop=asyncio.Event())


async def test_a_bad_http_address_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="http: '8080' is not host:port"):
        await run_apps([GREETER], RunSettings(data=str(tmp_path), http="8080"), stop=asyncio.Event())


def test_run_settings_come_from_the_environment_and_flags_outrank_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_DRAIN_S", "3")
    monkeypatch.setenv("DOUGONG_PORT", "5")
    monkeypatch.setenv("DOUGONG_APP_USERS_CURRENCY", "EUR")  # an app's, not ours
    assert load_run_settings({"port": 6}) == RunSettings(drain_s=3.0, port=6)
    monkeypatch.setenv("DOUGONG_PORT", "five")
    with pytest.raises(Invalid, match="DOUGONG_PORT"):
        load_run_settings()


async def test_an_apps_database_may_be_anywhere(
    tmp_path: Path, fresh_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_url()
    monkeypatch.setenv("DOUGONG_DATABASE_GREETER", url)
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "greetings_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "0001_greetings.sql").write_text("CREATE TABLE greetings (id BIGINT)")

    async def greet(store: Store) -> None:
        await store.write(lambda tx: tx.execute("INSERT INTO greetings VALUES (7)"))

    app = App("greeter", prepare=[greet], migrations="greetings_of_a_test")
    async with serving(RunSettings(data=str(tmp_path / "data"), log_level="error"), app):
        assert not (tmp_path / "data" / "greeter.db").exists()
    store = await open_store(url)
    assert await store.fetch_all("SELECT id FROM greetings") == [(7,)]
    await store.close()


async def test_a_sharded_app_has_its_rows_in_files_of_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, seen = sharded_greeter(tmp_path, monkeypatch)
    data = tmp_path / "data"
    for databases in (4, 4):
        async with serving(RunSettings(data=str(data), log_level="error"), app):
            assert len(seen[-1].databases.names) == databases
    assert sorted(path.name for path in data.glob("greeter*.db")) == [
        *(f"greeter.db-{number}.db" for number in range(4)),
        "greeter.map.db",
    ]


async def test_or_wherever_is_configured(
    tmp_path: Path, fresh_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, seen = sharded_greeter(tmp_path, monkeypatch)
    urls = [fresh_url() for _ in range(3)]
    system = tmp_path / "system.toml"
    system.write_text(
        f'name = "sample"\n[apps.greeter]\ntarget = "m:a"\n[apps.greeter.shards]\nmetadata = "{urls[0]}"\n'
        f'[apps.greeter.shards.databases]\none = "{urls[1]}"\ntwo = "{urls[2]}"'
    )
    data = tmp_path / "data"
    async with serving(RunSettings(data=str(data), system=str(system), log_level="error"), app):
        assert seen[-1].databases.names == ("one", "two")
    assert not list(data.glob("greeter*.db"))
    assert list(configured_layouts(load_system(system))) == ["greeter"]


def sharded_greeter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[App, list[ShardedStore]]:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "sharded_greetings"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "0001_greetings.sql").write_text("CREATE TABLE greetings (id BIGINT PRIMARY KEY)")
    seen: list[ShardedStore] = []

    async def greet(store: ShardedStore) -> None:
        await store.store_of(7).write(lambda tx: tx.execute("DELETE FROM greetings"))
        seen.append(store)

    return App("greeter", prepare=[greet], migrations="sharded_greetings", sharded=True), seen


@pytest.mark.parametrize(
    ("shards", "complaint"),
    [
        ("count = 0", "shards.count must be 1 to 128"),
        ('url = "sqlite:///{number}.db"\n[apps.a.shards.databases]\nb = "sqlite:///b.db"', "either url and count"),
        ("colour = 1", "unknown field"),
    ],
)
def test_wrong_shards_are_named(tmp_path: Path, shards: str, complaint: str) -> None:
    file = tmp_path / "system.toml"
    file.write_text(f'name = "sample"\n[apps.a]\ntarget = "m:a"\n[apps.a.shards]\n{shards}')
    with pytest.raises(Invalid, match=complaint):
        load_system(file)


def test_where_shards_are_may_be_said_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "system.toml"
    file.write_text('name = "sample"\n[apps.a]\ntarget = "m:a"\n[apps.a.shards]\ncount = 128')
    system = load_system(file)
    environ = {"DOUGONG_DATABASE_A": "mysql://root@db/a_{number:03}"}
    assert configured_layouts(system, {}) == {}
    with pytest.raises(Invalid, match="DOUGONG_DATABASE_A_MAP"):
        shards_layout("a", system, tmp_path, environ)
    layout = shards_layout("a", system, tmp_path, {**environ, "DOUGONG_DATABASE_A_MAP": "mysql://root@db/a_map"})
    assert layout.databases["db-7"] == "mysql://root@db/a_007"
    assert len(layout.databases) == 128
    file.write_text('name = "sample"\n[apps.a]\ntarget = "m:a"\ndatabase = "sqlite:///a.db"')
    with pytest.raises(Invalid, match="a is sharded"):
        shards_layout("a", load_system(file), tmp_path, {})
    with pytest.raises(TypeError, match="is sharded, so it has databases"):
        App("a", sharded=True)
