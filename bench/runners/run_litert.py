"""LiteRT (TensorFlow Lite), a step per invocation, float32 or int8 weights ("dynamic range"), XNNPACK inside.

The model is written with the schema classes the package carries, since no converter runs without
TensorFlow: fully-connected, split, logistic, tanh and three elementwise operators.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from cells import Cell

from runners import Unusable, Work, need_gru, need_reset_after


class Runner:
    """set_tensor, invoke, get_tensor: the state is carried by the caller, as the interface asks."""

    def __init__(self, work: Work) -> None:
        cell, settings = work.cell, work.settings
        need_gru(cell, "LiteRT")
        need_reset_after(settings, "this LiteRT model")
        if cell.L > 1 or cell.D > 1:
            raise Unusable("LiteRT is compared on one layer and direction: it has no GRU, the steps are called")
        if settings.precision not in ("float32", "int8"):
            raise Unusable(f"this LiteRT model has no {settings.precision}")
        from ai_edge_litert.interpreter import Interpreter

        self.version, self.cell = version("ai-edge-litert"), cell
        content = _model(cell, work.tensors, settings.precision == "int8")
        self.interpreter = Interpreter(model_content=content, num_threads=settings.threads)
        self.interpreter.allocate_tensors()
        self.x_index, self.h_index = (entry["index"] for entry in self.interpreter.get_input_details())
        (self.out_index,) = (entry["index"] for entry in self.interpreter.get_output_details())
        if settings.kind == "step":
            self.xs = [np.ascontiguousarray(x[:, 0]) for x in work.xs]
            self.h = np.zeros((cell.B, cell.H), np.float32)
        else:  # each step's input contiguous
            self.sequences = [np.ascontiguousarray(x.transpose(1, 0, 2)) for x in work.xs]
            self.h0 = work.h0[0]
        self.call = self._step if settings.kind == "step" else self._sequence

    def _step(self, k: int) -> None:
        interpreter = self.interpreter
        interpreter.set_tensor(self.x_index, self.xs[k])
        interpreter.set_tensor(self.h_index, self.h)
        interpreter.invoke()
        self.h = interpreter.get_tensor(self.out_index)

    def _sequence(self, k: int) -> None:
        interpreter = self.interpreter
        invoke, give, take = interpreter.invoke, interpreter.set_tensor, interpreter.get_tensor
        x_index, h_index, out_index = self.x_index, self.h_index, self.out_index
        h, steps = self.h0, []
        for x in self.sequences[k]:
            give(x_index, x)
            give(h_index, h)
            invoke()
            h = take(out_index)
            steps.append(h)
        self.h, self.y = h, np.stack(steps)

    def restart(self) -> None:
        self.h = np.zeros_like(self.h)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        if self.call == self._sequence:
            return self.y.transpose(1, 0, 2), self.h[None]
        return self.h[:, None], self.h[None]


def _model(cell: Cell, tensors: dict[str, np.ndarray], int8: bool) -> bytes:
    """Inputs x (B, I) and h (B, H), output h' (B, H), reset after; int8 weights symmetric per output row."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    B, I, H = cell.B, cell.I, cell.H  # noqa: E741
    operators: list[Any] = []
    arrays: list[Any] = []
    codes: list[int] = []
    buffers = [schema.BufferT()]

    def tensor(shape: tuple[int, ...], data: np.ndarray | None = None, scale: np.ndarray | None = None) -> int:
        entry = schema.TensorT()
        entry.shape, entry.name, entry.buffer = list(shape), f"t{len(arrays)}", 0
        entry.type = schema.TensorType.FLOAT32
        if data is not None:
            entry.type = getattr(schema.TensorType, data.dtype.name.upper())
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            buffers.append(buffer)
            entry.buffer = len(buffers) - 1
        if scale is not None:
            entry.quantization = schema.QuantizationParametersT()
            entry.quantization.scale = scale.astype(np.float32)
            entry.quantization.zeroPoint = np.zeros(len(scale), np.int64)
            entry.quantization.quantizedDimension = 0
        arrays.append(entry)
        return len(arrays) - 1

    def operator(kind: str, inputs: list[int], outputs: list[int], options: object = None) -> None:
        code = getattr(schema.BuiltinOperator, kind)
        if code not in codes:
            codes.append(code)
        entry = schema.OperatorT()
        entry.opcodeIndex, entry.inputs, entry.outputs = codes.index(code), inputs, outputs
        if options is not None:
            union = type(options).__name__.removesuffix("T")
            entry.builtinOptions, entry.builtinOptionsType = options, getattr(schema.BuiltinOptions, union)
        operators.append(entry)

    def linear(source: int, weight: np.ndarray, bias: np.ndarray) -> int:
        scale = None
        if int8:
            scale = np.abs(weight).max(axis=1) / 127
            weight = np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8)
        out = tensor((B, len(bias)))
        constants = [tensor(weight.shape, weight, scale), tensor(bias.shape, bias)]
        operator("FULLY_CONNECTED", [source, *constants], [out], schema.FullyConnectedOptionsT())
        return out

    def elementwise(kind: str, *inputs: int, width: int = H) -> int:
        out = tensor((B, width))
        options = {"ADD": schema.AddOptionsT, "SUB": schema.SubOptionsT, "MUL": schema.MulOptionsT}.get(kind)
        operator(kind, list(inputs), [out], options() if options else None)
        return out

    w, r = tensors["weight_ih_l0"], tensors["weight_hh_l0"]
    b_w, b_r = tensors["bias_ih_l0"], tensors["bias_hh_l0"]
    rz = slice(0, 2 * H)
    x, h = tensor((B, I)), tensor((B, H))
    sums = elementwise("ADD", linear(x, w[rz], b_w[rz]), linear(h, r[rz], b_r[rz]), width=2 * H)
    gates = elementwise("LOGISTIC", sums, width=2 * H)
    reset, update = tensor((B, H)), tensor((B, H))
    split = schema.SplitOptionsT()
    split.numSplits = 2
    operator("SPLIT", [tensor((), np.array(1, np.int32)), gates], [reset, update], split)
    inner = elementwise("MUL", reset, linear(h, r[2 * H :], b_r[2 * H :]))
    n = elementwise("TANH", elementwise("ADD", linear(x, w[2 * H :], b_w[2 * H :]), inner))
    out = elementwise("ADD", n, elementwise("MUL", update, elementwise("SUB", h, n)))

    graph, model = schema.SubGraphT(), schema.ModelT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = arrays, [x, h], [out], operators
    graph.name = "gru"
    model.version, model.subgraphs, model.buffers, model.description = 3, [graph], buffers, "gru step"
    model.operatorCodes = []
    for code in codes:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode = code, min(code, 127)
        # Hybrid (float by int8, scale per row) fully-connected is version 9 on; 3 is the first hybrid one.
        entry.version = 9 if code == schema.BuiltinOperator.FULLY_CONNECTED and int8 else 1
        model.operatorCodes.append(entry)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
