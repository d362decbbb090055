"""What an operation is: every fact of it, once.

An operation is a stateless description. Its options are JSON values checked against a table; ``infer`` gives the type
of the value it yields; ``arrays`` the weights it needs; ``window`` how it looks along time; ``state`` what a row
carries from chunk to chunk; ``compute`` its equation in numpy. Everything else (streaming, lengths, delays, files, the
law tests) is derived from these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..errors import FormatError, ShapeError, UnsupportedError
from .values import Value

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]
Options = Mapping[str, Any]


class Option(NamedTuple):
    """One option: its JSON type, its default (``...``: it must be given), and what values are allowed."""

    kind: type | tuple[type, ...]
    default: Any = ...
    allowed: Callable[[Any], bool] | Sequence[Any] | None = None


class Window(NamedTuple):
    """How an operation looks along time: frame j of the result sees ``span`` input frames from j · stride − left on.

    ``left`` and ``right`` are frames of padding at the two ends, negative where frames are cropped. A causal operation
    has right = 0 and left = span − 1: frame t sees nothing later than t. ``up`` result frames come of each input frame
    (repetition).
    """

    span: int = 1
    stride: int = 1
    left: int = 0
    right: int = 0
    up: int = 1

    def ready(self, frames: int, ended: bool) -> int:
        """Result frames that can be had once so many input frames are there; ``ended``: there will be no more."""
        if frames == 0:
            return 0
        reach = frames + self.left + (self.right if ended else min(self.right, 0)) - self.span
        return self.up * (reach // self.stride + 1) if reach >= 0 else 0

    @property
    def hold(self) -> int:
        """Input frames a row carries from chunk to chunk."""
        return self.span - 1

    def clock_map(self) -> tuple[int, int, int]:
        """⌊(multiply · n + add) / divide⌋ of :class:`~cgru.spec.values.Clock`."""
        if self.up > 1:
            return self.up, self.up * (self.left + self.right - self.span + 1), 1
        return 1, self.left + self.right - self.span + self.stride, self.stride


#: The window of an operation that looks at one frame at a time.
EACH_FRAME = Window()


class ArrayInfo(NamedTuple):
    """A weight: its shape, whether it may be absent, and whether reduced precision may hold it smaller."""

    shape: tuple[int, ...]
    optional: bool = False
    matrix: bool = False


class Frames(NamedTuple):
    """What ``compute`` of an operation with a window gets of an input: (B, n, *features), from the first frame that
    the first result frame sees; ``real`` (B, n) is False at frames of padding, which are zero."""

    data: Array
    real: Array


class Operation:
    """The base of all operations: one instance in the table, no state."""

    #: By this name graphs, files and the C core know it.
    name: ClassVar[str]
    #: Names of the inputs; a trailing ``*`` takes any number, a trailing ``?`` may be absent.
    roles: ClassVar[tuple[str, ...]] = ("x",)
    options: ClassVar[Mapping[str, Option]] = {}
    #: Needs the whole sequence before it gives anything.
    whole: ClassVar[bool] = False
    #: Of one that needs the whole sequence: what it gives is in what a row carries, so a stream has it after each step.
    as_of_now: ClassVar[bool] = False

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        """The type of the result, or a :class:`ShapeError` that names ``where``."""
        raise NotImplementedError

    def window(self, options: Options) -> Window:
        return EACH_FRAME

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        return {}

    def state(self, options: Options, inputs: Sequence[Value | None]) -> list[tuple[str, int]]:
        """Names and sizes of the arrays a row carries, beside the input frames that ``window`` holds."""
        return []

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        """The equation: results of a chunk from arrays (B, n, *features), or (B, *features) without a clock.

        An operation with a window, or one that needs the whole sequence, gets :class:`Frames` instead and returns as
        many frames as its window fits into.
        """
        raise NotImplementedError

    def is_whole(self, options: Options) -> bool:
        return self.whole

    def frames(self, options: Options, given: int) -> int:
        """Result frames of a whole sequence of so many of the first input."""
        return self.window(options).ready(given, ended=True)

    @property
    def windowed(self) -> bool:
        """Whether ``compute`` gets :class:`Frames`, whatever the width of its window."""
        return type(self).window is not Operation.window

    def describe(self, options: Options, inputs: Sequence[Value | None], result: Value) -> str:
        """Sizes and switches in a few words, for ``print(net)``."""
        first = next((value for value in inputs if value is not None), None)
        sizes = f"{_axes(first)} → {_axes(result)}" if first is not None else _axes(result)
        said = [
            f"{key} {value}"
            for key, value in options.items()
            if key in self.options and value != self.options[key].default
        ]
        return ", ".join((sizes, *said))


def _axes(value: Value | None) -> str:
    return "" if value is None else "·".join(map(str, value.features)) or value.dtype


#: Every operation by name, filled by :func:`register`.
OPERATIONS: dict[str, Operation] = {}


def register(cls: type[Operation]) -> type[Operation]:
    """Put an operation into the table: with that it is in files, in the builder and in the law tests."""
    OPERATIONS[cls.name] = cls()
    return cls


def operation(name: object, where: str) -> Operation:
    if not isinstance(name, str) or name not in OPERATIONS:
        raise UnsupportedError(
            f"{where}: {str(name)[:60]!r} is no operation of cgru; it runs {', '.join(sorted(OPERATIONS))}"
        )
    return OPERATIONS[name]


def checked_options(op: Operation, given: Options, where: str) -> dict[str, Any]:
    """``given`` with defaults filled in, each of its type and among what is allowed; nothing unknown."""
    made: dict[str, Any] = {}
    for key in given:
        if key not in op.options:
            known = ", ".join(op.options) or "none"
            raise FormatError(f"{where}: {op.name} has no option {str(key)[:60]!r}; it has {known}")
    for key, option in op.options.items():
        value = given.get(key, option.default)
        if value is ...:
            raise FormatError(f"{where}: {op.name} needs the option {key!r}")
        if isinstance(value, list):
            value = tuple(value)
        kinds = option.kind if isinstance(option.kind, tuple) else (option.kind,)
        if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
            value = float(value)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise FormatError(
                f"{where}: option {key!r} of {op.name} is {str(value)[:60]!r}, which is not of the kind expected"
            )
        allowed = option.allowed
        if allowed is not None and not (allowed(value) if callable(allowed) else value in allowed):
            among = "" if callable(allowed) else f"; expected one of {', '.join(map(str, allowed))}"
            raise UnsupportedError(f"{where}: option {key!r} of {op.name} is {str(value)[:60]!r}{among}")
        made[key] = value
    return made


# ---- checks that many operations share -----------------------------------------------------------------------------


def features(value: Value | None, where: str, role: str = "x", axes: int | None = None) -> Value:
    """``value`` if it is there and holds float features (of so many axes), else a :class:`ShapeError`."""
    if value is None:
        raise ShapeError(f"{where}: its input {role} is missing")
    if value.dtype != "float32":
        raise ShapeError(f"{where}: its input {role} must hold features, found {value.describe()}")
    if axes is not None and len(value.features) != axes:
        raise ShapeError(f"{where}: its input {role} must have {axes} feature axes, found {value.describe()}")
    return value


def feature_axis(value: Value, axis: int, where: str) -> int:
    """``axis`` if it is a feature axis of ``value``, else a :class:`ShapeError`."""
    if not 0 <= axis < len(value.features):
        raise ShapeError(f"{where}: no feature axis {axis} in {value.describe()}")
    return axis


def timed(value: Value, where: str, role: str = "x") -> Value:
    if value.clock is None:
        raise ShapeError(f"{where}: its input {role} must have a time axis, found {value.describe()}")
    return value


def joined_clock(values: Sequence[Value], where: str) -> Any:
    """The clock of a result of several inputs: theirs, which must agree; those without time are the same throughout."""
    clocks = {value.clock for value in values if value.clock is not None}
    if len(clocks) > 1:
        shown = " and ".join(sorted(clock.describe() for clock in clocks))
        raise ShapeError(f"{where}: its inputs have different numbers of frames, {shown}")
    return next(iter(clocks), None)


def at_least(low: int) -> Callable[[Any], bool]:
    return lambda value: low <= value <= 1 << 20


def positive_sizes(value: Any) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) and 0 < v <= 1 << 24 for v in value)
