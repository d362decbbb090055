"""A network as a graph of operations over typed values: a plain frozen specification, without weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import FormatError, ShapeError, UnsupportedError
from .operation import ArrayInfo, Operation, checked_options, operation
from .values import DTYPES, Value, value_from_json

#: What follows an input's name in the name of its mask: an input that may be left out, (B, T) bool.
MASK = ".mask"


class Node(NamedTuple):
    """One operation in a graph. Its name is the name of the value it yields.

    ``inputs`` name the values it reads, in the order of the operation's roles, "" where an optional one is absent.
    ``weights`` is the key of its arrays in the store ("" where it has none), ``layer`` the name of the layer it came
    of, under which people know it.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    options: Mapping[str, Any] = {}
    weights: str = ""
    layer: str = ""


class Graph:
    """Nodes in topological order over named inputs, with every value's type worked out and checked.

    ``inputs`` maps names to types, in the order a caller gives them; ``outputs`` are names of inputs or nodes.
    ``optional`` inputs may be left out of a call (masks). ``shapes``, a mapping from weight key to array name to shape,
    is checked against what the operations want where it is given. Raises :class:`ShapeError` for what does not fit
    together and :class:`FormatError` for what is no graph.
    """

    __slots__ = ("array_infos", "inputs", "nodes", "operations", "optional", "outputs", "values")

    def __init__(
        self,
        inputs: Mapping[str, Value],
        nodes: Iterable[Node],
        outputs: Sequence[str],
        *,
        shapes: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
    ) -> None:
        self.inputs = dict(inputs)
        self.optional = frozenset(
            name for name in self.inputs if name.endswith(MASK) and name[: -len(MASK)] in self.inputs
        )
        self.values: dict[str, Value] = {}
        self.operations: dict[str, Operation] = {}
        self.array_infos: dict[str, dict[str, ArrayInfo]] = {}
        for name, value in self.inputs.items():
            self._admit(name, f"input {name!r}")
            self.values[name] = _checked_value(value, f"input {name!r}")
        self.nodes = tuple(self._inferred(node, shapes) for node in nodes)
        self.outputs = tuple(outputs)
        if not self.outputs:
            raise FormatError("the graph has no outputs")
        for name in self.outputs:
            if name not in self.values:
                raise FormatError(f"the output {name!r} is no value of the graph")
            if name in self.optional:
                raise FormatError(f"the output {name!r} is an input that may be left out")

    def _admit(self, name: Any, where: str) -> None:
        if not isinstance(name, str) or not name or "\0" in name:
            raise FormatError(f"{where}: a name must be a text that is not empty")
        if name in self.values:
            raise FormatError(f"{where}: a second value is named {name!r}")

    def _inferred(self, node: Node, shapes: Mapping[str, Mapping[str, tuple[int, ...]]] | None) -> Node:
        where = node.name
        self._admit(node.name, f"node {where!r}")
        op = operation(node.op, where)
        options = checked_options(op, node.options, where)
        inputs = [self._input(node, name) for name in node.inputs]
        _check_roles(op, node, inputs)
        self.values[node.name] = _checked_value(op.infer(options, inputs, where), where)
        self.operations[node.name] = op
        infos = op.arrays(options, inputs)
        if infos and not node.weights:
            raise FormatError(f"{where}: {op.name} has weights, and the graph does not say where they are")
        if infos and shapes is not None:
            check_shapes(infos, shapes.get(node.weights, {}), where)
        self.array_infos[node.name] = infos
        return node._replace(inputs=tuple(node.inputs), options=options, layer=node.layer or node.name)

    def _input(self, node: Node, name: str) -> Value | None:
        if not name:
            return None
        if name not in self.values:
            raise FormatError(f"{node.name}: its input {name!r} is no value made before it")
        return self.values[name]

    def node(self, name: str) -> Node | None:
        return next((node for node in self.nodes if node.name == name), None)

    def input_values(self, node: Node) -> list[Value | None]:
        return [self.values[name] if name else None for name in node.inputs]

    @property
    def timed_inputs(self) -> list[str]:
        """The inputs that advance together, a frame a step, masks left out."""
        return [
            name
            for name, value in self.inputs.items()
            if value.clock is not None and not value.clock.root and name not in self.optional
        ]

    @property
    def static_inputs(self) -> list[str]:
        """The inputs given once a sequence: without time, or with a time axis of their own."""
        return [name for name, value in self.inputs.items() if value.clock is None or value.clock.root]

    # ---- as JSON ----------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; :func:`graph_from_json` is the inverse."""
        return {
            "inputs": {name: value.to_json() for name, value in self.inputs.items()},
            "nodes": [_node_json(node, self.operations[node.name]) for node in self.nodes],
            "outputs": list(self.outputs),
        }

    def __repr__(self) -> str:
        return f"<Graph {', '.join(self.inputs)} → {len(self.nodes)} nodes → {', '.join(self.outputs)}>"


def _node_json(node: Node, op: Operation) -> dict[str, Any]:
    options = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in node.options.items()
        if value != op.options[key].default
    }
    made: dict[str, Any] = {"name": node.name, "op": node.op, "inputs": list(node.inputs)}
    if options:
        made["options"] = options
    if node.weights:
        made["weights"] = node.weights
    if node.layer != node.name:
        made["layer"] = node.layer
    return made


