"""OpenVINO: GRUSequence (linear_before_reset for reset-after) or LSTMSequence, tensors prebound, precision named."""

from __future__ import annotations

from typing import Any

import numpy as np
from cells import Cell

from runners import Unusable, Work, onnx_model


class Runner:
    """One infer request per input, all of one compiled model; batch-first, which costs it nothing extra.

    The precision is always asked for by name: left alone, OpenVINO computes in bf16 where the CPU has it.
    """

    def __init__(self, work: Work) -> None:
        cell, tensors, xs, h0, settings = work.cell, work.tensors, work.xs, work.h0, work.settings
        import openvino as ov

        hint = {"float32": "f32", "bf16": "bf16"}.get(settings.precision)
        if hint is None:
            raise Unusable(f"OpenVINO has no {settings.precision} for this")
        core = ov.Core()
        if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise Unusable("OpenVINO finds no bf16 in this CPU")
        self.step = settings.kind == "step"
        self.version, self.cell = ov.__version__, cell
        compiled = core.compile_model(
            _model(cell, tensors, settings.reset),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": hint,
                "INFERENCE_NUM_THREADS": settings.threads,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,  # the process is pinned already
            },
        )
        # Initial states are (B, D, H) per layer here, each layer with an input of its own.
        given = [h0] if work.c0 is None else [h0, work.c0]
        states = [
            np.ascontiguousarray(array[layer * cell.D : (layer + 1) * cell.D].transpose(1, 0, 2))
            for layer in range(cell.L)
            for array in given
        ]
        if self.step:
            self.buffers = [np.zeros_like(states[0]), np.zeros_like(states[0])]
        self.requests = []
        self.bound = []  # an infer request does not keep the arrays alive
        for k, x in enumerate(xs):
            request = compiled.create_infer_request()
            arrays = [x, self.buffers[k % 2]] if self.step else [x, *states]
            for index, array in enumerate(arrays):
                tensor = ov.Tensor(array, shared_memory=True)
                request.set_input_tensor(index, tensor)
                self.bound.append((array, tensor))
            if self.step:
                request.set_output_tensor(1, ov.Tensor(self.buffers[(k + 1) % 2], shared_memory=True))
            self.requests.append(request)
        self.latest = self.requests[0]

    def call(self, k: int) -> None:
        self.latest = self.requests[k]
        self.latest.infer(share_outputs=True)

    def restart(self) -> None:
        self.buffers[0][...] = 0

    def result(self) -> tuple[np.ndarray, ...]:
        """y from (B, D, T, H), h_n from one (B, D, H) per layer; an LSTM's h_n and c_n take turns."""
        cell, request = self.cell, self.latest
        y = request.get_output_tensor(0).data.transpose(0, 2, 1, 3).reshape(cell.B, cell.T, cell.D * cell.H)
        kinds = 2 if cell.unit == "lstm" else 1
        finals = [request.get_output_tensor(1 + k).data.transpose(1, 0, 2) for k in range(kinds * cell.L)]
        return y.copy(), *(np.concatenate(finals[kind::kinds]) for kind in range(kinds))


def _model(cell: Cell, tensors: dict[str, np.ndarray], reset: str) -> Any:
    """One sequence operator per layer: outputs y (B, D, T, H) of the last and h_n (and c_n) (B, D, H) of each."""
    import openvino as ov
    import openvino.opset13 as ops

    H, D = cell.H, cell.D
    x = ops.parameter([cell.B, cell.T, cell.I], np.float32, name="x")
    parameters, finals = [x], []
    lengths = ops.constant(np.full(cell.B, cell.T, dtype=np.int32))
    y = x.output(0)
    for layer in range(cell.L):
        w, r, b_ih, b_hh = onnx_model.layer_arrays(cell, tensors, layer)
        if cell.unit == "lstm":
            w, r, b_ih, b_hh = (_gates_fico(array, H) for array in (w, r, b_ih, b_hh))
            bias = b_ih + b_hh
        elif reset == "after":  # biases z, r summed; those of h apart
            bias = np.concatenate([(b_ih + b_hh)[:, : 2 * H], b_ih[:, 2 * H :], b_hh[:, 2 * H :]], axis=1)
        else:
            bias = b_ih + b_hh
        letters = ("h", "c") if cell.unit == "lstm" else ("h",)
        begins = [ops.parameter([cell.B, D, H], np.float32, name=f"{letter}0_{layer}") for letter in letters]
        parameters += begins
        constants = [ops.constant(array) for array in (w, r, bias)]
        side = "bidirectional" if D == 2 else "forward"
        if cell.unit == "lstm":
            node = ops.lstm_sequence(y, *begins, lengths, *constants, H, side)
        else:
            node = ops.gru_sequence(y, *begins, lengths, *constants, H, side, linear_before_reset=reset == "after")
        y = node.output(0)
        finals += [node.output(1 + k) for k in range(len(letters))]
        if layer < cell.L - 1:  # (B, D, T, H) → (B, T, D·H)
            swapped = ops.transpose(y, ops.constant(np.array([0, 2, 1, 3])))
            y = ops.reshape(swapped, ops.constant(np.array([cell.B, cell.T, D * H])), False).output(0)
    return ov.Model([y, *finals], parameters, cell.unit)


def _gates_fico(array: np.ndarray, H: int) -> np.ndarray:
    """Reorder gates along the second axis from ONNX's i, o, f, c to OpenVINO's f, i, c, o."""
    i, o, f, c = (array[:, gate * H : (gate + 1) * H] for gate in range(4))
    return np.concatenate([f, i, c, o], axis=1)
