"""The reader: YAML as Kubernetes takes it, strictness, bounds, and no bytes that do harm."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from types import TracebackType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Invalid
from dougong.mesh.istio import Policies, _yaml, load_policies, read_policies
from dougong.mesh.istio._durations import duration_ns
from dougong.mesh.istio._fields import Table
from dougong.mesh.istio._problems import Stop
from dougong.mesh.istio._yaml import Kind, documents

GOLDEN = [
    document
    for file in sorted((Path(__file__).parent / "golden").glob("*.yaml"))
    for document in file.read_text(encoding="utf-8").split("---\n")
    if len(document) < 1000
]
"""Short, as the nightly job reads twenty thousand of them damaged."""


def rule(policy: str, host: str = "orders") -> str:
    """A DestinationRule whose trafficPolicy is one line of YAML."""
    return f"""\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: orders}}
spec:
  host: {host}
  trafficPolicy: {policy}
"""


def read(policy: str) -> Policies:
    return read_policies({"mesh.yaml": rule(policy)})


def refusal(text: str | bytes) -> Invalid:
    with pytest.raises(Invalid) as raised:
        read_policies({"mesh.yaml": text})
    return raised.value


@pytest.mark.parametrize(
    ("written", "kind", "value"),
    [
        ("on", Kind.FLAG, True),
        ("Yes", Kind.FLAG, True),
        ("y", Kind.FLAG, True),
        ("OFF", Kind.FLAG, False),
        ("n", Kind.FLAG, False),
        ("'on'", Kind.TEXT, "on"),
        ("!!str on", Kind.TEXT, "on"),
        ("! 5", Kind.TEXT, "5"),
        ("yES", Kind.TEXT, "yES"),
        ("010", Kind.WHOLE, 8),
        ("0o10", Kind.WHOLE, 8),
        ("09", Kind.WHOLE, 9),
        ("0b11", Kind.WHOLE, 3),
        ("-0x1F", Kind.WHOLE, -31),
        ("1_000", Kind.WHOLE, 1000),
        ("1e3", Kind.WHOLE, 1000),
        ("5.0", Kind.WHOLE, 5),
        (".5", Kind.NUMBER, 0.5),
        ("-.inf", Kind.NUMBER, float("-inf")),
        ("1:30", Kind.TEXT, "1:30"),
        ("2001-01-01", Kind.TEXT, "2001-01-01"),
        ("1e400", Kind.NUMBER, float("inf")),
        ("9" * 41, Kind.TEXT, "9" * 41),
        ("=", Kind.TEXT, "="),
        ("~", Kind.NULL, None),
        ("", Kind.NULL, None),
        ("''", Kind.TEXT, ""),
    ],
)
def test_a_scalar_is_what_kubernetes_takes_it_for(written: str, kind: Kind, value: object) -> None:
    (document,) = documents(f"key: {written}\n".encode(), "a.yaml")
    ((name, place, node),) = document.entries
    assert (name, place.line, place.column) == ("key", 1, 1)
    assert (node.kind, node.value) == (kind, value)


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (b"a: 1\na: 2\n", "duplicate_key", 2),
        (b"a: &x 1\nb: *x\n", "alias", 2),
        (b"a: &x [*x]\n", "alias", 1),
        (b"a:\n  <<: {b: 1}\n", "alias", 2),
        (b"1: a\n", "bad_key", 1),
        (b"yes: a\n", "bad_key", 1),
        (b"? [a]\n: b\n", "bad_key", 1),
        (b"? {}\n: b\n", "bad_key", 1),
        (b"~: a\n", "bad_key", 1),
        (b"a: !!int 1\n", "tag", 1),
        (b"a: !!set {b}\n", "tag", 1),
        (b"a: !!python/tuple [1]\n", "tag", 1),
        (b"[" * 40, "too_deep", 1),
        (b"a\n\xff\n", "bad_yaml", 2),
        (b"a: b: c\n", "bad_yaml", 1),
        (b'a: "\\UFFFFFFFF"\n', "bad_yaml", 1),
        (b"%YAML " + b"1" * 5000 + b".1\n--- a\n", "bad_yaml", 1),
        (b"a: \x00\n", "bad_yaml", 1),
        (b" " * (_yaml.BYTES_MAX + 1), "too_large", 1),
    ],
)
def test_what_is_refused_before_any_field_is_read(data: bytes, code: str, line: int) -> None:
    with pytest.raises(Stop) as raised:
        documents(data, "a.yaml")
    assert (raised.value.finding.code, raised.value.finding.place.line) == (code, line)


def test_without_the_bound_on_depth_the_reader_runs_out_of_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation."""
    monkeypatch.setattr(_yaml, "DEPTH_MAX", 10**9)
    limit = sys.getrecursionlimit()  # others raise it for tests of theirs
    sys.setrecursionlimit(1000)
    try:
        with pytest.raises(RecursionError):
            documents(b"[" * 2_000, "a.yaml")
    finally:
        sys.setrecursionlimit(limit)


