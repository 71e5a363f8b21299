"""Pictures of a pipeline: Mermaid text, and SVG without any drawing library."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from starmill.pipelines.definition import Pipeline

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 170, 34, 30, 46


def mermaid(pipeline: Pipeline, counts: Mapping[str, int] | None = None) -> str:
    """Return the pipeline as a Mermaid flow chart; `counts` are quanta by task."""
    lines = ["flowchart TD"]
    for node in pipeline.nodes:
        number = f"<br/>{counts[node.label]} quanta" if counts is not None else ""
        lines.append(f'  t_{node.label}["{node.label}{number}"]')
        for spec in node.inputs:
            arrow = "-.->" if not spec.is_driving else "-->"
            lines.append(f"  d_{spec.dataset}([{spec.dataset}]) {arrow} t_{node.label}")
        lines += [f"  t_{node.label} --> d_{output.dataset}([{output.dataset}])" for output in node.outputs]
    return "\n".join(lines) + "\n"


def svg(pipeline: Pipeline, counts: Mapping[str, int] | None = None) -> str:
    """Return the pipeline as an SVG picture: tasks as boxes, data sets as rounded boxes, flow downwards."""
    edges: list[tuple[str, str, bool]] = []
    for node in pipeline.nodes:
        edges += [(f"d:{spec.dataset}", f"t:{node.label}", spec.is_driving) for spec in node.inputs]
        edges += [(f"t:{node.label}", f"d:{output.dataset}", True) for output in node.outputs]
    levels: dict[str, int] = {}
    for _ in range(2 * len(pipeline.nodes) + 1):  # longest path in a graph without cycles
        for start, end, _solid in edges:
            levels[start] = levels.get(start, 0)
            levels[end] = max(levels.get(end, 0), levels[start] + 1)
    rows: dict[int, list[str]] = {}
    for name, level in levels.items():
        rows.setdefault(level, []).append(name)
    widest = max(len(row) for row in rows.values())
    total = widest * (_WIDTH + _GAP_X) + _GAP_X
    places: dict[str, tuple[float, float]] = {}
    for level, row in rows.items():
        left = (total - len(row) * (_WIDTH + _GAP_X) + _GAP_X) / 2
        for position, name in enumerate(row):
            places[name] = (left + position * (_WIDTH + _GAP_X), _GAP_Y / 2 + level * (_HEIGHT + _GAP_Y))
    height = (max(rows) + 1) * (_HEIGHT + _GAP_Y)
    style = 'font-family="sans-serif" font-size="12" text-anchor="middle"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height}" {style}>']
    for start, end, solid in edges:
        x0, y0 = places[start][0] + _WIDTH / 2, places[start][1] + _HEIGHT
        x1, y1 = places[end][0] + _WIDTH / 2, places[end][1]
        dash = "" if solid else ' stroke-dasharray="4 3"'
        parts.append(f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="#888"{dash}/>')
    for name, (x, y) in places.items():
        parts += _box(name, x, y, counts)
    return "\n".join([*parts, "</svg>", ""])


def _box(name: str, x: float, y: float, counts: Mapping[str, int] | None) -> list[str]:
    kind, label = name.split(":", 1)
    round_corner, colour = (16, "#eef4fb") if kind == "d" else (3, "#fdf3dc")
    text = escape(label)
    if kind == "t" and counts is not None:
        text += f" ({counts[label]})"
    return [
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="{round_corner}" fill="{colour}" stroke="#555"/>',
        f'<text x="{x + _WIDTH / 2}" y="{y + _HEIGHT / 2 + 4}">{text}</text>',
    ]
