"""Where boxes and lines go in a drawing from top to bottom, after Sugiyama.

States stand on every second level; between them stand the labels of the lines, as boxes of their own, and the bends of
lines that pass by. So nothing is drawn over anything else. Lines that lead back up are laid out as if they led down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Box", "Layout", "lay_out"]

Edge = tuple[str, str]
Point = tuple[float, float]

GAP_PX, LEVEL_PX, MARGIN_PX, TOP_PX = 26.0, 26.0, 24.0, 46.0
SWEEPS = 12


@dataclass(eq=False)
class Box:
    """A rectangle by its middle."""

    width: float
    height: float
    x: float = 0.0
    y: float = 0.0
    level: int = 0
    up: list[Box] = field(default_factory=list)
    down: list[Box] = field(default_factory=list)


@dataclass
class Layout:
    """Everything placed."""

    width: float
    height: float
    nodes: Mapping[str, Box]
    labels: Mapping[Edge, Box]
    edges: Mapping[Edge, Sequence[Point]]
    """From the first to the last point, in the direction of the arrow."""


def lay_out(first: str, sizes: Mapping[str, Point], labels: Mapping[Edge, Point]) -> Layout:
    """Place states of the sizes given and the lines between them, the states in order of their appearance."""
    forward = _acyclic(first, list(sizes), list(labels))
    levels = _levels(list(sizes), [edge for edge in forward.values() if edge[0] != edge[1]])
    nodes = {name: Box(*size, level=2 * levels[name]) for name, size in sizes.items()}
    chains: dict[Edge, list[Box]] = {}
    label_boxes: dict[Edge, Box] = {}
    for edge, size in labels.items():
        source, target = forward[edge]
        label_boxes[edge] = box = Box(*size)
        chain = [nodes[source]]
        if source == target:
            box.level = nodes[source].level + 1
            chain.append(box)
        else:
            middle = _middle(nodes[source].level, nodes[target].level)
            for level in range(nodes[source].level + 1, nodes[target].level):
                stop = box if level == middle else Box(12.0, 0.0)
                stop.level = level
                chain.append(stop)
            chain.append(nodes[target])
        chains[edge] = chain
        for above, below in pairwise(chain):
            above.down.append(below)
            below.up.append(above)
    rows = _rows(nodes, chains)
    _order(rows)
    _spread(rows)
    width, height = _settle(rows)
    return Layout(width, height, nodes, label_boxes, _lines(nodes, chains, forward))


def _middle(top: int, bottom: int) -> int:
    """The level of a line's label: between states, near its upper end."""
    return top + 1 if bottom - top <= 4 else top + 3


def _acyclic(first: str, names: Sequence[str], edges: Sequence[Edge]) -> dict[Edge, Edge]:
    """Each line as it is laid out: those that lead back to a state under way are turned round."""
    forward: dict[Edge, Edge] = {}
    under_way: set[str] = set()
    done: set[str] = set()

    def visit(name: str) -> None:
        under_way.add(name)
        for edge in edges:
            if edge[0] == name:
                back = edge[1] in under_way and edge[1] != name
                forward[edge] = (edge[1], edge[0]) if back else edge
                if edge[1] not in under_way | done:
                    visit(edge[1])
        under_way.discard(name)
        done.add(name)

    for name in (first, *names):
        if name not in done:
            visit(name)
    return forward


