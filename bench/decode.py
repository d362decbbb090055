"""Decoding: a token, a beam or a forecast's step at a time, against PyTorch's eager loop and ONNX Runtime's.

    python bench/decode.py                    # all questions, one core; JSON with --json
    python bench/decode.py --only greedy,top_k

ONNX Runtime chooses the token inside its graph, its states stay bound to buffers of its own (IO binding), and for a
beam TopK and the gathering of states are inside as well. Weights are random and the same for all; what each finds is
compared before anything is timed. Figures are medians of rounds taken in turn, in µs a step of all rows together.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

import cgru  # noqa: E402

HIDDEN, VOCABULARY, STEPS, LETTERS = 256, 74, 100, 12
ROUNDS = 15


def arrays(hidden: int, vocabulary: int, inputs: int | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)

    inputs = hidden if inputs is None else inputs
    return {
        "embedding": draw(vocabulary, inputs) * 4, "w_ih": draw(3 * hidden, inputs), "w_hh": draw(3 * hidden, hidden),
        "b_ih": draw(3 * hidden), "b_hh": draw(3 * hidden), "out": draw(vocabulary, hidden) * 4,
        "bias": draw(vocabulary), "key": draw(hidden, hidden), "both": draw(vocabulary, 2 * hidden) * 4,
    }  # fmt: skip


def decoder(w: dict[str, np.ndarray], attention: bool) -> cgru.Model:
    d = cgru.Graph()
    token, hidden = d.input(name="token", dtype="int64"), len(w["key"])
    h0 = d.input(hidden, name="h0", time=False)
    gru = cgru.GRU.from_arrays(w["w_ih"], w["w_hh"], w["b_ih"], w["b_hh"])
    y = d.layer(gru, d.layer(cgru.Embedding(w["embedding"]), token), h0)
    if attention:
        memory = d.input(hidden, name="memory", time="memory")
        key = d.dense(memory, units=hidden, weights={"weight": w["key"]})
        y = d.concat(y, d.attend(y, key, memory, memory=True))
    d.output(d.layer(cgru.Dense(w["both" if attention else "out"], w["bias"]), y))
    return cgru.Model(d)


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


class Torch:
    """The same decoder as a module, and its loops."""

    def __init__(self, w: dict[str, np.ndarray], attention: bool) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch, self.w, self.attention = torch, {name: torch.tensor(a) for name, a in w.items()}, attention
        self.cell = torch.nn.GRUCell(w["w_ih"].shape[1], w["w_hh"].shape[1])
        names = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
        self.cell.load_state_dict({name: self.w[of] for name, of in names.items()})

    def logits(self, token: Any, h: Any, memory: Any, key: Any) -> tuple[Any, Any]:
        h = self.cell(self.w["embedding"][token], h)
        if not self.attention:
            return self.torch.addmm(self.w["bias"], h, self.w["out"].T), h
        weights = self.torch.softmax(self.torch.bmm(key, h[:, :, None])[:, :, 0], 1)
        context = self.torch.bmm(weights[:, None], memory)[:, 0]
        return self.torch.addmm(self.w["bias"], self.torch.cat([h, context], 1), self.w["both"].T), h

    def greedy(self, h: Any, memory: Any, steps: int) -> Any:
        torch = self.torch
        with torch.inference_mode():
            key = memory @ self.w["key"].T
            token, found = torch.zeros(len(h), dtype=torch.long), []
            for _ in range(steps):
                logits, h = self.logits(token, h, memory, key)
                token = logits.argmax(1)
                found.append(token)
            return torch.stack(found, 1)

    def beam(self, h: Any, memory: Any, steps: int, width: int) -> Any:
        torch = self.torch
        with torch.inference_mode():
            key = memory @ self.w["key"].T
            token, total = torch.zeros(1, dtype=torch.long), torch.zeros(1, 1)
            paths = torch.zeros(1, 0, dtype=torch.long)
            for _ in range(steps):
                n = len(token)
                logits, h = self.logits(token, h, memory.expand(n, -1, -1), key.expand(n, -1, -1))
                scores = total + torch.log_softmax(logits, 1)
                best, at = scores.flatten().topk(width)
                parent, token = at // logits.shape[1], at % logits.shape[1]
                h, total = h[parent], best[:, None]
                paths = torch.cat([paths[parent], token[:, None]], 1)
            return paths[0]


# ---- ONNX Runtime ----------------------------------------------------------------------------------------------------


class Onnx:
    """One step as an ONNX graph, and its loop over bound buffers. ``width``: a beam of one input, else greedy."""

    def __init__(self, w: dict[str, np.ndarray], attention: bool, rows: int, width: int = 0) -> None:
        import onnxruntime as ort
        from onnx import TensorProto, helper, numpy_helper

        hidden, vocabulary = w["w_hh"].shape[1], len(w["embedding"])
        self.rows, self.hidden, self.attention, self.width = width or rows, hidden, attention, width

        def zrh(array: np.ndarray) -> np.ndarray:
            r, z, n = np.split(array, 3)
            return np.concatenate([z, r, n])

        constants = {
            "table": w["embedding"], "W": zrh(w["w_ih"])[None], "R": zrh(w["w_hh"])[None],
            "B": np.concatenate([zrh(w["b_ih"]), zrh(w["b_hh"])])[None], "out": w["both" if attention else "out"],
            "bias": w["bias"], "time": np.array([0]), "last": np.array([2]), "flat": np.array([1, -1]),
            "k": np.array([width or 1]), "v": np.array(vocabulary), "column": np.array([width or 1, 1]),
            "row": np.array([width or 1]), "one": np.array([1]),
        }  # fmt: skip
        nodes = [
            helper.make_node("Gather", ["table", "token"], ["x2"]),
            helper.make_node("Unsqueeze", ["x2", "time"], ["x"]),
            helper.make_node("GRU", ["x", "W", "R", "B", "", "h"], ["y", "h1"], hidden_size=hidden,
                             linear_before_reset=1),
            helper.make_node("Squeeze", ["h1", "time"], ["h2"]),
        ]  # fmt: skip
        state = "h2"
        if attention:
            nodes += [
                helper.make_node("Unsqueeze", ["h2", "last"], ["query"]),
                helper.make_node("MatMul", ["key", "query"], ["scores"]),
                helper.make_node("Softmax", ["scores"], ["weights"], axis=1),
                helper.make_node("Mul", ["weights", "memory"], ["parts"]),
                helper.make_node("ReduceSum", ["parts", "one"], ["context"], keepdims=0),
                helper.make_node("Concat", ["h2", "context"], ["joined"], axis=1),
            ]
            state = "joined"
        nodes.append(helper.make_node("Gemm", [state, "out", "bias"], ["logits"], transB=1))
        inputs = [
            helper.make_tensor_value_info("token", TensorProto.INT64, [self.rows]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, self.rows, hidden]),
        ]
        outputs = [helper.make_tensor_value_info("next", TensorProto.INT64, [self.rows])]
        if attention:
            inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [self.rows, LETTERS, hidden])
                       for name in ("key", "memory")]
        if width:
            nodes += [
                helper.make_node("LogSoftmax", ["logits"], ["log"], axis=1),
                helper.make_node("Add", ["log", "total"], ["sums"]),
                helper.make_node("Reshape", ["sums", "flat"], ["line"]),
                helper.make_node("TopK", ["line", "k"], ["best", "at"], axis=1),
                helper.make_node("Reshape", ["at", "row"], ["places"]),
                helper.make_node("Div", ["places", "v"], ["parent"]),
                helper.make_node("Mod", ["places", "v"], ["next"]),
                helper.make_node("Reshape", ["best", "column"], ["totals"]),
                helper.make_node("Gather", ["h1", "parent"], ["hn"], axis=1),
            ]
            inputs.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, [width, 1]))
            outputs += [helper.make_tensor_value_info("totals", TensorProto.FLOAT, [width, 1]),
                        helper.make_tensor_value_info("parent", TensorProto.INT64, [width])]
        else:
            nodes += [helper.make_node("ArgMax", ["logits"], ["next"], axis=1, keepdims=0),
                      helper.make_node("Identity", ["h1"], ["hn"])]
        outputs.append(helper.make_tensor_value_info("hn", TensorProto.FLOAT, [1, self.rows, hidden]))
        weights = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items()]
        graph = helper.make_graph(nodes, "step", inputs, outputs, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.ort = ort
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, h: np.ndarray, memory: np.ndarray, key: np.ndarray, steps: int) -> np.ndarray:
        make = self.ort.OrtValue.ortvalue_from_numpy
        n = self.rows
        values: dict[str, list[Any]] = {
            "h": [make(np.ascontiguousarray(np.broadcast_to(h, (n, self.hidden)))[None]) for _ in range(2)],
            "token": [make(np.zeros(n, np.int64)) for _ in range(2)],
        }
        pairs = {"h": "hn", "token": "next"}
        if self.width:  # only the first of the beams stands for anything yet
            values["total"] = [make(np.array([[0.0]] + [[-1e30]] * (n - 1), np.float32)) for _ in range(2)]
            pairs["total"] = "totals"
            parent = make(np.zeros(n, np.int64))
        fixed = [make(np.ascontiguousarray(np.broadcast_to(a, (n, *a.shape[1:])))) for a in (key, memory)]
        bindings = []
        for way in range(2):
            binding = self.session.io_binding()
            for given, made in pairs.items():
                binding.bind_ortvalue_input(given, values[given][way])
                binding.bind_ortvalue_output(made, values[given][1 - way])
            if self.attention:
                binding.bind_ortvalue_input("key", fixed[0])
                binding.bind_ortvalue_input("memory", fixed[1])
            if self.width:
                binding.bind_ortvalue_output("parent", parent)
            bindings.append(binding)
        found, parents = [], []
        for step in range(steps):
            self.session.run_with_iobinding(bindings[step % 2])
            found.append(values["token"][1 - step % 2].numpy().copy())
            if self.width:
                parents.append(parent.numpy().copy())
        if not self.width:
            return np.stack(found, 1)
        path, at = [], 0
        for tokens, before in zip(found[::-1], parents[::-1], strict=True):
            path.append(tokens[at])
            at = before[at]
        return np.array(path[::-1])


# ---- questions -------------------------------------------------------------------------------------------------------


def timed(runs: dict[str, Callable[[], Any]], per: int) -> dict[str, float]:
    """Median µs of each, in rounds taken in turn."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            spent[name].append((time.perf_counter() - begun) / per * 1e6)
    return {name: float(np.median(times)) for name, times in spent.items()}


