"""Walks a traced program once, under one reading of which input axes are rows and frames, and builds cgru's graph.

A call on known arrays alone is folded. Any other goes to the handler of its operator; what has none, or is used in a
way that its handler does not cover, is an :class:`UnsupportedError` that names the operator and the user's source line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ....builder import Graph
from ....errors import CgruError, ShapeError, UnsupportedError
from ....layers import Layer
from ....spec.operation import operation
from .fold import FOLDS
from .positions import growing
from .program import FILLED, Call, Program, Ref, needed
from .values import (
    PACKED,
    Assembled,
    Axis,
    B,
    Complex,
    Heads,
    Known,
    Lengths,
    Misread,
    Scores,
    States,
    T,
    Tensor,
    Withheld,
    Within,
)

#: An operator's handler: from the call to its result, or a list of results.
Handler = Callable[["Lowering", Call], Any]


class _Entry:
    def __init__(self, handler: Handler, frames: bool) -> None:
        self.handler, self.frames = handler, frames


#: Operator, with or without its overload → handler; filled by the modules of the families of operators.
HANDLERS: dict[str, _Entry] = {}


def handles(*operators: str, frames: bool = False) -> Callable[[Handler], Handler]:
    """Put a handler into the table. ``frames``: what it does to a sequence it does to each frame by itself."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update({name: _Entry(handler, frames) for name in operators})
        return handler

    return register