def _levels(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """The longest way to each state."""
    levels = dict.fromkeys(names, 0)
    for _ in names:
        for source, target in edges:
            levels[target] = max(levels[target], levels[source] + 1)
    return levels


def _rows(nodes: Mapping[str, Box], chains: Mapping[Edge, Sequence[Box]]) -> list[list[Box]]:
    boxes: dict[int, Box] = {id(box): box for chain in (list(nodes.values()), *chains.values()) for box in chain}
    rows: list[list[Box]] = [[] for _ in range(max(box.level for box in boxes.values()) + 1)]
    for box in boxes.values():
        rows[box.level].append(box)
    return rows


def _order(rows: Sequence[list[Box]]) -> None:
    """Neighbours near each other, lines crossing seldom: each row by the mean place of what it is tied to."""
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            place = {id(box): n for near in rows for n, box in enumerate(near)}
            keys = {
                id(box): sum(place[id(b)] for b in ties) / len(ties) if (ties := box.up if down else box.down) else -1.0
                for box in row
            }
            fixed = [box for box in row if keys[id(box)] < 0]
            moving = sorted((box for box in row if keys[id(box)] >= 0), key=lambda box: keys[id(box)])
            row[:] = [fixed.pop(0) if box in fixed else moving.pop(0) for box in list(row)]
        crossings = _crossings(rows)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    for row, found in zip(rows, best, strict=True):
        row[:] = found


def _crossings(rows: Sequence[Sequence[Box]]) -> int:
    count = 0
    for upper, lower in pairwise(rows):
        place = {id(box): n for n, box in enumerate(lower)}
        ends = [place[id(below)] for box in upper for below in sorted(box.down, key=lambda b: place[id(b)])]
        count += sum(a > b for n, a in enumerate(ends) for b in ends[n + 1 :])
    return count


def _spread(rows: Sequence[list[Box]]) -> None:
    """Each box under the middle of what it is tied to, as far as its neighbours leave room."""
    for row in rows:
        x = 0.0
        for box in row:
            box.x = x + box.width / 2
            x += box.width + GAP_PX
        for box in row:
            box.x -= x / 2
    for sweep in range(4 * SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = []
            for box in row:
                ties = (box.up + box.down) if sweep >= SWEEPS else (box.up if sweep % 2 == 0 else box.down)
                wanted.append(sum(b.x for b in ties) / len(ties) if ties else box.x)
            _fit(row, wanted)


def _fit(row: Sequence[Box], wanted: Sequence[float]) -> None:
    """As near to the wanted places as can be without overlap: the mean of pushing right and of pushing left."""
    right, left = list(wanted), list(wanted)
    for n in range(1, len(row)):
        right[n] = max(right[n], right[n - 1] + (row[n - 1].width + row[n].width) / 2 + GAP_PX)
    for n in range(len(row) - 2, -1, -1):
        left[n] = min(left[n], left[n + 1] - (row[n + 1].width + row[n].width) / 2 - GAP_PX)
    for box, a, b in zip(row, right, left, strict=True):
        box.x = (a + b) / 2


def _settle(rows: Sequence[Sequence[Box]]) -> Point:
    """Heights of the rows, and everything moved into the picture; its size."""
    left = min(box.x - box.width / 2 for row in rows for box in row) - MARGIN_PX
    y = TOP_PX
    for row in rows:
        height = max(box.height for box in row)
        for box in row:
            box.x -= left
            box.y = y + height / 2
        y += height + LEVEL_PX
    return max(box.x + box.width / 2 for row in rows for box in row) + MARGIN_PX, y - LEVEL_PX + MARGIN_PX


def _lines(
    nodes: Mapping[str, Box], chains: Mapping[Edge, Sequence[Box]], forward: Mapping[Edge, Edge]
) -> dict[Edge, list[Point]]:
    """Lines leave and enter states side by side, not all at one point."""
    states = {id(box) for box in nodes.values()}
    lower: dict[int, list[tuple[float, Edge, bool]]] = {}
    upper: dict[int, list[tuple[float, Edge]]] = {}
    for edge, chain in chains.items():
        lower.setdefault(id(chain[0]), []).append((chain[1].x, edge, False))
        if edge[0] == edge[1]:
            lower[id(chain[0])].append((chain[1].x + 1, edge, True))
        else:
            upper.setdefault(id(chain[-1]), []).append((chain[-2].x, edge))
    ports: dict[tuple[Edge, str], float] = {}
    for box in nodes.values():
        for n, (_, edge, loop) in enumerate(some := sorted(lower.get(id(box), []))):
            ports[edge, "loop" if loop else "lower"] = _port(box, n, len(some))
        for n, (_, edge) in enumerate(entering := sorted(upper.get(id(box), []))):
            ports[edge, "upper"] = _port(box, n, len(entering))
    lines: dict[Edge, list[Point]] = {}
    for edge, chain in chains.items():
        start, *between = [box for box in chain if id(box) not in states or box is chain[0]]
        points = [(ports[edge, "lower"], start.y + start.height / 2)]
        for box in between:
            if edge[0] == edge[1]:  # down to the label and up again, behind it
                points += [(box.x - box.width / 4, box.y), (box.x + box.width / 4, box.y)]
                continue
            points += (
                [(box.x, box.y - box.height / 2), (box.x, box.y + box.height / 2)] if box.height else [(box.x, box.y)]
            )
        if edge[0] == edge[1]:
            points.append((ports[edge, "loop"], start.y + start.height / 2))
        else:
            end = chain[-1]
            points.append((ports[edge, "upper"], end.y - end.height / 2))
        lines[edge] = points if forward[edge] == edge else points[::-1]
    return lines


def _port(box: Box, place: int, count: int) -> float:
    inner = box.width - 24
    return box.x if count == 1 else box.x - inner / 2 + inner * place / (count - 1)
