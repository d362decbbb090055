"""One step of the decoder of decode.py as an ONNX graph, and its loops by ONNX Runtime and OpenVINO.

The choice of a token (ArgMax), of beams (TopK, and the gathering of their states) and of a forecast's value stand in
the graph. Two sets of buffers take turns, bound once, so that nothing is copied between two steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from decode_torch import best_path

WAYS = ("ONNX Runtime", "OpenVINO")

#: What a step gives for the next step's inputs.
PAIRS = {"h": "hn", "token": "next", "total": "totals"}
OUTPUTS = (*PAIRS.values(), "parent", "value")


def graph(w: dict[str, np.ndarray], attention: bool, rows: int, kind: str, letters: int = 0) -> bytes:
    """A step of ``kind`` greedy, beam or forecast, of so many rows; or "history": a GRU over ``letters`` frames."""
    from onnx import TensorProto, helper, numpy_helper

    hidden, vocabulary = w["w_hh"].shape[1], len(w["embedding"])
    info, node = helper.make_tensor_value_info, helper.make_node

    def zrh(array: np.ndarray) -> np.ndarray:
        r, z, n = np.split(array, 3)
        return np.concatenate([z, r, n])

    constants = {
        "table": w["embedding"], "W": zrh(w["w_ih"])[None], "R": zrh(w["w_hh"])[None],
        "B": np.concatenate([zrh(w["b_ih"]), zrh(w["b_hh"])])[None], "out": w["both" if attention else "out"],
        "bias": w["bias"], "time": np.array([0]), "last": np.array([2]), "flat": np.array([1, -1]),
        "k": np.array([rows]), "v": np.array(vocabulary), "column": np.array([rows, 1]), "row": np.array([rows]),
        "one": np.array([1]),
    }  # fmt: skip
    state = info("h", TensorProto.FLOAT, [1, rows, hidden])
    after = info("hn", TensorProto.FLOAT, [1, rows, hidden])

    def gru(x: str, made: str) -> Any:
        return node("GRU", [x, "W", "R", "B", "", "h"], ["y", made], hidden_size=hidden, linear_before_reset=1)

    if kind == "history":
        frames = info("x", TensorProto.FLOAT, [letters, rows, w["w_ih"].shape[1]])
        nodes, inputs, outputs = [gru("x", "hn")], [frames, state], [after]
    elif kind == "forecast":
        nodes = [
            node("Squeeze", ["h", "time"], ["h2"]),
            node("Gemm", ["h2", "out", "bias"], ["said"], transB=1),
            node("Split", ["said"], ["mean", "scale"], axis=1, num_outputs=2),
            node("Exp", ["scale"], ["deviation"]),
            node("Mul", ["deviation", "noise"], ["aside"]),
            node("Add", ["mean", "aside"], ["value"]),
            node("Unsqueeze", ["value", "time"], ["x"]),
            gru("x", "hn"),
        ]
        inputs = [state, info("noise", TensorProto.FLOAT, [rows, 1])]
        outputs = [info("value", TensorProto.FLOAT, [rows, 1]), after]
    else:
        nodes = [node("Gather", ["table", "token"], ["x2"]), node("Unsqueeze", ["x2", "time"], ["x"]), gru("x", "h1")]
        nodes.append(node("Squeeze", ["h1", "time"], ["h2"]))
        inputs = [info("token", TensorProto.INT64, [rows]), state]
        outputs = [info("next", TensorProto.INT64, [rows]), after]
        if attention:
            nodes += [
                node("Unsqueeze", ["h2", "last"], ["query"]),
                node("MatMul", ["key", "query"], ["scores"]),
                node("Softmax", ["scores"], ["weights"], axis=1),
                node("Mul", ["weights", "memory"], ["parts"]),
                node("ReduceSum", ["parts", "one"], ["context"], keepdims=0),
                node("Concat", ["h2", "context"], ["joined"], axis=1),
            ]
            inputs += [info(name, TensorProto.FLOAT, [rows, letters, hidden]) for name in ("key", "memory")]
        nodes.append(node("Gemm", ["joined" if attention else "h2", "out", "bias"], ["logits"], transB=1))
        if kind == "beam":
            nodes += [
                node("LogSoftmax", ["logits"], ["log"], axis=1),
                node("Add", ["log", "total"], ["sums"]),
                node("Reshape", ["sums", "flat"], ["line"]),
                node("TopK", ["line", "k"], ["best", "at"], axis=1),
                node("Reshape", ["at", "row"], ["places"]),
                node("Div", ["places", "v"], ["parent"]),
                node("Mod", ["places", "v"], ["next"]),
                node("Reshape", ["best", "column"], ["totals"]),
                node("Gather", ["h1", "parent"], ["hn"], axis=1),
            ]
            inputs.append(info("total", TensorProto.FLOAT, [rows, 1]))
            outputs += [info("totals", TensorProto.FLOAT, [rows, 1]), info("parent", TensorProto.INT64, [rows])]
        else:
            nodes += [node("ArgMax", ["logits"], ["next"], axis=1, keepdims=0), node("Identity", ["h1"], ["hn"])]
    used = {name for one in nodes for name in one.input}
    weights = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items() if name in used]
    model = helper.make_model(
        helper.make_graph(nodes, "step", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    made: bytes = model.SerializeToString()
    return made


class OnnxSteps:
    """Steps by ONNX Runtime: values of its own, bound by IO binding."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.make = ort.OrtValue.ortvalue_from_numpy
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.shapes = {out.name: (out.shape, np.int64 if "int64" in out.type else np.float32)
                       for out in self.session.get_outputs()}  # fmt: skip

    def begin(self, given: Mapping[str, np.ndarray]) -> None:
        """Bind the first step's inputs; those of a pair take turns with what a step gives for them."""
        self.turns = {name: [self.make(array.copy()), self.make(array.copy())] for name, array in given.items()}
        self.made = {name: self.make(np.zeros(shape, kind)) for name, (shape, kind) in self.shapes.items()}
        self.bindings = []
        for way in range(2):
            binding = self.session.io_binding()
            for name in given:
                binding.bind_ortvalue_input(name, self.turns[name][way if name in PAIRS else 0])
            for name in self.shapes:
                back = [given_name for given_name, made in PAIRS.items() if made == name and given_name in given]
                binding.bind_ortvalue_output(name, self.turns[back[0]][1 - way] if back else self.made[name])
            self.bindings.append(binding)

    def put(self, name: str, array: np.ndarray) -> None:
        self.turns[name][0].update_inplace(array)

    def step(self, t: int) -> None:
        self.session.run_with_iobinding(self.bindings[t % 2])

    def get(self, name: str, t: int) -> np.ndarray:
        """What step t gave."""
        back = [given for given, made in PAIRS.items() if made == name and given in self.turns]
        value = self.turns[back[0]][1 - t % 2] if back else self.made[name]
        found: np.ndarray = value.numpy()
        return found


