"""Runs any graph by the equations of its operations in float64, chunk by chunk: the oracle, and the plan of the
reference backend.

The law it keeps, as every backend must: running a chunk and then another gives what running both at once gives, and a
row gives in a batch what it gives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import Float32
from ..errors import UnsupportedError
from ..spec.graph import Graph, Node
from ..spec.operation import Frames
from ..spec.operations.positions import refuse_beyond
from ..spec.operations.recurrent import EMITTED, FRESH, scan_frames
from ..spec.operations.recurrent_rows import scan_rows
from ..weights import Store
from .cycles import cycles
from .given_once import frames_given, mask_left_out
from .state import Block, StateLayout

#: What a node does to arrays with a frame axis, instead of its equation. For a scan (x, state, flag, valid, threads) →
#: frames, advancing state and flag in place; for others (x, threads) → frames.
Kernel = Callable[..., np.ndarray]


class Interpreter:
    """A graph in float64; immutable, shared between threads. ``record`` receives what every gate did.

    ``kernels`` of some nodes take the place of their equations: the plan of a backend that has those alone.
    """

    in_place = False
    core = None

    def __init__(
        self,
        graph: Graph,
        store: Store,
        layout: StateLayout,
        record: dict[str, dict[str, Float32]] | None = None,
        kernels: Mapping[str, Kernel] | None = None,
    ) -> None:
        self.graph, self.layout, self.timing = graph, layout, layout.timing
        self.record, self.kernels = record, dict(kernels or {})
        self.groups = cycles(graph)
        #: Whether a window looks back at what is carried: then the whole graph runs a step at a time.
        self.steps_alone = any(self._windowed(node) for group in self.groups if len(group) > 1 for node in group)
        self._refuse_unequal()
        self.arrays = {
            node.name: {key: array.astype(np.float64) for key, array in store[node.weights].arrays().items()}
            for node in graph.nodes
            if node.weights and node.name not in self.kernels
        }

    def _windowed(self, node: Node) -> bool:
        return any(self.layout.history[node.name]) or self.graph.operations[node.name].is_whole(node.options)

    def _refuse_unequal(self) -> None:
        """A graph that runs a step at a time must give a frame for each."""
        if not self.steps_alone:
            return
        for node in self.graph.nodes:
            if self.graph.operations[node.name].is_whole(node.options) or not self.timing.steady:
                raise UnsupportedError(
                    f"{node.layer}: {node.op} beside a carried state that is read through a window: the network runs a "
                    "step at a time, and something in it gives no frame for each step"
                )

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        state: Float32,
        lengths: np.ndarray | None = None,
        *,
        ended: bool = True,
        threads: int = 1,
        out: Float32 | None = None,
    ) -> dict[str, np.ndarray]:
        """See :meth:`cgru.engine.plan.Plan.run`. The equations take one thread, whatever ``threads`` says."""
        steps = self._steps(inputs)
        if lengths is None or steps is None or (lengths == steps).all():
            return self._run(inputs, state, steps or 0, ended, threads)
        batch = len(state)
        made: dict[str, np.ndarray] = {}
        frames = self.timing.counts(steps, True)
        for name in self.graph.outputs:
            value = self.graph.values[name]
            shape = (batch, frames[name], *value.features) if value.clock is not None else (batch, *value.features)
            made[name] = np.zeros(shape, _plain(value.dtype))
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            part = {name: self._rows_of(name, array, rows, int(length)) for name, array in inputs.items()}
            own = state[rows]
            for name, array in self._run(part, own, int(length), ended, threads).items():
                if self.graph.values[name].clock is None:
                    made[name][rows] = array
                else:
                    made[name][rows, : array.shape[1]] = array
            state[rows] = own
        return made

    def _run(
        self, inputs: Mapping[str, np.ndarray], state: Float32, steps: int, ended: bool, threads: int
    ) -> dict[str, np.ndarray]:
        """Rows of equal length: at once, or step by step where the end of one step is what the next begins with."""
        if not self.steps_alone or steps < 2:
            return _Chunk(self, inputs, state, steps, ended, threads).run()
        parts = []
        for t in range(steps):
            part = {name: self._frames_of(name, array, t) for name, array in inputs.items()}
            parts.append(_Chunk(self, part, state, 1, ended and t == steps - 1, threads).run())
        return {
            name: np.concatenate([part[name] for part in parts], axis=1)
            if self.graph.values[name].clock is not None
            else parts[-1][name]
            for name in self.graph.outputs
        }

    def _frames_of(self, name: str, array: np.ndarray, t: int) -> np.ndarray:
        clock = self.graph.inputs[name].clock
        return array[:, t : t + 1] if clock is not None and not clock.root else array

    def _steps(self, inputs: Mapping[str, np.ndarray]) -> int | None:
        return next((inputs[name].shape[1] for name in self.graph.timed_inputs), None)

    def _rows_of(self, name: str, array: np.ndarray, rows: np.ndarray, length: int) -> np.ndarray:
        clock = self.graph.inputs[name].clock
        return array[rows, :length] if clock is not None and not clock.root else array[rows]


def _plain(dtype: str) -> Any:
    return {"float32": np.float32, "int64": np.int64, "bool": np.bool_}[dtype]


def _own(array: np.ndarray, dtype: Any) -> np.ndarray:
    """The array in memory of its own, in C order."""
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.owndata:
        return array
    with np.errstate(over="ignore", under="ignore"):
        return np.array(array, dtype, order="C")


class _Chunk:
    """One run over rows of equal length. Values are (B, n, *features) here; those without a clock have n = 1."""

    def __init__(
        self,
        interpreter: Interpreter,
        inputs: Mapping[str, np.ndarray],
        state: Float32,
        steps: int,
        ended: bool,
        threads: int,
    ) -> None:
        self.of, self.graph, self.layout = interpreter, interpreter.graph, interpreter.layout
        self.state, self.batch, self.ended, self.threads = state, len(state), ended, threads
        timing = interpreter.timing
        before = 0 if timing.steady else self.layout.steps(state)
        frames = frames_given(self.graph, inputs)
        self.before = timing.counts(before, False, frames)
        self.after = timing.counts(before + steps, ended, frames)
        if not timing.steady:
            self.layout.set_steps(state, before + steps)
        self.values: dict[str, Any] = {}
        for name, value in self.graph.inputs.items():
            array = inputs.get(name)
            if array is None:  # a mask left out: every frame counts
                array = mask_left_out(value, name, inputs, self.batch, steps)
            if value.dtype == "float32" and not interpreter.kernels:
                array = array.astype(np.float64)
            self.values[name] = array if value.clock is not None else array[:, None]

    def run(self) -> dict[str, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
            for group in self.of.groups:
                if len(group) > 1 and not self.of.steps_alone:
                    self._cycle(group)
                    continue
                for node in group:
                    self.values[node.name] = self._node(node)
        made = {}
        for name in self.graph.outputs:
            value, array = self.graph.values[name], self.values[name]
            array = np.broadcast_to(array, (self.batch, *array.shape[1:])) if len(array) != self.batch else array
            made[name] = _own(array, _plain(value.dtype)) if name not in self.graph.inputs else array.copy()
            made[name] = made[name] if value.clock is not None else made[name][:, 0]
        return made

    def _cycle(self, group: Sequence[Node]) -> None:
        """The nodes of a cycle frame by frame: each frame begins with what is carried from the one before."""
        inside = {node.name for node in group}
        outside = {name: self.values[name] for node in group for name in node.inputs if name and name not in inside}
        frames = self.after[group[0].name] - self.before[group[0].name]
        made: dict[str, list[Any]] = {name: [] for name in inside}
        for t in range(max(1, frames)):
            part = slice(t, t + 1) if frames else slice(0, 0)
            for name, array in outside.items():
                self.values[name] = array if self.graph.values[name].clock is None else array[:, part]
            for node in group:
                self.values[node.name] = self._node(node)
                made[node.name].append(self.values[node.name])
        self.values |= outside
        self.values |= {name: np.concatenate(parts, axis=1) for name, parts in made.items()}

    def _node(self, node: Node) -> Any:
        op = self.graph.operations[node.name]
        if node.op in ("scan", "scan_rows"):
            return self._scan(node)
        if node.op == "positions":
            return self._positions(node)
        if node.op in ("carried", "carry"):
            return self._carried(node) if node.op == "carried" else self._carry(node)
        if node.op == "last_state":
            return self._last_state(node)
        if kernel := self.of.kernels.get(node.name):
            return kernel(self.values[node.inputs[0]], self.threads)
        inputs: list[Any] = [self._wide(self.values[name]) if name else None for name in node.inputs]
        blocks = self.layout.history[node.name]
        if op.is_whole(node.options) or self.graph.values[node.name].clock is None:
            pass
        elif op.windowed:
            inputs = [self._windowed(node, array, blocks) for array in inputs]
        elif any(blocks):
            inputs = [self._waited(node, i, array, blocks[i]) for i, array in enumerate(inputs)]
        return op.compute(node.options, inputs, self.of.arrays.get(node.name, {}))

    def _wide(self, array: Any) -> Any:
        """What an equation reads: float64, where a kernel has left float32."""
        return array.astype(np.float64) if array.dtype == np.float32 else array

    # ---- frames carried from chunk to chunk ---------------------------------------------------------------------

    def _extended(self, block: Block | None, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The frames held and the new ones, and which of them are real; the state then holds the last of them."""
        batch, new = self.batch, array.shape[1]
        array = np.broadcast_to(array, (batch, *array.shape[1:]))
        real = np.ones((batch, new), bool)
        if block is None:
            return array, real
        (view,), count = block.views(self.state), self.state[:, block.aux]
        size = int(np.prod(array.shape[2:], dtype=np.int64))
        hold = block.sizes[0] // size
        held = view.reshape(batch, hold, *array.shape[2:]).astype(array.dtype)
        held_real = np.arange(hold) >= hold - count[:, None]
        array, real = np.concatenate([held, array], axis=1), np.concatenate([held_real, real], axis=1)
        view[...] = array[:, new:].reshape(batch, -1)
        count[...] = np.minimum(hold, count + new)
        return array, real

    def _windowed(self, node: Node, array: np.ndarray, blocks: Sequence[Block | None]) -> Frames:
        window, name = self.of.timing.windows[node.name], node.inputs[0]
        first, last = self.before[node.name] // window.up, self.after[node.name] // window.up
        extended, real = self._extended(blocks[0], array)
        # Where in ``extended`` the first result frame's window begins, and the last one's ends.
        origin = self.before[name] - (extended.shape[1] - array.shape[1])
        start = first * window.stride - window.left - origin
        end = (last - 1) * window.stride - window.left - origin + window.span if last > first else start
        front, behind = max(0, -start), max(0, end - extended.shape[1])
        if front or behind:
            padding = [(0, 0), (front, behind)]
            extended = np.pad(extended, [*padding, *[(0, 0)] * (extended.ndim - 2)])
            real = np.pad(real, padding)
        return Frames(extended[:, start + front : end + front], real[:, start + front : end + front])

    def _waited(self, node: Node, i: int, array: np.ndarray, block: Block | None) -> np.ndarray:
        """Frames of an input of a join that all the others have as well."""
        name = node.inputs[i]
        if self.graph.values[name].clock is None:
            return array
        extended, _ = self._extended(block, array)
        origin = self.before[name] - (extended.shape[1] - array.shape[1])
        return extended[:, self.before[node.name] - origin : self.after[node.name] - origin]

    # ---- recurrences ---------------------------------------------------------------------------------------------

    def _scan(self, node: Node) -> np.ndarray:
        x = self.values[node.inputs[0]]
        valid, *given = [self.values[name] if name else None for name in (*node.inputs[1:], "", "", "")][:3]
        (block,) = self.layout.blocks[node.name]
        views, flag = block.views(self.state), self.state[:, block.aux]
        for view, start in zip(views, given, strict=False):
            if start is not None:
                start = start[:, 0].reshape(len(start), -1)
                view[...] = np.where((flag == FRESH)[:, None], np.broadcast_to(start, view.shape), view)
        x = np.broadcast_to(x, (self.batch, *x.shape[1:]))
        if kernel := self.of.kernels.get(node.name):
            return kernel(x, views, flag, valid, self.threads)
        x, record = self._wide(x), None
        if self.of.record is not None:
            record = self.of.record.setdefault(gate_label(node), {})
        h = [view.astype(np.float64) for view in views]
        if node.op == "scan_rows":
            y, h = scan_rows(node.options, x, h, valid, self.of.arrays[node.name])
            flag[...] = np.where(valid.any(axis=1), EMITTED, flag) if valid is not None else EMITTED
            for view, array in zip(views, h, strict=True):
                view[...] = array
            return y
        y, h = scan_frames(node.options, x, h, flag, valid, self.of.arrays[node.name], record)
        for view, array in zip(views, h, strict=True):
            view[...] = array
        return y

    def _positions(self, node: Node) -> np.ndarray:
        ((view,),) = (block.views(self.state) for block in self.layout.blocks[node.name])
        frames = self.after[node.name] - self.before[node.name]
        at = view.astype(np.int64) + np.arange(frames)
        refuse_beyond(node.options["limit"], int(view.max(initial=0)) + frames, node.name)
        view += frames
        found: np.ndarray = self.of.arrays[node.name]["table"][at]
        return found

    def _carried(self, node: Node) -> np.ndarray:
        """What the row holds, as one frame; copied, as the end of the step overwrites it."""
        ((view,),) = (block.views(self.state) for block in self.layout.blocks[node.name])
        frames = min(1, self.after[node.name] - self.before[node.name])
        return view.astype(np.float64).reshape(self.batch, 1, *node.options["features"])[:, :frames]

    def _carry(self, node: Node) -> np.ndarray:
        x = self.values[node.inputs[0]]
        ((view,),) = (block.views(self.state) for block in self.layout.blocks[node.inputs[1]])
        if x.shape[1]:
            view[...] = x[:, -1].reshape(len(x), -1)
        return x

    def _last_state(self, node: Node) -> np.ndarray:
        scan = self.graph.node(node.inputs[0])
        assert scan is not None
        (block,) = self.layout.blocks[scan.name]
        array = block.views(self.state)[block.arrays.index(node.options["array"])].astype(np.float64)
        if node.options["as_output"]:
            shown = self.state[:, block.aux] == EMITTED
            mask = self.values[scan.inputs[1]] if len(scan.inputs) > 1 and scan.inputs[1] else None
            if mask is not None and not scan.options["repeat"] and mask.shape[1]:
                shown = shown & mask[:, 0 if scan.options["reverse"] else -1]
            array = np.where(shown[:, None], array, 0)
        return array[:, None]


def gate_label(node: Node) -> str:
    """``"gru.l0"``, ``"gru.l0.reverse"``: the direction of a layer as :meth:`Model.gates` names it."""
    return node.name if node.name != node.layer else f"{node.name}.l0"
