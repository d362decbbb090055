"""Functions of ``keras.ops`` that a model calls between its layers: arithmetic, slices, and how Keras makes masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .keras_draft import Differs, Draft, Everywhere, Tensor
from .keras_graph import Entry
from .keras_joins import aligned, joined, joined_mask
from .keras_settings import Activated
from .keras_shapes import item_of, reshaped

Function = Callable[[Draft, Entry, list[Any], dict[str, Any]], Any]


def _not_equal(d: Draft, item: Entry, args: list[Any], kwargs: dict[str, Any]) -> Any:
    x, value = args if len(args) == 2 else (None, None)
    if not isinstance(x, Tensor) or isinstance(value, bool) or not isinstance(value, (int, float)):
        raise d.refuse("compares something else than a tensor with a number")
    if d.value(x).dtype == "int64":
        return d.seen(x, float(value))
    return Differs(x, float(value))


def _any(d: Draft, item: Entry, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if item.config.get("axis") not in (-1, [-1]) or item.config.get("keepdims"):
        raise d.refuse("is over another axis than the last")
    given = args[0]
    if isinstance(given, Differs):
        return d.seen(given.x, given.value)
    if isinstance(given, (Tensor, Everywhere)):
        return given
    raise d.refuse("is of something that is no mask")


def _same(d: Draft, item: Entry, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """A mask with another axis of size 1, or of another type, is the same mask."""
    given = args[0]
    if isinstance(given, (Everywhere, Differs)) or (isinstance(given, Tensor) and d.value(given).dtype == "bool"):
        return given
    raise d.refuse("is of something that is no mask")


def _either(d: Draft, item: Entry, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The masks' union. ``Everywhere(nowhere)`` is what Keras makes to spread a mask over the features."""
    parts = args[0] if len(args) == 1 and isinstance(args[0], list) else args
    masks = [m for m in parts if not (isinstance(m, Everywhere) and m.nowhere)]
    if any(isinstance(m, Everywhere) for m in masks):
        return Everywhere()
    if not masks or not all(isinstance(m, Tensor) and d.value(m).dtype == "bool" for m in masks):
        raise d.refuse("joins something that is no mask")
    if len(set(masks)) > 1:
        raise d.refuse("joins two different masks")
    return masks[0]


def _arithmetic(op: str) -> Function:
    def run(d: Draft, item: Entry, args: list[Any], kwargs: dict[str, Any]) -> Any:
        sides = [*args, *kwargs.values()]
        if len(sides) != 2:
            raise d.refuse(f"is called with {len(sides)} values")
        numbers = [isinstance(s, (int, float)) and not isinstance(s, bool) for s in sides]
        if all(numbers):
            raise d.refuse("has no tensor")
        tensors = [d.tensor(s) for s, is_number in zip(sides, numbers, strict=True) if not is_number]
        if len(tensors) == 2:
            if len({len(d.shape(x)) for x in tensors}) > 1:
                raise d.refuse("joins values of different numbers of axes")
            tensors = aligned(d, tensors)
            return replace(d.node(op, *tensors), mask=joined_mask(d, tensors))
        ends = [d.constant([s]) if is_number else tensors[0] for s, is_number in zip(sides, numbers, strict=True)]
        return replace(d.node(op, *ends, timed=tensors[0].timed), mask=tensors[0].mask)

    return run


def _concatenate(d: Draft, item: Entry, args: list[Any], kwargs: dict[str, Any]) -> Any:
    given = args[0]
    if not isinstance(given, list) or not given:
        raise d.refuse("joins something that is no list")
    if any(not isinstance(x, Tensor) or d.value(x).dtype == "bool" for x in given):
        return _either(d, item, args, kwargs)
    axis = item.config.get("axis", kwargs.get("axis", -1))
    if type(axis) is not int:
        raise d.refuse(f"axis={str(axis)[:40]}")
    return joined(d, given, axis, {})