class OpenVinoSteps:
    """Steps by OpenVINO: an infer request each way, over arrays that both share."""

    def __init__(self, model: bytes) -> None:
        import openvino as ov

        self.ov = ov
        told = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        core = ov.Core()
        self.compiled = core.compile_model(core.read_model(model), "CPU", told)

    def begin(self, given: Mapping[str, np.ndarray]) -> None:
        self.turns = {name: [array.copy(), array.copy()] for name, array in given.items()}
        self.made: dict[str, np.ndarray] = {}
        self.requests, self.bound = [], []  # a request does not keep its arrays alive
        for way in range(2):
            request = self.compiled.create_infer_request()
            for name in given:
                tensor = self.ov.Tensor(self.turns[name][way if name in PAIRS else 0], shared_memory=True)
                request.set_tensor(name, tensor)
                self.bound.append(tensor)
            for out in self.compiled.outputs:
                name = next(name for name in OUTPUTS if name in out.names)
                back = [given_name for given_name, made in PAIRS.items() if made == name and given_name in given]
                if not back and name not in self.made:
                    self.made[name] = np.zeros(list(out.shape), out.element_type.to_dtype())
                tensor = self.ov.Tensor(self.turns[back[0]][1 - way] if back else self.made[name], shared_memory=True)
                request.set_tensor(name, tensor)
                self.bound.append(tensor)
            self.requests.append(request)

    def put(self, name: str, array: np.ndarray) -> None:
        self.turns[name][0][...] = array

    def step(self, t: int) -> None:
        self.requests[t % 2].infer(share_outputs=True)

    def get(self, name: str, t: int) -> np.ndarray:
        back = [given for given, made in PAIRS.items() if made == name and given in self.turns]
        return self.turns[back[0]][1 - t % 2] if back else self.made[name]


class Graphs:
    """The loops over one of :data:`WAYS`."""

    def __init__(self, way: str, w: dict[str, np.ndarray], attention: bool, rows: int, kind: str, letters: int) -> None:
        steps: Any = OnnxSteps if way == "ONNX Runtime" else OpenVinoSteps
        self.rows, self.hidden, self.attention, self.w = rows, w["w_hh"].shape[1], attention, w
        self.steps = steps(graph(w, attention, rows, kind, letters))
        self.history: Any = steps(graph(w, attention, 1, "history", letters)) if kind == "forecast" else None

    def _begin(self, h: np.ndarray, memory: np.ndarray, more: Mapping[str, np.ndarray]) -> None:
        given = {"h": self._rows(h)[None], "token": np.zeros(self.rows, np.int64), **more}
        if self.attention:
            given |= {"key": self._rows(memory @ self.w["key"].T), "memory": self._rows(memory)}
        self.steps.begin(given)

    def _rows(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.broadcast_to(array, (self.rows, *array.shape[1:])))

    def greedy(self, h: np.ndarray, memory: np.ndarray, steps: int) -> np.ndarray:
        self._begin(h, memory, {})
        found = []
        for t in range(steps):
            self.steps.step(t)
            found.append(self.steps.get("next", t).copy())
        return np.stack(found, 1)

    def beam(self, h: np.ndarray, memory: np.ndarray, steps: int, width: int) -> np.ndarray:
        # Only the first of the beams stands for anything yet.
        self._begin(h, memory, {"total": np.array([[0.0]] + [[-1e30]] * (width - 1), np.float32)})
        tokens, parents = [], []
        for t in range(steps):
            self.steps.step(t)
            tokens.append(self.steps.get("next", t).copy())
            parents.append(self.steps.get("parent", t).copy())
        return best_path(tokens, parents)

    def paths(self, history: np.ndarray, noise: np.ndarray) -> np.ndarray:
        self.history.begin({"x": history[:, None], "h": np.zeros((1, 1, self.hidden), np.float32)})
        self.history.step(0)
        self.steps.begin({"h": self._rows(self.history.get("hn", 0)[0])[None], "noise": noise[0]})
        made = np.empty((len(noise), self.rows), np.float32)
        for t, drawn in enumerate(noise):
            self.steps.put("noise", drawn)
            self.steps.step(t)
            made[t] = self.steps.get("value", t)[:, 0]
        return made.T
