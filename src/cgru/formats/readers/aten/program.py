"""A traced PyTorch program as plain data: calls of ATen operators on named values, however it was come by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

#: Operators that fill a new tensor, and with what; None: with a number they are given.
FILLED = {"zeros_like": 0, "new_zeros": 0, "ones_like": 1, "new_ones": 1, "full_like": None, "new_full": None}


class Ref(NamedTuple):
    """A value of the program, by name."""

    name: str


class Call(NamedTuple):
    """One call: ``op`` is the operator without its namespace, "linear", "mean.dim", or "getitem".

    ``args`` and ``kwargs`` hold numbers, texts, None, :class:`Ref` and lists of these. ``shape`` is the result's where
    it is one tensor. ``module`` is the path of the nn.Module that made the call, ``line`` the user's source line.
    """

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int, ...] | None = None
    module: str = ""
    line: str = ""

    @property
    def base(self) -> str:
        return self.op.split(".")[0]

    def __str__(self) -> str:
        where = [text for text in (self.module, self.line) if text]
        return f"{self.op} ({', '.join(where)})" if where else self.op


class Argument(NamedTuple):
    """What the program takes: a tensor's name, its shape when it was traced, and whether it holds whole numbers."""

    name: str
    shape: tuple[int, ...]
    integer: bool = False


class Program(NamedTuple):
    """``constants`` are parameters and buffers by the name calls use, ``titles`` their names in the state_dict.

    ``outputs`` pairs what each is called with what it is.
    """

    inputs: Sequence[Argument]
    constants: Mapping[str, np.ndarray]
    titles: Mapping[str, str]
    calls: Sequence[Call]
    outputs: Sequence[tuple[str, Any]]


def refs(value: Any) -> list[str]:
    """The names of all values in an argument."""
    if isinstance(value, Ref):
        return [value.name]
    if isinstance(value, (list, tuple)):
        return [name for part in value for name in refs(part)]
    return []


def without_whole_slices(program: Program) -> Program:
    """The same program without slices that take all of an axis, such as ``x[:, t]`` leaves in front of the frame."""
    shapes = {a.name: a.shape for a in program.inputs} | {name: a.shape for name, a in program.constants.items()}
    now: dict[str, str] = {}

    def renamed(value: Any) -> Any:
        if isinstance(value, Ref):
            return Ref(now.get(value.name, value.name))
        return [renamed(part) for part in value] if isinstance(value, (list, tuple)) else value

    calls = []
    for call in program.calls:
        args = tuple(renamed(value) for value in call.args)
        call = call._replace(args=args, kwargs={key: renamed(value) for key, value in call.kwargs.items()})
        source = refs([args[0] if args else call.kwargs.get("self")])
        if call.base == "slice" and source and call.shape is not None and shapes.get(source[0]) == call.shape:
            now[call.name] = source[0]
            continue
        if call.shape is not None:
            shapes[call.name] = call.shape
        calls.append(call)
    return program._replace(calls=calls, outputs=[(title, renamed(value)) for title, value in program.outputs])


def needed(program: Program) -> list[Call]:
    """The calls that the outputs are computed from, in order."""
    names = {name for _, value in program.outputs for name in refs(value)}
    found = []
    for call in reversed(program.calls):
        if call.name in names:
            found.append(call)
            names.update(refs(list(call.args)))
            names.update(refs(list(call.kwargs.values())))
    return found[::-1]
