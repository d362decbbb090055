"""A network as a picture: its parts from the inputs down to the outputs. Needs matplotlib, the extra ``cgru[plot]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..engine.model import Model
from ..spec.graph import Graph
from .plot import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches of a box and of the space it has, and how large a picture may get.
_WIDTH, _HEIGHT, _ROOM = 2.6, 0.5, (2.9, 0.9)
_LARGEST = 250.0


class Box(NamedTuple):
    """An input, a part or an output: where it stands, from the left and from the top, and what it says."""

    column: float
    row: int
    text: str


def network_figure(net: Model) -> Figure:
    """A figure of the network, the entries of one that has several side by side.

    A box is a layer with its sizes, or a group of operations that came of one; arrows are the values between them.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    entries: Mapping[str, Model] = getattr(net, "entries", None) or {"": net}
    drawn = {name: layout(entry) for name, entry in entries.items()}
    columns = [max(2 * abs(box.column) for box in boxes.values()) + 1.5 for boxes, _ in drawn.values()]
    rows = max(box.row for boxes, _ in drawn.values() for box in boxes.values()) + 1
    size = min(_ROOM[0] * sum(columns), _LARGEST), min(_ROOM[1] * rows + 0.4, _LARGEST)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(drawn), squeeze=False, width_ratios=columns)
    for axes, (name, (boxes, edges)), width in zip(grid[0], drawn.items(), columns, strict=True):
        _draw(axes, boxes, edges)
        axes.set(xlim=(-width / 2, width / 2), ylim=(rows - 0.4, -0.6))
        axes.set_axis_off()
        axes.set_title(name, parse_math=False)
    return figure


def layout(net: Model) -> tuple[dict[str, Box], list[tuple[str, str]]]:
    """The boxes of a network by name, and the arrows between them.

    A part stands below everything it reads, unless two read each other in turn. Masks that a caller may give are left
    out.
    """
    graph = net.graph
    layers = {layer.name: f"{layer.name}\n{layer.title}: {layer.describe()}" for layer in net.layers}
    owner = {node.name: f"layer {node.layer}" for node in graph.nodes}
    owner |= {name: f"input {name}" for name in graph.inputs if name not in graph.optional}
    texts = {f"input {name}": f"{name}\n{graph.inputs[name].describe()}" for name in net.input_names}
    for node in graph.nodes:
        texts.setdefault(owner[node.name], layers.get(node.layer, node.layer))
    depth, edges = _depths(graph, owner)
    for name in graph.outputs:
        end = f"output {name}"
        texts[end] = f"{name}\n{graph.values[name].describe()}"
        edges.append((owner[name], end))
        depth[end] = depth[owner[name]] + 1
    ranks = {d: i for i, d in enumerate(sorted({depth.get(box, 0) for box in texts}))}
    rows: dict[int, list[str]] = {}
    for box in texts:
        rows.setdefault(ranks[depth.get(box, 0)], []).append(box)
    boxes = {
        box: Box(i - (len(row) - 1) / 2, rank, texts[box]) for rank, row in rows.items() for i, box in enumerate(row)
    }
    return boxes, list(dict.fromkeys(edges))


def _depths(graph: Graph, owner: Mapping[str, str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """How far below the inputs each box stands, and the arrows between boxes."""
    depth = {owner[name]: 0 for name in graph.inputs if name in owner}
    edges = []
    for node in graph.nodes:
        box = owner[node.name]
        outside = [name for name in node.inputs if name in owner and owner[name] != box]
        depth[box] = max([depth.get(box, 1), *(depth[owner[name]] + 1 for name in outside)])
        edges += [(owner[name], box) for name in outside]
    return depth, edges


def _draw(axes: Any, boxes: Mapping[str, Box], edges: list[tuple[str, str]]) -> None:
    from matplotlib.patches import FancyBboxPatch

    wide, high = _WIDTH / _ROOM[0], _HEIGHT / _ROOM[1]
    colours = {"input": "#dbe9f6", "layer": "#f4f4f4", "output": "#e2f0d9"}
    for start, end in edges:
        a, b = boxes[start], boxes[end]
        # An arrow past other boxes of its column goes round them: half its bend is half a box and a little.
        past = b.row - a.row > 1 and a.column == b.column
        bend = (_WIDTH + 0.5) / (_ROOM[1] * (b.row - a.row) - _HEIGHT) if past else 0.0
        axes.annotate(
            "",
            (b.column, b.row - high / 2),
            (a.column, a.row + high / 2),
            arrowprops={"arrowstyle": "-|>", "color": "0.45", "lw": 0.9, "connectionstyle": f"arc3,rad={bend}"},
            zorder=0,
        )
    for name, box in boxes.items():
        kind = name.partition(" ")[0]
        corner = box.column - wide / 2, box.row - high / 2
        style: dict[str, Any] = {"boxstyle": "round,pad=0.0,rounding_size=0.05", "fc": colours[kind], "ec": "0.5"}
        axes.add_patch(FancyBboxPatch(corner, wide, high, **style))
        first, _, rest = box.text.partition("\n")
        text: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False, "clip_on": True}
        axes.text(box.column, box.row - high * 0.2, _short(first), fontsize=8, weight="bold", **text)
        axes.text(box.column, box.row + high * 0.22, _short(rest), fontsize=7, color="0.25", **text)


def _short(text: str) -> str:
    return text if len(text) <= 44 else f"{text[:43]}…"
