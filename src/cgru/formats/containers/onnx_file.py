"""ONNX files: a ModelProto read strictly as data into records and arrays; needs neither onnx nor protobuf.

Names, types, shapes and the order of the nodes are checked here; what the operators mean is the reader's business
(readers/onnx_*.py). Source: onnx/onnx.proto and onnx/docs/IR.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import FormatError, UnsupportedError
from .file_bytes import Source, open_bytes
from .file_bytes import shown as shown_name
from .onnx_functions import Function, Inliner, Key
from .onnx_order import check_names, ordered_graph
from .onnx_records import Dimension, Graph, Node, OnnxModel, Reference, ValueInfo, shortened
from .onnx_schema import ATTRIBUTE_FIELDS, SCHEMA, TENSOR_TYPES
from .onnx_tensors import DataFolder, array_of
from .protobuf import Message, parse
from .tensorfile import TensorFile

#: Domains that mean ONNX' own operators.
_OWN_DOMAINS = ("", "ai.onnx")
_NOT_TENSORS = ("sequence_type", "map_type", "optional_type", "sparse_tensor_type")
_UNREAD_ATTRIBUTES = {11: "a sparse tensor", 12: "sparse tensors", 13: "a type", 14: "types"}


def looks_like(head: bytes) -> bool:
    """Whether a file that begins with ``head`` may be a ModelProto: a small ir_version, then another known field."""
    return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 32 and head[2] in b"\x12\x1a\x22\x28\x32\x3a\x42\x72"


def read(source: Source) -> TensorFile:
    """Every initializer and constant of the file by name; those of subgraphs after the node and the branch.

    Raises :class:`FormatError` for a file that breaks any rule of the format.
    """
    model = read_model(source)
    tensors: dict[str, np.ndarray] = {}
    for path, graph in _graphs(model.graph, ""):
        for name, array in graph.initializers.items():
            tensors[path + name] = array
        for node in graph.nodes:
            value = node.attributes.get("value")
            if node.op == "Constant" and not node.domain and isinstance(value, np.ndarray) and node.outputs:
                tensors[path + node.outputs[0]] = value
    return TensorFile(model.shown, "onnx", tensors, metadata=model.metadata)


def read_model(source: Source) -> OnnxModel:
    """The whole file as records, functions written out where they are called.

    ``source`` is a path, or the bytes of a file (whose tensors then must all be inside). Raises
    :class:`FormatError` for a file that breaks any rule of the format, :class:`UnsupportedError` for what is well
    formed but not read (sparse tensors, types that are no tensors as attributes).
    """
    shown = shown_name(source)
    message = parse(open_bytes(source), "ModelProto", SCHEMA, shown=shown)
    return _Reader(source, shown).model(message)


def _graphs(graph: Graph, path: str) -> Iterator[tuple[str, Graph]]:
    """``graph`` and all below it, each with the prefix that its names get."""
    yield path, graph
    for node in graph.nodes:
        for name, subgraph in node.subgraphs():
            yield from _graphs(subgraph, f"{path}{node.name or node.outputs[0]}.{name}/")


class _Reader:
    def __init__(self, source: Source, shown: str) -> None:
        self.shown = shown
        self.folder = DataFolder(source, shown)
        self.inliner = Inliner({}, shown)

    def model(self, message: Message) -> OnnxModel:
        if "graph" not in message:
            raise FormatError(f"{self.shown}: no graph in it; expected an ONNX model")
        ir_version = message.get("ir_version", 0)
        opsets = self.opsets(message, "the model")
        if not opsets and ir_version >= 3:
            raise FormatError(f"{self.shown}: says no version of its operators (opset_import)")
        opsets = opsets or {"": 1}
        self.inliner.functions = self.functions(message)
        graph = self.graph(message.get("graph"), opsets)
        check_names(graph, self.shown)
        producer = f"{message.get('producer_name', '')} {message.get('producer_version', '')}".strip()
        metadata = {entry.get("key", ""): entry.get("value", "") for entry in message.many("metadata_props")}
        return OnnxModel(self.shown, graph, opsets, ir_version, producer, metadata)

    def opsets(self, message: Message, what: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in message.many("opset_import"):
            domain, version = _domain(entry.get("domain", "")), entry.get("version", 0)
            if domain in found:
                raise FormatError(f"{self.shown}: {what} gives the version of the operators {domain[:40]!r} twice")
            if not 0 < version < 1 << 31:
                raise FormatError(f"{self.shown}: {what} is of version {version} of the operators {domain[:40]!r}")
            found[domain] = version
        return found

    # Functions ----------------------------------------------------------------------------------------------------

    def functions(self, message: Message) -> dict[Key, Function]:
        found: dict[Key, Function] = {}
        for entry in message.many("functions"):
            domain, name = _domain(entry.get("domain", "")), entry.get("name", "")
            key = (domain, name, entry.get("overload", ""))
            what = f"function {shortened(name)}"
            if not name or key in found:
                fault = f"{what} stands twice" if name else "a function has no name"
                raise FormatError(f"{self.shown}: {fault}")
            opsets = self.opsets(entry, what)
            defaults = self.attributes(entry.many("attribute_proto"), what, opsets, in_function=True)
            inputs, outputs = tuple(entry.many("input")), tuple(entry.many("output"))
            if len(set(inputs)) != len(inputs) or len(set(outputs)) != len(outputs):
                raise FormatError(f"{self.shown}: {what} has an input or an output twice")
            nodes = tuple(self.node(item, opsets, in_function=True) for item in entry.many("node"))
            found[key] = Function(domain, name, inputs, outputs, tuple(entry.many("attribute")), defaults, nodes)
        return found

    # Graphs -------------------------------------------------------------------------------------------------------

    def graph(self, message: Message, opsets: dict[str, int], *, in_function: bool = False) -> Graph:
        name = message.get("name", "")
        if message.many("sparse_initializer"):
            raise UnsupportedError(f"{self.shown}: graph {shortened(name)} has sparse initializers; store them dense")
        initializers: dict[str, np.ndarray] = {}
        for tensor in message.many("initializer"):
            label = tensor.get("name", "")
            if not label:
                raise FormatError(f"{self.shown}: graph {shortened(name)} has an initializer without a name")
            if label in initializers:
                raise FormatError(f"{self.shown}: graph {shortened(name)} has the initializer {shortened(label)} twice")
            initializers[label] = array_of(tensor, self.folder, f"initializer {shortened(label)}")
        nodes = [self.node(item, opsets, in_function=in_function) for item in message.many("node")]
        inputs = [self.value(item) for item in message.many("input")]
        outputs = [self.value(item) for item in message.many("output")]
        declared = {info.name: info for info in map(self.value, message.many("value_info"))}
        if in_function:
            # The names of a function's body are whole only where it is called, and are checked there.
            return Graph(name, tuple(inputs), tuple(outputs), tuple(nodes), initializers, declared)
        return ordered_graph(name, inputs, outputs, self.inliner.expanded(nodes), initializers, declared, self.shown)

    def value(self, message: Message) -> ValueInfo:
        name, kind = message.get("name", ""), message.get("type")
        if kind is None:
            return ValueInfo(name, "", None)
        other = next((field for field in _NOT_TENSORS if field in kind), None)
        tensor = kind.get("tensor_type")
        if tensor is None or other:
            return ValueInfo(name, (other or "_").split("_")[0], None)
        code = tensor.get("elem_type", 0)
        if code and code not in TENSOR_TYPES:
            raise FormatError(f"{self.shown}: value {shortened(name)} has data type {code}; expected 0 to 28")
        shape = tensor.get("shape")
        axes = None if shape is None else tuple(self.dimension(dim, name) for dim in shape.many("dim"))
        return ValueInfo(name, _read_as(code), axes)

    def dimension(self, message: Message, name: str) -> Dimension:
        size, label = message.get("dim_value"), message.get("dim_param")
        if size is not None and label is not None:
            raise FormatError(f"{self.shown}: value {shortened(name)} has an axis with both a size and a name")
        if size is not None and size > 1 << 40:
            raise FormatError(f"{self.shown}: value {shortened(name)} has an axis of {size}")
        # Several exporters write -1, or an empty name, for an axis that they leave open.
        if label:
            return label
        return size if size is not None and size >= 0 else None

    # Nodes --------------------------------------------------------------------------------------------------------

    def node(self, message: Message, opsets: dict[str, int], *, in_function: bool = False) -> Node:
        name, op = message.get("name", ""), message.get("op_type", "")
        domain = _domain(message.get("domain", ""))
        if not op:
            raise FormatError(f"{self.shown}: node {shortened(name)} says no operator")
        key = (domain, op, message.get("overload", ""))
        version = opsets.get(domain, 0)
        if not version and key not in self.inliner.functions and domain in _OWN_DOMAINS:
            what = f"node {shortened(name)}"
            raise FormatError(f"{self.shown}: {what} is of operators whose version the file does not say")
        attributes = self.attributes(message.many("attribute"), f"node {shortened(name or op)}", opsets, in_function)
        inputs, outputs = tuple(message.many("input")), tuple(message.many("output"))
        return Node(name, op, domain, version, inputs, outputs, attributes, key[2])

    def attributes(
        self, messages: list[Message], where: str, opsets: dict[str, int], in_function: bool
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for message in messages:
            name = message.get("name", "")
            if not name or name in found:
                what = f"the attribute {shortened(name)} twice" if name else "an attribute without a name"
                raise FormatError(f"{self.shown}: {where} has {what}")
            if "ref_attr_name" in message:
                if not in_function:
                    what = f"{where}: attribute {shortened(name)}"
                    raise FormatError(f"{self.shown}: {what} refers to one of a function, outside of any")
                found[name] = Reference(message.get("ref_attr_name"))
                continue
            found[name] = self.attribute(message, f"{where}: attribute {shortened(name)}", opsets, in_function)
        return found

    def attribute(self, message: Message, where: str, opsets: dict[str, int], in_function: bool) -> Any:
        held = [field for field in ATTRIBUTE_FIELDS.values() if field in message]
        code = message.get("type", 0)
        if code in _UNREAD_ATTRIBUTES:
            raise UnsupportedError(f"{self.shown}: {where} is {_UNREAD_ATTRIBUTES[code]}, which cgru does not read")
        if not code and len(held) == 1:
            # Files of 2017 do not say the type.
            field = held[0]
        elif code not in ATTRIBUTE_FIELDS or any(other != ATTRIBUTE_FIELDS[code] for other in held):
            raise FormatError(f"{self.shown}: {where} is of type {code} but holds {', '.join(held) or 'nothing'}")
        else:
            field = ATTRIBUTE_FIELDS[code]
        if field in ("floats", "ints"):
            return tuple(np.asarray(message.many(field)).tolist())
        if field == "strings":
            return tuple(self.text(item, where) for item in message.many(field))
        if field == "tensors":
            return tuple(array_of(item, self.folder, where) for item in message.many(field))
        if field == "graphs":
            return tuple(self.graph(item, opsets, in_function=in_function) for item in message.many(field))
        value = message.get(field)
        if value is None:
            if field in ("t", "g"):
                raise FormatError(f"{self.shown}: {where} holds nothing")
            return {"f": 0.0, "i": 0, "s": ""}[field]
        if field == "s":
            return self.text(value, where)
        if field == "t":
            return array_of(value, self.folder, where)
        return self.graph(value, opsets, in_function=in_function) if field == "g" else value

    def text(self, value: memoryview, where: str) -> str:
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"{self.shown}: {where} is not UTF-8") from None


def _domain(name: str) -> str:
    return "" if name in _OWN_DOMAINS else name


def _read_as(code: int) -> str:
    """numpy's name of the type that tensors of ONNX' type ``code`` are read as."""
    if not code:
        return ""
    name, dtype, _ = TENSOR_TYPES[code]
    if "FLOAT" in name and dtype in ("u1", "<u2"):
        return "float32"
    return {"INT4": "int8", "INT2": "int8"}.get(name) or np.dtype(dtype).name
