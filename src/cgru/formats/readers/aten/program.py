"""A traced PyTorch program as plain data: calls of ATen operators on named values, however it was come by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


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
