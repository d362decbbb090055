"""Runs an ONNX graph over what is known before it runs: what is constant is computed, the rest becomes cgru's graph.

Nodes are walked in order. A node whose inputs are all known is folded (:mod:`.onnx_fold`), one about shapes is answered
from the axes that are followed, an If whose condition is known continues in its branch, and any other becomes
operations of cgru by the handler of its operator (:data:`HANDLERS`). Nothing is approximated: what has no handler, or
is used in a way that its handler does not cover, is an :class:`UnsupportedError` that names the node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ...errors import CgruError, FormatError, ShapeError, UnsupportedError
from ...spec.values import Clock
from ..containers.onnx_records import Graph, Node, shortened
from . import onnx_fold as fold
from .onnx_draft import Draft
from .onnx_values import (
    BATCH,
    TIME,
    Count,
    Known,
    Scores,
    Size,
    Tensor,
    Triangle,
    Unfolded,
    Value,
    divided,
    product,
    shape_array,
)

Some = TypeVar("Some")

#: An operator's handler: from the node and its inputs (None where left out) to its outputs.
Handler = Callable[["Lowering", Node, "list[Value | None]"], "Value | Sequence[Value]"]

#: Operator → handler, filled by the modules of the families of operators.
HANDLERS: dict[str, Handler] = {}


#: The same for what is done with a matrix of every frame with every other.
PAIRED: dict[str, Handler] = {}

#: Operators with graphs of their own: what those read decides whether anything is known of their results.
CONTROL = ("If", "Loop", "Scan")


def handles(*operators: str) -> Callable[[Handler], Handler]:
    """Put a handler into the table for these operators; a domain that is not ONNX' own stands before the name."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(operators, handler))
        return handler

    return register


def given(value: Some | None, node: Node, what: str) -> Some:
    """``value``, which the node says; raises :class:`FormatError` where it left it out."""
    if value is None:
        raise FormatError(f"{node}: {what} is missing")
    return value


def handles_pairs(*operators: str) -> Callable[[Handler], Handler]:
    """The same for operators among whose inputs is a :class:`~.onnx_values.Scores`."""

    def register(handler: Handler) -> Handler:
        PAIRED.update(dict.fromkeys(operators, handler))
        return handler

    return register


_PLACES = "export the network without it, and choose among its scores (numpy.argmax, net.top_k)"
_DRAWN = (
    "every call gives other numbers; export the network for inference, or draw beside it (cgru.sample, cgru.forecast)"
)
_AS_MANY = "how many numbers it gives depends on the numbers it takes"
#: Why there is no handler for some operators, and what to do.
_WHY_NOT = {
    "ArgMax": _PLACES, "ArgMin": _PLACES, "TopK": _PLACES,
    "Compress": _AS_MANY, "NonMaxSuppression": _AS_MANY, "NonZero": _AS_MANY, "Unique": _AS_MANY,
    "Bernoulli": _DRAWN, "Multinomial": _DRAWN, "RandomNormal": _DRAWN, "RandomNormalLike": _DRAWN,
    "RandomUniform": _DRAWN, "RandomUniformLike": _DRAWN,
}  # fmt: skip

_OUTSIDE = Node("", "", "", 0, (), (), {})


