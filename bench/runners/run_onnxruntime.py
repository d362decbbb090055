"""ONNX Runtime on the CPU with IO binding: inputs and outputs bound beforehand, nothing copied per call."""

from __future__ import annotations

import numpy as np

from runners import Work, need_float32, onnx_model


class Runner:
    """One binding per input; for steps the state moves between two bound buffers."""

    def __init__(self, work: Work) -> None:
        cell, tensors, xs, h0, settings = work.cell, work.tensors, work.xs, work.h0, work.settings
        need_float32(settings, "ONNX Runtime")
        import onnxruntime as ort

        step = settings.kind == "step"
        if step and len(xs) % 2:
            raise ValueError("the two state buffers need an even number of inputs")
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        self.version, self.cell, self.step = ort.__version__, cell, step
        model = onnx_model.build(cell, tensors, settings.reset, sequence_output=not step)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        value = ort.OrtValue.ortvalue_from_numpy
        state = np.zeros_like(h0) if step else h0
        self.states = [value(state), value(np.zeros_like(state))]
        if not step:
            shape = [cell.T, cell.B, cell.H] if cell.D == 1 else [cell.T, 2, cell.B, cell.H]
            self.y = value(np.zeros(shape, np.float32))
        self.bindings = []
        for k, x in enumerate(xs):
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", value(np.ascontiguousarray(x.transpose(1, 0, 2))))
            binding.bind_ortvalue_input("h0", self.states[k % 2 if step else 0])
            binding.bind_ortvalue_output("h_n", self.states[(k + 1) % 2 if step else 1])
            if not step:
                binding.bind_ortvalue_output("y", self.y)
            self.bindings.append(binding)
        self.run = session.run_with_iobinding
        self.latest = 1

    def call(self, k: int) -> None:
        self.run(self.bindings[k])
        self.latest = (k + 1) % 2

    def restart(self) -> None:
        self.states[0].update_inplace(np.zeros((1, self.cell.B, self.cell.H), np.float32))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        if self.step:
            h = self.states[self.latest].numpy()
            return h.transpose(1, 0, 2), h
        return onnx_model.batch_first(self.y.numpy(), self.cell), self.states[1].numpy()
