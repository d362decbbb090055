"""A TorchScript archive → a network: forward() followed on inputs of two sizes, and lowered as a live module's is.

The archive does not say the shapes of what forward() takes. They are told by its modules' weights, and where that
leaves nothing that runs, by ``inputs=``. The sizes of rows and frames are of cgru's choosing, and no number that
forward() computes of them may end up in the network: two choices must give the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np

from ....arrays import brief
from ....builder import Graph
from ....errors import CgruError, FormatError, ShapeError, UnsupportedError
from ....layers import Layer
from ...containers.file_bytes import Source as File
from ...containers.pickle_values import describe
from ...containers.torch_script import Script, attributes_of, opened
from ..aten.network import Traced, traced
from ..aten.program import Argument, Program
from .evaluator import Budget, Evaluator
from .source import Source
from .values import DoesNotFit, Method, Named, Tensor

#: Steps that following forward() may take for one file, with as many more as its code is long.
_STEPS = 300_000
#: Rows and frames that are tried, the few before the many: convolutions and pooling need some. Two of each.
_FRAMES = (11, 101)
#: Combinations of shapes of the inputs that are tried.
_MOST = 48
_SIZES = "BT"


class Shape(NamedTuple):
    """What an input may look like: a size, or ``"B"`` or ``"T"`` for each axis; whether it holds whole numbers."""

    axes: tuple[int | str, ...]
    integer: bool = False

    def sizes(self, rows: int, frames: int) -> tuple[int, ...]:
        return tuple({"B": rows, "T": frames}[a] if isinstance(a, str) else a for a in self.axes)

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.axes))})" + (" of whole numbers" if self.integer else "")


def load(source: File, inputs: Mapping[str, Any] | None = None) -> list[Layer] | Graph:
    """``inputs`` says the shape of an input, None for rows and frames, ``{"x": (None, None, 40)}``, or its value."""
    script = opened(source)
    code = Source(script.code)
    budget = Budget(_STEPS + sum(map(len, script.code.values())))
    try:
        method = Evaluator(script, code, budget).forward()
        return _made(script, code, budget, method, inputs or {})
    except RecursionError:
        raise FormatError("its code nests too deeply") from None


def _made(
    script: Script, code: Source, budget: Budget, method: Method, said: Mapping[str, Any]
) -> list[Layer] | Graph:
    parameters = _parameters(method)
    for name in said:
        if name not in parameters:
            raise CgruError(f"inputs: forward() takes {', '.join(parameters) or 'nothing'}, and no {name!r}")
    fixed = {name: value for name, value in said.items() if isinstance(value, (bool, int, float, str))}
    shapes = {name: _said(name, value) for name, value in said.items() if name not in fixed}
    open_inputs = [name for name, kind in parameters.items() if kind == "Tensor" or name in shapes]
    for name, kind in parameters.items():
        if name not in open_inputs and name not in fixed and kind != "default":
            raise UnsupportedError(f"forward() takes {name!r}, {kind}: say its value, inputs={{{name!r}: …}}")
    kinds = list(_kinds(script))
    choices = [_of_either_kind(shapes[name]) if name in shapes else kinds for name in open_inputs]
    tried = _Tried(script, code, budget, list(parameters), fixed, open_inputs)
    for combination in islice(_combinations(choices), _MOST):
        found = tried.network(combination)
        if found is not None:
            return found
    raise tried.error()


def _combinations(choices: Sequence[Sequence[Shape]]) -> Iterator[tuple[Shape, ...]]:
    """With several inputs, the likeliest of each first: by the sum of their places."""
    places = [range(len(options)) for options in choices]
    for place in sorted(product(*(p[:12] for p in places)), key=sum):
        yield tuple(options[i] for options, i in zip(choices, place, strict=True))


def _parameters(method: Method) -> dict[str, str]:
    """What forward() takes, by name: its type as text, or ``"default"`` where it can be left out."""
    found = {}
    for parameter in method.code.parameters[1:]:
        optional = parameter.default is not None or parameter.type.startswith("Optional[")
        found[parameter.name] = "default" if optional else parameter.type[:80]
    return found


def _said(name: str, value: Any) -> Shape:
    if not isinstance(value, (tuple, list)) or not all(n is None or (type(n) is int and n > 0) for n in value):
        raise CgruError(f"inputs: expected a shape with None for rows and frames, or a number, found {brief(value)}")
    if value.count(None) > 2:
        raise CgruError(f"inputs: {name!r} has {value.count(None)} axes open; rows and frames are two")
    open_axes = iter(_SIZES)
    return Shape(tuple(next(open_axes) if n is None else n for n in value))


def _of_either_kind(shape: Shape) -> list[Shape]:
    """Numbers or whole ones, ids say; a number a row is whole first: its length, or a class."""
    made = [shape, shape._replace(integer=True)]
    return made[::-1] if len(shape.axes) == 1 else made


def _kinds(script: Script) -> Iterator[Shape]:
    """Inputs that the modules take, in the order in which they are defined."""
    seen = set()
    stack: list[Any] = [script.root]
    found: list[Shape] = []
    visited: set[int] = set()
    while stack:
        value = stack.pop()
        attributes = attributes_of(value)
        if attributes is None or id(value) in visited:
            continue
        visited.add(id(value))
        found += _of_module(describe(value), attributes, script)
        stack += list(attributes.values())[::-1]
    # A frozen module keeps its weights as constants, a parametrised one under names of their own.
    for array in (*script.constants, *script.tensors.values()):
        if array.ndim == 2:
            found.append(Shape(("B", "T", array.shape[1])))
        elif array.ndim == 3:
            found += [Shape(("B", array.shape[1], "T")), Shape(("B", "T", array.shape[1]))]
    widths = [shape.axes[-1] for shape in found if len(shape.axes) == 3 and shape.axes[-1] != "T"]
    found += [Shape(("B", "T")), *(Shape(("B", width)) for width in widths), Shape(("B", "T"), integer=True)]
    for shape in found:
        if shape not in seen:
            seen.add(shape)
            yield shape


def _of_module(cls: str, attributes: Mapping[Any, Any], script: Script) -> list[Shape]:
    kind = cls.rpartition(".")[2]
    arrays = {
        name: script.tensors[script.names[id(value)]].shape
        for name, value in attributes.items()
        if isinstance(name, str) and id(value) in script.names
    }
    for name in ("weight_ih_l0", "weight_ih"):
        if len(arrays.get(name, ())) == 2:
            width, units = arrays[name][1], arrays.get(name.replace("ih", "hh"), (0, 0))[-1]
            count = sum(title.startswith("weight_ih") for title in arrays)
            states = [Shape((count, "B", units)), Shape(("B", units))] if units else []
            return [Shape(("B", "T", width)), *states]
    shape = arrays.get("weight", ())
    if kind == "Embedding" and len(shape) == 2:
        return [Shape(("B", "T"), integer=True)]
    if "Conv" in kind and len(shape) == 3:
        channels = shape[0] if "Transpose" in kind else shape[1] * _groups(attributes)
        return [Shape(("B", channels, "T")), Shape(("B", "T", channels))]
    if "BatchNorm" in kind and len(shape) == 1:
        return [Shape(("B", shape[0], "T")), Shape(("B", "T", shape[0]))]
    if len(shape) in (1, 2):
        return [Shape(("B", "T", shape[-1]))]
    return []


def _groups(attributes: Mapping[Any, Any]) -> int:
    groups = attributes.get("groups", 1)
    return groups if type(groups) is int and 0 < groups < 1 << 20 else 1


class _Tried:
    """Shapes of inputs as they are tried, and what was wrong with each."""

    def __init__(
        self, script: Script, code: Source, budget: Budget, parameters: Sequence[str], fixed: Mapping[str, Any],
        open_inputs: Sequence[str],
    ) -> None:  # fmt: skip
        self.script, self.code, self.budget = script, code, budget
        self.parameters, self.fixed, self.open = parameters, fixed, open_inputs
        self.misfits: list[str] = []
        # A size of the network must not be taken for a number of rows or frames.
        self.taken = {size for array in script.tensors.values() for size in array.shape}

    def network(self, shapes: Sequence[Shape]) -> list[Layer] | Graph | None:
        """The network on inputs of these shapes; None where they do not fit."""
        for frames in _FRAMES:
            try:
                first, note = self.followed(shapes, *self.sizes(frames, 0))
                second, _ = self.followed(shapes, *self.sizes(frames, 1))
            except DoesNotFit as error:
                self.misfits.append(f"{self.said(shapes)}: {error}")
                continue
            except (UnsupportedError, ShapeError) as error:
                # The code runs on these shapes. On others it might mean something else, so none are tried.
                raise UnsupportedError(f"{error} (followed on {self.said(shapes)}; inputs= says others)") from None
            if _alike(first.made, second.made):
                return _noted(first, note)
            raise UnsupportedError(
                "what forward() computes hangs on the number of rows or frames in a way that a network of any length "
                "cannot; script it (torch.jit.script) where it was traced, and leave sizes out of its arithmetic"
            )
        return None

    def said(self, shapes: Sequence[Shape]) -> str:
        return ", ".join(f"{name} {shape}" for name, shape in zip(self.open, shapes, strict=True))

    def sizes(self, frames: int, which: int) -> tuple[int, int]:
        """Rows and frames: primes that are no size of the network."""
        rows = [n for n in (3, 5, 7, 13, 17, 19, 23) if n not in self.taken]
        longer = [n for n in range(frames, frames + 400) if n not in self.taken and all(n % p for p in (2, 3, 5, 7))]
        if len(rows) < 2 or len(longer) < 3:
            raise UnsupportedError("its weights have every small size")
        return rows[which], longer[2 * which]

    def followed(self, shapes: Sequence[Shape], rows: int, frames: int) -> tuple[Traced, str]:
        run = Evaluator(self.script, self.code, self.budget)
        given, arguments = dict(self.fixed), []
        for name, shape in zip(self.open, shapes, strict=True):
            sizes = shape.sizes(rows, frames)
            given[name] = Tensor(name, sizes, "i" if shape.integer else "f")
            arguments.append(Argument(name, sizes, shape.integer))
        results = run.run(given)
        outputs = list(_outputs(results))
        if not outputs:
            raise UnsupportedError("forward() gives no tensor")
        program = Program(arguments, run.constants, run.titles, run.calls, outputs)
        note = "its modules were saved in training mode; here they do as after eval()" if run.was_training else ""
        return traced(program, archived=True), note

    def error(self) -> CgruError:
        takes = ", ".join(self.open) or "nothing"
        first = f" ({self.misfits[0]})" if self.misfits else ""
        return UnsupportedError(
            f"nothing in it says the shapes of what forward() takes, {takes}: its weights suggest none that it runs "
            f"on{first}; say them, None for rows and frames, inputs={{{(self.open or ['x'])[0]!r}: (None, None, 40)}}"
        )


def _outputs(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor of what forward() returns, with its key or place."""
    if isinstance(value, Tensor):
        if value.name:
            yield name or "0", value.ref
    elif isinstance(value, Named):
        for field, part in zip(value.fields, value.values, strict=True):
            yield from _outputs(part, f"{name}.{field}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from _outputs(part, f"{name}.{i}".lstrip("."))
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _outputs(part, f"{name}.{key}".lstrip("."))


def _noted(found: Traced, note: str) -> list[Layer] | Graph:
    if not note:
        return found.made
    made = found.made
    if isinstance(made, Graph):
        made.notes.append(note)
    return made


# ---- two runs, one network ----------------------------------------------------------------------------------------


def _alike(a: list[Layer] | Graph, b: list[Layer] | Graph) -> bool:
    """Whether two networks are the same but for the names that were made for values."""
    if isinstance(a, Graph) or isinstance(b, Graph):
        return isinstance(a, Graph) and isinstance(b, Graph) and _graphs_alike(a, b)
    return len(a) == len(b) and all(
        type(x) is type(y) and repr(x.options()) == repr(y.options()) and _arrays_alike(x.arrays(), y.arrays())
        for x, y in zip(a, b, strict=True)
    )


def _graphs_alike(a: Graph, b: Graph) -> bool:
    if len(a.nodes) != len(b.nodes) or len(a.outputs) != len(b.outputs) or list(a.inputs) != list(b.inputs):
        return False
    if any(a.inputs[name] != b.inputs[name] for name in a.inputs):
        return False
    twin = dict(zip(a.inputs, b.inputs, strict=True))
    for x, y in zip(a.nodes, b.nodes, strict=True):
        if x.op != y.op or repr(x.options) != repr(y.options) or [twin.get(name, "") for name in x.inputs] != list(
            y.inputs
        ):
            return False
        if bool(x.weights) != bool(y.weights):
            return False
        if x.weights and not _arrays_alike(a.store[x.weights].arrays(), b.store[y.weights].arrays()):
            return False
        twin[x.name] = y.name
    return [twin[name] for name in a.outputs] == b.outputs


def _arrays_alike(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(
        a[key].shape == b[key].shape and np.array_equal(a[key], b[key], equal_nan=a[key].dtype.kind == "f") for key in a
    )