def same(found: dict[str, Any]) -> None:
    first, *others = (np.asarray(array) for array in found.values())
    for name, other in zip(list(found)[1:], others, strict=True):
        part = (first == other).mean() if first.shape == other.shape else 0.0
        if part < 0.9:  # a tie within rounding takes two searches apart for good
            raise SystemExit(f"{name} found something else: {part:.0%} alike")


def tokens_of(rows: int, attention: bool, width: int = 0) -> dict[str, float]:
    import torch

    w, rng = arrays(HIDDEN, VOCABULARY), np.random.default_rng(2)
    net = decoder(w, attention)
    h = rng.standard_normal((rows, HIDDEN)).astype(np.float32) * 0.5
    memory = rng.standard_normal((rows, LETTERS, HIDDEN)).astype(np.float32) * 0.5
    key = memory @ w["key"].T
    given = {"h0": h, "memory": memory} if attention else {"h0": h}
    peer, graph = Torch(w, attention), Onnx(w, attention, rows, width)
    h_t, memory_t = torch.tensor(h), torch.tensor(memory)
    runs: dict[str, Callable[[], Any]] = {}
    if width:
        runs["cgru"] = lambda: cgru.beam(net, inputs=given, start=0, max_steps=STEPS, width=width).tokens[0]
        runs["PyTorch"] = lambda: peer.beam(h_t, memory_t, STEPS, width)
    else:
        runs["cgru"] = lambda: np.stack(cgru.greedy(net, inputs=given, start=0, max_steps=STEPS).tokens)
        runs["PyTorch"] = lambda: peer.greedy(h_t, memory_t, STEPS)
    runs["ONNX Runtime"] = lambda: graph.run(h, memory, key, STEPS)
    same({name: run() for name, run in runs.items()})
    return timed(runs, STEPS)


