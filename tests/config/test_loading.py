"""Layers over each other: what wins, what is refused and in which words, and what `why` says about it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.config import Layer, Loaded, Secret, Source, load
from dougong.errors import Invalid, NotFound


class Mode(StrEnum):
    FAST = "fast"
    SAFE = "safe"


class Pool(msgspec.Struct, frozen=True):
    host: str = "localhost"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 5432


class Database(msgspec.Struct, frozen=True):
    url: str = ""
    password: Secret = Secret("")
    pool: Pool = Pool(port=1000)


class Settings(msgspec.Struct, frozen=True):
    listen: str = "127.0.0.1:0"
    workers: int = 1
    ratio: float = 1.0
    debug: bool = False
    mode: Mode = Mode.SAFE
    level: Literal["info", "debug"] = "info"
    note: str | None = "a note"
    limit: int | None = 5
    peers: list[str] = msgspec.field(default_factory=lambda: ["a:1", "b:2"])
    pools: tuple[Pool, ...] = ()
    limits: dict[str, int] = msgspec.field(default_factory=lambda: {"orders": 1, "stock-levels": 2})
    pools_by_name: dict[str, Pool] = {}
    database: Database = Database()
    data: Path = Path("var")


class Inner(msgspec.Struct):
    url: str


class Needs(msgspec.Struct):
    inner: Inner
    key: Secret


class Range(msgspec.Struct):
    low: int = 0
    high: int = 10

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


class Outer(msgspec.Struct):
    range: Range = msgspec.field(default_factory=Range)


def given_environment(**variables: str) -> Loaded[Settings]:
    return load(Settings, environ={f"DOUGONG_{name}": text for name, text in variables.items()})


def refused(**variables: str) -> Invalid:
    with pytest.raises(Invalid) as caught:
        given_environment(**variables)
    return caught.value


def toml(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# ------------------------------------------------------------------------------------------------------------ layers


def test_without_layers_the_defaults_hold() -> None:
    loaded = load(Settings, environ={})
    assert loaded.value == Settings()
    assert set(loaded.sources().values()) == {Source(Layer.DEFAULT)}


def test_later_layers_win_and_why_tells_which(tmp_path: Path) -> None:
    base = toml(tmp_path / "base.toml", 'workers = 2\nratio = 0.5\nlisten = "base"\nmode = "fast"\n')
    profile = toml(tmp_path / "profile.toml", 'ratio = 0.25\nlisten = "profile"\n[database.pool]\nport = 7\n')
    loaded = load(
        Settings, files=[base, str(profile)], environ={"DOUGONG_LISTEN": "env"}, overrides={"database.url": "sqlite://"}
    )
    value = loaded.value
    assert (value.workers, value.ratio, value.listen, value.mode) == (2, 0.25, "env", Mode.FAST)
    assert value.database == Database("sqlite://", pool=Pool("localhost", 7))
    assert loaded.why("workers") == Source(Layer.FILE, str(base))
    assert loaded.why("ratio") == Source(Layer.FILE, str(profile))
    assert loaded.why("listen") == Source(Layer.ENVIRONMENT, "DOUGONG_LISTEN")
    assert loaded.why("database.url") == Source(Layer.OVERRIDE)
    assert loaded.why("debug") == Source(Layer.DEFAULT)
    assert str(loaded.why("ratio")) == f"file {profile}"
    assert str(loaded.why("listen")) == "environment variable DOUGONG_LISTEN"
    assert str(loaded.why("debug")) == "default"


def test_overrides_outrank_the_environment() -> None:
    loaded = load(Settings, environ={"DOUGONG_WORKERS": "2"}, overrides={"workers": 3, "peers[1]": "z"})
    assert loaded.value.workers == 3
    assert loaded.value.peers == ["a:1", "z"]
    assert loaded.why("workers").layer is Layer.OVERRIDE


def test_flags_may_be_passed_on_as_text() -> None:
    overrides = {"workers": "3", "peers": '["x"]', "limit": "null", "database.pool.port": "9", "debug": "true"}
    value = load(Settings, environ={}, overrides=overrides).value
    assert (value.workers, value.peers, value.limit, value.database.pool.port) == (3, ["x"], None, 9)
    assert value.debug is True


def test_overrides_are_not_shared_with_who_gave_them() -> None:
    mine = ["x"]
    value = load(Settings, environ={"DOUGONG_PEERS__0": "e"}, overrides={"peers": mine}).value
    mine.append("y")
    assert value.peers == ["x"]


def test_tables_merge_over_the_default_object_not_over_the_class() -> None:
    assert given_environment(DATABASE__POOL__HOST="db").value.database.pool == Pool("db", 1000)


def test_parts_of_files_already_read_count_as_files() -> None:
    loaded = load(Settings, tables=[("system.toml", {"workers": 4, "ratio": 0.5})], environ={"DOUGONG_WORKERS": "5"})
    assert (loaded.value.workers, loaded.value.ratio) == (5, 0.5)
    assert loaded.why("ratio") == Source(Layer.FILE, "system.toml")


def test_the_processes_environment_is_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGTEST_WORKERS", "7")
    assert load(Settings, prefix="CONFIGTEST_").value.workers == 7


def test_variables_of_others_are_left_alone() -> None:
    environ = {"PATH": "/bin", "DOUGONG_SYSTEM": "x", "DOUGONG_SETTINGS__A": "x", "DOUGONG_WORKERS": "2"}
    loaded = load(Settings, environ=environ, ignore=("DOUGONG_SYSTEM", "DOUGONG_SETTINGS__"))
    assert loaded.value.workers == 2
    with pytest.raises(Invalid, match="DOUGONG_SETTINGS__A sets nothing"):
        load(Settings, environ=environ, ignore=("DOUGONG_SYSTEM", "DOUGONG_SETTINGS"))


# ------------------------------------------------------------------------------------------- missing, null and empty


def test_missing_null_and_empty_are_three_things(tmp_path: Path) -> None:
    base = toml(tmp_path / "base.toml", 'note = "from the file"\npeers = ["f:1"]\n[limits]\norders = 9\n')

    def layered(**variables: str) -> Settings:
        environ = {f"DOUGONG_{name}": text for name, text in variables.items()}
        return load(Settings, files=[base], environ=environ).value

    assert layered().note == "from the file"
    assert layered(NOTE="null").note is None
    assert layered(NOTE="").note == ""
    assert layered().peers == ["f:1"]
    assert layered(PEERS="").peers == layered(PEERS="[]").peers == []
    assert layered(LIMITS="").limits == layered(LIMITS="{}").limits == {}
    assert layered(LISTEN="").listen == ""


def test_an_empty_list_or_dict_in_a_later_file_replaces(tmp_path: Path) -> None:
    base = toml(tmp_path / "base.toml", 'peers = ["f:1"]\nlimits = {orders = 9}\n')
    later = toml(tmp_path / "later.toml", "peers = []\nlimits = {}\n")
    loaded = load(Settings, files=[base, later], environ={})
    assert (loaded.value.peers, loaded.value.limits) == ([], {})
    assert loaded.why("peers") == Source(Layer.FILE, str(later))


def test_an_empty_table_of_a_class_changes_nothing(tmp_path: Path) -> None:
    base = toml(tmp_path / "base.toml", '[database]\nurl = "x"\n')
    later = toml(tmp_path / "later.toml", "[database]\n")
    assert load(Settings, files=[base, later], environ={}).value.database.url == "x"


def test_null_is_refused_where_it_means_nothing() -> None:
    error = refused(WORKERS="null")
    assert "workers: expected int" in error.message
    assert load(Settings, environ={"DOUGONG_LISTEN": "null"}).value.listen == "null"  # a str is any text


def test_empty_is_no_number() -> None:
    assert "DOUGONG_WORKERS" in refused(WORKERS="").message
    assert "DOUGONG_LIMIT" in refused(LIMIT="").message


# ------------------------------------------------------------------------------------------------------- environment


def test_text_becomes_what_the_type_says() -> None:
    value = given_environment(
        WORKERS="8", RATIO="0.5", DEBUG="TRUE", MODE="fast", LEVEL="debug", LIMIT="7", DATA="/srv", LISTEN="80"
    ).value
    assert (value.workers, value.ratio, value.debug, value.mode) == (8, 0.5, True, Mode.FAST)
    assert (value.level, value.limit, value.data, value.listen) == ("debug", 7, Path("/srv"), "80")


def test_lists_tables_and_dicts_are_json() -> None:
    value = given_environment(
        PEERS='["x", "y"]', POOLS='[{"port": 1}, {"host": "h"}]', LIMITS='{"a": 3}', DATABASE='{"url": "u"}'
    ).value
    assert value.peers == ["x", "y"]
    assert value.pools == (Pool(port=1), Pool("h"))
    assert value.limits == {"a": 3}
    assert value.database == Database("u")


def test_single_entries_of_a_default_list_can_be_replaced_and_added() -> None:
    loaded = given_environment(PEERS__1="z", PEERS__2="new")
    assert loaded.value.peers == ["a:1", "z", "new"]
    assert loaded.why("peers[0]").layer is Layer.DEFAULT
    assert loaded.why("peers[1]") == loaded.why("peers.1") == Source(Layer.ENVIRONMENT, "DOUGONG_PEERS__1")


def test_single_entries_of_a_list_in_a_file(tmp_path: Path) -> None:
    base = toml(tmp_path / "base.toml", '[[pools]]\nhost = "p"\nport = 1\n[[pools]]\nhost = "q"\nport = 2\n')
    loaded = load(Settings, files=[base], environ={"DOUGONG_POOLS__1__PORT": "22", "DOUGONG_POOLS__2__HOST": "r"})
    assert loaded.value.pools == (Pool("p", 1), Pool("q", 22), Pool("r"))
    assert loaded.why("pools[1].host") == Source(Layer.FILE, str(base))
    assert loaded.why("pools[1].port") == Source(Layer.ENVIRONMENT, "DOUGONG_POOLS__1__PORT")


def test_eleven_entries_come_in_number_order() -> None:
    value = given_environment(**{f"POOLS__{i}__PORT": str(i + 1) for i in range(11)}).value
    assert [pool.port for pool in value.pools] == list(range(1, 12))


def test_a_hole_in_a_list_is_refused() -> None:
    assert "peers[3]: the list has 2 entries; the next is [2]" in refused(PEERS__3="x").message
    assert "the list has 1 entries" in refused(PEERS='["a"]', PEERS__2="x").message


def test_single_entries_of_dicts_keep_the_names_there_are() -> None:
    value = given_environment(LIMITS__ORDERS="10", LIMITS__NEW="3", POOLS_BY_NAME__MAIN__PORT="9").value
    assert value.limits == {"orders": 10, "stock-levels": 2, "new": 3}
    assert value.pools_by_name == {"main": Pool(port=9)}


def test_names_that_variables_cannot_spell_are_found_in_the_file(tmp_path: Path) -> None:
    base = toml(tmp_path / "base.toml", '[limits]\n"stock-Levels.v1" = 1\n')
    value = load(Settings, files=[base], environ={"DOUGONG_LIMITS__STOCK_LEVELS_V1": "5"}).value
    assert value.limits == {"stock-Levels.v1": 5}


def test_a_whole_and_its_part_may_both_be_given() -> None:
    value = given_environment(PEERS='["x", "y"]', PEERS__1="z", DATABASE='{"url": "u"}', DATABASE__URL="v").value
    assert (value.peers, value.database.url) == (["x", "z"], "v")


def test_a_value_can_come_from_a_file_beside_the_variable(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    loaded = given_environment(DATABASE__PASSWORD_FILE=str(tmp_path / "secret"))
    assert loaded.value.database.password == Secret("hush")
    assert loaded.why("database.password") == Source(Layer.ENVIRONMENT, "DOUGONG_DATABASE__PASSWORD_FILE")


def test_only_one_line_end_is_taken_off(tmp_path: Path) -> None:
    for content, expected in (("a\r\n", "a"), ("a\n\n", "a\n"), ("", ""), (" a ", " a ")):
        (tmp_path / "secret").write_bytes(content.encode())
        loaded = given_environment(DATABASE__PASSWORD_FILE=str(tmp_path / "secret"))
        assert loaded.value.database.password.reveal() == expected


def test_a_value_and_its_file_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    error = refused(DATABASE__PASSWORD="other", DATABASE__PASSWORD_FILE=str(tmp_path / "secret"))
    assert error.code == "ambiguous_setting"
    assert "DOUGONG_DATABASE__PASSWORD and DOUGONG_DATABASE__PASSWORD_FILE" in error.message


@pytest.mark.parametrize("content", [None, b"\xff", b"x" * ((1 << 20) + 1)])
def test_a_value_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    error = refused(DATABASE__PASSWORD_FILE=str(file))
    assert error.code == "bad_config_file"
    assert str(file) in error.message
    assert "DOUGONG_DATABASE__PASSWORD_FILE" in error.message


def test_a_field_may_itself_end_in_file() -> None:
    class Tls(msgspec.Struct):
        key_file: str = ""

    assert load(Tls, environ={"DOUGONG_KEY_FILE": "/k.pem"}).value.key_file == "/k.pem"


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("variables", "code", "told"),
    [
        ({"WORKER": "1"}, "unknown_setting", ["DOUGONG_WORKER sets nothing; did you mean DOUGONG_WORKERS?"]),
        ({"DATABASE__ULR": "x"}, "unknown_setting", ["DOUGONG_DATABASE__ULR", "DOUGONG_DATABASE has no such entry"]),
        ({"WORKERS__0": "1"}, "unknown_setting", ["DOUGONG_WORKERS__0"]),
        ({"PEERS__X": "1"}, "unknown_setting", ["DOUGONG_PEERS__X"]),
        ({"": "1"}, "unknown_setting", ["DOUGONG_ sets nothing"]),
        ({"WORKERS": "many"}, "bad_setting", ["workers: expected int", "DOUGONG_WORKERS"]),
        ({"WORKERS": "1.5"}, "bad_setting", ["workers: expected int"]),
        ({"DEBUG": "perhaps"}, "bad_setting", ["debug: expected bool"]),
        ({"MODE": "slow"}, "bad_setting", ["mode: expected one of 'fast', 'safe'"]),
        ({"LEVEL": "loud"}, "bad_setting", ["level: expected one of 'info', 'debug'"]),
        ({"LIMIT": "x"}, "bad_setting", ["limit: expected int | null"]),
        ({"DATABASE__POOL__PORT": "0"}, "bad_setting", ["database.pool.port: expected int ≥ 1 ≤ 65535"]),
        ({"PEERS": "a,b"}, "bad_setting", ["peers: expected a list as JSON", "DOUGONG_PEERS"]),
        ({"PEERS": '{"a": 1}'}, "bad_setting", ["peers: expected a list, got a table"]),
        ({"PEERS": '["a", 1]'}, "bad_setting", ["peers[1]: expected str", "DOUGONG_PEERS"]),
        ({"LIMITS": "[]"}, "bad_setting", ["limits: expected a table of names and values, got a list"]),
        ({"LIMITS": '{"a": "x"}'}, "bad_setting", ["limits.a: expected int"]),
        ({"DATABASE": "5"}, "bad_setting", ["database: expected a table, got int"]),
        ({"DATABASE": "null"}, "bad_setting", ["database: expected a table, got null"]),
        ({"DATABASE": ""}, "bad_setting", ["database: expected a table as JSON"]),
        ({"DATABASE": '{"uri": 1}'}, "unknown_setting", ["database.uri", "did you mean url?", "DOUGONG_DATABASE"]),
    ],
)
def test_what_fits_nothing_is_refused_with_its_place(variables: dict[str, str], code: str, told: list[str]) -> None:
    error = refused(**variables)
    assert error.code == code
    for text in told:
        assert text in error.message


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("wrokers = 1", "unknown_setting", "wrokers: there is no such setting; did you mean workers?"),
        (
            "[database.pool]\nprot = 1",
            "unknown_setting",
            "database.pool.prot: there is no such setting; did you mean port",
        ),
        ('workers = "1"', "bad_setting", "workers: expected int"),  # a file has types of its own: text is no number
        ("database = 1", "bad_setting", "database: expected a table, got int"),
        ("[workers]\na = 1", "bad_setting", "workers: expected int"),
        ("workers = 1\nworkers = 2", "bad_config_file", "is not TOML"),
        ("workers = ", "bad_config_file", "is not TOML"),
    ],
)
def test_files_are_refused_with_their_name(tmp_path: Path, text: str, code: str, told: str) -> None:
    file = toml(tmp_path / "orders.toml", text)
    with pytest.raises(Invalid) as caught:
        load(Settings, files=[file], environ={})
    assert caught.value.code == code
    assert told in caught.value.message
    assert str(file) in caught.value.message


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"a = " + b"[" * 100_000])
def test_files_that_cannot_be_read_are_refused_with_their_name(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "orders.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Invalid, match=r"orders\.toml") as caught:
        load(Settings, files=[file], environ={})
    assert caught.value.code == "bad_config_file"


@pytest.mark.parametrize("path", ["nothing", "workers.deeper", "peers.x", "", "a..b", "peers[x]"])
def test_overrides_of_nothing_are_refused(path: str) -> None:
    with pytest.raises(Invalid, match="no such setting") as caught:
        load(Settings, environ={}, overrides={path: 1})
    assert caught.value.code == "unknown_setting"


def test_all_faults_are_told_at_once() -> None:
    error = refused(WORKERS="x", RATIO="y", PRES="1")
    assert len(error.message.splitlines()) == 3
    assert error.fields["where"]


def test_very_many_faults_are_cut() -> None:
    error = refused(**{f"X{number}": "1" for number in range(100)})
    assert error.message.endswith("and 80 more")


def test_what_is_required_is_asked_for_by_name() -> None:
    with pytest.raises(Invalid) as caught:
        load(Needs, environ={})
    assert caught.value.code == "missing_setting"
    assert "inner.url: is required (expected str)" in caught.value.message
    assert "DOUGONG_INNER__URL" in caught.value.message
    assert "DOUGONG_KEY" in caught.value.message
    loaded = load(Needs, environ={"DOUGONG_INNER__URL": "u", "DOUGONG_KEY": "k"})
    assert (loaded.value.inner.url, loaded.value.key.reveal()) == ("u", "k")


def test_a_class_may_check_itself() -> None:
    with pytest.raises(Invalid, match="range: low is above high, set by environment variable DOUGONG_RANGE__LOW"):
        load(Outer, environ={"DOUGONG_RANGE__LOW": "11"})


def test_bounds_on_the_number_of_entries_hold() -> None:
    class Cluster(msgspec.Struct):
        nodes: Annotated[list[Pool], msgspec.Meta(min_length=1, max_length=2)]
        tags: Annotated[dict[str, str], msgspec.Meta(max_length=1)] = {}

    assert load(Cluster, environ={"DOUGONG_NODES__0__PORT": "1"}).value.nodes == [Pool(port=1)]
    for variables in ({"DOUGONG_NODES": "[]"}, {"DOUGONG_NODES": "[{},{},{}]"}):
        with pytest.raises(Invalid, match=r"nodes: .*length"):
            load(Cluster, environ=variables)
    with pytest.raises(Invalid, match=r"tags: .*length"):
        load(Cluster, environ={"DOUGONG_NODES": "[{}]", "DOUGONG_TAGS": '{"a":"1","b":"2"}'})


def test_other_kinds_of_lists() -> None:
    class Kinds(msgspec.Struct):
        names: frozenset[str] = frozenset()
        pair: tuple[int, str] = (1, "a")
        either: int | str = 0

    value = load(
        Kinds, environ={"DOUGONG_NAMES": '["a","a"]', "DOUGONG_NAMES__1": "b"}, overrides={"pair": (2, "b")}
    ).value
    assert (value.names, value.pair, value.either) == (frozenset({"a", "b"}), (2, "b"), 0)


def test_optional_tables_appear_with_their_first_entry() -> None:
    class Outer(msgspec.Struct):
        pool: Pool | None = None

    assert load(Outer, environ={}).value.pool is None
    assert load(Outer, environ={"DOUGONG_POOL__PORT": "3"}).value.pool == Pool(port=3)
    assert load(Outer, environ={"DOUGONG_POOL": "null"}).value.pool is None


def test_renamed_fields_go_by_their_outer_name(tmp_path: Path) -> None:
    class Renamed(msgspec.Struct, rename="kebab"):
        max_batch: int = 1

    file = toml(tmp_path / "x.toml", "max-batch = 2")
    assert load(Renamed, files=[file], environ={}).value.max_batch == 2
    with pytest.raises(Invalid, match="max_batch"):
        load(Renamed, files=[toml(tmp_path / "y.toml", "max_batch = 2")], environ={})


@pytest.mark.parametrize("name", ["a__b", "_a", "a_"])
def test_names_no_variable_can_tell_apart_are_a_programming_error(name: str) -> None:
    with pytest.raises(TypeError, match="__"):
        load(msgspec.defstruct("Odd", [(name, int, 1)]), environ={})
    with pytest.raises(TypeError, match="same variable"):
        load(msgspec.defstruct("Odd", [("ab", int, 1), ("aB", int, 1)]), environ={})


# ---------------------------------------------------------------------------------------------------------- why, all


@pytest.mark.parametrize("path", ["nothing", "workers.x", "peers[9]", "limits.none", "[", "peers[x]"])
def test_why_knows_only_what_is_there(path: str) -> None:
    with pytest.raises(NotFound, match="no setting") as caught:
        load(Settings, environ={}).why(path)
    assert caught.value.code == "unknown_setting"


def test_a_table_is_as_strong_as_the_strongest_in_it(tmp_path: Path) -> None:
    file = toml(tmp_path / "x.toml", "[database.pool]\nport = 1\n")
    loaded = load(Settings, files=[file], environ={"DOUGONG_DATABASE__URL": "u"})
    assert loaded.why("database").layer is Layer.ENVIRONMENT
    assert loaded.why("database.pool").layer is Layer.FILE
    assert loaded.why("pools").layer is Layer.DEFAULT


def test_a_replaced_whole_forgets_who_set_its_parts() -> None:
    loaded = load(Settings, environ={"DOUGONG_PEERS__0": "x"}, overrides={"peers": ["a", "b"]})
    assert loaded.why("peers[0]").layer is Layer.OVERRIDE


def test_sources_list_every_single_value() -> None:
    sources = given_environment(PEERS__1="z", POOLS='[{"port": 1}]').sources()
    assert list(sources)[:4] == ["listen", "workers", "ratio", "debug"]
    assert str(sources["peers[1]"]) == "environment variable DOUGONG_PEERS__1"
    assert str(sources["pools[0].host"]) == "environment variable DOUGONG_POOLS"
    assert sources["database.pool.port"].layer is Layer.DEFAULT
    assert "pools_by_name" in sources  # empty, and a value all the same


# -------------------------------------------------------------------------------------------------------------- fuzz


def loaded_or_refused(variables: dict[str, str]) -> Loaded[Settings] | Invalid:
    try:
        return given_environment(**variables)
    except Invalid as error:
        return error


@pytest.mark.fuzz
@given(st.dictionaries(st.text("ABDELMOPRSTU_0123FI", max_size=20), st.text(max_size=20), max_size=5))
def test_any_environment_is_loaded_or_refused(variables: dict[str, str]) -> None:
    loaded = loaded_or_refused(variables)
    assert isinstance(loaded, Invalid) or isinstance(loaded.value, Settings)


@pytest.mark.fuzz
@given(
    st.dictionaries(
        st.sampled_from([name.upper() for name in Settings.__struct_fields__] + ["PEERS__0", "POOLS__0__PORT"]),
        st.text(max_size=20) | st.from_regex(r'[\[\]{}":,0-9a-z]{0,20}', fullmatch=True),
        max_size=4,
    )
)
def test_any_text_for_a_setting_is_loaded_or_refused(variables: dict[str, str]) -> None:
    loaded = loaded_or_refused(variables)
    if isinstance(loaded, Invalid):
        assert "DOUGONG_" in loaded.message
    else:
        assert loaded.sources()


@given(st.text())
def test_any_text_is_a_valid_str_and_arrives_unchanged(text: str) -> None:
    assert given_environment(LISTEN=text).value.listen == text
