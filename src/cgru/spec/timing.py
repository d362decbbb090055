"""When frames can be had: from the windows of a graph's operations, how far each value is behind the input.

Everything about streaming follows from one number a value: how many of its frames are there once n steps have gone in.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm

from .graph import Graph, Node
from .operation import EACH_FRAME, Window
from .values import Clock


class Timing:
    """The windows of a graph, and what they mean for its streams.

    ``steady``: every value with the network's clock has a frame for each step as soon as the step is in, so nothing
    counts steps. ``delay``: steps by which the outputs are late; ``hold``: for each node, the frames of each of its
    inputs that a row carries from chunk to chunk (what the window looks back on, and what waits for another branch).
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.windows: dict[str, Window] = {
            node.name: graph.operations[node.name].window(node.options) for node in graph.nodes
        }
        self.reach = sum(
            w.span * w.stride + abs(w.left) + abs(w.right) for w in self.windows.values() if w != EACH_FRAME
        )
        self.steady = all(_steady(window) for window in self.windows.values())
        self.hold: dict[str, list[int]] = {
            node.name: [self.windows[node.name].hold] * len(node.inputs) for node in graph.nodes
        }
        self.delay = 0
        if not self.steady:
            self._measure()

    def counts(self, steps: int, ended: bool, frames: Mapping[str, int] | None = None) -> dict[str, int]:
        """Frames of every value after so many steps; ``frames`` of the inputs that have an axis of their own."""
        found: dict[str, int] = {}
        for name, value in self.graph.inputs.items():
            if value.clock is None:
                found[name] = 1
            elif value.clock.root:
                found[name] = (frames or {}).get(name, 1)
            else:
                found[name] = value.clock.count(steps)
        for node in self.graph.nodes:
            clock = self.graph.values[node.name].clock
            if clock is None:
                found[node.name] = 1
                continue
            read = [found[name] for name in node.inputs if self._moves_with(name, clock)]
            operation = self.graph.operations[node.name]
            if operation.is_whole(node.options):
                # It sees the others to their ends, which may have other numbers of frames. Where the first is late, so
                # is the result: later nodes read it in chunks, beside values that come on time.
                found[node.name] = operation.frames(node.options, read[0])
                continue
            ready = min(read, default=1)
            found[node.name] = self.windows[node.name].ready(ready, ended)
        return found

    def _moves_with(self, name: str, clock: Clock) -> bool:
        """Whether a value has the time axis of ``clock``, not one of its own (a memory that is attended to) or none."""
        own = self.graph.values[name].clock if name else None
        return own is not None and own.root == clock.root

    def _measure(self) -> None:
        """Delay and what waits at joins, by walking through enough steps to have seen every phase."""
        graph = self.graph
        period = lcm(*(window.stride for window in self.windows.values()))
        for steps in range(min(2 * (self.reach + period), 1 << 14) + 1):
            counts = self.counts(steps, False)
            for node in graph.nodes:
                if graph.values[node.name].clock is None or graph.operations[node.name].is_whole(node.options):
                    continue  # it reads whole sequences, of which nothing waits from chunk to chunk
                ahead = self._ahead(node, counts)
                hold = self.hold[node.name]
                for i, frames in enumerate(ahead):
                    hold[i] = max(hold[i], frames)
            for name in graph.outputs:
                clock = graph.values[name].clock
                if clock is not None:
                    frames, span = clock.rate
                    late = steps * frames - counts[name] * span  # of 1 / span frames
                    self.delay = max(self.delay, -(-late // frames))

    def _ahead(self, node: Node, counts: Mapping[str, int]) -> list[int]:
        """Of each input, the frames that are there and not used up by the frames of the result that are there."""
        window = self.windows[node.name]
        used = counts[node.name] // window.up * window.stride - window.left
        clock = self.graph.values[node.name].clock
        return [counts[name] - used if clock and self._moves_with(name, clock) else 0 for name in node.inputs]


def _steady(window: Window) -> bool:
    """Whether each frame gives one at once: no stride, nothing later, and padding as far back as it sees."""
    return window.stride == 1 and window.up == 1 and window.left == window.span - 1 and window.right == 0