def forecast(paths: int = 200, hidden: int = 64) -> dict[str, float]:
    """A Gaussian head, its draws fed back."""
    import torch

    w = arrays(hidden, 2, inputs=1)
    gru = cgru.GRU.from_arrays(w["w_ih"], w["w_hh"], w["b_ih"], w["b_hh"])
    head, bias = w["out"] / 8, np.array([0.0, -1.0], np.float32)
    net = cgru.Model([gru, cgru.Dense(head, bias)])
    peer, steps = Torch(w, False), 52
    history = np.sin(np.arange(100, dtype=np.float32))[:, None]
    out, b = torch.tensor(head), torch.tensor(bias)
    whole = torch.nn.GRU(1, hidden, batch_first=True)
    whole.load_state_dict({f"{name}_l0": value for name, value in peer.cell.state_dict().items()})

    def by_torch() -> Any:
        with torch.inference_mode():
            _, h = whole(torch.tensor(history)[None])
            h, made = h[0].expand(paths, -1), []
            for _ in range(steps):
                y = torch.addmm(b, h, out.T)
                value = y[:, :1] + torch.exp(y[:, 1:]) * torch.randn(paths, 1)
                made.append(value)
                h = peer.cell(value, h)
            return torch.stack(made, 1)

    runs = {
        "cgru": lambda: cgru.forecast(net, history, steps=steps, paths=paths, head="gaussian", scale="log"),
        "PyTorch": by_torch,
    }
    means = [float(np.asarray(run()).mean()) for run in runs.values()]
    assert abs(means[0] - means[1]) < 0.2, means
    return timed(runs, steps)


