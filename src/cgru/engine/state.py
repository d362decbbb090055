"""What a network carries from one call to the next: one row of float32 a stream.

A row holds one block for every layer and direction that recurs. A block is the cell's arrays of H numbers,
the emitted one first, then two numbers of bookkeeping: whether the row has emitted anything yet (a masked
step repeats the last output, and there is none before the first), and a scale that reduced precision carries
with the row. Blocks begin on multiples of 16 floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..arrays import Float32, float32
from ..errors import CgruError, ShapeError

if TYPE_CHECKING:
    from ..layers import Layer

#: Numbers of bookkeeping after a block's arrays: emitted, scale.
AUX = 2
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
    """The blocks of a whole network, by layer, and the width of a row."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.blocks: dict[str, list[Block]] = {}
        offset = 0
        for layer in layers:
            for arrays, sizes in layer.state_blocks():
                block = Block(layer.name, arrays, sizes, offset)
                self.blocks.setdefault(layer.name, []).append(block)
                offset = -(-(block.aux + AUX) // _ALIGN) * _ALIGN
        self.width = offset
        self._keys: dict[str, list[tuple[int, int]]] = {}
        for found in self.blocks.values():
            for block in found:
                start = block.offset
                for name, size in zip(block.arrays, block.sizes, strict=True):
                    self._keys.setdefault(f"{block.layer}.{name}", []).append((start, size))
                    start += size

    def zeros(self, batch: int) -> Float32:
        try:
            return np.zeros((batch, self.width), dtype=np.float32)
        except (MemoryError, OverflowError, ValueError):
            raise CgruError(
                f"no memory for the state of {batch:,} rows, {4 * self.width:,} bytes each; take fewer rows at once"
            ) from None

    def keys(self) -> dict[str, list[tuple[int, int]]]:
        """``"gru.h"`` → the (offset, size) of each of its L·D rows of blocks, in torch's order."""
        return self._keys


class State:
    """The state of a batch of rows between two calls: opaque, usable again, never changed by ``run``."""

    __slots__ = ("data", "layout")

    def __init__(self, layout: StateLayout, data: Float32) -> None:
        self.layout = layout
        self.data = data

    @property
    def batch(self) -> int:
        return self.data.shape[0]

    def copy(self) -> State:
        return State(self.layout, self.data.copy())

    def arrays(self, names: Iterable[str] | None = None) -> dict[str, Float32]:
        """Copies by name, in torch's shape: ``{"gru.h": (L·D, B, H), …}``; of all, or of those named "h", "c", …"""
        found = {}
        for key, parts in self.layout.keys().items():
            if names is not None and key.rpartition(".")[2] not in names:
                continue
            start, size = parts[0]
            if len(parts) == 1:
                found[key] = self.data[None, :, start : start + size].copy()
                continue
            array = found[key] = np.empty((len(parts), self.batch, size), np.float32)
            for row, (start, size) in zip(array, parts, strict=True):
                row[...] = self.data[:, start : start + size]
        return found

    @classmethod
    def from_arrays(cls, layout: StateLayout, arrays: Mapping[str, Any], batch: int) -> State:
        """A state from arrays shaped as :meth:`arrays` gives them; those left out are zero."""
        state, keys = cls(layout, layout.zeros(batch)), layout.keys()
        for key, value in arrays.items():
            if key not in keys:
                raise CgruError(f"state: no array named {key!r}; this network carries {', '.join(keys) or 'none'}")
            state.place(key, value, f"state {key!r}")
        return state

    def place(self, key: str, value: Any, where: str) -> None:
        """Write the array named ``key``, shaped as :meth:`arrays` gives it; ``where`` names it in messages."""
        parts, batch = self.layout.keys()[key], self.batch
        array = float32(value, where, (2, 3))
        shape = (len(parts), batch, parts[0][1])
        if array.ndim == 2 and batch == 1:
            array = array[:, None]
        if array.shape != shape:
            raise ShapeError(f"{where}: expected shape {shape} (layers·directions, B, H), found {array.shape}")
        for row, (start, size) in zip(array, parts, strict=True):
            self.data[:, start : start + size] = row

    def __repr__(self) -> str:
        keys = self.layout.keys()
        inside = ", ".join(f"{key} ({len(parts)}, {self.batch}, {parts[0][1]})" for key, parts in keys.items())
        return f"State({inside or 'nothing carried'})"
