"""A declaration as a picture: Mermaid text, or an SVG of our own.

Both are made from the table alone, so that they cannot tell anything else than what is done.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax.saxutils import escape

from dougong.statemachine.layout import Box, Layout, lay_out
from dougong.statemachine.table import Move, Table

__all__ = ["mermaid", "svg"]

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_TAKEN = frozenset({"as", "class", "direction", "end", "note", "state"})
_UNITS = ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"), (1_000, "ms"))

_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_CHAR_PX, _LINE_PX = 7.0, 17.0
_STATE_PX, _DOT_PX = 34.0, 7.0


def mermaid(table: Table) -> str:
    """A `stateDiagram-v2`."""
    ids = {name: _id(name, place) for place, name in enumerate(table.states)}
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{name}" as {id_}' for name, id_ in ids.items() if name != id_]
    lines.append(f"    [*] --> {ids[table.initial]}")
    for source, ways in table.moves.items():
        for some in ways.values():
            lines += [f"    {ids[source]} --> {ids[m.target]} : {_label(table, source, m)}" for m in some]
    lines += [f"    {ids[name]} --> [*]" for name in table.states if name in table.finals]
    return "\n".join(lines) + "\n"


def svg(table: Table, title: str = "") -> str:
    """The same as a picture. Dashed: what a deadline fires. A double frame: final."""
    labels: dict[tuple[str, str], list[str]] = {}
    timed: set[tuple[str, str]] = set()
    for source, ways in table.moves.items():
        for event, some in ways.items():
            for move in some:
                labels.setdefault((source, move.target), []).append(_label(table, source, move))
                if table.deadlines.get(source, (0, ""))[1] == event:
                    timed.add((source, move.target))
    sizes = {name: (max(70.0, _CHAR_PX * len(name) + 30), _STATE_PX) for name in table.states}
    plan = lay_out(
        table.initial,
        sizes,
        {
            edge: (max(_CHAR_PX * len(line) for line in lines) + 8, _LINE_PX * len(lines) + 6)
            for edge, lines in labels.items()
        },
    )
    parts = [_edge(plan, edge, dashed=edge in timed and len(labels[edge]) == 1) for edge in labels]
    parts += [_text(plan.labels[edge], lines) for edge, lines in labels.items()]
    parts += [_state(name, plan.nodes[name], final=name in table.finals) for name in table.states]
    start = plan.nodes[table.initial]
    top = start.y - start.height / 2
    parts.insert(
        0,
        f'<circle class="dot" cx="{start.x:.1f}" cy="{top - 30:.1f}" r="{_DOT_PX}"/>'
        f'<path class="edge" d="M{start.x:.1f} {top - 23:.1f}V{top - 1:.1f}"/>',
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {plan.width:.0f} {plan.height:.0f}" '
        f'width="{plan.width:.0f}" height="{plan.height:.0f}" role="img">\n'
        f"<title>{escape(title or 'state machine')}</title>\n{_STYLE}\n"
        f'<rect class="paper" width="100%" height="100%"/>\n{body}\n</svg>\n'
    )


def _id(name: str, place: int) -> str:
    return name if _PLAIN.fullmatch(name) and name.lower() not in _TAKEN else f"s{place}"


def _label(table: Table, source: str, move: Move) -> str:
    """`after 30 min: expire [guard] / action`."""
    deadline = table.deadlines.get(source)
    when = f"after {_duration(deadline[0])}, " if deadline is not None and deadline[1] == move.event else ""
    guard = f" [{move.guard}]" if move.guard else ""
    return f"{when}{move.event}{guard}" + (f" / {move.action}" if move.action else "")


def _duration(us: int) -> str:
    for size, unit in _UNITS:
        if us >= size and us % size == 0:
            return f"{us // size} {unit}"
    return f"{us} µs"


def _state(name: str, box: Box, *, final: bool) -> str:
    x, y = box.x - box.width / 2, box.y - box.height / 2
    inner = (
        f'<rect class="inner" x="{x + 3:.1f}" y="{y + 3:.1f}" width="{box.width - 6:.1f}" '
        f'height="{box.height - 6:.1f}" rx="6"/>'
        if final
        else ""
    )
    return (
        f'<rect class="state" x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="8"/>{inner}'
        f'<text class="name" x="{box.x:.1f}" y="{box.y + 4.5:.1f}">{escape(name)}</text>'
    )


def _text(box: Box, lines: Sequence[str]) -> str:
    x, y = box.x - box.width / 2, box.y - box.height / 2
    shown = "".join(
        f'<text class="label" x="{box.x:.1f}" y="{y + 15 + _LINE_PX * place:.1f}">{escape(line)}</text>'
        for place, line in enumerate(lines)
    )
    return f'<rect class="paper" x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"/>{shown}'


def _edge(plan: Layout, edge: tuple[str, str], *, dashed: bool) -> str:
    """A smooth line through the points, with an arrow at its end."""
    points = plan.edges[edge]
    (x, y), *rest = points
    path = f"M{x:.1f} {y:.1f}"
    for nx, ny in rest:
        half = (ny - y) / 2
        path += f"C{x:.1f} {y + half:.1f} {nx:.1f} {ny - half:.1f} {nx:.1f} {ny:.1f}"
        x, y = nx, ny
    return f'<path class="edge{" timed" if dashed else ""}" d="{path}"/>'


_STYLE = f"""<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" \
orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#475569"/></marker></defs>
<style>
text {{ font-family: {_FONT}; text-anchor: middle }}
.paper {{ fill: #fff }}
.state {{ fill: #eef2ff; stroke: #4f46e5; stroke-width: 1.5 }}
.inner {{ fill: none; stroke: #4f46e5 }}
.name {{ font-size: 14px; fill: #1e1b4b }}
.label {{ font-size: 12px; fill: #334155 }}
.edge {{ fill: none; stroke: #475569; stroke-width: 1.3; marker-end: url(#arrow) }}
.timed {{ stroke-dasharray: 5 4 }}
.dot {{ fill: #1e1b4b }}
</style>"""
