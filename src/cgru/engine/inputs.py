"""What a caller passes to a network, checked once and made into the arrays that plans take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import arrays
from ..errors import CgruError, ShapeError, UnsupportedError
from ..spec.graph import MASK
from ..spec.operations.attention import check_memory_frames
from ..spec.values import Value
from .given_once import frames_given, lengths_as_masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .network import Network


class Given(NamedTuple):
    """The inputs of a call by name, (B, T, *features) or (B, *features) without time.

    ``single``: the caller left the batch axis away. ``steps`` is T, None where no input has steps.
    """

    arrays: dict[str, np.ndarray]
    single: bool
    batch: int
    steps: int | None


class Input:
    """One input a call must bring."""

    def __init__(self, name: str, value: Value, tables: Mapping[int, int], open_width: bool) -> None:
        self.name, self.value, self.open_width = name, value, open_width
        self._tables, self.vocabulary = tables, min(tables.values(), default=0)
        self.features = value.features
        self.axes = len(value.features) + (value.clock is not None)
        self.allowed = (self.axes, self.axes + 1)
        self.trailing = -len(value.features) if value.features else 1 << 30
        self.ids = value.dtype == "int64"

    def admit(self, given: Any, where: str) -> tuple[np.ndarray, bool]:
        """``given`` cast and with a batch axis, and whether it came without one."""
        if self.ids:
            array: np.ndarray = self._ids(given, where, self.axes)
        else:
            array = arrays.float32(given, where, self.allowed)
            if array.shape[self.trailing :] != self.features and not self.open_width:
                raise ShapeError(self._wrong(array, where))
        return (array[None], True) if array.ndim == self.axes else (array, False)

    def _ids(self, given: Any, where: str, axes: int) -> np.ndarray:
        """Ids of so many axes, or one more, each within the table that it is looked up in."""
        if not self.features:
            return arrays.ids(given, where, self.vocabulary or 1 << 31)
        found = arrays.ids(given, where, self._tables.get(-1, 1 << 31), (axes, axes + 1), self.value.describe())
        if self.features and found.shape[found.ndim - len(self.features) :] != self.features:
            raise ShapeError(self._wrong(found, where))
        for column, size in self._tables.items():
            if column >= 0:
                arrays.ids(found[..., column], f"{where}[..., {column}]", size, (axes - 1, axes))
        return found

    def _wrong(self, array: np.ndarray, where: str) -> str:
        if len(self.features) != 1 or self.value.clock is None or self.value.clock.root:
            return f"{where}: the network takes {self.value.describe()}, found shape {array.shape}"
        (size,) = self.features
        return (
            f"{where}: the network takes {size} features at each step, found shape {array.shape} "
            f"with {array.shape[-1]}; {where} is (B, T, {size}) or (T, {size})"
        )

    def admit_frame(self, given: Any, rows: int, where: str = "x", *, single: bool = True) -> tuple[np.ndarray, bool]:
        """One frame of each row: (B, *features), or ids (B,), in C order, and whether it came without a batch axis,
        which it may where there is one row and ``single``."""
        single = single and rows == 1
        if self.ids:
            axes = len(self.features)
            alone = single and np.ndim(given) == axes if isinstance(given, (int, np.ndarray, np.generic)) else False
            tokens = self._ids([given] if alone else given, where, axes)
            if tokens.shape != (rows, *self.features):
                raise ShapeError(
                    f"{where}: expected {rows} token id{'s' * (rows > 1)} for one step, found shape {tokens.shape}"
                )
            return np.require(tokens, requirements=["C", "A"]), alone
        array = arrays.float32(given, where, (len(self.features), len(self.features) + 1))
        alone = array.ndim == len(self.features)
        shape = array.shape[-1:] if self.open_width else self.features
        if array.shape != (shape if alone and single else (rows, *shape)):
            shapes = f"{(rows, *shape)}" + (f" or {shape}" if single else "")
            raise ShapeError(f"{where}: expected shape {shapes} for one step, found {array.shape}")
        return np.require(array, requirements=["C", "A"]), alone


class Inputs:
    """The inputs of a network, as calls, streams and pools take them."""

    def __init__(self, network: Network) -> None:
        graph = network.graph
        self.graph = graph
        self.all = [
            Input(name, graph.inputs[name], network.tables(name), network.open_width) for name in network.inputs
        ]
        self.names = network.inputs
        self.timed = [one.name for one in self.all if one.name in graph.timed_inputs]
        self.static = graph.static_inputs
        #: The only input, where that is what the network takes and it advances with the steps.
        self.only = self.all[0] if len(self.all) == 1 and self.timed else None

    def admit(self, x: Any, what: str = "x") -> Given:
        """The inputs of a call: an array where the network takes one, else a mapping by name."""
        only = self.only
        if only is not None and (type(x) is np.ndarray or not isinstance(x, Mapping)):
            array, single = only.admit(x, what)
            return Given({only.name: array}, single, array.shape[0], array.shape[1])
        given, masks = self._apart(self._named(x))
        made: dict[str, np.ndarray] = {}
        singles = set()
        for one in self.all:
            where = what if len(self.all) == 1 else f"{what}[{one.name!r}]"
            made[one.name], single = one.admit(given[one.name], where)
            singles.add(single)
        if len(singles) > 1:
            raise ShapeError(f"{what}: some inputs have a batch axis and some have none")
        shapes = ", ".join(f"{name} {array.shape}" for name, array in made.items())
        batches = {array.shape[0] for array in made.values()}
        if len(batches) > 1:
            raise ShapeError(f"{what}: the inputs differ in rows: {shapes}")
        steps = {made[name].shape[1] for name in self.timed}
        if len(steps) > 1:
            raise ShapeError(f"{what}: the inputs differ in steps: {shapes}")
        batch = batches.pop() if batches else 1
        self._put_masks(made, masks, batch)
        return Given(made, singles == {True}, batch, steps.pop() if steps else None)

    def of(self, name: str) -> Input:
        """The input of that name; :class:`CgruError` where there is none."""
        found = next((one for one in self.all if one.name == arrays.text(name, "name")), None)
        if found is None:
            raise CgruError(f"name: the network has no input {name[:60]!r}; it takes {', '.join(self.names)}")
        return found

    def _apart(self, x: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The inputs of a call, and the masks of its memories, by lengths or as they are."""
        given = lengths_as_masks(self.graph, x)
        masks = {name: given.pop(name) for name in self.static if name in self.graph.optional and name in given}
        for name in given:
            self._check_known(name)
        for name in self.names:
            if name not in given:
                raise CgruError(f"x: the input {name!r} is missing; the network takes {', '.join(self.names)}")
        return given, masks

    def _check_known(self, name: object) -> None:
        if name not in self.names:
            raise CgruError(f"x: the network has no input {str(name)[:60]!r}; it takes {', '.join(self.names)}")

    def admit_step(self, x: Any, rows: int) -> Given:
        """The inputs of one step of a stream: those that advance as frames, those given once whole."""
        if self.only is not None and not isinstance(x, Mapping):
            array, single = self.only.admit_frame(x, rows)
            return Given({self.only.name: array[:, None] if not single or self.only.ids else array[None, None]},
                         single, rows, 1)
        given, masks = self._apart(self._named(x))
        made: dict[str, np.ndarray] = {}
        singles = set()
        for one in self.all:
            where = f"x[{one.name!r}]"
            if one.name in self.static:
                array, single = one.admit(given[one.name], where)
                if array.shape[0] != rows:
                    raise ShapeError(f"{where}: the stream has {rows} rows, found {array.shape[0]}")
                made[one.name] = array
            else:
                array, single = one.admit_frame(given[one.name], rows, where)
                made[one.name] = array[:, None] if not single or one.ids else array[None, None]
            singles.add(single)
        if len(singles) > 1:
            raise ShapeError("x: some inputs have a batch axis and some have none")
        self._put_masks(made, masks, rows)
        return Given(made, singles == {True}, rows, 1)

    def _put_masks(self, made: dict[str, np.ndarray], masks: Mapping[str, Any], rows: int) -> None:
        """The masks of memories beside them, and whether what a memory holds fits what reads it."""
        for name, mask in masks.items():
            checked = arrays.mask(mask, rows, made[name.removesuffix(MASK)].shape[1])
            assert checked is not None
            made[name] = checked
        check_memory_frames(self.graph, frames_given(self.graph, made))

    def _named(self, x: Any) -> Mapping[str, Any]:
        if not isinstance(x, Mapping):
            if len(self.names) != 1:
                raise CgruError(
                    f"x: the network takes {len(self.names)} inputs, pass a mapping with {', '.join(self.names)}"
                )
            return {self.names[0]: x}
        return x

    def add_masks(self, given: Given, mask: Any) -> None:
        """Put ``mask``, an array for the first input or a mapping by input, beside the inputs it is of."""
        if mask is None:
            return
        by_name = mask if isinstance(mask, Mapping) else {self.names[0]: mask}
        for name, value in by_name.items():
            if f"{name}{MASK}" not in self.graph.optional:
                raise UnsupportedError(f"mask: nothing in the network looks at a mask of its input {str(name)[:60]!r}")
            checked = arrays.mask(value, given.batch, given.steps or 0)
            assert checked is not None
            given.arrays[f"{name}{MASK}"] = checked

    def lengths(self, given: Given, lengths: Any) -> NDArray[np.int64] | None:
        if lengths is not None and given.steps is None:
            raise UnsupportedError("lengths: no input of the network has steps")
        return arrays.lengths(lengths, given.batch, given.steps or 0)


def counted(given: Given, lengths: Any, mask: Any) -> NDArray[np.bool_] | None:
    """(B, T): the steps that ``lengths`` and ``mask`` let count; None where they all do."""
    rows = arrays.lengths(lengths, given.batch, given.steps or 0)
    seen = None if isinstance(mask, Mapping) else arrays.mask(mask, given.batch, given.steps or 0)
    if rows is None:
        return seen
    within = np.arange(given.steps or 0) < rows[:, None]
    return within if seen is None else within & seen
