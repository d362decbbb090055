"""tract (Sonos), from the ONNX model, inputs as its own tensors; single-threaded by nature."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from runners import Unusable, Work, need_float32, onnx_model


class Runner:
    """`Runnable.run`, outputs left as tract tensors (a copy into numpy would be timed otherwise)."""

    def __init__(self, work: Work) -> None:
        cell, tensors, xs, h0, settings = work.cell, work.tensors, work.xs, work.h0, work.settings
        need_float32(settings, "tract")
        if settings.threads != 1:
            raise Unusable("tract runs a GRU on one thread")
        import tract

        self.version, self.cell, self.step = tract.version(), cell, settings.kind == "step"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "gru.onnx")
            path.write_bytes(onnx_model.build(cell, tensors, settings.reset, sequence_output=not self.step))
            model = tract.onnx().load(path)
            self.runnable = model.into_model().into_runnable()
        tensor = tract.Tensor.from_numpy
        self.xs = [tensor(np.ascontiguousarray(x.transpose(1, 0, 2))) for x in xs]
        self.zeros = tensor(np.zeros_like(h0))
        self.h0 = self.zeros if self.step else tensor(h0)
        self.memory = [] if work.c0 is None else [tensor(work.c0)]

    def call(self, k: int) -> None:
        # A fresh state per run is what `run` makes; a reused one carries h over and ignores h0.
        self.last = self.runnable.run([self.xs[k], self.h0, *self.memory])
        if self.step:
            self.h0 = self.last[0]

    def restart(self) -> None:
        self.h0 = self.zeros

    def result(self) -> tuple[np.ndarray, ...]:
        if self.step:
            h = self.h0.to_numpy()
            return h.transpose(1, 0, 2), h
        y, *states = (tensor.to_numpy() for tensor in self.last)
        return onnx_model.batch_first(y, self.cell), *states
