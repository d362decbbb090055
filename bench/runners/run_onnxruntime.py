"""ONNX Runtime on the CPU with IO binding: inputs and outputs bound beforehand, nothing copied per call.

int8 is its own dynamic quantization of the ONNX model, which knows the LSTM (DynamicQuantizeLSTM) and no GRU.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np

from runners import Unusable, Work, onnx_model


class Runner:
    """One binding per input; for steps the state moves between two bound buffers."""

    def __init__(self, work: Work) -> None:
        cell, tensors, xs, h0, settings = work.cell, work.tensors, work.xs, work.h0, work.settings
        if settings.precision not in ("float32", "int8"):
            raise Unusable(f"ONNX Runtime has no {settings.precision} for this")
        if settings.precision == "int8" and cell.unit == "gru":
            raise Unusable("ONNX Runtime does not quantize a GRU")
        import onnxruntime as ort

        step = settings.kind == "step"
        if step and len(xs) % 2:
            raise ValueError("the two state buffers need an even number of inputs")
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        self.version, self.cell, self.step = ort.__version__, cell, step
        model = onnx_model.build(cell, tensors, settings.reset, sequence_output=not step)
        if settings.precision == "int8":
            model = _quantized(model)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        value = ort.OrtValue.ortvalue_from_numpy
        state = np.zeros_like(h0) if step else h0
        self.states = [value(state), value(np.zeros_like(state))]
        self.memory = [] if work.c0 is None else [value(work.c0), value(np.zeros_like(work.c0))]
        if not step:
            shape = [cell.T, cell.B, cell.H] if cell.D == 1 else [cell.T, 2, cell.B, cell.H]
            self.y = value(np.zeros(shape, np.float32))
        self.bindings = []
        for k, x in enumerate(xs):
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", value(np.ascontiguousarray(x.transpose(1, 0, 2))))
            binding.bind_ortvalue_input("h0", self.states[k % 2 if step else 0])
            binding.bind_ortvalue_output("h_n", self.states[(k + 1) % 2 if step else 1])
            if self.memory:
                binding.bind_ortvalue_input("c0", self.memory[0])
                binding.bind_ortvalue_output("c_n", self.memory[1])
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

    def result(self) -> tuple[np.ndarray, ...]:
        if self.step:
            h = self.states[self.latest].numpy()
            return h.transpose(1, 0, 2), h
        states = [pair[1].numpy() for pair in (self.states, self.memory) if pair]
        return onnx_model.batch_first(self.y.numpy(), self.cell), *states


def _quantized(model: bytes) -> bytes:
    """Weights in int8, a scale per column of each direction's matrices, as its tool writes them."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # "consider to run pre-processing"
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
        quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
        content = target.read_bytes()
    if b"DynamicQuantizeLSTM" not in content:
        raise Unusable("ONNX Runtime's tool left the LSTM as it was")
    return content
