"""What a Keras configuration says: its layers, and which of them is called with what.

A model is Sequential, a plain list, or Functional: each layer lists its calls, and each call names the results of
other calls. Functions of ``keras.ops`` that a model used stand among the layers; the arithmetic of masks is made of
such ones, ``Any(NotEqual(x, value))`` or ``NotEqual(ids, 0)``, passed to layers as the keyword ``mask``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import FormatError, UnsupportedError

_MODULES = ("keras.", "keras_core.", "tf_keras.", "tensorflow.", "tensorflow.python.keras.")
_OF_FUNCTIONS = {"name", "axis", "keepdims", "approximate", "newshape", "dtype"}
#: The functions of keras.ops that are run, by class.
FUNCTION_NAMES = frozenset((
    "Absolute", "Add", "Any", "Cast", "Concatenate", "ConvertToTensor", "Divide", "Exp", "ExpandDims", "Gelu",
    "GetItem", "Log", "LogicalOr", "Max", "Maximum", "Mean", "Min", "Minimum", "Multiply", "Negative", "NotEqual",
    "OnesLike", "Power", "Relu", "Reshape", "Sigmoid", "Silu", "Sqrt", "Subtract", "Sum", "Tanh", "TrueDivide",
    "ZerosLike",
))  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One layer of a configuration: its class, its settings, and the JSON object around them."""

    class_name: str
    name: str
    config: Mapping[str, Any]
    outer: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"layer {self.name[:200]!r} ({self.class_name[:80]})"

    @property
    def is_operation(self) -> bool:
        """Whether it is a function of ``keras.ops``, which has no weights and is no layer of the model."""
        module = self.outer.get("module")
        if isinstance(module, str):
            return ".ops." in f"{module}."
        # Legacy files name no modules; every layer's settings say whether it is trainable, those of functions do not.
        return self.class_name in FUNCTION_NAMES and self.config.keys() <= _OF_FUNCTIONS


def entry(value: Any, where: str) -> Entry:
    """``value`` as a layer of Keras' own; a class of anybody else's is refused by its name."""
    if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
        raise FormatError(f"{where}: expected an object with class_name and config, found {str(value)[:80]}")
    class_name, config = value["class_name"], value.get("config", {})
    if isinstance(config, list) and class_name == "Sequential":
        config = {"layers": config}  # as Keras before 2.2.3 wrote it
    if not isinstance(config, dict):
        raise FormatError(f"{where}: the config of {class_name[:80]!r} is {str(config)[:80]}, not an object")
    name = config.get("name", value.get("name", class_name))
    if not isinstance(name, str) or not name or len(name) > 1000:
        raise FormatError(f"{where}: a {class_name[:80]} has the name {str(name)[:80]!r}")
    module, registered = value.get("module"), value.get("registered_name")
    is_foreign = module is not None and (not isinstance(module, str) or not f"{module}.".startswith(_MODULES))
    if is_foreign or (registered is not None and registered != class_name):
        shown = f"{registered or module}".replace("\n", " ")[:80]
        raise UnsupportedError(
            f"layer {name!r} is of the custom class {class_name[:80]!r} ({shown}), whose code cgru never runs"
        )
    return Entry(class_name, name, config, value)


def entries(config: Mapping[str, Any], where: str) -> list[Entry]:
    """The layers of a Sequential or Functional configuration as listed, functions of ``keras.ops`` included."""
    listed = config.get("layers")
    if not isinstance(listed, list) or not listed:
        raise FormatError(f"{where}: its configuration lists no layers")
    found = [entry(item, where) for item in listed]
    if len({item.name for item in found}) != len(found):
        raise FormatError(f"{where}: two of its layers have the same name")
    return found


@dataclass(frozen=True)
class Reference:
    """Result ``tensor`` of call ``node`` of the layer ``of``."""

    of: str
    node: int
    tensor: int


@dataclass(frozen=True)
class Part:
    """A slice in a call of GetItem: start, stop and step."""

    start: Any
    stop: Any
    step: Any


