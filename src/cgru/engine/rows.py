"""Rows of a graph that advance a step at a time over inputs given once: what streams of decoders and searches run on.

What the inputs given once decide alone (:func:`.given_once.split`) is worked out when rows are opened, so that a step
does only what its own inputs change. Rows may be reordered, repeated and left out between steps: a beam's survivors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import arrays
from ..arrays import Float32
from ..errors import CgruError, ShapeError, UnsupportedError
from ..spec.graph import MASK, Graph, refuse_unstreamable
from ..spec.operations.attention import check_memory_frames
from ..weights import Store
from .given_once import frames_given, lengths_as_masks, mask_left_out, split
from .interpreter import Interpreter
from .model import Model
from .state import StateLayout


class StepPlan:
    """A network made ready to step: its graph in what is given once and what each step does; shared between threads."""

    def __init__(self, net: Model) -> None:
        self.net = net
        graph, store = self.net.graph, self.net.store
        refuse_unstreamable(graph)
        if not self.net._layout.timing.steady:
            raise UnsupportedError("one step of this network does not give one frame (lookahead, changed rates)")
        parts = split(graph)
        self.graph, self.layout = parts.steps, self.net._layout.of_part(parts.steps)
        self.packed = "packed" in self.net.backends
        self.runner: Any = _runner(parts.steps, store, self.layout, self.packed)
        self.once: Any = None
        if parts.once is not None:
            self.once = _runner(parts.once, store, StateLayout(parts.once, bytes), self.packed)
        self.timed = tuple(parts.steps.timed_inputs)
        self.outputs = parts.steps.outputs
        self._static = graph.static_inputs
        self._wanted = [name for name in self._static if name not in graph.optional]
        self._masks = [name for name in self._static if name in graph.optional]
        self._ready = parts.steps.static_inputs
        for name in self.outputs:
            value = parts.steps.values[name]
            if value.clock is None or value.clock.root or value.dtype != "float32":
                raise UnsupportedError(f"its output {name!r} does not have a frame for each step")

    def given(self, inputs: Mapping[str, Any] | None, batch: int, where: str = "inputs") -> dict[str, np.ndarray]:
        """The inputs given once, checked, and what is made of them: arrays (B, …) by the name that steps know.

        Raises :class:`CgruError` where one is missing, unknown or of another shape, or a memory is empty.
        """
        graph = self.net.graph
        wanted = self._wanted
        found = lengths_as_masks(graph, arrays.mapping({} if inputs is None else inputs, where))
        for name in found:
            if name not in self._static:
                known = ", ".join(wanted) or "none"
                raise CgruError(f"{where}: the network takes no input {name[:60]!r} once; those given once are {known}")
        made: dict[str, np.ndarray] = {}
        for name in wanted:
            if name not in found:
                raise CgruError(f"{where}: the input {name!r} is missing; those given once are {', '.join(wanted)}")
            array, single = self.net._inputs.of(name).admit(found[name], f"{where}[{name!r}]")
            if len(array) != batch:
                what = "1 (it has no batch axis)" if single else str(len(array))
                raise ShapeError(f"{where}[{name!r}]: expected {batch} rows, found {what}")
            if array.ndim > 1 and array.shape[1] == 0:
                raise ShapeError(f"{where}[{name!r}]: it is empty, so there is nothing to attend to")
            made[name] = array
        for name in self._masks:
            if name in found:
                mask = arrays.mask(found[name], batch, made[name.removesuffix(MASK)].shape[1])
            else:
                mask = mask_left_out(graph.inputs[name], name, made, batch, 0)
            assert mask is not None
            made[name] = mask
        check_memory_frames(graph, frames_given(graph, made))
        if self.once is not None:
            ready = {name: array for name, array in made.items() if name in self.once.graph.inputs}
            made |= self.once.run(ready, self.once.layout.zeros(batch))
        return {name: np.ascontiguousarray(made[name]) for name in self._ready}


def plan_of(net: Model) -> StepPlan:
    """The network's plan of steps, made at first use and kept with it."""
    held = vars(net)
    if "_step_plan" not in held:  # two threads may both come here, and then agree on one
        held.setdefault("_step_plan", StepPlan(net))
    plan: StepPlan = held["_step_plan"]
    return plan


