"""MNN (Alibaba), from the ONNX model, high precision, its own GRU operator."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from runners import Unusable, Work, need_float32, need_gru, onnx_model


class Runner:
    """`Module.onForward` on variables of its own, the output's memory asked for so that it is computed."""

    def __init__(self, work: Work) -> None:
        cell, tensors, xs, h0, settings = work.cell, work.tensors, work.xs, work.h0, work.settings
        need_gru(cell, "MNN")
        need_float32(settings, "MNN")
        # The converter's library, not its command: the command installs and calls a logging service.
        import _tools
        import MNN.expr as F
        import MNN.nn as nn

        self.version, self.cell, self.step = version("MNN"), cell, settings.kind == "step"
        names = ["h_n"] if self.step else ["y", "h_n"]
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "gru.onnx"), Path(folder, "gru.mnn")
            source.write_bytes(onnx_model.build(cell, tensors, settings.reset, sequence_output=not self.step))
            # Without --useOriginRNNImpl the operator becomes a While loop that ignores h0.
            _tools.mnnconvert(
                ["mnnconvert", "-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target),
                 "--bizCode", "bench", "--keepInputFormat", "1", "--useOriginRNNImpl"]
            )  # fmt: skip
            if not target.exists():
                raise Unusable("the converter refused the ONNX model")
            wanted = {"numThread": settings.threads, "precision": "high", "backend": "CPU"}
            runtime = nn.create_runtime_manager((wanted,))
            self.module = nn.load_module_from_file(
                str(target), ["x", "h0"], names, runtime_manager=runtime, shape_mutable=False
            )

        def variable(array: np.ndarray) -> Any:
            return F.const(np.ascontiguousarray(array), list(array.shape), F.NCHW)

        self.xs = [variable(x.transpose(1, 0, 2)) for x in xs]
        self.zeros = variable(np.zeros_like(h0))
        self.h0 = self.zeros if self.step else variable(h0)

    def call(self, k: int) -> None:
        self.last = self.module.onForward([self.xs[k], self.h0])
        self.last[0].ptr  # noqa: B018  (makes it compute)
        if self.step:
            self.h0 = self.last[0]

    def restart(self) -> None:
        self.h0 = self.zeros

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        cell = self.cell
        if self.step:
            h = np.array(self.h0.read()).reshape(1, cell.B, cell.H)
            return h.transpose(1, 0, 2), h
        y, h_n = (np.array(variable.read()) for variable in self.last)
        sides = [cell.D] if cell.D == 2 else []
        return (
            onnx_model.batch_first(y.reshape(cell.T, *sides, cell.B, cell.H), cell),
            h_n.reshape(cell.L * cell.D, cell.B, cell.H),
        )