def test_a_byte_order_mark_and_empty_documents_are_nothing() -> None:
    text = "\ufeff---\n---\n" + rule("{tls: {mode: SIMPLE}}") + "---\n# nothing\n"
    assert read_policies({"mesh.yaml": text}).warnings == ()
    assert read_policies({"mesh.yaml": b""}).warnings == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("100ms", 0.1),
        ("1m30s", 90),
        ("0.5s", 0.5),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("5.s", 5),
        ("+2s", 2),
        ("-2s", -2),
        ("0", 0),
        ("1h1m1s1ms1us1µs1μs1ns", 3661.001_003_001),
    ],
)
def test_durations_are_those_of_go(text: str, seconds: float) -> None:
    assert duration_ns(text) == round(seconds * 1e9)


@pytest.mark.parametrize(
    "text", ["", "30", "s", "5 s", "1d", ".s", "1s-", "1e3s", "١s", "9999999999h", "1" * 70 + "s", "--1s"]
)
def test_what_go_does_not_read_is_no_duration(text: str) -> None:
    assert duration_ns(text) is None


def test_a_fault_names_file_line_column_field_and_remedy() -> None:
    error = refusal(rule("{outlierDetection: {intervall: 5s}}"))
    assert error.code == "unknown_field"
    assert error.message == (
        "mesh.yaml:6:38: spec.trafficPolicy.outlierDetection.intervall: unknown field; did you mean interval?"
    )
    assert error.fields == {
        "path": "spec.trafficPolicy.outlierDetection.intervall",
        "file": "mesh.yaml",
        "line": 6,
        "column": 38,
    }


def test_all_faults_of_all_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(rule("{tls: {mode: NONE}}"), encoding="utf-8")
    (tmp_path / "a.yaml").write_text("a: [", encoding="utf-8")
    (tmp_path / "c.txt").write_text("not looked at", encoding="utf-8")
    with pytest.raises(Invalid) as raised:
        load_policies([tmp_path, tmp_path / "gone.yaml"])
    first, second, third = raised.value.message.splitlines()
    assert "gone.yaml:1:1: cannot be read: No such file" in first
    assert "a.yaml:1:5: not YAML" in second
    assert "b.yml:6:25: spec.trafficPolicy.tls.mode: 'NONE' is not known; there are DISABLE" in third


def test_what_cannot_be_opened_or_encoded_is_refused_like_the_rest(tmp_path: Path) -> None:
    for path in (tmp_path / "\0", tmp_path / "gone.yaml"):
        with pytest.raises(Invalid) as raised:
            load_policies([path])
        assert raised.value.code == "unreadable"
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(Invalid, match="Is a directory"):
        load_policies([tmp_path])
    assert refusal("a: \ud800").code == "bad_yaml"


def test_a_long_list_of_faults_is_cut() -> None:
    fields = ", ".join(f"unknown{index}: 1" for index in range(60))
    assert refusal(rule(f"{{{fields}, tls: {{}}}}")).message.endswith("\nand 10 more")


def test_an_unknown_field_is_caught_because_tables_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: without it the misspelt limit is no limit, and nobody hears of it."""
    policy = "{connectionPool: {tcp: {maxConnection: 5}}}"
    assert refusal(rule(policy)).code == "unknown_field"

    def leave(
        self: Table, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    monkeypatch.setattr(Table, "__exit__", leave)
    silent = read(policy)
    assert silent.warnings == ()
    assert silent.for_service("orders").limits.max_connections == 2**32 - 1


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_the_three_versions_are_one(version: str) -> None:
    text = rule("{tls: {mode: SIMPLE}}").replace("/v1", f"/{version}")
    policies = read_policies({"mesh.yaml": text})
    assert policies.for_service("orders").tls is not None
    assert [warning.code for warning in policies.warnings] == (["deprecated_value"] if version == "v1alpha3" else [])


def harmless(data: bytes) -> None:
    with contextlib.suppress(Invalid):
        read_policies({"mesh.yaml": data})


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_no_bytes_do_harm(data: bytes) -> None:
    harmless(data)


@pytest.mark.fuzz
@given(st.text(st.sampled_from("ab:-[]{},\n \t'\"#&*!|>%@`?\\<1.é"), max_size=80))
def test_no_text_of_yaml_signs_does_harm(text: str) -> None:
    harmless(text.encode())


@pytest.mark.fuzz
@given(st.sampled_from(GOLDEN), st.data())
def test_no_damaged_file_does_harm(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(begin, min(len(text), begin + 40)))
        text = (
            text[:begin]
            + data.draw(st.sampled_from(["", ": ", "- ", "\n", "[]", "{}", "~", "-1", "x", "'", "99999999999"]))
            + text[end:]
        )
    harmless(text.encode())


@pytest.mark.fuzz
@given(st.sampled_from(GOLDEN), st.data())
def test_no_value_in_any_place_does_harm(text: str, data: st.DataObject) -> None:
    """Any line's value replaced by anything that is YAML."""
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=4,
    )
    lines = text.splitlines()
    index = data.draw(st.integers(0, len(lines) - 1))
    head = lines[index].partition(":")[0]
    lines[index] = f"{head}: {json.dumps(data.draw(anything))}"
    harmless("\n".join(lines).encode())
