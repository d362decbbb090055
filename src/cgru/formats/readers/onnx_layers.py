"""ONNX' products, normalisation and reductions, over time and inside a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ...errors import FormatError
from ..containers.onnx_records import Node
from . import onnx_fold as fold
from .onnx_arithmetic import Broadcast, floats, output_name, scaled, shifted
from .onnx_attention import scores
from .onnx_draft import Group, plain_axes
from .onnx_lowering import Lowering, handles
from .onnx_values import BATCH, TIME, Atom, Known, Tensor, Value

# Products ---------------------------------------------------------------------------------------------------------


@handles("MatMul")
def _matmul(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    a, b = floats(low, node, *inputs)
    if isinstance(a, Tensor) and isinstance(b, Known):
        matrix = low.known(b, node, "the matrix")
        while matrix.ndim > 2 and matrix.shape[0] == 1:
            matrix = matrix[0]
        if matrix.ndim == 1:
            made = dense(low, node, a, a.rank - 1, matrix[:, None])
            return Tensor(made.name, made.axes[:-1])
        if matrix.ndim == 2:
            made = dense(low, node, a, a.rank - 1, matrix)
            lead = b.array.ndim - a.rank
            return Tensor(made.name, ((),) * max(0, lead) + made.axes)
    if isinstance(a, Known) and isinstance(b, Tensor) and b.rank >= 2:
        matrix = low.known(a, node, "the matrix")
        if matrix.ndim == 2:
            return dense(low, node, b, b.rank - 2, matrix.T)
    return product_of(low, node, low.tensor(a, node), low.tensor(b, node))


def dense(
    low: Lowering, node: Node, x: Tensor, axis: int, matrix: np.ndarray, bias: np.ndarray | None = None
) -> Tensor:
    """x along one axis times a matrix (I, O); the axis stays where it is."""
    if any(isinstance(atom, str) for atom in x.axes[axis]):
        raise low.unsupported(node, "a product along the axis of rows or frames")
    inner: Group = tuple(atom for part in low.draft.segments(x, axis) for atom in part if isinstance(atom, int))
    size = prod(low.draft.features(x)[i] for i in inner)
    if size != matrix.shape[0]:
        raise FormatError(f"{node}: a matrix of {matrix.shape} for {size} features")
    others: list[Group] = []
    axes: list[tuple[Atom, ...]] = []
    for i in range(x.rank):
        made: list[Atom] = []
        for part in low.draft.segments(x, i) if i != axis else ():
            made.append(part if isinstance(part, str) else len(others))
            others += [] if isinstance(part, str) else [part]
        axes.append(tuple(made))
    axes[axis] = (len(others),)
    weights = {"weight": np.ascontiguousarray(matrix.T)} | ({} if bias is None else {"bias": bias})
    name = low.draft.arranged(x, [*others, inner])
    name = low.draft.emit("dense", name, units=matrix.shape[1], weights=weights, name=output_name(node))
    return Tensor(name, tuple(axes))


def product_of(low: Lowering, node: Node, a: Tensor, b: Tensor) -> Any:
    """A product of two values that are both computed."""
    if min(a.rank, b.rank) < 2:
        raise low.unsupported(node, "a product with a vector that is computed")
    if low.draft.segments(a, a.rank - 2) == [TIME] == low.draft.segments(b, b.rank - 1):
        return scores(low, node, a, b)
    if a.axes[-1] == b.axes[-2] == (TIME,) and low.draft.type(a.name).clock == low.draft.type(b.name).clock:
        return _summed_over_time(low, node, a, b)
    if a.axes[-2] == (TIME,) and low.draft.type(b.name).clock is None and BATCH not in b.axes[-1]:
        # Every frame is multiplied alike: its axis is moved to the front.
        moved = Tensor(a.name, (*a.axes[:-2], (TIME,), (), a.axes[-1]))
        made = product_of(low, node, moved, Tensor(b.name, (*b.axes[:-2], (), *b.axes[-2:])))
        return Tensor(made.name, (*made.axes[:-2], made.axes[-1]))
    if b.axes[-1] == (TIME,) and low.draft.type(a.name).clock is None:
        turned = [Tensor(value.name, (*value.axes[:-2], value.axes[-1], value.axes[-2])) for value in (a, b)]
        made = product_of(low, node, turned[1], turned[0])
        return Tensor(made.name, (*made.axes[:-2], made.axes[-1], made.axes[-2]))
    for value in (a, b):
        if any(isinstance(atom, str) for atoms in value.axes[-2:] for atom in atoms):
            raise low.unsupported(node, "a product along the axis of rows or frames (attention over time)")
    fronts = [Tensor(value.name, value.axes[:-2]) for value in (a, b)]
    both = Broadcast(low, node, fronts)
    names = [
        low.draft.arranged(
            value, [*both.groups(front), *plain_axes(low.draft, Tensor(value.name, value.axes[-2:]), str(node))]
        )
        for value, front in zip((a, b), fronts, strict=True)
    ]
    made = low.draft.emit("matmul", *names, name=output_name(node))
    return Tensor(made, (*both.axes, (both.count,), (both.count + 1,)))


def _summed_over_time(low: Lowering, node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Σ_t a[…, :, t] b[…, t, :], as pooling by attention is written."""
    if BATCH in a.axes[-2] or BATCH in b.axes[-1]:
        raise low.unsupported(node, "a product along the axis of rows")
    both = Broadcast(low, node, [Tensor(a.name, (*a.axes[:-1], ())), Tensor(b.name, (*b.axes[:-2], (), b.axes[-1]))])
    made = low.draft.emit("mul", *both.names)
    return both.result(low.draft.emit("pool_whole", made, kind="sum", name=output_name(node)))


