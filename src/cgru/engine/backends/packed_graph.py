"""The packed backend for graphs: every node becomes one of the core's, over weights in the kernels' own order.

The lowerings of convolutions are :mod:`.graph_lowering_convolution`'s, those of recurrences and states
:mod:`.graph_lowering_recurrent`'s, those of operations along inner axes :mod:`.graph_lowering_inner`'s, the others' are
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, cast

import numpy as np

from ...arrays import Float32
from ...spec.activations import CODES, PARAMETRIC
from ...spec.graph import Graph, Node
from ...spec.operations.folding import refuse_other_frames
from ...spec.values import Value
from ...weights import Store
from ..given_once import frames_given, mask_left_out
from ..state import StateLayout
from . import graph_lowering_convolution as _convolution  # noqa: F401 - fills the table
from . import graph_lowering_inner as _inner  # noqa: F401 - likewise
from . import graph_lowering_recurrent as _recurrent  # noqa: F401 - likewise
from .graph_lowering import (
    LOWERINGS,
    Context,
    broadcast,
    few_axes,
    first,
    lowers,
    merged,
    strides_of,
    unsupported,
    weights_of,
)
from .packed import packed_dense, packing

__all__ = ["LOWERINGS", "PackedRunner", "unsupported"]

_CLOCKS = {"once": 0, "static": 1, "steps": 2}
_CONTENTS = {"float32": 0, "int64": 1, "bool": 2}
#: The kinds of the core's binary operation and pooling, by the names of the table's.
BINARY = {"add": 0, "sub": 1, "mul": 2, "div": 3, "minimum": 4, "maximum": 5, "average": 6, "power": 7, "atan2": 11}
POOLING = {"max": 0, "average": 1, "mean": 1, "sum": 2, "last": 3, "first": 4, "min": 5, "variance": 6}


#: Numbers of a table of what tokens give a recurrence, at most: 1 MB, which stays in cache and is made in milliseconds.
LOOKUP = 1 << 18
#: Calls whose numbers of frames are remembered.
COUNTED = 64


def _looked_up(graph: Graph, node: Node, store: Store, scan: Any) -> tuple[Float32, str] | None:
    """For a recurrence behind an embedding: what its input side makes of every token, and the input that has the ids.

    A step then reads one row of it in place of a matrix, half of a GRU's weights. The bits are the same.
    """
    before = graph.node(node.inputs[0])
    if before is None or before.op != "embedding" or before.inputs[0] not in graph.timed_inputs:
        return None
    if before.options["vocabulary"] * scan.lookup_width > LOOKUP:
        return None
    return scan.lookup(np.ascontiguousarray(store[before.weights].arrays()["weight"])), before.inputs[0]


def _numbers(inputs: Sequence[str], numbers: Mapping[str, int]) -> list[int]:
    return [numbers[name] if name else -1 for name in inputs]


def _weighted_sum(graph: Graph, node: Node) -> tuple[str, ...] | None:
    """For a sum over time of x times a number a frame: x, that number and the mask, which the core reads at once.

    The product itself, a frame of x each, is then made only where something else reads it.
    """
    if node.op != "pool_whole" or node.options["kind"] != "sum":
        return None
    before = graph.node(node.inputs[0])
    if before is None or before.op != "mul":
        return None
    result, mask = graph.values[before.name], node.inputs[1:] or ("",)
    for x, weight in (before.inputs, before.inputs[::-1]):
        values = graph.values[x], graph.values[weight]
        if values[0] == result and values[1].size == 1 and values[1].clock == result.clock:
            return x, weight, *mask
    return None


class PackedRunner:
    """A graph in the core, as :class:`~cgru.engine.plan.Plan`."""

    in_place = False

    def __init__(self, graph: Graph, store: Store, layout: StateLayout) -> None:
        from . import _packed

        self.graph, self.layout, self.timing = graph, layout, layout.timing
        names = [*graph.inputs, *(node.name for node in graph.nodes)]
        numbers = {name: i for i, name in enumerate(names)}
        values = [_typed(graph.values[name]) for name in names]
        nodes = [self._lowered(node, store, numbers) for node in graph.nodes]
        # An output that is an input, or stands twice, is copied: the core writes each value to one place.
        self.plain: list[str] = []
        for name in graph.outputs:
            if name in graph.inputs or name in self.plain:
                continue
            self.plain.append(name)
        self.net = _packed.GraphNet(
            values, len(graph.inputs), nodes, [numbers[name] for name in self.plain], layout.width
        )
        self.core = self.net if self._steps_alone() else None
        self._folds = [
            (node.inputs[0], node.options["frames"], node.options["last"])
            for node in graph.nodes
            if node.op == "fold_time"
        ]
        self._memory_masks = [name for name in graph.static_inputs if name in graph.optional]
        self._counted: dict[tuple[object, ...], dict[str, int]] = {}
        # Padding to whole windows gives other frames than steps, though every window gives one for each.
        self._even = self.timing.steady and all(node.op != "pad_same" for node in graph.nodes)

    def _lowered(self, node: Node, store: Store, numbers: Mapping[str, int]) -> dict[str, Any]:
        """What the node is to the core, its inputs by their ``numbers``."""
        graph, window = self.graph, self.timing.windows[node.name]
        made: dict[str, Any] = {
            "op": node.op,
            "name": node.name,
            "window": (window.span, window.stride, window.left, window.right, window.up),
        }
        if read := _weighted_sum(graph, node):
            unread = [0] * len(read)
            return made | {"op": "weighted_sum", "inputs": _numbers(read, numbers), "hold": unread, "history": unread}
        inputs, blocks = graph.input_values(node), self.layout.history[node.name]
        weights = store[node.weights] if node.weights else None
        own = LOWERINGS[node.op](Context(graph, node, inputs, graph.values[node.name], weights, self.layout))
        if node.op == "scan" and (found := _looked_up(graph, node, store, own["scan"][0])):
            own["lookup"] = (found[0], numbers[found[1]])
        made["inputs"] = _numbers(node.inputs, numbers)
        made["hold"] = [
            block.sizes[0] // value.size if block and value else 0 for block, value in zip(blocks, inputs, strict=True)
        ]
        made["history"] = [block.offset if block else 0 for block in blocks]
        return made | own

    def _frames(self, before: int, steps: int, ended: bool, static: Mapping[str, int]) -> dict[str, int]:
        """Frames that come of each output in a call. A network is called again and again with the same steps."""
        if self._even and not static:
            return dict.fromkeys(self.plain, steps)
        key = (before, steps, ended, *static.items())
        frames = self._counted.get(key)
        if frames is None:
            first, last = (self.timing.counts(*at, static) for at in ((before, False), (before + steps, ended)))
            if len(self._counted) == COUNTED:
                self._counted.clear()
            clocks = {name: self.graph.values[name].clock for name in self.plain}
            frames = self._counted[key] = {
                name: last[name] - (first[name] if clock is not None and not clock.root else 0)
                for name, clock in clocks.items()
            }
        return frames

    def _check_folds(self, steps: int, lengths: np.ndarray | None, static: Mapping[str, int]) -> None:
        """The core refuses a sequence of another length than it folds as well; this says which."""
        if not self._folds:
            return
        for length in {steps} if lengths is None else {*lengths.tolist()}:
            counts = self.timing.counts(length, True, static)
            for name, frames, last in self._folds:
                refuse_other_frames(frames, counts[name], last)

    def _steps_alone(self) -> bool:
        """Whether the core takes single steps: one input of vectors or ids, and a frame of each output for each."""
        graph = self.graph
        given = [value for name, value in graph.inputs.items() if name not in graph.optional]
        values = [graph.values[name] for name in graph.outputs]
        return (
            self.timing.steady
            and len(given) == 1
            and not graph.static_inputs
            and self.plain == list(graph.outputs)
            and len(graph.inputs) <= 8
            and len(values) <= 16
            and all(value.clock is not None and value.dtype == "float32" for value in values)
            and all(len(value.features) == 1 for value in (*values, *given) if value.dtype == "float32")
        )

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        state: Float32,
        lengths: np.ndarray | None = None,
        *,
        ended: bool = True,
        threads: int = 1,
        out: Float32 | None = None,
    ) -> dict[str, np.ndarray]:
        """See :meth:`cgru.engine.plan.Plan.run`."""
        graph, batch = self.graph, len(state)
        if self._memory_masks:
            # Left out, a mask would have no frames, and what it is the mask of none that count.
            ones = {name: mask_left_out(graph.inputs[name], name, inputs, batch, 0)
                    for name in self._memory_masks if inputs.get(name) is None}
            inputs = {**inputs, **ones}
        given = [_flat(inputs.get(name), value) for name, value in graph.inputs.items()]
        steps = next((inputs[name].shape[1] for name in graph.timed_inputs), 0)
        before = 0 if self.timing.steady else self.layout.steps(state)
        static = frames_given(graph, inputs)
        self._check_folds(steps, lengths, static)
        frames = self._frames(before, steps, ended, static)
        made, flat = {}, []
        for name in self.plain:
            value = graph.values[name]
            head = (batch,) if value.clock is None else (batch, frames[name])
            array = _receiving(out, (*head, value.size), value, given)
            flat.append(array)
            made[name] = out if array is out else array.reshape(*head, *value.features)
        self.net.run(given, flat, state, lengths, steps, before, ended, threads)
        if not self.timing.steady:
            self.layout.set_steps(state, before + steps)
        for name in graph.outputs:
            if name in graph.inputs:
                made[name] = _cleared(np.array(inputs[name]), graph.values[name], lengths)
        return {name: made[name] != 0 if graph.values[name].dtype == "bool" else made[name] for name in graph.outputs}


def _receiving(
    out: Float32 | None, shape: tuple[int, ...], value: Value, inputs: Sequence[np.ndarray | None]
) -> Float32:
    """``out`` where the core can write the value there as it is and nothing is read from it, else a new array."""
    fits = out is not None and out.shape == shape and value.dtype == "float32" and out.flags.carray
    if fits and not any(array is not None and np.may_share_memory(out, array) for array in inputs):
        return cast(Float32, out)
    return np.empty(shape, np.float32)


def _cleared(array: np.ndarray, value: Value, lengths: np.ndarray | None) -> np.ndarray:
    if lengths is not None and value.clock is not None:
        array[np.arange(array.shape[1]) >= lengths[:, None]] = 0
    return array


def _typed(value: Value) -> tuple[int, int, int]:
    clock = "once" if value.clock is None else "static" if value.clock.root else "steps"
    return value.size, _CLOCKS[clock], _CONTENTS[value.dtype]


def _flat(array: np.ndarray | None, value: Value) -> np.ndarray | None:
    """(B, frames, F) with adjacent features, whatever feature axes the value has."""
    if array is None or value.dtype != "float32":
        array = array if array is None or array.flags.c_contiguous else np.array(array, order="C")
        if array is None or not value.features:
            return array
        return array.reshape(*array.shape[: array.ndim - len(value.features)], value.size)
    from .packed import _adjacent

    if len(value.features) != 1:
        array = np.ascontiguousarray(array).reshape(*array.shape[: array.ndim - len(value.features)], value.size)
    return _adjacent(array)


# ---- one function an operation ------------------------------------------------------------------------------------


@lowers("embedding")
def _embedding(c: Context) -> dict[str, Any]:
    assert c.weights is not None
    return {
        "table": c.weights.stored()["weight"],
        "precision": c.weights.precision,
        "numbers": [c.node.options["vocabulary"], c.node.options["column"]],
    }


@lowers("mask_of")
def _mask_of(c: Context) -> dict[str, Any]:
    return {"reals": [c.node.options["value"]]}


@lowers("mask_and", "apply_mask")
def _nothing(c: Context) -> dict[str, Any]:
    return {}


@lowers("pad_time", where=lambda node, *_: node.options["mode"] == "constant")
def _pad_time(c: Context) -> dict[str, Any]:
    return {}


@lowers("dense")
def _dense(c: Context) -> dict[str, Any]:
    assert c.weights is not None
    with packing:
        matrix = packed_dense(c.weights)
    return {
        "matrices": [matrix],
        "activation": CODES[c.node.options["activation"]],
        "numbers": [prod(first(c).features[:-1])],
    }


@lowers("activation")
def _activation(c: Context) -> dict[str, Any]:
    options = c.node.options
    if options["activation"] in PARAMETRIC:
        kind = list(PARAMETRIC).index(options["activation"])
        return {"op": "parametric", "kind": kind, "reals": [options["alpha"], options["beta"] or 0.0]}
    return {"activation": CODES[options["activation"]], "numbers": [prod(first(c).features[:-1])]}


@lowers(*BINARY, where=few_axes)
def _binary(c: Context) -> dict[str, Any]:
    return {"op": "binary", "kind": BINARY[c.node.op]} | broadcast(c)


@lowers("scale_shift")
def _scale_shift(c: Context) -> dict[str, Any]:
    held, shape, axis = weights_of(c), first(c).features, c.node.options["axis"]
    return {"vectors": [held["scale"], held["shift"]], "numbers": [shape[axis], prod(shape[axis + 1 :])]}


@lowers("concat")
def _concat(c: Context) -> dict[str, Any]:
    return {"numbers": [prod(c.result.features[: c.node.options["axis"]])]}


@lowers("slice", where=few_axes)
def _slice(c: Context) -> dict[str, Any]:
    options, shape = c.node.options, first(c).features
    strides = strides_of(shape, shape)
    axis = options["axis"]
    offset = options["start"] * prod(shape[axis + 1 :])
    strides[axis] = prod(shape[axis + 1 :]) * options["step"]
    size, (stride,) = merged(c.result.features, [strides])
    return {"op": "copy", "size": size, "stride": stride, "offset": offset}


@lowers("reshape", "expand_time")
def _reshape(c: Context) -> dict[str, Any]:
    return {"op": "copy", "size": [1, 1, 1, c.result.size], "stride": [0, 0, 0, 1]}


@lowers("transpose", where=few_axes)
def _transpose(c: Context) -> dict[str, Any]:
    strides = strides_of(first(c).features, first(c).features)
    size, (stride,) = merged(c.result.features, [[strides[axis] for axis in c.node.options["order"]]])
    return {"op": "copy", "size": size, "stride": stride}


@lowers("constant")
def _constant(c: Context) -> dict[str, Any]:
    return {"vectors": [np.ascontiguousarray(weights_of(c)["value"])]}


@lowers("upsample")
def _upsample(c: Context) -> dict[str, Any]:
    return {}


@lowers("pool")
def _pool(c: Context) -> dict[str, Any]:
    options = c.node.options
    return {"kind": POOLING[options["kind"]], "numbers": [options["width"]], "flag": int(options["count_padding"])}


@lowers("pool_whole")
def _pool_whole(c: Context) -> dict[str, Any]:
    return {"kind": POOLING[c.node.options["kind"]], "flag": c.node.options["correction"]}
