"""What a network carries from one call to the next: one row of float32 a stream.

A row holds one block for every layer and direction that recurs. A block is the cell's arrays of H numbers,
the emitted one first, then two numbers of bookkeeping: what the row has begun with (a masked step repeats the last
output, and there is none before the first; an initial state that the network holds is for rows that nothing has begun),
and a scale that reduced precision carries with the row. Blocks begin on multiples of 16 floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ..arrays import Float32, brief, float32, mapping, sequence, text, whole
from ..errors import ArgumentTypeError, CgruError, ShapeError, TooLargeError
from ..spec.operations.recurrent import BOOKKEEPING, FRESH, GIVEN
from ..spec.timing import Timing

if TYPE_CHECKING:
    from ..spec.graph import Graph

_ALIGN = 16


class Block(NamedTuple):
    """Where the state of one direction of one layer lies in a row."""

    layer: str
    arrays: tuple[str, ...]
    sizes: tuple[int, ...]
    offset: int

    @property
    def aux(self) -> int:
        """Offset of the bookkeeping."""
        return self.offset + sum(self.sizes)

    def views(self, data: Float32) -> list[Float32]:
        """The block's arrays, each (B, size), as views into ``data`` (B, width)."""
        ends = np.cumsum((self.offset, *self.sizes))
        return [data[:, a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


class StateLayout:
    """The blocks of a whole network and the width of a row: what its graph's scans carry, and the frames that windows
    look back on or joins wait for.

    ``blocks`` maps a scan to its block, ``history`` every other node to one block or None for each of its inputs.
    A network whose frames do not come one a step carries the number of its steps behind all blocks. A state belongs to
    the network its layout is of.
    """

    def __init__(self, graph: Graph, mark: Callable[[], bytes]) -> None:
        """``mark`` computes the network's fingerprint when it is asked for."""
        self.timing = Timing(graph)
        self._mark, self._make_mark = b"", mark
        self.blocks: dict[str, list[Block]] = {}
        self.history: dict[str, list[Block | None]] = {}
        #: ``"gru.h"`` → the (offset, size) of each of its L·D rows of blocks, in torch's order.
        self.keys: dict[str, list[tuple[int, int]]] = {}
        #: By layer, where a row's scans note that the caller gave a state: of scans whose h0 is a value of the graph.
        self._noting: dict[str, list[int]] = {}
        self.width = 0
        for node in graph.nodes:
            inputs = graph.input_values(node)
            if carried := graph.operations[node.name].state(node.options, inputs):
                arrays, sizes = zip(*carried, strict=True)
                block = self._place(node.layer, arrays, sizes)
                self.blocks[node.name] = [block]
                if any(node.inputs[2:]):
                    self._noting.setdefault(node.layer, []).append(block.aux)
            self.history[node.name] = [
                self._place(node.name, ("history" + (str(i) if len(inputs) > 1 else ""),), (hold * value.size,))
                if hold and value is not None and value.clock is not None
                else None
                for i, (hold, value) in enumerate(zip(self.timing.hold[node.name], inputs, strict=True))
            ]
        self._steps = None if self.timing.steady else self._place("", ("steps",), (2,)).offset

    def _place(self, layer: str, arrays: tuple[str, ...], sizes: tuple[int, ...]) -> Block:
        block = Block(layer, arrays, sizes, self.width)
        start = block.offset
        for name, size in zip(arrays, sizes, strict=True):
            if layer:
                self.keys.setdefault(f"{layer}.{name}", []).append((start, size))
            start += size
        self.width = -(-(block.aux + BOOKKEEPING) // _ALIGN) * _ALIGN
        return block

    def of_layer(self, name: str) -> list[Block]:
        """The blocks of a layer's scans, in torch's order of h_n."""
        return [block for found in self.blocks.values() for block in found if block.layer == name]

    def steps(self, data: Float32) -> int:
        """Steps gone in, which all rows of a stream share; for networks that count them."""
        assert self._steps is not None
        if not len(data):
            return 0
        low, high = data[0, self._steps], data[0, self._steps + 1]
        return int(low) + (int(high) << 20)

    def set_steps(self, data: Float32, steps: int) -> None:
        """Two numbers of 20 bits and more: float32 counts exactly to 2²⁴ alone."""
        assert self._steps is not None
        data[:, self._steps], data[:, self._steps + 1] = steps & 0xFFFFF, steps >> 20

    def of_part(self, graph: Graph) -> StateLayout:
        """The layout under which a part of the graph runs on states of the whole: rows stay as they are."""
        part = object.__new__(type(self))
        vars(part).update(vars(self), timing=Timing(graph))
        return part

    @classmethod
    def _known(cls, blocks: dict[str, list[Block]], keys: Any, width: int, mark: bytes, noting: Any) -> StateLayout:
        """The layout of a network that is elsewhere: what a pickled state brings."""
        layout = object.__new__(cls)
        layout.blocks, layout.history, layout.keys, layout.width, layout._mark = blocks, {}, keys, width, mark
        layout._noting = noting
        return layout

    def __reduce__(self) -> tuple[Any, ...]:
        return self._known, (self.blocks, self.keys, self.width, self.fingerprint(), self._noting)

    def fingerprint(self) -> bytes:
        """The network's :func:`~cgru.engine.fingerprint.fingerprint`, computed once."""
        if not self._mark:
            self._mark = self._make_mark()
        return self._mark

    def fits(self, other: StateLayout) -> bool:
        """Whether states go from one to the other: the network is the same, or one is the other saved and loaded."""
        return self is other or (self.blocks == other.blocks and self.fingerprint() == other.fingerprint())

    def zeros(self, batch: int) -> Float32:
        try:
            return np.zeros((batch, self.width), dtype=np.float32)
        except (MemoryError, OverflowError, ValueError):
            rows = f"{batch:,}" if batch < 1 << 200 else brief(batch)
            raise TooLargeError(
                f"no memory for the state of {rows} rows, {4 * self.width:,} bytes each; take fewer rows at once"
            ) from None

    def array(self, data: Float32, key: str) -> Float32:
        """A copy of the array named ``key``, (L·D, B, H)."""
        parts = self.keys[key]
        start, size = parts[0]
        if len(parts) == 1:  # by far the most common, and half the time
            return data[None, :, start : start + size].copy()
        made = np.empty((len(parts), len(data), size), np.float32)
        for row, (start, size) in zip(made, parts, strict=True):
            row[...] = data[:, start : start + size]
        return made

    def place(self, data: Float32, key: str, value: Any, where: str) -> None:
        """Write the array named ``key``, shaped as :meth:`array` gives it; ``where`` names it in messages."""
        parts, batch = self.keys[key], len(data)
        array = float32(value, where, (2, 3))
        shape = (len(parts), batch, parts[0][1])
        if array.ndim == 2 and batch == 1:
            array = array[:, None]
        if array.shape != shape:
            raise ShapeError(f"{where}: expected shape {shape} (layers·directions, B, H), found {array.shape}")
        for row, (start, size) in zip(array, parts, strict=True):
            data[:, start : start + size] = row
        if self._noting:  # what the caller gives wins over an initial state that the network holds
            for column in self._noting.get(key.rpartition(".")[0], ()):
                begun = data[:, column]
                begun[begun == FRESH] = GIVEN


class State:
    """The state of a batch of rows between two calls: opaque, usable again, never changed by ``run``.

    It belongs to the network that made it, and to the same network saved and loaded. Pickled, it needs no network
    beside it. Made by ``net.state`` and ``net.run``, not by hand.
    """

    __slots__ = ("_data", "_layout")

    _data: Float32
    _layout: StateLayout

    def __new__(cls, layout: StateLayout, data: Float32) -> State:
        if not isinstance(layout, StateLayout):
            raise ArgumentTypeError("State: a network makes its states; see net.state() and net.run()")
        if not (
            isinstance(data, np.ndarray)
            and data.dtype == np.float32
            and data.ndim == 2
            and data.shape[1] == layout.width
            and data.flags.carray
        ):
            raise ShapeError(f"State: expected float32 rows of {layout.width} numbers in C order")
        return cls._of(layout, data)

    @classmethod
    def _of(cls, layout: StateLayout, data: Float32) -> Self:
        """The state over rows made by the layout, which need no check."""
        self = object.__new__(cls)
        self._layout, self._data = layout, data
        return self

    @property
    def layout(self) -> StateLayout:
        """Which numbers of a row belong to which layer."""
        return self._layout

    @property
    def data(self) -> Float32:
        """The rows (B, width), to look at and to write to; their number and width are fixed."""
        return self._data.view()

    @property
    def batch(self) -> int:
        """How many rows it is the state of."""
        return self._data.shape[0]

    def copy(self) -> Self:
        """The same numbers in memory of their own."""
        return self._of(self._layout, self._data.copy())

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> State:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return State, (self._layout, self._data)

    def arrays(self, names: Iterable[str] | None = None) -> dict[str, Float32]:
        """Copies by name, in torch's shape: ``{"gru.h": (L·D, B, H), …}``; of all, or of those named "h", "c", …"""
        if names is not None:
            names = sequence(names, "names", "names such as 'h' and 'c'")
            names = {text(name, "names") for name in names}
        return {
            key: self._layout.array(self._data, key)
            for key in self._layout.keys
            if names is None or key.rpartition(".")[2] in names
        }

    @classmethod
    def from_arrays(cls, layout: StateLayout, arrays: Mapping[str, Any], batch: int) -> State:
        """A state from arrays shaped as :meth:`arrays` gives them; those left out are zero."""
        if not isinstance(layout, StateLayout):
            raise ArgumentTypeError("State: a network makes its states; see net.state() and net.run()")
        state, keys = cls._of(layout, layout.zeros(whole(batch, "batch"))), layout.keys
        for key, value in mapping(arrays, "state").items():
            if key not in keys:
                raise CgruError(f"state: no array named {key!r}; this network carries {', '.join(keys) or 'none'}")
            layout.place(state._data, key, value, f"state {key!r}")
        return state

    def __repr__(self) -> str:
        keys = self._layout.keys
        inside = ", ".join(f"{key} ({len(parts)}, {self.batch}, {parts[0][1]})" for key, parts in keys.items())
        return f"State({inside or 'nothing carried'})"
