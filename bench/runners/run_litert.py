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

        def build(part: str) -> tuple[Any, list[int], list[int]]:
            content = _model(cell, work.tensors, settings.precision == "int8", part)
            interpreter = Interpreter(model_content=content, num_threads=settings.threads)
            interpreter.allocate_tensors()
            details = (interpreter.get_input_details(), interpreter.get_output_details())
            inputs, outputs = ([entry["index"] for entry in entries] for entries in details)
            return interpreter, inputs, outputs

        self.interpreter, self.inputs, (self.out_index,) = build("step" if settings.kind == "step" else "recurrent")
        if settings.kind == "step":
            self.xs = [np.ascontiguousarray(x[:, 0]) for x in work.xs]
            self.h = np.zeros((cell.B, cell.H), np.float32)
        else:
            self.projection, self.projection_inputs, self.projection_outputs = build("projection")
            self.sequences = [x.transpose(1, 0, 2).reshape(cell.T * cell.B, cell.I) for x in work.xs]
            self.h0 = work.h0[0]
        self.call = self._step if settings.kind == "step" else self._sequence

    def _step(self, k: int) -> None:
        interpreter = self.interpreter
        x_index, h_index = self.inputs
        interpreter.set_tensor(x_index, self.xs[k])
        interpreter.set_tensor(h_index, self.h)
        interpreter.invoke()
        self.h = interpreter.get_tensor(self.out_index)

    def _sequence(self, k: int) -> None:
        """The input side of all steps in one invocation, then an invocation a step."""
        interpreter, projection, cell = self.interpreter, self.projection, self.cell
        projection.set_tensor(self.projection_inputs[0], self.sequences[k])
        projection.invoke()
        # Views of the results, not copies.
        rz, n = (projection.tensor(index)().reshape(cell.T, cell.B, -1) for index in self.projection_outputs)
        invoke, give, take = interpreter.invoke, interpreter.set_tensor, interpreter.get_tensor
        rz_index, n_index, h_index = self.inputs
        out_index, h, steps = self.out_index, self.h0, []
        for rz_t, n_t in zip(rz, n, strict=True):
            give(rz_index, rz_t)
            give(n_index, n_t)
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


def _model(cell: Cell, tensors: dict[str, np.ndarray], int8: bool, part: str) -> bytes:
    """Reset after; int8 weights symmetric per output row. By `part`:

    step:       inputs x (B, I) and h (B, H), output h' (B, H)
    projection: input x (T·B, I), outputs W_rz x + b (T·B, 2H) and W_n x + b (T·B, H)
    recurrent:  inputs those two of one step, (B, 2H) and (B, H), and h (B, H), output h' (B, H)
    """
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
        out = tensor((*arrays[source].shape[:-1], len(bias)))
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
    if part == "recurrent":
        side_rz, side_n = inputs = [tensor((B, 2 * H)), tensor((B, H))]
    else:
        inputs = [tensor((B if part == "step" else cell.T * B, I))]
        side_rz = linear(inputs[0], w[rz], b_w[rz])
        side_n = linear(inputs[0], w[2 * H :], b_w[2 * H :])
    outputs = [side_rz, side_n]
    if part != "projection":
        h = tensor((B, H))
        inputs.append(h)
        sums = elementwise("ADD", side_rz, linear(h, r[rz], b_r[rz]), width=2 * H)
        gates = elementwise("LOGISTIC", sums, width=2 * H)
        reset, update = tensor((B, H)), tensor((B, H))
        split = schema.SplitOptionsT()
        split.numSplits = 2
        operator("SPLIT", [tensor((), np.array(1, np.int32)), gates], [reset, update], split)
        inner = elementwise("MUL", reset, linear(h, r[2 * H :], b_r[2 * H :]))
        n = elementwise("TANH", elementwise("ADD", side_n, inner))
        outputs = [elementwise("ADD", n, elementwise("MUL", update, elementwise("SUB", h, n)))]

    graph, model = schema.SubGraphT(), schema.ModelT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = arrays, inputs, outputs, operators
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
