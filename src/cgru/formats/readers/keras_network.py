"""A Keras model, Sequential or Functional, as cgru's layers where it is a chain of them, else as a graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...builder import Graph
from ...errors import FormatError, UnsupportedError
from ...layers import Layer
from ...spec.graph import Node
from .keras_draft import Draft, SameTime, Step, Tensor
from .keras_functions import FUNCTIONS
from .keras_graph import Call, Entry, Reference, calls, ends, entries
from .keras_recurrent import snake_case
from .keras_settings import Build
from .keras_weights import Weights

#: The inputs that a model may have.
MAX_INPUTS = 64
Builder = Callable[[Entry, Weights, Build], Step]
MODELS = ("Functional", "Model", "Sequential")


@dataclass
class Network:
    """A model whose layers have their weights. ``steps`` has every layer but functions of ``keras.ops``."""

    item: Entry
    listed: list[Entry]
    steps: dict[str, Step]
    calls: dict[str, list[Call]] = field(default_factory=dict)
    inputs: list[Reference] = field(default_factory=list)
    outputs: list[Reference] = field(default_factory=list)
    #: What the model calls its outputs, where it gives a mapping.
    titles: list[str] = field(default_factory=list)

    @property
    def is_sequence(self) -> bool:
        return self.item.class_name == "Sequential"

    # ---- as a chain of layers ---------------------------------------------------------------------------------

    def chain(self) -> list[Layer] | None:
        """The layers in the order data passes them; None where the model is no chain of cgru's own layers."""
        order = self.listed if self.is_sequence else self._order()
        if order is None:
            return None
        made: list[Layer] = []
        for item in order:
            layers = self.steps[item.name].layers
            if layers is None:
                return None
            made += layers
        return made

    def softmaxes(self) -> list[Layer]:
        """The layers of Keras' Softmax class."""
        found: list[Layer] = []
        for step in self.steps.values():
            found += step.layers or [] if step.is_softmax else []
            found += step.model.softmaxes() if step.model is not None else []
        return found

    def _order(self) -> list[Entry] | None:
        """The layers of a Functional model from its one input to its one output; None where it branches or joins."""
        first, *others = self.inputs
        if others or len(self.outputs) != 1 or {first.tensor, self.outputs[0].tensor} != {0}:
            return None
        following: dict[str, Entry] = {}
        for item in self.listed:
            if item.is_operation or item.class_name == "InputLayer":
                if item.is_operation and item.class_name not in ("NotEqual", "Any"):
                    return None
                continue
            made = self.calls[item.name]
            if len(made) != 1 or len(made[0].args) != 1 or set(made[0].kwargs) - {"mask"}:
                return None
            (given,) = made[0].args
            if not isinstance(given, Reference) or (given.node, given.tensor) != (0, 0) or given.of in following:
                return None
            following[given.of] = item
        by_name = {item.name: item for item in self.listed}
        if first.of not in by_name:
            raise FormatError(f"{self.item.where}: the input layer {first.of!r} is missing")
        order: list[Entry] = [by_name[first.of]]
        expected: tuple[Any, ...] | None = None
        while order[-1].name in following:
            item = following.pop(order[-1].name)
            mask = self.calls[item.name][0].kwargs.get("mask")
            if mask is not None and (expected is None or self._meaning(mask, by_name) != expected):
                return None
            if item.class_name == "Masking":
                expected = ("any", ("!=", order[-1].name, item.config.get("mask_value", 0.0)))
            elif item.class_name == "Embedding" and item.config.get("mask_zero"):
                expected = ("!=", order[-1].name, 0)
            order.append(item)
        passed = {item.name for item in order}
        outside = any(item.name not in passed and not item.is_operation for item in self.listed)
        return None if outside or order[-1].name != self.outputs[0].of else order

    def _meaning(self, mask: Any, by_name: Mapping[str, Entry]) -> tuple[Any, ...]:
        """What a mask tensor says: ``("!=", layer, value)``, ``("any", …)`` of that, or something unknown."""
        of, is_any = mask.of if isinstance(mask, Reference) else "", False
        node = by_name.get(of)
        if node is not None and node.class_name == "Any" and len(self.calls[of]) == 1:
            arguments = self.calls[of][0].args
            over_features = node.config.get("axis") in (-1, [-1]) and not node.config.get("keepdims")
            if over_features and len(arguments) == 1 and isinstance(arguments[0], Reference):
                of, is_any = arguments[0].of, True
                node = by_name.get(of)
        if node is not None and node.class_name == "NotEqual" and len(self.calls[of]) == 1:
            arguments = self.calls[of][0].args
            if len(arguments) == 2 and isinstance(arguments[0], Reference):
                said = ("!=", arguments[0].of, arguments[1])
                return ("any", said) if is_any else said
        return ("unknown", of)

    # ---- as nodes of a graph ----------------------------------------------------------------------------------

    def takes_ids(self, index: int) -> bool:
        """Whether an input is looked up in an Embedding."""
        if self.is_sequence:
            first = next((item for item in self.listed if item.class_name != "InputLayer"), None)
            return first is not None and self._looks_up(first, 0)
        name = self.inputs[index].of
        for item in self.listed:
            for call in self.calls[item.name]:
                given = call.args[0] if len(call.args) == 1 and isinstance(call.args[0], list) else call.args
                for position, one in enumerate(given if isinstance(given, list) else []):
                    if isinstance(one, Reference) and one.of == name and self._looks_up(item, position):
                        return True
        return False

    def _looks_up(self, item: Entry, position: int) -> bool:
        wrapped = item.config.get("layer") if item.class_name == "TimeDistributed" else None
        if item.class_name == "Embedding" or (isinstance(wrapped, dict) and wrapped.get("class_name") == "Embedding"):
            return True
        inner = self.steps[item.name].model if item.name in self.steps else None
        if inner is None or not (inner.is_sequence or position < len(inner.inputs)):
            return False
        return bool(inner.takes_ids(position))

    def emit(self, d: Draft, given: Sequence[Tensor]) -> list[Any]:
        """The results for inputs in the model's order."""
        outer, d_where = d.layer, d.where
        prefix = f"{outer}/" if outer else ""
        try:
            return self._sequence(d, given, prefix) if self.is_sequence else self._functional(d, given, prefix)
        finally:
            d.layer, d.where = outer, d_where

    def _sequence(self, d: Draft, given: Sequence[Tensor], prefix: str) -> list[Any]:
        value: Any = given[0] if len(given) == 1 else list(given)
        for item in self.listed:
            if item.class_name != "InputLayer":
                d.count_call()
                d.layer, d.where = prefix + item.name, item.where
                value = self.steps[item.name].run(d, [value], {})
        return [value]

    def _functional(self, d: Draft, given: Sequence[Tensor], prefix: str) -> list[Any]:
        made: dict[tuple[str, int], list[Any]] = {}
        for reference, tensor in zip(self.inputs, given, strict=True):
            made[reference.of, 0] = [tensor]
        waiting: dict[tuple[str, int], list[tuple[Entry, int, Call]]] = {}
        missing: dict[tuple[str, int], int] = {}
        ready: deque[tuple[Entry, int, Call]] = deque()
        for item in self.listed:
            if item.class_name == "InputLayer":
                continue
            for index, call in enumerate(self.calls[item.name]):
                keys = {self._key(r) for r in call.references()} - made.keys()
                missing[item.name, index] = len(keys)
                for key in keys:
                    waiting.setdefault(key, []).append((item, index, call))
                if not keys:
                    ready.append((item, index, call))
        while ready:
            item, index, call = ready.popleft()
            d.layer, d.where = prefix + item.name, item.where
            results = self._called(d, item, call, made)
            made[item.name, index] = results
            for follower in waiting.pop((item.name, index), ()):
                key = follower[0].name, follower[1]
                missing[key] -= 1
                if not missing[key]:
                    ready.append(follower)
        d.where = self.item.where
        return [self._result(d, reference, made) for reference in self.outputs]

    def _key(self, reference: Reference) -> tuple[str, int]:
        """Which call a reference means: some of TensorFlow's files count a nested model's own making as call 0."""
        count = len(self.calls.get(reference.of, ()))
        return reference.of, 0 if count == 1 and reference.node else reference.node

    def _result(self, d: Draft, reference: Reference, made: Mapping[tuple[str, int], list[Any]]) -> Any:
        results = made.get(self._key(reference))
        if results is None or reference.tensor >= len(results):
            raise FormatError(
                f"{d.where}: nothing gives result {reference.tensor} of call {reference.node} of {reference.of[:80]!r}"
            )
        return results[reference.tensor]

    def _called(self, d: Draft, item: Entry, call: Call, made: Mapping[tuple[str, int], list[Any]]) -> list[Any]:
        def resolved(tree: Any) -> Any:
            if isinstance(tree, Reference):
                return self._result(d, tree, made)
            if isinstance(tree, list):
                return [resolved(one) for one in tree]
            return {key: resolved(one) for key, one in tree.items()} if isinstance(tree, dict) else tree

        d.count_call()
        args, kwargs = resolved(call.args), resolved(call.kwargs)
        if item.is_operation:
            if item.class_name not in FUNCTIONS:
                raise UnsupportedError(f"{item.where}: cgru does not run this function of keras.ops")
            if not args:
                raise FormatError(f"{item.where}: is called without an input")
            result = FUNCTIONS[item.class_name](d, item, args, kwargs)
        else:
            result = self.steps[item.name].run(d, args, kwargs)
        return result if isinstance(result, list) else [result]