class Lowering:
    """One reading of a graph: which input axes are rows and frames is given by the values that ``walk`` begins with."""

    def __init__(self, draft: Draft, shown: str) -> None:
        self.draft, self.shown = draft, shown
        self.values: dict[str, Value] = {}
        self.uses: Counter[str] = Counter()
        #: The nodes that read a name, of the graphs walked so far; one without an operator stands for what is wanted.
        self.readers: dict[str, list[Node]] = {}
        #: Values that say how many frames of each row count: the network's own ``lengths`` when it runs.
        self.lengths: set[str] = set()
        #: Recurrences that are not given those, beside others that are.
        self.endless: set[str] = set()
        #: The input whose frames are the network's steps; None in a network without time.
        self.clocked: Tensor | None = None
        #: What the axes of each output are, once it is made.
        self.axes: dict[str, tuple[tuple[Any, ...], ...]] = {}
        #: Recurrences that run over the network's own steps: a reading is the better for having any.
        self.scans = 0
        #: Loops over time that the walk is inside of: there each value is what it is at one step.
        self.loops = 0
        #: Outputs that do not advance with the network's steps, but with an input that has a time axis of its own.
        self.own_clocks = 0

    # ---- the walk -----------------------------------------------------------------------------------------------

    def walk(self, graph: Graph, wanted: Sequence[str]) -> None:
        """Everything that ``wanted`` needs, into :attr:`values`."""
        for name, array in graph.initializers.items():
            self.values.setdefault(name, Known(array))
        needed = _needed(graph.nodes, wanted)
        self.uses.update(name for node in needed for name in node.reads())
        self.uses.update(wanted)
        for node in needed:
            for name in dict.fromkeys(node.reads()):
                self.readers.setdefault(name, []).append(node)
        for name in wanted:
            self.readers.setdefault(name, []).append(_OUTSIDE)
        for node in needed:
            self._node(node)

    def _node(self, node: Node) -> None:
        inputs = [self.value(name) if name else None for name in node.inputs]
        if inputs and inputs[0] is None and node.op != "Loop":
            raise FormatError(f"{node}: its first input is missing")
        try:
            made = self._lowered(node, inputs)
        except Unfolded:
            raise UnsupportedError(
                f"{node}: it depends on how many rows or frames there are in a way that cgru does not follow"
            ) from None
        except fold.FoldError as error:
            raise FormatError(str(error)) from None
        except (FormatError, UnsupportedError):
            raise
        except CgruError as error:
            raise UnsupportedError(f"{node}: {error}") from error
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise FormatError(f"{node}: its inputs and attributes do not fit its operator ({error!r:.200})") from error
        for name, value in zip(node.outputs, made, strict=False):
            if name and value is not None:
                self.values[name] = value

    def value(self, name: str) -> Value:
        if name not in self.values:
            raise UnsupportedError(f"{shortened(name)} is an output that cgru does not compute of its operator")
        return self.values[name]

    def _lowered(self, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
        if node.domain and f"{node.domain}.{node.op}" not in HANDLERS:
            raise UnsupportedError(f"{node}: cgru knows ONNX' own operators alone, not those of {node.domain!r}")
        if node.op == "If":
            return self._if(node, inputs[0])
        if node.op in ("Shape", "Size"):
            return [self._shape(node, inputs[0])]
        if any(isinstance(value, Scores) for value in inputs):
            return self._paired(node, inputs)
        if any(isinstance(value, Triangle) for value in inputs):
            return self._of_pairs(node, inputs)
        if node.op not in CONTROL and all(value is None or isinstance(value, Known) for value in inputs):
            try:
                found = self._folded(node, inputs)
            except Unfolded:
                inputs = self._spread_all(node, inputs)
                found = None
            if found is not None:
                return found
        handler = HANDLERS.get(f"{node.domain}.{node.op}" if node.domain else node.op)
        if handler is None:
            why = _WHY_NOT.get(node.op, "")
            raise UnsupportedError(f"{node}: cgru does not run the operator {shortened(node.op)}{why and f': {why}'}")
        made = handler(self, node, inputs)
        return list(made) if isinstance(made, (list, tuple)) else [made]  # type: ignore[list-item]

    def _paired(self, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
        handler = PAIRED.get(node.op)
        if handler is None:
            raise self.unsupported(
                node,
                "a matrix of every frame with every other; cgru follows one through factors and masks to the softmax "
                "and the sequence that it weights",
            )
        made = handler(self, node, inputs)
        return made if isinstance(made, list) else [made]  # type: ignore[list-item]

    def _of_pairs(self, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value]:
        """A node on constants of which one has a number for later frames and another for earlier ones."""
        if node.op not in (*fold.ELEMENTWISE, "Unsqueeze", "Expand") or any(isinstance(v, Tensor) for v in inputs):
            raise self.unsupported(node, "a constant of pairs of frames, which cgru follows as a mask of attention")
        later, earlier = (
            self._lowered(node, [getattr(v, side) if isinstance(v, Triangle) else v for v in inputs])[0]
            for side in ("later", "earlier")
        )
        if not isinstance(later, Known) or not isinstance(earlier, Known):
            raise Unfolded
        return [Triangle(later, earlier)]  # type: ignore[list-item]

    def _spread_all(self, node: Node, inputs: Sequence[Any]) -> list[Value | None]:
        """Inputs for a handler where no answer is known before the network runs: numbers along rows become values."""
        if node.op == "Range":
            return list(inputs)
        if node.op not in HANDLERS or any(value is not None and value.is_shape and not value.real for value in inputs):
            raise Unfolded
        return [
            value if value is None else self._spread(value) if value.open
            else self.counted(value) if value.is_shape else value
            for value in inputs
        ]  # fmt: skip

    def _folded(self, node: Node, inputs: Sequence[Any]) -> list[Value] | None:
        if node.op == "Constant":
            return [Known(_constant(node))]
        if node.op == "ConstantOfShape" and inputs[0].is_shape:
            value = node.attributes.get("value", np.zeros(1, np.float32)).reshape(-1)[0]
            return [filled(value, tuple(inputs[0].array.tolist()))]
        if any(value is not None and value.open for value in inputs) or self._opens(node, inputs):
            return self._folded_open(node, inputs)
        arrays = fold.folded(node, [None if value is None else value.array for value in inputs])
        if arrays is None:
            return None
        real = fold.is_real(node, any(value is not None and value.real for value in inputs))
        return [
            Known(array.astype(np.float32) if real and array.dtype.kind == "i" else array, real=real and (
                array.dtype == object))
            for array in arrays
        ]  # fmt: skip

    @staticmethod
    def _opens(node: Node, inputs: Sequence[Any]) -> bool:
        """Whether a constant is spread to a shape that depends on rows or frames."""
        return (
            node.op in ("Expand", "Reshape", "Tile")
            and len(inputs) > 1
            and inputs[1].is_shape
            and (node.op != "Reshape" or not inputs[0].is_shape)
        )

    def _folded_open(self, node: Node, inputs: Sequence[Known | None]) -> list[Value] | None:
        """Constants that repeat along rows or frames: numbers by themselves, and axes moved about."""
        first = inputs[0]
        assert first is not None
        if node.op in fold.ELEMENTWISE:
            arrays = fold.folded(node, [None if value is None else value.array for value in inputs])
            assert arrays is not None
            shape = joined_sizes([value.shape for value in inputs if value is not None])
            return [open_known(arrays[0], shape)]
        rank = len(first.shape)
        if node.op == "Trilu":
            return [_triangle(node, first, inputs[1] if len(inputs) > 1 else None)]  # type: ignore[list-item]
        if node.op == "Transpose":
            order = node.attributes.get("perm", tuple(reversed(range(rank))))
            return [open_known(first.array.transpose(order), tuple(first.shape[axis] for axis in order))]
        if node.op == "Slice":
            array, sizes = first.array, list(first.shape)
            rest = [None if value is None else value.array for value in inputs[1:]]
            for axis, part in fold.slices(node, [array, *rest], rank, sizes):
                if isinstance(sizes[axis], Count):
                    if part == slice(None, None, 1) or part == slice(0, None, 1):
                        continue
                    raise Unfolded
                array = array[(slice(None),) * axis + (part,)]
                sizes[axis] = array.shape[axis]
            return [open_known(array, tuple(sizes))]
        if node.op in ("Unsqueeze", "Squeeze"):
            axes = fold.axes_of(node, [None if value is None else value.array for value in inputs])
            sizes = list(first.shape)
            if node.op == "Squeeze":
                which = {axis % rank for axis in axes} if axes else {i for i, size in enumerate(sizes) if size == 1}
                kept = [i for i in range(rank) if i not in which]
                return [open_known(first.array.squeeze(tuple(which)), tuple(sizes[i] for i in kept))]
            axes = given(axes, node, "the list of its axes")
            for axis in sorted(axis % (rank + len(axes)) for axis in axes):
                sizes.insert(axis, 1)
            return [open_known(first.array.reshape([1 if isinstance(n, Count) else n for n in sizes]), tuple(sizes))]
        if node.op == "MatMul" and not isinstance(first.shape[-1], Count):
            matrix = given(inputs[1], node, "its matrix")
            if matrix.array.ndim == 2 and not matrix.open and not matrix.is_shape:
                return [open_known(np.matmul(first.array, matrix.array), (*first.shape[:-1], matrix.array.shape[1]))]
        if node.op in ("Gather", "Split") and first.open:
            axis = int(node.attributes.get("axis", 0)) % rank
            if not isinstance(first.shape[axis], Count):
                arrays = fold.folded(node, [None if value is None else value.array for value in inputs])
                assert arrays is not None
                made: list[Value] = []
                for array in arrays:
                    middle = array.shape[axis : axis + 1 + array.ndim - rank]
                    made.append(open_known(array, (*first.shape[:axis], *middle, *first.shape[axis + 1 :])))
                return made
        if node.op == "Expand":
            wanted = given(inputs[1], node, "its shape")
            shape = joined_sizes([first.shape, tuple(wanted.array.tolist())])
            spread = [1 if isinstance(size, Count) else size for size in shape]
            fold.check_size(spread)
            return [open_known(np.broadcast_to(first.array, spread), shape)]
        if node.op == "Tile":
            return [_tiled(node, first, inputs[1])]
        if node.op == "Reshape":
            wanted = given(inputs[1], node, "its shape")
            if first.array.size == 1:
                return [filled(first.array.reshape(-1)[0], reshaped_sizes(first.shape, wanted.array.tolist(), node))]
        raise Unfolded

    def _shape(self, node: Node, value: Value | None) -> Known:
        assert value is not None
        sizes = self.draft.shape(value)
        if node.op == "Size":
            return Known(shape_array([product(sizes)]).reshape(()))
        return Known(shape_array(sizes[node.attributes.get("start", 0) : node.attributes.get("end", None)]))

    def _if(self, node: Node, condition: Value | None) -> list[Value]:
        if not isinstance(condition, Known) or condition.array.size != 1:
            raise UnsupportedError(
                f"{node}: which branch runs depends on the input; where it hangs on one input that stays the same, "
                "say so: inputs={'name': value}"
            )
        branch = node.attributes["then_branch" if bool(condition.array.reshape(-1)[0]) else "else_branch"]
        if not isinstance(branch, Graph):
            raise FormatError(f"{node}: its branch is no graph")
        self.walk(branch, [info.name for info in branch.outputs])
        return [self.value(info.name) for info in branch.outputs]

    # ---- what handlers share --------------------------------------------------------------------------------------

    def tensor(self, value: Value | None, node: Node, what: str = "its input") -> Tensor:
        """The value, which must be computed from the network's input; a constant becomes a node."""
        if value is None:
            raise FormatError(f"{node}: {what} is missing")
        if isinstance(value, Tensor):
            return value
        if not isinstance(value, Known):
            raise self.unsupported(node, f"{what} is a matrix of every frame with every other")
        if value.is_shape:
            return self.counted(value)
        if value.open:
            return self._spread(value)
        name = self.draft.constant(value.array if value.array.ndim else value.array.reshape(1))
        return Tensor(name, tuple((axis,) for axis in range(value.array.ndim)))

    def _spread(self, value: Known) -> Tensor:
        """A constant that is the same along rows, or along the network's steps."""
        rows = [axis for axis, size in enumerate(value.sizes) if size == Count(1, (BATCH,))]
        steps = [axis for axis, size in enumerate(value.sizes) if isinstance(size, Count) and axis not in rows]
        if len(rows) > 1 or len(steps) > 1 or (steps and self.loops):
            raise Unfolded
        name = self.draft.constant(value.array)
        axes: list[tuple[Any, ...]] = [(axis,) for axis in range(value.array.ndim)]
        for axis in rows:
            axes[axis] = (BATCH,)
        for axis in steps:
            like = self.timed_input()
            if value.sizes[axis] != self.draft.atom_size(like, TIME):
                raise Unfolded
            name, axes[axis] = self.draft.emit("expand_time", name, like.name), (TIME,)
        return Tensor(name, tuple(axes))

    def counted(self, value: Known) -> Tensor:
        """A number of frames, which the graph goes on computing with, as a value: the sum of a one for each frame."""
        count = value.array.reshape(-1)[0]
        if not value.real or value.array.size != 1 or self.loops or self.lengths:
            raise Unfolded
        if not isinstance(count, Count) or len(count.symbols) != 1 or not isinstance(count.symbols[0], Clock):
            raise Unfolded
        ones = self.draft.emit(
            "expand_time", self.draft.constant(np.array([count.factor])), self.of_clock(count.symbols[0]).name
        )
        name = self.draft.emit("pool_whole", ones, kind="sum")
        if count.offset:
            name = self.draft.emit("add", name, self.draft.constant(np.array([count.offset])))
        return Tensor(name, ((),) * value.array.ndim)

    def of_clock(self, clock: Clock) -> Tensor:
        """A value with these frames."""
        if self.clocked is not None and self.draft.type(self.clocked.name).clock == clock:
            return self.clocked
        name = next((name for name, value in self.draft.g.values.items() if value.clock == clock), "")
        if not name:
            raise Unfolded
        return Tensor(name, ())

    def timed_input(self) -> Tensor:
        """The input whose frames are the network's steps."""
        if self.clocked is None:
            raise Unfolded
        return self.clocked

    def known(self, value: Value | None, node: Node, what: str) -> np.ndarray:
        """The numbers of an input that must be constant."""
        if value is None:
            raise FormatError(f"{node}: {what} is missing")
        if isinstance(value, Tensor) and value.name in self.lengths:
            raise UnsupportedError(f"{node}: {what} is the number of frames of each row")
        if not isinstance(value, Known):
            raise UnsupportedError(f"{node}: {what} is computed from the input; cgru runs it with constant ones")
        if value.is_shape or value.open:
            raise Unfolded
        return value.array

    def alone(self, value: Tensor) -> bool:
        """Whether what computes the value is read by the node at hand and nothing else, so that it may be changed."""
        return all(
            self.uses[name] == 1
            for name, other in self.values.items()
            if isinstance(other, Tensor) and other.name == value.name
        )

    def unsupported(self, node: Node, why: str) -> UnsupportedError:
        return UnsupportedError(f"{node}: {why}")

    def result(self, name: str, axes: Sequence[Sequence[Any]], dtype: str = "float32") -> Tensor:
        return Tensor(name, tuple(map(tuple, axes)), dtype)


def _needed(nodes: Sequence[Node], wanted: Sequence[str]) -> list[Node]:
    """The nodes that what is wanted is computed from, in order."""
    names, found = set(wanted), []
    for node in reversed(nodes):
        if any(output in names for output in node.outputs if output):
            found.append(node)
            names.update(node.reads())
    return found[::-1]


def _constant(node: Node) -> np.ndarray:
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in node.attributes:
            return np.array(node.attributes[name], dtype)
    value = node.attributes.get("value")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        raise UnsupportedError(f"{node}: it holds no numbers")
    return value


def filled(value: Any, sizes: tuple[Size, ...]) -> Known:
    """One number in a shape, along rows and frames too."""
    plain = [1 if isinstance(size, Count) else size for size in sizes]
    fold.check_size(plain)
    return open_known(np.full(plain, value), sizes)


def _triangle(node: Node, value: Known, diagonal: Known | None) -> Triangle:
    """The upper or lower part of a constant of pairs of frames: what is kept of later frames, and of the others."""
    upper, k = bool(node.attributes.get("upper", 1)), 0 if diagonal is None else int(diagonal.array.reshape(-1)[0])
    if value.shape[-1] != value.shape[-2] or k != upper:
        raise Unfolded
    zero = Known(np.zeros_like(value.array), value.sizes)
    return Triangle(value, zero) if upper else Triangle(zero, value)


def _tiled(node: Node, value: Known, repeats: Known | None) -> Known:
    """A constant repeated, along rows and frames too."""
    if repeats is None or repeats.array.size != len(value.shape):
        raise FormatError(f"{node}: its repeats do not fit {len(value.shape)} axes")
    array, sizes = value.array, list(value.shape)
    for axis, count in enumerate(repeats.array.reshape(-1).tolist()):
        if isinstance(count, Count) or isinstance(sizes[axis], Count):
            if 1 not in (count, sizes[axis]):
                raise Unfolded
            sizes[axis] = sizes[axis] * count
            continue
        fold.check_size([array.size, count])
        array = np.concatenate([array] * count, axis) if count > 0 else array.take([], axis)
        sizes[axis] = array.shape[axis]
    return open_known(array, tuple(sizes))


def open_known(array: np.ndarray, sizes: tuple[Size, ...]) -> Known:
    return Known(array, sizes) if any(isinstance(size, Count) for size in sizes) else Known(array)


def joined_sizes(shapes: Sequence[tuple[Size, ...]]) -> tuple[Size, ...]:
    """The shape that several broadcast to."""
    rank = max(len(shape) for shape in shapes)
    made: list[Size] = [1] * rank
    for shape in shapes:
        for i, size in enumerate(shape, rank - len(shape)):
            if size != 1:
                if made[i] != 1 and made[i] != size:
                    raise ShapeError(f"shapes {shapes} do not broadcast")
                made[i] = size
    return tuple(made)


def reshaped_sizes(sizes: Sequence[Size], wanted: Sequence[Any], node: Node) -> tuple[Size, ...]:
    """The sizes a Reshape asks for, with 0 and −1 resolved."""
    made: list[Any] = list(wanted)
    if not node.attributes.get("allowzero", 0):
        made = [sizes[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(made)]
    holes = [i for i, n in enumerate(made) if isinstance(n, int) and n == -1]
    if len(holes) > 1 or any(isinstance(n, int) and n < -1 for n in made):
        raise FormatError(f"{node}: a shape of {wanted}")
    if holes:
        rest = product(n for i, n in enumerate(made) if i != holes[0])
        made[holes[0]] = divided(product(sizes), rest)
        if made[holes[0]] is None:
            raise Unfolded
    return tuple(made)


def renamed(value: Tensor, axes: Sequence[Sequence[Any]]) -> Tensor:
    return replace(value, axes=tuple(map(tuple, axes)))
