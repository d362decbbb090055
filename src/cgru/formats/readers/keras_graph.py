"""The order of layers in a Keras configuration: Sequential, and Functional where the graph is one straight chain.

A Functional model with masks holds the arithmetic of the mask as nodes of its own, ``Any(NotEqual(x, value))``
or ``NotEqual(ids, 0)``, and passes the result to layers as the keyword ``mask``. Those nodes are recognised and
dropped: what a layer gets must be the mask that Masking or Embedding(mask_zero) before it makes anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import FormatError, UnsupportedError

_MODULES = ("keras.", "keras_core.", "tf_keras.", "tensorflow.", "tensorflow.python.keras.")
MASK_NODES = ("NotEqual", "Any")


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
    """The layers of a Sequential or Functional configuration as listed, mask arithmetic included."""
    listed = config.get("layers")
    if not isinstance(listed, list) or not listed:
        raise FormatError(f"{where}: its configuration lists no layers")
    found = [entry(item, where) for item in listed]
    if len({item.name for item in found}) != len(found):
        raise FormatError(f"{where}: two of its layers have the same name")
    return found


def is_mask_node(item: Entry) -> bool:
    return item.class_name in MASK_NODES


@dataclass(frozen=True)
class _Tensor:
    """The output of the layer ``of``."""

    of: str


def chain(config: Mapping[str, Any], listed: Sequence[Entry], where: str) -> list[Entry]:
    """The layers of a Functional model in the order data passes them; refuses graphs that branch or join."""
    by_name = {item.name: item for item in listed}
    first, last = (_end(config.get(key), f"{where}: {key}") for key in ("input_layers", "output_layers"))
    calls = {item.name: _call(item) for item in listed}
    following: dict[str, Entry] = {}
    for item in listed:
        arguments, _ = calls[item.name]
        if is_mask_node(item):
            continue
        if item.class_name == "InputLayer":
            if arguments or item.name != first:
                raise UnsupportedError(f"{where}: has several inputs; cgru runs networks of one")
            continue
        if len(arguments) != 1 or not isinstance(arguments[0], _Tensor):
            raise UnsupportedError(f"{item.where}: is called with {len(arguments)} inputs; cgru runs straight chains")
        if arguments[0].of in following:
            raise UnsupportedError(
                f"{where}: the output of {arguments[0].of!r} goes to several layers; cgru runs straight chains"
            )
        following[arguments[0].of] = item
    if first not in by_name:
        raise FormatError(f"{where}: the input layer {first!r} is missing")
    order = [by_name[first]]
    expected: tuple | None = None
    while order[-1].name in following:
        item = following.pop(order[-1].name)
        mask = calls[item.name][1]
        if mask is not None and (expected is None or _meaning(mask, by_name, calls) != expected):
            raise UnsupportedError(f"{item.where}: its mask is not that of a Masking or Embedding layer before it")
        if item.class_name == "Masking":
            expected = ("any", ("!=", order[-1].name, item.config.get("mask_value", 0.0)))
        elif item.class_name == "Embedding" and item.config.get("mask_zero"):
            expected = ("!=", order[-1].name, 0)
        order.append(item)
    if order[-1].name != last:
        raise UnsupportedError(f"{where}: {order[-1].name!r} ends the chain, but the output is {last!r}")
    passed = {item.name for item in order}
    for item in listed:
        if item.name not in passed and not is_mask_node(item):
            raise UnsupportedError(f"{item.where}: lies outside the chain from input to output")
    return order


def _end(value: Any, where: str) -> str:
    """The one input or output: ``["name", 0, 0]``, alone or in a list."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list) and len(value) > 1 and isinstance(value[0], list):
        raise UnsupportedError(f"{where}: has {len(value)} of them; cgru runs networks of one input and one output")
    return _history(value, where).of


def _history(value: Any, where: str) -> _Tensor:
    if not isinstance(value, list) or len(value) < 3 or not isinstance(value[0], str):
        raise FormatError(f"{where}: expected [layer, node, tensor], found {str(value)[:80]}")
    if value[1:3] != [0, 0]:
        raise UnsupportedError(f"{where}: {value[0]!r} is used more than once, or has several outputs")
    return _Tensor(value[0])


def _call(item: Entry) -> tuple[list[Any], _Tensor | None]:
    """The positional arguments of the layer's one call, tensors as :class:`_Tensor`, and its mask."""
    nodes = item.outer.get("inbound_nodes", [])
    if not isinstance(nodes, list):
        raise FormatError(f"{item.where}: inbound_nodes is no list")
    if nodes and isinstance(nodes[0], list) and nodes[0] and isinstance(nodes[0][0], str):
        nodes = [nodes]  # as TensorFlow's Keras writes a call of one argument
    if len(nodes) > 1:
        raise UnsupportedError(f"{item.where}: is used {len(nodes)} times; cgru runs straight chains")
    if not nodes:
        return [], None
    node = nodes[0]
    if isinstance(node, dict):
        given, keywords = node.get("args", []), node.get("kwargs", {})
    elif isinstance(node, list) and all(isinstance(part, list) for part in node):
        given = [_history(part[:3], item.where) for part in node]
        keywords = {}
        for part in node:
            more = part[3] if len(part) > 3 else {}
            if not isinstance(more, dict) or len(part) > 4:
                raise FormatError(f"{item.where}: inbound_nodes is malformed: {str(part[3:])[:80]} after the tensor")
            keywords |= more
        return given, _keywords(keywords, item)
    else:
        raise FormatError(f"{item.where}: inbound_nodes is malformed")
    if not isinstance(given, list) or not isinstance(keywords, dict):
        raise FormatError(f"{item.where}: inbound_nodes is malformed")
    return [_argument(value, item.where) for value in given], _keywords(keywords, item)


def _argument(value: Any, where: str) -> Any:
    """A tensor of the graph as a :class:`_Tensor`; a number as it is."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        inner = value.get("config")
        return _history(inner.get("keras_history") if isinstance(inner, dict) else None, where)
    if isinstance(value, (int, float)):
        return value
    raise UnsupportedError(f"{where}: is called with {str(value)[:80]}; cgru runs straight chains")


def _keywords(keywords: Mapping[str, Any], item: Entry) -> _Tensor | None:
    mask = None
    for key, value in keywords.items():
        if value is None or (key == "training" and value is False):
            continue
        if key != "mask":
            raise UnsupportedError(
                f"{item.where}: is called with {key}={str(value)[:60]}, which cgru does not take from files"
            )
        mask = _argument(value, item.where)
        if not isinstance(mask, _Tensor):
            raise FormatError(f"{item.where}: its mask is {str(value)[:60]}")
    return mask


def _meaning(mask: _Tensor, by_name: Mapping[str, Entry], calls: Mapping[str, Any]) -> tuple:
    """What a mask tensor says: ``("!=", layer, value)``, ``("any", …)`` of that, or something unknown."""
    of, is_any = mask.of, False
    node = by_name.get(of)
    if node is not None and node.class_name == "Any":
        arguments = calls[of][0]
        over_features = node.config.get("axis") in (-1, [-1]) and not node.config.get("keepdims")
        if over_features and len(arguments) == 1 and isinstance(arguments[0], _Tensor):
            of, is_any = arguments[0].of, True
            node = by_name.get(of)
    if node is not None and node.class_name == "NotEqual":
        arguments = calls[of][0]
        if len(arguments) == 2 and isinstance(arguments[0], _Tensor):
            said = ("!=", arguments[0].of, arguments[1])
            return ("any", said) if is_any else said
    return ("unknown", of)