def network(item: Entry, weights: Weights, build: Build, builders: Mapping[str, Builder], unsupported: Any) -> Network:
    """A model with its weights taken, also one nested in another."""
    listed = entries(item.config, item.where)
    layers = [inner for inner in listed if not inner.is_operation]
    counts: dict[str, int] = {}
    keys: dict[str, str] = {}
    for inner in layers:
        stem = snake_case(inner.class_name)
        keys[inner.name] = f"{stem}_{counts[stem]}" if counts.setdefault(stem, 0) else stem
        counts[stem] += 1
    made = Network(item, listed, {})
    if not made.is_sequence:
        made.calls = {inner.name: calls(inner) for inner in listed}
        made.inputs = ends(item.config.get("input_layers"), f"{item.where}: input_layers")
        made.outputs = ends(item.config.get("output_layers"), f"{item.where}: output_layers")
        if isinstance(titles := item.config.get("output_layers"), dict) and len(titles) == len(made.outputs):
            made.titles = [str(title)[:200] for title in titles]
    # Weights are taken in the order of the configuration, which need not be that of the data.
    for index in weights.order(layers):
        inner = layers[index]
        builder = builders.get(inner.class_name)
        if builder is None:
            raise unsupported(inner)
        made.steps[inner.name] = builder(inner, weights.layer(keys[inner.name], inner.name), build)
    return made