class Lowering:
    """One reading of a program: ``axes`` says for each input what each of its axes is (:mod:`.values`)."""

    def __init__(self, program: Program, axes: Sequence[Sequence[str]]) -> None:
        self.program, self.g = program, Graph()
        self.values: dict[str, Any] = {}
        #: Which layer made a value of the graph, and of what: a plain chain of layers is a network without a graph.
        self.made_by: dict[str, tuple[Layer, str]] = {}
        #: Cells that run in a loop, by what they run on and with.
        self.loops: dict[str, Any] = {}
        #: The scans that a stack became, by the name of its outputs.
        self.scans: dict[str, list[str]] = {}
        #: Names of the graph's inputs that count frames rather than being read.
        self.lengths: list[str] = []
        #: The masks of what is packed by numbers of frames that are computed, by its name.
        self.packed: dict[str, str] = {}
        #: Frames that each time axis had when the program was traced, by its clock's root.
        self.frames: dict[str, int] = {}
        #: Whether an operator said which axis is time: a recurrence, a convolution, a pooling.
        self.evident = False
        #: Frames of loops that are rolled up, which win over what was followed of their first step.
        self.results: dict[str, Any] = {}
        #: Calls that have been followed.
        self.reached = 0
        #: Whether the program comes of a file, so that no second size can tell what hangs on sizes.
        self.exported = False
        #: Whether it comes of a file at all: what there is to say of it must travel in the graph.
        self.archived = False
        self._memo: dict[Any, Any] = {}
        self._frames = self._raw = False
        for argument, reading in zip(program.inputs, axes, strict=True):
            self._declare(argument, reading)
        for name, array in program.constants.items():
            self.values[name] = Known(array)

    def _declare(self, argument: Any, reading: Sequence[str]) -> None:
        if reading == ("L",):
            self.lengths.append(argument.name)
            self.values[argument.name] = Lengths()
            return
        sizes: list[int] = []
        axes: list[Axis] = []
        for axis, size in zip(reading, argument.shape, strict=True):
            if axis == "F":
                axes.append(len(sizes))
                sizes.append(size)
            elif axis == "1":
                axes.append(None)
            else:
                axes.append(axis)
        time: bool | str = "T" in reading
        if time:
            steps = argument.shape[list(reading).index("T")]
            # Inputs of as many frames advance together; one of others has a time axis of its own.
            time = self.frames.setdefault("", steps) == steps or argument.name
            self.frames.setdefault("" if time is True else argument.name, steps)
        if not argument.integer and not sizes:
            sizes = [1]
        dtype = "int64" if argument.integer else "float32"
        name = self.g.input(tuple(sizes), name=argument.name, dtype=dtype, time=time)
        self.values[argument.name] = Tensor(name, tuple(axes), argument.shape)

    # ---- the walk -----------------------------------------------------------------------------------------------

    def walk(self, calls: Sequence[Call] | None = None) -> None:
        """Follow the calls that the outputs need, or those given."""
        for call in needed(self.program) if calls is None else calls:
            self.values[call.name] = self.shaped(self.called(call), call.shape)
            self.reached += 1
        self._raw = False

    def shaped(self, value: Any, shape: tuple[int, ...] | None) -> Any:
        if isinstance(value, Heads) or (isinstance(value, Scores) and shape is None):
            return value
        if isinstance(value, (Tensor, States, Within, Scores)) and shape is not None:
            if isinstance(value, (Tensor, Within)) and len(value.axes) != len(shape):
                raise UnsupportedError(f"{len(value.axes)} axes are followed where torch has {shape}")
            return replace(value, shape=shape)
        return value

    def called(self, call: Call) -> Any:
        entry = HANDLERS.get(call.op) or HANDLERS.get(call.base)
        try:
            self._raw = call.base in ("select", "slice", "written")
            given = [self._resolved(arg) for arg in (*call.args, *call.kwargs.values())]
            if not any(_runs(value) for value in given) and call.base in FOLDS:
                return self._folded(call)
            if call.base in FILLED and call.shape is not None:
                return self._filled(call)
            if any(map(_is_complex, given)):
                if call.base in _EACH_PART and entry is not None:
                    return self._of_each_part(call, entry)
                entry = HANDLERS.get(f"complex.{call.base}")
                if entry is None:
                    raise UnsupportedError("cgru does not run this operator on complex numbers")
            if entry is None:
                raise UnsupportedError("cgru does not run this operator")
            self._frames = entry.frames
            return entry.handler(self, call)
        except Misread as error:
            raise Misread(f"{call}: {error}") from None
        except CgruError as error:
            raise UnsupportedError(f"{call}: {error}") from None
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise UnsupportedError(f"{call}: its arguments are not those that cgru follows ({error!r:.160})") from None

    def _of_each_part(self, call: Call, entry: _Entry) -> Complex:
        """What moves numbers and changes none, on the real and the imaginary part."""
        self._frames, made = entry.frames, []
        for side in ("real", "imag"):
            found = self._resolved(call.args[0])
            self.values[f"{call.name}.{side}"] = getattr(found, side)
            made.append(entry.handler(self, call._replace(args=(Ref(f"{call.name}.{side}"), *call.args[1:]))))
        return Complex(*(self.shaped(part, call.shape) for part in made))

    def _folded(self, call: Call) -> Any:
        def array(value: Any) -> Any:
            value = self._resolved(value)
            if isinstance(value, Known):
                return value.array
            return [array(part) for part in value] if isinstance(value, (list, tuple)) else value

        given = [self._resolved(value) for value in call.args]
        named = {
            {"input": "self"}.get(k, k): self._resolved(v)
            for k, v in call.kwargs.items()
            if k not in ("dtype", "device", "layout", "pin_memory")
        }
        fold = FOLDS[call.base]
        made = fold(*map(array, given), **{k: array(v) for k, v in named.items()})
        if isinstance(made, list):
            return [Known(part) for part in made]
        grows = growing(call.base, fold, given, named, self.counts())
        if grows is not None and self.exported:
            self._refuse_counts(call, (*given, *named.values()))
        return Known(np.asarray(made), grows)

    def _refuse_counts(self, call: Call, values: Sequence[Any]) -> None:
        """Refuse a factor in a file that may be the number of steps or rows: there is no second size to tell."""
        if call.base.startswith(("mul", "div", "true_divide")) and any(
            isinstance(value, (int, float)) and value > 1 and value in self.sizes() for value in values
        ):
            raise UnsupportedError("a factor that is also a number of rows or steps; export it with others")

    def _filled(self, call: Call) -> Known:
        """A tensor of one number, shaped like something that is computed."""
        value = FILLED[call.base]
        if value is None:
            value = self.arg(call, 2 if call.base == "new_full" else 1, "fill_value")
        assert call.shape is not None
        return Known(np.full(call.shape, value, np.float32))

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, Ref):
            if value.name not in self.values:
                raise UnsupportedError(f"{value.name} is a result that cgru does not compute")
            found = self.values[value.name]
            if isinstance(found, Withheld):
                raise UnsupportedError(found.why)
            if isinstance(found, Assembled) and not self._raw:
                found = self.values[value.name] = self.assembled(found)
            return found
        if isinstance(value, (list, tuple)):
            return [self._resolved(part) for part in value]
        return value

    # ---- arguments ------------------------------------------------------------------------------------------------

    def arg(self, call: Call, position: int, name: str, default: Any = ...) -> Any:
        """An argument of a call by place or name, its references followed."""
        if position < len(call.args):
            return self._ready(self._resolved(call.args[position]))
        if name in call.kwargs:
            return self._ready(self._resolved(call.kwargs[name]))
        if default is ...:
            raise UnsupportedError(f"its argument {name} is missing")
        return default

    def _ready(self, value: Any) -> Any:
        """For operators that are not of each frame by itself, a lone frame becomes a value of its own."""
        if isinstance(value, (list, tuple)):
            return [self._ready(part) for part in value]
        if isinstance(value, Tensor) and value.at is not None and not self._frames:
            return self.alone(value)
        return value

    def tensor(self, call: Call, position: int = 0, name: str = "self") -> Tensor:
        """An argument that must be a value of the graph."""
        value = self.arg(call, position, name)
        if isinstance(value, States):
            return self.stacked(value)
        if isinstance(value, Complex):
            raise UnsupportedError(f"its argument {name} holds complex numbers; take abs(), real and imag, or angle()")
        if isinstance(value, (Heads, Scores)):
            raise UnsupportedError(f"its argument {name} is {value.described}, of which cgru follows attention alone")
        if not isinstance(value, Tensor):
            raise UnsupportedError(f"its argument {name} does not depend on the input as cgru follows it")
        return value

    def moved(self, call: Call) -> Any:
        """An argument whose axes are all that matters: a value of the graph, a mask of frames, or lengths."""
        value = self.arg(call, 0, "self")
        return value if isinstance(value, (Within, Lengths)) else self.tensor(call)

    def known(self, call: Call, position: int, name: str, default: Any = ...) -> Any:
        """An argument that must not depend on the input: an array, or None."""
        value = self.arg(call, position, name, default)
        if value is None:
            return None
        if not isinstance(value, Known):
            raise UnsupportedError(f"its {name} is computed from the input; cgru runs it with constant ones")
        return value.array

    # ---- the graph --------------------------------------------------------------------------------------------------

    def features(self, value: Tensor | str) -> tuple[int, ...]:
        return self.g.values[value if isinstance(value, str) else value.name].features

    def clock(self, value: Tensor | str) -> Any:
        return self.g.values[value if isinstance(value, str) else value.name].clock

    def frames_of(self, name: str) -> int:
        """How many frames the value had when the program was traced."""
        clock = self.clock(name)
        return clock.count(self.frames[clock.root]) if clock is not None else 1

    @property
    def steps(self) -> int:
        """Frames of the inputs that advance together when the program was traced; 0 where there are none."""
        return self.frames.get("", 0)

    def sizes(self) -> set[int]:
        """The numbers of rows and steps that the program was traced with, among others."""
        return {self.steps, *(size for given in self.program.inputs for size in given.shape[:2])}

    def counts(self) -> set[int]:
        """The numbers of frames that values had when the program was traced."""
        clocks = {value.clock for value in self.g.values.values() if value.clock is not None and not value.clock.root}
        return {clock.count(self.steps) for clock in clocks}

    def value_of(self, frames: int) -> str:
        """A value of the graph that had so many frames when the program was traced."""
        for name, value in self.g.values.items():
            if value.clock is not None and not value.clock.root and value.clock.count(self.steps) == frames:
                return name
        raise UnsupportedError(f"numbers for each of {frames} frames, which no value has")

    def is_whole(self, node: Any) -> bool:
        return operation(node.op, node.name).is_whole(node.options)

    def sees_later(self, x: Tensor, frames: int, what: str) -> None:
        """Refuse what reads frames behind a row's length where those are others than cgru's zeros."""
        if self.lengths and frames > 0 and x.behind not in (0, PACKED):
            raise UnsupportedError(
                f"{what}, where rows have lengths: it sees what forward() computes of the padding behind them; put "
                "zeros there, or pack the rows"
            )

    def emit(
        self, op: str, *inputs: str, name: str = "", weights: Mapping[str, np.ndarray] | None = None, **options: Any
    ) -> str:
        """A node, or the one that is there already."""
        key: tuple[Any, ...] = (op, inputs, tuple(sorted((k, _frozen(v)) for k, v in options.items())))
        key = (*key, tuple((k, self._hash(array)) for k, array in sorted((weights or {}).items())))
        if key not in self._memo:
            more = {"name": name} if name else {}
            self._memo[key] = self.g.node(op, *inputs, weights=weights, **more, **options)
        return self._memo[key]

    def layer(self, layer: Layer, x: str, *given: str) -> Any:
        """A layer's nodes, or those that are there already."""
        shown = {key: self._hash(array) for key, array in layer.arrays().items()}
        key = (layer.kind, x, given, repr(layer.options()), tuple(shown.items()))
        if key not in self._memo:
            self._memo[key] = self.g.layer(layer, x, *given)
            if isinstance(self._memo[key], str) and not given:
                self.made_by[self._memo[key]] = (layer, x)
        return self._memo[key]

    def _hash(self, array: np.ndarray) -> Any:
        array = np.asarray(array)
        return array.shape, hash(np.ascontiguousarray(array).tobytes())

    def alone(self, value: Tensor) -> Tensor:
        """A lone frame as a value without time: the first or the last of a sequence."""
        assert value.at is not None
        last = self.frames_of(value.name) - 1
        if value.memory:
            scan = self.g.nodes[[node.name for node in self.g.nodes].index(value.name)]
            if value.at != (0 if scan.options["reverse"] else last):
                raise UnsupportedError(f"the memory {value.memory} after step {value.at} of a loop, by itself")
            made = self.emit("last_state", value.name, array=value.memory, size=scan.options["units"])
        elif value.at in (last, -1):
            made = self.last(value.name)
        elif value.at == 0:
            made = self.emit("pool_whole", value.name, kind="first")
        else:
            raise UnsupportedError(
                f"frame {value.at} of a sequence by itself, and the first and the last alone are cgru's"
            )
        return replace(value, name=made, at=None, memory="")

    def last(self, name: str) -> str:
        from ....layers import LastStep

        if len(self.features(name)) != 1:
            return self.emit("pool_whole", name, kind="last")
        found: str = self.layer(LastStep(), name)
        return found

    def last_of(self, x: Tensor, dim: int) -> Tensor:
        """The last frame, ``x[:, -1]`` along axis ``dim``."""
        if self.lengths and x.behind != PACKED:
            raise UnsupportedError(
                "the last frame, where rows have lengths, is padding in shorter rows; the final state, or the frame at "
                "lengths - 1, is each row's own"
            )
        x = self.natural(x)
        return replace(x, name=self.last(x.name), axes=(*x.axes[:dim], *x.axes[dim + 1 :]))

    def stacked(self, value: States) -> Tensor:
        """Final states as one value of (L · D, H)."""
        parts = [self.emit("reshape", part, features=(1, *self.features(part))) for part in value.parts]
        name = parts[0] if len(parts) == 1 else self.emit("concat", *parts)
        return Tensor(name, (0, B, 1), value.shape)

    def arranged(self, value: Tensor, positions: Sequence[int]) -> str:
        """The value with just the torch axes at ``positions`` as its feature axes, in that order."""
        features = self.features(value)
        order = [axis for p in positions if isinstance(axis := value.axes[p], int)]
        order += [i for i in range(len(features)) if i not in order]
        wanted = tuple(features[axis] if isinstance(axis := value.axes[p], int) else 1 for p in positions)
        name = value.name
        if [i for i in order if features[i] > 1] != sorted(i for i in order if features[i] > 1):
            name = self.emit("transpose", name, order=tuple(order))
            features = tuple(features[i] for i in order)
        if int(np.prod(wanted)) != int(np.prod(features)):
            raise ShapeError(f"features {features} where {wanted} are wanted")
        return name if features == wanted else self.emit("reshape", name, features=wanted)

    def at_every_frame(self, value: Tensor, dim: int) -> Tensor:
        """A value that is the same at every frame, where torch has repeated it: with a time axis of its own."""
        like = next((name for name, v in self.g.inputs.items() if v.clock is not None and not v.clock.root), None)
        if value.axes[dim] is not None or like is None or self.clock(value) is not None or value.at is not None:
            return value
        if len(value.shape) <= dim or value.shape[dim] != self.steps or self.steps < 2:
            return value
        axes = tuple(T if p == dim else axis for p, axis in enumerate(value.axes))
        return replace(value, name=self.emit("expand_time", value.name, like), axes=axes)

    def natural(self, value: Tensor) -> Tensor:
        """The value with its feature axes in torch's order, and no others."""
        positions = value.feature_positions
        name = self.arranged(value, positions)
        numbers = iter(range(len(positions)))
        axes = tuple(next(numbers) if isinstance(axis, int) else axis for axis in value.axes)
        return replace(value, name=name, axes=axes).followed_by(value.behind)

    def assembled(self, value: Assembled) -> Any:
        """A constant that was written into, as one value."""
        return HANDLERS["assembled"].handler(self, value)  # type: ignore[arg-type]

    def constant(self, array: np.ndarray) -> str:
        array = np.asarray(array, np.float32)
        array = array.reshape(1) if array.ndim == 0 else array
        return self.emit("constant", weights={"value": array}, features=array.shape)


#: What complex numbers are moved by, each part as a value by itself.
_EACH_PART = frozenset(
    (
        "alias", "clone", "contiguous", "detach", "flatten", "narrow", "permute", "reshape", "select", "slice",
        "squeeze", "transpose", "unsqueeze", "view",
    )
)  # fmt: skip


def _is_complex(value: Any) -> bool:
    return any(map(_is_complex, value)) if isinstance(value, (list, tuple)) else isinstance(value, Complex)


def _runs(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_runs, value))
    return isinstance(value, (Tensor, Complex, Heads, Scores, States, Lengths, Within, Assembled))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