class Rows:
    """Rows at some point of their sequences. One thread's at a time.

    ``given`` is what :meth:`StepPlan.given` made; ``state`` (B, width) float32 moves in place.
    """

    def __init__(self, plan: StepPlan, given: Mapping[str, np.ndarray], state: Float32) -> None:
        self.plan = plan
        self._steps: Any = None
        if plan.packed and plan.runner.plain == list(plan.outputs) and len(plan.graph.inputs) <= 64:
            from .backends._packed import RowSteps

            self._steps = RowSteps(plan.runner.net)
        self._spare: Any = None
        self._take(dict(given), state)

    def _take(self, given: dict[str, np.ndarray], state: Float32) -> None:
        self.given, self.state, self._spare = given, state, None
        sizes = [self.plan.graph.values[name].size for name in self.plan.outputs]
        if self._steps is not None:
            self._steps.take([_flat(given.get(name), self.plan.graph, name) for name in self.plan.graph.inputs], state)
            self.out = [np.empty((len(state), 1, size), np.float32) for size in sizes]

    def __len__(self) -> int:
        return len(self.state)

    @property
    def in_core(self) -> bool:
        """Whether the core steps them: then :meth:`tokens`, :meth:`beams` and :meth:`values` loop in it."""
        return self._steps is not None

    def step(self, inputs: Mapping[str, np.ndarray], threads: int = 1) -> list[Float32]:
        """One step of every row: features (B, …) or ids (B,) of each input that advances → each output (B, size).

        The arrays are written to again by the next step.
        """
        graph, batch = self.plan.graph, len(self.state)
        if self._steps is not None:
            frames = [
                _frame(inputs[name], graph.inputs[name].size, batch) if name in inputs else None
                for name in graph.inputs
            ]
            self._steps.step(frames, self.out, threads)
            return [array[:, 0] for array in self.out]
        made = self.feed({name: array[:, None] for name, array in inputs.items()}, threads)
        return [made[name].reshape(batch, -1) for name in self.plan.outputs]

    def feed(self, inputs: Mapping[str, np.ndarray], threads: int = 1) -> dict[str, np.ndarray]:
        """Any number of steps: arrays (B, T, …) → each output (B, T, …). The state moves only on success."""
        state = self.state.copy()
        given = {**self.given, **inputs}
        made: dict[str, np.ndarray] = self.plan.runner.run(given, state, ended=False, threads=threads)
        self.state[...] = state
        return made

    def tokens(self, name: str, *given: Any) -> int:
        """Steps of a search for one sequence a row, fed back to input ``name``: the core's ``RowSteps.tokens``."""
        made: int = self._steps.tokens(self._place(name), self.out, *given)
        return made

    def beams(self, name: str, token: np.ndarray, beams: Any, least: int, probabilities: bool) -> None:
        """Steps of a beam search until the number of an input's beams changes: the core's ``RowSteps.beam``. The rows
        are then those of the beams before the last step."""
        spare = np.empty_like(self.state) if self._spare is None else self._spare
        if self._steps.beam(beams, self._place(name), self.out, token, self.state, spare, least, probabilities):
            self.state, spare = spare, self.state
        self._spare = spare

    def values(self, name: str, *given: Any) -> tuple[int, int]:
        """Steps of a forecast, fed back to input ``name``: the core's ``RowSteps.forecast``."""
        made: tuple[int, int] = self._steps.forecast(self._place(name), self.out, *given)
        return made

    def _place(self, name: str) -> int:
        return list(self.plan.graph.inputs).index(name)

    def reorder(self, index: np.ndarray) -> None:
        """Row i goes on from the state of row index[i], over the inputs given to row i: beams of one input."""
        if self._steps is None or len(index) != len(self.state):
            self._take(self.given, self.state[index])
            return
        if self._spare is None:
            self._spare = np.empty_like(self.state)
        np.take(self.state, index, axis=0, out=self._spare, mode="clip")  # "raise" would go by a buffer
        self.state, self._spare = self._spare, self.state
        self._steps.move(self.state)

    def keep(self, index: np.ndarray) -> None:
        """Row i becomes row index[i] altogether; rows may be repeated, and those not named are let go."""
        self._take({name: array[index] for name, array in self.given.items()}, self.state[index])


def _runner(graph: Graph, store: Store, layout: StateLayout, packed: bool) -> Any:
    if packed:
        from .backends import packed_graph

        if packed_graph.unsupported(graph) is None:
            return packed_graph.PackedRunner(graph, store, layout)
    return Interpreter(graph, store, layout)


def _flat(array: np.ndarray | None, graph: Graph, name: str) -> np.ndarray | None:
    """An input given once with its feature axes as one, as the core takes it."""
    value = graph.inputs[name]
    if array is None or len(value.features) == 1 or (value.dtype != "float32" and not value.features):
        return array
    return np.ascontiguousarray(array).reshape(*array.shape[: array.ndim - len(value.features)], value.size)


def _frame(array: np.ndarray, size: int, batch: int) -> np.ndarray:
    one_id = array.dtype == np.int64 and array.size == batch
    return array.reshape(batch, 1) if one_id else array.reshape(batch, 1, size)