def nested(made: Network) -> Step:
    """A model as a layer of another."""

    def emit(d: Draft, args: list[Any], kwargs: dict[str, Any]) -> Any:
        for key in kwargs:
            if key not in ("mask", "training"):
                raise d.refuse(f"is called with {key[:60]}=, which cgru does not take from files")
        given = args[0] if len(args) == 1 and isinstance(args[0], list) else args
        if len(given) == 1 and isinstance(given[0], dict):
            given = list(given[0].values())
        tensors = [d.tensor(one) for one in given]
        if kwargs.get("mask") is not None and len(tensors) == 1:
            tensors = [d.only(tensors, kwargs)]
        if len(tensors) != (1 if made.is_sequence else len(made.inputs)):
            raise d.refuse(f"is called with {len(tensors)} inputs")
        results = made.emit(d, tensors)
        return results if len(results) > 1 else results[0]

    return Step(made.chain(), emit, model=made)


# ---- the graph -------------------------------------------------------------------------------------------


def graph(made: Network) -> Graph:
    """The model as a graph. Inputs share their time axis where a layer joins them; others have one each."""
    shapes = _inputs(made)
    timed = [name for name, shape, ids, _ in shapes if len(shape) > 1 or (ids and shape)]
    group = {name: name for name in timed}
    while True:
        roots = dict.fromkeys(timed, "") if len(set(group.values())) < 2 else dict(group)
        try:
            d, outputs = _drafted(made, shapes, roots)
        except SameTime as same:
            first, second = (root or timed[0] for root in same.roots)
            group = {name: first if root == second else root for name, root in group.items()}
            continue
        if "" in roots.values() or not timed:
            return _finished(d, outputs, made.titles)
        clocks = [d.value(x).clock for x in outputs]
        main = next((clock.root for clock in clocks if clock is not None), roots[timed[0]])
        d, outputs = _drafted(made, shapes, {name: "" if root == main else root for name, root in roots.items()})
        return _finished(d, outputs, made.titles)


