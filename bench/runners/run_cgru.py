"""cgru itself, through its public interface."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from runners import Unusable, Work


class Runner:
    """`gru(x, h0)` for sequences, `stream.step(x)` for steps."""

    def __init__(self, work: Work) -> None:
        cell, tensors, xs, h0, settings = work.cell, work.tensors, work.xs, work.h0, work.settings
        try:
            cgru: Any = importlib.import_module("cgru")
        except ImportError as error:
            raise Unusable(f"cannot be imported: {error}") from error
        self.version = cgru.__version__
        if settings.reset == "after":
            gru = cgru.GRU.from_torch(tensors)
        else:
            suffixes = [f"l{layer}{side}" for layer in range(cell.L) for side in ("", "_reverse")[: cell.D]]
            stems = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            gru = cgru.GRU.from_arrays(
                *([tensors[f"{stem}_{suffix}"] for suffix in suffixes] for stem in stems),
                reset="before", bidirectional=cell.D == 2,
            )  # fmt: skip
        net = cgru.Model([gru])
        if settings.precision != "float32":
            net = net.quantize(settings.precision)
        self.cell, self.h0, self.threads = cell, h0, settings.threads
        if settings.kind == "step":
            self.xs = [np.ascontiguousarray(x[:, 0]) for x in xs]
            self.stream = net.stream(batch=cell.B)
            self.call = self._step
        else:
            self.xs = xs
            self.layer = gru if settings.precision == "float32" else net.layers[0]
            self.call = self._sequence if settings.threads == 1 else self._threaded

    def _sequence(self, k: int) -> None:
        self.last = self.layer(self.xs[k], self.h0)

    def _threaded(self, k: int) -> None:
        self.last = self.layer(self.xs[k], self.h0, threads=self.threads)

    def _step(self, k: int) -> None:
        self.last = self.stream.step(self.xs[k])

    def restart(self) -> None:
        self.stream.reset()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        if self.call == self._step:
            return self.last[:, None], self.last[None]
        return self.last