def graph_from_json(given: Any, shapes: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None) -> Graph:
    """The graph a file describes; :class:`FormatError` where it is not one."""
    if not isinstance(given, dict) or given.keys() != {"inputs", "nodes", "outputs"}:
        raise FormatError("a graph must be an object with exactly the keys inputs, nodes and outputs")
    inputs, nodes, outputs = given["inputs"], given["nodes"], given["outputs"]
    if not isinstance(inputs, dict) or not isinstance(nodes, list) or not isinstance(outputs, list):
        raise FormatError("a graph's inputs must be an object, its nodes and outputs lists")
    typed = {}
    for name, value in inputs.items():
        try:
            typed[name] = value_from_json(value)
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise FormatError(f"input {name[:80]!r}: {str(value)[:80]!r} is no type of a value ({error})") from None
    return Graph(
        typed, [_node_from_json(entry, i) for i, entry in enumerate(nodes)], [str(o) for o in outputs], shapes=shapes
    )


def _node_from_json(entry: Any, position: int) -> Node:
    where = f"node {position} of the graph"
    keys = {"name", "op", "inputs"}
    if not isinstance(entry, dict) or not keys <= entry.keys() <= keys | {"options", "weights", "layer"}:
        raise FormatError(f"{where}: expected name, op and inputs, and options, weights and layer where there are any")
    inputs, options = entry["inputs"], entry.get("options", {})
    texts = (entry["name"], entry["op"], entry.get("weights", ""), entry.get("layer", ""))
    if not all(isinstance(text, str) for text in texts):
        raise FormatError(f"{where}: name, op, weights and layer must be texts")
    if (
        not isinstance(inputs, list)
        or not all(isinstance(name, str) for name in inputs)
        or not isinstance(options, dict)
    ):
        raise FormatError(f"{where}: inputs must be a list of names and options an object")
    name, op, weights, layer = texts
    return Node(name, op, tuple(inputs), options, weights, layer)


def _checked_value(value: Value, where: str) -> Value:
    bounds = all(isinstance(f, int) and 0 < f <= 1 << 24 for f in value.features) and value.size <= 1 << 28
    if not bounds or value.dtype not in DTYPES:
        raise ShapeError(f"{where}: {value.describe()} is no value that cgru holds")
    if value.dtype == "bool" and value.features:
        raise ShapeError(f"{where}: masks have no feature axes, found {value.describe()}")
    for multiply, add, divide in value.clock.maps if value.clock else ():
        if not (0 < multiply <= 1 << 20 and 0 < divide <= 1 << 20 and abs(add) <= 1 << 40):
            raise ShapeError(f"{where}: {value.describe()} has no clock that cgru keeps")
    return value


def _check_roles(op: Operation, node: Node, inputs: Sequence[Value | None]) -> None:
    roles = op.roles
    if roles and roles[-1].endswith("*"):
        if len(inputs) < len(roles) or any(value is None for value in inputs):
            raise FormatError(f"{node.name}: {op.name} takes at least {len(roles)} inputs, found {len(inputs)}")
        return
    needed = sum(not role.endswith("?") for role in roles)
    if not needed <= len(inputs) <= len(roles):
        raise FormatError(f"{node.name}: {op.name} takes the inputs {', '.join(roles)}; found {len(inputs)}")
    for role, value in zip(roles, inputs, strict=False):
        if value is None and not role.endswith("?"):
            raise FormatError(f"{node.name}: the input {role} of {op.name} is missing")


def check_shapes(infos: Mapping[str, ArrayInfo], found: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise :class:`ShapeError` unless the arrays found are just those wanted."""
    for key, info in infos.items():
        if key not in found:
            if not info.optional:
                raise FormatError(f"{where}: the tensor {key} is missing")
        elif tuple(found[key]) != info.shape:
            raise ShapeError(f"{where}: {key} has shape {tuple(found[key])}, expected {info.shape}")
    for key in found:
        if key not in infos:
            raise FormatError(f"{where}: nothing uses the tensor {str(key)[:80]}")


def refuse_unstreamable(graph: Graph) -> None:
    """Raise :class:`UnsupportedError` naming the node that needs the whole sequence."""
    for node in graph.nodes:
        op = graph.operations[node.name]
        if op.is_whole(node.options) and depends_on_time(graph, node):
            if op.as_of_now and not _feeds_frames(graph, node.name):
                continue
            raise UnsupportedError(
                f"{node.layer}: {_why_whole(graph, node)}, so the network cannot stream; run whole sequences"
            )


def _why_whole(graph: Graph, node: Node) -> str:
    if node.op == "scan":
        ways = {other.options["reverse"] for other in graph.nodes if other.op == "scan" and other.layer == node.layer}
        return f"it reads its input {'in both directions' if len(ways) > 1 else 'backwards'}"
    if node.op == "pool_whole" and node.options["kind"] == "last":
        return "a stream has no last step"
    return f"{node.op.replace('_', ' ')} needs the whole sequence"


def _feeds_frames(graph: Graph, name: str) -> bool:
    """Whether frames are made of a value without a time axis: frame t would then depend on what follows it."""
    reached = {name}
    for node in graph.nodes:
        if reached & set(node.inputs):
            if graph.values[node.name].clock is not None:
                return True
            reached.add(node.name)
    return False


def depends_on_time(graph: Graph, node: Node) -> bool:
    """Whether anything of what the node reads advances with the network's steps."""
    values = [value for value in graph.input_values(node) if value is not None]
    return any(value.clock is not None and not value.clock.root for value in values)


def passes_of(graph: Graph) -> dict[str, int]:
    """When each node can run where steps are taken one at a time: after how many operations on whole sequences."""
    wholes = {node.name for node in graph.nodes if runs_whole(graph, node)}
    found: dict[str, int] = {}
    for node in graph.nodes:
        found[node.name] = max((found[name] + (name in wholes) for name in node.inputs if name in found), default=0)
    return found


def runs_whole(graph: Graph, node: Node) -> bool:
    """Whether the node reads a sequence that advances with the network's steps to its end before it gives anything."""
    return graph.operations[node.name].is_whole(node.options) and depends_on_time(graph, node)
