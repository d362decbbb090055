"""Streams over inputs given once: a decoder with its memory and initial state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from .. import arrays
from ..errors import CgruError, ShapeError
from ..threads import resolve
from .model import Model
from .rows import Rows, plan_of
from .stream import Stream


class GivenStream(Stream):
    """A stream whose inputs given once were given when it opened: :meth:`step` and :meth:`feed` take what advances.

    Made by ``net.stream(batch, state, inputs={"memory": m, "memory_lengths": n})``. What those inputs decide alone (the
    projection of the keys, an initial state) is worked out once. Rows that are reset begin again over the same inputs.
    """

    def __init__(self, net: Model, batch: int, state: Any, inputs: Mapping[str, Any]) -> None:
        Stream.__init__(self, net, batch)
        self._plan = plan_of(net)
        # Copies: whoever gave them may write to theirs while the stream is open.
        self._given = {name: np.array(array) for name, array in self._plan.given(inputs, self.batch).items()}
        if state is not None:
            self._data[...] = net._state(state, self.batch)._data
        self._rows_now = Rows(self._plan, self._given, self._data)

    def step(self, x: Any, out: Any = None) -> Any:
        """One time step of what advances: ids (B,) or features (B, I) → (B, O); without the batch axis for one row.

        With several inputs that advance ``x`` is a mapping; with several outputs the result is one. ``out`` receives
        the result if given: float32 of its exact shape, C order, apart from ``x``.
        """
        inputs, single = self._timed(x, step=True)
        if out is not None:
            self._check_out(out, inputs, single)
        self._enter()
        try:
            made = [np.array(array) for array in self._rows_now.step({n: a[:, 0] for n, a in inputs.items()})]
        finally:
            self._leave()
        shaped = {
            name: array.reshape(self.batch, *self.net.graph.values[name].features)
            for name, array in zip(self._plan.outputs, made, strict=True)
        }
        y = self.net._shown(shaped, single)
        if out is None:
            return y
        out[...] = y
        return out

    def feed(self, chunk: Any, *, threads: int | str | None = None) -> Any:
        """Any number of steps of what advances: (B, T, …) → (B, T, …), or without the batch axis for one row."""
        count = resolve(threads)
        inputs, single = self._timed(chunk, step=False)
        self._enter()
        try:
            made = self._rows_now.feed(inputs, count)
        finally:
            self._leave()
        return self.net._shown(made, single)

    def flush(self) -> Any:
        """Nothing: no frame waits for a later one."""
        values = {name: self.net.graph.inputs[name] for name in self._plan.timed}
        empty = {
            name: np.zeros((self.batch, 0, *value.features), np.int64 if value.dtype == "int64" else np.float32)
            for name, value in values.items()
        }
        return self.feed(empty)

    def _timed(self, x: Any, step: bool) -> tuple[dict[str, np.ndarray], bool]:
        """The inputs that advance as arrays (B, T, …), and whether they came without a batch axis."""
        names = self._plan.timed
        if not isinstance(x, Mapping):
            if len(names) != 1:
                raise CgruError(f"x: the network takes {len(names)} inputs, pass a mapping with {', '.join(names)}")
            x = {names[0]: x}
        for name in x:
            if name not in names:
                raise CgruError(f"x: no input {str(name)[:60]!r} advances; those that do are {', '.join(names)}")
        made, singles = {}, set()
        for name in names:
            if name not in x:
                raise CgruError(f"x: the input {name!r} is missing; those that advance are {', '.join(names)}")
            where, array = f"x[{name!r}]" if len(names) > 1 else "x", x[name]
            if step:
                array = arrays.as_array(array, where, "numbers")
                array = array[None] if array.ndim == len(self.net.graph.inputs[name].features) else array[:, None]
            made[name], single = self.net._inputs.of(name).admit(array, where)
            singles.add(single)
            if len(made[name]) != self.batch:
                raise ShapeError(f"{where}: the stream has {self.batch} rows, found {len(made[name])}")
        if len(singles) > 1:
            raise ShapeError("x: some inputs have a batch axis and some have none")
        if len({array.shape[1] for array in made.values()}) > 1:
            raise ShapeError("x: the inputs differ in steps")
        return made, singles == {True}

    def copy(self) -> Self:
        twin = object.__new__(type(self))
        Stream.__init__(twin, self.net, self.batch)
        twin._plan, twin._given = self._plan, self._given
        self._enter()
        try:
            twin._data[...] = self._data
        finally:
            self._leave()
        twin._rows_now = Rows(twin._plan, twin._given, twin._data)
        return twin

    __copy__ = copy

    def __reduce__(self) -> tuple[Any, ...]:
        raise CgruError("a stream over inputs given once is not pickled; keep its dump() and the inputs beside it")


def refuse_inputs(inputs: Any) -> None:
    """Raise :class:`CgruError` where a network without inputs given once is given some."""
    if inputs is not None and (not isinstance(inputs, Mapping) or inputs):
        raise CgruError("inputs: nothing is given to this network once; it takes x at every step")