def _drafted(
    made: Network, shapes: Sequence[tuple[str, Sequence[Any], bool, str]], roots: Mapping[str, str]
) -> tuple[Draft, list[Tensor]]:
    d = Draft(roots)
    given = [d.input(*shape) for shape in shapes]
    outputs = made.emit(d, given)
    d.where = made.item.where
    flat = [d.tensor(one) for result in outputs for one in (result if isinstance(result, list) else [result])]
    for x in flat:
        if d.value(x).dtype != "float32":
            raise d.refuse("one of its outputs is an input of ids or a mask")
    return d, flat


def _finished(d: Draft, outputs: Sequence[Tensor], titles: Sequence[str]) -> Graph:
    """The graph without what no output needs."""
    names = [x.name for x in outputs]
    if len(set(names)) != len(names):
        raise UnsupportedError(f"{d.where}: gives one result several times, {', '.join(names)[:200]}")
    needed, kept = set(names), list[Node]()
    for node in reversed(d.g.nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(node.inputs)
    for name in d.g.inputs:
        if name not in needed:
            raise UnsupportedError(f"{d.where}: nothing uses its input {name[:80]!r}")
    d.g.nodes = kept[::-1]
    keys = {node.weights for node in kept}
    d.g.store = {key: weights for key, weights in d.g.store.items() if key in keys}
    for name, title in zip(names, titles if len(titles) == len(names) else names, strict=True):
        if title in d.g.values:
            d.g.output(name)
        else:
            d.g.output(**{title: name})
    return d.g


def _inputs(made: Network) -> list[tuple[str, Sequence[Any], bool, str]]:
    """Name, axes behind the batch, whether ids, and where it is said, of each input."""
    by_name = {item.name: item for item in made.listed}
    if made.is_sequence:
        first = made.listed[0]
        shape = _shape(first.config)
        if shape is None:
            build = made.item.outer.get("build_config")
            shape = build.get("input_shape") if isinstance(build, dict) else made.item.config.get("build_input_shape")
        if not isinstance(shape, list) or not shape:
            raise UnsupportedError(
                f"{made.item.where}: nothing says the shape of its input; add Input(shape=(steps, features)) to it"
            )
        name = first.name if first.class_name == "InputLayer" else "x"
        return [(name, shape[1:], made.takes_ids(0), first.where)]
    if len(made.inputs) > MAX_INPUTS:
        raise UnsupportedError(f"{made.item.where}: has {len(made.inputs)} inputs; cgru runs at most {MAX_INPUTS}")
    found: list[tuple[str, Sequence[Any], bool, str]] = []
    for index, reference in enumerate(made.inputs):
        item = by_name.get(reference.of)
        if item is None or item.class_name != "InputLayer" or reference.node or reference.tensor:
            raise FormatError(f"{made.item.where}: the input layer {reference.of[:80]!r} is missing")
        shape = _shape(item.config)
        if shape is None or not shape:
            raise FormatError(f"{item.where}: its configuration gives no shape")
        found.append((item.name, shape[1:], made.takes_ids(index), item.where))
    if len({name for name, *_ in found}) != len(found):
        raise FormatError(f"{made.item.where}: lists an input twice")
    return found


def _shape(config: Mapping[str, Any]) -> list[Any] | None:
    for key in ("batch_shape", "batch_input_shape"):
        shape = config.get(key)
        if shape is not None:
            if not isinstance(shape, list) or any(v is not None and type(v) is not int for v in shape):
                raise FormatError(f"{key} is {str(shape)[:80]}, expected a list of sizes")
            return shape
    return None
