"""cgru itself, through its public interface."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from runners import Unusable, Work


class Runner:
    """`gru(x, h0)` or `lstm(x, (h0, c0))` for sequences, `stream.step(x)` for steps."""

    def __init__(self, work: Work) -> None:
        cell, tensors, xs, h0, settings = work.cell, work.tensors, work.xs, work.h0, work.settings
        try:
            cgru: Any = importlib.import_module("cgru")
        except ImportError as error:
            raise Unusable(f"cannot be imported: {error}") from error
        self.version = cgru.__version__
        if cell.unit == "lstm":
            layer = cgru.LSTM.from_torch(tensors)
        elif settings.reset == "after":
            layer = cgru.GRU.from_torch(tensors)
        else:
            suffixes = [f"l{layer}{side}" for layer in range(cell.L) for side in ("", "_reverse")[: cell.D]]
            stems = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            layer = cgru.GRU.from_arrays(
                *([tensors[f"{stem}_{suffix}"] for suffix in suffixes] for stem in stems),
                reset="before", bidirectional=cell.D == 2,
            )  # fmt: skip
        net = cgru.Model([layer])
        if settings.precision != "float32":
            net = net.quantize(settings.precision)
        self.cell, self.threads = cell, settings.threads
        self.begin = h0 if work.c0 is None else (h0, work.c0)
        if settings.kind == "step":
            self.xs = [np.ascontiguousarray(x[:, 0]) for x in xs]
            self.stream = net.stream(batch=cell.B)
            self.call = self._step
        else:
            self.xs = xs
            self.layer = net.layers[0]
            self.call = self._sequence if settings.threads == 1 else self._threaded

    def _sequence(self, k: int) -> None:
        self.last = self.layer(self.xs[k], self.begin)

    def _threaded(self, k: int) -> None:
        self.last = self.layer(self.xs[k], self.begin, threads=self.threads)

    def _step(self, k: int) -> None:
        self.last = self.stream.step(self.xs[k])

    def restart(self) -> None:
        self.stream.reset()

    def result(self) -> tuple[np.ndarray, ...]:
        if self.call == self._step:
            return self.last[:, None], self.last[None]
        y, states = self.last
        return (y, *states) if isinstance(states, tuple) else (y, states)
