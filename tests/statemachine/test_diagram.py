"""The picture tells what the table says, and nothing is drawn over anything else."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.statemachine.parcels import Parcels

from dougong.statemachine import Deadline, Rule, State
from dougong.statemachine.diagram import mermaid, svg
from dougong.statemachine.layout import Box, lay_out
from dougong.statemachine.table import compile_table


def test_mermaid() -> None:
    assert Parcels.mermaid() == (
        "stateDiagram-v2\n"
        "    [*] --> packed\n"
        "    packed --> on_the_way : send [is_light] / note\n"
        "    packed --> at_customs : send\n"
        "    packed --> lost : after 1 h, give_up / note\n"
        "    on_the_way --> packed : return\n"
        "    on_the_way --> delivered : deliver\n"
        "    on_the_way --> lost : after 1 d, lose\n"
        "    at_customs --> packed : return\n"
        "    delivered --> [*]\n"
        "    lost --> [*]\n"
    )


def test_names_that_mermaid_would_misread() -> None:
    states = (State("in-stock", initial=True, deadline=Deadline(0.25, "go")), State("end", final=True))
    drawn = mermaid(compile_table(states, (Rule("in-stock", "go", "end"),), 1, {}))
    assert 'state "in-stock" as s0\n' in drawn
    assert 'state "end" as s1\n' in drawn
    assert "    s0 --> s1 : after 250 ms, go\n" in drawn


def test_the_picture_has_everything() -> None:
    root = ET.fromstring(Parcels.svg())
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert set(Parcels.declaration.table.states) <= set(texts)
    assert {"send [is_light] / note", "after 1 h, give_up / note", "after 1 d, lose", "return"} <= set(texts)
    lines = [element.get("class") for element in root.iter() if element.tag.endswith("path")]
    assert lines.count("edge timed") == 2  # the deadlines' are dashed
    assert lines.count("edge") == 6  # the others', and the way in
    frames = [element.get("class") for element in root.iter() if element.tag.endswith("rect")]
    assert frames.count("inner") == 2  # final states


def test_text_is_escaped() -> None:
    table = compile_table(
        (State("a", initial=True), State("b", final=True)), (Rule("a", "x", "b", guard="<&>"),), 1, {}
    )
    assert "x [&lt;&amp;&gt;]" in svg(table)


NAMES = "abcdefgh"


@settings(max_examples=150, deadline=None)
@given(st.sets(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=16), st.integers(20, 200))
def test_nothing_overlaps_and_every_line_ends_at_its_states(edges: set[tuple[str, str]], width: int) -> None:
    reached = {"a": None} | {name: None for edge in sorted(edges) for name in edge}
    plan = lay_out("a", dict.fromkeys(reached, (70.0, 34.0)), dict.fromkeys(sorted(edges), (float(width), 20.0)))
    boxes = [*plan.nodes.values(), *plan.labels.values()]
    for one, other in combinations(boxes, 2):
        assert apart(one, other)
    for box in boxes:
        assert 0 <= box.x - box.width / 2 <= box.x + box.width / 2 <= plan.width
        assert 0 <= box.y - box.height / 2 <= box.y + box.height / 2 <= plan.height
    for (source, target), points in plan.edges.items():
        assert touches(plan.nodes[source], points[0])
        assert touches(plan.nodes[target], points[-1])


def apart(one: Box, other: Box) -> bool:
    return (
        abs(one.x - other.x) >= (one.width + other.width) / 2 - 0.01
        or abs(one.y - other.y) >= (one.height + other.height) / 2 - 0.01
    )


def touches(box: Box, point: tuple[float, float]) -> bool:
    return (
        abs(point[0] - box.x) <= box.width / 2 + 0.01
        and min(abs(point[1] - (box.y - box.height / 2)), abs(point[1] - (box.y + box.height / 2))) < 0.01
    )


@pytest.mark.parametrize(
    ("after_s", "said"), [(90.0, "90 s"), (120.0, "2 min"), (86400.0 * 30, "30 d"), (0.0015, "1500 µs")]
)
def test_durations(after_s: float, said: str) -> None:
    states = (State("a", initial=True, deadline=Deadline(after_s, "x")), State("b", final=True))
    assert re.search(f"after {said}, x", mermaid(compile_table(states, (Rule("a", "x", "b"),), 1, {})))