@handles("Gemm")
def _gemm(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    given = node.attributes
    alpha, beta = float(given.get("alpha", 1.0)), float(given.get("beta", 1.0))
    x = low.tensor(inputs[0], node)
    if given.get("transA"):
        x = Tensor(x.name, x.axes[::-1])
    matrix = low.known(inputs[1], node, "the matrix").astype(np.float64)
    matrix = (matrix.T if given.get("transB") else matrix) * alpha
    third = inputs[2] if len(inputs) > 2 else None
    if third is None or (isinstance(third, Known) and not third.open and third.array.size in (1, matrix.shape[1])):
        bias = (
            None if third is None else np.broadcast_to(low.known(third, node, "C").reshape(-1) * beta, matrix.shape[1:])
        )
        return dense(low, node, x, 1, matrix.astype(np.float32), bias)
    made = dense(low, node, x, 1, matrix.astype(np.float32))
    both = Broadcast(low, node, [made, scaled(low, low.tensor(third, node), beta)])
    return both.result(low.draft.emit("add", *both.names, name=output_name(node)))


@handles("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    return reduced(low, node, x, list(range(2, x.rank)), "mean" if "Average" in node.op else "max", keep=True)


# Reductions -------------------------------------------------------------------------------------------------------

_REDUCE = {
    "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod",
    "ReduceL1": "l1", "ReduceL2": "l2", "ReduceSumSquare": "sum_square", "ReduceLogSum": "log_sum",
    "ReduceLogSumExp": "log_sum_exp",
}  # fmt: skip


@handles(*_REDUCE)
def _reduce(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    if len(inputs) > 1 and inputs[1] is not None:
        low.known(inputs[1], node, "the axes")
    axes = fold.axes_of(node, [value.array if isinstance(value, Known) else None for value in inputs])
    if not axes:
        if node.attributes.get("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.rank))
    return reduced(
        low, node, x, [axis % x.rank for axis in axes], _REDUCE[node.op], keep=bool(node.attributes.get("keepdims", 1))
    )


#: Kinds of reductions over time: what each number becomes before, how frames are pooled, a function of the result.
_OVER_TIME: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "mean": ((), "mean", ""), "sum": ((), "sum", ""), "max": ((), "max", ""), "min": ((), "min", ""),
    "l1": (("abs",), "sum", ""), "l2": (("mul",), "sum", "sqrt"), "sum_square": (("mul",), "sum", ""),
    "log_sum": ((), "sum", "log"),
}  # fmt: skip


def reduced(low: Lowering, node: Node, x: Tensor, axes: Sequence[int], kind: str, *, keep: bool) -> Tensor:
    """One number of all along the axes; over time it is one of the whole sequence."""
    if any(BATCH in x.axes[axis] for axis in axes):
        raise low.unsupported(node, "one number of several rows")
    over_time = any(TIME in x.axes[axis] for axis in axes)
    features = [atom for axis in axes for atom in x.axes[axis] if isinstance(atom, int)]
    name = x.name
    if over_time:
        if kind not in _OVER_TIME:
            raise low.unsupported(node, f"{kind} over time")
        before, pool, after = _OVER_TIME[kind]
        name = low.draft.emit(*before, name, name) if before == ("mul",) else name
        name = low.draft.emit("unary", name, kind="abs") if before == ("abs",) else name
        name = low.draft.emit("pool_whole", name, kind=pool)
        if features:
            name = low.draft.emit("reduce", name, kind=pool, axes=tuple(features), name=output_name(node))
        name = low.draft.emit("unary", name, kind=after) if after else name
    elif features:
        name = low.draft.emit("reduce", name, kind=kind, axes=tuple(features), name=output_name(node))
    made = [() if axis in axes else atoms for axis, atoms in enumerate(x.axes)]
    return Tensor(name, tuple(made if keep else [atoms for axis, atoms in enumerate(made) if axis not in axes]))


@handles("Softmax", "LogSoftmax")
def _softmax(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    default = 1 if node.version < 13 else -1
    axis = int(node.attributes.get("axis", default))
    axis = axis + x.rank if axis < 0 else axis
    over = range(axis, x.rank) if node.version < 13 else [axis]
    atoms = [atom for i in over for atom in x.axes[i]]
    if TIME in atoms and node.op == "Softmax" and low.draft.segments(x, axis) == [TIME] and len(over) == 1:
        return Tensor(low.draft.emit("softmax_time", x.name, name=output_name(node)), x.axes)
    if any(isinstance(atom, str) for atom in atoms):
        raise low.unsupported(node, "softmax over rows, or over frames and features")
    log, last = node.op == "LogSoftmax", len(low.draft.features(x)) - 1
    if atoms == [last] and not log:
        return Tensor(low.draft.emit("activation", x.name, activation="softmax", name=output_name(node)), x.axes)
    made = low.draft.emit(
        "softmax", x.name, axes=tuple(a for a in atoms if isinstance(a, int)), log=log, name=output_name(node)
    )
    return Tensor(made, x.axes)


# Normalisation ----------------------------------------------------------------------------------------------------


def scale_shift(low: Lowering, node: Node, x: Tensor, axis: int, scale: np.ndarray, shift: np.ndarray) -> Tensor:
    """scale · x + shift, a pair for each entry of an axis; in the weights before it where nothing else reads them."""
    groups = plain_axes(low.draft, x, str(node))
    made = low.draft.node(x.name)
    folds = {"dense": -1, "conv1d": 0, "conv_inner": 0, "conv_transpose_inner": 0}
    if (
        made is not None and made.op in folds and made.options["activation"] == "linear" and low.alone(x)
        and groups[axis] == ((len(low.draft.features(x)) - 1,) if made.op == "dense" else (0,))
    ):  # fmt: skip
        arrays = {key: array.astype(np.float64) for key, array in low.draft.g.store[made.weights].arrays().items()}
        weight = arrays["weight"]
        if made.op == "conv_transpose_inner":
            rows = scale.reshape(made.options["groups"], -1)
            repeated = np.repeat(rows, weight.shape[0] // made.options["groups"], axis=0)
            weight = weight * repeated.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
        else:
            weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        low.draft.changed(made, {}, {"weight": weight, "bias": arrays.get("bias", 0.0) * scale + shift})
        return x
    name = low.draft.arranged(x, [group for group in groups if group] or [()])
    kept = [i for i, group in enumerate(groups) if group]
    weights = {"scale": scale.astype(np.float32), "shift": shift.astype(np.float32)}
    if axis in kept:
        made_name = low.draft.emit("scale_shift", name, axis=kept.index(axis), weights=weights, name=output_name(node))
    else:
        name = low.draft.emit("reshape", name, features=(*low.draft.type(name).features, 1))
        made_name = low.draft.emit("scale_shift", name, axis=len(low.draft.type(name).features) - 1, weights=weights)
    axes: list[tuple[Atom, ...]] = [
        (*(a for a in atoms if isinstance(a, str)), *((kept.index(i),) if i in kept else ()))
        for i, atoms in enumerate(x.axes)
    ]
    return Tensor(made_name, tuple(axes))


@handles("BatchNormalization")
def _batch_norm(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    if node.attributes.get("training_mode", 0) or len([name for name in node.outputs if name]) > 1:
        raise low.unsupported(node, "normalisation by the batch at hand, as in training")
    if node.attributes.get("spatial", 1) != 1:
        raise low.unsupported(node, "statistics for each place of a feature map")
    x = low.tensor(inputs[0], node)
    names = ("scale", "B", "mean", "var")
    gamma, beta, mean, var = (low.known(v, node, n).astype(np.float64) for v, n in zip(inputs[1:], names, strict=False))
    scale = gamma / np.sqrt(var + node.attributes.get("epsilon", 1e-5))
    return scale_shift(low, node, x, 1, scale, beta - mean * scale)


@handles("LayerNormalization", "RMSNormalization")
def _layer_norm(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    x = low.tensor(inputs[0], node)
    axis = int(node.attributes.get("axis", -1)) % x.rank
    groups = plain_axes(low.draft, x, str(node))
    if any(isinstance(atom, str) for atoms in x.axes[axis:] for atom in atoms):
        raise low.unsupported(node, "normalisation over rows or frames")
    sizes = [prod(low.draft.features(x)[i] for i in group) for group in groups]
    weights = {}
    for key, value in zip(("weight", "bias"), inputs[1:], strict=False):
        if value is not None:
            array = low.known(value, node, key)
            weights[key] = np.broadcast_to(array, sizes[axis:]).astype(np.float32)
    front = [group for group in groups[:axis] if group]
    name = low.draft.arranged(x, [*front, *groups[axis:]])
    made = low.draft.emit(
        "layer_norm", name, axes=x.rank - axis, epsilon=node.attributes.get("epsilon", 1e-5),
        subtract_mean=node.op == "LayerNormalization", weights=weights or None, name=output_name(node),
    )  # fmt: skip
    axes: list[tuple[Atom, ...]] = []
    place = 0
    for i, atoms in enumerate(x.axes):
        if i >= axis or groups[i]:
            axes.append((*(a for a in atoms if isinstance(a, str)), place))
            place += 1
        else:
            axes.append(tuple(a for a in atoms if isinstance(a, str)))
    return [Tensor(made, tuple(axes)), *_statistics(low, node, x, axis)]


def _statistics(low: Lowering, node: Node, x: Tensor, axis: int) -> list[Value]:
    """The mean and 1 / √(variance + ε) that a LayerNormalization gives beside its result, where they are read."""
    if not any(node.outputs[1:]):
        return []
    axes = list(range(axis, x.rank))
    mean = reduced(low, node, x, axes, "mean", keep=True)
    both = Broadcast(low, node, [x, mean])
    centred = both.result(low.draft.emit("sub", *both.names))
    square = Tensor(low.draft.emit("mul", centred.name, centred.name), centred.axes)
    variance = shifted(low, reduced(low, node, square, axes, "mean", keep=True), node.attributes.get("epsilon", 1e-5))
    deviation = low.draft.emit("unary", variance.name, kind="sqrt")
    return [mean, Tensor(low.draft.emit("unary", deviation, kind="reciprocal"), variance.axes)]


@handles("InstanceNormalization", "GroupNormalization")
def _instance_norm(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Each channel, or group of channels, by its own mean and deviation: of a frame, or of the whole sequence."""
    x = low.tensor(inputs[0], node)
    if any(BATCH in atoms for atoms in x.axes[1:]) or any(isinstance(a, int) for a in x.axes[0]) or TIME in x.axes[1]:
        raise low.unsupported(node, "its first axis is not that of rows, or its second not that of channels")
    over_time = any(TIME in atoms for atoms in x.axes[2:])
    found = [[part for part in low.draft.segments(x, axis) if isinstance(part, tuple)] for axis in range(1, x.rank)]
    inner = [part for parts in found[1:] for part in parts]
    frame = low.draft.arranged(x, [found[0][0] if found[0] else (), *inner])
    sizes = low.draft.type(frame).features
    channels = sizes[0]
    parts = int(node.attributes.get("num_groups", channels)) if node.op == "GroupNormalization" else channels
    if channels % parts:
        raise FormatError(f"{node}: {channels} channels in {parts} groups")
    scale, shift = (low.known(value, node, "scale and bias").astype(np.float64) for value in inputs[1:3])
    if scale.size == parts != channels:
        scale, shift = (np.repeat(array, channels // parts) for array in (scale, shift))
    weights = {"weight": scale.astype(np.float32), "bias": shift.astype(np.float32)}
    made = low.draft.emit(
        "group_norm", frame, groups=parts, epsilon=node.attributes.get("epsilon", 1e-5), over_time=over_time,
        weights=weights, name=output_name(node),
    )  # fmt: skip
    axes: list[tuple[Atom, ...]] = [tuple(a for a in x.axes[0] if isinstance(a, str)), (0,)]
    place = 0
    for axis in range(2, x.rank):
        atoms: list[Atom] = []
        for part in low.draft.segments(x, axis):
            place += not isinstance(part, str)
            atoms.append(part if isinstance(part, str) else place)
        axes.append(tuple(atoms))
    return Tensor(made, tuple(axes))


@handles("LpNormalization")
def _lp_norm(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    axis = int(node.attributes.get("axis", -1)) % x.rank
    norm = reduced(low, node, x, [axis], f"l{node.attributes.get('p', 2)}", keep=True)
    # Where all are zero, so is the result.
    name = low.draft.emit("add", norm.name, low.draft.emit("unary", norm.name, kind="not"))
    norm = Tensor(name, norm.axes)
    both = Broadcast(low, node, [x, norm])
    return both.result(low.draft.emit("div", *both.names, name=output_name(node)))


@handles("Einsum")
def _einsum(low: Lowering, node: Node, inputs: list[Value | None]) -> Any:
    """A product with a constant along one letter, or of two values: what exporters of grouped layers write."""
    equation = node.attributes["equation"].replace(" ", "")
    left, _, out = equation.partition("->")
    terms = left.split(",")
    if not out or len(terms) != 2 or "." in equation or any(len(set(term)) != len(term) for term in (*terms, out)):
        raise low.unsupported(node, f"the equation {equation!r}")
    values = [low.tensor(value, node) for value in inputs]
    a, b = terms
    if any(value.rank != len(term) for value, term in zip(values, terms, strict=True)):
        raise FormatError(f"{node}: {equation!r} for {values[0].rank} and {values[1].rank} axes")
    summed = [c for c in a if c in b and c not in out]
    if len(summed) != 1 or any(c not in out for c in set(a) ^ set(b)):
        raise low.unsupported(node, f"the equation {equation!r}")
    batch = [c for c in out if c in a and c in b]
    rows, columns = [c for c in a if c not in b], [c for c in b if c not in a]

    def turned(value: Tensor, term: str, first: Sequence[str], second: Sequence[str]) -> Tensor:
        def atoms(letters: Sequence[str]) -> tuple[Atom, ...]:
            return sum((value.axes[term.index(c)] for c in letters), ())

        return Tensor(value.name, (*(value.axes[term.index(c)] for c in batch), atoms(first), atoms(second)))

    if len(rows) == len(columns) == 1 and out == "".join([*batch, *rows, *columns]):
        sides = [turned(values[0], a, rows, summed), turned(values[1], b, summed, columns)]
        if low.draft.segments(sides[0], len(batch)) == [TIME] == low.draft.segments(sides[1], len(batch) + 1):
            return scores(low, node, *sides)
    timed = [c for c in (*rows, *columns) if any(isinstance(atom, str) for atom in (
        values[0].axes[a.index(c)] if c in a else values[1].axes[b.index(c)]))]  # fmt: skip
    kept = [c for c in rows if c not in timed]
    if any(c in columns for c in timed):
        raise low.unsupported(node, f"the equation {equation!r}: frames of its second input are not those of the first")
    # Axes of rows and frames of the first input stay what they are: every frame is multiplied alike.
    first = turned(values[0], a, kept, summed)
    first = Tensor(first.name, (*(values[0].axes[a.index(c)] for c in timed), *first.axes))
    made = product_of(low, node, first, turned(values[1], b, summed, columns))
    sizes = {c: low.draft.axis_size(v, t.index(c)) for v, t in zip(values, terms, strict=True) for c in t}
    from .onnx_movement import regrouped

    letters = [*timed, *batch, *kept, *columns]
    if len(kept) != 1 or len(columns) != 1:
        made = regrouped(low, node, made, [sizes[c] for c in letters])
    return Tensor(made.name, tuple(made.axes[letters.index(c)] for c in out))