def top_k(items: int = 1_000_000, features: int = 128, k: int = 20) -> dict[str, float]:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((items, features), np.float32)
    net, x = cgru.Model([cgru.Dense(weight)]), rng.standard_normal((1, features), np.float32)

    def by_numpy() -> np.ndarray:
        scores = weight @ x[0]
        best = np.argpartition(-scores, k)[:k]
        found: np.ndarray = best[np.argsort(-scores[best])]
        return found

    runs: dict[str, Callable[[], Any]] = {"cgru": lambda: net.top_k(x, k)[1][0], "numpy": by_numpy}
    same({name: run() for name, run in runs.items()})
    return timed(runs, 1)


QUESTIONS: dict[str, tuple[str, Callable[[], dict[str, float]]]] = {
    "greedy": ("greedy, one word", lambda: tokens_of(1, False)),
    "attention": ("greedy with attention, one word", lambda: tokens_of(1, True)),
    "batch": ("greedy, 64 words", lambda: tokens_of(64, False)),
    "batch_attention": ("greedy with attention, 64 words", lambda: tokens_of(64, True)),
    "beam": ("beam of 5, one word", lambda: tokens_of(1, False, 5)),
    "beam_attention": ("beam of 5 with attention, one word", lambda: tokens_of(1, True, 5)),
    "forecast": ("forecast, 200 paths of 64 units", forecast),
    "top_k": ("the best 20 of a million items of 128", top_k),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(QUESTIONS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {}
    for name in options.only.split(","):
        title, ask = QUESTIONS[name]
        times = found[name] = ask()
        best = min((time for peer, time in times.items() if peer != "cgru"))
        if not options.json:
            others = ", ".join(f"{peer} {took:.1f}" for peer, took in times.items() if peer != "cgru")
            print(f"{title}: cgru {times['cgru']:.1f} µs, {others}; {best / times['cgru']:.2f}×", flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