def _get_item(d: Draft, item: Entry, args: list[Any], kwargs: dict[str, Any]) -> Any:
    index = args[1] if len(args) > 1 else kwargs.get("key")
    return item_of(d, d.tensor(args[0]), index)


def _reshape(d: Draft, item: Entry, args: list[Any], kwargs: dict[str, Any]) -> Any:
    shape = item.config.get("newshape", args[1] if len(args) > 1 else None)
    if not isinstance(shape, list) or not shape or any(type(v) is not int for v in shape):
        raise d.refuse(f"has the shape {str(shape)[:60]}")
    if shape[0] != -1:
        raise d.refuse(f"takes the rows of a batch apart ({shape})")
    return reshaped(d, d.tensor(args[0]), shape[1:])


def _reduction(kind: str) -> Function:
    def run(d: Draft, item: Entry, args: list[Any], kwargs: dict[str, Any]) -> Any:
        x = d.tensor(args[0])
        axis, keep = item.config.get("axis"), item.config.get("keepdims", False)
        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        rank = len(d.shape(x)) + 1
        if type(axis) is not int or not -rank < axis < rank or axis % rank == 0:
            raise d.refuse(f"axis={str(axis)[:40]}; one axis behind the batch is run")
        at = axis % rank
        if x.timed and at == 1:
            y = d.node("pool_whole", x, kind=kind, timed=False)
            return d.reshaped(y, 1, *d.features(y)) if keep else y
        at -= 2 if x.timed else 1
        y = d.node("reduce", x, kind=kind, axes=(at,))
        left = [n for i, n in enumerate(d.features(y)) if i != at]
        if keep:
            return y
        if not left:
            raise d.refuse("leaves no feature axis; use keepdims=True")
        return d.reshaped(y, *left)

    return run


def _activation(name: str) -> Function:
    def run(d: Draft, item: Entry, args: list[Any], kwargs: dict[str, Any]) -> Any:
        x = d.tensor(args[0])
        options = {k: v for k, v in item.config.items() if k not in ("name", "approximate")}
        if len(args) > 1 or options:
            raise d.refuse(f"has the settings {str(options)[:60]}")
        wanted = "gelu_tanh" if name == "gelu" and item.config.get("approximate", True) else name
        return d.activated(x, Activated(wanted))

    return run


def _unary(kind: str) -> Function:
    return lambda d, item, args, kwargs: replace(
        d.node("unary", d.tensor(args[0]), kind=kind), mask=d.tensor(args[0]).mask
    )


#: Functions of keras.ops by the class under which a configuration lists them.
FUNCTIONS: dict[str, Function] = {
    "Absolute": _unary("abs"),
    "Add": _arithmetic("add"),
    "Any": _any,
    "Cast": _same,
    "Concatenate": _concatenate,
    "ConvertToTensor": _same,
    "Divide": _arithmetic("div"),
    "Exp": _unary("exp"),
    "ExpandDims": _same,
    "Gelu": _activation("gelu"),
    "GetItem": _get_item,
    "Log": _unary("log"),
    "LogicalOr": _either,
    "Max": _reduction("max"),
    "Maximum": _arithmetic("maximum"),
    "Mean": _reduction("mean"),
    "Min": _reduction("min"),
    "Minimum": _arithmetic("minimum"),
    "Multiply": _arithmetic("mul"),
    "Negative": _unary("neg"),
    "NotEqual": _not_equal,
    "OnesLike": lambda d, item, args, kwargs: Everywhere(),
    "Power": _arithmetic("power"),
    "Relu": _activation("relu"),
    "Reshape": _reshape,
    "Sigmoid": _activation("sigmoid"),
    "Silu": _activation("silu"),
    "Sqrt": _unary("sqrt"),
    "Subtract": _arithmetic("sub"),
    "Sum": _reduction("sum"),
    "Tanh": _activation("tanh"),
    "TrueDivide": _arithmetic("div"),
    "ZerosLike": lambda d, item, args, kwargs: Everywhere(nowhere=True),
}