@dataclass(frozen=True)
class Call:
    """One call of a layer: trees of lists with :class:`Reference`, :class:`Part`, numbers, texts or None as leaves."""

    args: list[Any]
    kwargs: dict[str, Any]

    def references(self) -> Iterator[Reference]:
        yield from _leaves([self.args, list(self.kwargs.values())])


def _leaves(tree: Any) -> Iterator[Reference]:
    stack = [tree]
    while stack:
        one = stack.pop()
        if isinstance(one, Reference):
            yield one
        elif isinstance(one, list):
            stack.extend(reversed(one))
        elif isinstance(one, dict):
            stack.extend(reversed(list(one.values())))


def calls(item: Entry) -> list[Call]:
    """The calls of a layer of a Functional model."""
    nodes = item.outer.get("inbound_nodes", [])
    if not isinstance(nodes, list):
        raise FormatError(f"{item.where}: inbound_nodes is no list")
    if nodes and isinstance(nodes[0], list) and nodes[0] and isinstance(nodes[0][0], str):
        nodes = [nodes]  # as TensorFlow's Keras writes a call of one argument
    return [_call(node, item) for node in nodes]


def _call(node: Any, item: Entry) -> Call:
    if isinstance(node, dict):
        given, keywords = node.get("args", []), node.get("kwargs", {})
        if not isinstance(given, list) or not isinstance(keywords, dict):
            raise FormatError(f"{item.where}: inbound_nodes is malformed")
        return Call([_tree(value, item.where) for value in given], _keywords(keywords, item))
    if not isinstance(node, list) or not all(isinstance(part, list) for part in node):
        raise FormatError(f"{item.where}: inbound_nodes is malformed")
    found = [_reference(part[:3], item.where) for part in node]
    keywords = {}
    for part in node:
        more = part[3] if len(part) > 3 else {}
        if not isinstance(more, dict) or len(part) > 4:
            raise FormatError(f"{item.where}: inbound_nodes is malformed: {str(part[3:])[:80]} after the tensor")
        keywords |= more
    return Call([found] if len(found) > 1 else list(found), _keywords(keywords, item))


def _keywords(keywords: Mapping[str, Any], item: Entry) -> dict[str, Any]:
    """Keyword arguments that say something."""
    return {
        key: _tree(value, item.where)
        for key, value in keywords.items()
        if value is not None and not (key == "training" and value is False)
    }


def _tree(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            inner = value.get("config")
            return _reference(inner.get("keras_history") if isinstance(inner, dict) else None, where)
        if value.get("class_name") == "__slice__" and isinstance(value.get("config"), dict):
            inner = value["config"]
            return Part(inner.get("start"), inner.get("stop"), inner.get("step"))
        if value.get("class_name") == "__ellipsis__":
            return ...
        if "class_name" in value:
            raise UnsupportedError(f"{where}: is called with {str(value)[:80]}, which cgru does not take from files")
        return {key: _tree(inner, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [_tree(inner, where) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise FormatError(f"{where}: is called with {str(value)[:80]}")


def _reference(value: Any, where: str) -> Reference:
    """``["name", node, tensor]``."""
    if not isinstance(value, list) or len(value) < 3 or not isinstance(value[0], str):
        raise FormatError(f"{where}: expected [layer, node, tensor], found {str(value)[:80]}")
    name, node, tensor = value[:3]
    if any(
        not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 16 for number in value[1:3]
    ):
        raise FormatError(f"{where}: expected [layer, node, tensor], found {str(value)[:80]}")
    return Reference(name, node, tensor)


def ends(value: Any, where: str) -> list[Reference]:
    """The inputs or outputs of a model: ``["name", 0, 0]``, a list of such, or an object of such, in their order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list) and value and isinstance(value[0], str):
        return [_reference(value, where)]
    if not isinstance(value, list) or not value:
        raise FormatError(f"{where}: expected [layer, node, tensor], found {str(value)[:80]}")
    found: list[Reference] = []
    for one in value:
        found += ends(one, where)
        if len(found) > 1000:
            raise FormatError(f"{where}: lists more than 1000 of them")
    return found
