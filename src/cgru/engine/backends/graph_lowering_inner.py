"""Lowerings of the operations on each number by itself, along a frame's axes, and on whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ...spec.graph import Node
from ...spec.operations.axes import REDUCTIONS
from ...spec.operations.pointwise import UNARY
from ...spec.values import Value
from .graph_lowering import AXES, Context, broadcast, few_axes, first, lowers, strides_of, weights_of

#: Kinds of the core's binary operation.
_COMPARISONS = {"less": 8, "less_equal": 9, "equal": 10}
#: Indices are held as float32, which counts exactly so far.
_INDICES = 1 << 24


# ---- each number by itself ------------------------------------------------------------------------------------------


@lowers("unary")
def _unary(c: Context) -> dict[str, Any]:
    return {"kind": list(UNARY).index(c.node.options["kind"])}


@lowers("clip")
def _clip(c: Context) -> dict[str, Any]:
    return {"reals": [c.node.options["low"], c.node.options["high"]]}


@lowers("prelu")
def _prelu(c: Context) -> dict[str, Any]:
    shape, axis = first(c).features, c.node.options["axis"]
    return {"vectors": [weights_of(c)["slope"]], "numbers": [shape[axis], prod(shape[axis + 1 :])]}


@lowers("compare", where=few_axes)
def _compare(c: Context) -> dict[str, Any]:
    return {"op": "binary", "kind": _COMPARISONS[c.node.options["kind"]]} | broadcast(c)


@lowers("where", where=few_axes)
def _where(c: Context) -> dict[str, Any]:
    return broadcast(c)


# ---- along axes ------------------------------------------------------------------------------------------------------


def _walks(shape: Sequence[int], axes: Sequence[int]) -> dict[str, Any]:
    """The walk over the axes that stay, and in each of its places over ``axes``."""
    strides = strides_of(tuple(shape), tuple(shape))
    kept = [i for i in range(len(shape)) if i not in axes]
    pad_kept, pad_gone = AXES - len(kept), AXES - len(axes)
    return {
        "size": [1] * pad_kept + [shape[i] for i in kept],
        "stride": [0] * pad_kept + [strides[i] for i in kept],
        "numbers": [1] * pad_gone + [shape[i] for i in axes],
        "stride_b": [0] * pad_gone + [strides[i] for i in axes],
    }


@lowers("reduce", where=few_axes)
def _reduce(c: Context) -> dict[str, Any]:
    options = c.node.options
    return {"kind": list(REDUCTIONS).index(options["kind"])} | _walks(first(c).features, sorted(options["axes"]))


@lowers("softmax", where=few_axes)
def _softmax(c: Context) -> dict[str, Any]:
    options = c.node.options
    return {"flag": int(options["log"])} | _walks(first(c).features, sorted(options["axes"]))


@lowers("layer_norm")
def _layer_norm(c: Context) -> dict[str, Any]:
    options, held = c.node.options, weights_of(c)
    size = prod(first(c).features[-options["axes"] :])
    return {
        "op": "norm",
        "vectors": [held.get("weight"), held.get("bias")],
        "numbers": [size, 1, size],
        "reals": [options["epsilon"]],
        "flag": int(not options["subtract_mean"]),
    }


@lowers("group_norm")
def _group_norm(c: Context) -> dict[str, Any]:
    options, held, shape = c.node.options, weights_of(c), first(c).features
    return {
        "op": "norm_time" if options["over_time"] else "norm",
        "vectors": [held.get("weight"), held.get("bias")],
        "numbers": [prod(shape) // options["groups"], prod(shape[1:]), prod(shape)],
        "reals": [options["epsilon"]],
    }


@lowers("fold_time")
def _fold_time(c: Context) -> dict[str, Any]:
    return {"numbers": [c.node.options["frames"], c.node.options["last"]]}


@lowers("pad_same")
def _pad_same(c: Context) -> dict[str, Any]:
    options = c.node.options
    return {"numbers": [options["span"], options["stride"]], "reals": [options["value"]]}


@lowers("softmax_time", "reverse_time")
def _whole(c: Context) -> dict[str, Any]:
    return {}


@lowers("matmul", where=few_axes)
def _matmul(c: Context) -> dict[str, Any]:
    a, b = c.values
    assert a is not None
    assert b is not None
    front = c.result.features[:-2]
    pad = AXES - 2 - len(front)
    strides = []
    for value in (a, b):
        own = value.features[:-2]
        matrix = prod(value.features[-2:])
        strides.append([0] * pad + [step * matrix for step in strides_of(own, front)] + [0, 0])
    return {
        "size": [1] * pad + list(c.result.features),
        "stride": strides[0],
        "stride_b": strides[1],
        "numbers": [a.features[-1]],
    }


# ---- attention -------------------------------------------------------------------------------------------------------


def _key_known(node: Node, result: Value, inputs: list[Value | None]) -> bool:
    """Whether the key is there when the query is: not that it advances with the steps, and the query does not."""
    query, key = (value.clock if value is not None else None for value in inputs[:2])
    return query is not None and key is not None and (bool(key.root) or not query.root)


@lowers("attend", "attend_weights", where=_key_known)
def _attend(c: Context) -> dict[str, Any]:
    options = c.node.options
    held = weights_of(c) if c.weights is not None else {}
    return {
        "op": "attend_whole" if c.node.op == "attend" and not options["memory"] else c.node.op,
        "kind": ("dot", "additive").index(options["kind"]),
        "reals": [options["factor"]],
        "vectors": [held.get("inner"), held.get("outer")],
        "flag": int(options.get("causal", False)),
    }


# ---- numbers by index ------------------------------------------------------------------------------------------------


def _countable(node: Node, result: Value, inputs: list[Value | None]) -> bool:
    return all(value.size <= _INDICES for value in (result, *inputs) if value is not None)


def _gathered(index: np.ndarray, fill: float = 0.0) -> dict[str, Any]:
    """The node that gives number index[i] as its i-th, ``fill`` where that is −1."""
    return {"op": "gather", "vectors": [np.ascontiguousarray(index, np.float32).reshape(-1)], "reals": [fill]}


def _numbered(value: Value) -> np.ndarray:
    return np.arange(value.size).reshape(value.features)


@lowers("take", where=_countable)
def _take(c: Context) -> dict[str, Any]:
    options = c.node.options
    return _gathered(np.take(_numbered(first(c)), options["indices"], axis=options["axis"]))


@lowers("broadcast", where=few_axes)
def _broadcast(c: Context) -> dict[str, Any]:
    return {"op": "copy"} | broadcast(c)


@lowers("pad_inner", where=_countable)
def _pad_inner(c: Context) -> dict[str, Any]:
    options, value = c.node.options, first(c)
    axes = len(value.features)
    padding = [(options["pads"][i], options["pads"][axes + i]) for i in range(axes)]
    more: dict[str, Any] = {"constant_values": -1} if options["mode"] == "constant" else {}
    return _gathered(np.pad(_numbered(value), padding, mode=options["mode"], **more), options["value"])
